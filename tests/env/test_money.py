"""The money: what no sequence of actions, bars and rules may break."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from p3kit.env import Timestep, TradingEnv
from p3kit.env.reward import combine
from p3kit.env.rules import UNIT
from p3kit.market import SymbolData
from p3kit.spec import Spec
from tests.env.worlds import (
    FREE,
    WINDOW,
    choose,
    component,
    make_spec,
    make_symbol,
    markets,
    play,
    play_windows,
    random_symbol,
    specs,
)

ROWS = 12
anything = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32 - 1)


def walk(env: TradingEnv, data: SymbolData, seed: int, rows: int = ROWS) -> Iterator[tuple[Tensor, Timestep]]:
    """Random windows under random allowed actions; yields (rows that played, what happened) per step."""
    rng = np.random.default_rng(seed)
    low, end = data.splits["train"]
    first = rng.integers(low, end - 2, rows)
    last = rng.integers(first + 1, end)
    step = play_windows(env, first.tolist(), last.tolist())
    while step.alive.any():
        step = env.step(choose(step.mask, torch.as_tensor(rng.random(rows))))
        yield step.valid, step
    env.raise_if_faulty()


def env_of(data: SymbolData, spec: Spec) -> TradingEnv:
    return TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1)


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_equity_is_cash_and_shares_at_the_close(data: SymbolData, spec: Spec, seed: int) -> None:
    env = env_of(data, spec)
    close = torch.as_tensor(data.close)
    for _, step in walk(env, data, seed):
        books = env.accounts
        assert torch.allclose(step.equity, books.cash + books.shares * close[step.bar], rtol=1e-12, atol=0)
        assert (books.cash >= 0).all()
        assert (books.shares >= 0).all()
        assert (step.equity > 0).all()


@anything
@given(spec=specs(), seed=seeds, level=st.sampled_from([1e-7, 1.0, 317.31, 1e7]), ohlc=st.booleans())
def test_at_a_constant_price_equity_changes_by_exactly_the_costs(
    spec: Spec, seed: int, level: float, ohlc: bool
) -> None:
    flat = [level] * 40
    data = make_symbol(flat, flat, flat, flat) if ohlc else make_symbol(flat)
    capital = spec.env.initial_capital
    before = torch.full((ROWS,), capital, dtype=torch.float64)
    for _, step in walk(env_of(data, spec), data, seed):
        assert torch.allclose(before - step.equity, step.cost_paid, rtol=1e-9, atol=1e-12 * capital)
        before = step.equity


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_nobody_earns_more_than_the_bar_moved(data: SymbolData, spec: Spec, seed: int) -> None:
    """No free shares: a gain is at most all shares of the step times the distance from the bar's lowest price to its
    highest. An account without shares and without a trade keeps its money, to the bit."""
    env = env_of(data, spec)
    columns = [c for c in (data.open, data.high, data.low) if c is not None] + [data.close]
    now = data.close[:-1]
    low, high = (torch.as_tensor(f([c[1:] for c in columns] + [now])) for f in (np.minimum.reduce, np.maximum.reduce))
    before, shares = torch.full((ROWS,), spec.env.initial_capital, dtype=torch.float64), torch.zeros(ROWS)
    for played, step in walk(env, data, seed):
        lowest, highest = low[step.bar - 1], high[step.bar - 1]
        most = (shares + step.traded_value / lowest) * (highest - lowest)
        gain = step.equity - before
        assert (gain <= most * (1 + 1e-9) + 1e-12 * before).all()
        idle = played & (shares == 0) & (step.traded_value == 0)
        assert torch.equal(step.equity[idle], before[idle])
        before, shares = step.equity, env.accounts.shares


@anything
@given(
    data=markets(),
    seed=seeds,
    size=st.sampled_from(["BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE"]),
    held=st.integers(0, 20),
    fees=st.lists(st.sampled_from([0.0, 1.0, 10.0, 100.0, 900.0]), min_size=2, max_size=2, unique=True),
    what=st.sampled_from(["commission_bps", "slippage_bps"]),
)
def test_a_round_trip_at_higher_fees_never_ends_richer(
    data: SymbolData, seed: int, size: str, held: int, fees: list[float], what: str
) -> None:
    """One order in and one out at the same prices; thresholds that fees could move (stop, ruin) are off."""
    script = [size, *["HOLD"] * held, "SELL_ALL"]
    ends = []
    for fee in sorted(fees):
        spec = make_spec(ruin=0.0, **{**FREE, what: fee})
        ends.append(play(data, spec, script)[-1].equity.item())
    assert ends[1] < ends[0]


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_what_was_paid_and_what_came_back_is_all_the_money(data: SymbolData, spec: Spec, seed: int) -> None:
    """Cash moves by what is bought and sold at the traded value, less exactly the costs: nothing else touches it."""
    env = env_of(data, spec)
    cash = torch.full((ROWS,), spec.env.initial_capital, dtype=torch.float64)
    worth = torch.zeros(ROWS, dtype=torch.float64)
    close = torch.as_tensor(data.close)
    for _, step in walk(env, data, seed):
        books = env.accounts
        moved = (books.cash - cash).abs()
        assert (moved <= step.traded_value + step.cost_paid + 1e-9 * spec.env.initial_capital).all()
        assert (books.shares * close[step.bar] <= step.equity * (1 + 1e-9)).all()
        cash, worth = books.cash, books.market_value
    assert (worth == 0).all()


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_the_pnl_components_add_up_to_the_total_return(data: SymbolData, spec: Spec, seed: int) -> None:
    total = torch.zeros(ROWS, dtype=torch.float64)
    growth = torch.ones(ROWS, dtype=torch.float64)
    for _, step in walk(env_of(data, spec), data, seed):
        total += component(step, "pnl") * (UNIT if spec.reward.formulas == "sound" else 1.0)
        growth *= 1 + step.bar_return
    assert torch.allclose(total, step.equity / spec.env.initial_capital - 1, rtol=1e-9, atol=1e-9)
    assert torch.allclose(total, growth - 1, rtol=1e-9, atol=1e-9)


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_round_trips_add_up_to_the_total_return(data: SymbolData, spec: Spec, seed: int) -> None:
    """Every window ends flat, so the net profits of its round trips are all it made."""
    env = env_of(data, spec)
    profit = torch.zeros(ROWS, dtype=torch.float64)
    for _, step in walk(env, data, seed):
        profit += step.closed_profit.nan_to_num(0.0)
    made = step.equity - spec.env.initial_capital
    assert torch.allclose(profit, made, rtol=1e-9, atol=1e-9 * spec.env.initial_capital)
    assert (env.accounts.shares == 0).all()


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_cost_is_the_rate_times_the_traded_value(data: SymbolData, spec: Spec, seed: int) -> None:
    """Commission and slippage are charged once each, for all trades: between (1 − s)c + s and (1 + s)c + s a share."""
    c, s = spec.env.commission_bps / 1e4, spec.env.slippage_bps / 1e4
    slack = 1e-9 * spec.env.initial_capital
    for _, step in walk(env_of(data, spec), data, seed):
        assert (step.cost_paid >= step.traded_value * (s + c * (1 - s)) * (1 - 1e-9) - slack).all()
        assert (step.cost_paid <= step.traded_value * (s + c * (1 + s)) * (1 + 1e-9) + slack).all()


@anything
@given(data=markets(), spec=specs(), seed=seeds, k=st.sampled_from([1e-3, 7.0, 1e4]))
def test_units_of_price_and_money_do_not_matter(data: SymbolData, spec: Spec, seed: int, k: float) -> None:
    def scaled(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column * k

    columns = {name: scaled(getattr(data, name)) for name in ("open", "high", "low", "close")}
    dearer = dataclasses.replace(data, **columns)
    richer = spec.model_copy(update={"env": spec.env.model_copy(update={"initial_capital": 3e6})})
    pairs = zip(walk(env_of(data, spec), data, seed), walk(env_of(dearer, richer), dearer, seed), strict=True)
    for (_, one), (_, other) in pairs:
        assert torch.equal(one.mask, other.mask)
        assert torch.allclose(one.components, other.components, rtol=1e-7, atol=1e-7)
        assert torch.allclose(one.account, other.account, rtol=1e-5, atol=1e-5)


@anything
@given(data=markets(), spec=specs(), seed=seeds)
def test_same_inputs_give_the_same_bits_in_any_company(data: SymbolData, spec: Spec, seed: int) -> None:
    """An account's numbers do not depend on how many others there are, nor on its place among them."""
    rng = np.random.default_rng(seed)
    low, end = data.splits["train"]
    first = rng.integers(low, end - 6, ROWS)
    last = rng.integers(first + 5, end)
    urges = torch.as_tensor(rng.random((int((last - first).max()), ROWS)))

    def run(rows: list[int]) -> list[Tensor]:
        env = env_of(data, spec)
        step = play_windows(env, first[rows].tolist(), last[rows].tolist())
        seen = []
        for urge in urges:
            step = env.step(choose(step.mask, urge[rows]))
            seen.append(everything(env, step))
        return seen

    everyone = run(list(range(ROWS)))
    order = rng.permutation(ROWS).tolist()
    for together, again, shuffled, alone in zip(everyone, run(list(range(ROWS))), run(order), run([3]), strict=True):
        assert torch.equal(together, again)
        assert torch.equal(together[order], shuffled)
        assert torch.equal(together[[3]], alone)


