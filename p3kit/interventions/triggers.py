"""Evaluation of triggers: symptoms, comparisons of metrics, and all / any / not of them.

A trigger is True, False or None. A metric that was not recorded yet gives None, and so does its `not`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p3kit.diagnose import Finding
from p3kit.interventions.record import Record
from p3kit.spec.conditions import All, AnyOf, Condition, Not
from p3kit.symptoms import SYMPTOMS

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass
class Snapshot:
    """The data of one rule at one check, and the support that was found for its trigger."""

    record: Record
    findings: Mapping[str, Finding]
    """The open symptoms by id."""
    own: Mapping[str, float]
    """Values that compare like metrics without being recorded: progress, actions and updates_left."""
    causes: Sequence[str] | None
    """Causes that the rule acts on; None: those that can be repaired."""
    harmless: bool
    """True if the rule does not change the training, so that any cause counts."""
    streaks: dict[str, int]
    """Consecutive checks for which each condition of the rule has held; updated by every evaluation."""
    answered: frozenset[str] = frozenset()
    """Symptoms that a rule of the spec acts on by their likeliest cause."""
    support: list[Finding | Condition] = field(default_factory=list)

    def holds(self, trigger: Any, place: str) -> bool | None:
        """Evaluate `trigger`. Every part is evaluated, so that every streak is updated."""
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
                self.support = support  # the support of a part does not support its `not`
                return None if held is None else not held
        raise TypeError(f"{trigger!r} is no trigger")

    def any_of(self, triggers: Sequence[Any]) -> bool:
        """True if at least one of the triggers holds."""
        return _any([self.holds(trigger, str(n)) for n, trigger in enumerate(triggers)]) is True

    def compares(self, condition: Condition, place: str) -> bool | None:
        """True once a comparison has held for `patience` consecutive checks."""
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
        finding = self.findings.get(trigger.partition(":")[0])
        if finding is None:
            return False
        if not self.harmless and finding.follows in self.findings and finding.follows in self.answered:
            return False  # a rule acts on the root
        acts = acts_on(finding, trigger, self.causes, harmless=self.harmless)
        if acts:
            self.support.append(finding)
        return acts


def acts_on(finding: Finding, trigger: str, causes: Sequence[str] | None, *, harmless: bool = False) -> bool:
    """True if a trigger (SYMPTOM or SYMPTOM:CAUSE) with the causes of its rule takes the likeliest cause."""
    name, _, cause = trigger.partition(":")
    top = finding.causes[0].id if finding.causes else None
    if finding.symptom != name:
        return False
    if cause:
        return top == cause
    if causes is not None:
        return top in causes
    return harmless or top is None or SYMPTOMS[name].cause(top).automatic


def aggregated(record: Record, condition: Condition) -> float | None:
    """Aggregate the last `span` finite values of a metric; None if there are none yet."""
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
        case "ewma":  # the usual weight of a span of n values: 2 / (n + 1)
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
