"""Interventions while a run trains: when each rule of a spec acts, what that changes, and what the journal says of it.

Decisions are a pure function of the spec, the catalogue and what was recorded up to now: no wall clock, no random
number, no file. They fall at check points only: after an update or an evaluation. The same rules applied by a journal
instead of by judgement (`p3kit run --replay`) change the same things at the same places.

    engine.advance(...)            # what the update or evaluation added
    for decision in engine.check("update"):
        journal(decision); carry out decision.asks
    engine.value(path, scheduled)  # the value in force

Rules of a group or of the whole run are not looked at here but in `council.py`, which changes every engine alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from p3kit.diagnose import DETECTORS, Evidence, Finding, judge
from p3kit.diagnose.evidence import TICK
from p3kit.metrics import COMPONENTS
from p3kit.runtime.modifiers import UNITS, Clock, Modifier, amount, effective, in_words, key_of, over
from p3kit.runtime.record import Record, Stretch
from p3kit.runtime.triggers import COMPARE, Look
from p3kit.spec import Spec
from p3kit.spec.base_model import Table
from p3kit.spec.interventions import (
    ACTIONS,
    COMPONENT,
    HARMLESS,
    PROGRESS,
    UPDATES_LEFT,
    Add,
    Condition,
    Controller,
    Dump,
    Intervention,
    Normalize,
    Note,
    Rollback,
    Scale,
    Set,
    Span,
    Stop,
    listed_symptoms,
)

Check = Literal["update", "eval"]
Verdict = Literal["fired", "suppressed", "blocked", "released", "verified", "failed"]

OSCILLATES = "intervention.oscillates"
OSCILLATION_UPDATES = 10
"""A key that went up twice and down twice within so many updates is moved no more."""

QUIET_AFTER_REWARD_EDIT = ("value.fail", "reward.explode")
"""Symptoms that an edit of the reward looks like: value targets move with it."""

QUIET_SPAN = Span(updates=3)
"""How long they stay quiet where the rule names no cooldown."""

UNNAMED = "the evidence names no reward component"

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
    gradual: Mapping[str, str] = field(default_factory=dict)
    """Keys that get to their new value over a span, and over which, in words."""
    checkpoint: str | None = None
    factor: float | None = None
    expired: bool = False
    component: str = ""
    """The reward component that the evidence names, where the rule moves its weight."""
    agents: tuple[str, ...] = ()
    """Whom a decision of a group or a run changes."""
    by_agent: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is not the same for all of them: `keys` and `checkpoint` of each."""
    asks: tuple[Table, ...] = ()
    """What is left for the agent to carry out; modifiers are the engine's own."""

    def to_event(self) -> dict[str, Any]:
        """As it stands in `events.jsonl`, without what every event has."""
        sometimes = ("gradual", "component", "agents", "by_agent")
        fields = {
            key: value
            for key, value in vars(self).items()
            if key not in ("rule", "asks") and (key not in sometimes or value)
        }
        did = [asked.model_dump(mode="json", by_alias=True, exclude_none=True) for asked in self.asks]
        return {"id": self.rule, **fields, "did": did}


