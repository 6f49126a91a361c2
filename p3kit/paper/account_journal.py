"""The journal of a paper account: an append-only file of JSON lines, one per bar or event, and the whole state.

A line counts once its newline is on disk. Each ends with its checksum. No line holds the time of the clock: the same
bars give the same bytes, however many calls and kills it took to write them.

opened    symbol, capital, columns, the bars before the first decision, and the weights that decide
bar       a bar, what was filled since the bar before, the account at its close, and the decision on it
weights   other weights decide from here on
rescaled  the vendor multiplied old prices by a factor, as for a dividend or a split; shares are divided by it
corrected the file has other values for bars that the account has taken in; the account keeps its own
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.errors import InputError, P3kitError
from p3kit.metrics import ACTIONS
from p3kit.rundir import rows
from p3kit.rundir.locks import take_lock

FORMAT = 1
"""Version of the journal. A reader refuses a newer one."""

FILE = "journal.jsonl"
STATUS = "status.json"
_LOCK = ".lock"
_WAIT_S = 10.0

Row = dict[str, Any]

ACCOUNT_NUMBERS = ("cash", "market_value", "equity", "peak", "max_drawdown", "steps", "add_spend", "shares", "paid",
                   "entry_value", "entry_size", "entry_cash", "bars_held", "adds")  # fmt: skip
"""Fields of `p3kit.env`'s account that a line keeps; the others are the same for every continuous account."""
_FILL = ("price", "shares", "value")

_NEEDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "opened": {"format": int, "symbol": str, "capital": (int, float), "columns": list, "own": list, "start": str,
               "history": list, "weights": dict, "rules": dict},
    "bar": {"time": str, "bar": list, "fills": list, "equity": (int, float), "account": dict, "buy_and_hold": dict,
            "decision": dict},
    "weights": {"weights": dict, "rules": dict},
    "rescaled": {"stretches": list, "bars": list, "account": dict, "buy_and_hold": dict},
    "corrected": {"bars": list},
}  # fmt: skip


class Journal:
    """The journal of one agent below the folder of an account."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def read(self) -> list[Row]:
        """All complete lines. Raises P3kitError naming the line of a damaged one."""
        remedy = "restore the file from a copy, or start another --account folder"
        try:
            found, _ = rows.read_rows(self.path, rows.RowKind(begins=b"\0", lacks=_lacks))
        except P3kitError as error:
            raise P3kitError(error.faults[0].where, error.faults[0].what, remedy) from error
        if found and found[0]["kind"] != "opened":
            raise P3kitError(f"{self.path}:1", "does not open an account", remedy)
        if found and found[0]["format"] > FORMAT:
            what = f"has journal format {found[0]['format']}; this p3kit reads up to {FORMAT}"
            raise P3kitError(str(self.path), what, "pip install -U p3kit")
        for number, row in enumerate(found, start=1):
            width = 1 + len(found[0]["columns"]) + len(found[0]["own"])
            if any(len(line) != width for line in [*row.get("history", []), *([row["bar"]] if "bar" in row else [])]):
                raise P3kitError(f"{self.path}:{number}", f"holds a bar without {width - 1} values", remedy)
        return found

    def cut_torn_line(self) -> int:
        """Cut what a kill left behind the last complete line; return its bytes."""
        if not self.path.exists():
            return 0
        with rows.locked(self.path) as handle:
            return rows.cut_torn_row(handle)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line to disk, all of it or nothing. Raises P3kitError where the disk is full."""
        is_new = not self.path.exists()
        try:
            with rows.locked(self.path) as handle:
                rows.write_at_end(handle, self.path, rows.line_of(row))
                os.fsync(handle.fileno())
        except P3kitError as error:
            remedy = "free some space or fix the folder, then call p3kit paper again"
            raise P3kitError(error.faults[0].where, error.faults[0].what, remedy) from error
        if is_new:
            rows.sync_folder(self.folder)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status in one step, if it differs."""
        path = self.folder / STATUS
        content = (rows.dump(status, indent=1) + "\n").encode("utf-8", "surrogateescape")
        if not path.is_file() or path.read_bytes() != content:
            rows.write_bytes(path, content)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder of an account, held alone. Raises InputError where another call holds it for more than 10 seconds."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--account {folder}", "is no folder", "name a folder of its own") from error
    try:
        if not take_lock(descriptor, _WAIT_S):
            what = "another p3kit paper works on this account"
            raise InputError(f"--account {folder}", what, "wait until it ends, then call again")
        yield
    finally:
        os.close(descriptor)


def accounts_in(folder: Path) -> list[Journal]:
    """The journals of an account's folder, by name; one per agent."""
    return [Journal(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]


def time_text(time: np.datetime64) -> str:
    """A time as the journal writes it: to the second, or to the nanosecond where it has more."""
    whole = time.astype("datetime64[s]")
    return str(whole if whole == time else time.astype("datetime64[ns]"))


def parse_time(text: str) -> np.datetime64:
    """A time of the journal, or a day. Raises ValueError for anything else, such as `today` and `NaT`."""
    if not isinstance(text, str) or not re.match(r"\d{4}-\d\d-\d\d", text):
        raise ValueError(f"{text!r} is no time")
    return np.datetime64(text, "ns")


def _lacks(row: Any) -> str:
    """The fault of a row; empty where there is none."""
    if not isinstance(row, dict) or row.get("kind") not in _NEEDS:
        return "is no row of a paper account"
    for name, kind in _NEEDS[row["kind"]].items():
        if not isinstance(row.get(name), kind):
            return f"{name} is missing or has a wrong type"
    try:
        _check_numbers(row)
    except (TypeError, ValueError, KeyError) as error:
        return f"holds a wrong value ({error})"
    return ""


def _check_numbers(row: Row) -> None:
    """Raise ValueError, TypeError or KeyError for what a book cannot take."""
    for name in ("time", "start"):
        if name in row:
            parse_time(row[name])
    for table in (row[name] for name in ("account", "buy_and_hold") if name in row):
        _finite([table[name] for name in ACCOUNT_NUMBERS])
    for time, *values in [*row.get("history", []), *([row["bar"]] if row["kind"] == "bar" else [])]:
        parse_time(time)
        _finite(values)
    if row["kind"] == "bar":
        _finite([row["equity"], row.get("cost", 0.0), *(fill[key] for fill in row["fills"] for key in _FILL)])
        if row["decision"].get("action") not in ACTIONS:
            raise ValueError("the decision names no action")
    if row["kind"] == "rescaled":
        _finite([value for values in row["bars"] for value in values])
    if row["kind"] == "corrected":
        _finite([value for line in row["bars"] for value in line["file"].values() if line["time"]])


def _finite(values: Iterable[Any]) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError("a number is missing or not finite")
