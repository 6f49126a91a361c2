"""Runs side by side: what differs and where it was set, what it changed, and whether precisions match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p3kit.errors import InputError, RunNotFound
from p3kit.report.comparison_data import compare_runs
from p3kit.report.comparison_page import render_comparison
from p3kit.rundir import RunDir
from tests.command import invoke
from tests.made_runs import Row, equity_curve, intervene, make_run, spec_with

Golden = Callable[[str, str], None]


def two_precisions(root: Path, other: str = "bf16", shift: float = 0.0, seeds: int = 3, **more: Any) -> None:
    """Runs 1 to 2 × symbols × seeds: the same spec in fp32, then in `other`, whose Sharpe ratios lie `shift` higher."""
    for precision, lift in (("fp32", 0.0), (other, shift)):
        for symbol in ("AAPL", "XOM"):
            for seed in range(1, seeds + 1):
                rng = np.random.default_rng(
                    [seed, *symbol.encode()] if precision == "fp32" else [seed + 50, len(symbol)]
                )
                make_run(
                    root,
                    symbol=symbol,
                    seed=seed,
                    spec=spec_with(compute__precision=precision, seeds=list(range(1, seeds + 1))),
                    agent_name=f"{symbol}.s{seed}",
                    best_sharpe=0.6 + lift + 0.1 * float(rng.standard_normal()),
                    symbols=["AAPL", "XOM"],
                    command=["p3kit", "run", "specs/phase3.toml", "--set", f"compute.precision={precision}"],
                    equity=equity_curve(seed, grade=0.0012 if precision == "fp32" else 0.0011),
                    **(more if precision != "fp32" else {}),
                )


def test_a_page_of_two_runs(tmp_path: Path, golden: Golden) -> None:
    make_run(tmp_path, command=["p3kit", "run", "specs/phase3.toml", "--set", "ppo.ent_coef=0.02"],
             spec=spec_with(ppo__ent_coef=0.02))  # fmt: skip
    changed = spec_with(reward__weights__cost=0.25)
    make_run(tmp_path, best_sharpe=0.9, equity=equity_curve(8), edge=0.0003, spec=changed)
    golden("report/compare.md", render_comparison(compare_runs(tmp_path, ["run-1", "run-2"])))


def test_who_was_intervened_is_said_in_the_tables(tmp_path: Path) -> None:
    make_run(tmp_path)
    intervene(make_run(tmp_path, best_sharpe=0.9), "fired", 31_000, keys={"ppo.ent_coef": [0.01, 0.05]})
    page = " ".join(render_comparison(compare_runs(tmp_path, ["run-1", "run-2"])).split())
    assert "| intervened while training | 0 of 1 | 1 of 1 |" in page
    assert "| AAPL (intervened: right) |" in page


def test_differences_carry_their_origins(tmp_path: Path) -> None:
    make_run(tmp_path, command=["p3kit", "run", "x.toml", "--set", "ppo.gamma=0.995"], spec=spec_with(ppo__gamma=0.995))
    make_run(tmp_path, point={"ppo.gae_lambda": 0.9})
    found = {d.path: d for d in compare_runs(tmp_path, ["1", "2"]).differences}
    assert found["ppo.gamma"].values == ("0.995", "0.99")
    assert found["ppo.gamma"].origins == ("--set ppo.gamma=0.995", "default")
    assert found["ppo.gae_lambda"].origins == ("default", "matrix")
    assert set(found) == {"ppo.gamma", "ppo.gae_lambda"}


def test_what_differs_beside_the_spec_is_said(tmp_path: Path) -> None:
    make_run(tmp_path)
    other = make_run(tmp_path)
    other.trainer_file.write_text(other.trainer_file.read_text() + "# changed\n")
    change_plan(other, lambda plan: plan["data"]["AAPL"].update(fingerprint="other"))
    change_plan(other, lambda plan: plan["versions"].update(torch="2.14.0"))
    beside = compare_runs(tmp_path, ["1", "2"]).beside
    assert [line.split(":")[0].split(" (")[0] for line in beside] == [
        "the bars of AAPL are not the same",
        "the trainer's code",
        "torch",
    ]


def change_plan(run: RunDir, change: Callable[[dict[str, Any]], None]) -> None:
    plan = run.info()
    change(plan)
    run.update_info(**plan)


def test_evaluations_of_two_modes_are_named_and_not_subtracted(tmp_path: Path) -> None:
    """A run of an older p3kit was evaluated in windows: its Sharpe ratio is not comparable with another's."""
    make_run(tmp_path, mode=None)
    make_run(tmp_path, best_sharpe=0.9)
    comparison = compare_runs(tmp_path, ["run-1", "run-2"])
    assert any(line.startswith("evaluation mode: run-1 windows, run-2 continuous") for line in comparison.beside)
    [contrast] = comparison.contrasts
    [pair] = contrast.pairs
    assert (pair.difference, pair.interval, contrast.mean) == (None, None, None)
    page = " ".join(render_comparison(comparison).split())
    assert "one was evaluated in mode windows, the other in continuous" in page
    assert [list(member.agent.labels) for member in comparison.members] == [["evaluated in windows"], []]


