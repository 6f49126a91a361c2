"""Bars from Yahoo Finance, written to files that `[data]` reads. No other part of p3kit uses the network.

yfinance (the extra `yahoo`) sends the requests. It returns one wide table for all symbols, with two levels of columns
and empty rows where only some symbols traded. This module writes a file per symbol that the reader of
`data.source = "csv"` or `"parquet"` accepts, and `provenance.json` beside them: source, versions, time, and a
fingerprint for every file. Prices are adjusted for splits and dividends, all four of a bar alike.

Yahoo keeps all daily bars, hourly bars for 730 days and finer bars for 60. It returns nothing for a longer span, so
p3kit refuses a longer span before the request.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from p3kit.errors import DataError, InputError, MissingExtra
from p3kit.market.files import read_bars
from p3kit.market.fingerprint import fingerprint

Kind = Literal["csv", "parquet"]

DAYS_KEPT = {"1d": None, "1h": 730, "30m": 60, "15m": 60, "5m": 60}
"""Interval → days for which Yahoo keeps bars of it; None is all of them."""
_LENGTH = {"1d": "1D", "1h": "1h", "30m": "30min", "15m": "15min", "5m": "5min"}
_FIRST_DAY = dt.date(1970, 1, 2)
_COLUMNS = ("open", "high", "low", "close", "volume")
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Fetched:
    """One symbol as it was written."""

    symbol: str
    file: Path
    bars: int
    first: str
    last: str
    fingerprint: str
    without_price: int
    """Rows that Yahoo sent without a complete price; they are no bars and were left out."""
    unfinished: int
    """Unfinished bars; left out."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": str(self.file)}


@dataclass(frozen=True)
class Missed:
    """One symbol that did not come, and why, in Yahoo's words where there are any."""

    symbol: str
    reason: str


def span(interval: str, first: dt.date | None, last: dt.date | None, today: dt.date) -> tuple[dt.date, dt.date]:
    """Return the first and last day of the request, by default the longest span that Yahoo keeps. Raises InputError."""
    days = DAYS_KEPT[interval]
    earliest = _FIRST_DAY if days is None else today - dt.timedelta(days=days - 1)
    begin, end = first or earliest, min(last or today, today)
    if begin < earliest:
        what = f"is earlier than the {days} days for which Yahoo keeps {interval} bars" if days else "is before 1970"
        hint = f"--from {earliest} is the earliest" + ("; --interval 1d goes back further" if days else "")
        raise InputError(f"--from {begin}", what, hint)
    if begin > end:
        raise InputError(f"--from {begin}", f"is after the last day, {end}", "give an earlier day")
    return begin, end


def fetch(
    symbols: Sequence[str],
    folder: Path,
    *,
    interval: str,
    days: tuple[dt.date, dt.date],
    kind: Kind,
    now: dt.datetime,
    overwrite: bool,
) -> tuple[list[Fetched], list[Missed]]:
    """Request bars from Yahoo and write `folder/SYMBOL.csv` (or .parquet), after the reader has checked each file.

    Bars that arrive are kept even if other symbols fail. Raises InputError before any request if a file exists already,
    MissingExtra without yfinance, InputError if no bars came at all.
    """
    files = {symbol: folder / f"{symbol}.{kind}" for symbol in symbols}
    there = [str(path) for path in files.values() if path.exists()]
    if there and not overwrite:
        raise InputError(", ".join(there), "is there already", "--force writes over it; or give another --output")
    table, said = _ask(symbols, interval, days)
    folder.mkdir(parents=True, exist_ok=True)
    fetched, missed = [], []
    for symbol, path in files.items():
        result = _keep(table, symbol, path, kind, interval, now)
        if isinstance(result, Fetched):
            fetched.append(result)
        else:
            missed.append(Missed(symbol, result or _reason(symbol, said)))
    if fetched:
        _write_provenance(folder, fetched, interval, now)
    return fetched, missed


# --- the request ------------------------------------------------------------------------------------------------------


def _ask(symbols: Sequence[str], interval: str, days: tuple[dt.date, dt.date]) -> tuple[pd.DataFrame, list[str]]:
    """Yahoo's table, and yfinance's messages."""
    try:
        import yfinance
    except ImportError:
        raise MissingExtra("yfinance", "yahoo", "p3kit data fetch") from None
    with _listening() as said, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="yfinance")  # its affair with pandas
        try:
            table = yfinance.download(
                list(symbols),
                start=days[0],
                end=days[1] + dt.timedelta(days=1),  # Yahoo's end is not included
                interval=interval,
                auto_adjust=True,
                actions=False,
                group_by="ticker",
                progress=False,
                threads=False,
            )
        except Exception as error:  # noqa: BLE001  yfinance and the network raise many kinds of errors
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(
                "Yahoo Finance", f"the request failed: {type(error).__name__}: {reason}", NETWORK
            ) from None
    return pd.DataFrame() if table is None else table, said


