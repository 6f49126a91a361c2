"""Rules of a group or a whole run: how many agents must show it, who is changed, and what holds all of them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from p3kit.diagnose import CauseFound, Finding
from p3kit.runtime import interventions
from p3kit.runtime.council import Council
from p3kit.runtime.interventions import Decision, Engine
from p3kit.runtime.record import Record
from p3kit.spec import get_path, resolve_spec

NAMES = ("A", "B", "C")
UP = {"scale": "ppo.ent_coef", "by": 5.0, "max": 0.10}
HOLD = {"id": "hold", "on": "policy.hold", "scope": "run", "share": 0.5, "do": [UP]}
SICK = Finding("policy.hold", "A", "raised", "critical", "as measured", 0.9, 0.5, "3 ticks", 100,
               causes=(CauseFound("ent_coef_low", "seen", 1.0),))  # fmt: skip


class Together:
    """Three engines and their council, told what the detectors would say of each agent."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *rules: dict[str, Any],
        journal: Any = None,
        groups: tuple[tuple[str, ...], ...] = (NAMES,),
        **tables: Any,
    ) -> None:
        tables = {"name": "t", "symbols": ["AAPL"], "intervention": list(rules), "trainer": "ppo_shared"} | tables
        spec = resolve_spec(tables, "test")
        self.engines = {}
        for name in NAMES:
            record = Record(name, spec.model_dump(mode="json"), 100_000)
            mine = None if journal is None else [event for event in journal if event["agent"] == name]
            self.engines[name] = Engine(spec, record, lambda path: float(get_path(spec, path)), mine, alone=False)
        self.council = Council([{name: self.engines[name] for name in group} for group in groups], journal)
        self.findings: Mapping[str, tuple[Finding, ...]] = {}
        self.journal: list[dict[str, Any]] = []
        patch.setattr(interventions, "judge", lambda evidence: self.findings.get(evidence.agent, ()))

    def update(self, *sick: str, only: tuple[str, ...] = NAMES, **metrics: Any) -> list[Decision]:
        """One update, in which these agents hold; a metric is one number for all or one by agent."""
        self.findings = dict.fromkeys(sick, (SICK,))
        running = {name: self.engines[name] for name in only}
        for name, engine in running.items():
            row = {
                key.replace("__", "/"): value[name] if isinstance(value, dict) else value
                for key, value in metrics.items()
            }
            step = engine.clock.env_steps + 1_000
            engine.record.take([{"global_step": step, "iteration": 1, "metrics": row}])
            engine.advance(updates=1, gradient_steps=10, env_steps=1_000, episodes=2)
            engine.examine("update")
        claimed: dict[str, set[str]] = {name: set() for name in running}
        told: list[tuple[str | None, Decision]] = [
            (None, decision) for decision in self.council.check("update", running, claimed)
        ]
        for name, engine in running.items():
            told += [(name, decision) for decision in engine.check("update", claimed[name])]
        step = next(iter(running.values())).clock.env_steps
        self.journal += [{**decision.to_event(), "agent": name, "global_step": step} for name, decision in told]
        return [decision for _, decision in told]

    def values(self, key: str = "ppo.ent_coef") -> list[float]:
        return [float(engine.value(key, engine.scheduled(key))) for engine in self.engines.values()]


def said(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(decision.rule, decision.decision) for decision in decisions]


def test_enough_agents_must_show_it_and_all_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD)
    assert run.update("A") == []
    (fired,) = run.update("A", "C")
    assert (fired.decision, fired.agents, fired.row) == ("fired", NAMES, "policy.hold")
    assert fired.reason == "in 2 of 3 agents (A: as measured)"
    assert fired.keys == {"ppo.ent_coef": [0.01, 0.05]}
    assert fired.by_agent == {}
    assert run.values() == [0.05] * 3


def test_without_a_share_three_in_ten_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, {key: value for key, value in HOLD.items() if key != "share"})
    assert said(run.update("B")) == [("hold", "fired")]


def test_those_that_have_ended_do_not_count_and_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD | {"share": 1.0})
    assert run.update("A", "B") == []
    (fired,) = run.update("A", "B", only=("A", "B"))
    assert fired.agents == ("A", "B")
    assert run.values() == [0.05, 0.05, 0.01]


def test_a_group_is_changed_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD | {"scope": "group"}, groups=(("A", "B"), ("C",)))
    (fired,) = run.update("C")
    assert fired.agents == ("C",)
    assert run.values() == [0.01, 0.01, 0.05]
    (fired,) = run.update("A")
    assert fired.agents == ("A", "B")


def test_patience_cooldown_and_tries_are_counted_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = HOLD | {"patience": 2, "max_times": 1}
    run = Together(monkeypatch, rule)
    told = [said(run.update(*sick)) for sick in (("A", "B"), ("A",), ("B", "C"), ("A", "B"), ("A", "B"), ("A", "B"))]
    assert told == [[], [], [], [("hold", "fired")], [], [("hold", "blocked")]]


