"""Intervals of Sharpe ratios and the error of the best of several, beside plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3kit import metrics
from p3kit import significance as s
from tests.measure.estimates import estimate_each

YEAR = 252.0


def returns_of(seed: int, bars: int = 400, mean: float = 4e-4, spread: float = 0.012) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, bars)


def autoregressive(seed: int, bars: int, slope: float) -> np.ndarray:
    noise, found = returns_of(seed, bars + 100, 0.0, 1.0), np.zeros(bars + 100)
    for t in range(1, len(found)):
        found[t] = slope * found[t - 1] + noise[t]
    return found[100:]


def test_draws_are_blocks_of_the_asked_length() -> None:
    counts = s.block_counts(300, 8.0)
    assert counts.shape == (s.DRAWS, 300)
    assert (counts.sum(axis=1) == 300).all()
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.15), "every bar is drawn about as often"
    together = np.mean([np.corrcoef(counts[:, t], counts[:, t + 1])[0, 1] for t in range(0, 299, 20)])
    assert together == pytest.approx(1 - 1 / 8, abs=0.05), "neighbours come together as often as blocks are long"


def test_a_drawn_ratio_is_the_sharpe_ratio_of_the_bars_that_were_drawn() -> None:
    returns = returns_of(3, 200)
    returns[40:120] = 0.0
    found = s.estimate(s.Sums.of(returns), block=4.0)
    counts = s.block_counts(200, 4.0).astype(int)
    expected = [metrics.sharpe_ratio(np.repeat(returns, counts[b]), 1.0) for b in range(50)]
    drawn = np.array(expected) - found.value
    assert np.corrcoef(found.draws[:50, 0], drawn)[0, 1] == pytest.approx(1.0, abs=1e-6)


@given(slope=st.sampled_from([0.0, 0.3, 0.6]), seed=st.integers(0, 5))
def test_the_standard_error_is_that_of_the_long_run(slope: float, seed: int) -> None:
    """Of an autoregression: the sum of all autocorrelations is (1 + slope) / (1 − slope)."""
    series = autoregressive(seed, 20_000, slope)[:, None]
    series = series / series.std()
    found, freedom = s.long_run_variance(series - series.mean())
    assert found[0] == pytest.approx((1 + slope) / (1 - slope), rel=0.15)
    assert freedom[0] > 50


def test_blocks_grow_with_dependence() -> None:
    lengths = [
        s.block_length((x := autoregressive(1, 2_000, slope))[:, None] - x.mean())[0] for slope in (0.0, 0.3, 0.8)
    ]
    assert lengths[0] < 4
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("bars", [1_024, 1_025, 5_000])
def test_long_series_in_groups_have_the_same_sharpe_ratio(bars: int) -> None:
    returns = returns_of(2, bars)
    own = s.Sums.of(returns)
    assert len(own.bars) <= s.LONGEST
    assert own.bars.sum() == bars
    assert own.sharpe[0] == pytest.approx(metrics.sharpe_ratio(returns, 1.0), rel=1e-9)


def test_the_interval_holds_the_ratio_and_repeats() -> None:
    returns = returns_of(4)
    low, high = s.sharpe_interval(returns, YEAR) or (0.0, 0.0)
    assert low < metrics.sharpe_ratio(returns, YEAR) < high
    assert s.sharpe_interval(returns, YEAR) == (low, high)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(YEAR / 400), rel=0.15)


def test_what_moves_both_cancels_in_the_difference() -> None:
    market = returns_of(1, 1_000)
    better = market + returns_of(2, 1_000, 5e-4, 1e-3)
    low, high = s.excess_interval(better, market, YEAR) or (0.0, 0.0)
    alone = s.sharpe_interval(better, YEAR) or (0.0, 0.0)
    assert low > 0
    assert high - low < 0.5 * (alone[1] - alone[0])
    assert s.excess_interval(market, market, YEAR) is None, "nothing to compare"
    with pytest.raises(ValueError, match="expected the same bars"):
        s.excess_interval(market, market[1:], YEAR)


def test_few_bars_with_a_return_have_no_interval() -> None:
    returns = np.zeros(400)
    returns[:: 400 // (s.LEAST_BARS - 1) + 1] = 0.01 * np.arange(1, 1 + len(returns[:: 400 // (s.LEAST_BARS - 1) + 1]))
    assert s.sharpe_interval(returns, YEAR) is None
    assert s.sharpe_interval(np.zeros(400), YEAR) is None
    assert s.sharpe_interval(np.full(400, 0.01), YEAR) is None


def test_each_by_itself_is_each_alone() -> None:
    table = np.stack([returns_of(1), autoregressive(2, 400, 0.5) / 100, returns_of(3)], axis=1)
    for column, found in estimate_each(s.Sums.of(table)):
        alone = s.estimate(s.Sums.of(table[:, column]))
        assert found.value == pytest.approx(alone.value)
        assert found.interval() == pytest.approx(alone.interval())


def test_the_best_of_many_has_a_wider_interval_and_the_same_answer_as_its_p_value() -> None:
    table = np.stack([returns_of(seed, mean=0.0) for seed in range(30)], axis=1)
    found = s.estimate(s.Sums.of(table))
    best = int(found.ratio.argmax())
    alone = s.estimate(s.Sums.of(table[:, best]))
    assert found.p_value(best) > 5 * alone.p_value(0)
    assert found.interval(best)[0] < alone.interval()[0]  # type: ignore[index]
    for k in range(30):
        for tries in (1.0, 2.0):
            low, _ = found.interval(k, tries=tries)  # type: ignore[misc]
            assert (low > 0) == (found.p_value(k, tries) <= s.TAIL)


def test_a_copy_among_the_candidates_changes_nothing() -> None:
    one = returns_of(5, mean=1e-3)
    alone, twice = (s.estimate(s.Sums.of(np.stack([one] * n, axis=1)), block=2.0) for n in (1, 5))
    assert twice.p_value(3) == pytest.approx(alone.p_value(0), abs=2e-3)
    assert twice.interval(3) == pytest.approx(alone.interval(), rel=1e-4)
