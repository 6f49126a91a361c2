"""A file of bars beside the book of an account: new bars, corrections, rescaled prices, and reasons to refuse the file.

The book keeps every bar as the account saw it, and decisions rest on these. So a correction changes nothing: it is
reported, once per value, in the journal. A constant factor on old prices, as vendors apply for dividends and splits,
is taken over: prices are multiplied by it and shares divided, so that equity does not move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import BarsError, DataError
from p3kit.market import Bars
from p3kit.market.bars import Floats
from p3kit.market.gaps import span_text
from p3kit.market.rescaling import TOLERANCE, PriceComparison, compare_prices
from p3kit.paper.account_journal import Row, time_text
from p3kit.paper.book import PRICES, Book, Numbers, line_of_bar, table_of

LONGER = 1.5
"""A pause longer than the longest one of the book by this factor is a gap."""

STRANGE = 0.5
"""Fraction of changed bars above which a file is taken for another symbol's."""


@dataclass(frozen=True)
class Incoming:
    """Bars of a file that belong to an account."""

    events: tuple[Row, ...]
    """Rows to write before the new bars."""
    times: NDArray[np.datetime64]
    """Of the new bars."""
    table: Floats
    """(T, columns), the new bars."""
    notes: tuple[str, ...]


def compare_with_book(book: Book, bars: Bars, *, accept_gap: bool = False) -> Incoming:
    """Compare a file with the book. Raises DataError or BarsError for bars that the account must not take in."""
    _check_columns(book, bars)
    table = table_of(bars, book.opened["columns"], book.opened["own"])
    times = bars.timestamps.astype("datetime64[ns]")
    _check_span(book, bars)
    new = times > book.newest
    events, notes = _compare_past(book, bars, times[~new], table[~new])
    if not accept_gap:
        _refuse_gaps(book, bars, times[new])
    return Incoming(tuple(events), times[new], table[new], tuple(notes))


def _check_columns(book: Book, bars: Bars) -> None:
    have = ("close", *bars.columns, *bars.own)
    if missing := [name for name in book.columns if name not in have]:
        what = f"has no column {', '.join(missing)}; the account was opened with it"
        raise DataError(_place(bars), what, "give a file with the same columns")


def _check_span(book: Book, bars: Bars) -> None:
    first, last = (bars.timestamps[at].astype("datetime64[ns]") for at in (0, -1))
    if last < book.newest:
        what = f"ends at {time_text(last)}, and the account's newest bar is {time_text(book.newest)}: an older file"
        raise BarsError(_place(bars), what, "give the newest file")
    if first > book.newest:
        what = f"begins at {time_text(first)}, after the account's newest bar {time_text(book.newest)}"
        hint = f"give a file with bars from {time_text(book.newest)} on, that bar included"
        raise DataError(_place(bars), what, hint)


def _refuse_gaps(book: Book, bars: Bars, new: NDArray[np.datetime64]) -> None:
    """Refuse a pause before or among the new bars that is longer than any before, but for a half."""
    known = np.array(book.times)
    usual = np.diff(known).max() if len(known) > 1 else np.timedelta64(0, "ns")
    steps = np.diff(np.concatenate([known[-1:], new]))
    for at in np.flatnonzero(steps > usual * LONGER):
        begin, hours = np.concatenate([known[-1:], new])[at], steps[at] / np.timedelta64(1, "h")
        what = f"no bar for {span_text(float(hours))} after {time_text(begin)}"
        hint = "give a file without the gap; if the market was closed, --accept-gap"
        raise DataError(_place(bars), what, hint)


def _compare_past(book: Book, bars: Bars, times: NDArray[np.datetime64], table: Floats) -> tuple[list[Row], list[str]]:
    """Compare the bars that both have. Returns rows to write, and notes."""
    known = np.array(book.times)
    both, own_rows, file_rows = np.intersect1d(known, times, return_indices=True)
    ours, theirs = np.array(book.values)[own_rows], table[file_rows]
    prices = [i for i, name in enumerate(book.columns) if name in PRICES]
    found = compare_prices(ours[:, prices], theirs[:, prices])
    if len(found.changed) > max(2, STRANGE * len(both)):
        what = f"{len(found.changed)} of {len(both)} bars differ from those of {book.symbol} in the account"
        raise DataError(_place(bars), what, "give the file of this symbol; or start another --account folder")
    inside = known[known >= times[0]]
    if len(inside) - len(both) > max(2, STRANGE * len(inside)):
        what = f"has {len(both)} of the {len(inside)} bars of {book.symbol} in the account since {time_text(times[0])}"
        raise DataError(_place(bars), what, "give the file that the account was opened with: same bars, same time zone")
    events: list[Row] = []
    notes: list[str] = []
    changes = _changes(book, found, both, ours, theirs)
    for time in np.setdiff1d(inside, times):
        changes[time_text(time)] = {}
    for time in np.setdiff1d(times[times >= known[0]], known):
        changes[time_text(time)] = dict(zip(book.columns, table[times == time][0].tolist(), strict=True))
    if changes:
        events, notes = _report_changes(book, changes)
    if any(stretch.factor != 1.0 for stretch in found.stretches):
        row = _rescaled(book, found, both, own_rows, theirs)
        events.append(row)
        notes += _rescaling_notes(row)
    return events, notes


