"""The suite's own machinery: cases that load, scores that are right, runs judged on what was recorded by then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from p3kit.diagnose import gather_run
from p3kit.spec import resolve_spec
from tests.made_runs import TICK, make_run
from tests.suite.__main__ import permutation_p
from tests.suite.cases import Case, load_controls, load_faults
from tests.suite.scoring import Alarm, Outcome, Score, accepted, judge_live, summarise, wilson
from tests.suite.tables import as_document, as_markdown

FAULTS, CONTROLS = load_faults(), load_controls()


def test_every_listed_fault_and_control_is_there() -> None:
    assert {f"F{number:02}" for number in range(1, 33)} <= {case.id for case in FAULTS}
    assert {case.id for case in CONTROLS} == {f"C{number:02}" for number in range(1, 14)}
    assert sum(case.strength == "mild" for case in FAULTS) >= 15  # thresholds must not fit one strength


@pytest.mark.parametrize("guide_sizes", [False, True])
@pytest.mark.parametrize("case", [*FAULTS, *CONTROLS], ids=lambda case: case.name)
def test_every_case_is_a_sound_spec(case: Case, guide_sizes: bool) -> None:
    if guide_sizes and case.spec.get("trainer") is not None:
        pytest.skip("the guide's sizes are run with ppo alone")
    spec = case.resolved(7, guide_sizes=guide_sizes)
    assert spec.seeds == (7,)
    assert spec.data.source == "synthetic"
    resolve_spec(spec.model_dump(mode="json"), "again")


def test_the_spec_model_refuses_inject() -> None:
    with pytest.raises(Exception, match="inject"):
        resolve_spec({"name": "x", "symbols": ["AAPL"], "inject": {"hook": "never_end"}}, "x")


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 100, 0.0, 0.037), (10, 10, 0.722, 1.0), (23, 28, 0.644, 0.921)]
)
def test_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=1e-3)
    assert str(Score(hits, of)).startswith(f"{hits}/{of} = ")
    assert str(Score(0, 0)) == "n/a"


def outcome(case: Case, *alarms: Alarm, seed: int = 0) -> Outcome:
    return Outcome(case.name, seed, False, alarms, 100_000, "done", 1.0)


def test_an_alarm_counts_after_the_onset_at_the_severity_of_its_row() -> None:
    exploit = next(case for case in FAULTS if case.name == "F11.full")
    early = Alarm("reward.corr", "warning", 20_000, ("proxy",), None)
    weak = Alarm("reward.corr", "information", 60_000, (), None)
    right = Alarm("reward.share", "critical", 60_000, ("component_drift",), None)
    other = Alarm("opt.grad", "warning", 61_000, (), None)
    assert accepted(outcome(exploit, early, weak), exploit) == []
    assert accepted(outcome(exploit, right, other), exploit) == [right]


def test_totals_count_roots_once_and_controls_apart() -> None:
    exploit = next(case for case in FAULTS if case.name == "F11.full")
    base, no_edge = (next(case for case in CONTROLS if case.id == name) for name in ("C01", "C10"))
    cases = {case.name: case for case in (exploit, base, no_edge)}
    right = Alarm("reward.share", "critical", 60_000, ("component_drift",), None)
    follower = Alarm("reward.corr", "warning", 70_000, (), "reward.share")
    wrong = Alarm("opt.grad", "warning", 70_000, (), None)
    poor = Alarm("perf.no_progress", "warning", 70_000, (), None)
    runs = [
        outcome(exploit, right, follower, wrong),
        outcome(exploit, seed=1),
        outcome(base, wrong),
        outcome(no_edge, poor),
    ]
    totals = summarise(runs, cases)
    assert totals["recall"]["hits"], totals["recall"]["of"] == (1, 2)
    assert (totals["precision"]["hits"], totals["precision"]["of"]) == (1, 2)
    assert totals["cause_top_1"]["hits"] == 1
    assert totals["median_delay"] == pytest.approx(0.25)
    assert (totals["controls_alarmed"]["hits"], totals["controls_alarmed"]["of"]) == (1, 2)
    text = as_markdown(runs, cases, "how")
    assert (
        "| F11.full an exploit opens: selling half pays | harmful | 1/2 | reward.share 60% | 1/1 | opt.grad |" in text
    )
    assert "| C10 no edge and high fees: HOLD is right | 1 | 0 | – |" in text
    json.dumps(as_document(runs, cases, {"command": "x"}))


def test_a_stored_run_is_judged_as_it_would_have_been_live(tmp_path: Path) -> None:
    def collapse(row: dict[str, float], progress: float, tick: int) -> None:
        if 8 <= tick < 14:
            row.update({"policy/hold_share": 0.99, "policy/entropy_norm": 0.02})

    run = make_run(tmp_path, fault=collapse)
    case = Case("F99", "made up", "full", {}, symptoms=("policy.hold",), causes=("ent_coef_low",))
    judged = judge_live(run, case, 1, guide_sizes=False)
    hold = next(alarm for alarm in judged.alarms if alarm.symptom == "policy.hold")
    assert hold.at_step == 11 * TICK  # it began in the ninth tick, and three in a row are asked
    assert hold.causes[0] == "ent_coef_low"
    stricter = judge_live(run, case, 1, guide_sizes=False, rules={"policy.hold": {"patience": 5}})
    assert next(a for a in stricter.alarms if a.symptom == "policy.hold").at_step == 13 * TICK
    assert gather_run(run)[0].twins == []


def test_the_permutation_test_tells_hurt_from_luck() -> None:
    rng = np.random.default_rng(1)
    healthy = rng.normal(3, 0.5, 10)
    assert permutation_p(healthy, rng.normal(0, 0.5, 10)) < 0.01
    assert permutation_p(healthy, rng.normal(3, 0.5, 10)) > 0.05
