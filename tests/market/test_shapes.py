"""Every known shape of a file: recognised by its name, and the bars that come out are the same bars."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p3kit.errors import DataError
from p3kit.market import Bars
from p3kit.market.facts import describe_file
from p3kit.market.files import Reading, read_bars, read_columns
from p3kit.market.opening import open_table
from p3kit.market.shapes import SHAPES, layout_of, same_symbol, shapes_of
from tests.market.made import random_bars

DAILY = random_bars(60)
HOURLY = Bars(
    "X", (np.datetime64("2024-03-04T10:00") + np.arange(60) * np.timedelta64(1, "h")).astype("datetime64[ns]"),
    DAILY.close, DAILY.open, DAILY.high, DAILY.low, DAILY.volume,
)  # fmt: skip
OHLCV = ["open", "high", "low", "close", "volume"]


def table(bars: Bars = DAILY, form: str = "%Y-%m-%d") -> pd.DataFrame:
    """Text of every cell, as a program would write it."""
    cells = {name: [repr(float(x)) for x in getattr(bars, name)] for name in OHLCV}
    return pd.DataFrame({"Date": pd.to_datetime(bars.timestamps).strftime(form), **cells})


def csv(frame: pd.DataFrame, **options: object) -> str:
    return frame.to_csv(index=False, **{"lineterminator": "\n", **options})  # type: ignore[call-overload]


def renamed(*names: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    return (table() if frame is None else frame).set_axis(list(names), axis=1)


def levels(names: tuple[str, str], tickers: tuple[str, ...] = ("X",)) -> pd.DataFrame:
    """Two levels of columns, as yfinance has them."""
    wide = pd.concat({ticker: table().set_index("Date") for ticker in tickers}, axis=1)
    wide = wide.rename(columns=str.title, level=1).swaplevel(axis=1)
    wide.columns.names = list(names)
    return wide.rename_axis("Date")


def epoch(unit: str) -> pd.DataFrame:
    stamps = HOURLY.timestamps.astype(f"datetime64[{unit}]").astype(np.int64)
    return table(HOURLY).assign(Date=[str(stamp) for stamp in stamps])


def split_time(form: str, clock: str, bars: Bars = HOURLY) -> pd.DataFrame:
    times = pd.to_datetime(bars.timestamps)
    frame = table(bars, form)
    frame.insert(1, "Time", times.strftime(clock))
    return frame


BINANCE = epoch("ms").assign(
    close_time=lambda f: f["Date"], quote="1.0", count="7", taker="1.0", taker_quote="1.0", ignore="0"
)
LONG = pd.concat([table().assign(tic="X"), table().assign(tic="OTHER", **dict.fromkeys(OHLCV, "1"))]).sort_values(
    ["Date", "tic"]
)

FILES: dict[str, tuple[str, Bars, str | bytes]] = {
    "Yahoo, by hand": ("one symbol, one header line", DAILY, csv(table())),
    "MetaTrader 5": (
        "names in angle brackets", HOURLY,
        csv(renamed("<DATE>", "<TIME>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>",
                    frame=split_time("%Y.%m.%d", "%H:%M:%S")), sep="\t"),
    ),
    "MetaTrader 5, separators": ("other separators", DAILY, csv(table(form="%Y.%m.%d"), sep="\t")),
    "a spreadsheet": ("other separators", DAILY, csv(table(), sep=";")),
    "compressed": ("compressed", DAILY, gzip.compress(csv(table()).encode())),
    "UTF-16": ("UTF-16", DAILY, csv(table()).encode("utf-16")),
    "CryptoDataDownload": ("lines above the header", DAILY, "https://www.example.com\n" + csv(table())),
    "a spreadsheet's separator": ("lines above the header", DAILY, "sep=;\n\n" + csv(table(), sep=";")),
    "pandas, unnamed index": ("index without a name", DAILY, table().set_index("Date").rename_axis(None).to_csv()),
    "pandas, saved again": ("index without a name", DAILY, csv(table().rename(columns={"Date": "Unnamed: 0"}))),
    "comments": ("lines above the header", DAILY, "# a, b, c\n# of d, e\n" + csv(table())),
    "yfinance, three lines": ("several header lines", DAILY, levels(("Price", "Ticker")).to_csv()),
    "yfinance, by ticker": (
        "several header lines", DAILY, levels(("Price", "Ticker")).swaplevel(axis=1).to_csv()
    ),
    "yfinance, older": ("several header lines", DAILY, levels(("", "")).to_csv()),
    "yfinance, index reset": (
        "several header lines", DAILY, levels(("Price", "Ticker")).reset_index().to_csv(index=False)
    ),
    "yfinance, flat": (
        "tickers in the names of the columns", DAILY,
        levels(("Price", "Ticker")).pipe(lambda f: f.set_axis(f.columns.to_flat_index(), axis=1)).to_csv(),
    ),
    "quantmod": (
        "tickers in the names of the columns", DAILY,
        csv(renamed("Index", *(f"X.{name.title()}" for name in OHLCV)).rename(columns={"Index": "Date"})),
    ),
    "joined names": (
        "tickers in the names of the columns", DAILY, csv(renamed("Date", *(f"{name.title()}_X" for name in OHLCV)))
    ),
    "yfinance, two tickers": (
        "wide: several symbols side by side", DAILY, levels(("Price", "Ticker"), ("OTHER", "X")).to_csv()
    ),
    "FinRL": ("a column of symbols", DAILY, LONG.reset_index(drop=True).to_csv()),
    "Kaggle": ("a column of symbols", DAILY, csv(LONG.rename(columns={"tic": "Name"}))),
    "by symbol": ("a column of symbols", DAILY, csv(LONG.sort_values(["tic", "Date"]).rename(
        columns={"tic": "code"}))),
    "Stooq, in bulk": (
        "a column of symbols", DAILY, csv(table(form="%Y%m%d").assign(**{"<TICKER>": "x.us"}))
    ),
    "MetaTrader 4": (
        "no header line", HOURLY, csv(split_time("%Y.%m.%d", "%H:%M"), header=False)
    ),
    "HistData": ("no header line", HOURLY, csv(table(HOURLY, "%Y%m%d %H%M%S"), header=False, sep=";")),
    "FirstRate": ("no header line", HOURLY, csv(table(HOURLY, "%Y-%m-%d %H:%M:%S"), header=False)),
    "Binance": ("no header line", HOURLY, csv(BINANCE, header=False)),
    "Alpaca, REST": ("names of one letter", HOURLY, csv(renamed("t", "o", "h", "l", "c", "v",
                                                               frame=table(HOURLY, "%Y-%m-%dT%H:%M:%SZ")))),
    "Stooq": ("date and time in two columns", HOURLY, csv(split_time("%Y-%m-%d", "%H:%M:%S"))),
    "Stooq, digits": ("date and time in two columns", HOURLY, csv(split_time("%Y%m%d", "%H%M%S"))),
    "midnights and times": (
        "date and time in two columns", HOURLY, csv(split_time("%Y-%m-%d 00:00:00", "%H:%M"))
    ),
    "TradingView": ("time since 1970", HOURLY, csv(epoch("s").rename(columns={"Date": "time"}))),
    "Binance, header": ("time since 1970", HOURLY, csv(BINANCE.rename(columns={"Date": "open_time"}))),
    "Binance, 2025": ("time since 1970", HOURLY, csv(epoch("us"))),
    "Polygon": ("time since 1970", HOURLY, csv(epoch("ns").rename(columns={"Date": "window_start"}))),
    "Tushare": ("dates without dashes", DAILY, csv(table(form="%Y%m%d").rename(columns={"Date": "trade_date"}))),
    "slashes": ("dates without dashes", DAILY, csv(table(form="%Y/%m/%d"))),
    "no leading zeros": (
        "dates without dashes", DAILY, csv(table().assign(Date=lambda f: f["Date"].str.replace("-0", "/").str.replace(
            "-", "/")))
    ),
    "Yahoo, adjusted": (
        "adjusted close beside close", DAILY, csv(table().assign(**{"Adj Close": table()["close"]}))
    ),
    "Tiingo": ("adjusted close beside close", DAILY, csv(table().assign(adjClose=table()["close"]))),
    "Alpaca": ("time zone", HOURLY, csv(table(HOURLY, "%Y-%m-%d %H:%M:%S+00:00"))),
    "Alpha Vantage": (
        "one symbol, one header line", DAILY,
        csv(renamed("timestamp", *(f"{i}. {name}" for i, name in enumerate(OHLCV, 1))).iloc[::-1]),
    ),
    "CryptoDataDownload, two times": (
        "time since 1970", HOURLY,
        "https://www.example.com\n" + csv(epoch("s").set_axis(["unix", *OHLCV], axis=1).assign(
            date=pd.to_datetime(HOURLY.timestamps).strftime("%Y-%m-%d %H:%M:%S")).iloc[::-1]),
    ),
    "Barchart": (
        "one symbol, one header line", DAILY,
        csv(renamed("Time", "Open", "High", "Low", "Last", "Volume")) + "Downloaded from Example.com as of 01-02\n",
    ),
    "MetaStock": (
        "date and time in two columns", HOURLY,
        csv(split_time("%Y%m%d", "%H%M%S").rename(columns={"Date": "<DTYYYYMMDD>", "Time": "<TIME>"})),
    ),
    "a half day's clock": ("date and time in two columns", HOURLY, csv(split_time("%Y-%m-%d", "%I:%M:%S %p"))),
    "Dukascopy": ("one symbol, one header line", HOURLY, csv(table(HOURLY, "%Y-%m-%d %H:%M:%S.000 GMT+0000"))),
    "Interactive Brokers": ("dates without dashes", HOURLY, csv(table(HOURLY, "%Y%m%d  %H:%M:%S"))),
    "Kaggle, UTC": ("one symbol, one header line", HOURLY, csv(table(HOURLY, "%Y-%m-%d %H:%M:%S UTC"))),
}  # fmt: skip


def written(folder: Path, content: str | bytes, name: str = "X.csv") -> Path:
    path = folder / (name + (".gz" if content[:2] == b"\x1f\x8b" else ""))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(one: Bars, other: Bars) -> None:
    np.testing.assert_array_equal(one.timestamps, other.timestamps)
    for name in OHLCV:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("case", FILES)
def test_a_shape_is_recognised_and_its_bars_are_the_bars(case: str, tmp_path: Path) -> None:
    shape, bars, content = FILES[case]
    path = written(tmp_path, content)
    layout = layout_of(open_table("csv", path), "X", {})
    assert shape in [found.name for found in shapes_of(layout)]
    same(read_bars("csv", str(path), "X"), bars)
    assert read_columns("csv", str(path), "X") == ("open", "high", "low", "volume")


@pytest.mark.parametrize("columns", [["close"], ["close", "volume"], ["open", "high", "low", "close"]])
@pytest.mark.parametrize("first", [slice(0, None), slice(0, 3)])
def test_an_index_without_a_name_is_the_timestamp_beside_any_columns(
    tmp_path: Path, columns: list[str], first: slice
) -> None:
    """`frame.to_csv()` of pandas: the header is `,close` where the closes stand alone."""
    bars = random_bars(40)
    frame = pd.DataFrame({name: getattr(bars, name) for name in columns}, index=pd.DatetimeIndex(bars.timestamps))
    frame[first].to_csv(tmp_path / "X.csv")
    found = read_bars("csv", str(tmp_path / "X.csv"), "X")
    np.testing.assert_array_equal(found.close, bars.close[first])
    np.testing.assert_array_equal(found.timestamps, bars.timestamps[first])


def test_every_row_of_the_table_of_shapes_has_a_file() -> None:
    tested = {shape for shape, _, _ in FILES.values()} | {"index of several levels"}
    assert tested == {shape.name for shape in SHAPES}


def test_an_index_of_two_levels_in_parquet(tmp_path: Path) -> None:
    frame = LONG.assign(Date=pd.to_datetime(LONG["Date"]).dt.tz_localize("UTC")).astype(dict.fromkeys(OHLCV, float))
    frame.set_index(["tic", "Date"]).rename_axis(["symbol", "timestamp"]).to_parquet(tmp_path / "all.parquet")
    frame.set_index(["tic", "Date"]).rename_axis([None, None]).to_parquet(tmp_path / "unnamed.parquet")
    one = frame[frame["tic"] == "X"]
    one.set_index(["tic", "Date"]).rename_axis(["symbol", "timestamp"]).to_parquet(tmp_path / "X.parquet")
    for name in ("all", "unnamed", "X"):
        same(read_bars("parquet", str(tmp_path / f"{name}.parquet"), "X"), DAILY)
    layout = layout_of(open_table("parquet", tmp_path / "X.parquet"), "X", {})
    assert "index of several levels" in [shape.name for shape in shapes_of(layout)]


def test_levels_of_columns_in_parquet(tmp_path: Path) -> None:
    wide = levels(("Price", "Ticker"), ("OTHER", "X")).astype(float)
    wide.index = pd.to_datetime(wide.index)
    wide.to_parquet(tmp_path / "wide.parquet")
    same(read_bars("parquet", str(tmp_path / "wide.parquet"), "X"), DAILY)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_since_1970_in_parquet(unit: str, tmp_path: Path) -> None:
    frame = epoch(unit).astype({"Date": "int64", **dict.fromkeys(OHLCV, float)})
    frame.rename(columns={"Date": "timestamp"}).to_parquet(tmp_path / "X.parquet")
    same(read_bars("parquet", str(tmp_path / "X.parquet"), "X"), HOURLY)


def test_a_missing_text_in_parquet_is_missing(tmp_path: Path) -> None:
    for role, message in (("Date", "row 8: timestamp is missing"), ("close", r"row 8 .*close is missing")):
        frame = table()
        frame.loc[7, role] = None
        frame.to_parquet(tmp_path / "X.parquet")
        with pytest.raises(DataError, match=message):
            read_bars("parquet", str(tmp_path / "X.parquet"), "X")


# --- several symbols --------------------------------------------------------------------------------------------------


def test_a_long_file_is_read_per_symbol(tmp_path: Path) -> None:
    path = written(tmp_path, csv(LONG), "all.csv")
    reading = Reading(several=True)
    same(read_bars("csv", str(path), "X", reading), DAILY)
    other = read_bars("csv", str(path), "OTHER", reading)
    assert len(other) == len(DAILY)


def test_rows_of_a_long_file_keep_their_numbers(tmp_path: Path) -> None:
    damaged = LONG.reset_index(drop=True)
    row = int(np.flatnonzero(damaged["tic"] == "X")[5])
    damaged.loc[row, "close"] = "-1"
    path = written(tmp_path, csv(damaged))
    with pytest.raises(DataError, match=rf"row {row + 2} .*close is -1"):
        read_bars("csv", str(path), "X")


def wide_csv() -> str:
    return levels(("Price", "Ticker"), ("MSFT", "NVDA")).to_csv()


OTHERS: dict[str, Callable[[], str]] = {
    "column tic holds MSFT, not X": lambda: csv(table().assign(tic="MSFT")),
    "column Name holds 2 symbols (MSFT, NVDA), not X": lambda: csv(
        pd.concat([table().assign(Name="MSFT"), table().assign(Name="NVDA")])
    ),
    "the header names MSFT, NVDA, not X": wide_csv,
    "the header names MSFT, not X": lambda: levels(("Price", "Ticker"), ("MSFT",)).to_csv(),
}


@pytest.mark.parametrize("message", OTHERS)
def test_a_file_of_another_symbol_is_an_error(message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_bars("csv", str(written(tmp_path, OTHERS[message]())), "X")
    assert message in str(caught.value)


def test_a_column_that_is_no_symbol_can_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, csv(table().assign(Name="Some Company")))
    with pytest.raises(DataError, match=r'write columns = \{ symbol = "off" \} under \[data\]'):
        read_bars("csv", str(path), "X")
    same(read_bars("csv", str(path), "X", Reading({"symbol": "off"})), DAILY)


def test_two_companies_are_never_taken_for_one(tmp_path: Path) -> None:
    """A column of symbols under an unknown name is named, before anybody sorts the file or keeps one of two bars."""
    for frame in (LONG, LONG.sort_values(["tic", "Date"])):
        path = written(tmp_path, csv(frame.rename(columns={"tic": "firm"})))
        with pytest.raises(
            DataError, match=r'column firm looks like the symbol: write columns = \{ symbol = "firm" \}'
        ):
            read_bars("csv", str(path), "X")
        same(read_bars("csv", str(path), "X", Reading({"symbol": "firm"})), DAILY)


def test_spellings_of_a_symbol() -> None:
    for one, other in (("aapl.us", "AAPL"), ("BTC/USDT", "BTC-USDT"), ("NASDAQ:AAPL", "AAPL"), ("BRK.B", "BRK-B")):
        assert same_symbol(one, other)
    for one, other in (("BRK.A", "BRK.B"), ("TD.TO", "TD"), ("AAPL", "AAP"), ("AAPL", "MSFT")):
        assert not same_symbol(one, other)


def test_rows_of_other_symbols_in_a_wide_file_are_no_bars(tmp_path: Path) -> None:
    wide = levels(("Price", "Ticker"), ("OTHER", "X"))
    wide.loc[wide.index[:20], wide.columns.get_level_values(1) == "X"] = np.nan
    path = written(tmp_path, wide.to_csv())
    read = read_bars("csv", str(path), "X", Reading(several=True))
    np.testing.assert_array_equal(read.close, DAILY.close[20:])
    assert read.notes == ("20 rows hold bars of other symbols only",)
    wide.loc[wide.index[40], ("Close", "X")] = np.nan
    with pytest.raises(DataError, match=r"row 44 .*close is missing"):
        read_bars("csv", str(written(tmp_path, wide.to_csv())), "X")


@pytest.mark.parametrize(
    ("magic", "message"),
    [
        (b"PK\3\4", "is a spreadsheet"),
        (b"\x1f\x8b\x08", "end its name in .gz"),
        (b'{"close": [', "is JSON"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"\xd0\xcf\x11\xe0", "is an old Excel file"),
    ],
)
def test_what_only_looks_like_csv_is_named(magic: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "X.csv").write_bytes(magic + bytes(40))
    with pytest.raises(DataError, match=message):
        read_bars("csv", str(tmp_path / "X.csv"), "X")


# --- in doubt ---------------------------------------------------------------------------------------------------------

DOUBT: dict[str, tuple[str, dict[str, str | int]]] = {
    "close first, as yfinance orders them": (
        csv(table()[["Date", "close", "high", "low", "open", "volume"]], header=False),
        {"timestamp": 1, "close": 2, "high": 3, "low": 4, "open": 5, "volume": 6},
    ),
    "open, close, high, low": (
        csv(table()[["Date", "open", "close", "high", "low", "volume"]], header=False),
        {"timestamp": 1, "open": 2, "close": 3, "high": 4, "low": 5, "volume": 6},
    ),
    "a number in front": (
        csv(table().reset_index(), header=False),
        {"timestamp": 2, "open": 3, "high": 4, "low": 5, "close": 6, "volume": 7},
    ),
    "closes alone": (csv(table()[["Date", "close"]], header=False), {"timestamp": 1, "close": 2}),
}


@pytest.mark.parametrize("case", DOUBT)
def test_without_a_header_a_doubt_is_an_error_that_names_the_line(case: str, tmp_path: Path) -> None:
    content, columns = DOUBT[case]
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_bars("csv", str(path), "X")
    assert "has no header line, and the order of its columns is in doubt (column 1 is " in str(caught.value)
    assert "write columns = { timestamp = " in str(caught.value)
    bars = read_bars("csv", str(path), "X", Reading(columns))
    np.testing.assert_array_equal(bars.close, DAILY.close)


def test_the_line_of_an_error_reads_the_file(tmp_path: Path) -> None:
    cases = {
        'columns = { close = "Price" }': table().assign(Last="1").rename(columns={"close": "Price"}),
        'columns = { timestamp = "When" }': table().rename(columns={"Date": "When"}),
        'columns = { timestamp = "date" }': table().assign(unix="1").rename(columns={"Date": "date"}),
    }
    for line, frame in cases.items():
        path = written(tmp_path, csv(frame))
        with pytest.raises(DataError) as caught:
            read_bars("csv", str(path), "X")
        assert line in str(caught.value)
        role, name = line.removeprefix("columns = { ").removesuffix(" }").split(" = ")
        same(read_bars("csv", str(path), "X", Reading({role: name.strip('"')})), DAILY)
    with pytest.raises(DataError, match=r'data\.columns\.close = "Last": no such column; the columns are '):
        read_bars("csv", str(path), "X", Reading({"close": "Last"}))


@pytest.mark.parametrize(
    ("kind", "note"),
    {
        "no volume": (
            split_time("%Y.%m.%d", "%H:%M").assign(volume="0", **{"<TICKVOL>": "7"}),
            r'volume is 0 in every row; write columns = \{ volume = "<TICKVOL>" \} under \[data\]',
        ),
        "thousands or decimals": (
            table().assign(**dict.fromkeys(OHLCV[:4], "30.152")), "every price has three digits after the point"
        ),
        "below": (table().iloc[::-1], "the newest bar stands first"),
    }.values(),
)  # fmt: skip
def test_a_reading_that_surprises_has_a_note(kind: pd.DataFrame, note: str, tmp_path: Path) -> None:
    notes = read_bars("csv", str(written(tmp_path, csv(kind, sep=";"))), "X").notes
    assert any(re.search(note, one) for one in notes), notes


def test_clocks_that_were_set_back_are_named(tmp_path: Path) -> None:
    times = pd.date_range("2024-10-20", periods=60 * 24, freq="10min", tz="Europe/Berlin")
    frame = pd.DataFrame({"Date": times.tz_localize(None), "close": 10.0})
    with pytest.raises(DataError, match=r"\(2024-10-27 02:00:00\): is earlier .*were clocks set back\?"):
        read_bars("csv", str(written(tmp_path, csv(frame))), "X")


def test_seconds_among_milliseconds_are_refused(tmp_path: Path) -> None:
    frame = epoch("ms")
    frame.loc[40:, "Date"] = epoch("us")["Date"][40:]
    with pytest.raises(DataError, match=r"row 42 .*is in microseconds since 1970 after milliseconds"):
        read_bars("csv", str(written(tmp_path, csv(frame))), "X")


@pytest.mark.parametrize(
    "form",
    ["%d.%m.%Y", "%m/%d/%Y", "%d-%m-%Y", "%m/%d/%y", "%b %d, %Y", "%d-%b-%Y", "%a %b %d %Y", "%d/%m/%Y 12:00:00 AM"],
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_a_date_is_read_if_the_file_settles_its_form(form: str, newest_first: bool, tmp_path: Path) -> None:
    frame = table(form=form)
    same(read_bars("csv", str(written(tmp_path, csv(frame.iloc[::-1] if newest_first else frame))), "X"), DAILY)


@pytest.mark.parametrize(
    "change",
    {
        "no day above 12": lambda days: days.where(days.dt.day <= 12).dropna().dt.strftime("%d.%m.%Y"),
        "two orders": lambda days: days.dt.strftime("%d.%m.%Y").where(days < days[30], days.dt.strftime("%m.%d.%Y")),
        "two separators": lambda days: days.dt.strftime("%d.%m.%Y").where(days < days[9], days.dt.strftime("%d/%m/%Y")),
        "a day in front of a short year": lambda days: days.dt.strftime("%d.%m.%y"),
        "a month without a day": lambda days: days.dt.strftime("%b %Y"),
        "no such day": lambda days: days.dt.strftime("31.%m.%Y"),
    }.items(),
    ids=lambda case: case[0],
)  # fmt: skip
def test_a_date_in_doubt_is_an_error(change: tuple[str, Callable[[pd.Series], pd.Series]], tmp_path: Path) -> None:
    frame = table().assign(Date=change[1](pd.Series(pd.to_datetime(DAILY.timestamps)))).dropna()
    with pytest.raises(DataError, match=r"is no timestamp .*; write ISO 8601"):
        read_bars("csv", str(written(tmp_path, csv(frame))), "X")


# --- numbers ----------------------------------------------------------------------------------------------------------

BIG = Bars("X", DAILY.timestamps, *(np.round(getattr(DAILY, name) * 40, 2) for name in ("close", *OHLCV[:3])),
           np.round(DAILY.volume * 100, -4))  # fmt: skip
COMMA = str.maketrans(",.", ".,")
NUMBERS: dict[str, Callable[[float], str]] = {
    "dollars": lambda x: f"${x:.2f}",
    "thousands": "{:,.2f}".format,
    "Switzerland": lambda x: f"{x:,.2f}".replace(",", "'"),
    "Germany": lambda x: f"{x:,.2f}".translate(COMMA),
    "France": lambda x: f"{x:,.2f}".replace(",", "\u202f").replace(".", ",") + " €",
    "millions": lambda x: f"{x / 1e6:,.2f}M" if x > 9e6 else f"{x:,.2f}",
}


def big_table(form: Callable[[float], str]) -> pd.DataFrame:
    return pd.DataFrame({"Date": table()["Date"], **{name: [form(x) for x in getattr(BIG, name)] for name in OHLCV}})


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read_if_the_file_settles_their_form(case: str, tmp_path: Path) -> None:
    read = read_bars("csv", str(written(tmp_path, csv(big_table(NUMBERS[case]), sep=";"))), "X")
    same(read, BIG)
    assert "numbers are not plain" in read.notes[0]


@pytest.mark.parametrize(
    "form",
    [lambda x: f"{x:,.0f}", lambda x: f"{x:,.3f}".translate(COMMA) if x < 2000 else f"{x:,.2f}", "x{:.2f}".format],
)
def test_numbers_in_doubt_are_an_error(form: Callable[[float], str], tmp_path: Path) -> None:
    frame = big_table(form).drop(columns="volume")
    with pytest.raises(DataError, match=r"is no number .*; write"):
        read_bars("csv", str(written(tmp_path, csv(frame, sep=";"))), "X")


# --- days -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "Australia/Sydney", "UTC"])
def test_a_day_at_local_midnight_stays_the_day(zone: str, tmp_path: Path) -> None:
    stamps = pd.to_datetime(DAILY.timestamps).tz_localize(zone)
    path = written(tmp_path, csv(table().assign(Date=stamps.astype(str))))
    read = read_bars("csv", str(path), "X")
    same(read, DAILY)
    assert "the local day is kept" in read.notes[0]
    frame = table().assign(Date=stamps).astype(dict.fromkeys(OHLCV, float))
    frame.to_parquet(tmp_path / "X.parquet")
    same(read_bars("parquet", str(tmp_path / "X.parquet"), "X"), DAILY)


def test_hours_of_a_zone_are_kept_in_utc(tmp_path: Path) -> None:
    stamps = pd.to_datetime(HOURLY.timestamps).tz_localize("UTC").tz_convert("Asia/Tokyo")
    same(read_bars("csv", str(written(tmp_path, csv(table(HOURLY).assign(Date=stamps.astype(str))))), "X"), HOURLY)


# --- adjusted closes --------------------------------------------------------------------------------------------------


def adjusted_table() -> pd.DataFrame:
    """A dividend of 20 % after 40 bars."""
    close = DAILY.close * np.where(np.arange(60) < 40, 0.8, 1.0)
    return table().assign(**{"Adj Close": [repr(float(x)) for x in close]})


def test_the_difference_of_an_adjusted_close_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, csv(adjusted_table()))
    read = read_bars("csv", str(path), "X")
    same(read, DAILY)
    assert read.notes == (
        "Adj Close differs from close by up to 20.0%, from 2015-01-05 to 2015-02-13 (40 bars): prices are read without "
        'it; adjust = "adj_close" under [data] adjusts all four prices',
    )


@pytest.mark.parametrize("mode", ["adj_close", "auto"])
def test_all_four_prices_are_adjusted(mode: str, tmp_path: Path) -> None:
    path = written(tmp_path, csv(adjusted_table()))
    read = read_bars("csv", str(path), "X", Reading(adjust=mode))
    factor = np.where(np.arange(60) < 40, 0.8, 1.0)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(read, name), getattr(DAILY, name) * factor, rtol=1e-14)
    np.testing.assert_array_equal(read.volume, DAILY.volume)
    np.testing.assert_array_equal(read.close[40:], DAILY.close[40:])
    assert "all prices are adjusted by it" in read.notes[0]


def test_a_broken_adjusted_close_adjusts_nothing(tmp_path: Path) -> None:
    frame = adjusted_table()
    frame.loc[7, "Adj Close"] = ""
    path = written(tmp_path, csv(frame))
    read = read_bars("csv", str(path), "X", Reading(adjust="auto"))
    same(read, DAILY)
    assert read.notes == ("Adj Close is not used: it is no price at row 9 (1 rows)",)
    with pytest.raises(DataError, match=r"row 9 .*Adj Close is no price"):
        read_bars("csv", str(path), "X", Reading(adjust="adj_close"))
    with pytest.raises(DataError, match=r'data\.adjust = "adj_close": has no adjusted close'):
        read_bars("csv", str(written(tmp_path, csv(table()))), "X", Reading(adjust="adj_close"))


def test_any_column_can_be_the_close(tmp_path: Path) -> None:
    frame = adjusted_table().drop(columns=["open", "high", "low"])
    read = read_bars("csv", str(written(tmp_path, csv(frame))), "X", Reading({"close": "Adj Close"}))
    assert read.close[0] == DAILY.close[0] * 0.8


# --- other faults -----------------------------------------------------------------------------------------------------


def test_an_open_of_zero_can_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, csv(table().assign(open="0.0")))
    with pytest.raises(DataError, match=r'leave the column out: columns = \{ open = "off" \} under \[data\]'):
        read_bars("csv", str(path), "X")
    assert read_bars("csv", str(path), "X", Reading({"open": "off"})).columns == ("high", "low", "volume")


def test_a_folder_of_spark_is_named(tmp_path: Path) -> None:
    (tmp_path / "X.csv").mkdir()
    (tmp_path / "X.csv" / "part-00000.csv").write_text(csv(table()))
    with pytest.raises(DataError, match=r"is a folder of Spark with 1 part files \(part-00000\.csv\)"):
        read_bars("csv", str(tmp_path / "{symbol}.csv"), "X")


@pytest.mark.parametrize(
    "case", ["Yahoo, by hand", "FinRL", "MetaTrader 4", "yfinance, two tickers", "Yahoo, adjusted"]
)
def test_a_file_without_a_spec_is_described(case: str, tmp_path: Path) -> None:
    shape, _, content = FILES[case]
    facts = describe_file(written(tmp_path, content))
    assert shape in facts.shapes
    assert facts.bars["X"]["bars"] == 60
    assert "[data]\nsource = " in facts.table
    assert facts.faults == ()
