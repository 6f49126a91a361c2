"""Bars from CSV and Parquet files, and why some are refused.

`shapes.py` has the table of known shapes. A file needs timestamps and closes; `open`, `high`, `low` and `volume` are
used when present. Refused, each with file, row and remedy:

- timestamps that are missing, unreadable, ambiguous (day/month), unsorted, repeated, or in mixed time zones
- prices that are missing, not numbers, not finite or not positive; volumes that are missing or negative
- high below low; open or close outside low … high by more than 1 %
- a symbol in the file that is another one than in the spec

Nothing is filled, sorted or dropped. A file whose newest bar stands first is read from the last row to the first. Rows
are numbered as an editor numbers the lines of a CSV file (the header is row 1); in Parquet the first bar is row 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.errors import DataError, Fault
from p3kit.market.bars import OPTIONAL_COLUMNS, Bars, Floats
from p3kit.market.numbers import MISSING, numbers_of, with_plain_numbers
from p3kit.market.opening import (
    Kind,
    Table,
    looks_like_a_bar,
    open_table,
    read_rows,
    require_regular_file,
    table_of,
)
from p3kit.market.own_columns import own_notes, read_own
from p3kit.market.shapes import FIELDS, PRICES, Layout, in_doubt, layout_of, line, plain, same_symbol
from p3kit.market.sheet import Sheet, as_text
from p3kit.market.timestamps import is_newest_first, parse_timestamps, text_of
from p3kit.spec.paths import file_of

_SLACK = 0.01
"""Relative slack of open and close beyond low … high: vendors round and glitch by less. Closes that were adjusted for
dividends beside highs and lows that were not differ by more, sooner or later."""
_SAME = 1e-6
"""Relative difference below which an adjusted close is the close."""


@dataclass(frozen=True)
class Reading:
    """Options for reading files: the keys of [data] that matter to one file."""

    columns: Mapping[str, str | int] = field(default_factory=dict)
    adjust: str = "off"
    several: bool = False
    """The spec has several symbols."""
    own: Mapping[str, str | int] = field(default_factory=dict)
    """Columns that are features themselves, and their names or numbers in the file."""


def read_bars(kind: Kind, template: str | None, symbol: str, reading: Reading | None = None) -> Bars:
    """The bars of `symbol` from its file. DataError with every fault of the file."""
    reading = reading or Reading()
    path = path_of(template, symbol)
    shared = reading.several and "{symbol}" not in str(template)
    return _bars_of(_opened(kind, path), symbol, reading, shared, f"{kind} {path}")


def read_frame(frame: pd.DataFrame, symbol: str, reading: Reading | None = None, name: str = "bars") -> Bars:
    """The bars of `symbol` from a DataFrame, read as files are. Messages call it `name`.

    Timestamps stand in a column or in the row index. Raises DataError with every fault of the frame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(name, f"is {type(frame).__name__}", "give a pandas DataFrame of past bars")
    if pd.api.types.is_integer_dtype(frame.index.dtype):  # row numbers that a filter has left
        frame = frame.reset_index(drop=True)
    if frame.empty:
        raise DataError(name, "is empty", "give a DataFrame with a row per bar")
    return _bars_of(table_of(frame, Path(name)), symbol, reading or Reading(), shared=False, source=name)


