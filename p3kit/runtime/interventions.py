"""Interventions while a run trains: when each rule of a spec acts, what that changes, and what the journal says of it.

Decisions are a pure function of the spec, the catalogue and what was recorded up to now: no wall clock, no random
number, no file. They fall at check points only, after an update or an evaluation. The same rules applied by a journal
instead of by judgement (`p3kit run --replay`) change the same things at the same places.

    engine.advance(...)            # what the update or evaluation added
    for decision in engine.check("update"):
        journal(decision); carry out decision.asks
    engine.value(path, scheduled)  # the value in force
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from p3kit.diagnose import DETECTORS, Finding, judge
from p3kit.runtime.modifiers import UNITS, Clock, Modifier, effective, in_words, key_of
from p3kit.runtime.record import Record, Stretch
from p3kit.runtime.triggers import COMPARE, Look
from p3kit.spec import Spec
from p3kit.spec.interventions import (
    HARMLESS,
    Add,
    Condition,
    Controller,
    Intervention,
    Rollback,
    Scale,
    Set,
    Span,
    Stop,
    can_do,
    is_applied,
)
from p3kit.spec.table import Table

Check = Literal["update", "eval"]
Verdict = Literal["fired", "suppressed", "blocked", "released", "verified", "failed"]

OSCILLATES = "intervention.oscillates"
OSCILLATION_UPDATES = 10
"""A key that went up twice and down twice within so many updates is moved no more."""

QUIET_AFTER_REWARD_EDIT = ("value.fail", "reward.explode")
"""Symptoms that an edit of the reward looks like: value targets move with it."""

QUIET_SPAN = Span(updates=3)
"""How long they stay quiet where the rule names no cooldown."""

WATCHED = 'diagnose.mode = "watch": it would have acted'

CONTRACT = ("ppo.ratio_ne_1", "mask.violation")
"""Rows whose breach makes every number of the run invalid; with `diagnose.strict` it stops."""

STRICT = "diagnose.strict"
"""The name that such a stop has in the journal."""

KEPT_GOOD = 3
"""Checkpoints without an open symptom that are kept to go back to."""


@dataclass(frozen=True)
class Decision:
    """One entry of the journal: which rule, what was decided and why, and what it changed."""

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
    checkpoint: str | None = None
    factor: float | None = None
    expired: bool = False
    asks: tuple[Table, ...] = ()
    """What is left for the agent to carry out; modifiers are the engine's own."""

    def to_event(self) -> dict[str, Any]:
        """As it stands in `events.jsonl`, without what every event has."""
        fields = {key: value for key, value in vars(self).items() if key not in ("rule", "asks")}
        did, left_out = (
            [
                asked.model_dump(mode="json", by_alias=True, exclude_none=True)
                for asked in self.asks
                if can_do(asked) is done
            ]
            for done in (True, False)
        )
        return {"id": self.rule, **fields, "did": did} | ({"left_out": left_out} if left_out else {})


@dataclass
class RuleState:
    """What is remembered of one rule from check to check."""

    times: int = 0
    recent: list[bool] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)
    acted: list[int] | None = None
    """When it last acted or was released."""
    fired_step: int = -1
    said: str = ""
    """The last reason for not acting, which is journalled once."""
    verify_since: list[int] | None = None
    verify_before: float | None = None
    retired: bool = False
    row: str = ""


