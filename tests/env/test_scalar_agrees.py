"""The batched engine and the plain reference tell the same story, to 1e-9, over every axis together."""

from __future__ import annotations

import math
from collections import Counter

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
REACHED: Counter[str] = Counter()
"""What the slow test has seen so far."""


def check_same(data: SymbolData, spec: Spec, seed: int, rows: int = ROWS) -> Counter[str]:
    """Play `rows` random windows in both engines; returns how often each action and rarer event took place."""
    rng = np.random.default_rng(seed)
    low, end = data.splits["train"]
    first = rng.integers(low, end - 2, rows)
    last = rng.integers(first + 1, end)
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1)
    step = play_windows(env, first.tolist(), last.tolist())
    accounts = [ScalarAccount(data, env.rules, int(a), int(b)) for a, b in zip(first, last, strict=True)]
    seen: Counter[str] = Counter()
    stories: list[list[str]] = [[] for _ in range(rows)]
    while step.alive.any():
        playing = [i for i in range(rows) if step.alive[i]]
        for i in playing:
            assert {ACTIONS[a] for a in range(7) if step.mask[i, a]} == accounts[i].allowed()
        action = choose(step.mask, torch.as_tensor(rng.random(rows)))
        step = env.step(action)
        for i in playing:
            name, was_long = ACTIONS[int(action[i])], bool(accounts[i].lots)
            outcome = accounts[i].step(name)
            stories[i].append(name)
            seen.update(events(stories[i], was_long, accounts[i], outcome))
            assert_same(step, i, outcome, accounts[i], spec.env.initial_capital)
    assert all(account.ended for account in accounts)
    env.raise_if_faulty()
    return seen


def events(story: list[str], was_long: bool, account: ScalarAccount, outcome: Outcome) -> list[str]:
    """What a row's newest step was an instance of."""
    rules, trade = account.rules, [name for name in story if name != "HOLD"]
    found = [story[-1], f"fill {rules.fill}{'' if account.open is not None else ', late'}"]
    found += ["half after add"] if trade[-2:] == ["ADD", "SELL_HALF"] else []
    found += ["add after half"] if trade[-2:] == ["SELL_HALF", "ADD"] else []
    found += ["half, add, half"] if trade[-3:] == ["SELL_HALF", "ADD", "SELL_HALF"] else []
    found += ["two adds"] if trade[-2:] == ["ADD", "ADD"] else []
    forced = outcome.closed_profit is not None and story[-1] != "SELL_ALL"
    found += ["forced exit"] if forced else []
    inside = forced and not outcome.truncated and not outcome.terminated
    found += ["stop, target or limit"] if inside else []
    found += ["opened and forced out in one bar"] if inside and not was_long else []
    found += ["order voided by the path"] if inside and was_long and story[-1] in ("SELL_HALF", "ADD") else []
    found += ["ruin"] if outcome.terminated else []
    found += ["ruin on the last bar"] if outcome.terminated and account.bar == account.last else []
    found += ["cut off while long"] if outcome.truncated and forced else []
    found += ["one bar"] if account.last - account.first == 1 else []
    found += ["ends with the split"] if account.bar == account.last == len(account.close) - 1 else []
    return found


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
    REACHED.update(check_same(data, spec, seed))


@pytest.mark.slow
def test_the_ten_thousand_sequences_reached_every_corner(capsys: pytest.CaptureFixture[str]) -> None:
    """After the test above, in the same process: equity errors hide where no sequence goes."""
    with capsys.disabled():
        print("\nsteps that were an instance of", dict(REACHED.most_common()))
    corners = {*ACTIONS, "half after add", "add after half", "half, add, half", "two adds", "forced exit", "ruin",
               "stop, target or limit", "opened and forced out in one bar", "order voided by the path", "one bar",
               "ruin on the last bar", "cut off while long", "ends with the split", "fill next", "fill next, late",
               "fill close", "fill close, late"}  # fmt: skip
    assert {corner: REACHED[corner] for corner in corners if REACHED[corner] < 20} == {}


@pytest.mark.parametrize("formulas", ["sound", "guide"])
@pytest.mark.parametrize("columns", ["", "ohl"])
def test_long_episodes_agree_and_reach_every_action(formulas: str, columns: str) -> None:
    data = random_symbol(5, WINDOW + 160, scale=0.01, level=50.0, columns=columns)
    spec = make_spec({"formulas": formulas}, stop=0.08, target=0.1, max_hold=30)
    seen = check_same(data, spec, seed=3, rows=16)
    assert set(ACTIONS) <= set(seen), seen
