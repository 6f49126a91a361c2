"""One call on a paper account: read the journal, compare the file with it, and take the new bars in, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.env.rules import Rules
from p3kit.errors import DataError, InputError
from p3kit.market import Bars, check_symbols
from p3kit.paper.account_journal import FORMAT, Journal, Row, time_text
from p3kit.paper.book import Book, table_of
from p3kit.paper.incoming import Incoming, compare_with_book, history_lines, opening_bars
from p3kit.paper.ledger import Decide, next_row
from p3kit.paper.standing import status_of
from p3kit.rundir import file_name

_RULES = ("sizes", "max_position", "max_adds", "fill", "commission", "slippage", "stop", "target", "max_hold", "ruin")
"""Rules of an account that are recorded with the weights."""


@dataclass(frozen=True)
class Decider:
    """The parts of an agent that an account uses."""

    agent: str
    symbol: str
    rules: Rules
    """Continuous ones."""
    needed: int
    """Bars that a decision rests on, the newest included."""
    weights: Mapping[str, Any]
    """run, checkpoint, global_step, sha256 and validation result of the weights that decide."""
    decide: Decide
    synthetic: bool = False


@dataclass(frozen=True)
class Result:
    """An account after a call."""

    book: Book
    status: dict[str, Any]
    new_bars: int
    notes: tuple[str, ...]


def take_in(
    journal: Journal, decider: Decider, bars: Bars, start: np.datetime64 | None = None, *, accept_gap: bool = False
) -> Result:
    """Take the new bars of a file into an account, which is opened where it does not exist yet.

    Each row is on disk before the next one is computed. A call that was killed is finished by the next one.
    """
    notes: list[str] = []
    if torn := journal.cut_torn_line():
        notes.append(f"{journal.path}: cut off {torn} bytes of a line that a kill left incomplete; nothing is lost")
    found = journal.read()
    book = Book.replay(found) if found else Book.open(_write(journal, _opening(decider, bars, start)))
    if book.symbol != decider.symbol:
        what = f"is an account of {book.symbol}, and the agent trades {decider.symbol}"
        raise InputError(str(journal.folder), what, "name another --account folder")
    if start is not None and not _begins_at(book, start):
        notes.append(f"--from is ignored: the account was opened at {book.opened['start']}")
    incoming = _incoming(book, bars, accept_gap)
    for row in [*incoming.events, *_new_weights(book, decider)]:
        book.apply(_write(journal, row))
    rules = replace(decider.rules, initial_capital=book.capital)
    for time, values in zip(incoming.times, incoming.table.tolist(), strict=True):
        book.apply(_write(journal, next_row(book, rules, time, values, decider.decide, decider.needed)))
    status = status_of(book, decider.agent)
    journal.write_status(status)
    return Result(book, status, len(incoming.times), (*notes, *incoming.notes))


def read_account(journal: Journal) -> tuple[Book, dict[str, Any]] | None:
    """The book of an account and its status; None before its first decision. Nothing is written."""
    found = journal.read()
    if not any(row["kind"] == "bar" for row in found):
        return None
    book = Book.replay(found)
    return book, status_of(book, str(book.opened.get("agent", journal.folder.name)))


def _write(journal: Journal, row: Row) -> Row:
    journal.append(row)
    return row


def _opening(decider: Decider, bars: Bars, start: np.datetime64 | None) -> Row:
    """The row that opens an account."""
    check_symbols([decider.symbol])
    first = opening_bars(bars, start, decider.needed)
    columns, own = ("close", *bars.columns), tuple(bars.own)
    table = table_of(bars, columns, own)
    past = slice(first + 1 - decider.needed, first)
    if not np.isfinite(table[past]).all():
        what = f"a column has no value on one of the {decider.needed} bars before {time_text(bars.timestamps[first])}"
        raise DataError(bars.source or bars.symbol, what, "begin later with --from, or fill the column")
    return {
        "kind": "opened",
        "format": FORMAT,
        "agent": decider.agent,
        "symbol": decider.symbol,
        "synthetic": decider.synthetic,
        "capital": decider.rules.initial_capital,
        "columns": list(columns),
        "own": list(own),
        "start": time_text(bars.timestamps[first]),
        # decisions on bars that were in the file already were made with hindsight possible
        "made_later": time_text(bars.timestamps[-2]) if first < len(bars) - 1 else None,
        "weights": dict(decider.weights),
        "rules": _rules_of(decider),
        "history": history_lines(bars.timestamps[past], table[past]),
    }


def _incoming(book: Book, bars: Bars, accept_gap: bool) -> Incoming:
    found = compare_with_book(book, bars, accept_gap=accept_gap)
    if book.points:
        return found
    since = found.times >= np.datetime64(book.opened["start"], "ns")
    return replace(found, times=found.times[since], table=found.table[since])


def _begins_at(book: Book, start: np.datetime64) -> bool:
    """True where `start` leads to the first decision of the account."""
    history = len(book.opened["history"])
    return bool(book.times[history - 1] < start <= np.datetime64(book.opened["start"], "ns"))


def _new_weights(book: Book, decider: Decider) -> list[Row]:
    """The row that records a change of the weights or of the rules, if there is one."""
    if book.weights.get("sha256") == decider.weights.get("sha256") and book.rules == _rules_of(decider):
        return []
    return [{"kind": "weights", "weights": dict(decider.weights), "rules": _rules_of(decider)}]


def _rules_of(decider: Decider) -> dict[str, Any]:
    """The costs and limits that an account trades under."""
    names = (
        "sizes",
        "max_position",
        "max_adds",
        "fill",
        "commission",
        "slippage",
        "stop",
        "target",
        "max_hold",
        "ruin",
    )
    return {name: list(v) if isinstance(v := getattr(decider.rules, name), tuple) else v for name in names}


def account_folder(folder: Path, agent: str) -> Path:
    """The folder of one agent's account."""
    return folder / file_name(agent)
