"""`[[intervention]]`: when a symptom shows, what to do about it.

Only the form is here, and the checks that one intervention can fail by itself; those that need the rest of the spec (is
the key live, do two interventions set it) are in `crosschecks.py`. Triggers: `conditions.py`. Verbs: `actions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, model_validator

from p3kit.spec.actions import HARMLESS, Action, Rollback, Scale, changes_something, written_keys
from p3kit.spec.base_model import MOST, Count, Items, Number, PositiveShare, Table
from p3kit.spec.conditions import (
    Comparison,
    Condition,
    Metric,
    MinimumData,
    Span,
    Symptom,
    Trigger,
    reads_the_clock,
)
from p3kit.spec.nearest import did_you_mean

QUORUM = 0.3
"""Share of the agents that must show the symptom of a rule for all of them, where the rule names none."""

COMPONENT = "{component}"
"""In a key, the reward component that the symptom's evidence names: `reward.weights.{component}`."""

OUT_OF_MEMORY = "run.oom"
"""The symptom of a refused allocation."""


class Controller(Table):
    """A closed loop: keep a metric near a target by moving a key (KL-adaptive learning rate, as in rsl_rl)."""

    key: str
    """The spec path to change."""
    metric: Metric
    """Metric to keep near the target."""
    target: Number
    """The target."""
    band: Annotated[float, Gt(1), Le(MOST)] = 2.0
    """Act when the metric is above target × band or below target / band."""
    factor: Annotated[float, Gt(1), Le(MOST)] = 1.5
    """Divide the key by this when the metric is too high, multiply when it is too low."""
    min: Number
    """Never below this."""
    max: Number
    """Never above this."""

    @model_validator(mode="after")
    def _min_below_max(self) -> Controller:
        if self.min >= self.max:
            raise ValueError(f"min = {self.min:g} is not below max = {self.max:g}")
        return self


class Verify(Table):
    """Test of an intervention's success."""

    metric: Metric
    """Metric to check."""
    op: Comparison
    """Comparison operator."""
    than: Literal["before"] | Number
    """Compare with the value before the intervention, or with a number."""
    within: Span
    """Time of the check."""


def _a_list(value: Any) -> Any:
    """`on = "policy.hold"` is short for `on = ["policy.hold"]`."""
    return value if isinstance(value, list | tuple) else [value]


NOTHING_INSIDE_AN_UPDATE = (
    "was removed, because rules inside an update cost about 30 % of training time and no pack needs them; "
    'use check = "update", and ppo.target_kl to end an update early'
)
"""The reason and the remedy for specs and journals of earlier versions."""


def _not_inside_an_update(value: Any) -> Any:
    if value == "minibatch":
        raise ValueError(NOTHING_INSIDE_AN_UPDATE)
    return value


def _no_early_stop_update(value: Any) -> Any:
    actions = value if isinstance(value, list | tuple) else ()
    if any(isinstance(action, dict) and "early_stop_update" in action for action in actions):
        raise ValueError(f"early_stop_update {NOTHING_INSIDE_AN_UPDATE}")
    return value


def _k_of_n(text: str) -> str:
    match = re.fullmatch(r"([1-9]\d{0,3}) of ([1-9]\d{0,3})", text)
    if not match or int(match[1]) > int(match[2]):
        raise ValueError('expected something like "3 of 5"')
    return text


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", text):
        raise ValueError("expected at most 64 small letters, digits, - and _, with a letter or digit first")
    return text


Identifier = Annotated[str, AfterValidator(_identifier)]