def test_groups_by_a_knob_of_the_matrix(tmp_path: Path) -> None:
    for number, value in enumerate((0.95, 0.9, 0.98)):
        for seed in (1, 2):
            point = {"ppo.gae_lambda": value}
            make_run(tmp_path, seed=seed, point=point, agent_name=f"AAPL.s{seed}.gae_lambda={value}",
                     best_sharpe=0.4 + 0.1 * number)  # fmt: skip
    names = [f"run-{number}" for number in range(1, 7)]
    for key in ("gae_lambda", "ppo.gae_lambda"):
        found = compare_runs(tmp_path, names, by=key)
        assert [group.label for group in found.groups] == [f"gae_lambda = {v}" for v in ("0.9", "0.95", "0.98")]
        assert [len(contrast.pairs) for contrast in found.contrasts] == [2, 2]
    assert all(p.reference.agent.seed == p.other.agent.seed for c in found.contrasts for p in c.pairs)
    by_seed = compare_runs(tmp_path, names, by="seed")
    assert [len(contrast.pairs) for contrast in by_seed.contrasts] == [3]


def test_what_cannot_be_set_side_by_side(tmp_path: Path) -> None:
    make_run(tmp_path, point={"ppo.gae_lambda": 0.9})
    make_run(tmp_path, symbol="XOM", point={"ppo.gae_lambda": 0.95})
    with pytest.raises(InputError, match="one run alone; name a second run: p3kit compare run-1 run-2"):
        compare_runs(tmp_path, ["run-1", "run-1"])
    with pytest.raises(InputError, match=r'no such key .* did you mean "ppo.gae_lambda"'):
        compare_runs(tmp_path, ["run-1", "run-2"], by="gae_lamda")
    with pytest.raises(InputError, match=r"all agents have 0.99.*--by ppo.gae_lambda or --by symbol"):
        compare_runs(tmp_path, ["run-1", "run-2"], by="ppo.gamma")
    with pytest.raises(RunNotFound, match='did you mean "run-2"'):
        compare_runs(tmp_path, ["run-1", "run-9"])


@pytest.mark.parametrize(
    ("arguments", "parity"),
    [
        ({}, "match"),
        ({"shift": 0.6}, "differ"),
        ({"seeds": 1}, "undecided"),
        ({"fault": lambda row, progress, tick: row.update({"diag/nonfinite": 3.0})}, "differ"),
    ],
    ids=["the same", "better", "one seed", "NaN"],
)
def test_verdicts_on_parity(arguments: dict[str, Any], parity: str, tmp_path: Path) -> None:
    two_precisions(tmp_path, **arguments)
    runs = [f"run-{number}" for number in range(1, 1 + 4 * arguments.get("seeds", 3))]
    found = compare_runs(tmp_path, runs, by="compute.precision")
    [contrast] = found.contrasts
    assert contrast.parity == parity
    assert len(contrast.pairs) == len(runs) / 2
    assert f"**Parity: {parity.upper()}.**" in render_comparison(found)


