"""One row with all its numbers, diagnosis with other rules, and the table as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli
from click.testing import Result

from tests.command import invoke
from tests.diagnose.test_table import sick, too_fast
from tests.made_runs import make_run, spec_with

Golden = Callable[[str, str], None]


def run_diagnose(root: Path, *flags: str) -> Result:
    return invoke("diagnose", *flags, "--runs", root)


def lines_of(result: Result) -> str:
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"


@pytest.mark.parametrize("wanted", ["1", "policy.hold"])
def test_a_row_is_explained_by_number_and_by_id(wanted: str, tmp_path: Path, golden: Golden) -> None:
    sick(tmp_path)
    told = run_diagnose(tmp_path, "run-1", "--explain", wanted)
    assert told.exit_code == 0
    golden("diagnose/explain-hold.txt", lines_of(told))


def test_a_silent_row_is_explained_too(tmp_path: Path, golden: Golden) -> None:
    make_run(tmp_path)
    golden("diagnose/explain-silent.txt", lines_of(run_diagnose(tmp_path, "1", "--explain", "train.kl")))


def test_explanation_as_json_has_the_record_and_every_cause(tmp_path: Path) -> None:
    sick(tmp_path)
    told = json.loads(run_diagnose(tmp_path, "1", "--explain", "1", "--json").stdout)
    assert told["rule"]["critical"] == "inf"
    assert [step["global_step"] for step in told["record"]] == [4096 * tick for tick in range(5, 14)]
    assert told["metrics"] == ["policy/hold_share", "policy/entropy_norm"]
    assert [(cause["id"], cause["rank"]) for cause in told["causes"]] == [
        ("ent_coef_low", 1), ("penalty_dominates", 0), ("mask_tight", 0)
    ]  # fmt: skip
    assert tomli.loads(told["causes"][0]["patch"]) == {"ppo": {"ent_coef": 0.05}}
    assert told["explains"] == ["trade.never", "policy.early_entropy", "perf.no_progress", "phase.entropy"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("9", "--explain 9: no such row: the table has rows 1 to 5; a symptom's id explains a silent row too"),
        ("policy.hodl", '--explain policy.hodl: no such symptom; did you mean "policy.hold"?'),
        ("probe.env", "--explain probe.env: is not judged on recorded metrics; probes: p3kit check SPEC"),
    ],
)
def test_what_cannot_be_explained_is_said(wanted: str, message: str, tmp_path: Path) -> None:
    sick(tmp_path)
    told = run_diagnose(tmp_path, "1", "--explain", wanted)
    assert told.exit_code == 2
    assert message in told.stderr


def test_rules_judge_a_recorded_run_anew(tmp_path: Path) -> None:
    sick(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text('[diagnose.rows."policy.hold"]\nwarn = 0.99\n[diagnose.rows."train.clip"]\nwarn = 0.01\n')
    told = run_diagnose(tmp_path, "1", "--rules", str(rules))
    assert told.exit_code == 0
    assert "AAPL: policy.hold no longer raised" in told.stderr
    assert "AAPL: train.clip raised since 8.2k" not in told.stderr  # from the first tick on
    assert "AAPL: train.clip raised since 4.1k" in told.stderr
    explained = run_diagnose(tmp_path, "1", "--rules", str(rules), "--explain", "policy.hold")
    assert "warn 0.99, patience 3 ticks, at least 3 ticks; changed: warn" in explained.stdout.replace("\n", " ")
    own = run_diagnose(tmp_path, "1", "--json")
    assert json.loads(own.stdout)[0]["findings"][0]["symptom"] == "policy.hold"  # nothing was written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[diagnose.rows."policy.hodl"]\nwarn = 1\n', '1:1: diagnose.rows: unknown symptom "policy.hodl"'),
        (
            '[diagnose.rows."policy.hold"]\nwarm = 1\n',
            '2:1: diagnose.rows."policy.hold".warm = 1: unknown key; did you mean "warn"?',
        ),
        ("[ppo]\nent_coef = 0.1\n", "1:1: ppo: a file of rules holds only thresholds"),
        ("[diagnose]\nmode = 'off'\n", "2:1: diagnose.mode: a file of rules holds only thresholds"),
        ("", "1:1: no rule in it"),
        ("[diagnose.rows\n", "not TOML"),
    ],
)
def test_wrong_rules_are_refused_with_their_place(text: str, message: str, tmp_path: Path) -> None:
    sick(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text(text)
    told = run_diagnose(tmp_path, "1", "--rules", str(rules))
    assert told.exit_code == 2
    assert f"rules.toml:{message}" in told.stderr or (message in told.stderr and "not TOML" in message)


def test_markdown_of_a_sick_and_of_a_healthy_run(tmp_path: Path, golden: Golden) -> None:
    sick(tmp_path)
    golden("diagnose/all-hold.md", run_diagnose(tmp_path, "1", "--markdown").stdout)
    make_run(tmp_path)
    golden("diagnose/healthy.md", run_diagnose(tmp_path, "2", "--markdown").stdout)


def test_only_one_form_is_printed(tmp_path: Path) -> None:
    make_run(tmp_path, spec=spec_with(ppo__learning_rate=3e-2), fault=too_fast)
    told = run_diagnose(tmp_path, "1", "--patch", "--markdown")
    assert told.exit_code == 2
    assert "only one of them can be printed" in told.stderr
