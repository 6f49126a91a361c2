"""Triggers of an `[[intervention]]`: symptoms, metrics compared with numbers, and combinations of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from p3kit.metrics import METRICS, is_metric
from p3kit.spec.base_model import Count, Items, Number, PositiveShare, Table, set_fields
from p3kit.spec.nearest import did_you_mean

PROGRESS = "progress"
"""Usable as a metric in a condition: the fraction of training done."""

ACTIONS = "actions"
"""Usable as a metric in a condition: number of rules' changes to the training, as in budget.actions."""

UPDATES_LEFT = "updates_left"
"""Usable as a metric in a condition: number of updates to come at the present pace. An update of n < 4,096 env steps (a
tick) counts as n / 4,096."""

ENGINES_OWN = (PROGRESS, ACTIONS, UPDATES_LEFT)


def _metric(name: str) -> str:
    if name not in ENGINES_OWN and not is_metric(name):
        known = [*METRICS, *ENGINES_OWN]
        raise ValueError(f"unknown metric{did_you_mean(name, known, '; see p3kit/metrics.py')}")
    return name


def _symptom(name: str) -> str:
    """A symptom of the catalogue, or one of its causes: `num.nan`, `num.nan:observation`."""
    from p3kit.symptoms import SYMPTOMS

    known, colon, cause = name.partition(":")
    if known not in SYMPTOMS:
        raise ValueError(f"unknown symptom{did_you_mean(known, SYMPTOMS, '; see docs/diagnosis.md')}")
    causes = [one.id for one in SYMPTOMS[known].causes]
    if colon and cause not in causes:
        raise ValueError(f"{known} has no such cause; expected one of {', '.join(causes) or 'none'}")
    return name


Metric = Annotated[str, AfterValidator(_metric)]
Symptom = Annotated[str, AfterValidator(_symptom)]
Comparison = Literal["<", "<=", ">", ">="]


class MinimumData(Table):
    """Minimum of data before a trigger may fire; all named minimums must hold."""

    updates: Count | None = None
    """Updates of the agent."""
    gradient_steps: Count | None = None
    """Optimiser steps."""
    env_steps: Count | None = None
    """Env steps of the agent."""
    episodes: Count | None = None
    """Finished episodes."""
    evals: Count | None = None
    """Evaluations."""
    progress: PositiveShare | None = None
    """Fraction of the whole training, for runs of any length."""


class Span(MinimumData):
    """A stretch of training, in exactly one unit."""

    @model_validator(mode="after")
    def _one_unit(self) -> Span:
        if len(set_fields(self)) != 1:
            raise ValueError("expected exactly one of updates, gradient_steps, env_steps, episodes, evals, progress")
        return self


class Condition(Table):
    """A metric compared with a number."""

    metric: Metric
    """A metric of the glossary, progress (fraction of training done), actions (number of times that rules have changed
    the agent), or updates_left (updates still to come at the pace so far; an update of fewer than 4,096 env steps
    counts in proportion)."""
    op: Comparison
    """Comparison operator."""
    value: Number
    """Number to compare with."""
    agg: Literal["last", "mean", "median", "min", "max", "ewma"] = "last"
    """Aggregate of several values."""
    span: Count = 1
    """Number of values."""
    patience: Count = 1
    """Number of consecutive checks for which it must hold."""


class All(Table):
    """Every part holds."""

    all: Annotated[Items[Trigger], MinLen(1)]
    """The parts."""


class AnyOf(Table):
    """At least one part holds."""

    any: Annotated[Items[Trigger], MinLen(1)]
    """The parts."""


class Not(Table):
    """The part does not hold."""

    model_config = ConfigDict(validate_by_alias=True)

    part: Trigger = Field(alias="not")
    """The part."""


def _kind_of_trigger(value: Any) -> str | None:
    if isinstance(value, str):
        return "symptom"
    keys = value if isinstance(value, dict) else set_fields(value) if isinstance(value, Table) else ()
    return next((key for key in ("metric", "all", "any", "not") if key in keys), None)


Trigger = Annotated[
    Annotated[Symptom, Tag("symptom")]
    | Annotated[Condition, Tag("metric")]
    | Annotated[All, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")],
    Discriminator(
        _kind_of_trigger,
        custom_error_type="unknown_form",
        custom_error_message="expected a symptom, or { metric, op, value }, { all = […] }, { any = […] }, { not = … }",
    ),
]


def named_symptoms(trigger: Any) -> Iterator[str]:
    """Yield the symptoms in all parts of a trigger."""
    match trigger:
        case str():
            yield trigger.partition(":")[0]
        case All(all=parts) | AnyOf(any=parts):
            for part in parts:
                yield from named_symptoms(part)
        case Not(part=part):
            yield from named_symptoms(part)


def reads_the_clock(trigger: Any) -> bool:
    """Return True if a trigger depends on wall-clock time."""
    match trigger:
        case str():
            return trigger.partition(":")[0] == "run.slow"
        case Condition(metric=metric):
            return metric.startswith("perf/")
        case All(all=parts) | AnyOf(any=parts):
            return any(map(reads_the_clock, parts))
        case Not(part=part):
            return reads_the_clock(part)
    return False


All.model_rebuild()
AnyOf.model_rebuild()
Not.model_rebuild()