def everything(env: TradingEnv, step: Timestep) -> Tensor:
    """All that a learner gets of a step, (N, …) float64."""
    total = combine(step.components, torch.tensor([0.4, 0.15, 0.15, 0.05, 0.1, 0.05, 0.03]))
    money = torch.stack([total, step.equity, step.bar_return, step.cost_paid, step.exposure], 1)
    return torch.cat([money, step.components, step.mask, env.observe(step.index, step.account)], 1)


def test_training_rows_of_several_symbols_are_the_same_in_any_company() -> None:
    """1,027 rows over three symbols with restarts, then some of them in other numbers and other places."""
    market = {s: random_symbol(ord(s), 90, scale=0.02, level=9.0, columns="ohl", symbol=s) for s in "ABC"}
    spec = make_spec(stop=0.05, target=0.05, max_hold=9, episode_bars=12)
    rows, steps, rng = 1_027, 40, np.random.default_rng(0)
    start, urge = torch.as_tensor(rng.random((steps + 1, rows))), torch.as_tensor(rng.random((steps, rows)))

    def run(chosen: list[int]) -> Tensor:
        env = TradingEnv(market, spec, symbols=["ABC"[row % 3] for row in chosen], num_envs=len(chosen))
        step, seen = env.reset(start[0, chosen]), []
        for t in range(steps):
            step = env.step(choose(step.mask, urge[t, chosen]), start[t + 1, chosen])
            seen.append(everything(env, step))
        return torch.stack(seen)

    everyone = run(list(range(rows)))
    for chosen in ([5], [1_026, 1], list(range(7)), list(range(500, 564)), rng.permutation(rows).tolist()):
        assert torch.equal(run(chosen), everyone[:, chosen])


