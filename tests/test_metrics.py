"""The trading formulas against empyrical-reloaded, published numbers, and what must hold for any series."""

from __future__ import annotations

import math

import empyrical
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kurtosis, skew, t, trim_mean

from p3kit import metrics

YEAR = 252.0
SERIES = arrays(np.float64, st.integers(2, 60), elements=st.floats(-0.2, 0.25, allow_nan=False))


def returns_of(seed: int, bars: int = 500, mean: float = 4e-4, std: float = 0.012) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, std, bars)


@pytest.mark.parametrize("seed", range(5))
def test_formulas_agree_with_empyrical(seed: int) -> None:
    returns = returns_of(seed)
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    assert metrics.sharpe_ratio(returns, YEAR) == pytest.approx(empyrical.sharpe_ratio(returns), rel=1e-12)
    assert metrics.sortino_ratio(returns, YEAR) == pytest.approx(empyrical.sortino_ratio(returns), rel=1e-12)
    assert metrics.max_drawdown(equity) == pytest.approx(-empyrical.max_drawdown(returns), rel=1e-12)
    assert metrics.annual_volatility(returns, YEAR) == pytest.approx(empyrical.annual_volatility(returns), rel=1e-12)
    assert metrics.total_return(returns) == pytest.approx(empyrical.cum_returns_final(returns), rel=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_formulas_agree_with_quantstats(seed: int) -> None:
    """It judges win rate and profit factor of bars, where we judge round trips: the formulas are the same."""
    import pandas as pd
    import quantstats.stats as judge

    returns = returns_of(seed)
    series = pd.Series(returns, index=pd.date_range("2020-01-01", periods=len(returns), freq="B"))
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    assert metrics.sharpe_ratio(returns, YEAR) == pytest.approx(judge.sharpe(series), rel=1e-9)
    assert metrics.sortino_ratio(returns, YEAR) == pytest.approx(judge.sortino(series), rel=1e-9)
    assert metrics.max_drawdown(equity) == pytest.approx(-judge.max_drawdown(series), rel=1e-9)
    assert metrics.annual_volatility(returns, YEAR) == pytest.approx(judge.volatility(series), rel=1e-9)
    assert metrics.total_return(returns) == pytest.approx(judge.comp(series), rel=1e-9)
    assert metrics.win_rate(returns) == pytest.approx(judge.win_rate(series), rel=1e-9)
    assert metrics.profit_factor(returns) == pytest.approx(judge.profit_factor(series), rel=1e-9)


def test_hourly_bars_are_annualised_by_their_own_count() -> None:
    """The same returns as bars of an hour are worth √(1638/252) times the Sharpe ratio of daily bars."""
    returns = returns_of(1)
    daily, hourly = metrics.sharpe_ratio(returns, 252.0), metrics.sharpe_ratio(returns, 1_638.0)
    assert daily is not None
    assert hourly == pytest.approx(daily * math.sqrt(1_638 / 252), rel=1e-12)
    assert metrics.annual_volatility(returns, 1_638.0) == pytest.approx(returns.std(ddof=1) * math.sqrt(1_638.0))


def test_what_the_data_do_not_define_is_none_and_a_nan_stays_a_nan() -> None:
    flat = np.zeros(100)
    assert metrics.sharpe_ratio(flat, YEAR) is None
    assert metrics.sharpe_ratio(np.full(100, 0.001), YEAR) is None, "rounding is no spread"
    assert metrics.sortino_ratio(np.abs(returns_of(1)), YEAR) is None
    assert metrics.sharpe_ratio(flat[:1], YEAR) is metrics.annual_volatility(flat[:1], YEAR) is None
    assert metrics.win_rate(np.array([])) is metrics.profit_factor(np.array([])) is None
    broken = np.append(returns_of(1), math.nan)
    for value in (
        metrics.sharpe_ratio(broken, YEAR),
        metrics.sortino_ratio(broken, YEAR),
        metrics.total_return(broken),
    ):
        assert value is not None
        assert math.isnan(value)


def test_trades() -> None:
    assert metrics.profit_factor(np.array([3.0, -1.0, 0.0, 1.0])) == 4.0
    assert metrics.win_rate(np.array([3.0, -1.0, 0.0, 1.0])) == 0.5
    assert metrics.profit_factor(np.array([3.0])) == math.inf
    assert metrics.profit_factor(np.array([0.0])) is None


def test_drawdown_sees_a_loss_in_the_first_bar_and_an_empty_series_has_none() -> None:
    assert metrics.max_drawdown(np.array([100.0, 80.0, 90.0])) == pytest.approx(0.2)
    assert metrics.max_drawdown(np.array([])) == 0.0


@given(SERIES)
def test_drawdown_is_a_share_and_a_deeper_fall_at_the_end_never_makes_it_smaller(returns: np.ndarray) -> None:
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    drawdown = metrics.max_drawdown(equity)
    assert 0.0 <= drawdown <= 1.0
    assert metrics.max_drawdown(np.append(equity, equity[-1] * 0.9)) >= drawdown


@given(SERIES, st.floats(0.01, 100.0))
def test_sharpe_does_not_depend_on_leverage(returns: np.ndarray, leverage: float) -> None:
    sharpe = metrics.sharpe_ratio(returns, YEAR)
    if sharpe is not None and returns.std() > 1e-6:
        assert metrics.sharpe_ratio(returns * leverage, YEAR) == pytest.approx(sharpe, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 10, 33])
