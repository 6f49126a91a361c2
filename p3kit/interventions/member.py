"""One agent under the rules: its record, clock, live modifiers, budget, and the checkpoints to go back to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from p3kit.diagnose import DETECTORS, Evidence, Finding
from p3kit.diagnose.evidence import TICK
from p3kit.diagnose.journal import for_agent
from p3kit.interventions.decision import OSCILLATES, Check, Decision, Objection, SymptomChange, runtime_actions
from p3kit.interventions.modifiers import UNITS, Clock, Modifier, effective, in_words, key_of
from p3kit.interventions.probation import Probation, Scored, earns, newest, probation_updates, snapshot_name
from p3kit.interventions.record import Record, Stretch
from p3kit.interventions.state import RuleState, comparison, patience_of
from p3kit.interventions.triggers import Snapshot, acts_on
from p3kit.metrics import COMPONENTS
from p3kit.rundir import concerns
from p3kit.spec import Spec
from p3kit.spec.actions import HARMLESS, Add, Dump, Normalize, Note, Rollback, Scale, Set, Stop
from p3kit.spec.conditions import ACTIONS, PROGRESS, UPDATES_LEFT, Condition, Span
from p3kit.spec.interventions import COMPONENT, Controller, Intervention, listed_symptoms

Journal = Sequence[Mapping[str, Any]]

OSCILLATION_UPDATES = 10
"""A key that went up twice and down twice within this number of updates is frozen."""

QUIET_AFTER_REWARD_EDIT = ("value.fail", "reward.explode")
"""Symptoms that follow an edit of the reward, because value targets move with it."""

QUIET_SPAN = Span(updates=3)
"""Time for which they are suppressed, unless the rule has a cooldown."""

WATCHED = 'diagnose.mode = "watch": it would have acted'

KEPT_GOOD = 3
"""Number of checkpoints without an open symptom that are kept."""


class Member:
    """One agent under the rules."""

    def __init__(
        self,
        record: Record,
        spec: Spec,
        scheduled: Callable[[str], float | str],
        *,
        group: str = "",
        journal: Journal | None = None,
    ) -> None:
        """`scheduled` returns the current value of a key before interventions. Members with equal `group` share the
        rules with scope = "group". `journal` has the events to replay; None to judge the record."""
        self.name, self.record, self.spec, self.scheduled, self.group = record.agent, record, spec, scheduled, group
        own = [for_agent(event, self.name) for event in journal or () if concerns(event, self.name)]
        self._goals = None if journal is None else {event.get("checkpoint") for event in own}
        self.applies = spec.diagnose.mode == "act"
        # A rule for a refused allocation waits for no check: the runtime answers at once.
        rules = [rule for rule in spec.intervention if not rule.retries_smaller_minibatches()]
        self.rules = sorted(rules, key=lambda rule: rule.priority)  # stable: of equal ones the first written wins
        self.states = {rule.id: RuleState() for rule in self.rules}
        self.clock = Clock()
        self.live: list[Modifier] = []
        self.good: list[list[int]] = []  # (updates, env steps) of checkpoints without an open symptom
        self.undone: list[Stretch] = []
        self.clean = False
        self.actions = self.rollbacks = self.lost_steps = self.fired = 0
        self.reward_edits = 0  # each changes the meaning of returns
        self.frozen: list[str] = []
        self.probation: Probation | None = None
        self.returns = 0  # of snapshots
        self.harmful: list[str] = []  # rules whose actions a snapshot undid
        self.open: dict[str, Finding] = {}
        """The open symptoms at the last check."""
        self.open_rows: list[str] = []
        self._rows_before: list[str] = []
        self._turns: dict[str, list[list[int]]] = {}
        self._quiet: list[tuple[list[float], Span]] = []

    @property
    def is_on(self) -> bool:
        """False for `diagnose.mode = "off"`."""
        return self.spec.diagnose.mode != "off"

    # --- values ------------------------------------------------------------------------------------------------------

    def value(self, path: str, scheduled: float | str) -> float | str:
        """The value in force of `path`, given its scheduled one."""
        return self._with(path, scheduled, self.live)

    def moved_keys(self) -> set[str]:
        """Every key that a rule of the spec may move."""
        whats = [what for rule in self.rules for what in (rule.controller, *rule.actions())]
        written = {key for what in whats if (key := key_of(what))}
        return {key.replace(COMPONENT, name) for key in written for name in COMPONENTS}

    def live_keys(self) -> set[str]:
        """Every key that is moved now."""
        return {modifier.key for modifier in self.live}

    def changes(self, live: Sequence[Modifier], keys: Iterable[str]) -> dict[str, list[float | str]]:
        """[before, after] of `keys` if `live` replaces the live modifiers; ramps count as finished."""
        arrived = [_without_ramp(modifier) for modifier in live]
        values = {key: self.scheduled(key) for key in sorted(keys)}
        return {key: [self.value(key, value), self._with(key, value, arrived)] for key, value in values.items()}

    def _with(self, path: str, scheduled: float | str, live: Sequence[Modifier]) -> float | str:
        mine = [modifier for modifier in live if modifier.key == path]
        if not mine:
            return scheduled
        if isinstance(scheduled, str):  # a word such as "off" can be replaced, but not moved
            given = [modifier.what.to for modifier in mine if isinstance(modifier.what, Set)]
            if not given:
                return scheduled
            scheduled = given[0]
        return effective(scheduled, mine, self.clock)

    # --- the record --------------------------------------------------------------------------------------------------

    def advance(self, **counts: int) -> None:
        """Move the clock on: updates, gradient_steps, env_steps, episodes, evals."""
        moved = {unit: getattr(self.clock, unit) + count for unit, count in counts.items()}
        steps = moved.get("env_steps", self.clock.env_steps)
        self.clock = replace(self.clock, **moved, progress=steps / max(self.record.total_timesteps, 1))

    def evidence(self) -> Evidence:
        """The record without the stretches that rollbacks have undone."""
        return self.record.evidence(self.undone)

    def examine(self, findings: Iterable[Finding]) -> None:
        """Take the findings of a new check."""
        self._rows_before = self.open_rows
        self.open = {finding.symptom: finding for finding in findings if finding.open}
        self.open_rows = sorted(name for name, finding in self.open.items() if finding.alarming)
        self.clean = not self.open_rows

    def symptom_changes(self) -> Iterator[SymptomChange]:
        """Symptoms that were raised or are over since the check before; each once."""
        before, self._rows_before = self._rows_before, self.open_rows
        yield from (SymptomChange(self.name, row, "raised") for row in self.open_rows if row not in before)
        yield from (SymptomChange(self.name, row, "over") for row in before if row not in self.open_rows)

    def snapshot(self, rule: Intervention) -> Snapshot:
        """All that a rule can compare. An exact row has no end: it counts again if it was raised after the rule's
        last action."""
        state = self.states[rule.id]
        exact = [name for name, one in self.open.items() if one.window == "exact" and state.fired_step >= 0]
        old = [name for name in exact if not self._is_raised_after(name, state.fired_step)]
        fresh = {name: finding for name, finding in self.open.items() if name not in old}
        harmless = _only_looks(rule)
        own = {PROGRESS: self.clock.progress, ACTIONS: float(self.actions)}
        if self.clock.updates > 0:
            own[UPDATES_LEFT] = self._updates_left()
        return Snapshot(self.record, fresh, own, rule.cause, harmless, state.streaks, self._answered())

    def _answered(self) -> frozenset[str]:
        """The open symptoms that a rule acts on by their likeliest cause."""
        acting = [rule for rule in self.rules if not _only_looks(rule)]
        found = (
            name
            for name, finding in self.open.items()
            for rule in acting
            if name in listed_symptoms(rule)
            and any(acts_on(finding, trigger, rule.cause) for trigger in rule.on or () if isinstance(trigger, str))
        )
        return frozenset(found)

    def _is_raised_after(self, symptom: str, step: int) -> bool:
        return DETECTORS[symptom](self.record.evidence(self.undone, after=step)).open

    def _updates_left(self) -> float:
        """At the present pace. An update of n < 4,096 env steps (a tick) counts as n / 4,096."""
        length = max(self.clock.env_steps / self.clock.updates, TICK)
        return max(self.record.total_timesteps - self.clock.env_steps, 0) / length

    # --- proposals ---------------------------------------------------------------------------------------------------

    def modifiers_of(self, rule: Intervention, component: str = "") -> list[Modifier]:
        """The modifiers that a rule would add now."""
        return [
            Modifier(rule.id, number, action, self.clock, component=component)
            for number, action in enumerate(rule.actions())
            if isinstance(action, Set | Scale | Add)
        ]

    def propose(self, rule: Intervention, view: Snapshot, check: Check, added: Sequence[Modifier]) -> Decision:
        """The decision of a rule whose trigger holds: its evidence, changes and checkpoint."""
        fields = _support(rule, view, self.clock) | self.moved(added) | {"actions": runtime_actions(rule)}
        return self.with_checkpoint(rule, Decision(rule.id, check, "fired", _reason(view), **fields))

    def moved(self, added: Sequence[Modifier]) -> dict[str, Any]:
        """Fields of a decision that adds modifiers: their keys, and the spans of gradual changes."""
        ramps = {modifier.key: getattr(modifier.what, "ramp", None) for modifier in added}
        gradual = {key: in_words(ramp) for key, ramp in ramps.items() if ramp is not None}
        keys = self.changes([*self.live, *added], ramps)
        return {"keys": keys, "gradual": gradual, "agents": (self.name,)}

    def with_checkpoint(self, rule: Intervention, fired: Decision) -> Decision:
        """Choose the checkpoint of a rollback: the newest good one that is older than the symptom's delay.

        Without one the rule stops the run if its rollback has `else = "stop"`. Beyond the budget it keeps the weights
        if its rollback has `over_budget = "stay"`."""
        back = next((action for action in fired.actions if isinstance(action, Rollback)), None)
        if back is None:
            return fired
        latest = self.clock.updates - patience_of(rule)[1]
        old_enough = [step for updates, step in self.good if updates <= latest]
        is_first = back.rollback == "init" or (not old_enough and back.otherwise != "stop")
        if not (is_first or old_enough):
            return replace(fired, actions=stop_instead(fired.actions))
        checkpoint = "init" if is_first else good_name(old_enough[-1])
        refused = self._refuses(checkpoint) if back.over_budget == "stay" else None
        if refused is None:
            return replace(fired, checkpoint=checkpoint)
        reason = f"{fired.reason}; the weights stay, as {refused}"
        return replace(fired, actions=without_rollback(fired.actions), reason=reason)

    def steered(self, rule: Intervention, loop: Controller, by: float) -> tuple[Decision, Modifier] | None:
        """The turn of a controller by a factor; None if it would change nothing."""
        mine = next(iter(self.live_of(rule)), None) or Modifier(rule.id, -1, loop, self.clock)
        before = self.value(mine.key, self.scheduled(mine.key))
        if isinstance(before, str) or before == 0:
            return None
        factor = mine.factor * min(max(before * by, loop.min), loop.max) / before
        turned = replace(mine, factor=factor)
        after = self._with(mine.key, self.scheduled(mine.key), self._with_turn(turned))
        reason = f"{loop.metric} is {'above' if by < 1 else 'below'} {loop.target:g}"
        fields: dict[str, Any] = {"threshold": loop.target, "keys": {mine.key: [before, after]}, "factor": factor}
        fired = Decision(rule.id, "update", "fired", reason, **fields, agents=(self.name,))
        return None if after == before else (fired, turned)

    # --- objections --------------------------------------------------------------------------------------------------

    def shows(self, symptom: str, view: Snapshot) -> bool:
        """True if a symptom is open, with any cause."""
        return bool(Snapshot(self.record, view.findings, view.own, None, True, {}).holds(symptom, "unless"))

    def objects(self, rule: Intervention, fired: Decision, claimed: set[str]) -> Objection | None:
        """The reason why this agent may not be changed, if there is one."""
        if (harmless := self._shows_no_harm(rule, fired)) is not None:
            return "suppressed", harmless
        is_quiet = any(self.clock.share(span, Clock.from_json(begin)) < 1 for begin, span in self._quiet)
        if is_quiet and fired.row in QUIET_AFTER_REWARD_EDIT:
            return "suppressed", f"the reward was edited: {fired.row} is judged again later"
        if rule.id in self.harmful:
            return "blocked", "it did harm when it was tried"
        if stuck := [key for key in fired.keys if key in self.frozen]:
            return "blocked", f"{', '.join(stuck)} went up and down twice and is moved no more"
        if taken := sorted(claimed & fired.keys.keys()):
            return "suppressed", f"{', '.join(taken)} was moved at this check by a rule of higher priority"
        if objection := _without_effect(fired):
            return objection
        return self.over_budget(rule, fired) if self.applies else ("blocked", WATCHED)

    def _shows_no_harm(self, rule: Intervention, fired: Decision) -> str | None:
        """The reason to leave a warning alone: since it began, the evaluations are good. None without such a reason."""
        finding = self.open.get(fired.row)
        if finding is None or finding.severity == "critical" or _only_looks(rule):
            return None
        evaluations = self.record.evaluations()
        if not evaluations or int(evaluations[-1].get("global_step") or 0) <= (finding.since_step or 0):
            return None
        best = max(map(Scored.of_event, evaluations), key=lambda one: one.sharpe)
        if not earns(evaluations[-1], best):
            return None
        now = Scored.of_event(evaluations[-1]).sharpe
        return f"no harm is seen: validation Sharpe {now:.2f} since {fired.row} began"

    def over_budget(self, rule: Intervention, fired: Decision) -> Objection | None:
        """Object if `diagnose.budget` is used up."""
        budget = self.spec.diagnose.budget
        if all(isinstance(action, HARMLESS) for action in rule.actions()):
            return None
        if budget.actions is not None and self.actions >= budget.actions:
            return "blocked", f"diagnose.budget.actions = {budget.actions} are used up"
        refused = None if fired.checkpoint is None else self._refuses(fired.checkpoint)
        return None if refused is None else ("blocked", refused)

    def _refuses(self, checkpoint: str) -> str | None:
        """The reason why `diagnose.budget` does not allow a rollback to `checkpoint`; None if it does."""
        budget = self.spec.diagnose.budget
        if budget.rollbacks is not None and self.rollbacks >= budget.rollbacks:
            return f"diagnose.budget.rollbacks = {budget.rollbacks} are used up"
        lost = self.lost_steps + self.clock.env_steps - step_of(checkpoint)
        if lost > budget.lost_steps_pct / 100 * self.record.total_timesteps:
            return f"a rollback would lose more than diagnose.budget.lost_steps_pct = {budget.lost_steps_pct:g}"
        return None

    # --- changes -----------------------------------------------------------------------------------------------------

    def accept(self, rule: Intervention, decision: Decision, added: Sequence[Modifier]) -> Iterator[Decision]:
        """Apply a decision."""
        self.states[rule.id].fired_step = self.clock.env_steps
        self.live = [*self.live, *added]
        if not all(isinstance(action, HARMLESS) for action in rule.actions()):
            self.actions, self.fired = self.actions + 1, self.fired + 1
            self._begin_probation(rule, decision)
        self._note_reward_edit(rule, decision)
        self.note_rollback(decision)
        yield from self._note_turns(decision)

    def release(self, rule: Intervention, released: Decision, over: Sequence[Modifier]) -> Iterator[Decision]:
        """Remove modifiers: their keys return to the values beneath."""
        self.live = self.without(over)
        self._note_reward_edit(rule, released)
        yield from self._note_turns(released)

    # --- probation ---------------------------------------------------------------------------------------------------

    @property
    def wants_evaluation(self) -> bool:
        """True if an action just began or ended its probation."""
        own = self.probation
        return own is not None and (own.begins(self.clock) or own.is_due(self.clock))

    @property
    def snapshot_file(self) -> str | None:
        """The checkpoint to keep for the probation."""
        return None if self.probation is None else snapshot_name(self.probation.step)

    @property
    def wants_snapshot(self) -> bool:
        """True right after the first action of a probation, before it is carried out."""
        return self.probation is not None and self.probation.begins(self.clock)

    def scores_of_probation(self) -> tuple[Scored, Scored] | None:
        """The evaluations before the snapshot and of now; None without both."""
        assert self.probation is not None  # noqa: S101  (called for members on probation)
        events, now = self.record.evaluations(), self.clock.env_steps
        before, after = newest(events, 0, self.probation.step), newest(events, now, now)
        return None if before is None or after is None else (before, after)

    def take_back(self, rules: Sequence[str]) -> None:
        """Undo the actions since the snapshot."""
        own = self.probation
        if own is None:
            return
        self.live = self.live_before(own.step)
        self.undone = [*((first, last) for first, last in own.undone), (own.step, self.clock.env_steps)]
        self.good = [one for one in self.good if one[1] <= own.step]
        self.reward_edits, self.probation = own.reward_edits, None
        self.harmful = [*self.harmful, *(rule for rule in rules if rule not in self.harmful)]
        self.returns += 1
        for state in self.states.values():
            state.recent, state.streaks, state.verify_since = [], {}, None

    def live_before(self, step: int) -> list[Modifier]:
        """The live modifiers that began before an env step."""
        return [modifier for modifier in self.live if modifier.begin.env_steps < step]

    def _begin_probation(self, rule: Intervention, decision: Decision) -> None:
        if self.record.task or any(isinstance(action, Stop) for action in decision.actions):
            return  # a task without bars has no evaluations
        thrown_away = 0 if decision.checkpoint is None else self.clock.env_steps - step_of(decision.checkpoint)
        updates = probation_updates(self.clock, self.record.total_timesteps, thrown_away)
        if self.probation is not None:
            self.probation = self.probation.joined(rule.id, self.clock, updates)
            return
        self.probation = Probation(
            self.clock.env_steps,
            self.clock.updates,
            updates,
            [rule.id],
            [list(stretch) for stretch in self.undone],
            self.reward_edits,
            of_group=decision.of_group,
        )

    def turn(self, turned: Modifier) -> None:
        """Apply the turn of a controller."""
        self.live = self._with_turn(turned)
        self.fired += 1

    def without(self, over: Sequence[Modifier]) -> list[Modifier]:
        """The live modifiers but for those in `over`."""
        return [modifier for modifier in self.live if modifier not in over]

    def live_of(self, rule: Intervention) -> list[Modifier]:
        """The live modifiers of a rule."""
        return [modifier for modifier in self.live if modifier.rule == rule.id]

    def _with_turn(self, turned: Modifier) -> list[Modifier]:
        kept = [turned if modifier.rule == turned.rule else modifier for modifier in self.live]
        return kept if turned in kept else [*kept, turned]

    def _note_reward_edit(self, rule: Intervention, decision: Decision) -> None:
        means_another = any(key.startswith("reward.weights.") or key == "ppo.gamma" for key in decision.keys)
        normalizes = Normalize(normalize="rewards") in decision.actions
        if means_another or "reward.clip" in decision.keys or normalizes:
            self._quiet = [(self.clock.to_json(), rule.cooldown or QUIET_SPAN)]
        starts_again = normalizes and self.spec.reward.scaling == "running"
        self.reward_edits += means_another or starts_again

    def note_rollback(self, decision: Decision) -> None:
        """Forget what a rollback undoes."""
        checkpoint = decision.checkpoint
        if checkpoint is not None:
            back = step_of(checkpoint)
            self.rollbacks += 1
            self.lost_steps += self.clock.env_steps - back
            self.undone = [*self.undone, (back, self.clock.env_steps)]
            self.good = [one for one in self.good if one[1] <= back]
            for state in self.states.values():
                state.recent, state.streaks = [], {}

    def _note_turns(self, decision: Decision) -> Iterator[Decision]:
        """Count the directions of keys; freeze a key that went up twice and down twice in a short time."""
        for key, (before, after) in decision.keys.items():
            if isinstance(before, str) or isinstance(after, str) or before == after:
                continue
            if self._oscillates(key, 1 if after > before else -1) and key not in self.frozen:
                self.frozen = [*self.frozen, key]
                reason = f"{key} went up and down twice within {OSCILLATION_UPDATES} updates: it is moved no more"
                fields: dict[str, Any] = {"row": OSCILLATES, "agents": (self.name,)}
                yield Decision(decision.rule, decision.check, "blocked", reason, **fields)

    def _oscillates(self, key: str, way: int) -> bool:
        now = self.clock.updates
        recent = [turn for turn in self._turns.get(key, []) if now - turn[0] < OSCILLATION_UPDATES]
        self._turns[key] = turns = [*recent, [now, way]]
        ups = sum(way > 0 for _, way in turns)
        return ups >= 2 and len(turns) - ups >= 2

    # --- good checkpoints --------------------------------------------------------------------------------------------

    def keeps_good(self) -> bool:
        """True if the checkpoint of now is one to go back to."""
        if self._goals is not None:
            return good_name(self.clock.env_steps) in self._goals
        return self.applies and self.clean and any(map(_rolls_back, self.rules))

    def keep_good(self) -> None:
        """Add the checkpoint of now to `good`, which lists those to keep."""
        self.good = [*self.good, [self.clock.updates, self.clock.env_steps]]
        if self._goals is None:
            self.good = self.good[-KEPT_GOOD:]

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> str:
        """The state as JSON text for a checkpoint."""
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
                "probation": None if self.probation is None else self.probation.to_json(),
                "harm": [self.returns, self.harmful],
                "open_rows": self.open_rows,
                "turns": self._turns,
                "quiet": [[begin, span.model_dump(exclude_none=True)] for begin, span in self._quiet],
                "states": {name: asdict(state) for name, state in self.states.items()},
            }
        )

    def load_state(self, text: str) -> None:
        """Restore the state."""
        known = json.loads(text)
        self.clock = Clock.from_json(known["clock"])
        self.live = [Modifier.from_json(row, self.rules) for row in known["live"]]
        self.good, self.clean, self.frozen = known["good"], known["clean"], known["frozen"]
        self.undone = [(first, last) for first, last in known["undone"]]
        self.actions, self.rollbacks, self.lost_steps, self.fired = known["counts"]
        self.reward_edits = known["reward_edits"]
        self.probation = Probation.from_json(known.get("probation"))
        self.returns, self.harmful = known.get("harm", [0, []])  # not in checkpoints before 0.2
        self.open_rows, self._turns = known["open_rows"], known["turns"]
        self._rows_before = self.open_rows
        self._quiet = [(begin, Span(**span)) for begin, span in known["quiet"]]
        for name, state in known["states"].items():
            self.states[name].restore(state)


def good_name(step: int) -> str:
    """The name of a checkpoint to go back to."""
    return f"good-{step:09d}"


def step_of(checkpoint: str) -> int:
    """The env steps at which a checkpoint was written; 0 for `init`."""
    return 0 if checkpoint == "init" else int(checkpoint.rpartition("-")[2])


def stop_instead(actions: Sequence[Any]) -> tuple[Any, ...]:
    """Replace a rollback by the end of the run."""
    return (*without_rollback(actions), Stop(stop="fail"))


def without_rollback(actions: Sequence[Any]) -> tuple[Any, ...]:
    """The other actions of a rule that rolls back."""
    return tuple(action for action in actions if not isinstance(action, Rollback))


def component_of(view: Snapshot) -> str:
    """The reward component that supports a trigger; "" if there is none."""
    named = (one.component for one in view.support if isinstance(one, Finding))
    return next((name for name in named if name), "")


def _only_looks(rule: Intervention) -> bool:
    return all(isinstance(action, (*HARMLESS, Stop)) for action in rule.actions())


def _rolls_back(rule: Intervention) -> bool:
    last_good = any(getattr(action, "rollback", None) == "last_good" for action in rule.actions())
    return rule.on_fail == "rollback" or last_good


def _without_effect(fired: Decision) -> Objection | None:
    if words := [key for key, (_, after) in fired.keys.items() if isinstance(after, str)]:
        return "blocked", f"{words[0]} is {fired.keys[words[0]][0]!r}, which is no number to move"
    idle = all(isinstance(action, Rollback | Dump | Note) for action in fired.actions)  # a rollback alone only replays
    if fired.keys and idle and all(before == after for before, after in fired.keys.values()):
        return "suppressed", "its bounds are reached: nothing would change"
    return None


def _reason(view: Snapshot) -> str:
    """The trigger as text, with the measured numbers."""
    found = [one.evidence if isinstance(one, Finding) else comparison(one) for one in view.support]
    return "; ".join(dict.fromkeys(found))


def _support(rule: Intervention, view: Snapshot, clock: Clock) -> dict[str, Any]:
    """Fields of a decision that hold its evidence."""
    have = dict(zip(UNITS, clock.to_json(), strict=True))
    need = {unit: count for unit in UNITS if (count := getattr(rule.min_data, unit))}
    fields: dict[str, Any] = {"min_data": {"have": {unit: have[unit] for unit in need}, "need": need}, "evidence": {}}
    for support in view.support:
        own = _of_condition(support, view) if isinstance(support, Condition) else _of_finding(support, view)
        fields["evidence"] |= own.pop("evidence")
        fields = own | fields  # the first support of each field counts
    return fields


def _of_condition(condition: Condition, view: Snapshot) -> dict[str, Any]:
    metric = condition.metric
    recorded = view.record.last(metric, max(condition.span, condition.patience))
    return {"evidence": {metric: [view.own[metric]] if metric in view.own else recorded}, "threshold": condition.value}


def _of_finding(finding: Finding, view: Snapshot) -> dict[str, Any]:
    fields: dict[str, Any] = {"row": finding.symptom, "threshold": finding.threshold}
    if finding.causes:
        fields["cause"] = finding.causes[0].id
        fields["cause_scores"] = {cause.id: cause.weight for cause in finding.causes}
    needs = DETECTORS[finding.symptom].needs
    return fields | {"evidence": {metric: view.record.last(metric, 3) for metric in needs}}


def _without_ramp(modifier: Modifier) -> Modifier:
    if getattr(modifier.what, "ramp", None) is None:
        return modifier
    return replace(modifier, what=modifier.what.model_copy(update={"ramp": None}))
