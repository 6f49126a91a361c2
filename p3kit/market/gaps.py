"""Where bars are missing, told from the bars alone: no exchange calendar is known here.

Bars come at a few usual spacings: an hour within a session, a night, a weekend; a day and a weekend for daily bars. A
spacing that few bars share and that is half as long again as the usual one below it, and well short of the next, is a
gap. So nights, weekends and shortened sessions are none; a missing bar within a session, a missing day and a closed
market are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

USUAL_SHARE = 0.005
"""Share of the spacings above which one is usual."""
LONGER, SHORTER = 1.5, 0.75


@dataclass(frozen=True)
class Gap:
    """A stretch without bars, between the bars at rows `row` and `row + 1`."""

    row: int
    hours: float
    begin: np.datetime64
    end: np.datetime64


def usual_spacings(timestamps: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """The spacings in hours that bars usually come at, the shortest first; at least one of two or more timestamps."""
    hours = np.round(np.diff(timestamps) / np.timedelta64(1, "m")) / 60
    values, counts = np.unique(hours, return_counts=True)
    usual: NDArray[np.float64] = values[counts >= max(USUAL_SHARE * len(hours), 2)]
    return usual if len(usual) else values[:1]


def find_gaps(timestamps: NDArray[np.datetime64]) -> list[Gap]:
    """All gaps, in order of time."""
    usual = usual_spacings(timestamps)
    hours = np.diff(timestamps) / np.timedelta64(1, "h")
    below = np.searchsorted(usual, hours * (1 + 1e-9), side="right") - 1
    floor = usual[np.maximum(below, 0)]
    ceiling = np.append(usual, np.inf)[below + 1]
    rows = np.flatnonzero((hours > LONGER * floor) & (hours < SHORTER * ceiling))
    return [Gap(int(row), float(hours[row]), timestamps[row], timestamps[row + 1]) for row in rows]
