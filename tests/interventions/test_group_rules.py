"""Rules of a group or a whole run: the share of agents that show the trigger, the changes, and the objections."""

from __future__ import annotations

from typing import Any

import pytest

from . import made_up_run
from .made_up_run import UP, Training, decided, holding

NAMES = ("A", "B", "C")
HOLD = made_up_run.HOLD | {"scope": "run", "share": 0.5}


def together(*rules: dict[str, Any], **rest: Any) -> Training:
    """Three agents in one run."""
    return Training(*rules, agents=NAMES, trainer="ppo_shared", **rest)


def test_enough_agents_must_show_it_and_all_are_changed() -> None:
    run = together(HOLD)
    assert run.update(*holding("A")) == []
    (fired,) = run.update(*holding("A", "C"))
    assert (fired.decision, fired.agents, fired.row) == ("fired", NAMES, "policy.hold")
    assert fired.reason == "in 2 of 3 agents (A: as measured)"
    assert fired.keys == {"ppo.ent_coef": [0.01, 0.05]}
    assert fired.by_agent == {}
    assert run.values() == [0.05] * 3


def test_without_a_share_three_in_ten_are_enough() -> None:
    run = together({key: value for key, value in HOLD.items() if key != "share"})
    assert decided(run.update(*holding("B"))) == [("hold", "fired")]


def test_those_that_have_ended_do_not_count_and_are_left_alone() -> None:
    run = together(HOLD | {"share": 1.0})
    assert run.update(*holding("A", "B")) == []
    (fired,) = run.update(*holding("A", "B"), only=("A", "B"))
    assert fired.agents == ("A", "B")
    assert run.values() == [0.05, 0.05, 0.01]


def test_a_group_is_changed_without_the_others() -> None:
    run = together(HOLD | {"scope": "group"}, groups={"A": "1", "B": "1", "C": "2"})
    (fired,) = run.update(*holding("C"))
    assert fired.agents == ("C",)
    assert run.values() == [0.01, 0.01, 0.05]
    (fired,) = run.update(*holding("A"))
    assert fired.agents == ("A", "B")


def test_patience_cooldown_and_tries_are_counted_once_for_all() -> None:
    rule = HOLD | {"patience": 2, "max_times": 1}
    run = together(rule)
    told = [
        decided(run.update(*holding(*sick)))
        for sick in (("A", "B"), ("A",), ("B", "C"), ("A", "B"), ("A", "B"), ("A", "B"))
    ]
    assert told == [[], [], [], [("hold", "fired")], [], [("hold", "blocked")]]


def test_one_agent_whose_budget_is_used_up_holds_all_back() -> None:
    own = {"id": "own", "on": "policy.hold", "do": [{"scale": "vf_coef", "by": 2.0, "max": 2.0}], "max_times": 9}
    budget = {"mode": "act", "budget": {"actions": 1}}
    run = together(HOLD, own, diagnose=budget)
    assert decided(run.update(*holding("B"))) == [("own", "fired")]
    held, *_ = run.update(*holding("A", "B"))
    assert (held.decision, held.reason) == ("blocked", "B: diagnose.budget.actions = 1 are used up")
    assert run.values() == [0.01] * 3


def test_rules_for_all_come_before_an_agents_own() -> None:
    own = {"id": "own", "on": "policy.hold", "do": [UP | {"by": 2.0}], "priority": 1}
    run = together(own, HOLD)
    told = run.update(*holding("A", "B"))
    assert decided(told) == [("hold", "fired"), ("own", "suppressed"), ("own", "suppressed")]
    assert "higher priority" in told[1].reason


def test_watch_says_what_it_would_have_done() -> None:
    run = together(HOLD, diagnose={"mode": "watch"})
    (watched,) = run.update(*holding("A", "B"))
    assert (watched.decision, watched.keys) == ("blocked", {"ppo.ent_coef": [0.01, 0.05]})
    assert run.values() == [0.01] * 3


RELEASE = {"metric": "policy/entropy_norm", "op": ">", "value": 0.25}


def test_released_once_too_few_are_still_in_trouble() -> None:
    run = together(HOLD | {"do": [UP | {"until": "release"}], "release": RELEASE})
    run.update(*holding("A", "B"), policy__entropy_norm=0.1)
    assert run.update(policy__entropy_norm={"A": 0.3, "B": 0.1, "C": 0.1}) == []
    (released,) = run.update(policy__entropy_norm={"A": 0.3, "B": 0.1, "C": 0.3})
    assert (released.decision, released.agents) == ("released", NAMES)
    assert released.reason == "policy/entropy_norm > 0.25 in 2 of 3 agents"
    assert run.values() == [0.01] * 3


def test_a_span_ends_for_all_in_one_entry() -> None:
    run = together(HOLD | {"do": [UP | {"until": {"updates": 1}}]})
    run.update(*holding("A", "B"))
    (over,) = run.update()
    assert (over.decision, over.expired, over.reason) == ("released", True, "its 1 update is over")
    assert run.values() == [0.01] * 3


