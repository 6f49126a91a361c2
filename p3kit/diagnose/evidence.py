"""Input of the detectors: the recorded series of one agent on a common clock, its spec and its events.

A *tick* is 4,096 env steps of one agent. Rows closer than a tick are pooled into one; other rows stay unchanged. So a
window of three ticks means the same for any `n_steps × num_envs`. A detector uses only the current tick and earlier
ones: a run gets the same findings live and afterwards.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TICK = 4_096
"""Env steps of one agent."""


class Recorded(Protocol):
    """A metric as recorded: equally long arrays (rows,), steps not decreasing. `p3kit.rundir.Series` is one."""

    @property
    def steps(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[Any]: ...
    @property
    def iterations(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Ticks:
    """A metric on the common clock: one finite value per tick that has one. All arrays (ticks,)."""

    steps: NDArray[np.int64]
    values: Floats
    iterations: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, steps: NDArray[np.int64]) -> Floats:
        """The last value known at each of `steps` (the metric may be recorded less often); NaN before the first."""
        index = np.searchsorted(self.steps, steps, side="right") - 1
        if not len(self):
            return np.full(len(steps), np.nan)
        return np.where(index >= 0, self.values[np.maximum(index, 0)], np.nan)

    def before(self, step: int) -> Floats:
        """The values up to and including `step`."""
        return self.values[self.steps <= step]

    @property
    def covered(self) -> int:
        """Ticks of training that these rows cover; more than their number if an iteration spans several ticks."""
        return max(len(self), int(self.steps[-1]) // TICK) if len(self) else 0

    def rows_for(self, ticks: int, least: int = 2) -> int:
        """Number of rows in a window of `ticks`: as many, or fewer (never below `least`) where rows lie further
        apart."""
        if len(self) < 2:
            return max(least, ticks)
        spacing = max(float(np.median(np.diff(self.steps))), TICK)
        return max(min(least, ticks), int(np.ceil(ticks * TICK / spacing)))


_NONE = Ticks(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))


def to_ticks(series: Recorded, reduce: Literal["mean", "max", "min", "sum"] = "mean") -> Ticks:
    """Pool the finite values of a recorded series by tick. An infinite or missing value is num.nan's business."""
    steps, values = np.asarray(series.steps, np.int64), np.asarray(series.values, np.float64)
    iterations = np.asarray(series.iterations, np.int64)
    finite = np.isfinite(values)
    steps, values, iterations = steps[finite], values[finite], iterations[finite]
    if not len(steps):
        return _NONE
    tick = (steps + TICK - 1) // TICK
    new = tick[1:] != tick[:-1]
    if new.all():  # most are recorded once a tick
        return Ticks(steps, values, iterations)
    last = np.flatnonzero(np.append(new, True))
    first = np.concatenate([[0], last[:-1] + 1])
    pooled = {"mean": np.add, "sum": np.add, "max": np.maximum, "min": np.minimum}[reduce].reduceat(values, first)
    if reduce == "mean":
        pooled = pooled / (last - first + 1)
    return Ticks(steps[last], pooled, iterations[last])


@dataclass(frozen=True)
class Evidence:
    """One agent's record. `spec` is its resolved spec as a plain dict; `events` those of this agent or of the whole
    run."""

    agent: str
    series: Mapping[str, Recorded]
    spec: Mapping[str, Any]
    total_timesteps: int
    events: Sequence[Mapping[str, Any]] = ()
    device: str = "cpu"
    task: str = ""
    """The Gymnasium or EnvPool task it trains on; "" for bars."""
    failure: str = ""
    """Last output of a failed or crashed run."""
    peers: Sequence[Evidence] = ()
    """The other agents of the run: a free control group."""
    twins: Sequence[tuple[str, Mapping[str, Recorded]]] | None = None
    """(run, series of this agent) of earlier runs of one spec, seed, data and commit; None if not searched."""
    _pooled: dict[tuple[str, str], Ticks] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def last_step(self) -> int:
        """Env steps recorded so far."""
        return max((int(series.steps[-1]) for series in self.series.values() if len(series.steps)), default=0)

    def has(self, *metrics: str) -> bool:
        return all(len(self.ticks(metric)) for metric in metrics)

    def ticks(self, metric: str, reduce: Literal["mean", "max", "min", "sum"] = "mean") -> Ticks:
        """The metric by tick; empty where the run did not record it."""
        if metric not in self.series:
            return _NONE
        if (metric, reduce) not in self._pooled:  # forty rows read the same few metrics
            self._pooled[metric, reduce] = to_ticks(self.series[metric], reduce)
        return self._pooled[metric, reduce]

    def evaluations(self, metric: str) -> Ticks:
        """A metric of the evaluations, each one by itself (they are never pooled)."""
        if metric not in self.series:
            return _NONE
        series = self.series[metric]
        values = np.asarray(series.values, np.float64)
        finite = np.isfinite(values)
        return Ticks(
            np.asarray(series.steps, np.int64)[finite], values[finite], np.asarray(series.iterations, np.int64)[finite]
        )

    def sharpe_errors(self, steps: NDArray[np.int64]) -> Floats:
        """(n,) standard errors of the validation Sharpe ratios at these steps, 0 where none is recorded."""
        error = np.zeros(len(steps))
        for event in self.events_of("evaluation"):
            interval = event.get("sharpe_interval")
            if event.get("split", "validation") == "validation" and interval and interval[1] is not None:
                error[steps == step_of(event)] = (float(interval[1]) - float(interval[0])) / (2 * 1.96)
        return error

    def since(self, step: int) -> Evidence:
        """The record after an env step alone; the events stay."""
        series = {}
        for name, one in self.series.items():
            kept = np.asarray(one.steps) > step
            series[name] = Ticks(one.steps[kept], one.values[kept], one.iterations[kept])
        return replace(self, series=series)

    def progress(self, steps: NDArray[np.int64] | int) -> Any:
        """Share of training done, 0 to 1."""
        return steps / max(self.total_timesteps, 1)

    def setting(self, path: str) -> Any:
        """A value of the resolved spec by dotted path; None where there is none."""
        node: Any = self.spec
        for key in path.split("."):
            if not isinstance(node, Mapping) or key not in node:
                return None
            node = node[key]
        return node

    def effective(self, path: str, step: int | None = None) -> Any:
        """The value in force at `step` (default: the last one recorded), after schedules; the spec's where none is
        recorded."""
        ticks = self.ticks(f"effective/{path}")
        if len(ticks):
            values = ticks.values if step is None else ticks.before(step)
            value = float(values[-1] if len(values) else ticks.values[0])
            return round(value) if isinstance(self.setting(path), int) else value
        return self.setting(path)

    def events_of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event.get("kind") == kind]

    @property
    def reduced_precision(self) -> bool:
        """Return True if the update ran in bf16 or fp16, where rounding alone moves the ratio by up to 2e-2."""
        precision = self.setting("compute.precision")
        return precision in ("bf16", "fp16") or (precision == "auto" and self.device.startswith("cuda"))


