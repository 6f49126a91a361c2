"""Bars per year, by which returns and volatilities are annualised.

- A span that is long enough to see holidays is counted: bars ÷ years, long interruptions left out.
- A shorter span uses the sessions of a usual year (252, or 365 for markets that never close) × the bars of a session.
- Weekly and monthly bars are counted in any span.

Metrics of a split use the number of that split. Features use one number, that of the training split, so that no input
jumps at the border of a split or changes when bars are appended. `data.bars_per_year` states the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p3kit.market.sessions import DAY, LONG_BAR, find_sessions, usual_step
from p3kit.market.splits import SplitName

SECONDS_PER_YEAR = 365.25 * 86_400
MIN_DAYS = 355
"""A span of this many days contains the holidays of a year."""
INTERRUPTION_DAYS = 30
"""A longer time without a bar is an interruption of the series, if it is also three times the usual step."""
DIFFERENCE = 1.05
"""Numbers of two splits whose ratio is larger are noted."""

Stamps = NDArray[np.datetime64]


@dataclass(frozen=True)
class Yearly:
    """Bars per year, and the sum it comes from where it was not counted."""

    bars: float
    estimate: str = ""


def bars_per_year(timestamps: Stamps) -> Yearly:
    """Bars per year of two or more timestamps: 252 for daily bars, 98,280 for minutes of US sessions."""
    steps = np.diff(timestamps) / np.timedelta64(1, "s")
    long = interruptions(timestamps)
    count = len(steps) - len(long)
    seconds = float((timestamps[-1] - timestamps[0]) / np.timedelta64(1, "s")) - float(steps[long].sum())
    if seconds >= MIN_DAYS * DAY or usual_step(timestamps) >= LONG_BAR:
        return Yearly(count / seconds * SECONDS_PER_YEAR)
    sessions = find_sessions(timestamps)
    a_year, a_session = sessions.per_year, sessions.usual_count
    return Yearly(a_year * a_session, f"{a_year:g} sessions × {a_session:.6g} {'bar' if a_session == 1 else 'bars'}")


def interruptions(timestamps: Stamps) -> NDArray[np.intp]:
    """Rows before the steps that interrupt the series."""
    steps = np.diff(timestamps) / np.timedelta64(1, "D")
    return np.flatnonzero((steps > INTERRUPTION_DAYS) & (steps > 3 * np.median(steps)))


def yearly_of_splits(
    timestamps: Stamps, splits: Mapping[SplitName, tuple[int, int]], stated: float | None = None
) -> dict[SplitName, Yearly]:
    """The number of each split. `stated` is `data.bars_per_year`.

    The training split is measured up to its end, so that later bars change nothing. The others are measured over the
    whole sessions that they touch.
    """
    if stated is not None:
        return {name: Yearly(stated) for name in splits}
    day = find_sessions(timestamps).day
    found: dict[SplitName, Yearly] = {}
    for name, (first, last) in splits.items():
        if name == "train":
            first = 0
        else:
            first = int(np.searchsorted(day, day[first]))
            last = int(np.searchsorted(day, day[last - 1], side="right"))
        found[name] = bars_per_year(timestamps[first:last])
    return found


def yearly_notes(yearly: Mapping[SplitName, Yearly]) -> list[str]:
    """Notes on numbers that were estimated, and on splits that differ."""
    notes = []
    state = "data.bars_per_year states another number"
    for estimate in dict.fromkeys(one.estimate for one in yearly.values() if one.estimate):
        names = [name for name, one in yearly.items() if one.estimate == estimate]
        number = f"{estimate} = {yearly[names[0]].bars:,.6g}"
        notes.append(f"{_listed(names)}: too short to count bars a year with holidays, so {number} is used; {state}")
    numbers = [one.bars for one in yearly.values()]
    if max(numbers) > DIFFERENCE * min(numbers):
        parts = ", ".join(f"{name} {one.bars:,.0f}" for name, one in yearly.items())
        notes.append(f"bars a year differ by split ({parts}); features use that of train; {state}")
    return notes


def _listed(names: list[SplitName]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
