"""A continuous account in plain floats has every bit of the batched engine, over every axis together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3kit.env import TradingEnv
from p3kit.env.account import mask_table
from p3kit.env.float_account import ALLOWED, FloatEngine
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS
from p3kit.spec import Spec
from tests.env.worlds import WINDOW, make_spec, markets, play_windows, random_symbol, specs

NAMES = ("bar_return", "exposure", "traded_value", "cost_paid", "closed_profit")


def check_same_bits(data: SymbolData, spec: Spec, seed: int, rows: int = 4) -> set[str]:
    """Play random actions on `rows` random spans in both engines; returns the actions that were played."""
    rng = np.random.default_rng(seed)
    low, end = data.splits["train"]
    first = rng.integers(low, end - 2, rows)
    last = rng.integers(first + 1, end)
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1, continuous=True)
    step = play_windows(env, first.tolist(), last.tolist())
    engine = FloatEngine(env.rules, env.bars.any_late)
    accounts, last_action = [engine.fresh() for _ in range(rows)], [0] * rows
    taste = torch.as_tensor(rng.exponential(size=(rows, len(ACTIONS))) ** 2)
    taste[:, ACTIONS.index("ADD")] *= 4  # the mask rarely offers it
    played = set()
    while step.alive.any():
        alive = step.alive.nonzero().flatten().tolist()
        for i in alive:
            fields = torch.tensor(engine.fields(accounts[i], last_action[i]), dtype=torch.float32)
            assert torch.equal(step.account[i], fields)
            assert {a for a in range(len(ACTIONS)) if step.mask[i, a]} == ALLOWED[accounts[i].mask_row]
        patience = torch.as_tensor(rng.exponential(size=(rows, len(ACTIONS)))) / taste  # the first to lose it is played
        last_action = patience.masked_fill(~step.mask, math.inf).argmin(1).tolist()
        bars = env.bars.transitions[step.index].tolist()
        step = env.step(torch.tensor(last_action))
        for i in alive:
            played.add(ACTIONS[last_action[i]])
            accounts[i], outcome = engine.step(accounts[i], last_action[i], bars[i])
            np.testing.assert_array_equal([getattr(step, name)[i].item() for name in NAMES], outcome[:-1])
            assert step.terminated[i].item() == outcome.terminated
            assert step.equity[i].item() == accounts[i].equity
    env.raise_if_faulty()
    return played


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=markets(), spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_floats_have_the_bits_of_the_batched_engine(data: SymbolData, spec: Spec, seed: int) -> None:
    check_same_bits(data, spec, seed)


@pytest.mark.slow
@settings(max_examples=1_300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=markets(), spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_floats_have_the_bits_of_the_batched_engine_on_five_thousand_sequences(
    data: SymbolData, spec: Spec, seed: int
) -> None:
    check_same_bits(data, spec, seed)


@pytest.mark.parametrize("columns", ["", "ohl"])
def test_long_accounts_reach_every_action(columns: str) -> None:
    data = random_symbol(5, WINDOW + 160, scale=0.01, level=50.0, columns=columns)
    assert check_same_bits(data, make_spec(stop=0.08, target=0.1, max_hold=30), seed=3, rows=16) == set(ACTIONS)


def test_the_mask_is_the_table_of_the_batched_engine() -> None:
    table = mask_table(torch.device("cpu")).tolist()
    assert [{a for a, allowed in enumerate(row) if allowed} for row in table] == list(ALLOWED)
