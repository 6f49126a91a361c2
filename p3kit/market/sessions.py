"""Trading sessions, found from the timestamps alone. No exchange calendar is used.

A *session* is the 24 hours around one trading day. Its border lies in the longest daily pause: in the night of a stock
market, at the open of the week for bars that come round the clock. A session has the date of its middle. So the Sunday
evening of futures and of foreign exchange belongs to Monday, and a session in Sydney is one day in UTC, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Days = NDArray[np.int64]

DAY = 86_400
LONG_BAR = 2 * DAY
"""Bars of this many seconds or more (weekly, monthly) have no sessions."""
SATURDAY, SUNDAY = 5, 6


@dataclass(frozen=True, eq=False)
class Sessions:
    """The session of each bar."""

    day: Days  # (T,) date of the session, in days since 1970-01-01
    first: Days  # (S,) row of the first bar of each session
    counts: Days  # (S,) bars of each session
    regular: tuple[int, ...]  # weekdays that trade, Monday is 0
    covered: tuple[int, ...]  # weekdays that lie between the first and the last session
    night: float  # seconds of the longest daily pause, 0 for bars round the clock

    @property
    def per_year(self) -> float:
        """Sessions of a usual year: 252 for five days a week, 365 where the weekend trades, too."""
        if SATURDAY in self.regular and (SUNDAY in self.regular or SUNDAY not in self.covered):
            return 365.0
        return 252.0 * max(5, len(self.regular)) / 5

    @property
    def usual_count(self) -> float:
        """Bars of a whole session. Sessions that are cut, by a split or by a half-day, do not count."""
        if len(self.counts) <= 2:
            return float(self.counts.max())
        inner = self.counts[1:-1]
        values, times = np.unique(inner, return_counts=True)
        if times.max() >= 0.6 * len(inner):
            return float(values[times.argmax()])
        middle = float(np.median(inner))
        whole = inner[(inner >= 0.75 * middle) & (inner <= middle / 0.75)]
        return float(whole.mean())


def usual_step(timestamps: NDArray[np.datetime64]) -> float:
    """Median spacing of the bars, in seconds."""
    return float(np.median(np.diff(_seconds(timestamps))))


def find_sessions(timestamps: NDArray[np.datetime64]) -> Sessions:
    """The sessions of two or more bars, (T,) strictly increasing."""
    seconds = _seconds(timestamps)
    border, night = _border(seconds)
    day = (seconds - border) // DAY
    day = day + (border + DAY // 2) // DAY  # the date of the middle of the session
    _, first, counts = np.unique(day, return_index=True, return_counts=True)
    regular, covered = _weekdays(day[first], 2 * counts >= np.median(counts))
    return Sessions(day, first.astype(np.int64), counts.astype(np.int64), regular, covered, night)


def _seconds(timestamps: NDArray[np.datetime64]) -> Days:
    return timestamps.astype("datetime64[s]").astype(np.int64)


def _border(seconds: Days) -> tuple[int, float]:
    """Time of day at which sessions change, and the length of the longest daily pause, both in seconds."""
    times = np.unique(seconds % DAY)
    pauses = np.diff(np.append(times, times[0] + DAY))
    longest = int(pauses.argmax())
    steps = np.diff(seconds)
    step = float(np.median(steps))
    if pauses[longest] > max(1.5 * step, 60.0) or len(times) == 1:
        return int((times[longest] + pauses[longest] // 2) % DAY), float(pauses[longest])
    opens = seconds[1:][steps > DAY] % DAY  # first bars after a weekend
    if not len(opens):
        return 0, 0.0
    values, counts = np.unique(opens, return_counts=True)
    return int(values[counts.argmax()]), 0.0


def _weekdays(days: Days, whole: NDArray[np.bool_]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Weekdays on which at least half of the possible sessions took place, and weekdays that were possible."""
    possible = np.bincount((np.arange(days[0], days[-1] + 1) + 3) % 7, minlength=7)  # 1970-01-01 was a Thursday
    seen = np.bincount((days[whole] + 3) % 7, minlength=7)
    covered = tuple(int(day) for day in np.flatnonzero(possible))
    return tuple(day for day in covered if 2 * seen[day] >= possible[day]), covered