FORCED = {
    "stop": ({"stop": 0.05}, [100, 100, 101, 90, 91, 92]),
    "target": ({"target": 0.05}, [100, 100, 101, 110, 111, 112]),
    "max_hold": ({"max_hold": 2}, [100, 100, 101, 102, 103, 104]),
    "end of the window": ({}, [100, 100, 101, 102]),
    "ruin": ({"ruin": 0.9}, [100, 100, 101, 80, 81, 82]),
}


@pytest.mark.parametrize("cause", FORCED)
@pytest.mark.parametrize("formulas", ["sound", "guide"])
def test_a_forced_exit_costs_what_a_voluntary_one_costs(cause: str, formulas: str) -> None:
    """BUY fills at the close of bar 1; on bar 3 the position goes, by force or by order, at the same close."""
    rules, close = FORCED[cause]
    data = make_symbol([*close[:1]] * (WINDOW - 1) + close)
    forced = play(data, make_spec({"formulas": formulas}, **rules), ["BUY_LARGE", "HOLD", "HOLD"])[3]
    roomy = make_symbol([*close[:1]] * (WINDOW - 1) + close + [close[-1]] * 3)
    chosen = play(roomy, make_spec({"formulas": formulas}, ruin=0.0), ["BUY_LARGE", "HOLD", "SELL_ALL"])[3]
    for name in ("equity", "bar_return", "traded_value", "cost_paid", "closed_profit", "exposure"):
        assert getattr(forced, name).item() == pytest.approx(getattr(chosen, name).item(), rel=1e-12), name
    for name in ("pnl", "cost", "time", "drawdown"):
        assert component(forced, name).item() == pytest.approx(component(chosen, name).item(), rel=1e-12), name


def test_an_order_spends_its_share_of_equity_costs_included() -> None:
    """By hand: 0.5 × 100,000 at 200 × 1.0005 × 1.001 a share; sold at 210 × 0.9995 × 0.999."""
    close = [100.0] * WINDOW + [205.0, 208.0, 209.0]
    opened = [100.0] * WINDOW + [200.0, 206.0, 210.0]
    data = make_symbol(close, opened)
    _, bought, held, sold = play(data, make_spec(), ["BUY_MEDIUM", "HOLD", "SELL_ALL"])
    shares = 50_000 / (200 * 1.0005 * 1.001)
    assert bought.equity.item() == pytest.approx(50_000 + shares * 205, rel=1e-12)
    assert bought.cost_paid.item() == pytest.approx(50_000 - shares * 200, rel=1e-9)
    assert bought.traded_value.item() == pytest.approx(shares * 200, rel=1e-12)
    assert held.equity.item() == pytest.approx(50_000 + shares * 208, rel=1e-12)
    proceeds = shares * 210 * 0.9995 * 0.999
    assert sold.equity.item() == pytest.approx(50_000 + proceeds, rel=1e-12)
    assert sold.closed_profit.item() == pytest.approx(proceeds - 50_000, rel=1e-9)
    assert sold.cost_paid.item() == pytest.approx(shares * 210 - proceeds, rel=1e-9)


