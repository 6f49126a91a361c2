"""Missing bars, found from the bars alone. No exchange calendar is used.

Bars come at a few usual spacings: a step within a session, a lunch break, a night. A spacing is usual that a quarter of
the sessions share, or one in two hundred steps. A gap is a pause that is half as long again as the usual one below it
and well short of the next. The days on which the market never trades do not count, so a weekend is a night.

Days that usually trade and have no bar are a gap, too, unless as many are missing again and again, as at holidays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p3kit.market.sessions import LONG_BAR, Sessions, find_sessions, usual_step

USUAL_SHARE = 0.005
"""Fraction of the steps, or of the sessions for missing days, above which a spacing is usual."""
USUAL_SESSIONS = 0.25
"""Fraction of the sessions above which a pause is usual, such as a lunch break between 1-minute bars."""
LONGER, SHORTER = 1.5, 0.75

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """A stretch without bars, between the bars at rows `row` and `row + 1`."""

    row: int
    hours: float
    begin: np.datetime64
    end: np.datetime64


def span_text(hours: float) -> str:
    """1 min, 17.5 h, 3 d."""
    if hours >= 24 and round(hours, 6) % 24 == 0:
        return f"{hours / 24:g} d"
    if hours >= 1:
        return f"{hours:.4g} h"
    return f"{hours * 60:.4g} min" if hours * 60 >= 1 else f"{hours * 3600:.4g} s"


def usual_spacings(timestamps: NDArray[np.datetime64]) -> Floats:
    """The spacings in hours that bars usually come at, the shortest first; at least one of two or more timestamps."""
    hours = _hours(timestamps)
    sessions = 1 if usual_step(timestamps) >= LONG_BAR else len(find_sessions(timestamps).counts)
    usual = _usual(hours, _pause_count(len(hours), sessions))
    return usual if len(usual) else np.array([np.median(hours)])


def find_gaps(timestamps: NDArray[np.datetime64]) -> list[Gap]:
    """All gaps, in order of time."""
    hours = _hours(timestamps)
    if usual_step(timestamps) >= LONG_BAR:
        is_gap = _is_longer(hours, usual_spacings(timestamps))
    else:
        sessions = find_sessions(timestamps)
        is_gap = _long_pauses(hours, sessions) | _missing_days(sessions)
    rows = np.flatnonzero(is_gap)
    return [Gap(int(row), float(hours[row]), timestamps[row], timestamps[row + 1]) for row in rows]


def _hours(timestamps: NDArray[np.datetime64]) -> Floats:
    return np.round(np.diff(timestamps) / np.timedelta64(1, "s")) / 3600


def _pause_count(steps: int, sessions: int) -> float:
    return max(2.0, min(USUAL_SHARE * steps, USUAL_SESSIONS * sessions) if sessions > 1 else USUAL_SHARE * steps)


def _usual(values: Floats, count: float) -> Floats:
    found, counts = np.unique(values, return_counts=True)
    return np.asarray(found[counts >= count])


def _is_longer(values: Floats, usual: Floats) -> NDArray[np.bool_]:
    """True where a value is well above the usual one below it, and well below the next usual one."""
    below = np.searchsorted(usual, values * (1 + 1e-9), side="right") - 1
    floor, ceiling = usual[np.maximum(below, 0)], np.append(usual, np.inf)[below + 1]
    return np.asarray((values > LONGER * floor) & (values < SHORTER * ceiling))


def _long_pauses(hours: Floats, sessions: Sessions) -> NDArray[np.bool_]:
    """Pauses that are too long, without the whole days between two sessions.

    Pauses of a day and more are also compared in full: the open of the week moves with daylight saving time.
    """
    pause = hours - 24 * np.maximum(np.diff(sessions.day) - 1, 0)
    usual = _usual(np.round(pause, 6), _pause_count(len(pause), len(sessions.counts)))
    usual = np.unique([*usual, float(np.median(hours)), *([sessions.night / 3600] if sessions.night else [])])
    weeks = (sessions.day[-1] - sessions.day[0]) / 7
    over_days = hours >= 24
    usual_days = _usual(np.round(hours[over_days], 6), max(2.0, USUAL_SESSIONS * weeks))
    known = over_days & ~_is_longer(hours, np.unique([24.0, *usual_days]))
    return _is_longer(pause, usual) & ~known


def _missing_days(sessions: Sessions) -> NDArray[np.bool_]:
    """Steps over more trading days than usual."""
    mask = np.isin(np.arange(7), sessions.regular or range(7))
    dates = sessions.day.astype("datetime64[D]")
    crossing = np.diff(sessions.day) > 0
    days = np.ones(len(crossing))
    days[crossing] += np.busday_count(dates[:-1][crossing] + 1, dates[1:][crossing], weekmask=mask)
    usual = _usual(days[crossing], max(2.0, USUAL_SHARE * len(sessions.counts)))
    return _is_longer(days, np.unique([1.0, *usual]))
