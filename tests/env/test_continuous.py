"""The continuous account: no episodes, no forced exit at the end, and fields that the open trade alone decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from p3kit.env import Timestep, TradingEnv, TradingVectorEnv, make_trading_env
from p3kit.market import SymbolData
from p3kit.spec import Spec
from tests.env.worlds import FREE, WINDOW, action, choose, make_spec, make_symbol, play_windows, random_symbol

FIELDS = TradingEnv.account_fields
PAST = ("last_action.", "cash")
"""Fields that a flat account may differ in: the last action, and cash / equity, which is 1 to rounding."""


def continuous_env(data: SymbolData, spec: Spec) -> TradingEnv:
    return make_trading_env({"A": data}, spec, symbols=["A"], num_envs=1, continuous=True)


def whole_path(env: TradingEnv, data: SymbolData) -> Timestep:
    first, end = data.splits["train"]
    return play_windows(env, [first], [end - 1])


def play(env: TradingEnv, data: SymbolData, names: list[str]) -> list[Timestep]:
    """The steps of named actions from the first bar, HOLD where they run out."""
    steps = [whole_path(env, data)]
    while steps[-1].alive:
        name = names[len(steps) - 1] if len(steps) <= len(names) else "HOLD"
        steps.append(env.step(torch.tensor([action(name)])))
    env.raise_if_faulty()
    return steps


def fields(step: Timestep) -> dict[str, float]:
    return dict(zip(FIELDS, step.account[0].tolist(), strict=True))


def random_path(env: TradingEnv, data: SymbolData, seed: int) -> Iterator[tuple[Timestep, Tensor]]:
    """(step, action made there) of a random path."""
    generator = torch.Generator().manual_seed(seed)
    step = whole_path(env, data)
    while step.alive:
        chosen = choose(step.mask, torch.rand(1, generator=generator))
        yield step, chosen
        step = env.step(chosen)


def test_the_last_bar_is_marked_and_not_sold() -> None:
    data = make_symbol([100.0] * WINDOW + [110.0, 120.0])
    *_, last = play(continuous_env(data, make_spec(**FREE)), data, ["BUY_LARGE"])
    assert bool(last.truncated)
    assert last.closed_profit.isnan().all()
    assert last.exposure.item() == pytest.approx(1.0)
    assert last.equity.item() == pytest.approx(100_000 * 120 / 110, rel=1e-12)


def test_a_path_may_be_longer_than_an_episode() -> None:
    data = make_symbol([100.0] * (WINDOW + 30))
    steps = play(continuous_env(data, make_spec(episode_bars=9, **FREE)), data, ["HOLD", "HOLD", "BUY_LARGE"])
    assert len(steps) == 31
    left = [fields(step)["episode_left"] for step in steps]
    assert left[:3] == [1.0] * 3
    assert left[3:6] == pytest.approx([1.0, 8 / 9, 7 / 9])  # filled at the close of its first bar
    assert left[15:] == [0.0] * 16


@pytest.mark.parametrize("columns", ["", "ohl"])
def test_a_flat_account_sees_the_fields_of_the_start(columns: str) -> None:
    """The past of an account has no effect except its last action."""
    data = random_symbol(5, WINDOW + 300, scale=0.02, level=50.0, columns=columns)
    env = continuous_env(data, make_spec(stop=0.05, target=0.05, max_hold=12, max_adds=2))
    start = fields(whole_path(env, data))
    flat = [fields(step) for step, _ in random_path(env, data, seed=1) if not step.exposure]
    assert len(flat) > 50
    for seen in flat:
        assert {k: v for k, v in seen.items() if not k.startswith(PAST)} == {
            k: v for k, v in start.items() if not k.startswith(PAST)
        }


@pytest.mark.parametrize("columns", ["", "ohl"])
@pytest.mark.parametrize("fill", ["next", "close"])
def test_the_open_trade_alone_decides(columns: str, fill: str) -> None:
    """An account that starts flat where another was flat gets the same observations from there on, to rounding."""
    data = random_symbol(7, WINDOW + 200, scale=0.02, level=50.0, columns=columns)
    spec = make_spec(stop=0.08, max_hold=15, max_adds=2, fill=fill)
    path = list(random_path(continuous_env(data, spec), data, seed=2))
    begin = next(i for i, (step, _) in enumerate(path) if i > 80 and not step.exposure)
    env = continuous_env(data, spec)
    step = play_windows(env, [int(path[begin][0].bar)], [data.splits["train"][1] - 1])
    held = 0
    for later, chosen in path[begin:]:
        np.testing.assert_allclose(step.account[:, :-7].numpy(), later.account[:, :-7].numpy(), rtol=1e-6, atol=1e-6)
        assert torch.equal(step.mask, later.mask)
        held += int(step.exposure > 0)
        step = env.step(chosen)
    assert held > 20


def test_trades_are_anchored_at_the_cash_before_them() -> None:
    """A gain of 50 %, then a second trade: its change of equity counts from its own start."""
    close = [100.0] * WINDOW + [100.0, 150.0, 150.0, 150.0, 150.0, 75.0, 90.0]
    data = make_symbol(close)
    names = ["BUY_LARGE", "SELL_ALL", "HOLD", "BUY_LARGE"]
    steps = [fields(step) for step in play(continuous_env(data, make_spec(**FREE)), data, names)]
    assert steps[1]["equity_change"] == 0.0
    assert steps[2]["equity_change"] == 0.0  # sold at 150, flat again
    down, up = steps[6], steps[7]
    assert (down["equity_change"], down["drawdown"], down["max_drawdown"]) == pytest.approx((-0.5, 0.5, 0.5))
    assert (up["equity_change"], up["drawdown"], up["max_drawdown"]) == pytest.approx((-0.4, 0.4, 0.5))


def test_realised_profit_counts_the_open_trade_alone() -> None:
    data = make_symbol([100.0] * WINDOW + [100.0, 150.0, 150.0, 150.0])
    steps = play(continuous_env(data, make_spec(**FREE)), data, ["BUY_LARGE", "SELL_HALF", "HOLD", "SELL_ALL"])
    assert [fields(step)["realised"] for step in steps] == pytest.approx([0.0, 0.0, 0.25, 0.25, 0.0])


def test_a_ruined_account_is_sold_and_buys_nothing_more() -> None:
    data = make_symbol([100.0] * WINDOW + [100.0, 40.0, 100.0, 100.0])
    steps = play(continuous_env(data, make_spec(ruin=0.5, **FREE)), data, ["BUY_LARGE"])
    assert bool(steps[-1].terminated)
    assert steps[-1].equity.item() == pytest.approx(40_000, rel=1e-12)
    assert len(steps) == 3


def test_the_reward_of_a_continuous_account_is_pnl_alone() -> None:
    data = random_symbol(3, WINDOW + 60, scale=0.02, level=50.0, columns="ohl")
    for formulas, unit in (("sound", 1_000.0), ("guide", 100_000.0)):
        env = continuous_env(data, make_spec({"formulas": formulas}))
        equity = 100_000.0
        for step, _ in random_path(env, data, seed=4):
            assert step.components[0, 0].item() == pytest.approx((step.equity.item() - equity) / unit, abs=1e-9)
            assert not step.components[0, 1:].any()
            equity = step.equity.item()


def test_the_vector_env_plays_a_whole_split_and_begins_again_at_its_start() -> None:
    env = TradingVectorEnv(symbols=["AAPL", "AMD"], num_envs=2, split="validation", continuous=True)
    _, info = env.reset(seed=3)
    first = info["bar"].copy()
    assert first.tolist() == [env.trading._data[i].splits["validation"][0] for i in range(2)]
    steps, truncated = 0, np.zeros(2, dtype=bool)
    while not truncated.any():
        _, _, _, truncated, info = env.step(np.zeros(2, dtype=np.int64))
        steps += 1
    assert steps > env.trading.rules.episode_bars
    ended = int(np.flatnonzero(truncated)[0])
    assert info["bar"][ended] == first[ended]
    assert info["final_info"]["bar"][ended] == first[ended] + steps
