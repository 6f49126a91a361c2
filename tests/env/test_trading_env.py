"""Promises of the trading env to a trainer: masks, starts, ends, windows, observations, faults and resuming."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from p3kit.env import Timestep, TradingEnv
from p3kit.errors import CheckpointError, DataError, NumericalFault
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS
from tests.env.worlds import (
    FEATURES,
    FREE,
    WINDOW,
    action,
    choose,
    component,
    make_spec,
    make_symbol,
    play,
    play_windows,
    random_symbol,
)

BARS = 60


def numbered(symbol: str = "A", bars: int = BARS, base: float = 0.0) -> SymbolData:
    """A symbol whose features are its bar numbers plus `base`."""
    data = make_symbol([100.0 + i % 3 for i in range(bars)], symbol=symbol)
    features = np.repeat(base + np.arange(bars, dtype=np.float32)[:, None], FEATURES, axis=1)
    return dataclasses.replace(data, features=features)


def make_env(num_envs: int = 4, data: SymbolData | None = None, **env: Any) -> TradingEnv:
    spec = make_spec(clip=1e6, **{"episode_bars": 10, **env})
    return TradingEnv({"A": data or numbered()}, spec, symbols=["A"], num_envs=num_envs)


def allowed(step: Timestep) -> set[str]:
    return {name for name, ok in zip(ACTIONS, step.mask[0].tolist(), strict=True) if ok}


def hold(env: TradingEnv) -> torch.Tensor:
    return torch.full((env.num_envs,), action("HOLD"))


# ---- masks ----------------------------------------------------------------------------------------------------------


def test_masks_follow_the_position() -> None:
    data = make_symbol([100.0] * (WINDOW + 1) + [110.0, 90.0, 100.0, 100.0, 100.0])
    steps = play(data, make_spec(**FREE), ["BUY_MEDIUM", "HOLD", "HOLD", "SELL_HALF", "SELL_ALL"])
    flat, long = {"HOLD", "BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE"}, {"HOLD", "SELL_HALF", "SELL_ALL"}
    assert [allowed(step) for step in steps[:6]] == [flat, long | {"ADD"}, long | {"ADD"}, long, long | {"ADD"}, flat]


def test_add_is_masked_under_water_costs_included() -> None:
    data = make_symbol([100.0] * (WINDOW + 3))
    assert "ADD" in allowed(play(data, make_spec(**FREE), ["BUY_SMALL"])[1])
    assert "ADD" not in allowed(play(data, make_spec(), ["BUY_SMALL"])[1])


@pytest.mark.parametrize(("max_adds", "offered"), [(0, [False] * 4), (1, [True, False, False, False])])
def test_add_is_masked_when_the_adds_are_used_up(max_adds: int, offered: list[bool]) -> None:
    data = make_symbol([100.0] * (WINDOW + 5))
    steps = play(data, make_spec(max_adds=max_adds, **FREE), ["BUY_SMALL"] + ["ADD"] * max_adds)
    assert ["ADD" in allowed(step) for step in steps[1:5]] == offered


@pytest.mark.parametrize(("limit", "offered"), [(0.375, True), (0.37, False)])
def test_add_is_masked_below_half_the_smallest_size(limit: float, offered: bool) -> None:
    data = make_symbol([100.0] * (WINDOW + 3))
    spec = make_spec(sizes=[0.25, 0.3, limit], max_position=limit, **FREE)
    assert ("ADD" in allowed(play(data, spec, ["BUY_SMALL"])[1])) is offered


def test_each_action_is_valid_and_executed_at_the_defaults() -> None:
    spec = make_spec()
    data = make_symbol([100.0 * 1.01**i for i in range(WINDOW + 12)])
    script = ["BUY_SMALL", "HOLD", "ADD", "SELL_HALF", "SELL_ALL", "BUY_MEDIUM", "SELL_ALL", "BUY_LARGE"]
    steps = play(data, spec, script)
    assert [ACTIONS[int(step.action)] for step in steps[1:9]] == script
    traded = [step.traded_value.item() > 0 for step in steps[1:9]]
    assert traded == [name != "HOLD" for name in script]
    assert set(script) == set(ACTIONS)


def test_a_masked_action_is_held_counted_and_raised() -> None:
    env = make_env()
    env.reset(torch.zeros(4))
    step = env.step(torch.tensor([0, action("SELL_ALL"), action("ADD"), 1]), torch.zeros(4))
    assert step.action.tolist() == [0, 0, 0, 1]
    assert env.masked_actions.tolist() == [0, 1, 1, 0]
    with pytest.raises(NumericalFault, match="A: account 1: 1 masked actions were selected"):
        env.raise_if_faulty()


def test_a_masked_action_may_be_held_without_complaint() -> None:
    env = TradingEnv({"A": numbered()}, make_spec(), symbols=["A"], num_envs=1, invalid_action="hold")
    env.reset(torch.zeros(1))
    step = env.step(torch.tensor([action("ADD")]), torch.zeros(1))
    assert (int(step.action), env.masked_actions.tolist(), step.traded_value.item()) == (0, [1], 0.0)
    env.raise_if_faulty()


# ---- episodes -------------------------------------------------------------------------------------------------------


def test_starts_cover_the_split_evenly_and_episodes_fit_in_it() -> None:
    env = make_env(num_envs=1_000)
    step = env.reset(torch.linspace(0, 1, 1_001)[:-1])
    low, end = numbered().splits["train"]
    starts, counts = np.unique(step.bar.numpy(), return_counts=True)
    assert starts.tolist() == list(range(low, end - 10))
    assert counts.max() - counts.min() <= 1
    assert env.reset(torch.full((1_000,), 1 - 1e-9, dtype=torch.float64)).bar.max() == end - 11
    assert env.reset(torch.ones(1_000)).bar.max() == end - 11  # a float32 uniform may round up to 1


def test_the_end_of_the_window_truncates_and_restarts_in_the_same_step() -> None:
    env = make_env(num_envs=2)
    step = env.reset(torch.tensor([0.0, 0.5]))
    first = step.bar.clone()
    for _ in range(9):
        step = env.step(hold(env), torch.zeros(2))
        assert not (step.truncated | step.terminated).any()
    step = env.step(hold(env), torch.tensor([0.2, 0.9]))
    assert step.truncated.tolist() == [True, True]
    assert step.terminated.tolist() == [False, False]
    assert step.bar.tolist() == step.final_index.tolist() == (first + 10).tolist()
    assert step.index.tolist() == env.reset(torch.tensor([0.2, 0.9])).index.tolist()
    left = env.account_fields.index("episode_left")
    assert step.account[:, left].tolist() == [1.0, 1.0]
    assert step.final_account[:, left].tolist() == [0.0, 0.0]
    assert step.alive.all()
    assert step.valid.all()


def test_a_restarted_account_is_as_new() -> None:
    env = make_env(num_envs=1)
    step = fresh = env.reset(torch.zeros(1))
    for i in range(10):
        step = env.step(torch.tensor([action("BUY_LARGE") if i == 0 else 0]), torch.zeros(1))
    assert step.truncated.all()
    assert torch.equal(step.account, fresh.account)
    assert torch.equal(step.mask, fresh.mask)
    assert step.exposure.item() == 0.0
    assert step.closed_profit.isfinite().all()
    assert env.step(hold(env), torch.zeros(1)).equity.item() == 100_000.0


@pytest.mark.parametrize(("ruin", "terminated"), [(0.5, True), (0.2, False)])
def test_ruin_terminates_and_the_end_of_the_window_truncates(ruin: float, terminated: bool) -> None:
    """Equity falls to 30 % on the last bar: with ruin at 50 % nothing follows, at 20 % the window has merely ended."""
    data = make_symbol([100.0] * (WINDOW + 1) + [30.0])
    last = play(data, make_spec(ruin=ruin), ["BUY_LARGE"])[-1]
    assert (last.terminated.item(), last.truncated.item()) == (terminated, not terminated)
    assert last.exposure.item() == 0.0
    assert last.cost_paid.item() > 0


def test_a_split_shorter_than_an_episode_is_one_episode() -> None:
    env = make_env(num_envs=3, data=numbered(bars=WINDOW + 4), episode_bars=252)
    step = env.reset(torch.tensor([0.0, 0.5, 0.99]))
    assert step.bar.tolist() == [WINDOW - 1] * 3
    for _ in range(4):
        step = env.step(hold(env), torch.zeros(3))
    assert step.truncated.all()


def test_accounts_trade_their_symbols_in_turn() -> None:
    market = {"A": numbered("A", BARS, 0.0), "B": numbered("B", 40, 1000.0), "C": numbered("C", 50, 2000.0)}
    env = TradingEnv(market, make_spec(clip=1e6, episode_bars=10), symbols=["C", "A", "B"], num_envs=5)
    step = env.reset(torch.zeros(5))
    for _ in range(12):
        window = env.observe(step.index, step.account)[:, : WINDOW * FEATURES].reshape(5, WINDOW, FEATURES)
        assert (window[:, -1, 0] // 1000).tolist() == [2, 0, 1, 2, 0]
        step = env.step(hold(env), torch.zeros(5))


# ---- windows --------------------------------------------------------------------------------------------------------


def test_each_window_is_played_once_from_its_first_bar_to_its_last() -> None:
    env = make_env(num_envs=1)
    step = play_windows(env, [5, 10, 7], [8, 15, 12])
    seen = []
    buy = torch.full((3,), action("BUY_LARGE"))
    while step.alive.any():
        step = env.step(torch.where(step.mask[:, 1], buy, 0))
        seen.append((step.bar.tolist(), step.valid.tolist(), step.alive.tolist(), step.truncated.tolist()))
    assert [row[0] for row in seen] == [[6, 11, 8], [7, 12, 9], [8, 13, 10], [8, 14, 11], [8, 15, 12]]
    assert [row[1][0] for row in seen] == [True, True, True, False, False]
    assert [row[2][0] for row in seen] == [True, True, False, False, False]
    assert [row[3][0] for row in seen] == [False, False, True, False, False]
    env.raise_if_faulty()


def test_a_window_that_ended_stays_as_it_is() -> None:
    env = make_env(num_envs=1)
    step = play_windows(env, [5, 10], [7, 40])
    for _ in range(2):
        step = env.step(torch.where(step.mask[:, 1], action("BUY_LARGE"), 0))
    ended = step
    for _ in range(3):
        step = env.step(torch.tensor([action("ADD"), 0]))
        for name in ("index", "account", "final_index", "final_account", "equity", "bar"):
            assert torch.equal(getattr(step, name)[0], getattr(ended, name)[0]), name
        assert step.mask[0].tolist() == [True] + [False] * 6
        nothing = (step.components[0].abs().sum(), step.bar_return[0], step.traded_value[0], step.cost_paid[0])
        assert [value.item() for value in nothing] == [0.0] * 4
        assert step.closed_profit[0].isnan()
    env.raise_if_faulty()


@pytest.mark.parametrize(("first", "last"), [(2, 10), (5, 60), (10, 10), (12, 11)])
def test_windows_outside_the_split_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match=r"window 1, bars .* is not inside the train split, bars 3 to 59"):
        play_windows(make_env(), [5, first], [9, last])


def test_training_needs_to_know_where_rows_restart() -> None:
    env = make_env()
    env.reset(torch.zeros(4))
    with pytest.raises(ValueError, match="needs `start`"):
        env.step(hold(env))


def test_windows_and_training_take_turns() -> None:
    env = make_env(num_envs=4)
    play_windows(env, [5], [9])
    assert env.num_envs == 1
    assert len(env.reset(torch.zeros(4)).index) == env.num_envs == 4


# ---- observations ---------------------------------------------------------------------------------------------------


def test_an_observation_ends_with_the_bar_it_is_made_at() -> None:
    env = make_env(num_envs=3)
    step = env.reset(torch.tensor([0.0, 0.4, 0.8]))
    for _ in range(25):
        window = env.observe(step.index, step.account)[:, : WINDOW * FEATURES].reshape(3, WINDOW, FEATURES)
        bars = step.index.unsqueeze(1) + torch.arange(1 - WINDOW, 1)
        assert torch.equal(window, bars.float().unsqueeze(2).expand(3, WINDOW, FEATURES))
        step = env.step(hold(env), torch.rand(3))


def test_observe_takes_any_leading_shape() -> None:
    env = make_env(num_envs=6)
    step = env.reset(torch.rand(6))
    flat = env.observe(step.index, step.account)
    assert flat.shape == (6, env.observation_size)
    assert flat.dtype == torch.float32
    assert flat.shape[1] == WINDOW * FEATURES + env.account_size
    shaped = env.observe(step.index.reshape(2, 3), step.account.reshape(2, 3, -1))
    assert torch.equal(shaped.reshape(6, -1), flat)


def test_observations_are_clipped_and_the_clipping_is_counted() -> None:
    data = numbered()
    env = TradingEnv({"A": data}, make_spec(clip=6.0), symbols=["A"], num_envs=1)
    step = play_windows(env, [6], [20])  # features 3, 4, 5, 6
    assert env.observe(step.index, step.account).abs().max() == 6.0
    assert [float(value) for value in env.observation_stats(step.index, step.account)] == [6.0, 0.0]
    step = env.step(torch.tensor([0]))  # features 4, 5, 6, 7
    assert env.observe(step.index, step.account).abs().max() == 6.0
    largest, share = env.observation_stats(step.index, step.account)
    assert largest == 7.0
    assert share.item() == pytest.approx(FEATURES / env.observation_size)


def test_account_fields_by_hand() -> None:
    """Half the money at 100, then up to 120, half of it sold there, then down to 90."""
    data = make_symbol([100.0] * (WINDOW + 1) + [120.0, 120.0, 90.0, 90.0, 90.0])
    spec = make_spec(episode_bars=20, **FREE)
    steps = play(data, spec, ["BUY_MEDIUM", "HOLD", "SELL_HALF", "HOLD", "HOLD"])
    seen = dict(zip(TradingEnv.account_fields, steps[4].account[0].tolist(), strict=True))
    expected = {
        "in_position": 1.0,
        "exposure": 22_500 / 102_500,
        "unrealised_return": -0.10,
        "bars_held": 3 / 20,
        "cash": 80_000 / 102_500,
        "equity_change": 0.025,
        "drawdown": 7_500 / 110_000,
        "max_drawdown": 7_500 / 110_000,
        "realised": 0.05,
        "episode_left": 2 / 6,
        "adds_used": 0.0,
        "add_size": 0.0,
        **{f"last_action.{name}": float(name == "HOLD") for name in ACTIONS},
    }
    assert seen == pytest.approx(expected, rel=1e-6)
    offered = dict(zip(TradingEnv.account_fields, steps[3].account[0].tolist(), strict=True))
    assert offered["add_size"] == pytest.approx(0.5)
    assert offered["last_action.SELL_HALF"] == 1.0


def test_the_account_without_money_units_stays_bounded() -> None:
    env = make_env(num_envs=64, data=random_symbol(2, 200, scale=0.05, level=1e4, columns="ohl"), episode_bars=100)
    generator = torch.Generator().manual_seed(0)
    step = env.reset(torch.rand(64, generator=generator))
    for _ in range(150):
        step = env.step(choose(step.mask, torch.rand(64, generator=generator)), torch.rand(64, generator=generator))
        assert step.account.abs().max() < 20
    env.raise_if_faulty()


# ---- refusals and faults --------------------------------------------------------------------------------------------


def test_a_reward_that_is_not_finite_is_raised_with_its_place() -> None:
    close = np.full(BARS, 100.0)
    close[9] = np.nan
    data = make_symbol(list(close))
    env = TradingEnv({"A": data}, make_spec(), symbols=["A"], num_envs=1)
    step = play_windows(env, [6], [20])
    for name in ("BUY_LARGE", "HOLD", "HOLD"):
        env.raise_if_faulty()
        step = env.step(torch.tensor([action(name)]))
    assert component(step, "pnl").isnan().all()
    with pytest.raises(NumericalFault, match="A: bar 9: the pnl component of account 0 is not finite"):
        env.raise_if_faulty()


def test_windows_of_features_must_be_whole_and_finite() -> None:
    data = numbered()
    data.features[7, 1] = np.nan
    with pytest.raises(DataError, match="A: a feature of bar 7 is not finite"):
        make_env(data=data)
    early = dataclasses.replace(numbered(), splits={"train": (WINDOW - 2, BARS)})
    with pytest.raises(DataError, match="bar 2 has no window of 4 bars"):
        make_env(data=early)


def test_splits_must_exist_and_hold_two_bars() -> None:
    with pytest.raises(DataError, match="no split 'holdout'"):
        TradingEnv({"A": numbered()}, make_spec(), symbols=["A"], split="holdout")
    with pytest.raises(DataError, match="the train split has 1 usable bars"):
        make_env(data=dataclasses.replace(numbered(), splits={"train": (9, 10)}))


# ---- resuming and changing ------------------------------------------------------------------------------------------


def test_a_resumed_env_goes_on_with_the_same_bits() -> None:
    data = random_symbol(4, 120, scale=0.03, level=20.0, columns="ohl")
    spec = make_spec(episode_bars=15, stop=0.05)
    env, other = (TradingEnv({"A": data}, spec, symbols=["A"], num_envs=8) for _ in range(2))
    generator = torch.Generator().manual_seed(1)

    def forward(env: TradingEnv, step: Timestep, draws: list[torch.Tensor]) -> list[Timestep]:
        steps = [step]
        for draw in draws:
            steps.append(env.step(choose(steps[-1].mask, draw[0]), draw[1]))
        return steps

    early, late = ([torch.rand(2, 8, generator=generator) for _ in range(40)] for _ in range(2))
    step = forward(env, env.reset(torch.rand(8, generator=generator)), early)[-1]
    state = {name: tensor.clone() for name, tensor in env.state_dict().items()}
    here = forward(env, step, late)
    there = forward(other, other.load_state_dict(state), late)
    for name in ("index", "account", "mask"):
        assert torch.equal(getattr(here[0], name), getattr(there[0], name)), name
    for one, two in zip(here[1:], there[1:], strict=True):
        for name in Timestep._fields:
            assert torch.equal(getattr(one, name).nan_to_num(-1.0), getattr(two, name).nan_to_num(-1.0)), name


def test_the_state_of_another_env_is_refused() -> None:
    with pytest.raises(CheckpointError, match="resume with the spec of the run"):
        make_env(num_envs=4).load_state_dict(make_env(num_envs=5).state_dict())


def test_costs_that_move_while_running_apply_from_the_next_step() -> None:
    env = make_env(num_envs=1, data=make_symbol([100.0] * 40))
    env.reset(torch.zeros(1))
    buy, sell = (torch.tensor([action(name)]) for name in ("BUY_LARGE", "SELL_ALL"))
    assert env.step(buy, torch.zeros(1)).cost_paid.item() > 0
    env.update(make_spec(clip=1e6, episode_bars=10, **FREE))
    assert env.step(sell, torch.zeros(1)).cost_paid.item() == 0.0


@pytest.mark.slow
def test_a_smaller_env_is_compiled_once() -> None:
    """With another number of rows torch.compile takes sizes and offsets as variables. `start` is a row of a table, at
    another offset in each step, and so are the fields of an account that was loaded: where two offsets were equal, it
    made another function."""
    from torch._dynamo.utils import counters

    for rows in (8, 4):
        env, starts = make_env(rows), torch.rand(40, rows)
        env.compile(torch.compile)
        env.reset(starts[0])
        env.load_state_dict(env.state_dict())
        counters.clear()
        numbers = []
        for start in starts:
            env.step(hold(env), start)
            numbers.append(counters["stats"]["unique_graphs"])
        assert 0 < numbers[1] == numbers[-1]


def test_no_step_waits_for_the_device() -> None:
    """On the meta device tensors have no values: code that reads one back, or mixes devices, fails."""
    spec = make_spec(episode_bars=10, stop=0.02, target=0.02, max_hold=5)
    for columns in ("", "ohl"):
        data = random_symbol(0, 60, scale=0.02, level=10.0, columns=columns)
        for reward in ({"formulas": "sound"}, {"formulas": "guide"}):
            rules = spec.model_copy(update={"reward": spec.reward.model_copy(update=reward)})
            env = TradingEnv({"A": data}, rules, symbols=["A"], num_envs=4, device="meta")
            env.reset(torch.rand(4, device="meta"))
            step = env.step(torch.zeros(4, dtype=torch.int64, device="meta"), torch.rand(4, device="meta"))
            assert env.observe(step.index, step.account).shape == (4, env.observation_size)


@pytest.mark.gpu
def test_cuda_tells_the_same_story() -> None:
    data = random_symbol(8, 200, scale=0.02, level=10.0, columns="ohl")
    spec = make_spec(episode_bars=50, stop=0.05, target=0.08)
    cpu, cuda = (TradingEnv({"A": data}, spec, symbols=["A"], num_envs=64, device=device) for device in ("cpu", "cuda"))
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(64, generator=generator)
    here, there = cpu.reset(start), cuda.reset(start.cuda())
    for _ in range(120):
        urge, start = torch.rand(2, 64, generator=generator)
        chosen = choose(here.mask, urge)
        here, there = cpu.step(chosen, start), cuda.step(chosen.cuda(), start.cuda())
        assert torch.equal(here.mask, there.mask.cpu())
        assert torch.equal(here.index, there.index.cpu())
        assert torch.allclose(here.components, there.components.cpu(), rtol=1e-9, atol=1e-9)
        assert torch.allclose(here.equity, there.equity.cpu(), rtol=1e-12)
        seen = cuda.observe(there.index, there.account).cpu()
        assert torch.allclose(cpu.observe(here.index, here.account), seen, rtol=1e-6, atol=1e-6)
    cuda.raise_if_faulty()
