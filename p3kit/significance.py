"""Intervals of Sharpe ratios and of their differences, and the error of the best of several.

All series of one call cover the same bars. A Sharpe ratio is a ratio of sums over bars, and a block bootstrap draws
whole bars. So one matrix product gives every draw of every policy: (draws, bars) counts times (bars, policies)
returns. The counts are cached, and common to all policies.

Sources: Politis and Romano 1994 (stationary bootstrap) · Politis and White 2004, Patton, Politis and White 2009
(block length, flat-top lag window) · Andrews and Monahan 1992 (prewhitening) · Ledoit and Wolf 2008 (studentised
differences of Sharpe ratios) · White 2000, Hansen 2005 (maximum over candidates).

Notation for shapes: B draws, U units of bars, K series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.metrics import student_quantile

Floats = NDArray[np.float64]
Interval = tuple[float, float]

DRAWS = 1_999
"""With one more than these, 2.5 % and 5 % are whole numbers of draws."""
LEVEL = 0.95
TAIL = 0.025
"""Largest p-value of what is "shown": a 95 % interval lies above 0."""
LONGEST = 1_024
"""Units of a bootstrap. A longer series is added up in groups of bars of equal length."""
LEAST_SHARE = 0.8
"""Of the variance: a long-run variance is not estimated below it."""
LEAST_BARS = 50
"""Bars with a return: from fewer there is no interval."""
_NO_SPREAD = 1e-14


@dataclass(frozen=True)
class Sums:
    """Returns of K series, added up over U units of neighbouring bars."""

    bars: Floats  # (U,) bars in each unit
    sums: Floats  # (U, K)
    squares: Floats  # (U, K)

    @classmethod
    def of(cls, returns: Floats) -> Sums:
        """Add up returns (T,) or (T, K)."""
        table = np.asarray(returns, dtype=np.float64)
        table = table[:, None] if table.ndim == 1 else table
        bars = unit_bars(len(table))
        if len(bars) == len(table):
            return cls(bars, table, table**2)
        starts = np.arange(len(bars)) * int(bars[0])
        return cls(bars, np.add.reduceat(table, starts), np.add.reduceat(table**2, starts))

    @classmethod
    def beside(cls, several: Sequence[Sums]) -> Sums:
        """All series of several, which have the same units."""
        return cls(several[0].bars, np.hstack([s.sums for s in several]), np.hstack([s.squares for s in several]))

    def only(self, columns: NDArray[np.int64]) -> Sums:
        """Some of the series."""
        return Sums(self.bars, self.sums[:, columns], self.squares[:, columns])

    @property
    def count(self) -> int:
        """K"""
        return int(self.sums.shape[1])

    @property
    def moments(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n − 1) per bar, (K,) each."""
        return _moments(self.bars.sum(), self.sums.sum(0), self.squares.sum(0))

    @property
    def sharpe(self) -> Floats:
        """(K,) per bar; 0 for a series that does not move."""
        return np.asarray(_ratio(*self.moments))

    @property
    def enough(self) -> NDArray[np.bool_]:
        """(K,) whether enough units have a return for an interval."""
        return np.asarray(((self.squares > 0).sum(0) >= LEAST_BARS) & _moves(*self.moments))

    @property
    def influence(self) -> tuple[Floats, Floats]:
        """(U, K) twice: influence of each unit on the Sharpe ratio, through mean and standard deviation.

        Means are 0. The long-run variance of the sum, over the number of bars, is the variance of the ratio (Lo 2002,
        Opdyke 2007).
        """
        mean, spread = self.moments
        spread = np.where(_moves(mean, spread), spread, 1.0)
        bars = self.bars[:, None]
        first = (self.sums - bars * mean) / spread
        second = (self.squares - 2 * mean * self.sums + bars * mean**2) / spread**2 - bars
        return first, -mean / spread / 2 * second


