"""Actions on probation: the run's own evaluations decide if they stay."""

from __future__ import annotations

from typing import Any

import pytest

from p3kit.interventions import Clock
from p3kit.interventions.probation import Scored, fall, probation_updates

from .made_up_run import HOLD, SICK, UP, Training, decided, open_finding

BACK = HOLD | {"do": [{"rollback": "init"}, UP]}


def evaluated(run: Training, sharpe: float | None, error: float = 0.1) -> list[Any]:
    """Record an evaluation of agent A and let the rules decide."""
    metrics = {} if sharpe is None else {"eval/sharpe_ratio": sharpe}
    interval = None if sharpe is None else [sharpe - 1.96 * error, sharpe + 1.96 * error]
    for name in run.records:
        step = run.engine[name].clock.env_steps
        event = {"kind": "evaluation", "global_step": step, "metrics": metrics, "sharpe_interval": interval}
        run.records[name].take_event(event)
    return run.evaluate()


def acted(run: Training, before: float | None, *, updates: int = 9) -> None:
    """Let the rule act at 1,000 steps, take the evaluation before it, and train on until it is judged."""
    run.update(SICK)
    assert run.engine["A"].wants_evaluation
    assert run.engine["A"].wants_snapshot
    assert evaluated(run, before) == []
    for _ in range(updates):
        run.update()
    assert not run.engine["A"].wants_snapshot


@pytest.mark.parametrize("rule", [HOLD, BACK], ids=["a change", "a rollback"])
def test_a_fall_returns_the_snapshot_and_the_rule_acts_no_more(rule: dict[str, Any]) -> None:
    run = Training(rule | {"max_times": 3}, diagnose={"mode": "act", "budget": {"lost_steps_pct": 100.0}})
    acted(run, 1.0)
    assert run.engine["A"].wants_evaluation
    assert run.value() == 0.05
    (failed,) = evaluated(run, 0.5)
    assert (failed.decision, failed.checkpoint, failed.took_back) == ("failed", "before-000001000", ("hold",))
    assert "validation Sharpe 0.50" in failed.reason
    assert run.value() == 0.01
    assert not run.engine["A"].wants_evaluation
    (blocked,) = run.update(SICK)
    assert (blocked.decision, blocked.reason) == ("blocked", "it did harm when it was tried")


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.8), (1.0, 3.0), (None, 0.5), (-1.0, None)])
def test_what_is_within_the_noise_or_better_stays(before: float | None, after: float | None) -> None:
    run = Training(HOLD, diagnose={"mode": "act"})
    acted(run, before)
    assert evaluated(run, after) == []
    assert run.value() == 0.05
    run.update()
    assert not run.engine["A"].wants_evaluation


def test_a_second_action_shares_the_snapshot_and_the_time_starts_again() -> None:
    run = Training(HOLD | {"max_times": 2, "cooldown": {"updates": 2}}, diagnose={"mode": "act"})
    acted(run, 1.0, updates=4)
    assert decided(run.update(SICK)) == [("hold", "fired")]
    for _ in range(5):
        run.update()
    assert not run.engine["A"].wants_evaluation
    for _ in range(4):
        run.update()
    (failed,) = evaluated(run, 0.0)
    assert failed.checkpoint == "before-000001000"
    assert run.value() == 0.01


def test_state_goes_through_a_checkpoint() -> None:
    run, later = Training(HOLD, diagnose={"mode": "act"}), Training(HOLD, diagnose={"mode": "act"})
    acted(run, 1.0)
    later.resume(run)
    for event in run.records["A"].evaluations():
        later.records["A"].take_event(event)
    assert later.state() == run.state()
    for one in (run, later):
        assert decided(evaluated(one, 0.0)) == [("hold", "failed")]
    assert later.state() == run.state()


def test_a_replay_returns_where_its_journal_did_and_nowhere_else() -> None:
    run = Training(HOLD, diagnose={"mode": "act"})
    acted(run, 1.0)
    evaluated(run, 0.0)
    again = Training(HOLD, diagnose={"mode": "act"}, journal=run.journal)
    acted(again, 1.0)
    assert decided(evaluated(again, 0.0)) == [("hold", "failed")]
    assert again.value() == run.value() == 0.01
    other = Training(HOLD, diagnose={"mode": "act"}, journal=run.journal[:1])
    acted(other, 1.0)
    assert evaluated(other, 0.0) == []
    assert other.value() == 0.05


def test_agents_of_a_group_return_together() -> None:
    rule = HOLD | {"scope": "run", "share": 0.5}
    run = Training(rule, agents=("A", "B"), diagnose={"mode": "act"})
    acted(run, 1.0)
    (failed,) = evaluated(run, 0.0)
    assert failed.agents == ("A", "B")
    assert failed.to_event()["agents"] == ("A", "B")
    assert run.values() == [0.01, 0.01]


def test_a_probation_lasts_a_fifth_of_the_updates_within_bounds_and_what_was_thrown_away() -> None:
    clock = Clock(updates=2, env_steps=2_000)
    assert [probation_updates(clock, total, 0) for total in (5_000, 30_000, 200_000)] == [3, 6, 8]
    assert probation_updates(clock, 200_000, 2_000) == 10


def test_noise_of_a_fall() -> None:
    before, after = Scored(1.0, 0.3), Scored(0.5, 0.4)
    assert fall([before], [after]) == pytest.approx((1.0, 0.5, 1.96 * 0.5))
    assert fall([before, before], [after, after]) == pytest.approx((1.0, 0.5, 1.96 * 0.5 / 2**0.5))
    assert fall([before], [Scored(0.0, None)]) is None


def test_a_rule_acts_on_the_root_if_one_acts_on_that() -> None:
    """Without a rule for the root, or for its cause, the consequence is what can be changed."""
    consequence = open_finding("value.fail", "vf_coef_low", follows="policy.hold")
    value = {"id": "value", "on": "value.fail", "do": [{"add": "vf_coef", "by": 0.1, "max": 1.0}]}
    both = Training(HOLD, value, diagnose={"mode": "act"})
    assert decided(both.update(SICK, consequence)) == [("hold", "fired")]
    alone = Training(value, diagnose={"mode": "act"})
    assert decided(alone.update(SICK, consequence)) == [("value", "fired")]
    other = Training(HOLD | {"cause": ["mask_tight"]}, value, diagnose={"mode": "act"})
    assert decided(other.update(SICK, consequence)) == [("value", "fired")]


@pytest.mark.parametrize(
    ("sharpes", "severity", "acts"),
    [([2.0], "warning", False), ([2.0], "critical", True), ([0.1], "warning", True), ([3.0, 1.0], "warning", True)],
)
def test_a_warning_that_does_no_harm_is_left_alone(sharpes: list[float], severity: str, acts: bool) -> None:
    """The finding began at step 100. A Sharpe ratio of 2.0 ± 0.2 is above HOLD, one of 1.0 is below an earlier 3.0."""
    run = Training(HOLD, diagnose={"mode": "act"})
    for sharpe in sharpes:
        run.update()
        evaluated(run, sharpe)
    found = run.update(open_finding("policy.hold", "ent_coef_low", severity=severity))
    assert decided(found) == [("hold", "fired" if acts else "suppressed")]
