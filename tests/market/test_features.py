"""Features: causal, of finite memory, without a unit, finite where nothing moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3kit.market import BEAR, BULL, LOOKBACK, SIDEWAYS, Bars, load_market
from p3kit.market.features import compute_features, compute_regimes, rolling
from p3kit.market.recipe import scaled, standard_scale
from tests.market.made import frame_of, market_spec, random_bars, write_csv

COLUMNS = ("open", "high", "low", "close", "volume")


def change(bars: Bars, which: slice, columns: tuple[str, ...] = COLUMNS, factor: float = 3.0) -> Bars:
    """The same bars with other numbers in the rows `which`: the given columns multiplied by something."""
    rng = np.random.default_rng(99)
    altered = {}
    for name in columns:
        values = getattr(bars, name)
        if values is not None:
            altered[name] = values.copy()
            altered[name][which] *= factor * rng.uniform(0.5, 2.0, len(altered[name][which]))
    return replace(bars, **altered)


@settings(max_examples=25, deadline=None)
@given(t=st.integers(LOOKBACK, 240), seed=st.integers(0, 1_000), ohlcv=st.booleans())
def test_nothing_after_a_bar_touches_what_is_known_at_it(t: int, seed: int, ohlcv: bool) -> None:
    """Features, regimes and volatility of every column at and before t: the same bits for any bars after t."""
    bars = random_bars(260, seed, ohlcv=ohlcv)
    before, after = compute_features(bars), compute_features(change(bars, slice(t + 1, None)))
    np.testing.assert_array_equal(before.values[: t + 1], after.values[: t + 1])
    np.testing.assert_array_equal(before.regime[: t + 1], after.regime[: t + 1])
    np.testing.assert_array_equal(before.volatility[: t + 1], after.volatility[: t + 1])


def test_what_an_account_observes_is_causal_too(tmp_path: Path) -> None:
    """Through `load_market` with training statistics: bars after a validation bar change nothing up to it."""
    bars = random_bars(800, 3)
    spec = market_spec(["X"], data={"source": "csv", "path": str(tmp_path / "{symbol}.csv")}, env={"episode_bars": 60})
    write_csv(frame_of(bars), tmp_path)
    one = load_market(spec, ["X"])["X"]
    first, last = one.splits["validation"]
    t = (first + last) // 2
    altered = change(bars, slice(t + 1, None), factor=1.0)
    altered = replace(  # keep the altered bars consistent, or they would be refused
        altered,
        high=np.maximum.reduce([altered.open, altered.high, altered.low, altered.close]),
        low=np.minimum.reduce([altered.open, altered.high, altered.low, altered.close]),
    )
    write_csv(frame_of(altered), tmp_path)
    two = load_market(spec, ["X"])["X"]
    np.testing.assert_array_equal(one.features[: t + 1], two.features[: t + 1])
    np.testing.assert_array_equal(one.regime[: t + 1], two.regime[: t + 1])
    assert not np.array_equal(one.features[t + 1 :], two.features[t + 1 :])
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize("t", [LOOKBACK, 150, 399])
def test_memory_ends_at_the_look_back(t: int) -> None:
    """Row t forgets bars before t − 64, so an embargo of window + look-back parts two splits completely."""
    bars = random_bars(400, 1)
    known = compute_features(bars)
    if t > LOOKBACK:
        forgotten = compute_features(change(bars, slice(0, t - LOOKBACK)))
        np.testing.assert_array_equal(known.values[t:], forgotten.values[t:])
        np.testing.assert_array_equal(known.regime[t:], forgotten.regime[t:])
    touched = compute_features(change(bars, slice(t - LOOKBACK, t - LOOKBACK + 1)))
    assert not np.array_equal(known.values[t], touched.values[t]), "the look-back is not longer than it must be"


def test_every_row_after_the_look_back_is_finite_and_none_before() -> None:
    features = compute_features(random_bars(200))
    assert np.isnan(features.values[:LOOKBACK]).all()
    assert np.isfinite(features.values[LOOKBACK:]).all()
    assert (features.regime[:LOOKBACK] == -1).all()
    assert set(features.regime[LOOKBACK:]) <= {BEAR, SIDEWAYS, BULL}


def test_features_have_no_unit() -> None:
    """Prices in cents and volumes in thousands give the same features as prices in dollars and volumes in shares."""
    bars = random_bars(300, 2)
    cents = replace(bars, **{name: getattr(bars, name) * 100.0 for name in ("open", "high", "low", "close")})
    cents = replace(cents, volume=bars.volume / 1_000.0)
    np.testing.assert_allclose(
        compute_features(bars).values, compute_features(cents).values, rtol=1e-6, atol=1e-9, equal_nan=True
    )


def test_features_are_of_the_size_of_one_on_a_random_walk() -> None:
    features = compute_features(random_bars(5_000, 4))
    spread = features.values[LOOKBACK:].std(axis=0)
    assert ((spread > 0.1) & (spread < 2.0)).all(), dict(zip(features.names, spread.round(2), strict=True))
    assert np.abs(features.values[LOOKBACK:]).max() <= 10.0


def test_about_twenty_features_from_closes_alone_and_more_with_more_columns() -> None:
    closes, all_columns = compute_features(random_bars(100, ohlcv=False)), compute_features(random_bars(100))
    assert len(closes.names) == 20
    assert set(all_columns.names) - set(closes.names) == {"gap", "bar_range", "close_location", "volume_20"}
    only = compute_features(random_bars(100), columns=())
    assert only.names == closes.names
    np.testing.assert_array_equal(only.values, closes.values)


def test_momentum_is_the_ewma_of_past_returns_over_its_own_spread() -> None:
    """The plain loop, with pandas' definition α = 2/(span + 1), cut at 64 bars."""
    bars = random_bars(200, 5)
    features = compute_features(bars)
    returns = np.diff(np.log(bars.close))
    for span in (3, 6, 12, 24, 48):
        alpha = 2.0 / (span + 1.0)
        t = 150
        weights = [(1.0 - alpha) ** age for age in range(LOOKBACK)]
        mean = sum(w * returns[t - 1 - age] for age, w in enumerate(weights)) / sum(weights)
        spread = returns[t - 20 : t].std(ddof=1) * np.sqrt(sum(w**2 for w in weights)) / sum(weights)
        value = features.values[t, features.names.index(f"momentum_{span}")]
        assert value == pytest.approx(mean / spread, rel=1e-9)


