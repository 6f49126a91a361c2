"""Buy-and-hold at the average exposure of a policy: a constant fraction of equity, rebalanced at every fill.

A policy that is in the market 30 % of the time loses less than buy-and-hold in a falling market. That is no skill. So
its returns are also compared with those of an account that holds 30 % all the time, at the same costs.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    late = rules.fill == "next" and bars.open is None
    found: list[float] = []
    for first, last in spans:
        fills, closes = _fill_prices(bars, rules, first, last).tolist(), bars.close[first + 1 : last + 1].tolist()
        found += _returns(fills, closes, fraction, rules, late=late)
    return np.array(found)


def _returns(fills: list[float], closes: list[float], fraction: float, rules: Rules, *, late: bool) -> list[float]:
    """Returns of one span. Plain floats: each bar depends on the one before. `late` means filled at the close."""
    buying = (1 + rules.slippage) * (1 + rules.commission) - 1
    selling = 1 - (1 - rules.slippage) * (1 - rules.commission)
    cash, shares, equity, found = 1.0, 0.0, 1.0, []
    for left, (price, close) in zip(range(len(closes) - 1, -1, -1), zip(fills, closes, strict=True), strict=True):
        is_sold = not left and not rules.continuous
        if not (late and is_sold):
            held = shares * price
            short = fraction * (cash + held) - held  # of the target, before costs
            order = short / (1 + fraction * buying) if short > 0 else short / (1 - fraction * selling)
            cash = cash - order - (order * buying if order > 0 else -order * selling)
            shares += order / price
        if is_sold:
            cash, shares = cash + shares * close * (1 - selling), 0.0
        marked = cash + shares * close
        found.append(marked / equity - 1)
        equity = marked
    return found


def _fill_prices(bars: SymbolData, rules: Rules, first: int, last: int) -> Floats:
    """Price of each fill (last − first,)."""
    if rules.fill == "close":
        return bars.close[first:last]
    return (bars.close if bars.open is None else bars.open)[first + 1 : last + 1]
