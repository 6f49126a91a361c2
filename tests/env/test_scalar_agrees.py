"""The batched engine and the plain reference tell the same story, to 1e-9, over every axis together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3kit.env import Timestep, TradingEnv
from p3kit.env.scalar import Outcome, ScalarAccount
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import Spec
from tests.env.worlds import WINDOW, choose, make_spec, markets, play_windows, random_symbol, specs

ROWS = 8


def check_same(data: SymbolData, spec: Spec, seed: int, rows: int = ROWS) -> np.ndarray:
    """Play `rows` random windows in both engines; returns how often each action was executed."""
    rng = np.random.default_rng(seed)
    low, end = data.splits["train"]
    first = rng.integers(low, end - 2, rows)
    last = rng.integers(first + 1, end)
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1)
    step = play_windows(env, first.tolist(), last.tolist())
    accounts = [ScalarAccount(data, env.rules, int(a), int(b)) for a, b in zip(first, last, strict=True)]
    executed = np.zeros(len(ACTIONS), dtype=int)
    while step.alive.any():
        playing = [i for i in range(rows) if step.alive[i]]
        for i in playing:
            assert {ACTIONS[a] for a in range(7) if step.mask[i, a]} == accounts[i].allowed()
        action = choose(step.mask, torch.as_tensor(rng.random(rows)))
        step = env.step(action)
        for i in playing:
            outcome = accounts[i].step(ACTIONS[int(action[i])])
            executed[int(action[i])] += 1
            assert_same(step, i, outcome, accounts[i], spec.env.initial_capital)
    assert all(account.ended for account in accounts)
    env.raise_if_faulty()
    return executed


def assert_same(step: Timestep, i: int, outcome: Outcome, account: ScalarAccount, capital: float) -> None:
    """Row i of a batched step is the reference's outcome."""

    def close(batched: float, plain: float, unit: float, what: str) -> None:
        assert math.isclose(batched, plain, rel_tol=1e-9, abs_tol=1e-9 * unit), f"{what}: {batched!r} != {plain!r}"

    close(step.equity[i].item(), outcome.equity, 0.0, "equity")
    close(step.bar_return[i].item(), outcome.bar_return, 1.0, "bar_return")
    close(step.traded_value[i].item(), outcome.traded_value, 1e-3 * capital, "traded_value")
    close(step.cost_paid[i].item(), outcome.cost_paid, 1e-3 * capital, "cost_paid")
    close(step.exposure[i].item(), outcome.exposure, 1e-3, "exposure")
    for name, batched, plain in zip(COMPONENTS, step.components[i].tolist(), outcome.components, strict=True):
        close(batched, plain, 1.0, name)
    assert step.closed_profit[i].isnan().item() == (outcome.closed_profit is None)
    if outcome.closed_profit is not None:
        close(step.closed_profit[i].item(), outcome.closed_profit, 1e-2 * capital, "closed_profit")
    assert step.terminated[i].item() == outcome.terminated
    assert step.truncated[i].item() == outcome.truncated
    assert step.bar[i].item() == account.bar
    np.testing.assert_allclose(step.final_account[i].numpy(), account.fields(), rtol=1e-6, atol=1e-6)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=markets(), spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_batched_equals_scalar(data: SymbolData, spec: Spec, seed: int) -> None:
    check_same(data, spec, seed)


@pytest.mark.slow
@settings(max_examples=1_300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=markets(), spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_batched_equals_scalar_on_ten_thousand_sequences(data: SymbolData, spec: Spec, seed: int) -> None:
    check_same(data, spec, seed)


@pytest.mark.parametrize("formulas", ["sound", "guide"])
@pytest.mark.parametrize("columns", ["", "ohl"])
def test_long_episodes_agree_and_reach_every_action(formulas: str, columns: str) -> None:
    data = random_symbol(5, WINDOW + 160, scale=0.01, level=50.0, columns=columns)
    spec = make_spec({"formulas": formulas}, stop=0.08, target=0.1, max_hold=30)
    executed = check_same(data, spec, seed=3, rows=16)
    assert (executed > 0).all(), dict(zip(ACTIONS, executed, strict=True))
