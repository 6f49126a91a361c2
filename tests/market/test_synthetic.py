"""The synthetic market agrees with its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p3kit.errors import DataError
from p3kit.market import Bars, fingerprint
from p3kit.market.synthetic import (
    GAP,
    MAX_BARS,
    REGIME_BARS,
    SyntheticSettings,
    make_market,
    signal_of,
    trading_hours,
)
from p3kit.spec.models import Synthetic

PLAIN = SyntheticSettings(regimes=False)


def make_bars(symbol: str, seed: int | None = None, **settings: float) -> Bars:
    return make_market(symbol, SyntheticSettings(**settings), seed).bars  # type: ignore[arg-type]


def test_the_spec_and_the_market_have_the_same_defaults() -> None:
    assert Synthetic().model_dump() == vars(SyntheticSettings())


def test_same_symbol_same_bars_for_ever() -> None:
    """Another fingerprint means other markets for every experiment ever run: never change it lightly."""
    settings = SyntheticSettings(bars=3_000)
    assert fingerprint(make_market("AAPL", settings).bars) == fingerprint(make_bars("AAPL", bars=3_000))
    assert fingerprint(make_bars("AAPL", bars=3_000)) != fingerprint(make_bars("MSFT", bars=3_000))
    assert fingerprint(make_bars("AAPL", bars=3_000)) != fingerprint(make_bars("AAPL", seed=1, bars=3_000))
    close = make_bars("AAPL", bars=3_000).close
    np.testing.assert_allclose(close[[0, 1, -1]], [100.25726560656436, 99.86969641550634, 73.40485911074553], rtol=1e-9)


def test_every_return_is_the_formula() -> None:
    """Remove drift and edge × σ × signal from each return: what is left is white, normal-sized noise."""
    for settings in (PLAIN, SyntheticSettings(regimes=True)):
        market = make_market("X", settings)
        returns = np.diff(np.log(market.bars.close))
        drift, sigma = np.array(settings.drift)[market.state], np.array(settings.sigma)[market.state]
        expected = drift[1:] + settings.volatility * settings.edge * market.signal[:-1]
        noise = (returns - expected) / sigma[1:]
        assert noise.mean() == pytest.approx(0.0, abs=0.015)
        assert noise.std() == pytest.approx(1.0, abs=0.015)
        for lag in (1, 2, 12):
            assert np.corrcoef(noise[lag:], noise[:-lag])[0, 1] == pytest.approx(0.0, abs=0.015)
        assert np.corrcoef(noise, market.signal[:-1])[0, 1] == pytest.approx(0.0, abs=0.015)


def test_the_signal_is_standardised_and_its_correlation_with_the_next_return_is_the_edge() -> None:
    for edge in (0.0, 0.18, 0.4):
        market = make_market("X", replace(PLAIN, edge=edge, bars=200_000))
        returns = np.diff(np.log(market.bars.close))
        assert market.signal.std() == pytest.approx(1.0, abs=0.05)
        expected = edge / np.sqrt(1.0 + edge**2)
        assert np.corrcoef(market.signal[:-1], returns)[0, 1] == pytest.approx(expected, abs=0.012)


def test_the_signal_is_the_ewma_of_past_returns() -> None:
    close = make_bars("X", bars=2_000).close
    returns = np.diff(np.log(close), prepend=np.log(close[0]))
    alpha, mean = 2.0 / 13.0, 0.0
    for t, r in enumerate(returns):
        mean = (1.0 - alpha) * mean + alpha * r
        if t in (1, 50, 1_999):
            scale = PLAIN.signal_scale / PLAIN.volatility
            assert signal_of(close, PLAIN)[t] == pytest.approx(mean * scale, rel=1e-9)
    truncated = signal_of(close[:1_000], PLAIN)
    np.testing.assert_array_equal(signal_of(close, PLAIN)[:1_000], truncated)  # independent of later bars


def test_without_an_edge_the_price_is_a_fair_game() -> None:
    """Mean simple return 0 within three standard errors: neither holding nor selling pays."""
    for seed in range(3):
        close = make_bars("X", seed=seed, bars=MAX_BARS, edge=0.0, regimes=False).close
        returns = close[1:] / close[:-1] - 1.0
        assert abs(returns.mean()) < 3.0 * returns.std() / np.sqrt(len(returns))
        assert returns.std() == pytest.approx(0.0055, rel=0.01)


def test_regimes_last_a_quarter_and_differ_in_drift_and_volatility() -> None:
    market = make_market("X", SyntheticSettings(bars=200_000, edge=0.0))
    returns = np.diff(np.log(market.bars.close), prepend=np.log(100.0))
    switches = (np.diff(market.state) != 0).sum()
    assert len(market.state) / switches == pytest.approx(REGIME_BARS, rel=0.2)
    for code in range(3):
        mine = returns[market.state == code]
        assert len(mine) / len(returns) == pytest.approx(1 / 3, abs=0.1)
        assert mine.std() == pytest.approx(market.settings.sigma[code], rel=0.03)
        assert mine.mean() == pytest.approx(market.settings.drift[code], abs=3.5 * mine.std() / np.sqrt(len(mine)))
    assert sum(d + 0.5 * s**2 for d, s in zip(market.settings.drift, market.settings.sigma, strict=True)) < 1e-18


def test_bars_are_consistent_and_open_near_the_last_close() -> None:
    bars = make_bars("X", bars=20_000)
    assert bars.open is not None
    assert bars.high is not None
    assert bars.low is not None
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    gap = np.log(bars.open[1:] / bars.close[:-1])
    assert gap.std() == pytest.approx(GAP * 0.0055, rel=0.05)


def test_hourly_bars_in_regular_sessions() -> None:
    stamps = trading_hours(60_000)
    assert (np.diff(stamps) > np.timedelta64(0)).all()
    day = stamps.astype("datetime64[D]")
    assert np.is_busday(day).all(), "never on a weekend"
    minute = (stamps - day).astype("timedelta64[m]").astype(int)
    assert (minute.min(), minute.max()) == (570, 570 + 360), "from 09:30, before 16:00"
    per_day = np.unique(day, return_counts=True)[1][:-1]
    assert set(per_day) == {6, 7}
    assert per_day.mean() == pytest.approx(6.5, abs=0.001)
    assert make_bars("X").bars_per_year == pytest.approx(1_638, abs=3)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(DataError, match="reach past the year 2262"):
        make_bars("X", bars=MAX_BARS + 1)
    assert str(trading_hours(MAX_BARS)[-1])[:4] < "2262"
    with pytest.raises(DataError, match="run away"):
        make_bars("X", edge=40.0, volatility=0.1, regimes=False)
