"""The journal of a paper account in memory. Every row that is written is applied here, so memory equals a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.market import Bars
from p3kit.market.bars import Floats
from p3kit.paper.account_journal import Row, time_text

PRICES = ("open", "high", "low", "close")

Numbers = dict[str, float]
"""Fields of an account by name."""


@dataclass(frozen=True)
class Point:
    """One bar of the account."""

    time: np.datetime64
    close: float
    equity: float
    hold_equity: float
    """Equity of buy-and-hold at the same costs."""
    exposure: float
    fills: Sequence[Mapping[str, Any]]
    cost: float
    decision: Mapping[str, Any]


@dataclass
class Book:
    """A paper account: its bars, its two accounts (the agent's and buy-and-hold's), and all that happened."""

    opened: Row
    times: list[np.datetime64] = field(default_factory=list)
    """Of the bars before the first decision, and of those since."""
    values: list[list[float]] = field(default_factory=list)
    """Per bar one value per column, as the account saw it, on today's scale of prices."""
    points: list[Point] = field(default_factory=list)
    account: Numbers | None = None
    buy_and_hold: Numbers | None = None
    weights: Row = field(default_factory=dict)
    rules: Row = field(default_factory=dict)
    decision: Mapping[str, Any] = field(default_factory=dict)
    ruined: tuple[bool, bool] = (False, False)
    corrected: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Time of a bar → column → value of the file that the account did not take; empty where the bar is missing."""
    events: list[Row] = field(default_factory=list)
    event_times: list[tuple[np.datetime64, str]] = field(default_factory=list)
    """Newest bar and kind of each event."""

    @classmethod
    def open(cls, row: Row) -> Book:
        """A book with its first row."""
        book = cls(row, weights=row["weights"], rules=row["rules"])
        for time, *values in row["history"]:
            book._add(time, values)
        return book

    @classmethod
    def replay(cls, found: Sequence[Row]) -> Book:
        """The book of all rows of a journal."""
        book = cls.open(found[0])
        for row in found[1:]:
            book.apply(row)
        return book

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a bar: prices, volume, and the user's own."""
        return (*self.opened["columns"], *self.opened["own"])

    @property
    def symbol(self) -> str:
        return str(self.opened["symbol"])

    @property
    def capital(self) -> float:
        return float(self.opened["capital"])

    @property
    def newest(self) -> np.datetime64:
        """Time of the newest bar."""
        return self.times[-1]

    def apply(self, row: Row) -> None:
        """Take one row of the journal in."""
        if row["kind"] == "bar":
            self._apply_bar(row)
            return
        self.events.append(row)
        self.event_times.append((self.newest.astype("datetime64[s]"), row["kind"]))
        if row["kind"] == "weights":
            self.weights, self.rules = row["weights"], row["rules"]
        elif row["kind"] == "rescaled":
            self.values = [list(values) for values in row["bars"]]
            self.account, self.buy_and_hold = row["account"], row["buy_and_hold"]
        elif row["kind"] == "corrected":
            self.corrected |= {line["time"]: line["file"] for line in row["bars"]}

    def bars(self, newest: int) -> Bars:
        """The newest bars, at most `newest`."""
        return self.to_bars(self.times[-newest:], np.array(self.values[-newest:], dtype=np.float64))

    def to_bars(self, times: Sequence[np.datetime64] | NDArray[np.datetime64], table: Floats) -> Bars:
        """A table (T, columns) as bars."""
        count = len(self.opened["columns"])
        named: dict[str, Any] = {name: table[:, i] for i, name in enumerate(self.opened["columns"])}
        own = {name: table[:, count + i] for i, name in enumerate(self.opened["own"])}
        if own:
            named["own"] = own
        return Bars(self.symbol, np.array(times, dtype="datetime64[ns]"), **named)

    def _apply_bar(self, row: Row) -> None:
        time, *values = row["bar"]
        self._add(time, values)
        self.account, self.buy_and_hold, self.decision = row["account"], row["buy_and_hold"], row["decision"]
        own, hold = row.get("ruined", (False, False))
        self.ruined = (bool(own), bool(hold))
        account = row["account"]
        self.points.append(
            Point(
                time=self.newest,
                close=float(self.values[-1][self.columns.index("close")]),
                equity=float(row["equity"]),
                hold_equity=float(row["buy_and_hold"]["equity"]),
                exposure=float(account["market_value"] / account["equity"]),
                fills=row["fills"],
                cost=float(row.get("cost", 0.0)),
                decision=row["decision"],
            )
        )

    def _add(self, time: str, values: Sequence[float]) -> None:
        self.times.append(np.datetime64(time, "ns"))
        self.values.append([float(value) for value in values])


def table_of(bars: Bars, columns: Sequence[str], own: Sequence[str]) -> Floats:
    """Columns of bars as a table (T, columns)."""
    extra = bars.own
    found = [np.asarray(getattr(bars, name), dtype=np.float64) for name in columns]
    return np.stack([*found, *(np.asarray(extra[name], dtype=np.float64) for name in own)], axis=1)


def line_of_bar(time: np.datetime64, values: Sequence[float]) -> list[Any]:
    """A bar as the journal writes it."""
    return [time_text(time), *(float(value) for value in values)]