def _bars_of(table: Table, symbol: str, reading: Reading, shared: bool, source: str) -> Bars:
    """The bars of `symbol` from a table. DataError with every fault of it."""
    path = table.path
    layout = layout_of(table, symbol, reading.columns, reading.own)
    sheet, notes = _sheet(layout, symbol, shared)
    sheet, rewritten = with_plain_numbers(sheet)
    timestamps, faults, more = parse_timestamps(sheet)
    if is_newest_first(timestamps):
        sheet, timestamps = sheet.reversed(), timestamps[::-1]
        more = [*more, "the newest bar stands first: the rows are read from the last to the first"]
    numbers, wrong = _numbers_of(sheet)
    own, of_own = read_own(sheet, layout.own)
    faults += [*wrong, *of_own]
    if not faults:
        faults = _check_ranges(sheet, numbers)
        _check_order(layout, numbers, bool(faults))
    if len(sheet.frame) < 2:
        faults.append(Fault(str(path), f"{len(sheet.frame)} bars", "give one bar per row"))
    if faults:
        raise DataError.collected(faults)
    prices, adjusted = _adjusted(layout, sheet, numbers, reading.adjust, timestamps)
    bars = Bars(
        symbol=symbol,
        timestamps=timestamps,
        close=prices["close"],
        open=prices.get("open"),
        high=prices.get("high"),
        low=prices.get("low"),
        volume=prices.get("volume"),
        source=source,
        notes=(*notes, *rewritten, *more, *adjusted, *_notes_of(layout), *_volume_notes(layout, prices)),
        own=own,
    )
    return replace(bars, notes=(*bars.notes, *own_notes(bars)))


def read_columns(kind: Kind, template: str | None, symbol: str, reading: Reading | None = None) -> tuple[str, ...]:
    """The optional columns in the file of `symbol`, from its header alone. DataError if there is no such file."""
    found = layout_for(kind, template, symbol, reading or Reading()).columns
    return tuple(name for name in OPTIONAL_COLUMNS if name in found)


def layout_for(kind: Kind, template: str | None, symbol: str, reading: Reading) -> Layout:
    """The meaning of the columns in the file of `symbol`."""
    return layout_of(_opened(kind, path_of(template, symbol)), symbol, reading.columns, reading.own)


def symbols_of(layout: Layout) -> tuple[str, ...]:
    """All symbols that a file names, in its header or in a column; none where it names none."""
    if "symbol" not in layout.columns:
        return layout.tickers
    column = _without_footer(layout, _rows_of(layout, shared=False))[0][layout.columns["symbol"]]
    return tuple(str(name) for name in pd.unique(text_of(column)) if str(name))


# --- the file of a symbol ---------------------------------------------------------------------------------------------


def path_of(template: str | None, symbol: str) -> Path:
    """The file of a symbol, which is there and a regular file. `load.py` has checked the symbol."""
    if not template:
        raise DataError("data.path", "is not set", 'name the files, for example "data/{symbol}.csv"')
    try:
        path = file_of(template, symbol)
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no home folder, a NUL
        raise DataError("data.path", f"{template!r}: {error}", "give the path of a file") from None
    if not exists:
        beside = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))[:6] if path.parent.is_dir() else []
        hint = "data.path is relative to the spec file; given by --set, to the current folder"
        if beside:
            hint = f"{path.parent} has {', '.join(beside)}"
        raise DataError(str(path), f"no such file (bars of {symbol})", hint)
    require_regular_file(path, str(path), f"the file of {symbol}")
    return path


