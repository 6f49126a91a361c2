"""Features of the bars: about twenty numbers per bar, all without a unit, all causal.

Row t uses bars t − 64 … t and nothing else: no centred window, no statistic of the whole series, and no recursive
filter that remembers further back than `LOOKBACK`. That makes the embargo between splits exact. Rows before `LOOKBACK`
are NaN.

Most features are moves divided by the move of a random walk with the current volatility over the same span. So 1 means
"one standard deviation" for any stock and any bar length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from p3kit.market.bars import BEAR, BULL, REGIMES, SIDEWAYS, Bars, Floats

LOOKBACK = 64
"""The longest look-back of any feature, in bars before the current one."""

RETURN_SPANS = (1, 5, 20)
MOMENTUM_SPANS = (3, 6, 12, 24, 48)
VOLATILITY_BARS = 20
TREND_BARS = 60
TREND_SMOOTHING = 5
REGIME_THRESHOLD = 0.5
"""A trend of this many standard deviations over `TREND_BARS` bars is a bull (or bear) market."""

VOLATILITY_FLOOR = 1e-6
"""Smallest per-bar volatility to divide by: a constant price gives features of 0, not of infinity."""

_ALWAYS = 20
"""Features that need only closes."""

LIMIT = 10.0
"""Features in standard deviations are cut here: after a long stand-still the first move would be a million of them."""


@dataclass(frozen=True, eq=False)
class Features:
    """The feature table of one symbol, before standardisation."""

    values: Floats  # (T, F); the first LOOKBACK rows are NaN
    names: tuple[str, ...]
    volatility: Floats  # (T,) standard deviation per bar of the last 20 log returns; NaN in the first 20
    regime: NDArray[np.int8]  # (T,) 0 bear, 1 sideways, 2 bull; −1 in the first LOOKBACK

    def chosen(self, names: Sequence[str]) -> Features:
        """The features `names`, in that order."""
        if tuple(names) == self.names:
            return self
        return replace(self, values=self.values[:, [self.names.index(name) for name in names]], names=tuple(names))


def rolling(series: Floats, bars: int, reduce: Callable[[Floats], Floats], chunk: int = 16_384) -> Floats:
    """`reduce` over the last `bars` values at each row. series: (T,) -> (T,), NaN in the first bars − 1 rows.

    Every row is reduced from its own window alone, so no rounding error travels along the series, as it would with
    running sums. `reduce` must give a row the same bits beside any other rows. `chunk` rows at a time, to
    bound memory.
    """
    out = np.full(len(series), np.nan)
    if len(series) < bars:
        return out
    windows = sliding_window_view(series, bars)  # (T − bars + 1, bars)
    for first in range(0, len(windows), chunk):
        part = windows[first : first + chunk]
        out[first + bars - 1 : first + bars - 1 + len(part)] = reduce(part)
    return out


def _sum(windows: Floats, weights: Floats | None = None) -> Floats:
    """Sums of the rows, (R, W) -> (R,), added from the oldest value on.

    `windows.sum(axis=-1)` and `windows @ weights` add in an order that depends on the number of rows.
    """
    total = np.zeros(len(windows))
    for age in range(windows.shape[1]):
        total += windows[:, age] if weights is None else windows[:, age] * weights[age]
    return total


def _mean(windows: Floats) -> Floats:
    return np.asarray(_sum(windows) / windows.shape[1])


def _std(windows: Floats) -> Floats:
    mean, total = _mean(windows), np.zeros(len(windows))
    for age in range(windows.shape[1]):
        total += np.square(windows[:, age] - mean)
    return np.asarray(np.sqrt(total / (windows.shape[1] - 1)))


def _max(windows: Floats) -> Floats:
    return np.asarray(windows.max(axis=-1))


def _min(windows: Floats) -> Floats:
    return np.asarray(windows.min(axis=-1))


def ewma_weights(span: int, bars: int = LOOKBACK) -> Floats:
    """Weights (bars,), oldest first, of an exponentially weighted mean with α = 2/(span + 1), cut after `bars` bars."""
    alpha = 2.0 / (span + 1.0)
    weights = (1.0 - alpha) ** np.arange(bars - 1, -1, -1, dtype=np.float64)
    return np.asarray(weights / weights.sum())


def log_returns(close: Floats) -> Floats:
    """ln(close[t] / close[t − 1]), (T,); NaN at t = 0."""
    out = np.full(len(close), np.nan)
    out[1:] = np.log(close[1:] / close[:-1])
    return out


def rolling_volatility(close: Floats, bars: int = VOLATILITY_BARS) -> Floats:
    """Standard deviation per bar of the last `bars` log returns, (T,); NaN in the first `bars` rows."""
    return rolling(log_returns(close), bars, _std)


def compute_regimes(close: Floats) -> NDArray[np.int8]:
    """Regime of each bar from trailing trend and volatility, (T,): 0 bear, 1 sideways, 2 bull, −1 before `LOOKBACK`.

    The trend is the log return of the last 60 bars divided by its standard deviation (σ√60), averaged over the last 5
    bars. Without the average, regimes would change each time the trend crosses a threshold.
    """
    returns = log_returns(close)
    volatility = np.maximum(rolling(returns, TREND_BARS, _std), VOLATILITY_FLOOR)
    trend = rolling(returns, TREND_BARS, _sum) / (volatility * np.sqrt(TREND_BARS))
    trend = rolling(trend, TREND_SMOOTHING, _mean)
    regime = np.full(len(close), SIDEWAYS, dtype=np.int8)
    regime[trend > REGIME_THRESHOLD] = BULL
    regime[trend < -REGIME_THRESHOLD] = BEAR
    regime[:LOOKBACK] = -1
    return regime


def compute_features(
    bars: Bars, columns: tuple[str, ...] | None = None, bars_per_year: float | None = None, own: Sequence[str] = ()
) -> Features:
    """Features, regimes and volatility of one symbol.

    `columns` names the optional columns to use (default: all that the bars have); symbols that share a spec must get
    the same ones, or their observations would differ in size. `high` and `low` count only together. `bars_per_year`
    annualises the volatility (default: that of all bars). `own` are columns of the user's, which come last as they are.
    """
    year = bars.bars_per_year if bars_per_year is None else bars_per_year
    columns = bars.columns if columns is None else columns
    close, returns = bars.close, log_returns(bars.close)
    high = bars.high if bars.high is not None and {"high", "low"} <= set(columns) else None
    low = bars.low if bars.low is not None and {"high", "low"} <= set(columns) else None
    volatility = rolling_volatility(close)
    sigma = np.maximum(volatility, VOLATILITY_FLOOR)
    has_open = "open" in columns and bars.open is not None
    has_volume = "volume" in columns and bars.volume is not None
    count = _ALWAYS + has_open + 2 * (high is not None and low is not None) + has_volume + len(own)
    table = _Columns(len(close), count)

    def in_sigmas(move: Floats, bars_behind: float) -> Floats:
        """A log move over some bars, in standard deviations of a random walk over as many."""
        return np.asarray(np.clip(move / (sigma * np.sqrt(bars_behind)), -LIMIT, LIMIT))

    for span in RETURN_SPANS:
        table[f"return_{span}"] = in_sigmas(rolling(returns, span, _sum), span)

    for span in MOMENTUM_SPANS:
        weights = ewma_weights(span)
        mean = rolling(returns, LOOKBACK, lambda windows, w=weights: _sum(windows, w))  # type: ignore[misc]
        # an EWMA of independent returns of standard deviation σ has standard deviation σ √Σw²
        table[f"momentum_{span}"] = in_sigmas(mean, float(np.sum(weights**2)))

    short, long = rolling_volatility(close, 5), rolling_volatility(close, TREND_BARS)
    table["volatility_5_20"] = _log_ratio(short, volatility)
    table["volatility_20_60"] = _log_ratio(volatility, long)
    table["volatility"] = np.log(np.maximum(volatility * np.sqrt(year), 1e-3) / 0.2)  # 0 at 20 % a year

    for span in (10, 50):
        table[f"mean_distance_{span}"] = in_sigmas(np.log(close / rolling(close, span, _mean)), span)
    top = rolling(close if high is None else high, TREND_BARS, _max)
    bottom = rolling(close if low is None else low, TREND_BARS, _min)
    table["high_distance_60"] = in_sigmas(np.log(close / top), TREND_BARS)
    table["low_distance_60"] = in_sigmas(np.log(close / bottom), TREND_BARS)
    top = rolling(close if high is None else high, 20, _max)
    bottom = rolling(close if low is None else low, 20, _min)
    table["range_position_20"] = _position(close, bottom, top)
    table["rsi_14"] = _balance(returns, 14)

    if has_open and bars.open is not None:
        gap = np.full(len(close), np.nan)
        gap[1:] = np.log(bars.open[1:] / close[:-1])
        table["gap"] = in_sigmas(gap, 1)
    if high is not None and low is not None:
        table["bar_range"] = in_sigmas(np.log(high / low), 1)
        table["close_location"] = _position(close, low, high)
    if has_volume and bars.volume is not None:
        usual = rolling(bars.volume, 20, _mean)
        # both sides + 1 % of the usual, so that bars without trades stay finite; nothing traded in 20 bars gives 0
        slack = np.where(usual > 0, 0.01 * usual, 1.0)
        table["volume_20"] = np.log((bars.volume + slack) / (usual + slack))

    regime = compute_regimes(close)
    for code, name in enumerate(REGIMES):
        table[f"regime_{name}"] = (regime == code).astype(np.float64)
    for name in own:
        table[name] = bars.own[name]

    table.values[:LOOKBACK] = np.nan
    return Features(table.values, tuple(table.names), volatility, regime)


class _Columns:
    """A table (T, F) that is filled column by column, so that no column is held twice."""

    def __init__(self, rows: int, count: int) -> None:
        self.values = np.empty((rows, count))
        self.names: list[str] = []

    def __setitem__(self, name: str, column: Floats) -> None:
        self.values[:, len(self.names)] = column
        self.names.append(name)


def _log_ratio(volatility: Floats, reference: Floats) -> Floats:
    """ln of a ratio of two volatilities, cut at ±3; 0 where neither moves."""
    ratio = np.maximum(volatility, VOLATILITY_FLOOR) / np.maximum(reference, VOLATILITY_FLOOR)
    return np.clip(np.log(ratio), -3.0, 3.0)


def _position(close: Floats, low: Floats, high: Floats) -> Floats:
    """Position of the close between low (−1) and high (+1); 0 where they are the same."""
    width = high - low
    middle = 0.5 * (high + low)
    moved = width > 0
    return np.clip(np.where(moved, (close - middle) / np.where(moved, 0.5 * width, 1.0), 0.0), -1.0, 1.0)


def _balance(returns: Floats, bars: int) -> Floats:
    """(gains − losses) / (gains + losses) of the last bars' returns: RSI mapped from 0…100 to −1…1 (plain sums)."""
    net, total = rolling(returns, bars, _sum), rolling(np.abs(returns), bars, _sum)
    moved = total > 0
    return np.clip(np.where(moved, net / np.where(moved, total, 1.0), 0.0), -1.0, 1.0)
