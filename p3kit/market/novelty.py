"""Novelty: the distance of an agent's inputs from the bars it was trained on.

The features of a bar are used in three ways: the newest bar, the mean over a window of bars, and the logarithm of the
standard deviation over that window. In each of the three, a residual is the distance of one feature from the value that
the other features predict, in standard deviations. It is (P z)ᵢ / √Pᵢᵢ with z the standardised values and P the inverse
of their covariance on the training bars. Its square is feature i's own part of the squared Mahalanobis distance
(Mahalanobis 1936). The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004).

The distance of a bar is its largest residual. The threshold is the split conformal one (Vovk, Gammerman and Shafer
2005): the ⌈0.99 (n + 1)⌉-th smallest distance of the n validation bars. It gives 1 % false alarms where bars are
exchangeable. Bars are not: neighbours share up to 88 bars of history, and markets change. So the record also holds a
block-bootstrap interval of the rate. docs/evaluation.md has rates measured on other bars.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from p3kit.market.bars import Floats
from p3kit.market.features import LOOKBACK
from p3kit.market.symbol_data import SymbolData
from p3kit.significance import LONGEST, block_counts

FALSE_ALARMS = 0.01
"""Fraction of validation bars beyond the threshold."""

WINDOW_BARS = 24
"""Longest window of the mean and the spread. An agent with a shorter `env.window` has that one."""

LEAST_WINDOW = 8
"""Bars below which an agent's window is too short for a mean, a spread or a frozen feature."""

FROZEN = 1e-6
"""Standard deviation over the window, in training standard deviations, at or below which a feature is frozen."""

_LEAST_SPREAD = 1e-4
"""Smallest spread whose logarithm is taken."""
_LEAST_SHRINKAGE = 1e-3
_CONSTANT = 1e-9
MOST_ROWS = 20_000
"""Training rows that means and covariances are computed from, evenly spaced; ranges have all of them."""

_ROWS = 4_096
"""Rows at a time, to bound memory."""
_QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)


@dataclass(frozen=True)
class Novelty:
    """The inputs of one decision beside the training bars."""

    distance: float
    """Largest residual of a feature, in standard deviations; see `p3kit.market.novelty`."""
    threshold: float
    """Distance that 1 % of the validation bars exceed."""
    unusual: tuple[str, ...] = ()
    """Features whose residual is above the threshold, the largest first."""
    outside: tuple[str, ...] = ()
    """Features whose newest value is outside the range of the training bars."""
    outside_fraction: float = 0.0
    """Fraction of the features that are outside."""
    frozen: tuple[str, ...] = ()
    """Features that are constant over the window, and never were on training and validation bars."""

    @property
    def is_novel(self) -> bool:
        """True where the distance is above the threshold or a feature is frozen."""
        return self.distance > self.threshold or bool(self.frozen)

    @property
    def warning(self) -> str:
        """A sentence that names the features; empty where nothing is novel."""
        if not self.is_novel:
            return ""
        parts = [f"distance {self.distance:.3g}, threshold {self.threshold:.3g}"]
        lists = (("unusual", self.unusual), ("outside the training range", self.outside), ("frozen", self.frozen))
        parts += [f"{title}: {', '.join(names)}" for title, names in lists if names]
        return f"the inputs are unlike the training bars ({'; '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "novel": self.is_novel,
            "distance": self.distance,
            "threshold": self.threshold,
            "unusual": list(self.unusual),
            "outside": list(self.outside),
            "outside_fraction": self.outside_fraction,
            "frozen": list(self.frozen),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Novelty:
        """Read what `to_dict` returned."""
        unusual, outside, frozen = (tuple(table[key]) for key in ("unusual", "outside", "frozen"))
        distance, threshold, fraction = (float(table[key]) for key in ("distance", "threshold", "outside_fraction"))
        return cls(distance, threshold, unusual, outside, fraction, frozen)


