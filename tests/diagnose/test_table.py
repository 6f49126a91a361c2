"""The troubleshooting table and its patches, compared whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli
from rich.console import Console

from p3kit.diagnose import diagnose, merged_patch
from p3kit.diagnose.explain import pick
from p3kit.diagnose.findings import format_number, format_steps, row_numbers
from p3kit.diagnose.table import grouped, print_diagnoses
from p3kit.rundir import RunDir
from p3kit.spec import resolve_spec
from tests.command import invoke
from tests.made_runs import Row, make_run, spec_with

Golden = Callable[[str, str], None]


def all_hold(row: Row, progress: float, tick: int) -> None:
    if progress > 0.3:
        row.update({"policy/hold_share": 0.985, "policy/entropy_norm": 0.04, "policy/entropy": 0.05})


def never_trades(row: Row, progress: float, tick: int) -> Row | None:
    if progress <= 0.3:
        return None
    flat = {
        "eval/total_trades": 0.0,
        "eval/trades_per_bar": 0.0,
        "eval/total_return": 0.0,
        "eval/sampled_hold_share": 1.0,
    }
    return {key: v for key, v in row.items() if key not in ("eval/sharpe_ratio", "eval/sharpe_excess")} | flat


def too_fast(row: Row, progress: float, tick: int) -> None:
    row.update({"diag/update_ratio": 0.13, "effective/ppo.learning_rate": 3e-2, "diag/dormant_share": 0.8})


def sick(root: Path, **changes: Any) -> RunDir:
    spec = spec_with(ppo__ent_coef=0.001)
    return make_run(root, spec=spec, fault=all_hold, eval_fault=never_trades, verdict="FAIL", **changes)


def rendered(run: RunDir, width: int) -> str:
    console = Console(width=width, highlight=False, force_terminal=False, no_color=True)
    with console.capture() as capture:
        print_diagnoses(diagnose(run), console)
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_sick_run(width: int, tmp_path: Path, golden: Golden) -> None:
    golden(f"diagnose/all-hold-{width}.txt", rendered(sick(tmp_path), width))


def test_learning_rate_far_too_high(tmp_path: Path, golden: Golden) -> None:
    spec = spec_with(ppo__learning_rate=3e-2)
    golden("diagnose/step-too-big.txt", rendered(make_run(tmp_path, spec=spec, fault=too_fast), 100))


def test_healthy_run_gets_a_clean_bill_with_ranges(tmp_path: Path, golden: Golden) -> None:
    golden("diagnose/healthy.txt", rendered(make_run(tmp_path), 80))


def test_young_run_says_what_it_cannot_know(tmp_path: Path, golden: Golden) -> None:
    golden("diagnose/young.txt", rendered(make_run(tmp_path, until=0.2, state="running"), 80))


def test_patch_loads_on_top_of_the_runs_own_spec(tmp_path: Path) -> None:
    patch = merged_patch(diagnose(sick(tmp_path)))
    assert tomli.loads(patch) == {"ppo": {"ent_coef": 0.05}}
    resolve_spec({"name": "patched", "symbols": ["AAPL"], **tomli.loads(patch)}, "patch")


def test_patch_of_one_symbol_of_many_is_for_that_symbol(tmp_path: Path) -> None:
    run = sick(tmp_path, symbols=["AAPL", "MSFT"])
    assert tomli.loads(merged_patch(diagnose(run))) == {"agents": {"AAPL": {"ppo": {"ent_coef": 0.05}}}}


def test_patch_changes_the_schedule_where_there_is_one(tmp_path: Path) -> None:
    schedule = {"ppo.ent_coef": {"kind": "linear", "start": 0.02, "end": 0.001}}
    run = make_run(tmp_path, spec=spec_with(schedules=schedule), fault=all_hold)
    patch = tomli.loads(merged_patch(diagnose(run)))
    assert patch == {"schedules": {"ppo.ent_coef": {"start": 0.1, "end": 0.005}}}


def test_rows_that_follow_from_another_are_left_out_of_the_patch(tmp_path: Path) -> None:
    [diagnosis] = diagnose(make_run(tmp_path, spec=spec_with(ppo__learning_rate=3e-2), fault=too_fast))
    follower = next(f for f in diagnosis.findings if f.symptom == "net.dormant")
    assert follower.follows == "opt.step_too_big"
    assert tomli.loads(diagnosis.patch) == {"ppo": {"learning_rate": 0.003}}


def test_command_prints_json_and_patch_and_exits_0(tmp_path: Path) -> None:
    sick(tmp_path)
    told = invoke("diagnose", "run-1", "--json", "--runs", tmp_path)
    assert told.exit_code == 0
    [diagnosis] = json.loads(told.stdout)
    assert diagnosis["findings"][0]["symptom"] == "policy.hold"
    assert diagnosis["findings"][0]["since_step"] == 32_768
    patch = invoke("diagnose", "latest", "--patch", "--runs", tmp_path)
    assert patch.exit_code == 0
    assert tomli.loads(patch.stdout) == {"ppo": {"ent_coef": 0.05}}
    table = invoke("diagnose", "1/AAPL", "--runs", tmp_path)
    assert table.exit_code == 0
    assert "CRITICAL" in table.stdout
    assert "\x1b[" not in table.stdout


def test_a_value_that_ends_outside_its_range_is_said_where_no_row_warns(tmp_path: Path) -> None:
    def weak(row: Row, progress: float, tick: int) -> None:
        row["eval/max_drawdown"] = 0.27

    printed = rendered(make_run(tmp_path, eval_fault=weak), 200)
    assert "No warning among" in printed
    assert "Last value not healthy: eval/max_drawdown. A row warns only where" in printed
    assert "not healthy" not in rendered(make_run(tmp_path), 200)


def test_command_on_a_healthy_run_has_nothing_to_patch(tmp_path: Path) -> None:
    make_run(tmp_path)
    told = invoke("diagnose", "latest", "--patch", "--runs", tmp_path)
    assert told.exit_code == 0
    assert tomli.loads(told.stdout) == {}
    assert "nothing to change" in told.stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1830.4, "1,830"), (3e-4, "3e-4"), (1e-05, "1e-5"), (15.3, "15.3"), (0, "0"), (None, "n/a"),
     (float("nan"), "n/a"), (float("inf"), "∞"), (123456789.0, "1.2e8"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("steps", "text"),
    [(512, "512"), (4096, "4.1k"), (31_250, "31k"), (100_000, "100k"), (1_200_000, "1.2M"), (None, "n/a")],
)
def test_steps_for_people(steps: int | None, text: str) -> None:
    assert format_steps(steps) == text


def test_a_run_that_crashed_before_any_row_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for file in ("metrics.jsonl", "events.jsonl"):
        (run.path / file).unlink()
    run.update_status(state="crashed", message="it never began")
    assert rendered(run, 80).splitlines()[1] == "crashed: it never began"
    told = json.loads(invoke("diagnose", run.path, "--json").stdout)
    assert told[0]["failure"] == "crashed: it never began"


def test_equal_rows_of_several_agents_are_one_row_with_one_number(tmp_path: Path) -> None:
    [hold], [fast] = diagnose(sick(tmp_path / "a")), diagnose(make_run(tmp_path / "b", fault=too_fast))
    agents = [replace(hold, agent="AAPL"), replace(fast, agent="XOM"), replace(hold, agent="JPM")]
    numbers = row_numbers(agents)
    agents = [replace(one, numbers=numbers) for one in agents]
    groups = grouped(agents)
    assert [group.number for group in groups] == list(range(1, len(numbers) + 1))
    assert {group.first.symptom: len(group.findings) for group in groups}["policy.hold"] == 2
    for one in agents:  # the table of one agent has the numbers of the run
        assert {group.first.symptom: group.number for group in grouped([one])} == {
            finding.symptom: numbers[finding.symptom] for finding in one.raised
        }
        picked = pick([one], str(numbers[one.raised[0].symptom]))
        assert picked == one.raised[0]
    console = Console(width=120, highlight=False, force_terminal=False, no_color=True)
    with console.capture() as capture:
        print_diagnoses(agents, console)
    assert "2 of 3 agents" in capture.get()