def unit_bars(length: int) -> Floats:
    """(U,) bars in each unit of a series of `length` bars. Raises ValueError for no bars."""
    if length < 1:
        raise ValueError(f"{length} bars: expected at least 1")
    edges = np.arange(0, length, math.ceil(length / LONGEST))
    return np.diff(np.append(edges, length)).astype(np.float64)


def _moments(bars: Any, total: Any, squares: Any) -> tuple[Any, Any]:
    """Mean and standard deviation (n − 1); in the precision of what comes in."""
    mean = total / bars
    spread = np.sqrt(np.maximum(squares - bars * mean**2, 0.0) / np.maximum(bars - 1, 1))
    return mean, spread


def _moves(mean: Any, spread: Any) -> Any:
    """True where the spread is more than rounding."""
    return spread > np.maximum(_NO_SPREAD, 1e-7 * np.abs(mean))


def _ratio(mean: Any, spread: Any) -> Any:
    return np.divide(mean, spread, out=np.zeros_like(mean), where=_moves(mean, spread))


@dataclass(frozen=True)
class Estimate:
    """K statistics over the same bars, with the bootstrap's estimate of their joint error."""

    value: Floats  # (K,)
    error: Floats  # (K,) standard error
    draws: Floats  # (B, K)
    """(draw − value) / standard deviation over draws, widened for the error of the standard error."""

    @property
    def ratio(self) -> Floats:
        """(K,) value over standard error; 0 where nothing moves."""
        return np.divide(self.value, self.error, out=np.zeros_like(self.value), where=self.error > _NO_SPREAD)

    def interval(self, k: int = 0, level: float = LEVEL, tries: float = 1.0) -> Interval | None:
        """Confidence interval of statistic `k`, whichever of the K it is; None where nothing moves.

        With K of 1 it is the usual one. `tries`: how many times as many statistics there might have been.
        """
        if self.error[k] <= _NO_SPREAD:
            return None
        tail = max(1, math.floor((1 - level) / 2 / tries * (DRAWS + 1) + 1e-9))
        high = np.sort(self.draws.max(axis=1))[-tail]
        low = np.sort(self.draws.min(axis=1))[tail - 1]
        return float(self.value[k] - high * self.error[k]), float(self.value[k] - low * self.error[k])

    def p_value(self, k: int, tries: float = 1.0) -> float:
        """Chance that the best of K statistics without anything to find reaches what `k` has. At most 2.5 % where the
        lower end of `interval` is above 0."""
        if self.error[k] <= _NO_SPREAD:
            return 1.0
        reached = int((self.draws.max(axis=1) >= self.ratio[k]).sum())
        return min(1.0, tries * (reached + 1) / (DRAWS + 1))


def estimate(own: Sums, reference: Sums | None = None, block: float | None = None) -> Estimate:
    """Sharpe ratios per bar of K series, or their excess over those of the reference (K or one series).

    `block`: mean block length in units; by default the median of the K lengths by Politis and White.
    """
    value, first, second = own.sharpe, *own.influence
    if reference is not None:
        its_first, its_second = reference.influence
        value, first, second = value - reference.sharpe, first - its_first, second - its_second
    error, freedom = standard_error(first, second, own.bars.sum())
    counts = block_counts(len(first), block or near_block(float(np.median(block_length(first + second)))))
    drawn = _drawn_sharpe(counts, own)
    if reference is not None:
        drawn = drawn - _drawn_sharpe(counts, reference)
    drawn = drawn - value
    spread = drawn.std(axis=0)
    draws = drawn * np.divide(_widths(freedom), spread, out=np.zeros_like(spread), where=spread > _NO_SPREAD)
    return Estimate(value, error, draws)


def sharpe_interval(returns: Floats, bars_per_year: float, level: float = LEVEL) -> Interval | None:
    """Confidence interval of the annualised Sharpe ratio of bar returns (T,), by the studentised stationary bootstrap.

    None where fewer than 50 bars have a return: too few independent bars. Same returns, same interval.
    """
    own = Sums.of(returns)
    return annual(estimate(own).interval(level=level), bars_per_year) if own.enough[0] else None


