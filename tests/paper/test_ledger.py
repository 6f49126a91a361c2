"""The ledger of a paper account has the bits of the environment's continuous account, under every rule."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from p3kit.env import Rules, make_trading_env
from p3kit.env.account import Account, action_mask, mask_table
from p3kit.market import Bars, SymbolData, load_market
from p3kit.metrics import ACTIONS
from p3kit.paper.book import Book, table_of
from p3kit.paper.incoming import history_lines
from p3kit.paper.ledger import next_row
from p3kit.spec import Spec
from tests.market.made import frame_of, market_spec, random_bars, write_csv

RULES = {
    "plain": {},
    "stop and target": {"stop": 0.02, "target": 0.03},
    "holding limit": {"max_hold": 3},
    "all three": {"stop": 0.03, "target": 0.04, "max_hold": 6},
    "filled at the close": {"fill": "close", "stop": 0.02},
    "high costs": {"commission_bps": 80.0, "slippage_bps": 50.0, "target": 0.05},
    "ruined": {"ruin": 0.97, "commission_bps": 100.0},
}


def scripted(time: np.datetime64, mask: np.ndarray) -> int:
    """A valid action that follows from the time of a bar alone."""
    noise = hashlib.sha256(str(time.astype("datetime64[s]")).encode()).digest()
    allowed = np.flatnonzero(mask)
    return int(allowed[noise[0] % len(allowed)])


def decide(bars: Bars, account: Account, last_action: str) -> dict[str, Any]:
    mask = action_mask(account, mask_table(torch.device("cpu")))[0].numpy()
    return {"action": ACTIONS[scripted(bars.timestamps[-1], mask)], "last_action": last_action}


def opened(bars: Bars, start: int, columns: tuple[str, ...]) -> Book:
    table = table_of(bars, columns, ())
    lines = history_lines(bars.timestamps[:start], table[:start])
    row = {"kind": "opened", "format": 1, "symbol": "X", "capital": 1.0, "columns": list(columns), "own": [],
           "start": "", "history": lines, "weights": {"sha256": "0" * 64}, "rules": {}}  # fmt: skip
    return Book.open(row)


def played(spec: Spec, bars: Bars, first: int, last: int) -> Book:
    """The book after the bars first … last."""
    columns = ("close", *bars.columns)
    book, rules = opened(bars, first, columns), Rules.from_spec(spec, continuous=True)
    table = table_of(bars, columns, ())
    for bar in range(first, last + 1):
        book.apply(next_row(book, rules, bars.timestamps[bar], table[bar].tolist(), decide, needed=70))
    return book


def evaluated(spec: Spec, data: SymbolData, hold: bool) -> tuple[list[float], list[int]]:
    """Equities and actions of the environment over the validation split, one row."""
    env = make_trading_env({"X": data}, spec, symbols=["X"], split="validation", num_envs=1, continuous=True)
    first, last = data.splits["validation"]
    step = env.reset_windows(torch.tensor([0]), torch.tensor([first]), torch.tensor([last - 1]))
    equities, actions = [float(step.equity[0])], []
    for _ in range(first, last - 1):
        mask = step.mask[0].numpy()
        buy_or_hold = 3 if mask[3] else 0
        action = buy_or_hold if hold else scripted(data.timestamps[int(step.bar[0])], mask)
        step = env.step(torch.tensor([action if bool(step.alive[0]) else 0]), torch.zeros(1, dtype=torch.float64))
        equities.append(float(step.equity[0]))
        actions.append(action)
    return equities, actions


@pytest.mark.parametrize("ohlcv", [True, False])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_every_close_has_the_bits_of_the_environment(tmp_path, rules, ohlcv) -> None:
    bars = random_bars(700, seed=4, ohlcv=ohlcv)
    write_csv(frame_of(bars), tmp_path)
    spec = market_spec(("X",), env={"window": 6, "episode_bars": 30, **rules},
                       data={"source": "csv", "path": str(tmp_path / "{symbol}.csv")})  # fmt: skip
    data = load_market(spec, ["X"])["X"]
    first, last = data.splits["validation"]
    book = played(spec, bars, first, last - 1)
    equities, actions = evaluated(spec, data, hold=False)
    assert [point.equity for point in book.points] == equities
    if rules.get("ruin", 0.1) < 0.9:
        assert [point.decision["action"] for point in book.points[:-1]] == [ACTIONS[action] for action in actions]
    else:
        assert book.ruined[0]
        assert book.points[-1].decision["reason"].startswith("the account is ruined")
    limits = {
        "stop": "off",
        "target": "off",
        "max_hold": "off",
        "ruin": 0.0,
        "max_position": 1.0,
        "sizes": (0.5, 0.5, 1.0),
    }
    all_in = spec.model_copy(update={"env": spec.env.model_copy(update=limits)})
    assert [point.hold_equity for point in book.points] == evaluated(all_in, data, hold=True)[0]


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_fills_add_up_to_the_cash_and_the_shares(rules) -> None:
    bars = random_bars(400, seed=5)
    spec = market_spec(("X",), env={"window": 6, "episode_bars": 30, **rules}, data={"source": "synthetic"})
    book = opened(bars, 100, ("close", *bars.columns))
    limits = Rules.from_spec(spec, continuous=True)
    table = table_of(bars, ("close", *bars.columns), ())
    cash, shares, reasons = limits.initial_capital, 0.0, set()
    fee = (1 + limits.slippage) * (1 + limits.commission), (1 - limits.slippage) * (1 - limits.commission)
    for bar in range(100, 400):
        row = next_row(book, limits, bars.timestamps[bar], table[bar].tolist(), decide, needed=70)
        book.apply(row)
        for fill in row["fills"]:
            buys = fill["side"] == "buy"
            cash += -fill["value"] * fee[0] if buys else fill["value"] * fee[1]
            shares += fill["shares"] * (1 if buys else -1)
            reasons.add(fill["reason"])
            assert bars.low[bar] * (1 - 1e-9) <= fill["price"] <= bars.high[bar] * (1 + 1e-9) or limits.fill == "close"
        assert row["account"]["cash"] == pytest.approx(cash, rel=1e-9, abs=1e-6)
        assert row["account"]["shares"] == pytest.approx(shares, rel=1e-9, abs=1e-9)
    expected = {"stop", "target", "max_hold"} & set(rules)
    assert expected <= reasons


def test_an_account_without_highs_and_lows_can_be_kept(tmp_path) -> None:
    bars = replace(random_bars(300, seed=6), high=None, low=None, volume=None)
    spec = market_spec(("X",), env={"window": 6, "episode_bars": 30, "stop": 0.02}, data={"source": "synthetic"})
    columns = ("close", *bars.columns)
    book, rules = opened(bars, 100, columns), Rules.from_spec(spec, continuous=True)
    for bar, values in enumerate(table_of(bars, columns, ())[100:251], start=100):
        book.apply(next_row(book, rules, bars.timestamps[bar], values.tolist(), decide, needed=70))
    assert len(book.points) == 151
