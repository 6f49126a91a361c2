"""The scalar environment plays the batched one's Timesteps, account by account, in training and in windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from p3kit.env import ScalarTradingEnv, Timestep, TradingEnv, make_trading_env
from p3kit.errors import CheckpointError, NumericalFault
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS
from p3kit.spec import Spec
from tests.env.worlds import FREE, WINDOW, action, choose, make_spec, make_symbol, play_windows, random_symbol

ROWS = 6
MARKET = {
    "A": random_symbol(5, WINDOW + 160, scale=0.01, level=50.0, columns="ohl"),
    "B": random_symbol(6, WINDOW + 90, scale=0.02, level=8.0, columns="", symbol="B"),
}


def ruinous(formulas: str) -> Spec:
    """Rules under which every kind of exit happens: stop, target, holding limit, ruin, end of window."""
    return make_spec({"formulas": formulas}, stop=0.06, target=0.09, max_hold=20, ruin=0.93, episode_bars=45)


def both(spec: Spec, num_envs: int = ROWS, *, continuous: bool = False) -> tuple[TradingEnv, TradingEnv]:
    """The same environment in both backends; account i trades A, B, A, …"""
    plain = spec.model_copy(update={"env": spec.env.model_copy(update={"backend": "scalar"})})
    batched, scalar = (
        make_trading_env(MARKET, s, symbols=["A", "B"], num_envs=num_envs, continuous=continuous) for s in (spec, plain)
    )
    return batched, scalar


def assert_same_step(batched: Timestep, plain: Timestep, capital: float) -> None:
    """Equal in every field: float64 to 1e-9 (of the capital, for money), float32 to its last bits, the rest exactly."""
    units = {"equity": capital, "traded_value": capital, "cost_paid": capital, "closed_profit": capital}
    for name in Timestep._fields:
        one, other = getattr(batched, name), getattr(plain, name)
        assert one.dtype == other.dtype, name
        assert one.shape == other.shape, name
        if one.dtype == torch.float64:
            rtol, atol = 1e-9, 1e-9 * units.get(name, 1.0)
        elif one.dtype == torch.float32:
            rtol = atol = 2e-7
        else:
            rtol = atol = 0.0
        same = torch.isclose(other, one, rtol=rtol, atol=atol, equal_nan=True)
        assert same.all(), f"{name}: {one} in the batched environment, {other} in the scalar one"


@pytest.mark.parametrize("formulas", ["sound", "guide"])
@pytest.mark.parametrize("continuous", [False, True])
def test_training_steps_are_the_same_over_many_episodes(formulas: str, continuous: bool) -> None:
    spec = ruinous(formulas)
    batched, scalar = both(spec, continuous=continuous)
    assert (type(batched), type(scalar)) == (TradingEnv, ScalarTradingEnv)
    generator = torch.Generator().manual_seed(2)
    start = torch.rand(ROWS, generator=generator)
    here, there = batched.reset(start), scalar.reset(start)
    assert_same_step(here, there, spec.env.initial_capital)
    ends = torch.zeros(2)
    executed = torch.zeros(len(ACTIONS))
    for _ in range(300):
        urge, start = torch.rand(2, ROWS, generator=generator)
        chosen = choose(here.mask, urge)
        here, there = batched.step(chosen, start), scalar.step(chosen, start)
        assert_same_step(here, there, spec.env.initial_capital)
        assert torch.equal(
            batched.observe(here.final_index, here.account), scalar.observe(here.final_index, here.account)
        )
        ends += torch.stack((here.terminated.sum(), here.truncated.sum()))
        executed += torch.bincount(here.action, minlength=len(ACTIONS))
    assert (ends >= 3).all(), ends  # ruined and cut off, more than once each
    assert (executed > 0).all(), executed
    for env in (batched, scalar):
        env.raise_if_faulty()
    known = [name for name in batched.accounts._fields if not name.startswith("return_")]
    for name in known:
        torch.testing.assert_close(
            getattr(scalar.accounts, name), getattr(batched.accounts, name), rtol=1e-9, atol=1e-4
        )


@pytest.mark.parametrize("formulas", ["sound", "guide"])
def test_some_rows_moved_alone_are_the_same(formulas: str) -> None:
    """As EnvPool moves them: any rows in any order, the others wait; now and then some start again."""
    spec = ruinous(formulas)
    batched, scalar = both(spec)
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(ROWS, generator=generator)
    mask = batched.reset(start).mask.clone()
    scalar.reset(start)
    ended = 0
    for turn in range(300):
        rows = torch.randperm(ROWS, generator=generator)[: 1 + turn % ROWS]
        urge, start = torch.rand(2, len(rows), generator=generator)
        if turn % 40 == 39:
            for env in (batched, scalar):
                env.restart_some(rows, start)
        else:
            chosen = choose(mask[rows], urge)
            here, there = batched.step_some(rows, chosen, start), scalar.step_some(rows, chosen, start)
            assert_same_step(here, there, spec.env.initial_capital)
            ended += int((here.terminated | here.truncated).sum())
        assert_same_step(batched.standing(), scalar.standing(), spec.env.initial_capital)
        mask = batched.standing().mask
    assert ended >= 10
    play_windows(scalar, [WINDOW], [WINDOW + 9], [0])
    with pytest.raises(RuntimeError, match="all rows together"):
        scalar.step_some(torch.tensor([0]), torch.tensor([ACTIONS.index("HOLD")]), torch.tensor([0.5]))


@pytest.mark.parametrize("formulas", ["sound", "guide"])
@pytest.mark.parametrize("continuous", [False, True])
def test_windows_are_the_same_and_rows_that_ended_stay(formulas: str, continuous: bool) -> None:
    spec = ruinous(formulas)
    first, last = [WINDOW, 30, 10, 60], [WINDOW + 40, 31, 80, 62]
    batched, scalar = both(spec, continuous=continuous)
    here, there = (play_windows(env, first, last, [0, 1, 1, 0]) for env in (batched, scalar))
    generator = torch.Generator().manual_seed(4)
    for _ in range(75):
        assert_same_step(here, there, spec.env.initial_capital)
        chosen = choose(here.mask, torch.rand(4, generator=generator))
        here, there = batched.step(chosen), scalar.step(chosen)
    assert not there.alive.any()


@pytest.mark.parametrize("continuous", [False, True])
def test_a_resumed_env_goes_on_with_the_same_bits(continuous: bool) -> None:
    _, env = both(ruinous("sound"), continuous=continuous)
    _, other = both(ruinous("sound"), continuous=continuous)
    generator = torch.Generator().manual_seed(1)
    step = env.reset(torch.rand(ROWS, generator=generator))
    for _ in range(50):
        urge, start = torch.rand(2, ROWS, generator=generator)
        step = env.step(choose(step.mask, urge), start)
    state = {name: tensor.clone() for name, tensor in env.state_dict().items()}
    assert len(state["lots"])  # somebody holds a position
    again = other.load_state_dict(state)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.items())
    assert torch.equal(again.equity, step.equity)
    for name in ("index", "account", "mask"):
        assert torch.equal(getattr(again, name), getattr(step, name)), name
    for _ in range(80):
        urge, start = torch.rand(2, ROWS, generator=generator)
        chosen = choose(step.mask, urge)
        step, again = env.step(chosen, start), other.step(chosen, start)
        for name in Timestep._fields:
            assert torch.equal(getattr(step, name).nan_to_num(-1.0), getattr(again, name).nan_to_num(-1.0)), name


def test_fresh_accounts_resume_too() -> None:
    _, env = both(ruinous("sound"))
    step = env.reset(torch.full((ROWS,), 0.5))
    assert torch.equal(env.load_state_dict(env.state_dict()).index, step.index)


def test_the_state_of_another_env_is_refused() -> None:
    spec = ruinous("sound")
    with pytest.raises(CheckpointError, match="it holds 4 accounts, this env 5"):
        both(spec, num_envs=5)[1].load_state_dict(both(spec, num_envs=4)[1].state_dict())
    _, env = both(spec)
    play_windows(env, [10], [20])
    with pytest.raises(RuntimeError, match="plays windows"):
        env.state_dict()


def single(data: SymbolData, **env: Any) -> TradingEnv:
    return make_trading_env({"A": data}, make_spec(backend="scalar", **env), symbols=["A"], num_envs=1)


def test_masked_actions_are_held_and_reported() -> None:
    env = single(make_symbol([10.0] * 20))
    env.reset(torch.zeros(1))
    assert env.step(torch.tensor([action("SELL_ALL")]), torch.zeros(1)).action.item() == action("HOLD")
    with pytest.raises(NumericalFault, match="1 masked actions"):
        env.raise_if_faulty()


def test_a_step_needs_to_know_where_rows_restart() -> None:
    env = single(make_symbol([10.0] * 20))
    env.reset(torch.zeros(1))
    with pytest.raises(ValueError, match="step needs `start`"):
        env.step(torch.zeros(1, dtype=torch.int64))


def test_a_price_of_nothing_is_said_with_its_bar() -> None:
    close = [10.0] * 6 + [0.0] + [10.0] * 13
    env = single(make_symbol(close))
    play_windows(env, [5], [9])
    with pytest.raises(NumericalFault, match="A: bar 5: arithmetic error in account 0"):
        env.step(torch.tensor([action("BUY_SMALL")]))


def test_costs_that_move_while_running_apply_from_the_next_step() -> None:
    env = single(make_symbol([100.0] * 40))
    env.reset(torch.zeros(1))
    assert env.step(torch.tensor([action("BUY_LARGE")]), torch.zeros(1)).cost_paid.item() > 0
    env.update(make_spec(backend="scalar", **FREE))
    assert env.step(torch.tensor([action("SELL_ALL")]), torch.zeros(1)).cost_paid.item() == 0.0