def excess_interval(returns: Floats, reference: Floats, bars_per_year: float, level: float = LEVEL) -> Interval | None:
    """Confidence interval of Sharpe(returns) − Sharpe(reference) over the same bars, both drawn with the same blocks.

    None where either has fewer than 50 bars with a return, or both are the same. ValueError if the lengths differ.
    """
    if np.shape(returns) != np.shape(reference):
        raise ValueError(f"{len(returns)} returns and {len(reference)} of the reference: expected the same bars")
    own, other = Sums.of(returns), Sums.of(reference)
    if not (own.enough[0] and other.enough[0]):
        return None
    return annual(estimate(own, other).interval(level=level), bars_per_year)


def annual(interval: Interval | None, bars_per_year: float) -> Interval | None:
    year = math.sqrt(bars_per_year)
    return None if interval is None else (round(interval[0] * year, 6), round(interval[1] * year, 6))


def _widths(freedom: Floats) -> Floats:
    """Student's quantiles over the normal one, for degrees of freedom (K,)."""
    return np.array([_width(max(2, min(200, int(one)))) for one in freedom])


@lru_cache(maxsize=256)
def _width(freedom: int) -> float:
    return student_quantile(0.975, freedom) / NormalDist().inv_cdf(0.975)


def _drawn_sharpe(counts: NDArray[np.float32], series: Sums) -> Floats:
    """(B, K) Sharpe ratios of the draws; single precision, for their spread is what counts."""
    bars = (counts @ series.bars.astype(np.float32))[:, None]
    total, squares = counts @ series.sums.astype(np.float32), counts @ series.squares.astype(np.float32)
    mean, spread = _moments(bars, total, squares)
    return np.asarray(_ratio(mean, spread), dtype=np.float64)


@lru_cache(maxsize=8)
def block_counts(units: int, block: float) -> NDArray[np.float32]:
    """(B, U) how often each draw of the stationary bootstrap takes each unit; blocks have `block` units on average and
    wrap around the end. Same arguments, same counts."""
    rng = np.random.default_rng((units, round(block)))
    restart = rng.random((DRAWS, units)) < 1.0 / block
    restart[:, 0] = True
    begin = rng.integers(0, units, (DRAWS, units))
    place = np.arange(units)
    last = np.maximum.accumulate(np.where(restart, place, 0), axis=1)
    index = (np.take_along_axis(begin, last, axis=1) + place - last) % units
    index += units * np.arange(DRAWS)[:, None]
    return np.bincount(index.ravel(), minlength=DRAWS * units).reshape(DRAWS, units).astype(np.float32)


def near_block(block: float) -> float:
    """A near block length among 1, 2, 4, …, so that few matrices of counts are needed."""
    return float(2 ** round(math.log2(max(block, 1.0))))


def _autocovariance(series: Floats, lags: int) -> Floats:
    """(lags + 1, K) of series (U, K) with mean 0."""
    units = len(series)
    return np.stack([(series[k:] * series[: units - k]).sum(0) / units for k in range(lags + 1)])


def _noise(series: Floats, lags: int) -> Floats:
    """(lags, K) how many times as noisy each correlation is as that of independent normal returns, at least 1: large
    moves near each other make correlations noisier (White 1980)."""
    units, squares = len(series), series**2
    both = np.stack([(squares[k:] * squares[: units - k]).sum(0) / units for k in range(1, lags + 1)])
    variance = squares.mean(0)
    found = np.divide(both, variance**2, out=np.ones_like(both), where=variance > 0)
    return np.asarray(np.maximum(found, 1.0))