class Engine:
    """The interventions of one agent."""

    def __init__(
        self,
        spec: Spec,
        record: Record,
        scheduled: Callable[[str], float | str],
        journal: Sequence[Mapping[str, Any]] | None = None,
        alone: bool = True,
    ) -> None:
        """`scheduled` gives a key's value now, before interventions; `journal` holds the events to repeat, if any;
        `alone` tells that the run has no other agent."""
        self.spec, self.record, self.scheduled, self.journal = spec, record, scheduled, journal
        self.acts = spec.diagnose.mode == "act"
        rules = [rule for rule in spec.intervention if is_applied(rule, alone)]
        self.rules = sorted(rules, key=lambda rule: rule.priority)  # stable: of equal ones the first written wins
        self.clock = Clock()
        self.live: list[Modifier] = []
        self.good: list[list[int]] = []  # (updates, env steps) of checkpoints without an open symptom
        self.undone: list[Stretch] = []
        self.clean = False
        self.actions = self.rollbacks = self.lost_steps = self.fired = 0
        self.frozen: list[str] = []
        self.open_rows: list[str] = []
        self._turns: dict[str, list[list[int]]] = {}
        self._quiet: list[tuple[list[int], Span]] = []
        self._states = {rule.id: RuleState() for rule in self.rules}

    # --- what the agent asks --------------------------------------------------------------------------------------

    def value(self, path: str, scheduled: float | str) -> float | str:
        """The value in force of `path`, given what its schedule or the spec says."""
        return self._with(path, scheduled, self.live)

    def moved_keys(self) -> set[str]:
        """Every key that a rule of the spec may move."""
        return {key for rule in self.rules for what in _whats(rule) if (key := key_of(what))}

    def live_keys(self) -> set[str]:
        """Every key that is moved now."""
        return {modifier.key for modifier in self.live}

    def advance(self, **counts: int) -> None:
        """Move the clock on: updates, gradient_steps, env_steps, episodes, evals."""
        self.clock = Clock(*(getattr(self.clock, unit) + counts.get(unit, 0) for unit in UNITS))

    def keeps_good(self) -> bool:
        """Whether a checkpoint taken now is one to go back to."""
        if self.journal is not None:
            wanted = {event.get("checkpoint") for event in self.journal}
            return good_name(self.clock.env_steps) in wanted
        rolls_back = any(rule.on_fail == "rollback" for rule in self.rules) or any(
            isinstance(action, Rollback) and action.rollback == "last_good"
            for rule in self.rules
            for action in rule.actions()
        )
        return self.acts and rolls_back and self.clean

    def keep_good(self) -> None:
        """Note the checkpoint of now as one to go back to; `good` has those to keep from now on."""
        self.good = [*self.good, [self.clock.updates, self.clock.env_steps]]
        if self.journal is None:
            self.good = self.good[-KEPT_GOOD:]

    def check(self, kind: Check) -> list[Decision]:
        """Decide at one check point. Modifiers are in force when this returns; `asks` are the agent's to carry out."""
        return list(self._check(kind))

    # --- state ----------------------------------------------------------------------------------------------------

    def state(self) -> str:
        """All that is remembered, as JSON text for a checkpoint."""
        return json.dumps(
            {
                "clock": self.clock.to_json(),
                "live": [modifier.to_json() for modifier in self.live],
                "good": self.good,
                "undone": self.undone,
                "clean": self.clean,
                "counts": [self.actions, self.rollbacks, self.lost_steps, self.fired],
                "frozen": self.frozen,
                "open_rows": self.open_rows,
                "turns": self._turns,
                "quiet": [[begin, span.model_dump(exclude_none=True)] for begin, span in self._quiet],
                "states": {name: asdict(state) for name, state in self._states.items()},
            }
        )

    def load_state(self, text: str) -> None:
        """Restore what `state` gave."""
        known = json.loads(text)
        self.clock = Clock(*known["clock"])
        self.live = [Modifier.from_json(row, self.rules) for row in known["live"]]
        self.good, self.clean, self.frozen = known["good"], known["clean"], known["frozen"]
        self.undone = [(first, last) for first, last in known["undone"]]
        self.actions, self.rollbacks, self.lost_steps, self.fired = known["counts"]
        self.open_rows, self._turns = known["open_rows"], known["turns"]
        self._quiet = [(begin, Span(**span)) for begin, span in known["quiet"]]
        self._states = {name: RuleState(**state) for name, state in known["states"].items()}

    # --- one check ------------------------------------------------------------------------------------------------

    def _check(self, kind: Check) -> Iterator[Decision]:
        claimed: set[str] = set()
        if kind == "update":
            for modifier in [modifier for modifier in self.live if modifier.is_over(self.clock)]:
                reason = f"its {in_words(modifier.what.until)} are over"  # type: ignore[union-attr, arg-type]
                yield from self._end([modifier], kind, reason, expired=True)
        if self.journal is not None:
            yield from self._repeat(kind)
            return
        findings = judge(self.record.evidence(self.undone))
        still_open = {finding.symptom: finding for finding in findings if finding.open}
        self.clean = not any(finding.alarming for finding in still_open.values())
        self.open_rows = sorted(name for name, finding in still_open.items() if finding.alarming)
        broken = next((still_open[name] for name in CONTRACT if name in still_open), None)
        if broken is not None and self.spec.diagnose.strict:
            reason = f"{broken.row.title}: {broken.evidence}"
            told: dict[str, Any] = {"row": broken.symptom, "threshold": broken.threshold}
            yield Decision(STRICT, kind, "fired", reason, asks=(Stop(stop="fail"),), **told)
            return
        for rule in self.rules:
            if _checked_at(rule) != kind:
                continue
            yield from self._maybe_release(rule, self._look(rule, still_open), kind, claimed)
        for rule in self.rules:
            judged = list(self._maybe_verify(rule, kind))
            yield from judged
            if any(_ends_the_check(one) for one in judged):
                return
        for rule in self.rules:
            if _checked_at(rule) != kind:
                continue
            state = self._states[rule.id]
            if rule.controller is not None:
                yield from self._steer(rule, rule.controller, kind, claimed)
                continue
            look = self._look(rule, still_open)
            decided = list(self._maybe_fire(rule, state, look, kind, claimed))
            yield from decided
            if any(_ends_the_check(one) for one in decided):
                return

    def _look(self, rule: Intervention, still_open: Mapping[str, Finding]) -> Look:
        """What a rule sees. An exact row has no end: it counts again when it was raised anew since the rule acted."""
        state = self._states[rule.id]
        fresh = dict(still_open)
        for name, finding in still_open.items():
            if finding.window == "exact" and state.fired_step >= 0:
                again = DETECTORS[name](self.record.evidence(self.undone, after=state.fired_step))
                if not again.open:
                    del fresh[name]
        progress = self.clock.env_steps / max(self.record.total_timesteps, 1)
        harmless = all(isinstance(action, (*HARMLESS, Stop)) for action in rule.actions())
        return Look(self.record, fresh, progress, rule.cause, harmless, state.streaks)

    # --- fire -----------------------------------------------------------------------------------------------------

    def _maybe_fire(
        self, rule: Intervention, state: RuleState, look: Look, kind: Check, claimed: set[str]
    ) -> Iterator[Decision]:
        held = look.any_of(rule.on or ())
        needed, window = _patience(rule)
        state.recent = [*state.recent, held][-window:]
        if not held or sum(state.recent) < needed:
            if not held:
                state.said = ""
            return
        added = [
            Modifier(rule.id, number, action, self.clock)
            for number, action in enumerate(rule.actions())
            if isinstance(action, Set | Scale | Add)
        ]
        keys = self._changes(self.live + added, {modifier.key for modifier in added})
        told = self._told(rule, look)
        fired = Decision(rule.id, kind, "fired", _why(look), keys=keys, asks=_asks(rule), **told)
        fired = self._with_checkpoint(rule, fired)
        objection = self._objection(rule, state, look, fired, claimed)
        if objection is not None:
            if objection[1] != state.said:
                state.said = objection[1]
                yield replace(fired, decision=objection[0], reason=objection[1], asks=(), checkpoint=None)
            if objection[1] == WATCHED:  # told as often as it would have acted
                state.times, state.acted, state.recent = state.times + 1, self.clock.to_json(), []
            return
        claimed.update(keys)
        yield fired
        yield from self._apply(rule, fired, added)

    def _objection(
        self, rule: Intervention, state: RuleState, look: Look, fired: Decision, claimed: set[str]
    ) -> tuple[Verdict, str] | None:
        """Why a rule whose trigger holds does not act, and whether that will pass by itself (suppressed) or not."""
        if lacking := self.clock.lacks(rule.min_data):
            return "suppressed", f"not enough data: needs {', '.join(f'{n:,} {u}' for u, n in lacking.items())}"
        for name in rule.unless or ():
            if Look(self.record, look.findings, look.progress, None, True, {}).holds(name, "unless"):
                return "suppressed", f"unless {name}, which is raised"
        if self._is_quiet() and fired.row in QUIET_AFTER_REWARD_EDIT:
            return "suppressed", f"the reward was edited: {fired.row} is judged again later"
        if state.retired:
            return "blocked", "it did not help when it was tried"
        if state.verify_since is not None:
            return "suppressed", "whether its last try helped is not known yet"
        for other in self.rules:
            if other.priority < rule.priority and self._states[other.id].verify_since and _share_a_symptom(rule, other):
                return "suppressed", f"{other.id} is on the same symptom, and whether it helped is not known yet"
        if state.times >= rule.max_times:
            return "blocked", f"max_times = {rule.max_times} is reached"
        if rule.cooldown and state.acted and self.clock.share(rule.cooldown, Clock(*state.acted)) < 1:
            return "suppressed", f"cooldown of {in_words(rule.cooldown)}"
        if stuck := [key for key in fired.keys if key in self.frozen]:
            return "blocked", f"{', '.join(stuck)} went up and down twice and is moved no more"
        if taken := sorted(claimed & fired.keys.keys()):
            return "suppressed", f"{', '.join(taken)} was moved at this check by a rule of higher priority"
        if words := [key for key, (before, after) in fired.keys.items() if isinstance(after, str)]:
            return "blocked", f"{words[0]} is {fired.keys[words[0]][0]!r}, which is no number to move"
        if fired.keys and not fired.asks and all(before == after for before, after in fired.keys.values()):
            return "suppressed", "its bounds are reached: nothing would change"
        if not self.acts:
            return "blocked", WATCHED
        return self._over_budget(rule, fired)

    def _over_budget(self, rule: Intervention, fired: Decision) -> tuple[Verdict, str] | None:
        budget = self.spec.diagnose.budget
        if all(isinstance(action, HARMLESS) for action in rule.actions()):
            return None
        if budget.actions is not None and self.actions >= budget.actions:
            return "blocked", f"diagnose.budget.actions = {budget.actions} are used up"
        if fired.checkpoint is not None:
            if budget.rollbacks is not None and self.rollbacks >= budget.rollbacks:
                return "blocked", f"diagnose.budget.rollbacks = {budget.rollbacks} are used up"
            lost = self.lost_steps + self.clock.env_steps - step_of(fired.checkpoint)
            if lost > budget.lost_steps_pct / 100 * self.record.total_timesteps:
                limit = f"diagnose.budget.lost_steps_pct = {budget.lost_steps_pct:g}"
                return "blocked", f"a rollback would lose more than {limit}"
        return None

    def _with_checkpoint(self, rule: Intervention, fired: Decision) -> Decision:
        """Choose where a rollback goes: the newest good checkpoint that is older than the symptom's delay."""
        for asked in fired.asks:
            if not isinstance(asked, Rollback):
                continue
            name = "init"
            if asked.rollback == "last_good":
                latest = self.clock.updates - _patience(rule)[1]
                old_enough = [step for updates, step in self.good if updates <= latest]
                if not old_enough and asked.otherwise == "stop":
                    asks = tuple(one for one in fired.asks if not isinstance(one, Rollback))
                    return replace(fired, asks=(*asks, Stop(stop="fail")))
                name = good_name(old_enough[-1]) if old_enough else "init"
            return replace(fired, checkpoint=name)
        return fired

    # --- what a decision changes: the same when judged and when repeated --------------------------------------------

    def _apply(self, rule: Intervention, decision: Decision, added: list[Modifier]) -> Iterator[Decision]:
        state = self._states[rule.id]
        state.times, state.acted, state.said, state.recent = state.times + 1, self.clock.to_json(), "", []
        state.fired_step, state.row = self.clock.env_steps, decision.row
        self.live = self.live + added
        if not all(isinstance(action, HARMLESS) for action in rule.actions()):
            self.actions, self.fired = self.actions + 1, self.fired + 1
        if rule.verify is not None:
            before = self.record.last(rule.verify.metric)
            state.verify_since, state.verify_before = self.clock.to_json(), before[-1] if before else None
        self._note_reward_edit(rule, decision)
        self._note_rollback(decision)
        yield from self._note_turns(rule.id, decision)

    def _note_reward_edit(self, rule: Intervention, decision: Decision) -> None:
        if any(key.startswith("reward.") for key in decision.keys):
            self._quiet = [(self.clock.to_json(), rule.cooldown or QUIET_SPAN)]

    def _note_rollback(self, decision: Decision) -> None:
        if decision.checkpoint is not None:
            back = step_of(decision.checkpoint)
            self.rollbacks += 1
            self.lost_steps += self.clock.env_steps - back
            self.undone = [*self.undone, (back, self.clock.env_steps)]
            self.good = [one for one in self.good if one[1] <= back]
            for state in self._states.values():
                state.recent, state.streaks = [], {}

    def _note_turns(self, rule: str, decision: Decision) -> Iterator[Decision]:
        """Remember which way keys went; one that went up twice and down twice in a short time is frozen."""
        now = self.clock.updates
        for key, (before, after) in decision.keys.items():
            if isinstance(before, str) or isinstance(after, str) or before == after:
                continue
            turns = [turn for turn in self._turns.get(key, []) if now - turn[0] < OSCILLATION_UPDATES]
            self._turns[key] = turns = [*turns, [now, 1 if after > before else -1]]
            ups = sum(way > 0 for _, way in turns)
            if ups >= 2 and len(turns) - ups >= 2 and key not in self.frozen:
                self.frozen = [*self.frozen, key]
                reason = f"{key} went up and down twice within {OSCILLATION_UPDATES} updates: it is moved no more"
                yield Decision(rule, decision.check, "blocked", reason, row=OSCILLATES)

    def _end(self, over: list[Modifier], kind: Check, reason: str, *, expired: bool = False) -> Iterator[Decision]:
        """Take modifiers of one rule away: their keys return to what is beneath."""
        rule = next(rule for rule in self.rules if rule.id == over[0].rule)
        state = self._states[rule.id]
        kept = [modifier for modifier in self.live if modifier not in over]
        keys = self._changes(kept, {modifier.key for modifier in over})
        self.live, state.acted = kept, self.clock.to_json()
        released = Decision(rule.id, kind, "released", reason, row=state.row, keys=keys, expired=expired)
        yield released
        self._note_reward_edit(rule, released)
        yield from self._note_turns(rule.id, released)

    # --- release and verify -----------------------------------------------------------------------------------------

    def _maybe_release(self, rule: Intervention, look: Look, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        waiting = [modifier for modifier in self.live if modifier.rule == rule.id and modifier.until_release]
        if rule.release is None or not waiting:
            return
        if look.compares(rule.release, "release"):
            self._states[rule.id].streaks["release"] = 0
            claimed.update(modifier.key for modifier in waiting)
            yield from self._end(waiting, kind, _comparison(rule.release))

    def _maybe_verify(self, rule: Intervention, kind: Check) -> Iterator[Decision]:
        state, verify = self._states[rule.id], rule.verify
        if verify is None or state.verify_since is None:
            return
        if self.clock.share(verify.within, Clock(*state.verify_since)) < 1:
            return
        now = self.record.last(verify.metric)
        bar = state.verify_before if verify.than == "before" else float(verify.than)
        helped = bool(now) and bar is not None and COMPARE[verify.op](now[-1], bar)
        evidence = {verify.metric: [*([] if state.verify_before is None else [state.verify_before]), *now]}
        told: dict[str, Any] = {"row": state.row, "evidence": evidence, "threshold": bar}
        what = f"{verify.metric} {verify.op} {'n/a' if bar is None else format(bar, '.4g')}"
        state.verify_since, state.verify_before = None, None
        if helped:
            yield Decision(rule.id, kind, "verified", what, **told)
            return
        reason = f"not {what} after {in_words(verify.within)}"
        if rule.on_fail == "next":
            state.retired = True
            rest = [r for r in self.rules if _share_a_symptom(rule, r) and not self._states[r.id].retired]
            reason += "" if rest else "; unrepaired: no other intervention is on it"
        failed = Decision(rule.id, kind, "failed", reason, asks=_asked_on_failure(rule), **told)
        failed = self._with_checkpoint(rule, failed)
        if failed.checkpoint is not None and (over := self._over_budget(rule, failed)) is not None:
            failed = replace(failed, reason=f"{reason}; {over[1]}", asks=(), checkpoint=None)
        yield failed
        yield from self._after_failure(rule, failed)

    def _after_failure(self, rule: Intervention, failed: Decision) -> Iterator[Decision]:
        """The next rung starts from the schedule: what did not help is taken away. A rollback keeps it as change."""
        self._note_rollback(failed)
        over = [modifier for modifier in self.live if modifier.rule == rule.id]
        if rule.on_fail == "next" and over:
            yield from self._end(over, failed.check, "it did not help", expired=True)

    # --- controllers ------------------------------------------------------------------------------------------------

    def _steer(self, rule: Intervention, loop: Controller, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        state, seen = self._states[rule.id], self.record.last(loop.metric)
        if not seen or self.clock.lacks(rule.min_data) or key_of(loop) in claimed:
            return
        if rule.cooldown and state.acted and self.clock.share(rule.cooldown, Clock(*state.acted)) < 1:
            return
        if not (seen[-1] > loop.target * loop.band or 0 < seen[-1] < loop.target / loop.band):
            state.said = ""
            return
        by = 1 / loop.factor if seen[-1] > loop.target else loop.factor
        mine = next((m for m in self.live if m.rule == rule.id), Modifier(rule.id, -1, loop, self.clock))
        before = self.value(mine.key, self.scheduled(mine.key))
        if isinstance(before, str) or before == 0:
            return
        factor = mine.factor * min(max(before * by, loop.min), loop.max) / before
        turned = replace(mine, factor=factor)
        after = self._with(mine.key, self.scheduled(mine.key), self._in_place_of(mine, turned))
        if after == before:
            return
        reason = f"{loop.metric} is {'above' if by < 1 else 'below'} {loop.target:g}"
        told: dict[str, Any] = {"evidence": {loop.metric: seen}, "threshold": loop.target}
        fired = Decision(rule.id, kind, "fired", reason, keys={mine.key: [before, after]}, factor=factor, **told)
        if not self.acts:
            if state.said != reason:
                state.said = reason
                yield replace(fired, decision="blocked", reason=f'diagnose.mode = "watch": {reason}')
            return
        yield fired
        self._turn(rule, turned)
        claimed.add(mine.key)

    def _turn(self, rule: Intervention, turned: Modifier) -> None:
        mine = next((m for m in self.live if m.rule == rule.id), turned)
        self.live = self._in_place_of(mine, turned)
        state = self._states[rule.id]
        state.times, state.acted, self.fired = state.times + 1, self.clock.to_json(), self.fired + 1

    def _in_place_of(self, mine: Modifier, turned: Modifier) -> list[Modifier]:
        if mine not in self.live:
            return [*self.live, turned]
        return [turned if modifier is mine else modifier for modifier in self.live]

    # --- repeat -----------------------------------------------------------------------------------------------------

    def _repeat(self, kind: Check) -> Iterator[Decision]:
        """Do at this check what the journal says was done at it."""
        for event in self.journal or ():
            if event.get("global_step") != self.clock.env_steps or event.get("check") != kind or event.get("expired"):
                continue
            if event.get("id") == STRICT:
                yield Decision(STRICT, kind, "fired", event["reason"], row=event["row"], asks=(Stop(stop="fail"),))
            rule = next((rule for rule in self.rules if rule.id == event.get("id")), None)
            if rule is None or event["decision"] not in ("fired", "released", "failed", "verified"):
                continue
            told = Decision(
                rule.id, kind, event["decision"], event["reason"], row=event["row"], checkpoint=event["checkpoint"]
            )
            if event["decision"] == "fired" and rule.controller is not None:
                turned = Modifier(rule.id, -1, rule.controller, self.clock, float(event["factor"]))
                yield replace(told, keys=event["keys"], factor=turned.factor)
                self._turn(rule, turned)
            elif event["decision"] == "fired":
                added = [
                    Modifier(rule.id, number, action, self.clock)
                    for number, action in enumerate(rule.actions())
                    if isinstance(action, Set | Scale | Add)
                ]
                keys = self._changes(self.live + added, {modifier.key for modifier in added})
                asks = _asks(rule)
                if told.checkpoint is None and any(isinstance(asked, Rollback) for asked in asks):
                    asks = (*(asked for asked in asks if not isinstance(asked, Rollback)), Stop(stop="fail"))
                told = replace(told, keys=keys, asks=asks)
                yield told
                yield from self._apply(rule, told, added)
            elif event["decision"] == "released":
                over = [modifier for modifier in self.live if modifier.rule == rule.id and modifier.until_release]
                if over:
                    yield from self._end(over, kind, told.reason)
            else:
                told = replace(told, asks=_asked_on_failure(rule) if event["did"] else ())
                yield told
                if told.decision == "failed":
                    yield from self._after_failure(rule, told)

    # --- small things -----------------------------------------------------------------------------------------------

    def _is_quiet(self) -> bool:
        return any(self.clock.share(span, Clock(*begin)) < 1 for begin, span in self._quiet)

    def _with(self, path: str, scheduled: float | str, live: Sequence[Modifier]) -> float | str:
        mine = [modifier for modifier in live if modifier.key == path]
        if not mine:
            return scheduled
        if isinstance(scheduled, str):  # a word such as "off" can be replaced, but not moved
            given = [modifier for modifier in mine if isinstance(modifier.what, Set)]
            if not given:
                return scheduled
            scheduled = given[0].what.to  # type: ignore[union-attr]
        return effective(scheduled, mine, self.clock)

    def _changes(self, live: Sequence[Modifier], keys: set[str]) -> dict[str, list[float | str]]:
        """[before, after] of `keys` when `live` takes the place of what is live; a ramp counts as arrived."""
        changes = {}
        for key in sorted(keys):
            scheduled = self.scheduled(key)
            arrived = [_without_ramp(modifier) for modifier in live]
            changes[key] = [self.value(key, scheduled), self._with(key, scheduled, arrived)]
        return changes

    def _told(self, rule: Intervention, look: Look) -> dict[str, Any]:
        """The evidence for a decision, from what supported the trigger."""
        have = dict(zip(UNITS, self.clock.to_json(), strict=True))
        need = {unit: count for unit in UNITS if (count := getattr(rule.min_data, unit))}
        told: dict[str, Any] = {"min_data": {"have": {unit: have[unit] for unit in need}, "need": need}}
        evidence: dict[str, list[float]] = {}
        for support in look.support:
            if isinstance(support, Condition):
                evidence[support.metric] = self.record.last(support.metric, max(support.span, support.patience))
                told.setdefault("threshold", support.value)
                continue
            told.setdefault("row", support.symptom)
            told.setdefault("threshold", support.threshold)
            if "cause" not in told and support.causes:
                told["cause"] = support.causes[0].id
                told["cause_scores"] = {cause.id: cause.weight for cause in support.causes}
            for metric in DETECTORS[support.symptom].needs:
                evidence[metric] = self.record.last(metric, 3)
        return told | {"evidence": evidence}


def good_name(step: int) -> str:
    """The checkpoint of `step` that may be gone back to."""
    return f"good-{step:09d}"


def step_of(checkpoint: str) -> int:
    """Env steps at which a checkpoint was taken: `init` at none."""
    return 0 if checkpoint == "init" else int(checkpoint.removeprefix("good-"))


def _whats(rule: Intervention) -> Sequence[object]:
    return (rule.controller,) if rule.controller is not None else rule.actions()


def _asks(rule: Intervention) -> tuple[Table, ...]:
    """The verbs that are the agent's to carry out."""
    return tuple(action for action in rule.actions() if not isinstance(action, Set | Scale | Add))


def _asked_on_failure(rule: Intervention) -> tuple[Table, ...]:
    if rule.on_fail == "stop":
        return (Stop(stop="fail"),)
    return (Rollback(rollback="last_good"),) if rule.on_fail == "rollback" else ()


def _checked_at(rule: Intervention) -> Check:
    return "eval" if rule.check == "eval" else "update"


def _patience(rule: Intervention) -> tuple[int, int]:
    """(how often the trigger must hold, of how many checks)."""
    if rule.within is not None:
        held, of = rule.within.split(" of ")
        return int(held), int(of)
    return rule.patience, rule.patience


def _symptoms(rule: Intervention) -> set[str]:
    return {trigger.partition(":")[0] for trigger in rule.on or () if isinstance(trigger, str)}


def _share_a_symptom(one: Intervention, other: Intervention) -> bool:
    return one.id != other.id and bool(_symptoms(one) & _symptoms(other))


def _comparison(condition: Condition) -> str:
    return f"{condition.metric} {condition.op} {condition.value:g}"


def _ends_the_check(decision: Decision) -> bool:
    """Whether what the other rules saw is no longer so: weights went back, or training ends."""
    return decision.checkpoint is not None or any(isinstance(asked, Stop) for asked in decision.asks)


def _why(look: Look) -> str:
    """The trigger in words, with what was measured."""
    said = [one.evidence if isinstance(one, Finding) else _comparison(one) for one in look.support]
    return "; ".join(dict.fromkeys(said))


def _without_ramp(modifier: Modifier) -> Modifier:
    if getattr(modifier.what, "ramp", None) is None:
        return modifier
    return replace(modifier, what=modifier.what.model_copy(update={"ramp": None}))