class Intervention(Table):
    """One rule: a trigger, its actions, and a check of their effect."""

    id: Identifier
    """Its name in the journal: small letters, digits, - and _."""
    on: Annotated[Items[Trigger], MinLen(1), BeforeValidator(_a_list)] | None = None
    """A symptom, a condition on a metric, or several (any of them triggers)."""
    do: Annotated[Items[Action], MinLen(1), BeforeValidator(_no_early_stop_update)] | None = None
    """Actions, in this order."""
    controller: Controller | None = None
    """A closed loop, in place of `on` and `do`."""
    cause: Annotated[Items[str], MinLen(1)] | None = None
    """Act only on these causes of the symptom; unset: on every cause that can be repaired."""
    unless: Annotated[Items[Symptom], MinLen(1)] | None = None
    """Do nothing while one of these symptoms is raised."""
    scope: Literal["agent", "group", "run"] = "agent"
    """Agents that are changed: the agent itself, all agents of the run with its seed and matrix point, or all agents of
    the run. A shared encoder needs group or run."""
    share: PositiveShare | None = None
    """For scope = "group" and "run": the fraction of agents that must show the symptom; unset: 0.3."""
    check: Annotated[Literal["update", "eval"], BeforeValidator(_not_inside_an_update)] = "update"
    """Time of the check of the trigger: after each update, or after each evaluation."""
    min_data: MinimumData = MinimumData()
    """Data required before the trigger may fire."""
    patience: Count = 1
    """Number of consecutive checks for which the trigger must hold."""
    within: Annotated[str, AfterValidator(_k_of_n)] | None = None
    """In place of patience: "3 of 5" checks."""
    release: Condition | None = None
    """Condition that ends actions with `until = "release"`. Keep its threshold apart from the trigger's."""
    cooldown: Span | None = None
    """Time to wait before the next action."""
    max_times: Count = 1
    """Largest number of actions."""
    priority: Annotated[int, Ge(0), Le(1000)] = 100
    """One intervention per key and check; the lowest number wins, those of a group or run before an agent's own."""
    verify: Verify | None = None
    """Condition that shows that the actions helped."""
    on_fail: Literal["next", "rollback", "stop", "keep"] = "keep"
    """Reaction if it did not help: try the next action, roll back, stop, or keep it."""

    @model_validator(mode="after")
    def _is_whole(self) -> Intervention:
        for fault in _shortcomings(self):
            raise ValueError(fault)
        return self

    def actions(self) -> tuple[Table, ...]:
        """Actions of the intervention; none for a controller."""
        return self.do or ()

    def names_no_component(self) -> bool:
        """True if it moves the weight of a component that the evidence names at run time."""
        return any(COMPONENT in key for action in self.actions() for key in written_keys(action))

    def retries_smaller_minibatches(self) -> bool:
        """True if it is the one rule that may change a size: out of memory. The gradient of the same batch is then
        summed over smaller minibatches, and `accumulation_steps` follows."""
        return self.on == (OUT_OF_MEMORY,) and all(
            isinstance(action, HARMLESS)
            or (isinstance(action, Scale) and action.scale in ("ppo.batch_size", "batch_size") and action.by < 1)
            for action in self.actions()
        )


def listed_symptoms(rule: Intervention) -> set[str]:
    """The symptoms that trigger a rule each by itself: rules that have one in common are rungs of a ladder."""
    return {trigger.partition(":")[0] for trigger in rule.on or () if isinstance(trigger, str)}


def _shortcomings(rule: Intervention) -> Iterator[str]:
    """Return the faults of one intervention by itself."""
    if rule.controller is not None:
        if rule.on is not None or rule.do is not None:
            yield "expected either a controller, or on and do"
        return
    if rule.on is None or rule.do is None:
        yield f'needs "{"do" if rule.on else "on"}" (or a controller)'
    actions = rule.actions()
    if any(isinstance(action, Rollback) for action in actions) and not any(map(changes_something, actions)):
        yield "a rollback that changes nothing would replay the same failure; add a set, scale, add or reinit"
    if rule.release is None and any(getattr(action, "until", None) == "release" for action in actions):
        yield 'until = "release" needs a release condition'
    yield from _unknown_causes(rule)
    if rule.names_no_component():
        yield from _no_component(rule)
    if rule.patience > 1 and rule.within is not None:
        yield "expected either patience or within"
    if rule.share is not None and rule.scope == "agent":
        yield 'share needs scope = "group" or "run"'
    if rule.scope == "agent" and any(getattr(action, "freeze", None) == "encoder" for action in actions):
        yield 'freeze = "encoder" needs scope = "run": all agents see through the one encoder'
    only_looks = all(isinstance(action, HARMLESS) for action in actions)
    if any(map(reads_the_clock, rule.on or ())) and not only_looks:
        yield "speed depends on the machine, so it may drive only dump and note: runs would not replay"


def _unknown_causes(rule: Intervention) -> Iterator[str]:
    from p3kit.symptoms import SYMPTOMS

    symptoms = [SYMPTOMS[one] for one in rule.on or () if isinstance(one, str) and one in SYMPTOMS]
    known = sorted({cause.id for symptom in symptoms for cause in symptom.causes})
    for cause in rule.cause or ():
        if cause not in known:
            hint = did_you_mean(cause, known, f"; expected one of {', '.join(known) or 'none'}")
            yield f'"{cause}" is no cause of the symptoms it is on{hint}'


def _no_component(rule: Intervention) -> Iterator[str]:
    """Only some symptoms name a component, and each agent has its own."""
    from p3kit.symptoms import SYMPTOMS

    can = [
        name
        for name, symptom in SYMPTOMS.items()
        if any(COMPONENT in change.path for cause in symptom.causes for change in cause.changes)
    ]
    named = [trigger.partition(":")[0] if isinstance(trigger, str) else None for trigger in rule.on or ()]
    if not set(named) <= set(can):
        yield f"{COMPONENT} is what a symptom's evidence names; on may then list only {', '.join(can)}"
    if rule.scope != "agent":
        yield f'{COMPONENT} is named for each agent by itself: it needs scope = "agent"'