def step_of(event: Mapping[str, Any]) -> int:
    return int(event.get("global_step") or 0)


def trailing(values: Floats, width: int, function: Callable[..., Any]) -> Floats:
    """`function` of the last `width` values at each place, NaN before there are that many. (n,) → (n,)

    `function` takes all windows at once (m, width) with `axis=-1`, as numpy's own do.
    """
    result = np.full(len(values), np.nan)
    if len(values) >= width:
        result[width - 1 :] = function(sliding_window_view(values, width), axis=-1)
    return result


def robust_jump(values: Floats, noise: Floats, width: int = 10, minimum: int = 5) -> Floats:
    """Distance of each value above the median of the `width` before it, in robust standard deviations. (n,) → (n,)

    1.4826 MAD estimates the deviation; `noise` (n,), the metric's own sampling error, is added so that a few quiet
    ticks cannot make the next one look like a jump. NaN before `minimum` earlier values.
    """
    before = _before(values, width)
    centre = _median_before(before)
    spread = 1.4826 * _median_before(np.abs(before - centre[:, None])) + noise
    result = np.full(len(values), np.nan)
    known = (np.arange(len(values)) >= minimum) & (spread > 0)
    np.divide(values - centre, spread, out=result, where=known)
    return result


def median_before(values: Floats, width: int) -> Floats:
    """The median of the at most `width` values before each place; NaN before the first. (n,) → (n,)"""
    return _median_before(_before(values, width))


def median_so_far(values: Floats) -> Floats:
    """The median of the values up to each place, NaN left out. (n,) → (n,)"""
    ordered: list[float] = []
    medians = np.full(len(values), np.nan)
    for i, value in enumerate(values.tolist()):
        if not math.isnan(value):
            insort(ordered, value)
        if count := len(ordered):
            medians[i] = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return medians


def _before(values: Floats, width: int) -> Floats:
    """The `width` values before each place (n, width), infinite where there are none yet."""
    return sliding_window_view(np.concatenate([np.full(width, np.inf), values]), width)[:-1]


def _median_before(before: Floats) -> Floats:
    """The median of each row of `_before`, or of distances between finite values and one of them: what is missing
    sorts to the end."""
    place = np.arange(len(before))
    count = np.minimum(place, before.shape[1])
    ordered = np.sort(before, -1)
    middle = (ordered[place, np.maximum(count - 1, 0) // 2] + ordered[place, count // 2]) / 2
    return np.where(count > 0, middle, np.nan)


@dataclass(frozen=True)
class Span:
    """A stretch in which a condition held: its first and last index into the ticks; `open` when it reached the end."""

    first: int
    last: int
    open: bool


def sustained(condition: Bools, patience: int, iterations: NDArray[np.int64] | None = None) -> Span | None:
    """The time in which `condition` (n,) held for at least `patience` ticks in a row; None if it never did.

    With `iterations`, a stretch counts only if it touches two of them: ticks within one iteration share one policy and
    are one piece of evidence. Several stretches are reported as one, from the first tick of the first to the end of
    the last.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], condition, [False]]).astype(np.int8)))
    first = last = None
    for start, stop in zip(edges[::2], edges[1::2] - 1, strict=True):
        long_enough = stop - start + 1 >= patience
        if long_enough and (patience == 1 or iterations is None or iterations[start] != iterations[stop]):
            first = start if first is None else first
            last = stop
    if first is None or last is None:
        return None
    return Span(int(first), int(last), bool(last == len(condition) - 1))


def breached(
    condition: Bools, patience: int, gross: Bools, least: int = 1, iterations: NDArray[np.int64] | None = None
) -> Span | None:
    """`sustained`, where a gross breach (n,), one that no healthy run comes near, need last `least` ticks only."""
    spans = [sustained(condition | gross, patience, iterations), sustained(gross, least, iterations)]
    found = [span for span in spans if span is not None]
    if not found:
        return None
    return Span(min(s.first for s in found), max(s.last for s in found), any(s.open for s in found))


def extended(span: Span, condition: Bools) -> Span:
    """`span` up to the end of the stretch in which `condition` (n,) holds: for rows that may only begin early in
    training, and end whenever they end."""
    last = span.last
    while last + 1 < len(condition) and condition[last + 1]:
        last += 1
    return Span(span.first, last, last == len(condition) - 1)