def test_a_price_that_stands_still_gives_finite_features() -> None:
    still = replace(random_bars(300, ohlcv=False), close=np.full(300, 42.0))
    features = compute_features(still)
    assert np.isfinite(features.values[LOOKBACK:]).all()
    assert (features.regime[LOOKBACK:] == SIDEWAYS).all()
    mean, scale, constant = standard_scale(features, LOOKBACK, 300)
    values = scaled(features.values, mean, scale)
    assert np.isfinite(values[LOOKBACK:]).all()
    assert (scale > 0).all()
    assert "return_1" in constant
    assert not any(name.startswith("regime_") for name in constant)

    wakes = still.close.copy()
    wakes[250:] = 43.0
    woken = compute_features(replace(still, close=wakes))
    assert np.abs(woken.values[LOOKBACK:]).max() <= 10.0


def test_volume_may_be_zero() -> None:
    bars = random_bars(200)
    bars.volume[100:160] = 0.0  # type: ignore[index]
    assert np.isfinite(compute_features(bars).values[LOOKBACK:]).all()


def test_regimes_follow_trends() -> None:
    rng = np.random.default_rng(0)
    drift = np.repeat([0.004, -0.004, 0.0], 200)
    close = 100.0 * np.exp(np.cumsum(drift + 0.008 * rng.standard_normal(600)))
    regime = compute_regimes(close)
    assert (regime[LOOKBACK:200] == BULL).mean() > 0.9
    assert (regime[270:400] == BEAR).mean() > 0.9
    assert (regime[470:] == SIDEWAYS).mean() > 0.3
    assert (np.diff(regime[LOOKBACK:]) != 0).sum() < 30, "regimes last; they do not flicker"


def test_standardised_by_the_training_split_alone() -> None:
    features = compute_features(random_bars(600, 7))
    mean, scale, constant = standard_scale(features, 100, 400)
    values = scaled(features.values, mean, scale)
    plain = [i for i, name in enumerate(features.names) if not name.startswith("regime_")]
    np.testing.assert_allclose(values[100:400, plain].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(values[100:400, plain].std(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(values[100:], ((features.values - mean) / scale)[100:], rtol=1e-5, atol=1e-6)
    assert not constant
    regimes = [i for i, name in enumerate(features.names) if name.startswith("regime_")]
    assert set(np.unique(values[100:, regimes])) == {0.0, 1.0}


def test_rolling_equals_one_window_at_a_time_whatever_the_chunks() -> None:
    series = np.random.default_rng(0).standard_normal(100)
    whole = rolling(series, 7, lambda windows: windows.max(axis=-1))
    expected = [np.nan] * 6 + [series[t - 6 : t + 1].max() for t in range(6, 100)]
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(whole, rolling(series, 7, lambda windows: windows.max(axis=-1), chunk=13))
    assert np.isnan(rolling(series[:5], 7, lambda windows: windows.max(axis=-1))).all()
