"""Buy-and-hold at the average exposure of a policy: a constant fraction of equity, rebalanced at every fill.

A policy that is in the market 30 % of the time loses less than buy-and-hold in a falling market. That is no skill. So
its returns are also compared with those of an account that holds 30 % all the time, at the same costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.env import Rules
from p3kit.market import SymbolData

Floats = NDArray[np.float64]


def average_fraction(exposure: Floats, sales: int) -> float:
    """Fraction of equity that has the same average exposure (B,) as a policy.

    `sales` is the number of bars on which every account is forced out: one at the end of each window, none for a
    continuous account. They are left out.
    """
    return float(min(1.0, exposure.sum() / max(len(exposure) - sales, 1)))


def hold_fraction(bars: SymbolData, spans: Sequence[tuple[int, int]], fraction: float, rules: Rules) -> Floats:
    """(B,) bar returns of a constant fraction of equity in the market, over spans that each start flat.

    The account is brought to `fraction` at each fill of `p3kit.env`. Purchases and sales pay slippage and commission.
    A window ends with a sale at its last close, a continuous account does not. There is no stop, target, holding limit
    or ruin.
    """
    first, last = (np.array(edge) for edge in zip(*spans, strict=True))
    buying = (1 + rules.slippage) * (1 + rules.commission) - 1
    selling = 1 - (1 - rules.slippage) * (1 - rules.commission)
    late = rules.fill == "next" and bars.open is None
    cash, shares, equity = np.ones(len(spans)), np.zeros(len(spans)), np.ones(len(spans))
    found = np.zeros((int((last - first).max()), len(spans)))
    for step in range(len(found)):
        alive = first + step < last
        bar = np.minimum(first + step, last - 1)
        is_last = alive & (bar + 1 == last) & (not rules.continuous)
        price = _fill_price(bars, bar, rules)
        held = shares * price
        short = fraction * (cash + held) - held  # of the target, before costs
        order = np.where(short > 0, short / (1 + fraction * buying), short / (1 - fraction * selling))
        order = np.where(alive & ~(late & is_last), order, 0.0)
        cash = cash - order - np.where(order > 0, order * buying, -order * selling)
        shares = shares + order / price
        close = bars.close[bar + 1]
        cash = np.where(is_last, cash + shares * close * (1 - selling), cash)
        shares = np.where(is_last, 0.0, shares)
        marked = np.where(alive, cash + shares * close, equity)
        found[step], equity = marked / equity - 1, marked
    return np.concatenate([found[: b - a, row] for row, (a, b) in enumerate(spans)])


def _fill_price(bars: SymbolData, bar: NDArray[Any], rules: Rules) -> Floats:
    if rules.fill == "close":
        return np.asarray(bars.close[bar], dtype=np.float64)
    return np.asarray(bars.close[bar + 1] if bars.open is None else bars.open[bar + 1], dtype=np.float64)
