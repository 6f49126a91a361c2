"""The seven components: worked examples of both formula sets, and what makes the sound set sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from p3kit.env import Rules, TradingEnv
from p3kit.env.reward import (
    combine,
    differential_sharpe,
    drawdown_cost,
    guide_drawdown,
    guide_sharpe,
    guide_time,
    hold_component,
    moving_moments,
    sample_moments,
    sizing_component,
    sound_drawdown,
    sound_time,
)
from tests.env.worlds import FREE, WINDOW, choose, component, make_spec, make_symbol, play, play_windows, random_symbol

shares = st.floats(0, 1)
money = st.floats(-50, 50)
bars = st.integers(0, 400)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- pnl and cost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("formulas", "unit"), [("sound", 0.01), ("guide", 1.0)])
def test_pnl_and_cost_are_equity_change_and_fees_over_the_initial_capital(formulas: str, unit: float) -> None:
    """A tenth of the price gained on half the equity, fees by hand."""
    data = make_symbol([100.0] * WINDOW + [110.0, 110.0], [100.0] * (WINDOW + 2))
    step = play(data, make_spec({"formulas": formulas}), ["BUY_MEDIUM"])[1]
    value = 0.5 / (1.0005 * 1.001)
    assert component(step, "pnl").item() == pytest.approx((value * 1.1 - 0.5) / unit, rel=1e-9)
    assert component(step, "cost").item() == pytest.approx(-(0.5 - value) / unit, rel=1e-9)


def test_combine_weighs_the_components() -> None:
    weights = torch.tensor([0.40, 0.15, 0.15, 0.05, 0.10, 0.05, 0.00])
    raw = torch.arange(14, dtype=torch.float64).reshape(2, 7)
    assert combine(raw, weights).tolist() == pytest.approx(
        [sum(w * x for w, x in zip(weights.tolist(), row, strict=True)) for row in raw.tolist()]
    )


# ---- guide ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawdown", "penalty"), [(0.0, 0.0), (0.049, 0.0), (0.05, -0.05), (0.149, -0.149), (0.15, -0.0225), (0.5, -0.25)]
)
def test_guide_drawdown_to_the_letter(drawdown: float, penalty: float) -> None:
    assert guide_drawdown(f64(drawdown)).item() == pytest.approx(penalty, rel=1e-12)


@pytest.mark.parametrize(
    ("profit", "held", "value"),
    [(500.0, 1, 1.0), (500.0, 0, 1.0), (500.0, 4, 0.25), (-500.0, 8, -0.5), (0.0, 4, -0.25), (1e-7, 4, -0.25)],
)
def test_guide_time_to_the_letter(profit: float, held: int, value: float) -> None:
    """max_hold is 16; nothing earned, or a rounding error's worth, is not profitable."""
    rules = Rules.from_spec(make_spec(max_hold=16))
    assert guide_time(f64(profit), f64(held), rules).item() == pytest.approx(value)
    assert guide_time(f64(float("nan")), f64(held), rules).item() == 0.0


def test_guide_time_is_of_the_closed_round_trip() -> None:
    """Half is sold at a gain, which pays nothing yet; the trip then closes at a loss after five bars."""
    data = make_symbol([100.0] * WINDOW + [100.0, 110.0, 120.0, 50.0, 40.0, 40.0, 40.0])
    actions = ["BUY_MEDIUM", "HOLD", "SELL_HALF", "HOLD", "HOLD", "SELL_ALL"]
    steps = play(data, make_spec({"formulas": "guide"}, max_hold=20, ruin=0.0), actions)
    assert [component(step, "time").item() for step in steps[1:]] == pytest.approx([0, 0, 0, 0, 0, -5 / 20, 0])