@dataclass
class RuleState:
    """What is remembered of one rule from check to check."""

    times: int = 0
    recent: list[bool] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)
    acted: list[float] | None = None
    """When it last acted or was released."""
    fired_step: int = -1
    said: str = ""
    """The last reason for not acting, which is journalled once."""
    verify_since: list[float] | None = None
    verify_before: float | None = None
    retired: bool = False
    row: str = ""

    def is_due(self, rule: Intervention, held: bool) -> bool:
        """Take in whether the trigger holds at this check; whether it has held as often as the rule is patient."""
        needed, window = patience_of(rule)
        self.recent = [*self.recent, held][-window:]
        if not held:
            self.said = ""
        return held and sum(self.recent) >= needed

    def would_act(self, clock: Clock) -> None:
        """Its turn is used up, by acting or, where rules are only watched, by being told."""
        self.times, self.acted, self.recent = self.times + 1, clock.to_json(), []

    def acts(self, clock: Clock, decision: Decision) -> None:
        """It acts now."""
        self.would_act(clock)
        self.said, self.fired_step, self.row = "", clock.env_steps, decision.row


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
        # A rule for a refused allocation waits for no check: it is answered on the spot.
        rules = [rule for rule in spec.intervention if not rule.retries_smaller_minibatches()]
        self.rules = sorted(rules, key=lambda rule: rule.priority)  # stable: of equal ones the first written wins
        self.own = [rule for rule in self.rules if alone or rule.scope == "agent"]
        self.clock = Clock()
        self.live: list[Modifier] = []
        self.good: list[list[int]] = []  # (updates, env steps) of checkpoints without an open symptom
        self.undone: list[Stretch] = []
        self.clean = False
        self.actions = self.rollbacks = self.lost_steps = self.fired = 0
        self.reward_edits = 0  # after each, returns mean something else
        self.frozen: list[str] = []
        self.open_rows: list[str] = []
        self.open: dict[str, Finding] = {}
        """The open symptoms at the check point that was examined last."""
        self._examined: Check | None = None
        self._turns: dict[str, list[list[int]]] = {}
        self._quiet: list[tuple[list[float], Span]] = []
        self._states = {rule.id: RuleState() for rule in self.rules}

    # --- what the agent asks --------------------------------------------------------------------------------------

    def value(self, path: str, scheduled: float | str) -> float | str:
        """The value in force of `path`, given what its schedule or the spec says."""
        return self._with(path, scheduled, self.live)

    def moved_keys(self) -> set[str]:
        """Every key that a rule of the spec may move."""
        written = {key for rule in self.rules for what in _whats(rule) if (key := key_of(what))}
        return {key.replace(COMPONENT, name) for key in written for name in COMPONENTS}

    def live_keys(self) -> set[str]:
        """Every key that is moved now."""
        return {modifier.key for modifier in self.live}

    def advance(self, **counts: int) -> None:
        """Move the clock on: updates, gradient_steps, env_steps, episodes, evals."""
        moved = {unit: getattr(self.clock, unit) + count for unit, count in counts.items()}
        steps = moved.get("env_steps", self.clock.env_steps)
        self.clock = replace(self.clock, **moved, progress=steps / max(self.record.total_timesteps, 1))

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

    def check(self, kind: Check, claimed: set[str] | None = None) -> list[Decision]:
        """Decide at one check point. Modifiers are in force when this returns; `asks` are the agent's to carry out.
        `claimed` are the keys that a rule of the whole run has moved at it."""
        if self._examined != kind:
            self.examine(kind)
        self._examined = None
        return list(self._check(kind, set() if claimed is None else claimed))

    # --- what is seen at a check point ------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """What is recorded and not undone."""
        return self.record.evidence(self.undone)

    def examine(self, kind: Check, evidence: Evidence | None = None) -> None:
        """Judge what is recorded: `evidence` where other agents' records stand beside it. A replay judges nothing."""
        self._examined = kind
        if self.journal is not None:
            return
        findings = judge(self.evidence() if evidence is None else evidence)
        self.open = {finding.symptom: finding for finding in findings if finding.open}
        self.clean = not any(finding.alarming for finding in self.open.values())
        self.open_rows = sorted(name for name, finding in self.open.items() if finding.alarming)

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
                "reward_edits": self.reward_edits,
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
        self.clock = Clock.from_json(known["clock"])
        self.live = [Modifier.from_json(row, self.rules) for row in known["live"]]
        self.good, self.clean, self.frozen = known["good"], known["clean"], known["frozen"]
        self.undone = [(first, last) for first, last in known["undone"]]
        self.actions, self.rollbacks, self.lost_steps, self.fired = known["counts"]
        self.reward_edits = known["reward_edits"]
        self.open_rows, self._turns = known["open_rows"], known["turns"]
        self._quiet = [(begin, Span(**span)) for begin, span in known["quiet"]]
        self._states = {name: RuleState(**state) for name, state in known["states"].items()}

    # --- one check ------------------------------------------------------------------------------------------------

    def _check(self, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        for modifier in self._run_out(kind):
            reason = over(modifier.what.until)  # type: ignore[union-attr, arg-type]
            yield from self._end([modifier], kind, reason, expired=True)
        if self.journal is not None:
            yield from self._repeat(kind)
            return
        broken = next((self.open[name] for name in CONTRACT if name in self.open), None)
        if broken is not None and self.spec.diagnose.strict:
            reason = f"{broken.row.title}: {broken.evidence}"
            told: dict[str, Any] = {"row": broken.symptom, "threshold": broken.threshold}
            yield Decision(STRICT, kind, "fired", reason, asks=(Stop(stop="fail"),), **told)
            return
        rules = [rule for rule in self.own if rule.check == kind]
        for rule in rules:
            yield from self._maybe_release(rule, kind, claimed)
        for rule in self.own:
            judged = list(self._maybe_verify(rule, kind))
            yield from judged
            if any(ends_the_check(one) for one in judged):
                return
        for rule in rules:
            if rule.controller is not None:
                yield from self._steer(rule, rule.controller, kind, claimed)
                continue
            decided = list(self._maybe_fire(rule, kind, claimed))
            yield from decided
            if any(ends_the_check(one) for one in decided):
                return

    def _run_out(self, kind: Check) -> list[Modifier]:
        """Modifiers of its own rules whose span is over."""
        rules = {rule.id for rule in self.own if kind == "update"}
        return [modifier for modifier in self.live if modifier.rule in rules and modifier.is_over(self.clock)]

    def look(self, rule: Intervention) -> Look:
        """What a rule sees. An exact row has no end: it counts again when it was raised anew since the rule acted."""
        state = self._states[rule.id]
        fresh = dict(self.open)
        for name, finding in self.open.items():
            if finding.window == "exact" and state.fired_step >= 0:
                again = DETECTORS[name](self.record.evidence(self.undone, after=state.fired_step))
                if not again.open:
                    del fresh[name]
        harmless = all(isinstance(action, (*HARMLESS, Stop)) for action in rule.actions())
        own = {PROGRESS: self.clock.progress, ACTIONS: float(self.actions)}
        if self.clock.updates > 0:
            own[UPDATES_LEFT] = self._updates_left()
        return Look(self.record, fresh, own, rule.cause, harmless, state.streaks)

    # --- fire -----------------------------------------------------------------------------------------------------

    def _maybe_fire(self, rule: Intervention, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        state, look = self._states[rule.id], self.look(rule)
        if not state.is_due(rule, look.any_of(rule.on or ())):
            return
        component = component_of(look) if rule.names_no_component() else ""
        if rule.names_no_component() and not component:
            if state.said != UNNAMED:
                state.said = UNNAMED
                yield Decision(rule.id, kind, "suppressed", UNNAMED, **self._told(rule, look))
            return
        added = self.modifiers_of(rule, component)
        fired = replace(self.proposed(rule, look, kind, added), component=component)
        others = [(other, self._states[other.id]) for other in self.own]
        objection = (
            lacks_data(rule, self.clock)
            or self._excused(rule, look)
            or waits(rule, state, self.clock, others)
            or self.refuses(rule, fired, claimed)
        )
        if objection is not None:
            if objection[1] != state.said:
                state.said = objection[1]
                yield replace(fired, decision=objection[0], reason=objection[1], asks=(), checkpoint=None)
            if objection[1] == WATCHED:  # told as often as it would have acted
                state.would_act(self.clock)
            return
        claimed.update(fired.keys)
        yield fired
        yield from self._apply(rule, fired, added)

    def modifiers_of(self, rule: Intervention, component: str = "") -> list[Modifier]:
        """What a rule would put over values if it acted now."""
        return [
            Modifier(rule.id, number, action, self.clock, component=component)
            for number, action in enumerate(rule.actions())
            if isinstance(action, Set | Scale | Add)
        ]

    def proposed(self, rule: Intervention, look: Look, kind: Check, added: list[Modifier]) -> Decision:
        """What a rule whose trigger holds would do: its evidence, changes and where it would go back to."""
        told = self._told(rule, look) | self._moved(added)
        return self.with_checkpoint(rule, Decision(rule.id, kind, "fired", _why(look), asks=asks_of(rule), **told))

    def _excused(self, rule: Intervention, look: Look) -> tuple[Verdict, str] | None:
        for name in rule.unless or ():
            if self.shows(name, look):
                return "suppressed", f"unless {name}, which is raised"
        return None

    def shows(self, symptom: str, look: Look) -> bool:
        """Whether a symptom is open, whatever its cause."""
        return bool(Look(self.record, look.findings, look.own, None, True, {}).holds(symptom, "unless"))

    def refuses(self, rule: Intervention, fired: Decision, claimed: set[str]) -> tuple[Verdict, str] | None:
        """Why what a rule would do may not be done to this agent, and whether that will pass by itself."""
        if self._is_quiet() and fired.row in QUIET_AFTER_REWARD_EDIT:
            return "suppressed", f"the reward was edited: {fired.row} is judged again later"
        if stuck := [key for key in fired.keys if key in self.frozen]:
            return "blocked", f"{', '.join(stuck)} went up and down twice and is moved no more"
        if needless := [
            one.normalize for one in fired.asks if isinstance(one, Normalize) and self._normalizes(one.normalize)
        ]:
            return "blocked", f"{needless[0]} are normalized from the start"
        if taken := sorted(claimed & fired.keys.keys()):
            return "suppressed", f"{', '.join(taken)} was moved at this check by a rule of higher priority"
        if words := [key for key, (before, after) in fired.keys.items() if isinstance(after, str)]:
            return "blocked", f"{words[0]} is {fired.keys[words[0]][0]!r}, which is no number to move"
        idle = all(isinstance(asked, Rollback | Dump | Note) for asked in fired.asks)  # a rollback alone only replays
        if fired.keys and idle and all(before == after for before, after in fired.keys.values()):
            return "suppressed", "its bounds are reached: nothing would change"
        if not self.acts:
            return "blocked", WATCHED
        return self.over_budget(rule, fired)

    def _normalizes(self, what: str) -> bool:
        """Whether the spec has running statistics of "rewards" or "observations" anyway."""
        own = {"rewards": self.spec.reward.scaling, "observations": self.spec.observation.normalize}
        return own[what] == "running"

    def over_budget(self, rule: Intervention, fired: Decision) -> tuple[Verdict, str] | None:
        """Whether an agent may not be changed or taken back that often."""
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

    def with_checkpoint(self, rule: Intervention, fired: Decision) -> Decision:
        """Choose where a rollback goes: the newest good checkpoint that is older than the symptom's delay."""
        for asked in fired.asks:
            if not isinstance(asked, Rollback):
                continue
            name = "init"
            if asked.rollback == "last_good":
                latest = self.clock.updates - patience_of(rule)[1]
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
        state.acts(self.clock, decision)
        if rule.verify is not None:
            before = self.record.last(rule.verify.metric)
            state.verify_since, state.verify_before = self.clock.to_json(), before[-1] if before else None
        yield from self.accept(rule, decision, added)

    def accept(self, rule: Intervention, decision: Decision, added: list[Modifier]) -> Iterator[Decision]:
        """Put what was decided in force."""
        self._states[rule.id].fired_step = self.clock.env_steps
        self.live = self.live + added
        if not all(isinstance(action, HARMLESS) for action in rule.actions()):
            self.actions, self.fired = self.actions + 1, self.fired + 1
        self._note_reward_edit(rule, decision)
        self._note_rollback(decision)
        yield from self._note_turns(rule.id, decision)

    def _note_reward_edit(self, rule: Intervention, decision: Decision) -> None:
        means_another = any(key.startswith("reward.weights.") or key == "ppo.gamma" for key in decision.keys)
        if means_another or "reward.clip" in decision.keys or Normalize(normalize="rewards") in decision.asks:
            self._quiet = [(self.clock.to_json(), rule.cooldown or QUIET_SPAN)]
        self.reward_edits += means_another

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
        keys = self.changes(kept, {modifier.key for modifier in over})
        state.acted = self.clock.to_json()
        told: dict[str, Any] = {"row": state.row, "keys": keys}
        released = Decision(rule.id, kind, "released", reason, expired=expired, **told)
        yield released
        yield from self.let_go(rule, released, over)

    def let_go(self, rule: Intervention, released: Decision, over: list[Modifier]) -> Iterator[Decision]:
        """Take modifiers away, as was decided."""
        self.live = [modifier for modifier in self.live if modifier not in over]
        self._note_reward_edit(rule, released)
        yield from self._note_turns(rule.id, released)

    # --- release and verify -----------------------------------------------------------------------------------------

    def waiting(self, rule: Intervention) -> list[Modifier]:
        """The live modifiers of a rule that last until its release."""
        return [modifier for modifier in self.live if modifier.rule == rule.id and modifier.until_release]

    def _maybe_release(self, rule: Intervention, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        waiting = self.waiting(rule)
        if rule.release is None or not waiting:
            return
        if self.look(rule).compares(rule.release, "release"):
            self._states[rule.id].streaks["release"] = 0
            claimed.update(modifier.key for modifier in waiting)
            yield from self._end(waiting, kind, comparison(rule.release))

    def _maybe_verify(self, rule: Intervention, kind: Check) -> Iterator[Decision]:
        state, verify = self._states[rule.id], rule.verify
        if verify is None or state.verify_since is None:
            return
        if self.clock.share(verify.within, Clock.from_json(state.verify_since)) < 1:
            return
        others = [(other, self._states[other.id]) for other in self.own]
        told = verified(rule, state, self.record.last(verify.metric), kind, others)
        if told.decision == "verified":
            yield told
            return
        reason, failed = told.reason, self.with_checkpoint(rule, told)
        if failed.checkpoint is not None and (over := self.over_budget(rule, failed)) is not None:
            failed = replace(failed, reason=f"{reason}; {over[1]}", asks=(), checkpoint=None)
        yield failed
        yield from self._after_failure(rule, failed)

    def _after_failure(self, rule: Intervention, failed: Decision) -> Iterator[Decision]:
        """The next rung starts from the schedule: what did not help is taken away. A rollback keeps it as change."""
        self.fails(failed)
        mine = [modifier for modifier in self.live if modifier.rule == rule.id]
        if rule.on_fail == "next" and mine:
            yield from self._end(mine, failed.check, "it did not help", expired=True)

    def fails(self, failed: Decision) -> None:
        """A change was found not to have helped: a rollback, or the end, follows as decided."""
        self._note_rollback(failed)

    # --- controllers ------------------------------------------------------------------------------------------------

    def _steer(self, rule: Intervention, loop: Controller, kind: Check, claimed: set[str]) -> Iterator[Decision]:
        state, seen = self._states[rule.id], self.record.last(loop.metric)
        if not seen or self.clock.lacks(rule.min_data) or key_of(loop) in claimed:
            return
        if rule.cooldown and state.acted and self.clock.share(rule.cooldown, Clock.from_json(state.acted)) < 1:
            return
        by = turn_of(loop, seen[-1])
        if by is None:
            state.said = ""
            return
        fired, turned = self.steered(rule, loop, by)
        if turned is None:
            return
        fired = replace(fired, check=kind, evidence={loop.metric: seen})
        reason = fired.reason
        if not self.acts:
            if state.said != reason:
                state.said = reason
                yield replace(fired, decision="blocked", reason=f'diagnose.mode = "watch": {reason}')
            return
        yield fired
        self.turn(rule, turned)
        claimed.update(fired.keys)

    def steered(self, rule: Intervention, loop: Controller, by: float) -> tuple[Decision, Modifier | None]:
        """What a controller's turn by a factor would do; no modifier where it would change nothing."""
        mine = next((m for m in self.live if m.rule == rule.id), Modifier(rule.id, -1, loop, self.clock))
        before = self.value(mine.key, self.scheduled(mine.key))
        reason = f"{loop.metric} is {'above' if by < 1 else 'below'} {loop.target:g}"
        fired = Decision(rule.id, "update", "fired", reason, threshold=loop.target)
        if isinstance(before, str) or before == 0:
            return fired, None
        factor = mine.factor * min(max(before * by, loop.min), loop.max) / before
        turned = replace(mine, factor=factor)
        after = self._with(mine.key, self.scheduled(mine.key), self._in_place_of(mine, turned))
        fired = replace(fired, keys={mine.key: [before, after]}, factor=factor)
        return fired, None if after == before else turned

    def turn(self, rule: Intervention, turned: Modifier) -> None:
        """Put a controller's turn in force."""
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
            rule = next((rule for rule in self.own if rule.id == event.get("id")), None)
            if rule is None or event["decision"] not in ("fired", "released", "failed", "verified"):
                continue
            told = Decision(
                rule.id,
                kind,
                event["decision"],
                event["reason"],
                row=event["row"],
                checkpoint=event["checkpoint"],
            )
            if event["decision"] == "fired" and rule.controller is not None:
                turned = Modifier(rule.id, -1, rule.controller, self.clock, float(event["factor"]))
                yield replace(told, keys=event["keys"], factor=turned.factor)
                self.turn(rule, turned)
            elif event["decision"] == "fired":
                added = self.modifiers_of(rule, event.get("component", ""))
                told = replace(self.repeated(rule, told, added), component=event.get("component", ""))
                yield told
                yield from self._apply(rule, told, added)
            elif event["decision"] == "released":
                if over := self.waiting(rule):
                    yield from self._end(over, kind, told.reason)
            else:
                told = replace(told, asks=asked_on_failure(rule) if event["did"] else ())
                yield told
                if told.decision == "failed":
                    yield from self._after_failure(rule, told)

    def repeated(self, rule: Intervention, told: Decision, added: list[Modifier]) -> Decision:
        """What firing changes here and asks for, given where the journal says that it went back to."""
        asks = asks_of(rule)
        if told.checkpoint is None and any(isinstance(asked, Rollback) for asked in asks):
            asks = (*(asked for asked in asks if not isinstance(asked, Rollback)), Stop(stop="fail"))
        return replace(told, **self._moved(added), asks=asks)

    # --- small things -----------------------------------------------------------------------------------------------

    def _moved(self, added: Sequence[Modifier]) -> dict[str, Any]:
        """The part of a decision that tells where modifiers bring which keys, and how soon."""
        ramps = {modifier.key: getattr(modifier.what, "ramp", None) for modifier in added}
        gradual = {key: in_words(ramp) for key, ramp in ramps.items() if ramp is not None}
        return {"keys": self.changes([*self.live, *added], set(ramps)), "gradual": gradual}

    def _updates_left(self) -> float:
        """At the pace so far. An update that is shorter than a tick learns from less and counts by its share of one."""
        length = max(self.clock.env_steps / self.clock.updates, TICK)
        return max(self.record.total_timesteps - self.clock.env_steps, 0) / length

    def _is_quiet(self) -> bool:
        return any(self.clock.share(span, Clock.from_json(begin)) < 1 for begin, span in self._quiet)

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

    def changes(self, live: Sequence[Modifier], keys: set[str]) -> dict[str, list[float | str]]:
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
                recorded = self.record.last(support.metric, max(support.span, support.patience))
                evidence[support.metric] = [look.own[support.metric]] if support.metric in look.own else recorded
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


def component_of(look: Look) -> str:
    """The reward component that supports a trigger; "" where none is named."""
    named = (one.component for one in look.support if isinstance(one, Finding))
    return next((name for name in named if name), "")


def lacks_data(rule: Intervention, clock: Clock) -> tuple[Verdict, str] | None:
    """Why a rule may not be believed yet."""
    lacking = clock.lacks(rule.min_data)
    if not lacking:
        return None
    needs = ", ".join(amount(unit, count) for unit, count in lacking.items())
    return "suppressed", f"not enough data: needs {needs}"


def waits(
    rule: Intervention, state: RuleState, clock: Clock, others: Sequence[tuple[Intervention, RuleState]]
) -> tuple[Verdict, str] | None:
    """What a rule's own past, or that of another rung on its symptom, has against it acting again."""
    if state.retired:
        return "blocked", "it did not help when it was tried"
    if state.verify_since is not None:
        return "suppressed", "whether its last try helped is not known yet"
    for other, its in others:
        if other.priority < rule.priority and its.verify_since and _share_a_symptom(rule, other):
            return "suppressed", f"{other.id} is on the same symptom, and whether it helped is not known yet"
    if state.times >= rule.max_times:
        return "blocked", f"max_times = {rule.max_times} is reached"
    if rule.cooldown and state.acted and clock.share(rule.cooldown, Clock.from_json(state.acted)) < 1:
        return "suppressed", f"cooldown of {in_words(rule.cooldown)}"
    return None


def verified(
    rule: Intervention,
    state: RuleState,
    now: Sequence[float],
    kind: Check,
    others: Sequence[tuple[Intervention, RuleState]],
) -> Decision:
    """Whether a change that is due to be verified has helped; the next try is free then. `now` ends with the metric."""
    verify = rule.verify
    assert verify is not None  # noqa: S101  (only rules that have one are asked)
    bar = state.verify_before if verify.than == "before" else float(verify.than)
    helped = bool(now) and bar is not None and COMPARE[verify.op](now[-1], bar)
    evidence = {verify.metric: [*([] if state.verify_before is None else [state.verify_before]), *now]}
    told: dict[str, Any] = {"row": state.row, "evidence": evidence, "threshold": bar}
    what = f"{verify.metric} {verify.op} {'n/a' if bar is None else format(bar, '.4g')}"
    state.verify_since, state.verify_before = None, None
    if helped:
        return Decision(rule.id, kind, "verified", what, **told)
    reason = f"not {what} after {in_words(verify.within)}"
    if rule.on_fail == "next":
        state.retired = True
        rest = [other for other, its in others if _share_a_symptom(rule, other) and not its.retired]
        reason += "" if rest else "; unrepaired: no other intervention is on it"
    return Decision(rule.id, kind, "failed", reason, asks=asked_on_failure(rule), **told)


def turn_of(loop: Controller, seen: float) -> float | None:
    """The factor by which a controller moves its key; None while the metric is near enough to the target."""
    if not (seen > loop.target * loop.band or 0 < seen < loop.target / loop.band):
        return None
    return 1 / loop.factor if seen > loop.target else loop.factor


def asks_of(rule: Intervention) -> tuple[Table, ...]:
    """The verbs that are the agent's to carry out."""
    return tuple(action for action in rule.actions() if not isinstance(action, Set | Scale | Add))


def asked_on_failure(rule: Intervention) -> tuple[Table, ...]:
    if rule.on_fail == "stop":
        return (Stop(stop="fail"),)
    return (Rollback(rollback="last_good"),) if rule.on_fail == "rollback" else ()


def patience_of(rule: Intervention) -> tuple[int, int]:
    """(how often the trigger must hold, of how many checks)."""
    if rule.within is not None:
        held, of = rule.within.split(" of ")
        return int(held), int(of)
    return rule.patience, rule.patience


def _share_a_symptom(one: Intervention, other: Intervention) -> bool:
    return one.id != other.id and bool(listed_symptoms(one) & listed_symptoms(other))


def comparison(condition: Condition) -> str:
    return f"{condition.metric} {condition.op} {condition.value:g}"


def ends_the_check(decision: Decision) -> bool:
    """Whether what the other rules saw is no longer so: weights went back, or training ends."""
    return decision.checkpoint is not None or any(isinstance(asked, Stop) for asked in decision.asks)


def _why(look: Look) -> str:
    """The trigger in words, with what was measured."""
    said = [one.evidence if isinstance(one, Finding) else comparison(one) for one in look.support]
    return "; ".join(dict.fromkeys(said))


def _without_ramp(modifier: Modifier) -> Modifier:
    if getattr(modifier.what, "ramp", None) is None:
        return modifier
    return replace(modifier, what=modifier.what.model_copy(update={"ramp": None}))
