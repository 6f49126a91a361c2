"""Columns of the user's files as features: their values, and what is odd about them.

The value of bar t must be known at the close of bar t. Nothing is filled. The first `LOOKBACK` values may be missing:
no observation reaches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from p3kit.errors import Fault
from p3kit.market.bars import Bars, Floats
from p3kit.market.features import LOOKBACK
from p3kit.market.numbers import numbers_of
from p3kit.market.sheet import Sheet

LARGEST = 1e30
"""Of the size of a value: the square of a larger one has no place in single precision."""
_PARTS = 20
"""Parts of a series whose values are compared."""
_LEAST = 20
"""Values of a part, and of a stretch of equal values."""
_BREAK = 10.0
"""Ratio of spreads, or shift in spreads, at which a column has changed its nature."""


def read_own(sheet: Sheet, names: Iterable[str]) -> tuple[dict[str, Floats], list[Fault]]:
    """Values (T,) of the columns `names` of a sheet, and the first fault of each column."""
    values: dict[str, Floats] = {}
    faults: list[Fault] = []
    for name in names:
        numbers, unread, text = numbers_of(sheet.frame[name])
        if len(unread):
            faults.append(_no_number(sheet, name, text.iloc[unread[0]], unread))
        elif fault := _fault(sheet, name, numbers):
            faults.append(fault)
        else:
            values[name] = np.where(np.isnan(numbers), np.nan, numbers)  # every NaN with the same bits
    return values, faults


def _no_number(sheet: Sheet, name: str, value: object, unread: np.ndarray) -> Fault:
    hint = "observation.columns takes numbers: give each word a number, such as 0 and 1"
    return sheet.fault(unread, f'{name} = "{str(value)[:40]}" is text', hint)


def _fault(sheet: Sheet, name: str, numbers: Floats) -> Fault | None:
    """The first value that no observation may hold."""
    large = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(large):
        return sheet.fault(large, f"{name} is {numbers[large[0]]:g}", f"give numbers within ±{LARGEST:g}")
    missing = np.isnan(numbers)
    if missing.all():
        return sheet.fault(0, f"{name} has no value at all", "give its values, or remove it from observation.columns")
    last = int(np.flatnonzero(~missing)[-1])
    if last < len(numbers) - 1:
        rows = np.arange(last + 1, len(numbers))
        return sheet.fault(rows, f"{name} stops here", "give its values, or remove the bars without one")
    first = int(np.flatnonzero(~missing)[0])
    if first > LOOKBACK:
        hint = f"only the first {LOOKBACK} bars may be without a value; remove {first - LOOKBACK:,} bars at the start"
        return sheet.fault(first, f"{name} begins here, at bar {first + 1:,}", hint)
    rows = first + np.flatnonzero(missing[first:])
    if len(rows):
        hint = f"give the value that was known at that close, for example the last one: df[{name!r}].ffill()"
        return sheet.fault(rows, f"{name} is missing", hint)
    return None


# --- what is odd ------------------------------------------------------------------------------------------------------


def own_notes(bars: Bars) -> list[str]:
    """Notes on columns that are constant at an end, or change their scale on the way."""
    return [note for name, values in bars.own.items() for note in _notes(bars, name, values)]


def _notes(bars: Bars, name: str, values: Floats) -> Iterator[str]:
    first = int(np.flatnonzero(~np.isnan(values))[0])
    known = values[first:]
    if (known == known[0]).all():
        yield f"{name} is {known[0]:g} on every bar: it shows nothing"
        return
    yield from _still_ends(bars, name, known, first)
    broken = scale_break(known)
    if broken is not None:
        row, what = broken
        yield (
            f"{name} changes its nature at about {_moment(bars, first + row)} ({what}): use one definition and one "
            "unit for all bars"
        )


def _still_ends(bars: Bars, name: str, values: Floats, first: int) -> Iterator[str]:
    """Notes on a stretch of equal values at an end that is much longer than every other one."""
    begins = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    lengths = np.diff(begins)
    for at, where, row in ((-1, "to the end", begins[-2]), (0, "from the start", begins[1])):
        others = np.delete(lengths, at)
        if lengths[at] >= max(_LEAST, 2 * others.max() + 1):
            word = "from" if at else "until"
            shown = _moment(bars, first + int(row))
            yield (
                f"{name} stands at {values[at]:g} {where}, {word} {shown} ({lengths[at]:,} bars): "
                f"did it {'stop' if at else 'begin'} there? Give its values, or remove those bars"
            )


def scale_break(values: Floats) -> tuple[int, str] | None:
    """(row, the change) if the spread or the level of a series changes at once and permanently, else None.

    The function compares quartiles of the parts just before and just after a row, and of everything before and after
    it. A series that grows or drifts over many parts has no such row.
    """
    if len(values) < _PARTS * _LEAST:
        return None
    parts = np.array_split(values, _PARTS)
    edges = np.cumsum([0, *(len(part) for part in parts)])
    for at in range(1, _PARTS - 1):
        what = [
            _difference(before, after)
            for before, after in (
                (parts[at - 1], parts[at + 1]),
                (values[: edges[at]], values[edges[at + 1] :]),
            )
        ]
        if what[0] and what[0] == what[1]:
            inside = values[edges[at] - 1 : edges[at + 1] + 1]
            return int(edges[at] + np.abs(np.diff(inside)).argmax()), what[0]
    return None


def _difference(before: Floats, after: Floats) -> str:
    """Name those of spread and level that differ much; empty for neither."""
    (low, middle, high), (lower, centre, higher) = (np.quantile(part, [0.25, 0.5, 0.75]) for part in (before, after))
    spreads = sorted([high - low, higher - lower])
    if spreads[0] > 0 and spreads[1] > _BREAK * spreads[0]:
        return "its spread"
    return "its level" if abs(centre - middle) > _BREAK * spreads[1] > 0 else ""


def _moment(bars: Bars, row: int) -> str:
    return str(bars.timestamps[row].astype("datetime64[m]")).replace("T00:00", "").replace("T", " ")