def test_the_same_account_bar_for_bar_is_a_match_without_seeds(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        make_run(tmp_path, spec=spec_with(compute__precision=precision))
    [contrast] = compare_runs(tmp_path, ["1", "2"]).contrasts
    assert (contrast.parity, contrast.pairs[0].identical) == ("match", True)


def test_no_parity_where_more_than_the_computing_differs(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, spec=spec_with(compute__precision="bf16", ppo__gamma=0.9))
    make_run(tmp_path, spec=spec_with(compute__precision="bf16"), seed=2)
    assert [contrast.parity for contrast in compare_runs(tmp_path, ["1", "2", "3"]).contrasts] == [None, None]


def test_intervals_need_the_same_bars_and_two_that_traded(tmp_path: Path) -> None:
    def never(row: Row, progress: float, tick: int) -> Row:
        return {name: value for name, value in row.items() if "sharpe" not in name}

    make_run(tmp_path)
    make_run(tmp_path, equity=equity_curve(points=80))
    make_run(tmp_path, eval_fault=never, verdict="FAIL")
    shorter, silent = compare_runs(tmp_path, ["1", "2", "3"]).contrasts
    assert (shorter.pairs[0].interval, shorter.pairs[0].why_not) == (None, "not the same dates")
    assert (silent.pairs[0].difference, silent.known) == (None, [])


def test_more_groups_have_wider_intervals(tmp_path: Path) -> None:
    """The intervals of all groups hold together, so that a sweep does not show its luckiest value to be better."""
    for number in range(4):
        for seed in (1, 2):
            value, edge = 0.9 + 0.01 * number, 0.0003 * number * seed
            make_run(tmp_path, seed=seed, point={"ppo.gae_lambda": value}, best_sharpe=0.5 + 300 * edge, edge=edge,
                     agent_name=f"AAPL.s{seed}.gae_lambda={value}")  # fmt: skip
    few, many = (compare_runs(tmp_path, [f"run-{n}" for n in range(1, last)], by="gae_lambda") for last in (5, 9))
    for two, four in ((few.contrasts[0], many.contrasts[0]), (few.contrasts[0].pairs[0], many.contrasts[0].pairs[0])):
        assert two.interval is not None
        assert four.interval is not None
        assert four.interval[1] - four.interval[0] > two.interval[1] - two.interval[0]
    assert "for all 3 comparisons at once" in render_comparison(many)


def test_evaluations_without_returns_have_no_interval(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, best_sharpe=0.9, keeps_returns=False)
    [contrast] = compare_runs(tmp_path, ["1", "2"]).contrasts
    assert contrast.pairs[0].difference is not None
    assert (contrast.pairs[0].interval, contrast.pairs[0].why_not) == (
        None,
        "the returns of some evaluations were not recorded",
    )


def test_synthetic_data_are_labelled(tmp_path: Path) -> None:
    make_run(tmp_path, synthetic=True)
    make_run(tmp_path)
    assert "**Synthetic data.**" in render_comparison(compare_runs(tmp_path, ["1", "2"]))


def test_the_command_prints_writes_and_tells_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"), fault=lambda row, progress, tick: row.update({"value/value_loss": float("nan")}))
    make_run(Path("runs"), until=0.3, state="stopped", symbol="XOM")
    printed = invoke("compare", "run-1", "run-2")
    assert printed.exit_code == 0, printed.output
    assert "## Results" in printed.stdout
    assert "keep:" not in printed.stdout
    written = invoke("compare", "run-1/AAPL", "run-2/XOM", "--output", "reports/two.md")
    assert written.stdout.strip() == "reports/two.md"
    page = Path("reports/two.md")
    assert "(two.png)" in page.read_text()
    assert Path("reports/two.png").read_bytes().startswith(b"\x89PNG")
    first = (page.read_bytes(), Path("reports/two.png").read_bytes())
    page.write_text(page.read_text().replace("<!-- /keep -->", "My words.\n<!-- /keep -->"))
    invoke("compare", "run-1/AAPL", "run-2/XOM", "--output", "reports/two.md")
    assert "My words." in page.read_text()
    assert (page.read_bytes().replace(b"My words.\n", b""), Path("reports/two.png").read_bytes()) == first
    told = json.loads(invoke("compare", "run-1", "run-2", "--json").stdout)
    assert [group["label"] for group in told["groups"]] == ["run-1", "run-2"]
    assert [pair["other"] for pair in told["contrasts"][0]["pairs"]] == ["run-2/XOM"]
    assert invoke("compare", "run-1", "run-7").exit_code == 2


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    make_run(tmp_path / "runs")
    own = tmp_path / "templates"
    own.mkdir()
    arguments = ["compare", "1", "2", "--runs", str(tmp_path / "runs"), "--templates", str(own)]
    empty = invoke(*arguments)
    assert (empty.exit_code, "compare.md.j2" in empty.output) == (2, True)
    (own / "compare.md.j2").write_text("{{ title }}, in our words\n")
    assert invoke(*arguments).stdout.strip() == "run-1 · run-2, in our words"
    for wrong in ("{{ titel }}\n", "\n{% for %}\n", "{{ title + 1 }}\n"):
        (own / "compare.md.j2").write_text(wrong)
        refused = invoke(*arguments)
        assert refused.exit_code == 2, refused.output
        assert "compare.md.j2:" in refused.output
        assert "Traceback" not in refused.output


def test_a_run_of_an_older_version_can_be_compared(tmp_path: Path) -> None:
    make_run(tmp_path)
    older = make_run(tmp_path)

    def forget(plan: dict[str, Any]) -> None:
        for spec in (plan["spec"], plan["agents"][0]["spec"]):
            spec["ppo"]["a_knob_of_then"] = 3
            del spec["ppo"]["gamma"]

    change_plan(older, forget)
    found = {d.path: d.values for d in compare_runs(tmp_path, ["1", "2"]).differences}
    assert found == {"ppo.gamma": ("0.99", "–"), "ppo.a_knob_of_then": ("–", "3")}
