"""Bars from CSV and Parquet files, and why some are refused.

A file holds one symbol: a timestamp column (or, in Parquet, a datetime index) and `close`; `open`, `high`, `low` and
`volume` are used when present. Column names are read without regard to case. Refused, each with file, row and remedy:

- timestamps that are missing, unreadable, ambiguous (day/month), unsorted, repeated, or in mixed time zones
- prices that are missing, not numbers, not finite or not positive; volumes that are missing or negative
- high below low; open or close outside low … high by more than 1 %

Nothing is ever filled, sorted or dropped on the user's behalf. Rows are numbered as an editor numbers the lines of a
CSV file (the header is row 1); in Parquet the first bar is row 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.errors import DataError, Fault, MissingExtra
from p3kit.market.bars import OPTIONAL_COLUMNS, Bars, Floats

if TYPE_CHECKING:
    import pyarrow.parquet

TIMESTAMP_NAMES = ("timestamp", "datetime", "date", "time")

Kind = Literal["csv", "parquet"]

_SLACK = 0.01
"""Relative slack of open and close beyond low … high: vendors round and glitch by less. Closes that were adjusted for
dividends beside highs and lows that were not differ by more, sooner or later."""

_DST_DAYS = 21
"""UTC offsets may change by an hour for daylight saving time, but not twice within this many days."""


@dataclass
class _Sheet:
    """A file as text or numbers, not yet checked. `first_row`: how users would number the first bar."""

    path: Path
    frame: pd.DataFrame  # columns in lower case
    first_row: int
    ignored: list[str]

    def fault(self, rows: NDArray[np.intp] | int, what: str, hint: str) -> Fault:
        """A fault at the first of `rows` (positions), saying how many more there are."""
        positions = np.atleast_1d(rows)
        first = int(positions[0])
        more = f" (and {len(positions) - 1} more rows)" if len(positions) > 1 else ""
        stamp = str(self.frame["timestamp"].iloc[first])
        when = f" ({stamp[:40]})" if stamp else ""
        return Fault(f"{self.path}: row {first + self.first_row}{when}", what + more, hint)


def read_bars(kind: Kind, template: str | None, symbol: str) -> Bars:
    """The bars of `symbol` from its file. DataError with every fault of the file."""
    path = _path_of(template, symbol)
    sheet = _read_csv(path) if kind == "csv" else _read_parquet(path)
    timestamps, zone, faults = _parse_timestamps(sheet)
    numbers: dict[str, Floats] = {}
    for name in ("close", *OPTIONAL_COLUMNS):
        if name in sheet.frame.columns:
            numbers[name], wrong = _parse_numbers(sheet, name)
            faults += wrong
    if not faults:
        faults = _check_ranges(sheet, numbers)
    if len(sheet.frame) < 2:
        faults.append(Fault(str(path), f"{len(sheet.frame)} bars", "give one bar per row"))
    if faults:
        raise DataError.collected(faults)
    notes = []
    if zone:
        notes.append(f"timestamps carry a time zone ({zone}); they are kept in UTC, and so are the days of data.split")
    if sheet.ignored:
        notes.append(f"columns not used: {', '.join(sheet.ignored)}")
    return Bars(
        symbol=symbol,
        timestamps=timestamps,
        close=numbers["close"],
        open=numbers.get("open"),
        high=numbers.get("high"),
        low=numbers.get("low"),
        volume=numbers.get("volume"),
        source=f"{kind} {path}",
        notes=tuple(notes),
    )


def read_columns(kind: Kind, template: str | None, symbol: str) -> tuple[str, ...]:
    """The optional columns in the file of `symbol`, from its header alone. DataError if there is no such file."""
    path = _path_of(template, symbol)
    if kind == "csv":
        names = [str(name) for name in _csv(path, nrows=0).columns]
    else:
        names = list(_open_parquet(path).schema_arrow.names)
    present = {name.strip().lower() for name in names}
    return tuple(name for name in OPTIONAL_COLUMNS if name in present)


def _path_of(template: str | None, symbol: str) -> Path:
    """The file of a symbol. `load.py` has checked the name; only `{symbol}` is replaced, nothing is evaluated."""
    if not template:
        raise DataError("data.path", "is not set", 'name the files, for example "data/{symbol}.csv"')
    path = Path(template.replace("{symbol}", symbol))
    if path.is_dir():
        raise DataError(str(path), f"is a directory; expected the file of {symbol}", 'write "data/{symbol}.csv"')
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))[:6] if path.parent.is_dir() else []
        hint = "data.path is relative to the spec file; given by --set, to the current folder"
        if beside:
            hint = f"{path.parent} has {', '.join(beside)}"
        raise DataError(str(path), f"no such file (bars of {symbol})", hint)
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


def _csv(path: Path, nrows: int | None = None) -> pd.DataFrame:
    """Every cell as the text that stands in the file, blank lines kept (they count as rows). DataError if no CSV.

    pandas is told that there is no header: it would rename repeated columns and shift names over longer rows.
    """
    try:
        frame = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            nrows=None if nrows is None else nrows + 1,
        ).fillna("")  # cells that a short row lacks
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"is not UTF-8 text ({error.reason})", "save it as CSV in UTF-8") from None
    except pd.errors.EmptyDataError:
        raise DataError(str(path), "is empty", "give a header and one bar per row") from None
    except pd.errors.ParserError as error:
        what = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        hint = "give every row as many cells as the header"
        raise DataError(str(path), f"is no regular table: {what}", hint) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "check the file and its permissions") from None
    bars = frame.iloc[1:].reset_index(drop=True)
    bars.columns = frame.iloc[0].to_list()
    return bars


def _read_csv(path: Path) -> _Sheet:
    frame = _csv(path)
    blank = (frame == "").all(axis=1).to_numpy()
    if blank.any():  # blank lines at the end are no bars; blank lines between bars stay and are refused as missing
        frame = frame.iloc[: int(np.flatnonzero(~blank).max(initial=-1)) + 1]
    if len(frame.columns) == 1 and any(sign in str(frame.columns[0]) for sign in ";\t|"):
        raise DataError(str(path), "has one column: cells are not separated by commas", "save it with commas")
    return _sheet(path, frame, first_row=2)


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", 'data.source = "parquet"') from None
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(str(path), f"is no Parquet file: {str(error).splitlines()[0]}", "write it again") from None


def _read_parquet(path: Path) -> _Sheet:
    file = _open_parquet(path)
    try:
        frame = file.read().to_pandas()
    except Exception as error:  # noqa: BLE001  damaged bytes end in whatever pyarrow and pandas trip over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(str(path), f"cannot be read: {reason}", "write it again") from None
    if not isinstance(frame.index, pd.RangeIndex):
        if isinstance(frame.index, pd.MultiIndex):
            names = ", ".join(str(name) for name in frame.index.names)
            raise DataError(str(path), f"has a row index of several levels ({names})", "write one file per symbol")
        index_name = frame.index.name
        if not any(str(name).strip().lower() in TIMESTAMP_NAMES for name in frame.columns):
            frame = frame.reset_index(names=index_name if _is_timestamp(index_name) else "timestamp")
    return _sheet(path, frame, first_row=1)


def _is_timestamp(name: Any) -> bool:
    return str(name).strip().lower() in TIMESTAMP_NAMES


def _sheet(path: Path, frame: pd.DataFrame, first_row: int) -> _Sheet:
    """Columns under our names. DataError where one is missing or there twice."""
    names = [str(name).strip().lower() for name in frame.columns]
    stamps = [name for name in names if name in TIMESTAMP_NAMES]
    faults = []
    if len(stamps) != 1:
        what = f"has {len(stamps)} timestamp columns ({', '.join(stamps)})" if stamps else "has no timestamp column"
        faults.append(Fault(str(path), what, f"name exactly one of them timestamp; the columns are {', '.join(names)}"))
    if "close" not in names:
        near = [f'"{name}"' for name in names if "close" in name or name in ("price", "last")]
        rename = f"is it {' or '.join(near)}? rename it close; " if near else ""
        faults.append(Fault(str(path), "has no column close", f"{rename}the columns are {', '.join(names)}"))
    for name in ("close", *OPTIONAL_COLUMNS):
        if names.count(name) > 1:
            faults.append(Fault(str(path), f"has {names.count(name)} columns {name}", "keep one"))
    if faults:
        raise DataError.collected(faults)
    wanted = {stamps[0]: "timestamp", **{name: name for name in ("close", *OPTIONAL_COLUMNS)}}
    kept = [name in wanted for name in names]
    ignored = [str(name) for name, keep in zip(frame.columns, kept, strict=True) if not keep]
    frame = frame.loc[:, kept]
    frame.columns = [wanted[name] for name in names if name in wanted]
    return _Sheet(path, frame, first_row, ignored)


# --- checking ---------------------------------------------------------------------------------------------------------


def _parse_timestamps(sheet: _Sheet) -> tuple[NDArray[np.datetime64], str, list[Fault]]:
    """Timestamps (T,) in datetime64[ns], the time zone they were in ("" for none), and what is wrong with them."""
    column = sheet.frame["timestamp"]
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        zone, stamps = str(column.dtype.tz), column.dt.tz_convert("UTC").dt.tz_localize(None)
        bad: list[Fault] = []
    elif pd.api.types.is_datetime64_dtype(column.dtype):
        zone, stamps, bad = "", column, []
    elif pd.api.types.is_numeric_dtype(column.dtype):
        hint = "write ISO 8601 dates or a datetime column: whether seconds or milliseconds are meant is not guessed"
        return np.array([], dtype="datetime64[ns]"), "", [Fault(str(sheet.path), "timestamps are plain numbers", hint)]
    else:
        zone, stamps, bad = _parse_stamp_text(sheet, column.map(_as_text))
    if stamps.isna().any() and not bad:
        bad = [sheet.fault(np.flatnonzero(stamps.isna()), "timestamp is missing", "remove the row or give its time")]
    if not bad:
        year = stamps.dt.year
        outside = np.flatnonzero((year < 1700) | (year > 2261))  # what 64-bit nanoseconds can hold
        if len(outside):
            bad = [sheet.fault(outside, "is not between the years 1700 and 2261", "check the dates")]
    if bad:
        return np.array([], dtype="datetime64[ns]"), zone, bad

    timestamps = stamps.to_numpy(dtype="datetime64[ns]")
    steps = np.diff(timestamps).astype(np.int64)
    faults = []
    if (steps == 0).any():
        rows = np.flatnonzero(steps == 0) + 1
        faults.append(sheet.fault(rows, "same timestamp as the row before", "keep one of them"))
    if (steps < 0).any():
        hint = "sort the file by time, oldest first"
        faults.append(sheet.fault(np.flatnonzero(steps < 0) + 1, "is earlier than the row before", hint))
    return timestamps, zone, faults


def _as_text(value: object) -> str:
    """A cell as text; whole timestamps from Parquet object columns come out in ISO 8601."""
    if value is None or value is pd.NaT:
        return ""
    return value.isoformat() if hasattr(value, "isoformat") else str(value).strip()


def _parse_stamp_text(sheet: _Sheet, text: pd.Series) -> tuple[str, pd.Series, list[Fault]]:
    """Timestamps written as text: ISO 8601 only, all with a UTC offset or all without."""
    iso = text.str.match(r"\d{4}-\d{2}-\d{2}|\d{8}(?:[T ]|$)")
    stamps = pd.to_datetime(text.where(iso), format="ISO8601", utc=True, errors="coerce")
    stamps = stamps.dt.tz_localize(None)
    unread = np.flatnonzero(stamps.isna())
    if len(unread):
        value = text.iloc[unread[0]]
        hint = "write ISO 8601, for example 2024-03-08 or 2024-03-08T14:30:00"
        if value == "":
            return "", stamps, [sheet.fault(unread, "timestamp is missing", "remove the row or give its time")]
        if "/" in value or "." in value.split(" ")[0]:
            hint += "; which of day and month comes first is not guessed"
        return "", stamps, [sheet.fault(unread, f'"{value[:40]}" is no timestamp', hint)]

    offset = text.str.extract(r"[T ]\d{2}(?::?\d{2}){0,2}(?:\.\d+)?\s*(Z|[+-]\d{2}(?::?\d{2})?)$", expand=False)
    if offset.isna().all():
        return "", stamps, []
    one_zone = "write all timestamps in one time zone, best in UTC"
    if offset.isna().any():
        kind = "without" if not offset.isna().iloc[0] else "with"
        odd = np.flatnonzero(offset.isna() if kind == "without" else offset.notna())
        return "", stamps, [sheet.fault(odd, f"a time {kind} UTC offset among times that are not", one_zone)]
    minutes = offset.map(_offset_minutes).to_numpy()
    changes = np.flatnonzero(np.diff(minutes)) + 1
    if len(changes):
        far = np.flatnonzero(np.abs(minutes - minutes[0]) > 60)
        days = np.abs(np.diff(stamps.to_numpy()[changes])) / np.timedelta64(1, "D")  # newest first is told elsewhere
        if len(far) or np.ptp(minutes) > 60 or (days < _DST_DAYS).any():
            row = far if len(far) else changes
            what = f"UTC offset {offset.iloc[row[0]]} after {offset.iloc[0]}: mixed time zones"
            return "", stamps, [sheet.fault(row, what, one_zone)]
    return " and ".join(sorted(set(offset))), stamps, []


def _offset_minutes(offset: str) -> int:
    if offset == "Z":
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (-1 if offset[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


def _parse_numbers(sheet: _Sheet, name: str) -> tuple[Floats, list[Fault]]:
    """A column as float64 (T,), and its first missing, unreadable, infinite or impossible number."""
    column = sheet.frame[name]
    price = name != "volume"
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        text = column.map(_as_text)
        readable = pd.to_numeric(text, errors="coerce").notna().to_numpy()
        unread = np.flatnonzero(~readable & ~text.str.lower().isin(["", "nan", "null", "none", "na", "n/a"]).to_numpy())
        if len(unread):
            value = text.iloc[unread[0]]
            hint = "write plain numbers with a decimal point" if "," in value or "$" in value else "write a number"
            return np.array([]), [sheet.fault(unread, f'{name} = "{value[:40]}" is no number', hint)]
        # Python's own float() gives the nearest double, which pandas' fast parser does not promise
        numbers = np.array([float(cell) if good else np.nan for cell, good in zip(text, readable, strict=True)])
    checks: list[tuple[Callable[[Floats], NDArray[np.bool_]], str, str]] = [
        (np.isnan, "is missing", "remove the bar or get its price; nothing is ever filled in" if price
         else "give it (0 if nothing was traded) or leave the column out"),
        (np.isinf, "is infinite", "give the true number"),
        ((lambda x: x <= 0) if price else (lambda x: x < 0), "is {value}: " + ("a price must be above 0" if price
         else "a volume cannot be negative"), "remove the bar or give the true number"),
    ]  # fmt: skip
    faults = []
    for wrong, what, hint in checks:
        rows = np.flatnonzero(wrong(numbers))
        if len(rows):
            faults.append(sheet.fault(rows, f"{name} " + what.format(value=f"{numbers[rows[0]]:g}"), hint))
    return numbers, faults


def _check_ranges(sheet: _Sheet, numbers: dict[str, Floats]) -> list[Fault]:
    """High and low as they belong together, closes and opens between them."""
    faults = []
    high, low = numbers.get("high"), numbers.get("low")
    if high is not None and low is not None:
        rows = np.flatnonzero(high < low)
        if len(rows):
            what = f"high {high[rows[0]]:g} is below low {low[rows[0]]:g}"
            return [sheet.fault(rows, what, "swap or mend them; are the columns in the right order?")]
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
                hint = "adjust all prices of a bar for splits and dividends alike, or leave open, high and low out"
                faults.append(sheet.fault(rows, what, hint))
    return faults