NETWORK = "this command needs the network; is there one, and may it reach finance.yahoo.com?"


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect yfinance's log records, in place of its lines on stderr."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.extend(line for line in record.getMessage().splitlines() if line.strip())

    logger, listener = logging.getLogger("yfinance"), Listener()
    others, propagate = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [listener], False
    try:
        yield said
    finally:
        logger.handlers, logger.propagate = others, propagate


def _reason(symbol: str, said: Sequence[str]) -> str:
    """The line that names the symbol; where none does, the last one."""
    about = [line for line in said if symbol.upper() in line.upper()] or list(said)[-1:]
    return (
        about[-1] if about else "Yahoo sent no bars; is the symbol spelt as Yahoo spells it (BRK-B, ^GSPC, EURUSD=X)?"
    )


# --- keeping ----------------------------------------------------------------------------------------------------------


def bars_of(table: pd.DataFrame, symbol: str, interval: str, now: dt.datetime) -> tuple[pd.DataFrame, int, int]:
    """The rows of one symbol with our column names, and how many were left out: without a price, and unfinished.

    `table` is what `yfinance.download` returns, grouped by ticker or by column, or flat for a single symbol. Rows that
    exist for other symbols only are not counted.
    """
    own = _columns_of(table, symbol)
    if own.empty:
        return own, 0, 0
    own.columns = [str(name).strip().lower() for name in own.columns]
    own = own[[name for name in _COLUMNS if name in own.columns]].dropna(how="all")
    prices = [name for name in ("open", "high", "low", "close") if name in own.columns]
    whole = own[prices].notna().all(axis=1) & (own[prices] > 0).all(axis=1)
    own, without_price = own[whole], int((~whole).sum())
    own = own[~own.index.duplicated(keep="last")].sort_index()
    moment = pd.Timestamp(now)
    if own.index.tz is None:  # days: the one that is running in UTC may not be over anywhere
        over = own.index < moment.tz_convert("UTC").tz_localize(None).normalize()
    else:
        over = own.index + pd.Timedelta(_LENGTH[interval]) <= moment
    return own[over].rename_axis("timestamp"), without_price, int((~over).sum())


def _columns_of(table: pd.DataFrame, symbol: str) -> pd.DataFrame:
    if not isinstance(table.columns, pd.MultiIndex):
        return table.copy()
    for level in range(table.columns.nlevels):
        names = {str(name).upper(): name for name in table.columns.get_level_values(level)}
        if symbol.upper() in names:
            return table.xs(names[symbol.upper()], axis=1, level=level).copy()
    return pd.DataFrame()


def _keep(table: pd.DataFrame, symbol: str, path: Path, kind: Kind, interval: str, now: dt.datetime) -> Fetched | str:
    """The file of one symbol. A reason if there are no bars; "" if Yahoo must give the reason."""
    bars, without_price, unfinished = bars_of(table, symbol, interval, now)
    if bars.empty:
        return "none of its bars has a price and is over" if without_price or unfinished else ""
    draft = path.with_name(f".{path.stem}.draft.{kind}")
    try:
        if kind == "csv":
            bars.to_csv(draft)
        else:
            bars.to_parquet(draft)
        checked = read_bars(kind, str(draft), symbol)
        draft.replace(path)
    except DataError as error:
        return str(error.faults[0]).replace(str(draft), "what Yahoo sent")
    finally:
        draft.unlink(missing_ok=True)
    first, last = (str(bars.index[i]) for i in (0, -1))
    return Fetched(symbol, path, len(bars), first, last, fingerprint(checked), without_price, unfinished)


def _write_provenance(folder: Path, fetched: Sequence[Fetched], interval: str, now: dt.datetime) -> None:
    """Add these files to what is known of the others in the folder."""
    path = folder / PROVENANCE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"files": {}}
    for one in fetched:
        known["files"][one.file.name] = {
            "symbol": one.symbol,
            "source": "Yahoo Finance",
            "through": f"yfinance {version('yfinance')}",
            "fetched": now.isoformat(timespec="seconds"),
            "interval": interval,
            "adjusted_for": ["splits", "dividends"],
            "bars": one.bars,
            "first": one.first,
            "last": one.last,
            "fingerprint": one.fingerprint,
            "rows_without_price": one.without_price,
            "unfinished_bars": one.unfinished,
        }
    draft = path.with_name(f".{PROVENANCE}.draft")
    draft.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
