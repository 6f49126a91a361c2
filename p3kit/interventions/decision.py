"""One decision of a rule: an entry of the journal, and the actions that the runtime carries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from p3kit.spec.actions import Add, Rollback, Scale, Set, Stop
from p3kit.spec.base_model import Table
from p3kit.spec.interventions import Intervention

Check = Literal["update", "eval"]
Verdict = Literal["fired", "suppressed", "blocked", "released", "verified", "failed"]
Objection = tuple[Verdict, str]
"""The verdict on a rule that may not act, and the reason."""

OSCILLATES = "intervention.oscillates"
"""The symptom of a key that rules move up and down again and again."""

STRICT = "diagnose.strict"
"""The name in the journal of a stop by `diagnose.strict`."""

_OPTIONAL = ("gradual", "component", "by_agent", "took_back")


@dataclass(frozen=True)
class Decision:
    """One entry of the journal: the rule, the decision, its reason, and the changes."""

    rule: str
    check: Check
    decision: Verdict
    reason: str
    row: str = ""
    cause: str | None = None
    cause_scores: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Sequence[float]] = field(default_factory=dict)
    threshold: float | None = None
    min_data: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    keys: Mapping[str, Sequence[float | str]] = field(default_factory=dict)
    gradual: Mapping[str, str] = field(default_factory=dict)
    """Keys that reach their new value over a span, with the span as text."""
    checkpoint: str | None = None
    factor: float | None = None
    expired: bool = False
    component: str = ""
    """The reward component that the evidence names, if the rule moves its weight."""
    agents: tuple[str, ...] = ()
    """The agents that it changes."""
    by_agent: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`keys`, `checkpoint` and `factor` of each agent, if they differ."""
    actions: tuple[Table, ...] = ()
    """Actions for the runtime; modifiers are applied by the engine itself."""
    of_group: bool = False
    """True for a rule of a group or run: its journal entry lists `agents`."""
    took_back: tuple[str, ...] = ()
    """Ids of the rules whose actions the snapshot undoes, because the evaluations fell after them."""

    def to_event(self) -> dict[str, Any]:
        """Fields of the event in `events.jsonl`, without those that every event has."""
        fields = {
            key: value
            for key, value in vars(self).items()
            if key not in ("rule", "actions", "of_group")
            and (key not in _OPTIONAL or value)
            and (key != "agents" or self.of_group)
        }
        did = [action.model_dump(mode="json", by_alias=True, exclude_none=True) for action in self.actions]
        return {"id": self.rule, **fields, "did": did}

    def for_agent(self, name: str) -> dict[str, Any]:
        """Fields of the event as it changes one agent."""
        return self.to_event() | dict(self.by_agent.get(name, {}))

    def checkpoint_of(self, name: str) -> str | None:
        """The checkpoint that one agent goes back to."""
        checkpoint: str | None = self.by_agent.get(name, {}).get("checkpoint", self.checkpoint)
        return checkpoint

    @property
    def agent(self) -> str | None:
        """The agent of the event; None for an entry about a group."""
        return None if self.of_group and self.row != OSCILLATES else self.agents[0]

    @property
    def ends_the_check(self) -> bool:
        """True if the findings no longer hold: weights were rolled back, or training ends."""
        return self.checkpoint is not None or any(isinstance(action, Stop) for action in self.actions)


@dataclass(frozen=True)
class SymptomChange:
    """A symptom of an agent that was raised or is over since the last check."""

    agent: str
    row: str
    state: Literal["raised", "over"]


def merge(own: Mapping[str, Decision], of: Decision | None = None, *, of_group: bool) -> Decision:
    """Merge the decisions on single agents into one, with the words of `of` (default: of the first agent)."""
    first = next(iter(own.values()))
    each = {name: _own_part(one) for name, one in own.items()}
    differs = any(part != _own_part(first) for part in each.values())
    common: dict[str, Any] = {"keys": first.keys, "checkpoint": first.checkpoint, "factor": first.factor}
    by_agent = each if differs else {}
    return replace(of or first, **common, agents=tuple(own), by_agent=by_agent, of_group=of_group)


def _own_part(one: Decision) -> dict[str, Any]:
    part: dict[str, Any] = {"keys": one.keys, "checkpoint": one.checkpoint}
    return part if one.factor is None else part | {"factor": one.factor}


def held_back(fired: Decision, objection: Objection) -> Decision:
    """The entry for a rule that may not act: its evidence, without actions."""
    by_agent = {name: {**part, "checkpoint": None} for name, part in fired.by_agent.items()}
    verdict, reason = objection
    return replace(fired, decision=verdict, reason=reason, actions=(), checkpoint=None, by_agent=by_agent)


def all_or_none(rule: Intervention, own: dict[str, Decision]) -> dict[str, Decision]:
    """Let no agent go back if one cannot: all of them stop, or all of them keep their weights."""
    instead = next((one.actions for one in own.values() if one.actions != runtime_actions(rule)), None)
    if instead is None:
        return own
    return {name: replace(one, actions=instead, checkpoint=None) for name, one in own.items()}


def runtime_actions(rule: Intervention) -> tuple[Table, ...]:
    """The actions that the runtime carries out: all but modifiers."""
    return tuple(action for action in rule.actions() if not isinstance(action, Set | Scale | Add))


def failure_actions(rule: Intervention) -> tuple[Table, ...]:
    """The actions that `on_fail` names."""
    if rule.on_fail == "stop":
        return (Stop(stop="fail"),)
    return (Rollback(rollback="last_good"),) if rule.on_fail == "rollback" else ()
