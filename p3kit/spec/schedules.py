"""Schedules: numbers that move while a run trains. `progress` is the share of training done, from 0 to 1."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, Field

from p3kit.spec.base_model import Items, Number, Pair, Positive, Table


class Constant(Table):
    """The same value throughout; cancels a schedule of a base spec."""

    kind: Literal["constant"]
    """constant"""
    value: Number
    """The value."""


class Linear(Table):
    """A straight line."""

    kind: Literal["linear"]
    """linear"""
    start: Number
    """Value at the start."""
    end: Number
    """Value at the end."""


class Cosine(Table):
    """Half a cosine: flat at both ends, steepest in the middle."""

    kind: Literal["cosine"]
    """cosine"""
    start: Number
    """Value at the start."""
    end: Number
    """Value at the end."""


class Exponential(Table):
    """The same factor over equal parts of the training: a straight line on a log scale."""

    kind: Literal["exponential"]
    """exponential"""
    start: Positive
    """Value at the start, above 0."""
    end: Positive
    """Value at the end, above 0."""


def _points_in_order(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if any(not 0 <= progress <= 1 for progress, _ in points):
        raise ValueError("expected [progress, value] points with progress from 0 to 1")
    if any(earlier[0] >= later[0] for earlier, later in pairwise(points)):
        raise ValueError("expected [progress, value] points with rising progress")
    return points


class Piecewise(Table):
    """Straight lines between points, flat before the first and after the last."""

    kind: Literal["piecewise"]
    """piecewise"""
    points: Annotated[Items[Pair], MinLen(1), AfterValidator(_points_in_order)]
    """[[progress, value], …] with rising progress from 0 to 1."""


Schedule = Annotated[Constant | Linear | Cosine | Exponential | Piecewise, Field(discriminator="kind")]


def value_at(schedule: Schedule, progress: float) -> float:
    """The scheduled value. `progress` is clamped to [0, 1]; the value never leaves the schedule's own extremes."""
    done = min(max(progress, 0.0), 1.0)
    match schedule:
        case Constant(value=value):
            return value
        case Linear(start=start, end=end):
            return _mix(start, end, done)
        case Cosine(start=start, end=end):
            return _mix(start, end, 0.5 - 0.5 * math.cos(math.pi * done))
        case Exponential(start=start, end=end):
            return _between(start * (end / start) ** done, start, end)
        case Piecewise(points=points):
            return _on_the_lines(points, done)


def extremes(schedule: Schedule) -> list[float]:
    """The values between which a schedule stays: what bounds must be checked against."""
    match schedule:
        case Constant(value=value):
            return [value]
        case Piecewise(points=points):
            return [value for _, value in points]
        case _:
            return [schedule.start, schedule.end]


def _on_the_lines(points: tuple[tuple[float, float], ...], done: float) -> float:
    if done <= points[0][0]:
        return points[0][1]
    for (left, start), (right, end) in pairwise(points):
        if done <= right:
            return _mix(start, end, (done - left) / (right - left))
    return points[-1][1]


def _mix(start: float, end: float, share: float) -> float:
    return _between(start * (1.0 - share) + end * share, start, end)


def _between(value: float, start: float, end: float) -> float:
    """Rounding may carry a value past an end by one bit; a schedule's bound is a promise."""
    return min(max(value, min(start, end)), max(start, end))
