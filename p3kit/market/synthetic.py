"""The synthetic market: hourly bars whose past hints at the next return by a known amount.

    r[t+1] = drift[k] − σ[k]²/2 + σ edge s[t] + σ[k] ε      s[t] = m[t] / (c σ)      m[t] = (1 − α) m[t−1] + α r[t]

r are log returns, ε is standard normal, α = 2/(span + 1), so m is the EWMA of past returns; c is chosen so that s has
variance 1 (with its own feedback, and without regimes). `edge` is then the correlation of the signal with the next
return, up to 1/√(1 + edge²). The whole signal is in the closes: s can be computed from the bars. The term −σ²/2 makes
the expected simple return of a bar zero if drift and edge are zero. Without an edge the price is then a fair game:
every trade loses its costs, and HOLD is right.

With regimes, k is a hidden Markov chain of bear, sideways and bull phases that last `REGIME_BARS` bars on average.
Drift and volatility follow it (`DRIFT`, `VOLATILITY`), and the drifts average to zero. A rule with access to the regime
could profit even at edge 0 (about 7 % a year); a trailing trend contains little of it within a quarter of a year.
Without regimes drift is 0 and volatility constant. Proofs use that market, because `optimal.py` is exact there.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import DataError
from p3kit.market.bars import REGIMES, SIDEWAYS, Bars, Floats

BARS_PER_YEAR = 1_638
"""Hourly bars in regular sessions: 252 sessions of 6.5 hours."""

REGIME_BARS = 400
"""Mean length of a regime in bars: about a quarter of a year."""

DRIFT = (-0.25, 0.0, 0.25)
"""Drift a year in bear, sideways and bull phases."""

VOLATILITY = (1.3, 0.8, 0.8)
"""Volatility in bear, sideways and bull phases, as a multiple of σ; the mean square is 1."""

GAP = 0.05
"""Standard deviation of the move from one close to the next open, as a multiple of σ: part of ε, no signal in it."""

MAX_BARS = 450_000
"""From 1970 on, more would run past the year 2262, where nanosecond timestamps end."""


@dataclass(frozen=True)
class SyntheticSettings:
    """Parameters of the market; the fields of `[data.synthetic]`."""

    bars: int = 60_000
    edge: float = 0.18
    volatility: float = 0.0055  # σ: standard deviation of a bar's log return
    span: int = 12
    regimes: bool = True

    @property
    def alpha(self) -> float:
        return 2.0 / (self.span + 1.0)

    @property
    def signal_scale(self) -> float:
        """1/c: what m/σ is multiplied by to have variance 1.

        s is an AR(1) process: s' = (1 − α + α edge/c) s + (α/c) ε. Unit variance requires
        (α/c)² + (1 − α + α edge/c)² = 1, a quadratic in 1/c.
        """
        a, e = self.alpha, self.edge
        square, linear, constant = a * a * (1 + e * e), 2 * (1 - a) * a * e, (1 - a) ** 2 - 1
        return (-linear + math.sqrt(linear**2 - 4 * square * constant)) / (2 * square)

    @property
    def drift(self) -> tuple[float, ...]:
        """Mean log return per bar at s = 0 of each regime: (bear, sideways, bull), or of the one calm regime."""
        a_bar = tuple(d / BARS_PER_YEAR for d in DRIFT) if self.regimes else (0.0,)
        return tuple(d - 0.5 * sigma**2 for d, sigma in zip(a_bar, self.sigma, strict=True))

    @property
    def sigma(self) -> tuple[float, ...]:
        """Standard deviation per bar of each regime."""
        return tuple(v * self.volatility for v in VOLATILITY) if self.regimes else (self.volatility,)

    @property
    def transition(self) -> Floats:
        """Probability of going from regime i (row) to regime j (column) at the next bar."""
        if not self.regimes:
            return np.ones((1, 1))
        leave = 1.0 / REGIME_BARS
        n = len(REGIMES)
        return np.where(np.eye(n, dtype=bool), 1.0 - leave, leave / (n - 1))


@dataclass(frozen=True, eq=False)
class SyntheticMarket:
    """The bars, and the hidden state of their generator."""

    bars: Bars
    settings: SyntheticSettings
    signal: Floats  # (T,) s[t], computed from closes up to t
    state: NDArray[np.int8]  # (T,) hidden regime that drives the return of bar t (index into drift and sigma)


def seed_of(symbol: str) -> int:
    """A seed for each symbol, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:8], "little")


