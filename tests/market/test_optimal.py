"""The optimal rule: right by brute force, better than any threshold, and the clear edge is as clear as promised."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from p3kit.market.optimal import OptimalRule, TradingRules, attainable, optimal_rule, play, play_positions
from p3kit.market.synthetic import SyntheticMarket, SyntheticSettings, make_market
from tests.market.made import random_bars

PLAIN = SyntheticSettings(regimes=False)
DEFAULT = TradingRules()
COIN = (np.array([-1.0, 1.0]), np.array([0.5, 0.5]))  # a noise of two outcomes, so that all futures can be listed


def best_by_brute_force(settings: SyntheticSettings, rules: TradingRules, bars: int) -> float:
    """Largest mean log return per bar over all rules that may look at everything so far: every future is listed.

    No grid, no value function: cash and shares as an account has them, the position marked at its value at the end.
    """
    alpha, scale = settings.alpha, settings.signal_scale / settings.volatility

    def best(left: int, mean: float, cash: float, shares: float, price: float) -> float:
        if left == 0:
            return math.log(cash + shares * price)
        choices = [(cash, shares)]
        if shares:
            choices.append((cash + shares * price * rules.sell_factor, 0.0))
        else:
            choices += [(cash * (1 - w), w * cash * rules.buy_factor / price) for w in rules.sizes]
        values = []
        for new_cash, new_shares in choices:
            value = 0.0
            for eps, probability in zip(*COIN, strict=True):
                r = settings.drift[0] + settings.volatility * (settings.edge * mean * scale + eps)
                following = (1 - alpha) * mean + alpha * r
                value += probability * best(left - 1, following, new_cash, new_shares, price * math.exp(r))
            values.append(value)
        return max(values)

    return best(bars, 0.0, 1.0, 0.0, 100.0) / bars


@pytest.mark.parametrize(("edge", "bps"), [(0.18, 0.0), (0.5, 2.0), (1.0, 15.0), (0.18, 15.0)])
def test_value_iteration_agrees_with_brute_force_on_a_short_series(edge: float, bps: float) -> None:
    """Size 1 only: there the constant share of the grid solution is exact."""
    settings = replace(PLAIN, edge=edge)
    rules = TradingRules(sizes=(1.0,), commission_bps=bps, slippage_bps=bps / 2)
    by_hand = best_by_brute_force(settings, rules, bars=7)
    solved = optimal_rule(settings, rules, grid_points=1_201, noise=COIN, horizon=7)
    assert solved.gain == pytest.approx(by_hand, rel=2e-3, abs=1e-9)


def test_with_all_sizes_brute_force_agrees_to_second_order() -> None:
    settings = replace(PLAIN, edge=0.5)
    rules = TradingRules(commission_bps=2.0, slippage_bps=1.0)
    solved = optimal_rule(settings, rules, grid_points=1_201, noise=COIN, horizon=5)
    assert solved.gain == pytest.approx(best_by_brute_force(settings, rules, bars=5), rel=0.01)


@pytest.fixture(scope="module")
def rule() -> OptimalRule:
    return optimal_rule(PLAIN, DEFAULT)


@pytest.fixture(scope="module")
def long_market() -> SyntheticMarket:
    return make_market("LONG", replace(PLAIN, bars=150_000))


def threshold_positions(signal: np.ndarray, buy: float, sell: float) -> np.ndarray:
    """Buy everything above `buy`, sell below `sell`."""
    held, out = 0, np.zeros(len(signal), dtype=np.int64)
    for t, s in enumerate(signal[:-1]):
        held = 3 if (s > buy if held == 0 else s > sell) else 0
        out[t] = held
    return out


def test_no_threshold_rule_is_better(rule: OptimalRule, long_market: SyntheticMarket) -> None:
    best = play(rule, long_market)
    thresholds = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
    others = [
        play_positions(threshold_positions(long_market.signal, buy, sell), long_market.bars, DEFAULT).log_return_per_bar
        for buy, sell in itertools.product(thresholds, thresholds)
        if sell <= buy
    ]
    assert max(others) <= 1.01 * best.log_return_per_bar
    assert best.log_return_per_bar == pytest.approx(rule.gain, rel=0.15), "value iteration predicts its profit"


@pytest.mark.parametrize("symbol", ["ONE", "TWO", "THREE", "FOUR"])
def test_the_default_edge_is_a_clear_edge(symbol: str, rule: OptimalRule) -> None:
    """Annual Sharpe ratio 3.0 ± 0.3 at σ = 0.55 % a bar and default costs, over 240 years of bars (SE 0.07)."""
    market = make_market(symbol, replace(PLAIN, bars=400_000))
    played = play(rule, market)
    assert played.sharpe_ratio == pytest.approx(3.0, abs=0.3)
    assert 0.01 < played.trades / len(market.bars) < 0.04


def test_with_regimes_the_rule_that_knows_them_earns_about_as_much() -> None:
    settings = SyntheticSettings(bars=200_000)
    played = attainable(make_market("ONE", settings), DEFAULT)
    assert played.sharpe_ratio == pytest.approx(3.1, abs=0.4)


def test_without_an_edge_holding_still_is_optimal() -> None:
    rule = optimal_rule(replace(PLAIN, edge=0.0), DEFAULT)
    assert (rule.choice[:, :, 0] == 0).all()
    assert rule.gain == pytest.approx(0.0, abs=1e-12)
    played = attainable(make_market("X", replace(PLAIN, edge=0.0, bars=5_000)), DEFAULT)
    assert played.log_return_per_bar == 0.0
    assert played.sharpe_ratio is None
    assert played.trades == 0


def test_dearer_trading_earns_less_and_trades_less() -> None:
    market = make_market("X", PLAIN)
    played = [attainable(market, TradingRules(commission_bps=bps)) for bps in (0.0, 10.0, 40.0)]
    assert played[0].log_return_per_bar > played[1].log_return_per_bar > played[2].log_return_per_bar
    assert played[0].trades > played[1].trades > played[2].trades


def test_only_some_bars_can_be_played(rule: OptimalRule, long_market: SyntheticMarket) -> None:
    """A part of the bars is played with the signal they carry from before, and starts flat."""
    part = play(rule, long_market, 1_000, 22_000)
    whole = play(rule, long_market)
    assert len(part.positions) == 21_000
    assert len(part.bar_returns) == 20_999
    assert part.positions[-1] == 0
    agree = (part.positions[:-1] == whole.positions[1_000:21_999]).mean()
    assert agree > 0.99, "but for the first position, the same decisions"
    again = play_positions(part.positions, long_market.bars, DEFAULT, 1_000, 22_000)
    assert again.log_return_per_bar == part.log_return_per_bar


@pytest.mark.parametrize("fill", ["next", "close"])
@pytest.mark.parametrize("ohlcv", [True, False])
def test_accounting_of_one_round_trip_by_hand(fill: str, ohlcv: bool) -> None:
    """Buy half on bar 2, sell on bar 5 (decided), fees on both sides; forced out at the last close otherwise."""
    bars = random_bars(8, ohlcv=ohlcv)
    rules = TradingRules(fill=fill)  # type: ignore[arg-type]
    played = play_positions(np.array([0, 0, 2, 2, 2, 0, 0, 0]), bars, rules)
    price = bars.close if fill == "close" else (bars.open if ohlcv else bars.close)[1:]  # type: ignore[index]
    slip, fee = 5e-4, 1e-3
    shares = 0.5 / (price[2] * (1 + slip) * (1 + fee))
    equity = 0.5 + shares * price[5] * (1 - slip) * (1 - fee)
    assert np.prod(1 + played.bar_returns) == pytest.approx(equity, rel=1e-12)
    assert played.trades == 1
    assert played.log_return_per_bar == pytest.approx(math.log(equity) / 7)

    kept = play_positions(np.array([0, 0, 2, 2, 2, 2, 2, 0]), bars, rules)
    assert kept.trades == 1
    equity = 0.5 + shares * bars.close[-1] * (1 - slip) * (1 - fee)
    assert np.prod(1 + kept.bar_returns) == pytest.approx(equity, rel=1e-12)


def test_a_position_cannot_change_size_without_selling() -> None:
    with pytest.raises(ValueError, match="without selling first"):
        play_positions(np.array([1, 2, 0, 0]), random_bars(4), DEFAULT)
