"""The bars of one symbol as they were parsed. T bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from p3kit.market.annual import bars_per_year

Floats = NDArray[np.float64]

BEAR, SIDEWAYS, BULL = 0, 1, 2
REGIMES = ("bear", "sideways", "bull")
"""The three regimes, in the order of their codes."""

OPTIONAL_COLUMNS = ("open", "high", "low", "volume")
"""Columns a bar table may have beside `timestamp` and `close`."""


@dataclass(frozen=True, eq=False)
class Bars:
    """The parsed bars of one symbol, oldest first. Nothing is filled in or corrected.

    `timestamps` are in UTC if the source names a time zone, else as written. `source` is the label that users see.
    `notes` are remarks that are no errors.
    """

    symbol: str
    timestamps: NDArray[np.datetime64]  # (T,) datetime64[ns], strictly increasing
    close: Floats  # (T,) prices > 0
    open: Floats | None = None
    high: Floats | None = None
    low: Floats | None = None
    volume: Floats | None = None  # (T,) ≥ 0
    source: str = ""
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    own: Mapping[str, Floats] = field(default_factory=dict)
    """Columns of the user's that are features themselves, (T,) each; NaN where the first ones are missing."""

    def __len__(self) -> int:
        return len(self.close)

    def part(self, first: int, last: int) -> Bars:
        """The bars first … last − 1."""
        names = ("timestamps", "close", *self.columns)
        own = {name: values[first:last] for name, values in self.own.items()}
        return replace(self, own=own, **{name: getattr(self, name)[first:last] for name in names})

    @property
    def columns(self) -> tuple[str, ...]:
        """The optional columns these bars have, in the order of `OPTIONAL_COLUMNS`."""
        return tuple(name for name in OPTIONAL_COLUMNS if getattr(self, name) is not None)

    @property
    def bars_per_year(self) -> float:
        """Bars per year over all bars: 252 for daily bars, about 1,638 for hourly ones in regular sessions."""
        return bars_per_year(self.timestamps).bars