def make_market(symbol: str, settings: SyntheticSettings, seed: int | None = None) -> SyntheticMarket:
    """A synthetic market. Same symbol (or seed) and settings, same bars. DataError beyond `MAX_BARS`."""
    total = settings.bars
    if total > MAX_BARS:
        raise DataError(
            "data.synthetic.bars", f"{total:,} hourly bars reach past the year 2262", f"use at most {MAX_BARS:,}"
        )
    rng = np.random.default_rng(seed_of(symbol) if seed is None else seed)
    gap_noise, noise = rng.standard_normal((2, total))
    wicks = np.abs(rng.standard_normal((2, total)))
    state = _regime_path(settings, rng)
    drift, sigma = np.array(settings.drift)[state], np.array(settings.sigma)[state]  # (T,)

    gap = sigma * GAP * gap_noise
    shock = sigma * math.sqrt(1.0 - GAP**2) * noise + gap + drift
    # The signal feeds back into the returns, so this recursion cannot be vectorised; plain floats are the fastest loop.
    keep, gain = 1.0 - settings.alpha, settings.alpha
    pull = settings.edge * settings.signal_scale  # what a unit of m adds to the next return
    mean, returns = 0.0, [0.0] * total
    for t, x in enumerate(shock.tolist()):
        returns[t] = pull * mean + x
        mean = keep * mean + gain * returns[t]

    log_close = np.cumsum(np.asarray(returns)) + math.log(100.0)
    if np.abs(log_close).max() > 300.0:
        raise DataError(
            "data.synthetic", f"prices of {symbol} run away (beyond e^±300)", "lower edge, volatility or bars"
        )
    close = np.exp(log_close)
    previous = np.concatenate([[100.0], close[:-1]])
    open_ = previous * np.exp(gap)
    high = np.maximum(open_, close) * np.exp(0.3 * sigma * wicks[0])
    low = np.minimum(open_, close) * np.exp(-0.3 * sigma * wicks[1])
    bars = Bars(
        symbol=symbol,
        timestamps=trading_hours(total),
        close=close,
        open=open_,
        high=high,
        low=low,
        source="synthetic (not real)",
        synthetic=True,
    )
    return SyntheticMarket(bars, settings, signal_of(close, settings), state)


def signal_of(close: Floats, settings: SyntheticSettings) -> Floats:
    """s[t] of every bar, (T,), from the closes up to t. The EWMA starts at 0 on the first bar."""
    keep, gain = 1.0 - settings.alpha, settings.alpha
    returns = np.diff(np.log(close), prepend=math.log(close[0])).tolist()
    mean, out = 0.0, [0.0] * len(returns)
    for t, r in enumerate(returns):
        mean = keep * mean + gain * r
        out[t] = mean
    return np.asarray(out) * (settings.signal_scale / settings.volatility)


def trading_hours(bars: int) -> NDArray[np.datetime64]:
    """Timestamps (bars,) of hourly bars in regular sessions, from 1970 on: one bar per trading hour.

    A session lasts 6.5 hours from 09:30, so sessions hold 7 and 6 bars in turn (13 in two days). Nine Mondays a year
    are holidays, which leaves 252 sessions and 1,638 bars a year.
    """
    sessions = math.ceil(bars / 6.5) + 1
    days = np.arange(np.datetime64("1970-01-05"), np.datetime64("1970-01-05") + math.ceil(sessions * 1.5) + 30)
    weekday = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday: Monday is 0
    month = days.astype("datetime64[M]")
    day_of_month = (days - month.astype("datetime64[D]")).astype(np.int64) + 1
    month_of_year = month.astype(np.int64) % 12 + 1
    holiday = (weekday == 0) & (day_of_month <= 7) & (month_of_year <= 9)
    open_days = days[(weekday < 5) & ~holiday]
    minutes = np.arange(bars, dtype=np.int64) * 60  # of trading
    session, minute = np.divmod(minutes, 390)
    clock = open_days[session].astype("datetime64[m]") + np.timedelta64(570, "m") + minute.astype("timedelta64[m]")
    return np.asarray(clock, dtype="datetime64[ns]")


def _regime_path(settings: SyntheticSettings, rng: np.random.Generator) -> NDArray[np.int8]:
    """Hidden regime of every bar, (T,), drawn from the Markov chain; starts sideways."""
    if not settings.regimes:
        return np.zeros(settings.bars, dtype=np.int8)
    n = len(REGIMES)
    switches = rng.random(settings.bars) < 1.0 / REGIME_BARS
    steps = np.where(switches, rng.integers(1, n, settings.bars), 0)  # 1 or 2 regimes onward, around the ring of three
    return ((SIDEWAYS + np.cumsum(steps)) % n).astype(np.int8)