def _flat_top(covariance: Floats, units: int, noise: Floats) -> tuple[Floats, Floats]:
    """Weights (lags + 1, K) of the flat-top window, and its half width M (K,), by the rule of Politis and White: M is
    twice the last lag before a run of correlations that are not significantly different from 0."""
    lags = len(covariance) - 1
    run = max(5, math.ceil(math.sqrt(math.log10(units))))
    limit = 2.0 * math.sqrt(math.log10(units) / units)
    variance = np.where(covariance[0] > 0, covariance[0], 1.0)
    small = np.abs(covariance[1:]) < limit * np.sqrt(noise) * variance  # (lags, K)
    steady = np.lib.stride_tricks.sliding_window_view(small, run, axis=0).all(-1)  # (lags − run + 1, K)
    first = np.where(steady.any(0), steady.argmax(0), lags // 2)
    width = np.minimum(2 * np.maximum(first, 1), lags).astype(np.float64)
    share = np.arange(lags + 1)[:, None] / width
    return np.clip(2.0 * (1.0 - share), 0.0, 1.0), width


def _lags(units: int) -> int:
    run = max(5, math.ceil(math.sqrt(math.log10(units))))
    return min(units - 1, math.ceil(math.sqrt(units)) + run)


def block_length(series: Floats) -> Floats:
    """(K,) mean block length of the stationary bootstrap for series (U, K) with mean 0 (Politis and White 2004, with
    the correction of 2009)."""
    units = len(series)
    covariance = _autocovariance(series, _lags(units))
    window, _ = _flat_top(covariance, units, _noise(series, _lags(units)))
    weighted = window * covariance
    lag = np.arange(len(covariance))[:, None]
    level = weighted[0] + 2 * weighted[1:].sum(0)
    slope = 2 * (lag * weighted).sum(0)
    ratio = np.divide(slope, level, out=np.zeros_like(slope), where=level > 0)
    return np.asarray(np.clip((ratio**2 * units) ** (1 / 3), 1.0, math.ceil(min(3 * math.sqrt(units), units / 3))))


def standard_error(first: Floats, second: Floats, bars: float) -> tuple[Floats, Floats]:
    """(K,) standard error of a statistic with these influences (U, K), and its degrees of freedom.

    The spread of returns may change slowly (volatility, a policy that is out for months) where their mean does not. In
    the noise of the sum that is lost. So its part is also estimated by itself, and the larger error counts.
    """
    variance, freedom = long_run_variance(first + second)
    apart = long_run_variance(first)[0] + long_run_variance(second)[0]
    return np.sqrt(np.maximum(variance, apart) * len(first)) / bars, freedom


def long_run_variance(series: Floats) -> tuple[Floats, Floats]:
    """(K,) long-run variance of series (U, K) with mean 0, and the degrees of freedom that it rests on.

    Prewhitened by an autoregression of the first order, the rest by the flat-top window. It is at least 0.8 of the
    variance: in a few hundred fat-tailed returns, strong negative correlations are mostly chance.
    """
    units = len(series)
    energy = (series[:-1] ** 2).sum(0)
    slope = np.divide((series[1:] * series[:-1]).sum(0), energy, out=np.zeros(series.shape[1]), where=energy > 0)
    slope = np.clip(slope + (1 + 3 * slope) / units, -0.9, 0.97)  # Kendall 1954: least squares is biased towards 0
    rest = series[1:] - slope * series[:-1]
    rest = rest - rest.mean(0)
    covariance, noise = _autocovariance(rest, _lags(units)), _noise(rest, _lags(units))
    window, _ = _flat_top(covariance, units, noise)
    level = covariance[0] + 2 * (window[1:] * covariance[1:]).sum(0)
    level = np.maximum(level, 0.0) * units / max(units - 2, 1) / (1 - slope) ** 2
    level = np.maximum(level, LEAST_SHARE * (series**2).mean(0))
    uncertain = noise[0] * (4 * (1 + slope) / (1 - slope) + 4 * (window[2:] ** 2).sum(0)) / units
    return np.asarray(level), np.asarray(2 / uncertain)
