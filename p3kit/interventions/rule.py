"""One rule at one check point. A rule of one agent is a group rule with one member.

A group rule acts if at least `share` of its agents that still train show the trigger. It counts patience, cooldown and
tries once for all, and it is held back if one of its agents may not be changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from p3kit.interventions.decision import Check, Decision, Objection, all_or_none, held_back, merge
from p3kit.interventions.member import WATCHED, Member, component_of
from p3kit.interventions.modifiers import UNITS, Clock, Modifier, key_of, over
from p3kit.interventions.state import Beside, RuleState, comparison, has_passed, lacks_data, verified, waits
from p3kit.interventions.triggers import Snapshot
from p3kit.spec.interventions import QUORUM, Controller, Intervention, Verify

Members = dict[str, Member]
"""Members by the names of their agents, in the order of the plan."""

UNNAMED: Objection = ("suppressed", "the evidence names no reward component")


@dataclass
class ActiveRule:
    """A rule and the agents that it changes."""

    rule: Intervention
    members: Members
    of_group: bool = False
    """False for an agent's own rule: its journal entries name the agent."""
    state: RuleState = field(default_factory=RuleState)


@dataclass
class RuleCheck:
    """One rule at one check point, with those of its members that still train."""

    active: ActiveRule
    check: Check
    present: Members
    beside: Beside = ()
    """The rules with the same members, and their states."""
    claimed: Mapping[str, set[str]] = field(default_factory=dict)
    """By agent, the keys that a rule of higher priority moved at this check."""

    @property
    def rule(self) -> Intervention:
        return self.active.rule

    @property
    def state(self) -> RuleState:
        return self.active.state

    @property
    def clock(self) -> Clock:
        """The progress that all members have reached at least."""
        return Clock(*(min(getattr(member.clock, unit) for member in self.present.values()) for unit in UNITS))

    def is_enough(self, number: int) -> bool:
        """True if `number` members are the share that the rule needs."""
        share = QUORUM if self.rule.share is None else self.rule.share
        return number >= share * len(self.present)

    # --- fire --------------------------------------------------------------------------------------------------------

    def act(self) -> Iterator[Decision]:
        """Steer or fire, if the rule is due and no condition prevents it."""
        if self.rule.controller is not None:
            yield from self._steer(self.rule.controller)
            return
        views = {name: member.snapshot(self.rule) for name, member in self.present.items()}
        showing = [name for name, view in views.items() if view.any_of(self.rule.on or ())]
        if self.state.is_due(self.rule, self.is_enough(len(showing))):
            yield from self._fire(views, showing)

    def _fire(self, views: Mapping[str, Snapshot], showing: Sequence[str]) -> Iterator[Decision]:
        added = {name: self._modifiers(name, view) for name, view in views.items()}
        own = {name: self._proposal(name, view, added[name]) for name, view in views.items()}
        own = all_or_none(self.rule, own)
        fired = self._fired(own, showing)
        objection = self._unnamed(views) or self._objection(views, own)
        if objection is not None:
            yield from self._hold_back(fired, objection)
            return
        self._claim({name: one.keys for name, one in own.items()})
        yield fired
        yield from self.apply(own, added)

    def _modifiers(self, name: str, view: Snapshot) -> list[Modifier]:
        component = self._component(view)
        is_unnamed = self.rule.names_no_component() and not component
        return [] if is_unnamed else self.present[name].modifiers_of(self.rule, component)

    def _proposal(self, name: str, view: Snapshot, added: Sequence[Modifier]) -> Decision:
        decision = self.present[name].propose(self.rule, view, self.check, added)
        return replace(decision, component=self._component(view))

    def _component(self, view: Snapshot) -> str:
        return component_of(view) if self.rule.names_no_component() else ""

    def _fired(self, own: Mapping[str, Decision], showing: Sequence[str]) -> Decision:
        first = showing[0]
        fired = self.merged(own, of=own[first])
        if not self.active.of_group:
            return fired
        reason = f"in {len(showing)} of {len(self.present)} agents ({first}: {own[first].reason})"
        return replace(fired, reason=reason)

    def apply(self, own: Mapping[str, Decision], added: Mapping[str, Sequence[Modifier]]) -> Iterator[Decision]:
        """Apply the decisions on the single members."""
        self.state.act(self.clock, next((one.row for one in own.values() if one.row), ""))
        if self.rule.verify is not None:
            before = self._mean(self.rule.verify.metric)
            self.state.verify_since, self.state.verify_before = self.clock.to_json(), before
        for name, member in self.present.items():
            yield from self._of_one(
                member.accept(self.rule, replace(own[name], of_group=self.active.of_group), added[name])
            )

    # --- objections --------------------------------------------------------------------------------------------------

    def _objection(self, views: Mapping[str, Snapshot], own: Mapping[str, Decision]) -> Objection | None:
        return (
            lacks_data(self.rule, self.clock)
            or self._excuse(views)
            or waits(self.rule, self.state, self.clock, self.beside)
            or self._objection_of_a_member(own)
        )

    def _unnamed(self, views: Mapping[str, Snapshot]) -> Objection | None:
        is_named = not self.rule.names_no_component() or all(map(self._component, views.values()))
        return None if is_named else UNNAMED

    def _excuse(self, views: Mapping[str, Snapshot]) -> Objection | None:
        for symptom in self.rule.unless or ():
            number = sum(self.present[name].shows(symptom, view) for name, view in views.items())
            if self.is_enough(number):
                where = f" in {number} of {len(self.present)} agents" if self.active.of_group else ""
                return "suppressed", f"unless {symptom}, which is raised{where}"
        return None

    def _objection_of_a_member(self, own: Mapping[str, Decision]) -> Objection | None:
        for name, member in self.present.items():
            if (objection := member.objects(self.rule, own[name], self.claimed[name])) is not None:
                verdict, reason = objection
                return verdict, reason if reason == WATCHED else self._reason_of(name, reason)
        return None

    def _reason_of(self, name: str, reason: str) -> str:
        return f"{name}: {reason}" if self.active.of_group else reason

    def _hold_back(self, fired: Decision, objection: Objection) -> Iterator[Decision]:
        if self.state.is_new(objection[1]):
            yield held_back(fired, objection)
        if objection[1] == WATCHED:  # journalled as often as it would have acted
            self.state.use_try(self.clock)

    # --- release -----------------------------------------------------------------------------------------------------

    def batches_over(self) -> Iterator[tuple[int, str, dict[str, list[Modifier]]]]:
        """Modifiers whose span is over: (order, reason, modifiers by agent). A group releases all members at once; an
        agent's own rule releases each modifier by itself, in the order in which they began."""
        if not self.active.of_group:
            for name, member in self.present.items():
                for order, modifier in enumerate(member.live):
                    if modifier.rule == self.rule.id and modifier.is_over(member.clock):
                        yield order, over_reason(modifier), {name: [modifier]}
            return
        for number in range(len(self.rule.actions())):
            live = {
                name: [modifier for modifier in member.live_of(self.rule) if modifier.action == number]
                for name, member in self.present.items()
            }
            ends = [modifier.is_over(self.present[name].clock) for name, own in live.items() for modifier in own]
            if ends and all(ends):
                yield 0, next(over_reason(own[0]) for own in live.values() if own), live

    def release(self) -> Iterator[Decision]:
        """Release what lasts until the release condition holds: once fewer members than the rule's share need it."""
        condition, live = self.rule.release, self.waiting()
        if condition is None or not any(live.values()):
            return
        well = [member.snapshot(self.rule).compares(condition, "release") is True for member in self.present.values()]
        if not any(well) or self.is_enough(len(well) - sum(well)):
            return
        reason = comparison(condition)
        if self.active.of_group:
            reason = f"{reason} in {sum(well)} of {len(well)} agents"
        else:
            self.state.streaks["release"] = 0
        self._claim({name: [modifier.key for modifier in own] for name, own in live.items()})
        yield from self.end(live, reason)

    def waiting(self) -> dict[str, list[Modifier]]:
        """The modifiers that last until the release, by agent."""
        live = {name: member.live_of(self.rule) for name, member in self.present.items()}
        return {name: [modifier for modifier in own if modifier.until_release] for name, own in live.items()}

    def end(self, live: Mapping[str, Sequence[Modifier]], reason: str, *, expired: bool = False) -> Iterator[Decision]:
        """Remove modifiers, in one decision."""
        self.state.acted = self.clock.to_json()
        live = {name: modifiers for name, modifiers in live.items() if modifiers}
        own = {name: self._released(name, modifiers, reason, expired) for name, modifiers in live.items()}
        yield self.merged(own)
        for name, modifiers in live.items():
            yield from self._of_one(self.present[name].release(self.rule, own[name], modifiers))

    def _released(self, name: str, modifiers: Sequence[Modifier], reason: str, expired: bool) -> Decision:
        member = self.present[name]
        keys = member.changes(member.without(modifiers), {modifier.key for modifier in modifiers})
        return Decision(
            self.rule.id, self.check, "released", reason, row=self.state.row, keys=keys, expired=expired, agents=(name,)
        )

    # --- verify ------------------------------------------------------------------------------------------------------

    def verify(self) -> Iterator[Decision]:
        """Compare the mean of the metric over the members, once the time of `verify` has passed."""
        verify, since = self.rule.verify, self.state.verify_since
        if verify is not None and since is not None and has_passed(verify.within, since, self.clock):
            yield from self._verify(verify)

    def _verify(self, verify: Verify) -> Iterator[Decision]:
        found = verified(self.rule, verify, self.state, self._mean(verify.metric), self.check, self.beside)
        if found.decision == "verified":
            yield self.merged(dict.fromkeys(self.present, found))
            return
        own = {name: member.with_checkpoint(self.rule, found) for name, member in self.present.items()}
        yield from self.fail(self._within_budget(found, own))

    def _within_budget(self, found: Decision, own: dict[str, Decision]) -> dict[str, Decision]:
        """Leave a rollback out if the budget of one member is used up."""
        if all(one.checkpoint is None for one in own.values()):
            return own
        for name, member in self.present.items():
            if (objection := member.over_budget(self.rule, own[name])) is not None:
                reason = f"{found.reason}; {self._reason_of(name, objection[1])}"
                return dict.fromkeys(own, replace(found, reason=reason, actions=(), checkpoint=None))
        return own

    def fail(self, own: Mapping[str, Decision]) -> Iterator[Decision]:
        """Apply a failure. With `on_fail = "next"` the modifiers end, and the next rule starts from the schedule."""
        yield self.merged(own)
        for name, member in self.present.items():
            member.note_rollback(own[name])
        live = {name: member.live_of(self.rule) for name, member in self.present.items()}
        if self.rule.on_fail == "next" and any(live.values()):
            yield from self.end(live, "it did not help", expired=True)

    # --- controllers -------------------------------------------------------------------------------------------------

    def _steer(self, loop: Controller) -> Iterator[Decision]:
        """Turn the key by the mean of the metric over the members, in each within its own bounds."""
        seen = self._mean(loop.metric)
        is_claimed = any(key_of(loop) in self.claimed[name] for name in self.present)
        if seen is None or self.clock.lacks(self.rule.min_data) or is_claimed:
            return
        if self.state.cools_down(self.rule, self.clock):
            return
        by = turn_of(loop, seen)
        if by is None:
            self.state.said = ""
            return
        found = {name: member.steered(self.rule, loop, by) for name, member in self.present.items()}
        turns = {name: turn for name, turn in found.items() if turn is not None}
        if turns:
            yield from self._turn(turns, {loop.metric: [seen]})

    def _turn(
        self, turns: Mapping[str, tuple[Decision, Modifier]], evidence: Mapping[str, list[float]]
    ) -> Iterator[Decision]:
        own = {name: decision for name, (decision, _) in turns.items()}
        fired = replace(self.merged(own), check=self.check, evidence=evidence)
        if not next(iter(self.present.values())).applies:
            if self.state.is_new(fired.reason):
                yield replace(fired, decision="blocked", reason=f'diagnose.mode = "watch": {fired.reason}')
            return
        yield fired
        self.turn({name: turned for name, (_, turned) in turns.items()})
        self._claim({name: decision.keys for name, decision in own.items()})

    def turn(self, turned: Mapping[str, Modifier]) -> None:
        """Apply the turn of a controller."""
        self.state.times, self.state.acted = self.state.times + 1, self.clock.to_json()
        for name, modifier in turned.items():
            self.present[name].turn(modifier)

    # --- small things ------------------------------------------------------------------------------------------------

    def merged(self, own: Mapping[str, Decision], of: Decision | None = None) -> Decision:
        """The decisions on single members as one."""
        return merge(own, of, of_group=self.active.of_group)

    def _of_one(self, decisions: Iterator[Decision]) -> Iterator[Decision]:
        return (replace(decision, of_group=self.active.of_group) for decision in decisions)

    def _claim(self, keys: Mapping[str, Iterable[str]]) -> None:
        for name, own in keys.items():
            self.claimed[name].update(own)

    def _mean(self, metric: str) -> float | None:
        seen = [last[-1] for member in self.present.values() if (last := member.record.last(metric))]
        if len(seen) == 1:
            return seen[0]
        return fmean(seen) if seen else None


def over_reason(modifier: Modifier) -> str:
    """`its 10,000 env steps are over`."""
    until: Any = getattr(modifier.what, "until", None)
    return over(until)


def turn_of(loop: Controller, seen: float) -> float | None:
    """The factor by which a controller moves its key; None while the metric is near the target."""
    if not (seen > loop.target * loop.band or 0 < seen < loop.target / loop.band):
        return None
    return 1 / loop.factor if seen > loop.target else loop.factor
