"""The path of a bar whose symbol lacks some of open, high and low, as the docstring of `p3kit.env` defines it.

A ledger of its own computes the path from the docstring; the engines must fill stops and targets where it does.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.env.test_scalar_agrees import check_same
from tests.env.worlds import WINDOW, make_spec, make_symbol, play, random_symbol

SETS = ["", "o", "h", "l", "oh", "ol", "hl", "ohl"]
FREE = {"commission_bps": 0.0, "slippage_bps": 0.0, "fill": "close", "sizes": [0.25, 0.5, 1.0], "ruin": 0.0}
STOP, TARGET = 0.05, 0.05
BARS = {
    "falls through the stop": (100.0, (99.0, 102.0, 88.0, 90.0)),
    "opens below the stop": (100.0, (92.0, 96.0, 88.0, 91.0)),
    "rises through the target": (100.0, (101.0, 112.0, 99.0, 106.0)),
    "opens above the target": (100.0, (107.0, 112.0, 106.5, 110.0)),
    "touches both": (100.0, (100.0, 108.0, 92.0, 101.0)),
    "touches neither": (100.0, (100.5, 102.0, 99.0, 101.0)),
}
"""Close of t, then open, high, low and close of t + 1."""


def ledger(before: float, bar: tuple[float, float, float, float], columns: str) -> float:
    """Price at which a position bought at `before` is sold, or marked, on the next bar."""
    opened, high, low, close = bar
    known_open = opened if "o" in columns else close
    top = high if "h" in columns else max(known_open, close)
    bottom = low if "l" in columns else min(known_open, close)
    start = opened if "o" in columns else min(max(before, bottom), top)
    stop, target = before * (1 - STOP), before * (1 + TARGET)
    if start <= stop or start >= target:
        return start
    if bottom <= stop:
        return stop
    return target if top >= target else close


@pytest.mark.parametrize(("columns", "case"), list(product(SETS, BARS)))
def test_stops_and_targets_fill_where_the_words_say(columns: str, case: str) -> None:
    before, bar = BARS[case]
    prices = np.full((WINDOW + 3, 4), before)
    prices[WINDOW] = bar
    prices[WINDOW + 1 :] = bar[3]
    open_, high, low, close = prices.T
    data = make_symbol(
        close,
        open_ if "o" in columns else None,
        high if "h" in columns else None,
        low if "l" in columns else None,
    )
    steps = play(data, make_spec(stop=STOP, target=TARGET, **FREE), ["BUY_LARGE"])
    earned = float(steps[1].bar_return[0])
    assert earned == pytest.approx(ledger(before, bar, columns) / before - 1, abs=1e-9)


@pytest.mark.parametrize(("columns", "fill"), list(product(SETS, ["next", "close"])))
def test_both_engines_agree_with_every_set_of_columns(columns: str, fill: str) -> None:
    data = random_symbol(11, WINDOW + 60, scale=0.02, level=50.0, columns=columns)
    check_same(data, make_spec(fill=fill, stop=0.02, target=0.03, episode_bars=60), seed=5)
