"""Early stop and verdict: the guide's criteria, one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p3kit.runtime.grading import EarlyStop, is_hardly_trained, verdict
from p3kit.spec import Spec, resolve_spec


def spec_with(**tables: Any) -> Spec:
    return resolve_spec(
        {"name": "t", "symbols": ["AAPL"], "baselines": {"supervised": {"default": -0.88}}} | tables, "t"
    )


def feed(stop: EarlyStop, spec: Spec, sharpes: list[float | None], every: int = 5_000) -> list[str | None]:
    reasons = []
    for i, sharpe in enumerate(sharpes):
        metrics = {} if sharpe is None else {"eval/sharpe_ratio": sharpe, "eval/sharpe_excess": -1.0}
        step = (i + 1) * every
        reasons.append(stop.update(spec, metrics, step, step / 100_000))
    return reasons


def test_a_plateau_needs_patience_and_steps_and_half_the_training() -> None:
    spec = spec_with()
    reasons = feed(EarlyStop(), spec, [0.5] + [0.5] * 19)
    assert reasons[:9] == [None] * 9  # min_progress 0.5: nothing before 50,000 steps
    assert reasons[9] is not None
    far_apart = spec_with(early_stop={"plateau_steps": 60_000, "min_progress": 0.0})
    first = next(i for i, reason in enumerate(feed(EarlyStop(), far_apart, [0.5] * 20)) if reason)
    assert (first + 1) * 5_000 - 5_000 >= 60_000


def test_a_gain_starts_the_wait_again_and_an_untraded_evaluation_does_not() -> None:
    spec = spec_with(early_stop={"min_progress": 0.0, "plateau_steps": 0, "patience": 3})
    assert feed(EarlyStop(), spec, [0.1, 0.1, 0.1, 0.2, 0.2, 0.2]) == [None] * 6
    assert feed(EarlyStop(), spec, [0.1, None, None, None])[-1] is not None
    assert feed(EarlyStop(), spec, [0.1, 0.105, 0.109, 0.1])[-1] is not None  # below min_delta is no gain


def test_the_stretch_goal_counts_only_above_buy_and_hold() -> None:
    spec = spec_with()
    below = {"eval/sharpe_ratio": 2.0, "eval/sharpe_excess": -0.1}
    above = {"eval/sharpe_ratio": 0.9, "eval/sharpe_excess": 0.1}
    assert EarlyStop().update(spec, below, 60_000, 0.6) is None
    assert "goal 0.8" in str(EarlyStop().update(spec, above, 60_000, 0.6))
    assert EarlyStop().update(spec, above, 40_000, 0.4) is None
    off = spec_with(early_stop={"stretch_sharpe": "off", "patience": "off"})
    assert EarlyStop().update(off, above, 60_000, 0.6) is None


def test_state_survives_a_round_trip() -> None:
    stop = EarlyStop()
    feed(stop, spec_with(), [0.1, 0.4, 0.2])
    again = EarlyStop()
    again.load_state_dict(stop.state_dict())
    assert again == stop


GOOD = {
    "eval/sharpe_ratio": 0.7,
    "eval/sharpe_excess": 0.2,
    "eval/total_return": 0.1,
    "eval/max_drawdown": 0.1,
    "eval/actions_used": 5,
    "value/explained_variance": 0.6,
    "diag/ev_reference": 0.1,
    "policy/entropy": 1.0,
}
EVENT = {
    "global_step": 50_000,
    "constant": False,
    "metrics": GOOD,
    "baselines": {"hold": {"sharpe_ratio": None}},
    "sharpe_interval": [0.1, 1.2],
    "excess_interval": [-0.3, 0.8],
}


def grade(
    spec: Spec | None = None, nonfinite: float = 0, event: dict[str, Any] | None = None, **metrics: Any
) -> dict[str, Any]:
    changed = {k.replace("__", "/"): v for k, v in metrics.items()}
    table = {k: v for k, v in (GOOD | changed).items() if v is not None}
    return verdict(spec or spec_with(), "AAPL", table, nonfinite, EVENT | (event or {}))


def unmet(result: dict[str, Any]) -> list[str]:
    return [f"{r['set']} {r['criterion']}" for r in result["reasons"] if not r["met"]]


def test_grades() -> None:
    assert grade()["grade"] == "STRONG"
    assert grade(eval__sharpe_ratio=0.9)["grade"] == "STRETCH"
    assert grade(eval__sharpe_ratio=0.9, eval__sharpe_excess=-0.1)["grade"] == "STRONG"
    assert grade(eval__sharpe_ratio=0.4)["grade"] == "PASS"


@pytest.mark.parametrize(
    ("metrics", "missed"),
    [
        ({"eval__sharpe_ratio": 0.3}, "minimum validation_sharpe"),
        ({"eval__sharpe_ratio": None}, "minimum validation_sharpe"),
        ({"value__explained_variance": 0.05}, "minimum explained_variance"),
        ({"value__explained_variance": -0.1, "diag__ev_reference": -0.5}, "minimum explained_variance"),
        ({"policy__entropy": 0.4}, "minimum entropy"),
        ({"policy__entropy": 1.6}, "minimum entropy"),
        ({"nonfinite": 1}, "minimum no NaN"),
    ],
)
def test_each_minimum_criterion_fails_alone(metrics: dict[str, Any], missed: str) -> None:
    result = grade(**metrics)
    assert result["grade"] == "FAIL"
    assert missed in unmet(result)


@pytest.mark.parametrize(
    ("metrics", "missed"),
    [
        ({"eval__total_return": -0.7}, "strong beats_supervised"),
        ({"eval__max_drawdown": 0.25}, "strong max_drawdown"),
        ({"eval__actions_used": 3}, "strong actions_used"),
    ],
)
def test_each_strong_criterion_is_missed_alone(metrics: dict[str, Any], missed: str) -> None:
    result = grade(**metrics)
    assert result["grade"] == "PASS"
    assert unmet(result) == [missed]


def test_criteria_that_are_off_are_not_judged() -> None:
    off = {"minimum": {"entropy": "off", "explained_variance": "off"}, "strong": {"max_drawdown": "off"}}
    result = grade(spec_with(criteria=off), policy__entropy=0.0, value__explained_variance=-3.0, eval__max_drawdown=0.9)
    assert result["grade"] == "STRONG"
    assert {r["criterion"] for r in result["reasons"]}.isdisjoint({"entropy", "explained_variance", "max_drawdown"})


def test_a_literal_explained_variance_is_taken_literally() -> None:
    assert grade(spec_with(criteria={"minimum": {"explained_variance": 0.65}}))["grade"] == "FAIL"


def test_labels_stand_beside_the_grade() -> None:
    assert "constant" in grade(event={"constant": True})["labels"]
    assert grade(event={"ruined": True})["labels"] == ["ended in ruin"]
    assert "never traded" in grade(eval__sharpe_ratio=None)["labels"]
    easy = spec_with(criteria={"minimum": {"validation_sharpe": -0.5}})
    assert "all-HOLD meets the Sharpe criterion too" in grade(easy)["labels"]


@pytest.mark.parametrize(
    ("why_not", "shown", "word"),
    [("", True, "shown"), ("", False, "not shown"), ("3 trades, 10 are needed", False, "not judged")],
)
def test_the_label_is_that_of_the_judgement_and_not_of_an_interval(why_not: str, shown: bool, word: str) -> None:
    judged = {"why_not": why_not, "over": {"buy_and_hold": {"shown": shown}}}
    event = EVENT | {"excess_interval": [0.5, 0.9]}
    assert verdict(spec_with(), "AAPL", GOOD, 0, event, judged)["over_buy_and_hold"] == word
    assert verdict(spec_with(), "AAPL", GOOD, 0, event)["over_buy_and_hold"] == "not judged"


@pytest.mark.parametrize(
    ("step", "batch_size", "n_epochs", "entropy_norm", "hardly"),
    [
        (500, 64, 10, 0.5, True),  # a lucky start
        (10_000, 512, 10, 0.8, True),  # the tutorial's run: 195 gradient steps
        (100_000, 512, 10, 0.8, False),
        (100_000, 64, 10, 0.98, True),  # the policy is still undecided
        (100_000, 64, 10, None, False),
        (100_000, None, None, 0.8, False),  # a trainer with other arguments
    ],
)
def test_few_updates_or_a_high_entropy_are_hardly_a_training(
    step: int, batch_size: int | None, n_epochs: int | None, entropy_norm: float | None, hardly: bool
) -> None:
    args = SimpleNamespace(**{k: v for k, v in (("batch_size", batch_size), ("n_epochs", n_epochs)) if v})
    assert is_hardly_trained(args, step, entropy_norm) == hardly