@given(st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=30), st.floats(0, 2))
def test_guide_sharpe_is_numpys_mean_and_std(returns: list[float], target: float) -> None:
    mean = deviation = f64(0.0)
    for n, value in enumerate(returns):
        mean, deviation = sample_moments(f64(value), mean, deviation, f64(n))
    expected = 0.0 if len(returns) < 2 else np.mean(returns) / (np.std(returns) + 1e-6) - target
    assert guide_sharpe(mean, deviation, f64(len(returns)), target).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def test_guide_sharpe_worked_example() -> None:
    """Returns of 1 % and 3 %: mean 0.02, std 0.01, less the target of 1."""
    data = make_symbol([100.0] * WINDOW + [101.0, 101.0 * 1.03, 101.0 * 1.03])
    spec = make_spec({"formulas": "guide", "target_sharpe": 1.0}, fill="close", **FREE)
    steps = play(data, spec, ["BUY_LARGE"])
    assert component(steps[1], "sharpe").item() == 0.0
    assert component(steps[2], "sharpe").item() == pytest.approx(0.02 / (0.01 + 1e-6) - 1.0, rel=1e-6)


# ---- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profit", "value", "held", "pays"),
    [
        (0.4, 25.0, 1, 0.25 * 0.4),  # below the cap of 0.025 × 25
        (9.0, 25.0, 1, 0.25 * 0.625),  # above it
        (0.4, 25.0, 5, 0.25 * 0.4 / 5),
        (-0.4, 25.0, 0, -0.25 * 0.4),
        (-0.4, 25.0, 4, -0.25 * 0.4 * 1.5),
        (-0.4, 25.0, 99, -0.25 * 0.4 * 2),
        (0.0, 0.0, 0, 0.0),
    ],
)
def test_sound_time_worked_examples(profit: float, value: float, held: int, pays: float) -> None:
    nothing = f64(0.0, 0.0)
    pieces = [torch.stack((f64(x, x), nothing)) for x in (profit, value, held)]
    assert sound_time(*pieces, patience=8).tolist() == pytest.approx([pays, pays])


@given(st.floats(0, 50), st.floats(0, 100), bars, bars, st.integers(1, 50))
def test_a_win_never_pays_more_than_the_same_loss_costs(
    gain: float, value: float, held: int, held_loss: int, patience: int
) -> None:
    """For any exit rule the factor on a win is at most 1/4, on a loss at least 1/4."""
    win = sound_time(f64(gain)[None], f64(value)[None], f64(held)[None], patience).item()
    loss = sound_time(f64(-gain)[None], f64(value)[None], f64(held_loss)[None], patience).item()
    assert 0 <= win <= gain / 4 * (1 + 1e-12)
    assert loss <= -gain / 4 * (1 - 1e-12)


@given(shares, shares, shares)
def test_drawdown_costs_more_the_deeper_it_goes_and_nothing_else(a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    assert sound_drawdown(f64(low), f64(low)).item() == 0.0
    assert sound_drawdown(f64(low), f64(high)).item() <= sound_drawdown(f64(low), f64(middle)).item() <= 0.0
    whole = sound_drawdown(f64(low), f64(high)).item()
    parts = sound_drawdown(f64(low), f64(middle)).item() + sound_drawdown(f64(middle), f64(high)).item()
    assert whole == pytest.approx(parts, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("drawdown", "cost"), [(0.0, 0.0), (0.05, 0.0), (0.15, 0.10), (0.25, 0.21), (1.0, 1.6725)])
def test_drawdown_cost_worked_examples(drawdown: float, cost: float) -> None:
    assert drawdown_cost(f64(drawdown)).item() == pytest.approx(cost, abs=1e-12)


def test_only_a_new_low_costs() -> None:
    data = make_symbol([100.0] * (WINDOW + 1) + [90.0, 85.0, 95.0, 86.0, 80.0, 80.0])
    steps = play(data, make_spec(**FREE), ["BUY_LARGE"])
    expected = [0, -5.0, -5.0, 0, 0, -5.0 - 0.25, 0]
    assert [component(step, "drawdown").item() for step in steps[1:]] == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.floats(-0.1, 0.1), min_size=25, max_size=60))