def _changes(
    book: Book, found: PriceComparison, times: NDArray[np.datetime64], ours: Floats, theirs: Floats
) -> dict[str, dict[str, float]]:
    """Time of each bar that differs → column → value of the file."""
    factor = np.ones(len(times))
    for stretch in found.stretches:
        factor[stretch.first : stretch.last] = stretch.factor
    changes: dict[str, dict[str, float]] = {}
    changed = np.isin(np.arange(len(times)), found.changed)
    for column, name in enumerate(book.columns):
        old, new = ours[:, column], theirs[:, column]
        if name in PRICES:
            differs = changed & (np.abs(new - old * factor) > TOLERANCE * np.abs(old * factor))
        else:
            differs = np.abs(new - old) > TOLERANCE * np.abs(old)
        if name == "volume":
            differs &= ~_follows_a_split(old, new, factor)
        for row in np.flatnonzero(differs):
            changes.setdefault(time_text(times[row]), {})[name] = float(new[row])
    return changes


def _follows_a_split(old: Floats, new: Floats, factor: Floats) -> NDArray[np.bool_]:
    """(T,) where a volume was divided by the factor of the prices."""
    return np.asarray((factor != 1.0) & (np.abs(new * factor - old) <= 1e-3 * np.abs(old) + 1.0))


def _report_changes(book: Book, changes: dict[str, dict[str, float]]) -> tuple[list[Row], list[str]]:
    """A row for the corrections that the journal does not have, and a note on all of them."""
    fresh = {time: file for time, file in sorted(changes.items()) if book.corrected.get(time) != file}
    kept = {time_text(time): values for time, values in zip(book.times, book.values, strict=True)}
    lines = [
        {"time": time, "file": file, "kept": dict(zip(book.columns, kept.get(time, []), strict=False))}
        for time, file in fresh.items()
    ]
    first = min(changes)
    if not changes[first]:
        what = "is missing from the file"
    elif first not in kept:
        what = "was not there before"
    else:
        what = f"has another {', '.join(changes[first])}"
    more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
    note = f"corrected: the bar of {first} {what}{more}; the account keeps the bars that it decided on"
    return ([{"kind": "corrected", "bars": lines}] if lines else []), [note]


def _rescaled(
    book: Book, found: PriceComparison, times: NDArray[np.datetime64], own_rows: NDArray[Any], theirs: Floats
) -> Row:
    """The row that takes a factor over: the file's values for the bars that both have, shares divided."""
    values = np.array(book.values)
    prices = [i for i, name in enumerate(book.columns) if name in PRICES]
    factor = np.full(len(values), found.stretches[0].factor)  # of bars before the first one of the file
    for stretch in found.stretches:
        factor[own_rows[stretch.first] : own_rows[stretch.last - 1] + 1] = stretch.factor
    close = book.columns.index("close")
    before = values[-1, close]
    values[:, prices] *= factor[:, None]
    agree = np.setdiff1d(np.arange(len(own_rows)), found.changed)
    for column in prices:
        values[own_rows[agree], column] = theirs[agree, column]
    if "volume" in book.columns:
        volume = book.columns.index("volume")
        split = _follows_a_split(values[own_rows, volume], theirs[:, volume], factor[own_rows])
        values[own_rows[split], volume] = theirs[split, volume]
    ratio = before / values[-1, close]
    return {
        "kind": "rescaled",
        "stretches": [
            {"first": time_text(times[one.first]), "last": time_text(times[one.last - 1]), "factor": one.factor}
            for one in found.stretches
        ],
        "account": _with_shares(book.account or {}, ratio),
        "buy_and_hold": _with_shares(book.buy_and_hold or {}, ratio),
        "bars": values.tolist(),
    }


def _with_shares(account: Numbers, ratio: float) -> Numbers:
    """An account after its shares were multiplied; money stays."""
    return {name: value * ratio if name == "shares" else value for name, value in account.items()}


def _rescaling_notes(row: Row) -> list[str]:
    return [
        f"rescaled: prices from {one['first']} to {one['last']} were multiplied by {one['factor']:.6g}, as for a "
        "dividend or a split; past fills keep their prices"
        for one in row["stretches"]
        if one["factor"] != 1.0
    ]


def opening_bars(bars: Bars, start: np.datetime64 | None, needed: int) -> int:
    """The row of the first decision: the newest bar, or the first one from `start` on. Raises BarsError where fewer
    than `needed` bars lead to it, itself included."""
    row = len(bars) - 1 if start is None else int(np.searchsorted(bars.timestamps, start))
    if row >= len(bars):
        what = f"has no bar from {time_text(start)} on; its newest is {time_text(bars.timestamps[-1])}"  # type: ignore[arg-type]
        raise DataError(_place(bars), what, "give an earlier --from, or leave it out to begin at the newest bar")
    if row + 1 < needed:
        what = f"{row + 1} bars lead to the first decision at {time_text(bars.timestamps[row])}; {needed} are needed"
        raise BarsError(_place(bars), what, "give a file with more past bars, or a later --from")
    return row


def history_lines(times: NDArray[np.datetime64], table: Floats) -> list[list[Any]]:
    """Bars as the journal writes them."""
    return [line_of_bar(time, values) for time, values in zip(times, table.tolist(), strict=True)]


def _place(bars: Bars) -> str:
    return bars.source or bars.symbol
