"""Rules of a group or of the whole run: they look at all its agents together, and what they do, they do to all.

What agents share, one of them alone may not change. A rule with `scope = "run"` acts when at least `share` of the
agents that still train show its trigger, counts its patience, cooldown and tries once for all, and is held back where
one of them may not be changed (its budget is used up, say). `scope = "group"` means the agents of the run with one seed
and one matrix point: those that trainers/ppo_shared.py trains together. These rules come before an agent's own.

One decision is one entry of the journal, without an agent and with the names of `agents`. Values are those of the first
of them; where they are not the same for all, `by_agent` has each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from p3kit.runtime.interventions import (
    WATCHED,
    Check,
    Decision,
    Engine,
    RuleState,
    Verdict,
    asked_on_failure,
    asks_of,
    comparison,
    ends_the_check,
    lacks_data,
    turn_of,
    verified,
    waits,
)
from p3kit.runtime.modifiers import UNITS, Clock, Modifier, key_of, over
from p3kit.spec.interventions import QUORUM, Controller, Intervention

Members = dict[str, Engine]
"""Engines by the names of their agents, in the order of the plan."""


@dataclass
class Seat:
    """A rule and the agents it is for."""

    rule: Intervention
    members: Members
    state: RuleState = field(default_factory=RuleState)

    @property
    def share(self) -> float:
        return QUORUM if self.rule.share is None else self.rule.share

    def is_enough(self, number: int, of: int) -> bool:
        """Whether so many of so many agents are the share that the rule asks for."""
        return of > 0 and number >= self.share * of


class Council:
    """The rules of a run that are not one agent's own."""

    def __init__(self, groups: Sequence[Members], journal: Sequence[Mapping[str, Any]] | None) -> None:
        """`groups` are the agents by seed and matrix point; `journal` has the events to repeat, None to judge."""
        everybody = {name: engine for group in groups for name, engine in group.items()}
        some = next(iter(everybody.values()), None)
        rules = [] if some is None else [rule for rule in some.rules if rule not in some.own]
        self.seats = [
            Seat(rule, members)
            for rule in rules
            for members in ([everybody] if rule.scope == "run" else groups)
        ]  # fmt: skip
        mine = [] if journal is None else [event for event in journal if event.get("agents")]
        self.journal = None if journal is None else mine

    def check(self, kind: Check, running: Mapping[str, Engine], claimed: dict[str, set[str]]) -> list[Decision]:
        """Decide at one check point for the agents that are `running`, whose engines have examined it. What was moved
        is added to `claimed`, by agent; `asks` are for every agent of the decision to carry out."""
        return list(self._check(kind, running, claimed))

    def state(self) -> str:
        """All that is remembered, as JSON text for a checkpoint."""
        return json.dumps([asdict(seat.state) for seat in self.seats])

    def load_state(self, text: str) -> None:
        """Restore what `state` gave."""
        for seat, state in zip(self.seats, json.loads(text), strict=True):
            seat.state = RuleState(**state)

    # --- one check ------------------------------------------------------------------------------------------------

    def _check(self, kind: Check, running: Mapping[str, Engine], claimed: dict[str, set[str]]) -> Iterator[Decision]:
        seats = [seat for seat in self.seats if any(name in running for name in seat.members)]
        here = [seat for seat in seats if seat.rule.check == kind]
        for seat in seats if kind == "update" else []:
            yield from self._run_out(seat, _present(seat, running), kind)
        if self.journal is not None:
            yield from self._repeat(seats, kind, running)
            return
        for seat in here:
            yield from self._maybe_release(seat, _present(seat, running), kind, claimed)
        ended: set[str] = set()  # agents for whom what the rules saw is no longer so
        for seat in seats:
            if not ended & seat.members.keys():
                judged = list(self._maybe_verify(seat, _present(seat, running), kind))
                yield from judged
                ended |= {name for one in judged if ends_the_check(one) for name in one.agents}
        for seat in here:
            if ended & seat.members.keys():
                continue
            present = _present(seat, running)
            if seat.rule.controller is not None:
                yield from self._steer(seat, seat.rule.controller, present, kind, claimed)
                continue
            decided = list(self._maybe_fire(seat, present, kind, claimed))
            yield from decided
            ended |= {name for one in decided if ends_the_check(one) for name in one.agents}

    def _run_out(self, seat: Seat, present: Members, kind: Check) -> Iterator[Decision]:
        """End what lasted a span, once it has passed for all."""
        for number, action in enumerate(seat.rule.actions()):
            live = {name: _live(engine, seat.rule, number) for name, engine in present.items()}
            waiting = [(present[name], modifier) for name, own in live.items() for modifier in own]
            if waiting and all(modifier.is_over(engine.clock) for engine, modifier in waiting):
                until: Any = action
                yield from self._end(seat, present, live, kind, over(until.until), expired=True)

    # --- fire -----------------------------------------------------------------------------------------------------

    def _maybe_fire(
        self, seat: Seat, present: Members, kind: Check, claimed: dict[str, set[str]]
    ) -> Iterator[Decision]:
        rule, state = seat.rule, seat.state
        looks = {name: engine.look(rule) for name, engine in present.items()}
        showing = [name for name, look in looks.items() if look.any_of(rule.on or ())]
        if not state.is_due(rule, seat.is_enough(len(showing), len(present))):
            return
        added = {name: engine.modifiers_of(rule) for name, engine in present.items()}
        own = {name: engine.proposed(rule, looks[name], kind, added[name]) for name, engine in present.items()}
        own = _all_or_none(rule, own)
        fired = _together(own, of=own[showing[0]])
        first = f"{showing[0]}: {own[showing[0]].reason}"
        fired = replace(fired, reason=f"in {len(showing)} of {len(present)} agents ({first})")
        clock = _slowest(present)
        objection = lacks_data(rule, clock) or self._excused(seat, present, looks)
        objection = objection or waits(rule, state, clock, [(other.rule, other.state) for other in self._beside(seat)])
        for name, engine in present.items():
            if objection is None and (refused := engine.refuses(rule, own[name], claimed[name])) is not None:
                word, why = refused
                objection = (word, why if why == WATCHED else f"{name}: {why}")
        if objection is not None:
            if objection[1] != state.said:
                state.said = objection[1]
                held_back = replace(fired, decision=objection[0], reason=objection[1], asks=(), checkpoint=None)
                yield replace(held_back, by_agent=_without_checkpoints(fired.by_agent))
            if objection[1] == WATCHED:
                state.would_act(clock)
            return
        for name in present:
            claimed[name].update(own[name].keys)
        yield fired
        yield from self._apply(seat, present, own, added)

    def _apply(
        self, seat: Seat, present: Members, own: Mapping[str, Decision], added: Mapping[str, list[Modifier]]
    ) -> Iterator[Decision]:
        seat.state.acts(_slowest(present), next(iter(own.values())))
        seat.state.row = next((one.row for one in own.values() if one.row), "")
        if seat.rule.verify is not None:
            seen = _last(present, seat.rule.verify.metric)
            seat.state.verify_since = _slowest(present).to_json()
            seat.state.verify_before = fmean(seen) if seen else None
        for name, engine in present.items():
            yield from _of(name, engine.accept(seat.rule, own[name], added[name]))

    def _excused(self, seat: Seat, present: Members, looks: Mapping[str, Any]) -> tuple[Verdict, str] | None:
        for symptom in seat.rule.unless or ():
            number = sum(engine.shows(symptom, looks[name]) for name, engine in present.items())
            if seat.is_enough(number, len(present)):
                return "suppressed", f"unless {symptom}, which is raised in {number} of {len(present)} agents"
        return None

    def _beside(self, seat: Seat) -> list[Seat]:
        return [other for other in self.seats if other.members is seat.members]

    # --- release and verify -----------------------------------------------------------------------------------------

    def _maybe_release(
        self, seat: Seat, present: Members, kind: Check, claimed: dict[str, set[str]]
    ) -> Iterator[Decision]:
        """The trouble is over once fewer agents than the rule's share are still in it."""
        release, live = seat.rule.release, {name: engine.waiting(seat.rule) for name, engine in present.items()}
        if release is None or not any(live.values()):
            return
        well = [engine.look(seat.rule).compares(release, "release") is True for engine in present.values()]
        if seat.is_enough(len(well) - sum(well), len(well)) or not any(well):
            return
        for name, modifiers in live.items():
            claimed[name].update(modifier.key for modifier in modifiers)
        yield from self._end(seat, present, live, kind, f"{comparison(release)} in {sum(well)} of {len(well)} agents")

    def _end(
        self,
        seat: Seat,
        present: Members,
        live: Mapping[str, list[Modifier]],
        kind: Check,
        reason: str,
        *,
        expired: bool = False,
    ) -> Iterator[Decision]:
        seat.state.acted = _slowest(present).to_json()
        own = {}
        live = {name: modifiers for name, modifiers in live.items() if modifiers}
        for name, modifiers in live.items():
            engine = present[name]
            kept = [modifier for modifier in engine.live if modifier not in modifiers]
            keys = engine.changes(kept, {modifier.key for modifier in modifiers})
            told: dict[str, Any] = {"row": seat.state.row, "keys": keys}
            own[name] = Decision(seat.rule.id, kind, "released", reason, expired=expired, **told)
        yield _together(own)
        for name, modifiers in live.items():
            yield from _of(name, present[name].let_go(seat.rule, own[name], modifiers))

    def _maybe_verify(self, seat: Seat, present: Members, kind: Check) -> Iterator[Decision]:
        """By the mean over the agents that still train."""
        verify, since = seat.rule.verify, seat.state.verify_since
        if verify is None or since is None or _slowest(present).share(verify.within, Clock.from_json(since)) < 1:
            return
        seen = _last(present, verify.metric)
        others = [(other.rule, other.state) for other in self._beside(seat)]
        told = verified(seat.rule, seat.state, [fmean(seen)] if seen else [], kind, others)
        if told.decision == "verified":
            yield replace(told, agents=tuple(present))
            return
        own = {name: engine.with_checkpoint(seat.rule, told) for name, engine in present.items()}
        spent = {name: engine.over_budget(seat.rule, own[name]) for name, engine in present.items()}
        first = next((f"{name}: {why[1]}" for name, why in spent.items() if why is not None), None)
        if first is not None and any(one.checkpoint is not None for one in own.values()):
            bare = replace(told, reason=f"{told.reason}; {first}", asks=(), checkpoint=None)
            own = dict.fromkeys(present, bare)
        yield _together(own)
        yield from self._after_failure(seat, present, own, kind)

    def _after_failure(
        self, seat: Seat, present: Members, own: Mapping[str, Decision], kind: Check
    ) -> Iterator[Decision]:
        for name, engine in present.items():
            engine.fails(own[name])
        live = {name: [m for m in engine.live if m.rule == seat.rule.id] for name, engine in present.items()}
        if seat.rule.on_fail == "next" and any(live.values()):
            yield from self._end(seat, present, live, kind, "it did not help", expired=True)

    # --- controllers ------------------------------------------------------------------------------------------------

    def _steer(
        self, seat: Seat, loop: Controller, present: Members, kind: Check, claimed: dict[str, set[str]]
    ) -> Iterator[Decision]:
        """By the mean of the metric over the agents; the key turns in all of them, each within its own bounds."""
        rule, state, seen, clock = seat.rule, seat.state, _last(present, loop.metric), _slowest(present)
        if not seen or clock.lacks(rule.min_data) or any(key_of(loop) in claimed[name] for name in present):
            return
        if rule.cooldown and state.acted and clock.share(rule.cooldown, Clock.from_json(state.acted)) < 1:
            return
        by = turn_of(loop, fmean(seen))
        if by is None:
            state.said = ""
            return
        turns = {name: engine.steered(rule, loop, by) for name, engine in present.items()}
        own = {name: told for name, (told, turned) in turns.items() if turned is not None}
        if not own:
            return
        fired = replace(_together(own), check=kind, evidence={loop.metric: [fmean(seen)]})
        if not next(iter(present.values())).acts:
            if state.said != fired.reason:
                state.said = fired.reason
                yield replace(fired, decision="blocked", reason=f'diagnose.mode = "watch": {fired.reason}')
            return
        yield fired
        state.times, state.acted = state.times + 1, clock.to_json()
        for name, (told, turned) in turns.items():
            if turned is not None:
                present[name].turn(rule, turned)
                claimed[name].update(told.keys)

    # --- repeat -----------------------------------------------------------------------------------------------------

    def _repeat(self, seats: Sequence[Seat], kind: Check, running: Mapping[str, Engine]) -> Iterator[Decision]:
        """Do at this check what the journal says was done at it."""
        now = next(iter(running.values()))
        for event in self.journal or ():
            if (event.get("global_step"), event.get("check")) != (now.clock.env_steps, kind) or event.get("expired"):
                continue
            names = list(event["agents"])
            seat = next((s for s in seats if s.rule.id == event["id"] and set(names) <= s.members.keys()), None)
            if seat is None or event["decision"] not in ("fired", "released", "failed", "verified"):
                continue
            yield from self._do_again(seat, {name: seat.members[name] for name in names}, event, kind)

    def _do_again(self, seat: Seat, present: Members, event: Mapping[str, Any], kind: Check) -> Iterator[Decision]:
        rule, word = seat.rule, event["decision"]
        own = {}
        for name in present:
            differs = (event.get("by_agent") or {}).get(name) or {}
            back = differs.get("checkpoint", event["checkpoint"])
            keys = differs.get("keys", event["keys"])
            told: dict[str, Any] = {"row": event["row"], "checkpoint": back, "keys": keys}
            own[name] = Decision(rule.id, kind, word, event["reason"], **told)
        if word == "fired" and rule.controller is not None:
            loop = rule.controller
            factors = {name: ((event.get("by_agent") or {}).get(name) or event)["factor"] for name in present}
            yield _together({name: replace(told, factor=factors[name]) for name, told in own.items()})
            for name, engine in present.items():
                engine.turn(rule, Modifier(rule.id, -1, loop, engine.clock, float(factors[name])))
        elif word == "fired":
            added = {name: engine.modifiers_of(rule) for name, engine in present.items()}
            own = {name: engine.repeated(rule, own[name], added[name]) for name, engine in present.items()}
            yield _together(own)
            yield from self._apply(seat, present, own, added)
        elif word == "released":
            live = {name: engine.waiting(rule) for name, engine in present.items()}
            if any(live.values()):
                yield from self._end(seat, present, live, kind, event["reason"])
        else:
            asks = asked_on_failure(rule) if event["did"] else ()
            own = {name: replace(told, asks=asks) for name, told in own.items()}
            yield _together(own)
            if word == "failed":
                yield from self._after_failure(seat, present, own, kind)


