"""Whether a trigger holds: symptoms, comparisons of metrics, and all / any / not of them.

Answers have three values. What was not recorded yet is neither true nor false (None), so that a `not` of it does not
hold either.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p3kit.diagnose import Finding
from p3kit.runtime.record import Record
from p3kit.spec.interventions import All, AnyOf, Condition, Not
from p3kit.symptoms import SYMPTOMS

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass
class Look:
    """One check of one rule: what is known, and what was found to support the answer."""

    record: Record
    findings: Mapping[str, Finding]
    """The open symptoms by id."""
    own: Mapping[str, float]
    """What may be compared like a metric without being recorded: progress and actions."""
    causes: Sequence[str] | None
    """Causes that the rule acts on; None: those that can be repaired."""
    harmless: bool
    """Whether the rule leaves the training alone, so that any cause will do."""
    streaks: dict[str, int]
    """Checks in a row for which each condition of the rule has held; moved on by the look."""
    support: list[Finding | Condition] = field(default_factory=list)

    def holds(self, trigger: Any, place: str) -> bool | None:
        """Whether `trigger` holds. Every part is looked at, so that every streak moves on."""
        match trigger:
            case str():
                return self._symptom(trigger)
            case Condition():
                return self.compares(trigger, place)
            case All(all=parts):
                return _all([self.holds(part, f"{place}.{n}") for n, part in enumerate(parts)])
            case AnyOf(any=parts):
                return _any([self.holds(part, f"{place}.{n}") for n, part in enumerate(parts)])
            case Not(part=part):
                support = list(self.support)
                held = self.holds(part, f"{place}.not")
                self.support = support  # what makes a part true does not support its opposite
                return None if held is None else not held
        raise TypeError(f"{trigger!r} is no trigger")

    def any_of(self, triggers: Sequence[Any]) -> bool:
        """Whether at least one of the listed triggers holds."""
        return _any([self.holds(trigger, str(n)) for n, trigger in enumerate(triggers)]) is True

    def compares(self, condition: Condition, place: str) -> bool | None:
        """Whether a metric has compared as asked for `patience` checks in a row."""
        own = condition.metric in self.own
        value = self.own[condition.metric] if own else aggregated(self.record, condition)
        if value is None:
            self.streaks[place] = 0
            return None
        streak = self.streaks.get(place, 0) + 1 if COMPARE[condition.op](value, condition.value) else 0
        self.streaks[place] = streak
        if streak >= condition.patience:
            self.support.append(condition)
            return True
        return False

    def _symptom(self, trigger: str) -> bool:
        name, _, cause = trigger.partition(":")
        finding = self.findings.get(name)
        if finding is None:
            return False
        top = finding.causes[0].id if finding.causes else None
        if cause:
            acts = top == cause
        elif self.causes is not None:
            acts = top in self.causes
        else:
            acts = self.harmless or top is None or SYMPTOMS[name].cause(top).automatic
        if acts:
            self.support.append(finding)
        return acts


def aggregated(record: Record, condition: Condition) -> float | None:
    """One number of the last `span` finite values of a metric; None where there are none yet."""
    values = np.array([value for value in record.last(condition.metric, condition.span) if np.isfinite(value)])
    if not len(values):
        return None
    match condition.agg:
        case "mean":
            return float(values.mean())
        case "median":
            return float(np.median(values))
        case "min":
            return float(values.min())
        case "max":
            return float(values.max())
        case "ewma":  # of the weight that a span of n values usually gets: 2 / (n + 1)
            keep = 1 - 2 / (condition.span + 1)
            weights = keep ** np.arange(len(values))[::-1]
            return float(weights @ values / weights.sum())
    return float(values[-1])


def _all(answers: Sequence[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _any(answers: Sequence[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False
