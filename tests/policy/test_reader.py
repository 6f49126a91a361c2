"""`policy.py` of an export computes what p3kit computes: features bit for bit, accounts under every rule."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3kit.env import TradingEnv
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.market import Bars, FeatureRecipe, SymbolData, load_market
from p3kit.market.features import compute_features
from p3kit.market.recipe import FORMULAS
from p3kit.metrics import ACTIONS
from p3kit.policy import card_texts, reader
from p3kit.policy.policy_card import account_card, actions_card, features_card
from p3kit.spec import Spec, resolve_spec
from tests.env.worlds import markets, play_windows, specs


def columns_of(data: SymbolData | Bars) -> reader.Bars:
    found = {name: getattr(data, name, None) for name in ("open", "high", "low", "close", "volume")}
    return {"time": [], **{name: column for name, column in found.items() if column is not None}}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=markets(), spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_it_steps_an_account_as_the_environment_does(data: SymbolData, spec: Spec, seed: int) -> None:
    card = {"account": account_card(spec), "actions": actions_card(spec)}
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1, continuous=True)
    first, end = data.splits["train"]
    step = play_windows(env, [first], [end - 1])
    bars, account = columns_of(data), reader.flat_account(spec.env.initial_capital)
    random, t = np.random.default_rng(seed), first
    taste = random.exponential(size=len(ACTIONS)) ** 2
    while step.alive:
        close = float(data.close[t])
        mask = step.mask[0].tolist()
        assert reader.valid_actions(account, close, card) == mask
        np.testing.assert_array_equal(reader.account_fields(account, close, card), step.account[0].numpy())
        action = int(np.where(mask, random.exponential(size=len(ACTIONS)) / taste, np.inf).argmin())
        step = env.step(torch.tensor([action]))
        account, ruined = reader.step(account, ACTIONS[action], bars, t, card["account"])
        t += 1
        assert account["cash"] + account["shares"] * float(data.close[t]) == step.equity.item()
        assert ruined == step.terminated.item()


@pytest.mark.parametrize("columns", ["", "v", "o", "hl", "hlv", "ohlv"])
@pytest.mark.parametrize(("still", "own"), [(False, ()), (True, ("RSI of mine", "sentiment"))])
def test_it_computes_the_same_features(columns: str, still: bool, own: tuple[str, ...]) -> None:
    random = np.random.default_rng(1)
    moves = random.standard_normal((900, 3)) * 0.02 * (random.random((900, 1)) < 0.9)  # some bars do not move
    if still:
        moves[300:420] = 0.0
    close = 50.0 * np.exp(moves[:, 0].cumsum())
    opened = close * np.exp(moves[:, 1])
    known = {
        "open": opened,
        "high": np.maximum(opened, close) * np.exp(np.abs(moves[:, 2])),
        "low": np.minimum(opened, close) * np.exp(-np.abs(moves[:, 2])),
        "volume": np.round(random.exponential(size=900) * 1e6) * (moves[:, 0] != 0),
    }
    kept = {name: column for name, column in known.items() if name[0] in columns}
    times = np.arange("2020-01-01", 900, dtype="datetime64[D]").astype("datetime64[ns]")
    bars = Bars("A", times, close, **kept, own={name: random.standard_normal(900) for name in own})
    names = (*compute_features(bars).names[:: 2 if own else 1], *own)  # all features, or a choice
    numbers = {"mean": tuple(random.standard_normal(len(names))), "scale": tuple(random.exponential(size=len(names)))}
    recipe = FeatureRecipe(FORMULAS, names, bars.columns, own, bars.bars_per_year, **numbers, adjust="off")
    expected = recipe.features(bars)
    assert np.isfinite(expected[recipe.look_back :]).all()
    found = reader.features({"time": [], "close": close, **kept, **bars.own}, {"features": features_card(recipe)})
    np.testing.assert_array_equal(found, expected)


def test_every_feature_field_and_action_is_described() -> None:
    spec = resolve_spec({"name": "x", "symbols": ["AAPL"]}, "test")
    recipe = load_market(spec, ["AAPL"])["AAPL"].recipe
    assert recipe is not None
    described: list[dict[str, Any]] = features_card(recipe)["list"]
    assert [row["name"] for row in described] == list(recipe.names)
    assert max(row["bars_before"] for row in described) == recipe.look_back
    assert {name for name in ACCOUNT_FIELDS if not name.startswith("last_action.")} == set(card_texts.ACCOUNT_TEXTS)
    assert set(ACTIONS) == set(card_texts.ACTION_TEXTS)


def test_it_imports_nothing_of_p3kit() -> None:
    program = f"""
import runpy, sys
runpy.run_path({str(reader.__file__)!r})
print([name for name in sys.modules if name.split(".")[0] in ("p3kit", "torch", "pandas")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("time,open\n2020-01-01,1\n", "needs a column close and one of time, date, timestamp, datetime"),
        ("day,close\n2020-01-01,1\n", "needs a column close and one of time"),
        ("time,close\n2020-01-02,1\n2020-01-01,1\n", "times are not in ascending order"),
        ("time,close\n2020-01-01,1\n2020-01-02,x\n", "row 3: close is not a number"),
        ("time,close\n2020-01-01,nan\n", "row 2: close is not a number"),
        ("time,close\n2020-01-01,1\n", "has no column open; the agent was trained with it"),
    ],
)
def test_it_names_the_fault_of_a_file(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "bars.csv").write_text(text)
    card = {"features": {"own_columns": [], "price_columns": ["open"], "adjust": "off"}}
    with pytest.raises(SystemExit, match=rf"bars\.csv: {fault}"):
        reader.read_bars(str(tmp_path / "bars.csv"), card)


def test_it_adjusts_prices_and_keeps_own_columns(tmp_path: Path) -> None:
    (tmp_path / "bars.csv").write_text("Date,Open,Close,Adj Close,My Signal\n2020-01-01,8,10,5,0.5\n")
    card = {"features": {"own_columns": ["My Signal"], "price_columns": ["open"], "adjust": "adj_close"}}
    bars = reader.read_bars(str(tmp_path / "bars.csv"), card)
    assert (bars["open"][0], bars["close"][0], bars["My Signal"][0], bars["time"]) == (4.0, 5.0, 0.5, ["2020-01-01"])


@pytest.mark.parametrize("account", [{}, {"cash": 1.0, "shares": 2.0}, {"cash": 1.0, "share": 2.0}])
def test_it_names_the_fault_of_an_account(account: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text(json.dumps(account))
    rules = account_card(resolve_spec({"name": "x", "symbols": ["AAPL"]}, "test"))
    with pytest.raises(SystemExit, match=r"account\.json: (needs cash, and with shares entry_price|unknown key share)"):
        reader.read_account(str(tmp_path / "account.json"), 1.0, rules)