def _present(seat: Seat, running: Mapping[str, Engine]) -> Members:
    return {name: engine for name, engine in seat.members.items() if name in running}


def _live(engine: Engine, rule: Intervention, action: int) -> list[Modifier]:
    return [modifier for modifier in engine.live if modifier.rule == rule.id and modifier.action == action]


def _slowest(present: Members) -> Clock:
    """What all of them have seen at least."""
    return Clock(*(min(getattr(engine.clock, unit) for engine in present.values()) for unit in UNITS))


def _last(present: Members, metric: str) -> list[float]:
    return [seen[-1] for engine in present.values() if (seen := engine.record.last(metric))]


def _together(own: Mapping[str, Decision], of: Decision | None = None) -> Decision:
    """The decisions on single agents as one: as `of` tells it, else the first of them."""
    told = next(iter(own.values()))
    of = told if of is None else of
    each = {
        name: {"keys": one.keys, "checkpoint": one.checkpoint}
        | ({} if one.factor is None else {"factor": one.factor})
        for name, one in own.items()
    }  # fmt: skip
    first = next(iter(each.values()))
    differs = any(one != first for one in each.values())
    common = {"keys": told.keys, "checkpoint": told.checkpoint, "factor": told.factor}
    return replace(of, **common, agents=tuple(own), by_agent=each if differs else {})  # type: ignore[arg-type]


def _all_or_none(rule: Intervention, own: dict[str, Decision]) -> dict[str, Decision]:
    """Where one agent has nothing to go back to and the rule says to stop then, all stop."""
    halting = next((one.asks for one in own.values() if one.asks != asks_of(rule)), None)
    if halting is None:
        return own
    return {name: replace(one, asks=halting, checkpoint=None) for name, one in own.items()}


def _without_checkpoints(by_agent: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**one, "checkpoint": None} for name, one in by_agent.items()}


def _of(name: str, decisions: Iterator[Decision]) -> Iterator[Decision]:
    """What is said of one agent alone."""
    return (replace(decision, agents=(name,)) for decision in decisions)