def test_differential_sharpe_is_the_derivative_of_the_moving_sharpe_ratio(returns: list[float]) -> None:
    """Moody and Saffell: D is dS/dη at η = 0 of S = A/√(B − A²) when one more return enters with weight η."""
    mean = square = f64(0.0)
    for value in returns[:-1]:
        mean, square = moving_moments(f64(value), mean, square)
    a, b, newest = mean.item(), square.item(), returns[-1]
    if b - a * a < 1e-6:
        return

    def ratio(eta: float) -> float:
        moved, moved_square = a + eta * (newest - a), b + eta * (newest**2 - b)
        return moved / (moved_square - moved**2) ** 0.5

    eta = 1e-6
    derivative = (ratio(eta) - ratio(-eta)) / (2 * eta)
    expected = max(-2.0, min(2.0, derivative))
    assert differential_sharpe(f64(newest), mean, square).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_sharpe_is_silent_for_twenty_bars_and_while_flat() -> None:
    rng = np.random.default_rng(0)
    data = make_symbol(list(100 * np.exp(np.cumsum(rng.normal(0, 0.01, WINDOW + 60)))))
    actions = ["BUY_LARGE"] + ["HOLD"] * 40 + ["SELL_ALL"]
    values = [component(step, "sharpe").item() for step in play(data, make_spec(), actions)[1:]]
    assert values[:20] == [0.0] * 20
    assert all(value != 0.0 for value in values[20:42])
    assert values[42:] == [0.0] * len(values[42:])
    assert max(abs(value) for value in values) <= 2.0


@given(shares, st.floats(0.0, 10.0), st.booleans())
def test_sizing_never_pays(exposure: float, volatility: float, opened: bool) -> None:
    rules = Rules.from_spec(make_spec())
    value = sizing_component(torch.tensor([opened]), f64(exposure), f64(volatility), rules).item()
    assert -1.0 <= value <= 0.0
    assert opened or value == 0.0


@pytest.mark.parametrize(
    ("volatility", "name", "value"),
    [(0.25, "BUY_LARGE", 0.0), (0.50, "BUY_MEDIUM", 0.0), (0.50, "BUY_LARGE", -1.0), (0.50, "BUY_SMALL", -0.5),
     (9.0, "BUY_SMALL", 0.0), (0.0, "BUY_LARGE", 0.0), (0.01, "BUY_MEDIUM", -0.5)],
)  # fmt: skip
def test_sizing_wants_the_exposure_that_the_volatility_calls_for(volatility: float, name: str, value: float) -> None:
    """target_volatility is 0.25; the ideal stays within the smallest size and max_position."""
    data = make_symbol([100.0] * (WINDOW + 2), volatility=volatility)
    steps = play(data, make_spec(**FREE), [name])
    assert component(steps[1], "sizing").item() == pytest.approx(value, abs=1e-12)
    assert component(steps[2], "sizing").item() == 0.0


def test_hold_costs_from_the_seventh_bar_on() -> None:
    data = make_symbol([100.0] * (WINDOW + 20), [100.0] * (WINDOW + 20))
    steps = play(data, make_spec(max_hold=19), ["BUY_LARGE"] + ["HOLD"] * 16)
    held = [component(step, "hold").item() for step in steps[1:]]
    assert held[:7] == [0.0] * 7  # the BUY itself, then six bars held
    assert held[7:13] == pytest.approx([-(h - 6) / 19 for h in range(7, 13)])
    assert hold_component(torch.tensor([True, False]), f64(400.0, 400.0), 8).tolist() == [-1.0, 0.0]


def test_staying_flat_earns_exactly_nothing() -> None:
    data = random_symbol(1, 80, scale=0.03, level=10.0, columns="ohl")
    for step in play(data, make_spec(), [])[1:]:
        assert not step.components.any()


@pytest.mark.parametrize("fees", [15.0, 1.0])
def test_the_terms_beside_pnl_pay_nobody_for_churning(fees: float) -> None:
    """Random allowed actions, 64 accounts, the guide's weights: what is added to 0.40 × P&L is a loss on average."""
    data = random_symbol(7, 300, scale=0.01, level=100.0, columns="ohl")
    spec = make_spec(commission_bps=fees * 2 / 3, slippage_bps=fees / 3)
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1)
    rng = np.random.default_rng(0)
    step = play_windows(env, rng.integers(3, 40, 64).tolist(), [299] * 64)
    total = torch.zeros(64, dtype=torch.float64)
    weights = torch.tensor(list(spec.reward.weights.model_dump().values()))
    while step.alive.any():
        step = env.step(choose(step.mask, torch.as_tensor(rng.random(64))))
        total += combine(step.components, weights)
    made = step.equity / spec.env.initial_capital - 1
    assert (total - 40 * made).mean() < 0  # 40 = 0.40 / u