def _opened(kind: Kind, path: Path) -> Table:
    if kind == "csv":
        return open_table(kind, path)
    state = path.stat()
    return _opened_once(kind, path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _opened_once(kind: Kind, path: Path, _modified: int, _size: int) -> Table:
    return open_table(kind, path)


@lru_cache(maxsize=1)
def _shared_rows(path: Path, numbers: tuple[int, ...], _modified: int, layout: _ByIdentity) -> pd.DataFrame:
    return read_rows(layout.table, numbers)


@dataclass(frozen=True)
class _ByIdentity:
    """A table that two calls may share: the file and its size are its identity."""

    table: Table = field(compare=False)
    size: int


def forget_files() -> None:
    """Release the rows that the symbols of a file have shared, and the memory that pandas keeps for text."""
    _opened_once.cache_clear()
    _shared_rows.cache_clear()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()


def _rows_of(layout: Layout, shared: bool) -> pd.DataFrame:
    """All rows of a file, columns by position. `shared`: other symbols will need them, too."""
    table = layout.table
    if table.frame is not None:
        return table.frame
    if not shared:
        return read_rows(table, _of_numbers(layout))
    state = table.path.stat()
    is_wide = bool(layout.tickers)
    numbers = range(1, len(table.labels)) if is_wide else sorted(_of_numbers(layout))
    return _shared_rows(table.path, tuple(numbers), state.st_mtime_ns, _ByIdentity(table, state.st_size))


def _of_numbers(layout: Layout) -> list[int]:
    """Positions of the columns that hold numbers."""
    roles = [layout.columns[role] for role in (*FIELDS, "adj_close") if role in layout.columns]
    return [*roles, *layout.own.values()]


def _sheet(layout: Layout, symbol: str, shared: bool) -> tuple[Sheet, list[str]]:
    """The rows of `symbol`, and notes on the others."""
    table, columns = layout.table, layout.columns
    every, footer = _without_footer(layout, _rows_of(layout, shared))
    rows = np.arange(len(every)) + table.first_row
    notes: list[str] = []
    if "symbol" in columns:
        chosen, notes = _rows_of_symbol(layout, every[columns["symbol"]], symbol)
        every, rows = every[chosen], rows[chosen]
    elif len(layout.tickers) > 1:
        own = [at for role, at in columns.items() if role not in ("timestamp", "time")]
        chosen = ~_blank(every[own])
        every, rows = every[chosen], rows[chosen]
        if not chosen.all():
            notes = [f"{int((~chosen).sum()):,} rows hold bars of other symbols only"]
    elif shared and not layout.tickers:
        hint = 'write path = "data/{symbol}.csv" for one file per symbol, or columns = { symbol = "NAME" }'
        raise DataError(str(table.path), "has no column of symbols, and the spec has several symbols", hint)
    wanted = {**{role: at for role, at in columns.items() if role != "symbol"}, **layout.own}
    frame = pd.DataFrame({name: every[at] for name, at in wanted.items()}).reset_index(drop=True)
    unused = {table.names[at]: every[at] for at in every.columns if at not in (*columns.values(), *wanted.values())}
    return Sheet(table.path, frame, rows, unused), [*notes, *footer]


def _without_footer(layout: Layout, every: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows without those at the end that hold a single cell and no date, as a vendor's name; and a note."""
    end = len(every)
    first = every.dtypes.iloc[0] if end else None
    while layout.table.frame is None and end and isinstance(first, pd.StringDtype):
        cells = [cell for cell in map(as_text, every.iloc[end - 1]) if cell]
        if len(cells) != 1 or cells[0] != as_text(every.iat[end - 1, 0]) or looks_like_a_bar([cells[0], "1"]):
            break
        end -= 1
    if end == len(every):
        return every, []
    shown = " / ".join(map(as_text, every.iloc[end:, 0]))
    return every.iloc[:end], [f"lines left out below the last bar: {shown[:120]}"]


def _blank(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """True for rows without a single value: in a wide file, other symbols traded then."""
    blank = [
        column.isna() if pd.api.types.is_numeric_dtype(column.dtype) else text_of(column).str.lower().isin(MISSING)
        for _, column in frame.items()
    ]
    return np.asarray(np.logical_and.reduce([np.asarray(one, dtype=bool) for one in blank]))


def _rows_of_symbol(layout: Layout, column: pd.Series, symbol: str) -> tuple[NDArray[np.bool_], list[str]]:
    """True for the rows of `symbol`. DataError where there are none."""
    table = layout.table
    name = table.names[layout.columns["symbol"]]
    codes, found = pd.factorize(text_of(column))
    own = [code for code, text in enumerate(found) if same_symbol(text, symbol)]
    if not own and len(codes):
        held = ", ".join(found[:6]) + (", …" if len(found) > 6 else "")
        hint = f"correct symbols or data.path; if {name} is no symbol, write {line({'symbol': 'off'})} under [data]"
        many = f"{len(found)} symbols ({held})" if len(found) > 1 else held
        raise DataError(str(table.path), f"column {name} holds {many}, not {symbol}", hint)
    if len(own) > 1:
        spelt = " and ".join(found[code] for code in own)
        raise DataError(str(table.path), f"column {name} spells {symbol} in two ways: {spelt}", "use one of them")
    chosen = np.isin(codes, own)
    others = len(found) - 1
    if others <= 0:
        return chosen, []
    return chosen, [
        f"a long file: column {name} holds {len(found)} symbols; each symbol has the rows that carry its name"
    ]


def _notes_of(layout: Layout) -> list[str]:
    """Notes on lines and columns that are not used, and on columns without names."""
    notes = []
    if layout.table.above:
        shown = " / ".join(text.strip()[:60] for text in layout.table.above if text.strip()) or "blank"
        notes.append(f"{len(layout.table.above)} lines above the header are left out: {shown}")
    if not layout.table.has_header:
        order = ", ".join(sorted(layout.columns, key=lambda role: layout.columns[role]))
        notes.append(f"the file has no header line; its columns are read as {order}")
    cells = [cell for role in PRICES for cell in layout.sample(role)]
    if layout.table.separator == ";" and all(re.fullmatch(r"\d{1,3}\.\d{3}", cell) for cell in cells):
        notes.append(f"every price has three digits after the point, as {cells[0]}: it is read as the decimal point")
    if layout.unused:
        notes.append(f"columns not used: {', '.join(layout.unused)}")
    return notes


def _volume_notes(layout: Layout, numbers: Mapping[str, Floats]) -> list[str]:
    """A note on a volume of 0 in every row, with the column of MetaTrader that has ticks in its place."""
    if "volume" not in numbers or numbers["volume"].any():
        return []
    ticks = next((name for name in layout.unused if plain(name) in ("tickvol", "tickvolume")), None)
    remedy = f"; write {line({'volume': ticks})} under [data] to read {ticks}" if ticks else ""
    return [f"the volume is 0 in every row{remedy}"]


# --- checking ---------------------------------------------------------------------------------------------------------


def _numbers_of(sheet: Sheet) -> tuple[dict[str, Floats], list[Fault]]:
    numbers: dict[str, Floats] = {}
    faults: list[Fault] = []
    for name in ("close", *OPTIONAL_COLUMNS):
        if name in sheet.frame.columns:
            numbers[name], wrong = _parse_numbers(sheet, name)
            faults += wrong
    return numbers, faults


def _parse_numbers(sheet: Sheet, name: str) -> tuple[Floats, list[Fault]]:
    """A column as float64 (T,), and its first missing, unreadable, infinite or impossible number."""
    price = name != "volume"
    numbers, unread, text = numbers_of(sheet.frame[name])
    if len(unread):
        value = str(text.iloc[unread[0]])
        hint = "write plain numbers with a decimal point" if "," in value or "$" in value else "write a number"
        return np.array([]), [sheet.fault(unread, f'{name} = "{value[:40]}" is no number', hint)]
    leave_out = f", or leave the column out: {line({name: 'off'})} under [data]" if name != "close" else ""
    remove = "remove the bar or give the true number" + leave_out
    checks: list[tuple[Callable[[Floats], NDArray[np.bool_]], str, str]] = [
        (np.isnan, "is missing", "remove the bar or get its price; nothing is ever filled in" if price
         else "give it (0 if nothing was traded)" + leave_out),
        (np.isinf, "is infinite", "give the true number"),
        ((lambda x: x <= 0) if price else (lambda x: x < 0), "is {value}: " + ("a price must be above 0" if price
         else "a volume cannot be negative"), remove),
    ]  # fmt: skip
    faults = []
    for wrong, what, hint in checks:
        rows = np.flatnonzero(wrong(numbers))
        if len(rows):
            faults.append(sheet.fault(rows, f"{name} " + what.format(value=f"{numbers[rows[0]]:g}"), hint))
    return numbers, faults


def _check_ranges(sheet: Sheet, numbers: dict[str, Floats]) -> list[Fault]:
    """High and low as they belong together, closes and opens between them."""
    faults = []
    high, low = numbers.get("high"), numbers.get("low")
    if high is not None and low is not None:
        rows = np.flatnonzero(high < low)
        if len(rows):
            what = f"high {high[rows[0]]:g} is below low {low[rows[0]]:g}"
            return [sheet.fault(rows, what, "swap or correct them; are the columns in the right order?")]
    for name in ("open", "close"):
        if name not in numbers:
            continue
        price = numbers[name]
        for bound, side, sign in ((high, "above high", 1.0), (low, "below low", -1.0)):
            if bound is None:
                continue
            with np.errstate(over="ignore"):  # a price near the largest number over one near 0
                rows = np.flatnonzero(sign * (price / bound - 1.0) > _SLACK)
            if len(rows):
                what = f"{name} {price[rows[0]]:g} is {side} {bound[rows[0]]:g}"
                hint = (
                    'adjust all prices of a bar for splits and dividends alike (adjust = "adj_close" does, by a column '
                    "Adj Close), or leave open, high and low out"
                )
                faults.append(sheet.fault(rows, what, hint))
    return faults


def _check_order(layout: Layout, numbers: dict[str, Floats], out_of_range: bool) -> None:
    """Columns without names are in their usual order: an open lies nearer to the close before it than the other way.

    Raises DataError in doubt. `data.columns` ends the doubt.
    """
    if layout.table.has_header or {"timestamp", "close"} <= layout.stated:
        return
    if out_of_range or not set(PRICES) <= set(numbers):
        raise in_doubt(layout)
    opened, close = np.log(numbers["open"]), np.log(numbers["close"])
    top, bottom = np.maximum(numbers["open"], numbers["close"]), np.minimum(numbers["open"], numbers["close"])
    ordered = (numbers["high"] >= top).all() and (numbers["low"] <= bottom).all()
    gap, swapped = np.abs(opened[1:] - close[:-1]).mean(), np.abs(close[1:] - opened[:-1]).mean()
    if not ordered or len(close) < 20 or gap > 0.67 * swapped:
        raise in_doubt(layout)


# --- adjusting --------------------------------------------------------------------------------------------------------


def _adjusted(
    layout: Layout, sheet: Sheet, numbers: dict[str, Floats], mode: str, timestamps: NDArray[np.datetime64]
) -> tuple[dict[str, Floats], list[str]]:
    """All four prices × adjusted close / close if `data.adjust` requires it, and a note in both cases."""
    path = str(layout.table.path)
    if "adj_close" not in layout.columns:
        if mode == "adj_close":
            hint = 'write adjust = "off", or name the column: columns = { adj_close = "NAME" }'
            raise DataError(path, 'data.adjust = "adj_close": has no adjusted close', hint)
        return numbers, []
    name, close = layout.table.names[layout.columns["adj_close"]], numbers["close"]
    adjusted, unread, _ = numbers_of(sheet.frame["adj_close"])
    bad = unread if len(unread) else np.flatnonzero(~(np.isfinite(adjusted) & (adjusted > 0)))
    if len(bad):
        fault = sheet.fault(bad, f"{name} is no price", 'give it, or write adjust = "off" under [data]')
        if mode == "adj_close":
            raise DataError.collected([fault])
        return numbers, [f"{name} is not used: it is no price at row {sheet.rows[bad[0]]} ({len(bad)} rows)"]
    differs = np.flatnonzero(np.abs(adjusted / close - 1.0) > _SAME)
    if not len(differs):
        return numbers, [f"{name} is the close in every row"]
    largest = np.abs(adjusted / close - 1.0).max()
    first, last = (str(timestamps[row])[:10] for row in (differs[0], differs[-1]))
    found = f"{name} differs from close by up to {largest:.1%}, from {first} to {last} ({len(differs):,} bars)"
    if mode == "off":
        return numbers, [
            f'{found}: prices are read without it; adjust = "adj_close" under [data] adjusts all four prices'
        ]
    factor = adjusted / close
    prices = {role: values * factor if role in PRICES else values for role, values in numbers.items()}
    note = f'{found}: all prices are adjusted by it; adjust = "off" reads them as written'
    return {**prices, "close": adjusted}, [note]