def test_one_agent_whose_budget_is_used_up_holds_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"id": "own", "on": "policy.hold", "do": [{"scale": "vf_coef", "by": 2.0, "max": 2.0}], "max_times": 9}
    budget = {"mode": "act", "budget": {"actions": 1}}
    run = Together(monkeypatch, HOLD, own, diagnose=budget)
    assert said(run.update("B")) == [("own", "fired")]
    held, *_ = run.update("A", "B")
    assert (held.decision, held.reason) == ("blocked", "B: diagnose.budget.actions = 1 are used up")
    assert run.values() == [0.01] * 3


def test_rules_for_all_come_before_an_agents_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"id": "own", "on": "policy.hold", "do": [UP | {"by": 2.0}], "priority": 1}
    run = Together(monkeypatch, own, HOLD)
    told = run.update("A", "B")
    assert said(told) == [("hold", "fired"), ("own", "suppressed"), ("own", "suppressed")]
    assert "higher priority" in told[1].reason


def test_watch_says_what_it_would_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD, diagnose={"mode": "watch"})
    (watched,) = run.update("A", "B")
    assert (watched.decision, watched.keys) == ("blocked", {"ppo.ent_coef": [0.01, 0.05]})
    assert run.values() == [0.01] * 3


RELEASE = {"metric": "policy/entropy_norm", "op": ">", "value": 0.25}


def test_released_once_too_few_are_still_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD | {"do": [UP | {"until": "release"}], "release": RELEASE})
    run.update("A", "B", policy__entropy_norm=0.1)
    assert run.update(policy__entropy_norm={"A": 0.3, "B": 0.1, "C": 0.1}) == []
    (released,) = run.update(policy__entropy_norm={"A": 0.3, "B": 0.1, "C": 0.3})
    assert (released.decision, released.agents) == ("released", NAMES)
    assert released.reason == "policy/entropy_norm > 0.25 in 2 of 3 agents"
    assert run.values() == [0.01] * 3


def test_a_span_ends_for_all_in_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, HOLD | {"do": [UP | {"until": {"updates": 1}}]})
    run.update("A", "B")
    (over,) = run.update()
    assert (over.decision, over.expired, over.reason) == ("released", True, "its 1 update is over")
    assert run.values() == [0.01] * 3


@pytest.mark.parametrize(("after", "word"), [(0.3, "verified"), (0.9, "failed")])
def test_verified_by_the_mean(monkeypatch: pytest.MonkeyPatch, after: float, word: str) -> None:
    verify = {"metric": "policy/hold_share", "op": "<", "than": "before", "within": {"updates": 1}}
    run = Together(monkeypatch, HOLD | {"verify": verify, "on_fail": "next"})
    run.update("A", "B", policy__hold_share={"A": 0.9, "B": 0.9, "C": 0.0})
    told = run.update(policy__hold_share={"A": after, "B": after, "C": 0.2})
    assert told[0].decision == word
    assert told[0].threshold == pytest.approx(0.6)
    assert run.values() == [0.05 if word == "verified" else 0.01] * 3


def test_each_goes_back_to_a_checkpoint_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = HOLD | {"do": [{"rollback": "last_good"}, {"scale": "learning_rate", "by": 0.5, "min": 1e-6}]}
    run = Together(monkeypatch, rule, diagnose={"mode": "act", "budget": {"lost_steps_pct": 100}})
    run.update()
    for name in ("A", "B"):
        run.engines[name].keep_good()
    run.update()
    (fired,) = run.update("A", "B")
    assert {name: one["checkpoint"] for name, one in fired.by_agent.items()} == {
        "A": "good-000001000", "B": "good-000001000", "C": "init",
    }  # fmt: skip
    assert run.engines["C"].undone == [(0, 3_000)]
    assert run.engines["A"].undone == [(1_000, 3_000)]


STEER = {
    "id": "steer",
    "scope": "run",
    "controller": {"key": "learning_rate", "metric": "policy/kl_divergence", "target": 0.01, "min": 1e-4, "max": 5e-4},
}


def test_a_controller_goes_by_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Together(monkeypatch, STEER)
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


def story(run: Together, begin: int = 0, end: int = len(STORY)) -> list[tuple[str, str, tuple[str, ...]]]:
    told = []
    for sick, metrics in STORY[begin:end]:
        told += [(d.rule, d.decision, d.agents) for d in run.update(*sick, **metrics)]
    return told


def test_state_goes_through_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Together(monkeypatch, *RULES)
    expected = story(whole)
    for cut in range(1, len(STORY)):
        first = Together(monkeypatch, *RULES)
        told = story(first, end=cut)
        second = Together(monkeypatch, *RULES)
        for name, engine in second.engines.items():
            engine.record = first.engines[name].record
            engine.load_state(first.engines[name].state())
        second.council.load_state(first.council.state())
        assert told + story(second, begin=cut) == expected
        assert second.values() == whole.values()


def test_the_journal_repeats_it_without_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Together(monkeypatch, *RULES)
    keys, values = ("ppo.ent_coef", "ppo.learning_rate", "ppo.vf_coef"), []
    for sick, metrics in STORY:
        judged.update(*sick, **metrics)
        values.append([judged.values(key) for key in keys])
    assert {event["decision"] for event in judged.journal} >= {"fired", "released"}
    again = Together(monkeypatch, *RULES, journal=judged.journal)
    repeated = []
    for _, metrics in STORY:
        again.update(**metrics)
        repeated.append([again.values(key) for key in keys])
    assert repeated == values
