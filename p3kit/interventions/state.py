"""State of one rule between checks: its patience, tries and verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p3kit.interventions.decision import Check, Decision, Objection, failure_actions
from p3kit.interventions.modifiers import Clock, amount, in_words
from p3kit.interventions.triggers import COMPARE
from p3kit.spec.conditions import Condition, Span
from p3kit.spec.interventions import Intervention, Verify, listed_symptoms


@dataclass
class RuleState:
    """State of one rule; a checkpoint holds all fields."""

    times: int = 0
    recent: list[bool] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)
    acted: list[float] | None = None
    """Clock of its last action or release."""
    fired_step: int = -1
    said: str = ""
    """The last reason for not acting, which is journalled once."""
    verify_since: list[float] | None = None
    verify_before: float | None = None
    retired: bool = False
    row: str = ""

    def is_due(self, rule: Intervention, held: bool) -> bool:
        """Count this check; return True if the trigger has held as often as the rule's patience needs."""
        needed, window = patience_of(rule)
        self.recent = [*self.recent, held][-window:]
        if not held:
            self.said = ""
        return held and sum(self.recent) >= needed

    def is_new(self, reason: str) -> bool:
        """Return True once for each reason for not acting."""
        new, self.said = reason != self.said, reason
        return new

    def use_try(self, clock: Clock) -> None:
        """Count one of `max_times`; `diagnose.mode = "watch"` counts as well."""
        self.times, self.acted, self.recent = self.times + 1, clock.to_json(), []

    def act(self, clock: Clock, row: str) -> None:
        """Count an action."""
        self.use_try(clock)
        self.said, self.fired_step, self.row = "", clock.env_steps, row

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Take the fields of a checkpoint."""
        vars(self).update(fields)

    def cools_down(self, rule: Intervention, clock: Clock) -> bool:
        """True within the rule's cooldown."""
        return bool(rule.cooldown and self.acted and not has_passed(rule.cooldown, self.acted, clock))


Beside = Sequence[tuple[Intervention, RuleState]]
"""The rules with the same members, the rule itself among them."""


def has_passed(span: Span, begin: Sequence[float], clock: Clock) -> bool:
    """True once `span` has passed since the clock was `begin`."""
    return clock.share(span, Clock.from_json(begin)) >= 1


def patience_of(rule: Intervention) -> tuple[int, int]:
    """(number of checks at which the trigger must hold, number of checks counted)."""
    if rule.within is not None:
        held, of = rule.within.split(" of ")
        return int(held), int(of)
    return rule.patience, rule.patience


def lacks_data(rule: Intervention, clock: Clock) -> Objection | None:
    """Object while `min_data` is not reached."""
    lacking = clock.lacks(rule.min_data)
    if not lacking:
        return None
    needs = ", ".join(amount(unit, count) for unit, count in lacking.items())
    return "suppressed", f"not enough data: needs {needs}"


def waits(rule: Intervention, state: RuleState, clock: Clock, beside: Beside) -> Objection | None:
    """Object because of the rule's own past, or of another rule on the same symptom."""
    if state.retired:
        return "blocked", "it did not help when it was tried"
    if state.verify_since is not None:
        return "suppressed", "whether its last try helped is not known yet"
    for other, its in beside:
        if other.priority < rule.priority and its.verify_since and _share_a_symptom(rule, other):
            return "suppressed", f"{other.id} is on the same symptom, and whether it helped is not known yet"
    if state.times >= rule.max_times:
        return "blocked", f"max_times = {rule.max_times} is reached"
    if state.cools_down(rule, clock):
        assert rule.cooldown is not None  # noqa: S101  (it cools down)
        return "suppressed", f"cooldown of {in_words(rule.cooldown)}"
    return None


def verified(
    rule: Intervention, verify: Verify, state: RuleState, now: float | None, check: Check, beside: Beside
) -> Decision:
    """Compare the metric `now` with the bar of `verify`; the rule may act again afterwards."""
    before, state.verify_since, state.verify_before = state.verify_before, None, None
    bar = before if verify.than == "before" else float(verify.than)
    seen = [value for value in (before, now) if value is not None]
    what = f"{verify.metric} {verify.op} {'n/a' if bar is None else format(bar, '.4g')}"
    helped = now is not None and bar is not None and COMPARE[verify.op](now, bar)
    decision = Decision(rule.id, check, "verified", what, row=state.row, evidence={verify.metric: seen}, threshold=bar)
    return decision if helped else _failed(rule, state, decision, beside)


def _failed(rule: Intervention, state: RuleState, decision: Decision, beside: Beside) -> Decision:
    assert rule.verify is not None  # noqa: S101  (it was verified)
    reason = f"not {decision.reason} after {in_words(rule.verify.within)}"
    if rule.on_fail == "next":
        state.retired = True
        rest = [other for other, its in beside if _share_a_symptom(rule, other) and not its.retired]
        reason += "" if rest else "; unrepaired: no other intervention is on it"
    return replace(decision, decision="failed", reason=reason, actions=failure_actions(rule))


def _share_a_symptom(one: Intervention, other: Intervention) -> bool:
    return one.id != other.id and bool(listed_symptoms(one) & listed_symptoms(other))


def comparison(condition: Condition) -> str:
    """`policy/entropy_norm > 0.25`."""
    return f"{condition.metric} {condition.op} {condition.value:g}"