@pytest.mark.parametrize(("after", "word"), [(0.3, "verified"), (0.9, "failed")])
def test_verified_by_the_mean(after: float, word: str) -> None:
    verify = {"metric": "policy/hold_share", "op": "<", "than": "before", "within": {"updates": 1}}
    run = together(HOLD | {"verify": verify, "on_fail": "next"})
    run.update(*holding("A", "B"), policy__hold_share={"A": 0.9, "B": 0.9, "C": 0.0})
    told = run.update(policy__hold_share={"A": after, "B": after, "C": 0.2})
    assert told[0].decision == word
    assert told[0].threshold == pytest.approx(0.6)
    assert run.values() == [0.05 if word == "verified" else 0.01] * 3


def test_each_goes_back_to_a_checkpoint_of_its_own() -> None:
    rule = HOLD | {"do": [{"rollback": "last_good"}, {"scale": "learning_rate", "by": 0.5, "min": 1e-6}]}
    run = together(rule, diagnose={"mode": "act", "budget": {"lost_steps_pct": 100}})
    run.update()
    for name in ("A", "B"):
        run.engine[name].keep_good()
    run.update()
    (fired,) = run.update(*holding("A", "B"))
    assert {name: one["checkpoint"] for name, one in fired.by_agent.items()} == {
        "A": "good-000001000", "B": "good-000001000", "C": "init",
    }  # fmt: skip
    assert run.engine["C"].undone == [(0, 3_000)]
    assert run.engine["A"].undone == [(1_000, 3_000)]


def test_a_group_stays_together_where_one_may_not_go_back() -> None:
    back = {"rollback": "last_good", "over_budget": "stay"}
    rule = HOLD | {"do": [back, {"scale": "learning_rate", "by": 0.5, "min": 1e-6}]}
    run = together(rule, diagnose={"mode": "act", "budget": {"lost_steps_pct": 2}})
    run.update()
    for name in ("A", "B"):
        run.engine[name].keep_good()
    run.update()
    (fired,) = run.update(*holding("A", "B"))  # C would lose 3 % of the steps, A and B 2 %
    assert (fired.checkpoint, fired.actions) == (None, ())
    assert run.values("ppo.learning_rate") == pytest.approx([1.5e-4] * 3)


STEER = {
    "id": "steer",
    "scope": "run",
    "controller": {"key": "learning_rate", "metric": "policy/kl_divergence", "target": 0.01, "min": 1e-4, "max": 5e-4},
}


def test_a_controller_goes_by_the_mean() -> None:
    run = together(STEER)
    assert run.update(policy__kl_divergence={"A": 0.03, "B": 0.015, "C": 0.01}) == []
    (fired,) = run.update(policy__kl_divergence={"A": 0.05, "B": 0.015, "C": 0.01})
    assert fired.agents == NAMES
    assert run.values("ppo.learning_rate") == pytest.approx([2e-4] * 3)


STORY: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("A", "B"), {"policy__entropy_norm": 0.1, "policy__kl_divergence": 0.05}),
    ((), {"policy__entropy_norm": 0.1, "policy__kl_divergence": 0.05}),
    ((), {"policy__entropy_norm": 0.3, "policy__kl_divergence": 0.001}),
    (("A", "C"), {"policy__entropy_norm": 0.1, "policy__kl_divergence": 0.01}),
]
RULES = (
    HOLD | {"do": [UP | {"until": "release"}], "release": RELEASE, "max_times": 2},
    STEER,
    {"id": "own", "on": "policy.hold", "do": [{"scale": "vf_coef", "by": 1.5, "max": 2.0}], "max_times": 9},
)


def story(run: Training, begin: int = 0, end: int = len(STORY)) -> list[tuple[str, str, tuple[str, ...]]]:
    told = []
    for sick, metrics in STORY[begin:end]:
        told += [(d.rule, d.decision, d.agents) for d in run.update(*holding(*sick), **metrics)]
    return told


def test_state_goes_through_a_checkpoint() -> None:
    whole = together(*RULES)
    expected = story(whole)
    for cut in range(1, len(STORY)):
        first = together(*RULES)
        told = story(first, end=cut)
        second = together(*RULES)
        second.resume(first)
        assert told + story(second, begin=cut) == expected
        assert second.values() == whole.values()


def test_the_journal_repeats_it_without_judging() -> None:
    judged = together(*RULES)
    keys, values = ("ppo.ent_coef", "ppo.learning_rate", "ppo.vf_coef"), []
    for sick, metrics in STORY:
        judged.update(*holding(*sick), **metrics)
        values.append([judged.values(key) for key in keys])
    assert {event["decision"] for event in judged.journal} >= {"fired", "released"}
    again = together(*RULES, journal=judged.journal)
    repeated = []
    for _, metrics in STORY:
        again.update(**metrics)
        repeated.append([again.values(key) for key in keys])
    assert repeated == values
