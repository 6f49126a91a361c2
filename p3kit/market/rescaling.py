"""Old prices beside new ones: equal, rescaled by a constant factor per stretch of bars, or changed.

Vendors rescale adjusted prices of the past at each dividend and split. All prices of a stretch then differ by one
factor. Any other difference is a correction of a bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p3kit.market.bars import Floats

LEAST_BARS = 5
"""Bars of the shortest stretch; one at the beginning of the series may be shorter. Fewer bars are corrections."""

TOLERANCE = 1e-6
"""Relative difference of equal prices, beside the rounding of the files: adjusted closes come as 32-bit floats."""

_MOST_DECIMALS = 6


@dataclass(frozen=True)
class Stretch:
    """The rows first … last − 1, whose new prices are `factor` times the old ones."""

    first: int
    last: int
    factor: float
    """Exactly 1 where the prices are equal."""


@dataclass(frozen=True)
class PriceComparison:
    """Old prices beside new ones."""

    stretches: tuple[Stretch, ...]
    """Together all rows, in order of time."""
    changed: tuple[int, ...]
    """Rows that do not have the factor of their stretch."""


def compare_prices(old: Floats, new: Floats) -> PriceComparison:
    """Compare prices (T, C), oldest row first, of the same bars and columns."""
    slack = old * TOLERANCE + (_rounding(old) * new / old + _rounding(new))
    low, high = ((new - slack) / old).max(axis=1), ((new + slack) / old).min(axis=1)
    found: list[Stretch] = []
    changed: list[int] = []
    end = row = len(old)
    bounds = (-np.inf, np.inf)
    lows, highs = low.tolist(), high.tolist()
    while row > 0:  # from the newest row back, as factors of later dividends pile up
        row -= 1
        narrowed = max(bounds[0], lows[row]), min(bounds[1], highs[row])
        if narrowed[0] <= narrowed[1]:
            bounds = narrowed
        elif _begins_a_stretch(lows, highs, row):
            found.append(Stretch(row + 1, end, _factor(*bounds)))
            end, bounds = row + 1, (lows[row], highs[row])
        else:
            changed.append(row)
    if end:
        found.append(Stretch(0, end, _factor(*bounds)))
    return PriceComparison(tuple(reversed(found)), tuple(reversed(changed)))


def _begins_a_stretch(low: list[float], high: list[float], row: int) -> bool:
    """True where `row` and the rows before it, enough for a stretch, have a factor in common."""
    first = max(0, row + 1 - LEAST_BARS)
    return max(low[first : row + 1]) <= min(high[first : row + 1])


def _factor(low: float, high: float) -> float:
    """The factor within its bounds; 1 where the bounds allow it."""
    if low <= 1.0 <= high or not np.isfinite([low, high]).all():
        return 1.0
    return (low + high) / 2


def _rounding(prices: Floats) -> float:
    """Half a unit of the last decimal of prices that were written with few decimals, else 0."""
    for decimals in range(_MOST_DECIMALS + 1):
        if np.allclose(prices, np.round(prices, decimals), rtol=0.0, atol=1e-9):
            return 0.5 * 10.0**-decimals
    return 0.0
