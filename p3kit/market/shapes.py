"""The known shapes of bar files: how each is recognised, and how it is read. One table, `SHAPES`.

A file may have several shapes at once: MetaTrader separates by tabs, writes names in angle brackets, and keeps date and
time in two columns. A shape either settles a question about the columns or leads to an error that names the line to
write under [data]. Meanings are never guessed from numbers, except where numbers leave no doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from p3kit.errors import DataError, Fault
from p3kit.market.opening import Table, looks_like_a_bar
from p3kit.market.sheet import Sheet
from p3kit.market.timestamps import parse_timestamps
from p3kit.spec.keypath import written_path
from p3kit.spec.nearest import nearest
from p3kit.spec.writing import toml_value

PRICES = ("open", "high", "low", "close")
FIELDS = (*PRICES, "volume")
ROLES = ("timestamp", "time", "symbol", *FIELDS, "adj_close")
MOST_NAMES = 400
"""Letters of the names of columns that a message shows."""
OFF = "off"
"""In `data.columns`: the column is not there for p3kit."""

NAMES: dict[str, tuple[str, ...]] = {
    "timestamp": (
        "timestamp", "datetime", "date", "time", "opentime", "windowstart", "tsevent", "tradedate", "gmttime",
        "timeutc", "dateutc", "datetimeutc", "timestamputc", "utc", "localtime", "dtyyyymmdd", "datum", "tradingday",
        "observationdate", "snappedat", "unix", "unixtime", "unixtimestamp", "epoch",
    ),
    "symbol": (
        "symbol", "ticker", "tic", "tscode", "sym", "stocksymbol", "stock", "instrument", "asset", "pair", "code",
        "name",
    ),
    "adj_close": ("adjclose", "adjustedclose", "closeadj", "closeadjusted", "adjusted"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close", "closelast"),
    "volume": ("volume", "vol"),
}  # fmt: skip
"""Names of columns in lower case, letters and digits only, the preferred one first."""
SHORT_NAMES = {"t": "timestamp", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}

_TUPLE = re.compile(r"""\(\s*['"]([^'"]*)['"]\s*,\s*['"]([^'"]*)['"]\s*,?\s*\)""")
_CLOSES = ("price", "last", "settle")
"""Names of a close beside open, high and low, if the file has one of them alone."""
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?|\d{1,6}")
_DAY = re.compile(r"((\d{4}|\d{1,2})[-/.]\d{1,2}[-/.](\d{4}|\d{1,2})|\d{6}|\d{8})([T ]00:00(:00)?)?")
_EPOCH = re.compile(r"\d{9,10}(\.0+)?|\d{12,13}|\d{15,16}|\d{18,19}")
_DASHLESS = re.compile(r"(19|20)\d{2}([/.]?)\d{1,2}\2\d{1,2}([T ].*)?")


@dataclass(frozen=True)
class Layout:
    """The meaning of the columns of a file, for one symbol."""

    table: Table
    columns: Mapping[str, int]  # role → position
    tickers: tuple[str, ...] = ()  # symbols in the header, in a file that has them there
    unused: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()  # roles that data.columns names
    notes: tuple[str, ...] = field(default=())
    own: Mapping[str, int] = field(default_factory=dict)  # column that is a feature itself → position

    def sample(self, role: str) -> list[str]:
        """The first cells of a column, stripped, without blank ones."""
        at = self.columns.get(role)
        cells = [] if at is None else [row[at].strip() for row in self.table.head if at < len(row)]
        return [cell for cell in cells if cell]


@dataclass(frozen=True)
class Shape:
    """One row of the table of shapes."""

    name: str
    found_in: str
    recognised: Callable[[Layout], bool]
    how: str
    """Mark by which it is recognised, as text for a page."""
    reading: str
    """Result of reading it, as text for a page."""


def plain(name: str) -> str:
    """`<CLOSE>`, `Close` and `4. close` are close, `Adj. Close` is adjclose."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"^\d+[a-z]?\. +", "", name.lower()))


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of a symbol: aapl and AAPL.US, BTC/USDT and BTC-USDT, NASDAQ:AAPL and AAPL."""

    def key(symbol: str) -> str:
        bare = symbol.strip().upper().rsplit(":", 1)[-1].removesuffix(".US")
        return re.sub(r"[^A-Z0-9]+", "", bare) or bare

    return key(one) == key(other)


# --- recognising ------------------------------------------------------------------------------------------------------


def layout_of(
    table: Table,
    symbol: str | None,
    columns: Mapping[str, str | int],
    features: Mapping[str, str | int] = MappingProxyType({}),  # with their names or numbers in the file
) -> Layout:
    """The meaning of the columns. `columns` is `data.columns`; `symbol` None takes the first of a wide file.

    Raises DataError with the line to write where columns are missing, there twice, or in doubt.
    """
    table = _with_tickers(table, features)
    tickers = tuple(dict.fromkeys(label[1] for label in table.labels if len(label) > 1 and label[1].strip()))
    own = _own_columns(table, tickers, symbol)
    stated = _stated_columns(table, own, columns)
    if not table.has_header and not {"timestamp", "close"} <= set(stated):
        found = _columns_without_header(table)
    else:
        found = _named_columns(table, own, stated, columns)
    found = {role: at for role, at in {**found, **stated}.items() if columns.get(role) != OFF}
    if found.get("adj_close") == found.get("close"):
        found.pop("adj_close", None)
    _require(table, found, own)
    placed = _feature_columns(table, own, found, features)
    used = {*found.values(), *placed.values()}
    unused = tuple(table.names[at] for at in own if at not in used)
    return Layout(table, found, tickers, unused, frozenset(stated), own=placed)


def shapes_of(layout: Layout) -> list[Shape]:
    """The shapes that a file has."""
    return [shape for shape in SHAPES if shape.recognised(layout)]


def _with_tickers(table: Table, features: Mapping[str, str | int]) -> Table:
    """A table whose labels are (field, ticker) where its names hold both: tuples, `AAPL.Close`, two header lines."""
    labels: list[tuple[str, ...]] = []
    for label in table.labels:
        match = _TUPLE.fullmatch(label[0].strip()) if len(label) == 1 else None
        labels.append(match.groups() if match else label)
    if all(len(label) == 1 for label in labels):
        labels = _joined_names(table, [label[0].strip() for label in labels], features)
    labels = [label if len(label) > 1 else (label[0], "") for label in labels] if _some_long(labels) else labels
    if _some_long(labels):
        fields = {name for names in NAMES.values() for name in names}
        known = [sum(plain(label[level]) in fields for label in labels) for level in (0, 1)]
        if known[1] > known[0]:
            labels = [(label[1], label[0]) if label[1].strip() else label for label in labels]
    return replace(table, labels=tuple(labels))


def _some_long(labels: Sequence[tuple[str, ...]]) -> bool:
    return any(len(label) > 1 for label in labels)


def _joined_names(table: Table, names: list[str], features: Mapping[str, str | int]) -> list[tuple[str, ...]]:
    """`AAPL.Open` or `Close_AAPL` as (field, ticker), where no column has a plain name and closes are among them."""
    fields = {name for role in (*FIELDS, "adj_close") for name in NAMES[role]}
    if any(plain(name) in fields for name in names):
        return list(table.labels)
    fields |= {plain(str(name)) for name in features.values()}
    labels: list[tuple[str, ...]] = []
    for name in names:
        first, last = re.match(r"(.+?)[ _.|-]+(.+)", name), re.match(r"(.+)[ _.|-]+(.+?)$", name)
        cuts = [(cut[i], cut[3 - i]) for i in (2, 1) for cut in (last, first) if cut]
        labels.append(next((cut for cut in cuts if plain(cut[0]) in fields), (name, "")))
    closes = sum(plain(label[0]) == "close" for label in labels)
    return labels if closes and sum(bool(label[1]) for label in labels) > closes else list(table.labels)


def _own_columns(table: Table, tickers: tuple[str, ...], symbol: str | None) -> list[int]:
    """Positions of the columns of `symbol`, and of those that belong to no ticker."""
    if not tickers:
        return list(range(len(table.labels)))
    ticker = tickers[0] if symbol is None else next((one for one in tickers if same_symbol(one, symbol)), None)
    if ticker is None:
        held = ", ".join(tickers[:6]) + (", …" if len(tickers) > 6 else "")
        hint = "give the symbol its own file, or correct symbols in the spec"
        raise DataError(str(table.path), f"the header names {held}, not {symbol}", hint)
    return [at for at, label in enumerate(table.labels) if label[1] in (ticker, "") or not label[1].strip()]


def _stated_columns(table: Table, own: Sequence[int], columns: Mapping[str, str | int]) -> dict[str, int]:
    """Role → position, as `data.columns` states it. Raises DataError where there is no such column."""
    found, faults = {}, []
    for role, wanted in columns.items():
        if wanted == OFF:
            continue
        at = _position(table, own, wanted)
        if at is None:
            what = f"data.columns.{role} = {toml_value(wanted)}: no such column"
            faults.append(Fault(str(table.path), what, f"the columns are {_listed(table)}"))
        else:
            found[role] = at
    if faults:
        raise DataError.collected(faults)
    return found


def _position(table: Table, own: Sequence[int], wanted: str | int) -> int | None:
    if isinstance(wanted, int):
        return wanted - 1 if 1 <= wanted <= len(table.labels) else None
    for same in (lambda name: name == wanted, lambda name: plain(name) == plain(wanted) != ""):
        found = [at for at in own if same(table.names[at])]
        if len(found) == 1:
            return found[0]
    return None


def _feature_columns(
    table: Table, own: Sequence[int], found: Mapping[str, int], features: Mapping[str, str | int]
) -> dict[str, int]:
    """Feature → position. Raises DataError where there is no such column, or it has a meaning already."""
    placed: dict[str, int] = {}
    faults = []
    for name, wanted in features.items():
        at = _position(table, own, wanted)
        role = next((role for role, used in found.items() if used == at), None)
        twin = next((other for other, used in placed.items() if used == at), None)
        if at is None:
            what = f"has no column {wanted}, which observation.columns needs"
            faults.append(Fault(str(table.path), what, _missing_feature(table, own, name)))
        elif role is not None:
            hint = f"its features are built in; write {line({role: OFF})} under [data] to read the file without it"
            faults.append(Fault(str(table.path), f"observation.columns: {wanted} is the column {role}", hint))
        elif twin is not None:
            what = f"observation.columns: {twin} and {name} are the same column {table.names[at]}"
            faults.append(Fault(str(table.path), what, "keep one"))
        else:
            placed[name] = at
    if faults:
        raise DataError.collected(faults)
    return placed


def _missing_feature(table: Table, own: Sequence[int], name: str) -> str:
    near = nearest(name, [table.names[at] for at in own]) or ("NAME" if table.has_header else len(table.labels))
    own_line = f"columns.own = {{ {written_path((name,))} = {toml_value(near)} }}"
    return f"write {own_line} under [data]; the columns are {_listed(table)}"


def _listed(table: Table) -> str:
    if not table.has_header:
        return f"1 to {len(table.labels)}, without names"
    text = ", ".join(table.names)
    return text if len(text) <= MOST_NAMES else text[:MOST_NAMES] + " …"


def line(columns: Mapping[str, str | int]) -> str:
    """The line to write under [data]."""
    return f"columns = {{ {', '.join(f'{role} = {toml_value(name)}' for role, name in columns.items())} }}"


def _named_columns(
    table: Table, own: Sequence[int], stated: Mapping[str, int], columns: Mapping[str, str | int]
) -> dict[str, int]:
    """Role → position by name, for the roles that are not stated."""
    names = {at: plain(table.labels[at][0]) for at in own if at not in stated.values()}
    short = set("ohlc") <= set(names.values()) and "close" not in names.values()
    faults: list[Fault] = []
    found: dict[str, int] = {}
    for role, known in NAMES.items():
        if role in stated or columns.get(role) == OFF:
            continue
        known = (*known, *(letter for letter, meant in SHORT_NAMES.items() if short and meant == role))
        at = sorted((at for at, name in names.items() if name in known), key=lambda at: known.index(names[at]))
        if role == "timestamp" and len(at) > 1:
            found |= _date_and_time(table, at, names, stated, faults)
        elif role in FIELDS and len(at) > 1:
            listed = [table.names[one] for one in at]
            remedy = (
                f"keep one, or write {line({role: at[0] + 1 if len(set(listed)) == 1 else listed[0]})} under [data]"
            )
            faults.append(Fault(str(table.path), f"has {len(at)} columns {role}", remedy))
        elif at:
            found[role] = at[0]
        elif role == "timestamp" and _is_index(table, own):
            found[role] = own[0]
    closes = [at for at, name in names.items() if name in _CLOSES]
    if len(closes) == 1 and {"open", "high", "low"} <= {*found, *stated} and columns.get("close") is None:
        found.setdefault("close", closes[0])
    if faults:
        raise DataError.collected(faults)
    return found


def _is_index(table: Table, own: Sequence[int]) -> bool:
    """True where the first column has no name and holds dates, as a row index that pandas wrote."""
    if not own or plain(table.labels[own[0]][0]) not in ("", "unnamed0", "index"):
        return False
    cells = [row[own[0]] for row in table.head if own[0] < len(row) and row[own[0]].strip()]
    return bool(cells) and all(looks_like_a_bar([cell, "1"]) for cell in cells)


def _date_and_time(
    table: Table, at: Sequence[int], names: Mapping[int, str], stated: Mapping[str, int], faults: list[Fault]
) -> dict[str, int]:
    """A column of days and one of times of day, which belong together. Else a fault: two timestamps."""
    by_name = {names[one]: one for one in at}
    cells = {name: [row[one].strip() for row in table.head if one < len(row)] for name, one in by_name.items()}
    day = next((name for name in ("date", "dtyyyymmdd") if name in by_name), "")
    if (
        len(at) == 2 and set(by_name) == {day, "time"} and "time" not in stated
        and all(_DAY.fullmatch(one) for one in cells[day] if one)
        and all(_CLOCK.fullmatch(clock) for clock in cells["time"] if clock)
    ):  # fmt: skip
        return {"timestamp": by_name[day], "time": by_name["time"]}
    epochs = [name for name in by_name if all(_EPOCH.fullmatch(cell) for cell in cells[name])]
    if len(at) == len(by_name) == 2 and len(epochs) == 1 and _same_times(table, cells):
        return {"timestamp": by_name[epochs[0]]}
    listed = [table.names[one] for one in at]
    remedy = f"write {line({'timestamp': listed[-1] if plain(listed[-1]) == 'date' else listed[0]})} under [data]"
    if len(set(listed)) == 1:
        remedy = "name exactly one of them timestamp"
    what = f"has {len(at)} timestamp columns ({', '.join(listed)})"
    faults.append(Fault(str(table.path), what, f"{remedy}; the columns are {_listed(table)}"))
    return {}


def _same_times(table: Table, cells: Mapping[str, list[str]]) -> bool:
    """True where the first cells of all columns are the same times."""
    frames = [pd.DataFrame({"timestamp": column}) for column in cells.values()]
    times = [parse_timestamps(Sheet(table.path, frame, np.arange(len(frame))))[0] for frame in frames]
    return len(times[0]) > 0 and all(np.array_equal(times[0], other) for other in times[1:])


def _columns_without_header(table: Table) -> dict[str, int]:
    """Columns of a file without a header line, where their number and kinds leave one meaning.

    `files.py` then compares all prices: highs and lows, and each open with the close before it.
    """
    width = len(table.labels)
    cells = [[row[at].strip() for row in table.head if at < len(row)] for at in range(width)]
    first = next((at for at in range(width) if looks_like_a_bar([cells[at][0], "1"])), 0) if table.head else 0
    clock = first + 1 < width and all(":" in cell and _CLOCK.fullmatch(cell) for cell in cells[first + 1])
    prices = first + 1 + clock
    binance = width == 12 and first == 0 and all(_EPOCH.fullmatch(cell) for cell in cells[6])
    if first == 0 and (binance or width - prices in (4, 5)):
        found = {"timestamp": 0, **({"time": 1} if clock else {})}
        return found | {role: prices + i for i, role in enumerate(FIELDS) if prices + i < width}
    raise _no_header(table, first, clock)


def _no_header(table: Table, first: int = 0, clock: bool = False) -> DataError:
    """The error for a file without a header line whose columns are in doubt."""
    guess: dict[str, str | int] = {"timestamp": first + 1, **({"time": first + 2} if clock else {})}
    rest = range(first + 1 + clock, len(table.labels))
    guess |= {role: at + 1 for role, at in zip(FIELDS, rest, strict=False)}
    shown = (
        "; ".join(f"column {at + 1} is {cell[:30]}" for at, cell in enumerate(table.head[0][:8])) if table.head else ""
    )
    what = f"has no header line, and the order of its columns is in doubt ({shown})"
    return DataError(str(table.path), what, f"write {line(guess)} under [data], with the right numbers")


def in_doubt(layout: Layout) -> DataError:
    """The error for columns without names whose prices contradict their usual order."""
    return _no_header(layout.table, layout.columns["timestamp"], "time" in layout.columns)


def _require(table: Table, found: Mapping[str, int], own: Sequence[int]) -> None:
    names = [table.names[at] for at in own]
    if len(table.labels) == 1:
        what = "has one column: its cells are separated by no comma, tab, semicolon or |"
        raise DataError(str(table.path), what, "save it as CSV, with a column of timestamps and one of closes")
    faults = []
    if "timestamp" not in found:
        wanted = line({"timestamp": _first_dated(table, own) or "NAME"})
        hint = f"write {wanted} under [data]; the columns are {_listed(table)}"
        faults.append(Fault(str(table.path), "has no timestamp column", hint))
    if "close" not in found:
        near = [
            name
            for name in names
            if "close" in plain(name) or plain(name) in ("price", "last", "value", "settle", "nav")
        ]
        question = f"is it {' or '.join(near)}? " if near else ""
        hint = f"{question}write {line({'close': near[0] if near else 'NAME'})} under [data]"
        faults.append(Fault(str(table.path), "has no column close", f"{hint}; the columns are {_listed(table)}"))
    if faults:
        raise DataError.collected(faults)


def _first_dated(table: Table, own: Sequence[int]) -> str | int | None:
    """The first column with a date: its name, or its number where it has none."""
    row = table.head[0] if table.head else ()
    at = next((at for at in own if at < len(row) and looks_like_a_bar([row[at], "1"])), None)
    return at if at is None else table.names[at] if plain(table.labels[at][0]) else at + 1


# --- the table --------------------------------------------------------------------------------------------------------


def _all(cells: Sequence[str], pattern: re.Pattern[str]) -> bool:
    return bool(cells) and all(pattern.fullmatch(cell) for cell in cells)


def _header_lines(layout: Layout) -> int:
    return layout.table.first_row - 1 - len(layout.table.above) if layout.table.kind == "csv" else 0


SHAPES: tuple[Shape, ...] = (
    Shape(
        "one symbol, one header line", "Yahoo, Stooq, Kaggle, pandas",
        lambda o: o.table.has_header and not o.tickers and "symbol" not in o.columns,
        "a column of timestamps and a column `close`", "columns by their names, in any case and order",
    ),
    Shape(
        "other separators", "MetaTrader, HistData, spreadsheets",
        lambda o: o.table.separator != ",",
        "most cells come out with tabs, `;` or `|`", "by that separator; numbers have a decimal point",
    ),
    Shape(
        "compressed", "Kaggle, vendors",
        lambda o: o.table.kind == "csv" and o.table.path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip"),
        "the name ends in .gz, .bz2, .xz, or .zip with one file in it", "as the file inside",
    ),
    Shape(
        "UTF-16", "MetaTrader, spreadsheets",
        lambda o: o.table.encoding == "utf-16",
        "the file begins with a UTF-16 byte order mark", "as text in UTF-16",
    ),
    Shape(
        "lines above the header", "CryptoDataDownload, spreadsheets (`sep=;`)",
        lambda o: bool(o.table.above),
        "lines of one cell, comments, or blank lines above a table of several columns",
        "from the header on; a note shows the lines",
    ),
    Shape(
        "several header lines", "yfinance",
        lambda o: _header_lines(o) > 1,
        "a second line of tickers, often a third that names the index", "the columns of the symbol",
    ),
    Shape(
        "tickers in the names of the columns", "yfinance, quantmod",
        lambda o: bool(o.tickers) and _header_lines(o) < 2,
        "`('Close', 'AAPL')`, `AAPL.Close`, or two levels of columns", "the columns of the symbol",
    ),
    Shape(
        "wide: several symbols side by side", "yfinance",
        lambda o: len(o.tickers) > 1,
        "the header names several tickers", "the columns of each symbol; `path` needs no `{symbol}`",
    ),
    Shape(
        "a column of symbols", "FinRL, Alpaca, Kaggle, Stooq",
        lambda o: "symbol" in o.columns,
        "a column `symbol`, `ticker`, `tic`, `Name` or `code`",
        "the rows of each symbol, so `path` needs no `{symbol}`; a file without the symbol is an error",
    ),
    Shape(
        "index without a name", "pandas",
        lambda o: plain(o.table.labels[o.columns["timestamp"]][0]) in ("", "unnamed0", "index") and o.table.has_header,
        "a first column of dates, without a name", "as the timestamp",
    ),
    Shape(
        "index of several levels", "Alpaca in pandas",
        lambda o: o.table.index_levels > 1,
        "a Parquet file whose row index has levels such as symbol and timestamp", "as columns",
    ),
    Shape(
        "no header line", "MetaTrader 4, HistData, FirstRate, Binance",
        lambda o: not o.table.has_header,
        "the first line is a bar",
        "timestamp, open, high, low, close, volume where the prices agree with that order; else `data.columns`",
    ),
    Shape(
        "names in angle brackets", "MetaTrader 5, Stooq",
        lambda o: any(re.fullmatch(r"<.*>", label[0].strip()) for label in o.table.labels),
        "`<CLOSE>`", "without the brackets; `<VOL>` is the volume",
    ),
    Shape(
        "names of one letter", "Alpaca, Polygon",
        lambda o: plain(o.table.labels[o.columns["close"]][0]) == "c",
        "`t`, `o`, `h`, `l`, `c`, `v`", "as timestamp, open, high, low, close, volume",
    ),
    Shape(
        "date and time in two columns", "MetaTrader, Stooq",
        lambda o: "time" in o.columns,
        "a column `date` of days and a column `time` of times of day", "joined",
    ),
    Shape(
        "time since 1970", "Binance, TradingView, Kaggle",
        lambda o: _all(o.sample("timestamp"), _EPOCH),
        "whole numbers of 9 or 10 digits (s), 13 (ms), 16 (µs) or 19 (ns)", "as UTC; a note names the unit",
    ),
    Shape(
        "dates without dashes", "Stooq, MetaTrader, Tushare",
        lambda o: _all(o.sample("timestamp"), _DASHLESS),
        "`20240308`, `2024.03.08` or `2024/03/08`", "year, month, day",
    ),
    Shape(
        "adjusted close beside close", "Yahoo, Tiingo, Alpha Vantage",
        lambda o: "adj_close" in o.columns,
        "a column `Adj Close`", "a note on the difference; `data.adjust` adjusts all four prices",
    ),
    Shape(
        "time zone", "yfinance, Alpaca, TradingView",
        lambda o: any(re.search(r"[T ]\d{2}:\d{2}.*(Z|[+-]\d{2}:?\d{2})$", cell) for cell in o.sample("timestamp")[:1]),
        "timestamps with an offset", "in UTC; the day stays where every bar stands at local midnight",
    ),
)  # fmt: skip
"""Every known shape. `docs/data.md` shows it; each row has a test."""


def described(layout: Layout) -> Iterator[tuple[str, str]]:
    """(role, name of its column) in the order of the roles."""
    for role in ROLES:
        if role in layout.columns:
            yield role, layout.table.names[layout.columns[role]]