@dataclass(frozen=True, eq=False)
class Part:
    """Training statistics of one way to look at the features; C of the F features take part."""

    columns: tuple[int, ...]
    mean: Floats  # (C,)
    scale: Floats  # (C,)
    precision: Floats  # (C, C), the inverse of the shrunk covariance of the standardised values

    @classmethod
    def of(cls, values: Floats, columns: Sequence[int]) -> Part:
        """The statistics of the training rows `values` (N, F)."""
        mean, scale = values.mean(0), values.std(0)
        kept = [column for column in columns if scale[column] > _CONSTANT]
        precision = np.linalg.inv(shrunk_covariance((values[:, kept] - mean[kept]) / scale[kept]))
        return cls(tuple(kept), _rounded(mean[kept]), _rounded(scale[kept]), _rounded((precision + precision.T) / 2))

    def residuals(self, values: Floats) -> Floats:
        """|residual| of each feature, (N, F); 0 for a feature that does not take part. Rows are independent."""
        out = np.zeros(values.shape)
        if self.columns:
            kept = list(self.columns)
            weights = self.precision / np.sqrt(np.diag(self.precision))[:, None]
            standardised = (values[:, kept] - self.mean) / self.scale
            # a sum over the last axis, since the rounding of a matrix product depends on the number of rows
            out[:, kept] = np.abs(np.multiply(standardised[:, None, :], weights, order="C").sum(-1))
        return out

    def to_json(self) -> dict[str, Any]:
        lower = self.precision[np.tril_indices(len(self.columns))]
        return {
            "columns": list(self.columns),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "precision": lower.tolist(),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Part:
        columns = tuple(int(column) for column in table["columns"])
        precision = np.zeros((len(columns), len(columns)))
        precision[np.tril_indices(len(columns))] = table["precision"]
        precision = precision + np.tril(precision, -1).T
        return cls(columns, np.asarray(table["mean"], float), np.asarray(table["scale"], float), precision)


@dataclass(frozen=True, eq=False)
class Distribution:
    """The training distribution of the features of one symbol, and the threshold of its distance."""

    names: tuple[str, ...]
    window: int
    """Bars of the mean and the spread; 1 where the agent's window is too short for them."""
    bars: int
    low: Floats  # (F,)
    high: Floats  # (F,)
    scale: Floats  # (F,) standard deviation on the training bars; 1 where a feature is constant
    quantiles: Mapping[str, Floats]
    parts: Mapping[str, Part]
    """`bar`, and `mean` and `spread` of the window."""
    constant: tuple[int, ...]
    """Features with one value on all training and validation bars. Another value is as novel as can be."""
    watched: tuple[int, ...]
    """Features that are never constant over a window of training and validation bars."""
    threshold: float = math.inf
    calibration: Mapping[str, Any] | None = None

    def residuals(self, features: NDArray[Any], first: int, last: int) -> Iterator[tuple[Floats, Floats, Floats]]:
        """Per chunk of the rows first … last − 1: values, residuals, standard deviations of windows, (n, F) each.

        The residual of a feature is the largest of its parts.
        """
        for begin, end in _chunks((first, last)):
            looks = views(features, begin, end, self.window, self.scale)
            found = np.max([part.residuals(looks[name]) for name, part in self.parts.items()], axis=0)
            moved = list(self.constant)
            found[:, moved] = np.abs(looks["bar"][:, moved] - self.low[moved]) / _CONSTANT
            yield looks["bar"], found, looks.get("standard deviation", np.ones_like(found))

    def assess(self, features: NDArray[Any]) -> Novelty:
        """The novelty of the last row of `features` (at least `window` rows, F). Rows before the window do not count.

        Raises ValueError for too few rows and for values that are not finite.
        """
        return self.assess_rows(features, len(features) - 1, len(features))[0]

    def assess_rows(self, features: NDArray[Any], first: int, last: int) -> list[Novelty]:
        """The novelty of each of the rows first … last − 1 of `features` (T, F)."""
        if first < self.window - 1:
            raise ValueError(f"row {first} has no window of {self.window} rows behind it")
        table = features[first - self.window + 1 : last]
        if not np.isfinite(table).all():
            raise ValueError("a feature is not finite")
        return [
            self._novelty(*row)
            for chunk in self.residuals(table, self.window - 1, len(table))
            for row in zip(*chunk, strict=True)
        ]

    def _novelty(self, values: Floats, residuals: Floats, spread: Floats) -> Novelty:
        order = np.argsort(-residuals, kind="stable")
        outside = np.flatnonzero((values < self.low) | (values > self.high))
        frozen = [column for column in self.watched if spread[column] <= FROZEN]
        return Novelty(
            distance=float(residuals.max(initial=0.0)),
            threshold=self.threshold,
            unusual=tuple(self.names[i] for i in order if residuals[i] > self.threshold),
            outside=tuple(self.names[i] for i in outside),
            outside_fraction=len(outside) / max(len(self.names), 1),
            frozen=tuple(self.names[i] for i in frozen),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; floats come back bit for bit."""
        return {
            "features": list(self.names),
            "window": self.window,
            "bars": self.bars,
            "range": [self.low.tolist(), self.high.tolist()],
            "scale": self.scale.tolist(),
            "quantiles": {name: values.tolist() for name, values in self.quantiles.items()},
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "constant": list(self.constant),
            "watched": list(self.watched),
            "threshold": self.threshold,
            "calibration": dict(self.calibration or {}),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Distribution:
        """The distribution that `to_json` wrote."""
        low, high = (np.asarray(edge, float) for edge in table["range"])
        return cls(
            names=tuple(table["features"]),
            window=int(table["window"]),
            bars=int(table["bars"]),
            low=low,
            high=high,
            scale=np.asarray(table["scale"], float),
            quantiles={name: np.asarray(values, float) for name, values in table["quantiles"].items()},
            parts={name: Part.from_json(part) for name, part in table["parts"].items()},
            constant=tuple(table["constant"]),
            watched=tuple(table["watched"]),
            threshold=float(table["threshold"]),
            calibration=table["calibration"],
        )


def count_novel(distribution: Distribution, features: NDArray[Any], first: int, last: int) -> dict[str, Any]:
    """Novel bars among the rows first … last − 1, as plain values: their number, the first one, and the features. Each
    feature has its number of unusual or frozen bars, the most frequent first."""
    found = distribution.assess_rows(features, first, last)
    named = Counter(name for one in found if one.is_novel for name in {*one.unusual, *one.frozen})
    rows = [first + at for at, one in enumerate(found) if one.is_novel]
    return {
        "bars": len(found),
        "novel": len(rows),
        "first": rows[0] if rows else None,
        "expected": FALSE_ALARMS,
        "features": dict(sorted(named.items(), key=lambda item: (-item[1], item[0]))),
    }


def distribution_of(data: SymbolData, window: int) -> Distribution:
    """The training distribution of a symbol for an agent with `env.window = window`, calibrated on validation bars."""
    return fit_distribution(data.features, data.feature_names, data.splits["train"], data.splits["validation"], window)


def fit_distribution(
    features: NDArray[Any], names: Sequence[str], train: tuple[int, int], validation: tuple[int, int], window: int
) -> Distribution:
    """The distribution of features (T, F) on the training rows, with a threshold from the validation rows.

    `train` and `validation` are half-open ranges of rows, each with `window` − 1 finite rows before it.
    """
    bars = min(window, WINDOW_BARS) if window >= LEAST_WINDOW else 1
    values, later = features[slice(*train)], features[slice(*validation)]
    scale = np.asarray(values, float).std(0)
    scale = np.where(scale > _CONSTANT, scale, 1.0)
    looks = _gather(features, train, bars, scale, MOST_ROWS)
    # a feature with two values or fewer, such as a regime, is no matter of distances
    low, high = values.min(0), values.max(0)
    varied = np.flatnonzero(((values != low) & (values != high)).any(0))
    is_still = (low == high) & (later == low).all(0)
    freezes = [_ever_frozen(features, rows, bars, scale) for rows in (train, validation) if bars > 1]
    watched = [int(i) for i in varied if bars > 1 and not any(found[i] for found in freezes)]
    taking_part = {"bar": varied.tolist(), "mean": watched, "spread": watched}
    quantiles = zip(_QUANTILES, np.quantile(values, _QUANTILES, axis=0), strict=True)
    distribution = Distribution(
        names=tuple(names),
        window=bars,
        bars=len(values),
        low=np.asarray(low, float),
        high=np.asarray(high, float),
        scale=_rounded(scale),
        quantiles={f"{level:g}": _rounded(found) for level, found in quantiles},
        parts={name: Part.of(looks[name], columns) for name, columns in taking_part.items() if name in looks},
        constant=tuple(np.flatnonzero(is_still).tolist()),
        watched=tuple(watched),
    )
    return calibrated(distribution, features, validation)


def calibrated(distribution: Distribution, features: NDArray[Any], rows: tuple[int, int]) -> Distribution:
    """The distribution with the threshold that 1 % of the rows (a half-open range of bars) exceed."""
    found = distribution.residuals(features, *rows)
    distances = np.concatenate([residuals.max(1, initial=0.0) for _, residuals, _ in found])
    rank = min(len(distances), math.ceil((1 - FALSE_ALARMS) * (len(distances) + 1)))
    threshold = float(np.sort(distances)[rank - 1])
    alarms = distances > threshold
    block = distribution.window + LOOKBACK
    calibration = {
        "split": "validation",
        "bars": len(distances),
        "false_alarms": float(alarms.mean()),
        "interval": list(alarm_interval(alarms, block)),
        "block_bars": block,
    }
    return replace(distribution, threshold=threshold, calibration=calibration)


def alarm_interval(alarms: NDArray[np.bool_], block: int) -> tuple[float, float]:
    """95 % interval of the rate of alarms (T,): percentiles of the stationary bootstrap, in blocks of `block` bars."""
    group = math.ceil(len(alarms) / LONGEST)
    edges = np.arange(0, len(alarms), group)
    found, bars = np.add.reduceat(alarms.astype(float), edges), np.diff(np.append(edges, len(alarms)))
    counts = block_counts(len(edges), max(block / group, 1.0)).astype(float)
    low, high = np.quantile((counts @ found) / (counts @ bars), [0.025, 0.975])
    return float(low), float(high)


def views(
    features: NDArray[Any], first: int, last: int, window: int, scale: Floats, every: int = 1
) -> dict[str, Floats]:
    """The rows first, first + every, … below last of features (T, F), each (n, F): `bar`, and over the window that
    ends there `mean`, `standard deviation` (in training ones) and `spread`, its logarithm. A window of 1 has none of
    the last three."""
    rows = np.asarray(features[first - window + 1 : last], dtype=np.float64)
    looks = {"bar": rows[window - 1 :: every]}
    if window > 1:
        windows = np.ascontiguousarray(sliding_window_view(rows, window, axis=0)[::every])  # (n, F, window)
        spread = windows.std(-1) / scale
        looks |= {"mean": windows.mean(-1), "standard deviation": spread}
        looks["spread"] = np.log(np.maximum(spread, _LEAST_SPREAD))
    return looks


def _chunks(rows: tuple[int, int]) -> list[tuple[int, int]]:
    return [(begin, min(begin + _ROWS, rows[1])) for begin in range(*rows, _ROWS)]


def _gather(features: NDArray[Any], rows: tuple[int, int], window: int, scale: Floats, most: int) -> dict[str, Floats]:
    """`views` of at most `most` evenly spaced rows of a half-open range."""
    every = math.ceil((rows[1] - rows[0]) / most)
    found: dict[str, list[Floats]] = {}
    for begin, end in _chunks(rows):
        if (first := begin + (rows[0] - begin) % every) >= end:
            continue  # the last chunk may have no such row
        for name, values in views(features, first, end, window, scale, every).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def _ever_frozen(features: NDArray[Any], rows: tuple[int, int], window: int, scale: Floats) -> NDArray[np.bool_]:
    """(F,) True for a feature that is frozen over a window that ends in a half-open range of rows."""
    table = np.asarray(features[rows[0] - window + 1 : rows[1]], dtype=np.float64)
    # the range of a window is at most √(2 window) of its standard deviations, and so is each step inside it
    is_small = np.abs(np.diff(table, axis=0)) <= 2 * math.sqrt(window) * FROZEN * scale
    is_still = np.asarray(sliding_window_view(is_small, window - 1, axis=0).all(-1))
    found = np.zeros(features.shape[1], bool)
    for column in np.flatnonzero(is_still.any(0)):
        windows = sliding_window_view(table[:, column], window)[is_still[:, column]]
        found[column] = (windows.std(-1) / scale[column]).min() <= FROZEN
    return found


def shrunk_covariance(values: Floats) -> Floats:
    """Covariance (C, C) of standardised values (N, C), shrunk towards its mean variance (Ledoit and Wolf 2004)."""
    rows, columns = values.shape
    sample = values.T @ values / rows
    target = np.eye(columns) * (np.trace(sample) / max(columns, 1))
    distance = ((sample - target) ** 2).sum()
    error = ((values**2).sum(1) ** 2).sum() / rows**2 - (sample**2).sum() / rows
    weight = 1.0 if distance <= 0 else float(np.clip(error / distance, _LEAST_SHRINKAGE, 1.0))
    return np.asarray((1 - weight) * sample + weight * target)


def _rounded(values: Floats) -> Floats:
    """Values to nine digits, which float32 needs: the record stays short, and is what the distance is computed with."""
    return np.array([float(f"{value:.9g}") for value in values.flat]).reshape(values.shape)
