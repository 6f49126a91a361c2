"""Opens a file of bars: separator, encoding, compression, header lines, and the first rows. pandas reads the rest.

A `Table` is a file whose columns have names but no meaning yet; `shapes.py` gives them one.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import pandas as pd

from p3kit.errors import DataError, MissingExtra
from p3kit.spec.paths import special_file

if TYPE_CHECKING:
    import pyarrow.parquet

Kind = Literal["csv", "parquet"]
Label = tuple[str, ...]
"""The name of a column, one text per header line."""

HEAD_LINES = 60
MAX_HEADER = 12
"""Header lines and lines above them."""
MAX_LINE = 1_000_000
SEPARATORS = (",", "\t", ";", "|")
_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DATE = re.compile(r"(\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{8})([T ].*)?|\d{9,10}(\.0+)?|\d{12,19}")
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


@dataclass(frozen=True, eq=False)
class Table:
    """A file of bars before its columns have a meaning."""

    kind: Kind
    path: Path
    labels: tuple[Label, ...]  # one per column
    head: tuple[tuple[str, ...], ...]  # the first rows of bars, as text
    first_row: int  # the number that a user would give the first bar
    above: tuple[str, ...] = ()  # lines above the header
    separator: str = ","
    encoding: str = "utf-8-sig"
    has_header: bool = True
    index_levels: int = 0  # of the row index, in Parquet
    frame: pd.DataFrame | None = field(default=None, repr=False)  # Parquet is read as a whole

    @property
    def names(self) -> tuple[str, ...]:
        """The columns as a message shows them."""
        return tuple(
            next((part for part in label if part.strip()), f"(column {i})").strip()
            for i, label in enumerate(self.labels, 1)
        )


def open_table(kind: Kind, path: Path) -> Table:
    """Open `path`. Raises DataError where it is no table."""
    require_regular_file(path, str(path))
    return _open_csv(path) if kind == "csv" else _open_parquet(path)


def require_regular_file(path: Path, where: str, purpose: str = "a file of bars") -> None:
    """Raise DataError for folders, pipes and devices, before anything is read from them."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        parts = sorted(part.name for part in path.iterdir() if part.name.startswith("part-"))
        what = f"is a directory; expected {purpose}"
        hint = 'name the file: path = "data/{symbol}.csv"'
        if parts:
            what = f"is a folder of Spark with {len(parts)} part files ({parts[0]}); expected {purpose}"
            hint = f"write one file per symbol, for example pandas.read_csv({str(path / parts[0])!r}).to_csv(…)"
        raise DataError(where, what, hint)
    what = f"is {special_file(path) or 'no regular file'}; expected {purpose}"
    raise DataError(where, what, "write the bars to a regular file")


# --- CSV --------------------------------------------------------------------------------------------------------------


def _open_csv(path: Path) -> Table:
    encoding = _encoding(path)
    lines = _first_lines(path, encoding)
    if not any(line.strip() for line in lines):
        raise DataError(str(path), "is empty", "give a header and one bar per row")
    separator = max(
        SEPARATORS, key=lambda sign: sum(len(row) > 1 for row in _cells(lines, sign)) * 100 + _width(lines, sign)
    )
    grid = _cells(lines, separator)
    above = _lines_above(grid)
    header = _header_lines(grid[above:])
    labels = _labels(grid[above : above + header], grid[above + header :])
    return Table(
        kind="csv",
        path=path,
        labels=labels,
        head=tuple(tuple(row) for row in grid[above + header :]),
        first_row=above + header + 1,
        above=tuple(lines[:above]),
        separator=separator,
        encoding=encoding,
        has_header=header > 0,
    )