def test_interquartile_mean_agrees_with_scipy(count: int) -> None:
    values = returns_of(count, count)
    assert metrics.interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25), rel=1e-12)


def test_interquartile_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        metrics.interquartile_mean(np.array([]))


def test_deflated_sharpe_gives_the_example_of_its_paper() -> None:
    """Bailey and López de Prado 2014, "A numerical example": 2.5 a year over 1,250 days, skewness −3, kurtosis 10."""
    example = {"bars": 1250, "sharpe_std": math.sqrt(0.5), "skewness": -3.0, "kurtosis": 10.0}
    assert metrics.deflated_sharpe(2.5, 250.0, trials=100, **example) == pytest.approx(0.9004, abs=5e-5)
    assert metrics.deflated_sharpe(2.5, 250.0, trials=46, **example) == pytest.approx(0.9505, abs=5e-5)
    plain = {"bars": 1250, "sharpe_std": math.sqrt(0.5)}
    assert metrics.deflated_sharpe(2.5, 250.0, trials=88, **plain) == pytest.approx(0.9505, abs=5e-5)


def test_deflated_sharpe_of_a_single_trial_is_the_probabilistic_sharpe() -> None:
    returns = returns_of(3)
    sharpe = metrics.sharpe_ratio(returns, YEAR)
    assert sharpe is not None
    shape = {"skewness": float(skew(returns)), "kurtosis": float(kurtosis(returns, fisher=False))}
    one = metrics.deflated_sharpe(sharpe, YEAR, bars=len(returns), trials=1, sharpe_std=0.0, **shape)
    many = metrics.deflated_sharpe(sharpe, YEAR, bars=len(returns), trials=50, sharpe_std=0.5, **shape)
    assert many < one
    assert one > 0.5
    with pytest.raises(ValueError, match="expected at least"):
        metrics.deflated_sharpe(sharpe, YEAR, bars=1, trials=1, sharpe_std=0.0)


def test_a_choice_is_deflated_by_all_that_was_tried() -> None:
    returns = returns_of(4) ** 3 + returns_of(5)  # skewed and with long tails
    shape = metrics.return_shape(returns, YEAR)
    assert shape is not None
    assert shape["bars"] == len(returns)
    assert shape["skewness"] == pytest.approx(skew(returns), rel=1e-9)
    assert shape["kurtosis"] == pytest.approx(kurtosis(returns, fisher=False), rel=1e-9)
    assert metrics.return_shape(np.zeros(100), YEAR) is None
    sharpe = metrics.sharpe_ratio(returns, YEAR)
    assert sharpe is not None
    tried = [sharpe, 0.1, -0.4, 0.6]
    own = {"bars": len(returns), "skewness": shape["skewness"], "kurtosis": shape["kurtosis"]}
    expected = metrics.deflated_sharpe(sharpe, YEAR, trials=4, sharpe_std=float(np.std(tried, ddof=1)), **own)
    assert metrics.deflated_choice(sharpe, shape, tried) == expected
    alone = metrics.deflated_choice(sharpe, shape, [sharpe])
    assert alone == metrics.deflated_sharpe(sharpe, YEAR, trials=1, sharpe_std=0.0, **own)
    assert metrics.deflated_choice(sharpe, shape, [sharpe] * 9) == alone, "a try that repeats another brings no luck"
    assert metrics.deflated_choice(sharpe, shape, [*tried, 2.0, -2.0]) < expected < alone


# --- bootstrap --------------------------------------------------------------------------------------------------------


def plain_stationary_draw(length: int, restart: float, rng: np.random.Generator) -> list[int]:
    """Politis and Romano 1994, section 2, one index at a time."""
    index = [int(rng.integers(length))]
    while len(index) < length:
        index.append(int(rng.integers(length)) if rng.random() < restart else (index[-1] + 1) % length)
    return index


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 101])
def test_students_quantiles_agree_with_scipy(freedom: int) -> None:
    for probability in (0.01, 0.5, 0.6, 0.975, 0.9995):
        expected = pytest.approx(t.ppf(probability, freedom), rel=1e-9, abs=1e-9)
        assert metrics.student_quantile(probability, freedom) == expected
    with pytest.raises(ValueError, match="expected 0 < p < 1"):
        metrics.student_quantile(1.0, freedom)


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    drawn = [metrics.mean_interval(rng.normal(0.3, 1.0, 4)) for _ in range(2_000)]
    held = np.mean([low < 0.3 < high for low, high in (bounds for bounds in drawn if bounds is not None)])
    assert held == pytest.approx(0.95, abs=0.015)
    assert metrics.mean_interval(np.array([1.0])) is None