@pytest.mark.parametrize(("fill", "price"), [("next", 110.0), ("close", 100.0)])
def test_fills_take_the_price_they_say(fill: str, price: float) -> None:
    data = make_symbol([100.0] * WINDOW + [120.0, 120.0], [100.0] * WINDOW + [110.0, 120.0])
    step = play(data, make_spec(fill=fill, **FREE), ["BUY_LARGE"])[1]
    assert step.equity.item() == pytest.approx(100_000 * 120 / price, rel=1e-12)


def test_without_an_open_the_next_close_fills() -> None:
    data = make_symbol([100.0] * WINDOW + [120.0, 150.0])
    _, bought, held = play(data, make_spec(**FREE), ["BUY_LARGE"])
    assert bought.equity.item() == pytest.approx(100_000, rel=1e-12)
    assert bought.exposure.item() == pytest.approx(1.0)
    assert held.equity.item() == pytest.approx(125_000, rel=1e-12)


def test_an_add_spends_the_entry_size_within_the_position_limit_and_the_cash() -> None:
    """At a constant price without costs: 0.25, then 0.25 more, then what is left up to max_position = 0.7."""
    data = make_symbol([100.0] * (WINDOW + 5))
    steps = play(data, make_spec(max_position=0.7, sizes=[0.25, 0.5, 0.7], **FREE), ["BUY_SMALL", "ADD", "ADD"])
    assert [round(step.exposure.item(), 12) for step in steps[1:5]] == [0.25, 0.5, 0.7, 0.7]


@pytest.mark.parametrize("price", [1e-300, 1e-12, 1e12])
def test_tiny_and_huge_prices_keep_the_books_straight(price: float) -> None:
    data = make_symbol([price * (1 + 0.01 * (i % 3)) for i in range(WINDOW + 12)])
    env = env_of(data, make_spec())
    for _, step in walk(env, data, seed=1):
        assert step.equity.isfinite().all()
        assert (step.equity > 0).all()
        assert step.components.isfinite().all()


def test_a_position_halved_sixty_times_is_still_told_right() -> None:
    """The last 10⁻¹⁸ of a position: its value is 4 % above its cost, a difference below the precision of equity."""
    data = make_symbol([100.0] * (WINDOW + 60) + [104.0] * 3)
    steps = play(data, make_spec(**FREE), ["BUY_LARGE"] + ["SELL_HALF"] * 60)
    fields = dict(zip(TradingEnv.account_fields, steps[61].account[0].tolist(), strict=True))
    assert fields["in_position"] == 1.0
    assert fields["unrealised_return"] == pytest.approx(0.04)
    assert 0.0 < steps[61].exposure.item() < 1e-17


@pytest.mark.parametrize("columns", ["", "o", "hl", "ohl"])
@pytest.mark.parametrize("fill", ["next", "close"])
def test_observations_never_see_the_future(fill: str, columns: str) -> None:
    """Everything after bar t changed: all outputs up to its close have the same bits; those of t + 1 do not."""
    data = random_symbol(3, 60, scale=0.02, level=10.0, columns=columns)
    spec = make_spec(fill=fill, stop=0.02, target=0.03)
    for t in range(WINDOW, 50, 7):
        rng = np.random.default_rng(t)
        other = {"regime": np.where(np.arange(60) > t, 2 - data.regime, data.regime)}
        for name in ("open", "high", "low", "close", "features", "volatility"):
            if (column := getattr(data, name)) is not None:
                other[name] = column.copy()
                other[name][t + 1 :] *= rng.uniform(0.3, 3.0, column[t + 1 :].shape).astype(column.dtype)
        told = [observed_until(market, spec, t + 1) for market in (data, dataclasses.replace(data, **other))]
        *past, next_one = zip(*told, strict=True)
        for one, changed in past:
            assert torch.equal(one, changed)
        assert not torch.equal(*next_one)


def observed_until(data: SymbolData, spec: Spec, t: int) -> list[Tensor]:
    """All that an agent gets to see at each close up to bar t, under a fixed mixture of actions."""
    env = env_of(data, spec)
    step = play_windows(env, [WINDOW - 1], [58])
    rng = np.random.default_rng(0)
    seen = []
    while True:
        seen.append(everything(env, step))
        if int(step.bar) == t:
            return seen
        step = env.step(choose(step.mask, torch.as_tensor(rng.random(1))))