def _encoding(path: Path) -> str:
    with open_bytes(path) as file:
        begin = _guarded(path, lambda: file.read(4))
    if begin[:4] == b"PAR1":
        raise DataError(str(path), "is a Parquet file", 'write source = "parquet" under [data]')
    for magic, kind, hint in _NO_TEXT:
        if begin.startswith(magic):
            raise DataError(str(path), f"is {kind}", hint)
    return "utf-16" if begin[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


_NO_TEXT = (
    (b"PK\3\4", "a spreadsheet or a zip archive", "save it as CSV, or end its name in .zip"),
    (b"\x1f\x8b", "compressed with gzip", "end its name in .gz"),
    (b"BZh", "compressed with bzip2", "end its name in .bz2"),
    (b"\xfd7zX", "compressed with xz", "end its name in .xz"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save it as CSV"),
    (b"{", "JSON", _FROM_JSON := "write it as CSV, for example with pandas.read_json(…).to_csv(…)"),
    (b"[", "JSON", _FROM_JSON),
    *((tag, "a web page", "save the table as CSV, or repeat the download") for tag in (b"<!DO", b"<!do", b"<htm")),
)


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed if its name ends in .gz, .bz2, .xz or .zip."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".zip":
            archive = zipfile.ZipFile(path)
            if len(archive.namelist()) != 1:
                raise DataError(str(path), f"holds {len(archive.namelist())} files", "unpack it, and name one of them")
            return archive.open(archive.namelist()[0])
        return _OPENERS[suffix](path) if suffix in _OPENERS else path.open("rb")
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {_reason(error)}", "check the file and its permissions") from None


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """The result of `read`. DataError where the bytes cannot be read or are no text."""
    try:
        return read()
    except UnicodeError as error:
        hint = "save it as CSV in UTF-8"
        raise DataError(str(path), f"is not UTF-8 text ({getattr(error, 'reason', error)})", hint) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {_reason(error)}", "check the file and its permissions") from None


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _first_lines(path: Path, encoding: str) -> list[str]:
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding=encoding, newline="")
        lines: list[str] = _guarded(path, lambda: _split_lines(text))
    return lines


def _split_lines(text: io.TextIOWrapper) -> list[str]:
    lines: list[str] = []
    while len(lines) < HEAD_LINES and (line := text.readline(MAX_LINE)):
        lines += line.rstrip("\r\n").split("\r")  # old Macs end lines with \r alone
    return lines


def _cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    """The cells of each line; a line that is no CSV is one cell."""
    rows = []
    for line in lines:
        try:
            rows.append(next(csv.reader([line], delimiter=separator), [""]) or [""])
        except csv.Error:
            rows.append([line])
    return rows


def _width(lines: Sequence[str], separator: str) -> int:
    widths = sorted(len(row) for row in _cells(lines, separator))
    return min(widths[len(widths) // 2], 99)


def _lines_above(grid: Sequence[Sequence[str]]) -> int:
    """Lines above the header: blank, or a single cell above a table of several, such as a link or `sep=;`."""
    wide = next((i for i in range(len(grid)) if not _is_above(grid, i)), 0)
    return wide if wide < MAX_HEADER and wide + 1 < len(grid) else 0


def _is_above(grid: Sequence[Sequence[str]], i: int) -> bool:
    """True for a line of at most one cell, and for a comment that is no header: no bar follows it.

    `,close` is a header that pandas writes for an index without a name: a bar of as many cells follows it.
    """
    following = grid[i + 1] if i + 1 < len(grid) else []
    if not grid[i][0].strip() and any(grid[i]) and len(grid[i]) == len(following) and looks_like_a_bar(following):
        return False
    if grid[i][0].lstrip().startswith("#"):
        return i + 1 < len(grid) and not looks_like_a_bar(grid[i + 1])
    return sum(bool(cell.strip()) for cell in grid[i]) <= 1


def looks_like_a_bar(row: Sequence[str]) -> bool:
    """True for a row with a date, or a time since 1970, and a number after it."""
    dated = next((i for i, cell in enumerate(row) if _DATE.fullmatch(cell.strip())), None)
    return dated is not None and any(_NUMBER.fullmatch(cell) for cell in row[dated + 1 :])


def _header_lines(grid: Sequence[Sequence[str]]) -> int:
    """1; 0 where the first line is a bar; 2 or 3 where tickers stand in a second line and the index in a third."""
    if grid and looks_like_a_bar(grid[0]):
        return 0
    if len(grid) < 3 or any(_NUMBER.fullmatch(cell) for cell in grid[1]) or looks_like_a_bar(grid[1]):
        return 1
    names = [cell.strip() for cell in grid[1][1:]]
    if not names or not all(names) or len(grid[1]) != len(grid[0]):
        return 1
    third = [cell.strip() for cell in grid[2]]
    if third[0] and not any(third[1:]) and len(third) <= len(grid[0]):
        return 3
    return 2 if looks_like_a_bar(grid[2]) else 1


def _labels(header: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> tuple[Label, ...]:
    if not header:
        return (("",),) * len(rows[0])
    if len(header) == 1:
        return tuple((name,) for name in header[0])
    index = header[2][0] if len(header) == 3 else header[0][0] or "timestamp"
    columns = zip(header[0][1:], header[1][1:], strict=True)
    return ((index, ""), *columns)


def read_rows(table: Table, numbers: Sequence[int]) -> pd.DataFrame:
    """All bars of a CSV file, columns by position: those at `numbers` as float64 where all cells allow it, else text.

    pandas gets no header: it would rename repeated columns and shift names over longer rows.
    """
    if len(table.labels) < max((len(row) for row in table.head[:1]), default=0):
        what = f"{len(table.head[0])} cells in row {table.first_row}, {len(table.labels)} columns in the header"
        raise DataError(str(table.path), f"is no regular table: {what}", "give every row as many cells as the header")
    try:
        return _read(table, dict.fromkeys(numbers, "float64"))
    except ValueError:  # a cell that is no number: read as text, it can be named
        return _read(table, {})


def _read(table: Table, types: dict[int, str]) -> pd.DataFrame:
    path = table.path
    try:
        frame = pd.read_csv(
            path,
            header=None,
            skiprows=table.first_row - 1,
            sep=table.separator,
            dtype={i: types.get(i, "str") for i in range(len(table.labels))},
            **_EXACT,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            encoding=table.encoding,
            compression="infer" if path.suffix.lower() == path.suffix else _COMPRESSION.get(path.suffix.lower()),
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame({i: pd.Series([], dtype="str") for i in range(len(table.labels))})
    except pd.errors.ParserError as error:
        what = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        hint = "give every row as many cells as the header"
        raise DataError(str(path), f"is no regular table: {what}", hint) from None
    except (UnicodeError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        _guarded(path, _raiser(error))
        raise
    missing = [i for i in range(len(table.labels)) if i not in frame.columns]
    if missing or not types:
        frame = frame.reindex(columns=range(len(table.labels))).astype("str").fillna("")
        blank = (frame == "").all(axis=1).to_numpy()
        if blank.any():  # blank lines at the end are no bars; blank lines between bars stay, and are refused
            frame = frame.iloc[: int((~blank).nonzero()[0].max(initial=-1)) + 1]
    return frame


_EXACT: dict[str, Any] = {} if pd.__version__ >= "3.1" else {"float_precision": "round_trip"}
"""The nearest double of every number; the default of pandas 3.1, which warns about the argument."""
_COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}


def _raiser(error: BaseException) -> Callable[[], None]:
    def again() -> None:
        raise error

    return again


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", 'data.source = "parquet"') from None
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(str(path), f"is no Parquet file: {str(error).splitlines()[0]}", "write it again") from None


def _open_parquet(path: Path) -> Table:
    file = _parquet(path)
    try:
        return table_of(file.read().to_pandas(), path)
    except Exception as error:  # noqa: BLE001  damaged bytes raise many kinds of errors in pyarrow and pandas
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(str(path), f"cannot be read: {reason}", "write it again") from None


def table_of(frame: pd.DataFrame, path: Path) -> Table:
    """A DataFrame as a table; messages name it by `path`. The levels of its row index become columns."""
    levels = 0 if isinstance(frame.index, pd.RangeIndex) else frame.index.nlevels
    frame = _index_as_columns(frame) if levels else frame.copy(deep=False)
    labels = tuple(tuple(map(str, name)) if isinstance(name, tuple) else (str(name),) for name in frame.columns)
    frame.columns = range(len(labels))
    head = tuple(tuple(map(str, row)) for row in frame.head(HEAD_LINES).itertuples(index=False))
    return Table("parquet", path, labels, head, first_row=1, index_levels=levels, frame=frame)


def _index_as_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The levels of the row index as columns in front. A level without a name is the timestamp, or the symbol."""
    levels = [frame.index.get_level_values(i) for i in range(frame.index.nlevels)]
    names = [_level_name(level) for level in levels]
    own = frame.reset_index(drop=True)
    width = own.columns.nlevels
    front = pd.DataFrame({i: level.to_series(index=own.index) for i, level in enumerate(levels)})
    columns = [*((name, *[""] * (width - 1)) if width > 1 else name for name in names), *own.columns]
    joined = pd.concat([front, own.set_axis(range(len(levels), len(levels) + own.shape[1]), axis=1)], axis=1)
    joined.columns = pd.Index(columns, tupleize_cols=False)
    return joined


def _level_name(level: pd.Index) -> str:
    if level.name is not None:
        return str(level.name)
    return (
        "symbol"
        if pd.api.types.is_string_dtype(level.dtype) and not looks_like_a_bar([str(level[0]), "1"])
        else "timestamp"
    )
