"""Walk-forward: the same training and judging again and again, a window further each time.

A window is a training part and the validation part right after it; the next one begins `step` later. All lie before the
test split, which no window touches: it keeps its days for the one look at the end.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from p3kit.errors import DataError
from p3kit.market.symbol_data import SymbolData

if TYPE_CHECKING:
    from p3kit.spec import Spec
    from p3kit.spec.models import Split


def walk_windows(spec: Spec, market: Mapping[str, SymbolData]) -> list[Split]:
    """The splits of `spec.data.walk_forward`, in order of time; none without one. All symbols have the same windows, on
    the days that every one of them has bars.

    Raises DataError where not even one window fits.
    """
    from p3kit.spec.models import Split

    walk = spec.data.walk_forward
    if walk is None:
        return []
    first = max(_day(bars.timestamps[0]) for bars in market.values())
    test = min(_day(bars.timestamps[bars.splits["test"][0]]) for bars in market.values())
    last = max(_day(bars.timestamps[-1]) for bars in market.values())
    windows: list[Split] = []
    while True:
        begin = add_span(first, walk.step, len(windows))
        judged = add_span(begin, walk.train)
        end = add_span(judged, walk.validation)
        if end > test:
            break
        day = timedelta(days=1)
        windows.append(
            Split(train=f"{begin}..{judged - day}", validation=f"{judged}..{end - day}", test=f"{test}..{last}")
        )
    if not windows:
        what = (
            f"train {walk.train} + validation {walk.validation} do not fit between {first} and the test split ({test})"
        )
        raise DataError("data.walk_forward", what, "shorten them, or give more bars")
    return windows


def add_span(day: date, span: str, times: int = 1) -> date:
    """`day` moved on by a span, `times` over; the 31st becomes the last day of a shorter month."""
    from p3kit.spec.models import parse_span

    number, unit = parse_span(span)
    if unit == "d":
        return day + timedelta(days=number * times)
    months = day.year * 12 + day.month - 1 + number * times * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def _day(moment: np.datetime64) -> date:
    return date.fromisoformat(str(moment.astype("datetime64[D]")))
