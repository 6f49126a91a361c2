"""Bars that grow, and a scripted agent, for the tests of paper accounts.

`python -m tests.paper.scripted FOLDER` takes all bars into the account in FOLDER, and prints a line before it begins.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p3kit.env import Rules
from p3kit.env.account import Account, action_mask, mask_table
from p3kit.market import Bars
from p3kit.metrics import ACTIONS
from p3kit.paper.account_journal import Journal
from p3kit.paper.taking_in import Decider, Result, take_in
from tests.market.made import market_spec, random_bars

NEEDED = 70
FIRST = 120
"""First bar of an account."""
SPEC = market_spec(
    ("X",), env={"window": 6, "episode_bars": 30, "stop": 0.03, "max_hold": 9}, data={"source": "synthetic"}
)


def decide(bars: Bars, account: Account, last_action: str) -> dict[str, Any]:
    """A valid action that follows from the last prices and the account alone."""
    seen = np.round(bars.close[-3:] / bars.close[-1], 6)
    return _drawn(repr((seen.tolist(), last_action)), bars, account, last_action)


def decide_by_time(bars: Bars, account: Account, last_action: str) -> dict[str, Any]:
    """A valid action that follows from the time of the bar and the account alone."""
    return _drawn(str(bars.timestamps[-1]), bars, account, last_action)


def _drawn(seed: str, bars: Bars, account: Account, last_action: str) -> dict[str, Any]:
    assert len(bars) == NEEDED
    mask = action_mask(account, mask_table(torch.device("cpu")))[0].numpy()
    allowed = np.flatnonzero(mask)
    action = ACTIONS[int(allowed[hashlib.sha256(seed.encode()).digest()[0] % len(allowed)])]
    return {"action": action, "last_action": last_action}


def decider(**changes: Any) -> Decider:
    rules = Rules.from_spec(SPEC, continuous=True)
    weights = {"run": "run-1", "checkpoint": "best-1.pt", "global_step": 1, "sha256": "a" * 64, "validation": None}
    return replace(Decider("X", "X", rules, NEEDED, weights, decide), **changes)


def made_bars(count: int = 200, seed: int = 3) -> Bars:
    return random_bars(count, seed)


def first_bars(bars: Bars, count: int) -> Bars:
    """A file that ends earlier."""
    return bars.part(0, count)


def called(folder: Path, bars: Bars, who: Decider | None = None, **options: Any) -> Result:
    """One call on the account in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return take_in(Journal(folder), who or decider(), bars, **options)


def start_of(bars: Bars, row: int = FIRST) -> np.datetime64:
    return bars.timestamps[row]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


if __name__ == "__main__":
    print("begins", flush=True)
    called(Path(sys.argv[1]), made_bars(), start=start_of(made_bars()))
