"""CSV and Parquet: what is read, and every refusal with file, row and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p3kit.errors import DataError
from p3kit.market import fingerprint
from p3kit.market.files import read_bars, read_columns
from tests.market.made import frame_of, random_bars, write_csv

BARS = random_bars(50)


def as_text() -> pd.DataFrame:
    """The table of 50 good bars with every cell a string."""
    frame = frame_of(BARS)
    text = {name: [repr(float(x)) for x in frame[name]] for name in ("open", "high", "low", "close", "volume")}
    return pd.DataFrame({"timestamp": frame["timestamp"].dt.strftime("%Y-%m-%d"), **text})


def cell(column: str, row: int, value: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put `value` into a cell; the row counted from the first bar = 0."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return change


def refusal(tmp_path: Path, frame: pd.DataFrame) -> str:
    path = write_csv(frame, tmp_path)
    with pytest.raises(DataError) as caught:
        read_bars("csv", str(tmp_path / "{symbol}.csv"), "X")
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), "X.csv")


REFUSED = {
    "missing price": (
        cell("close", 9, ""),
        "X.csv: row 11 (2015-01-14): close is missing; remove the bar or get its price; nothing is ever filled in",
    ),
    "nan price": (
        cell("open", 9, "NaN"),
        "X.csv: row 11 (2015-01-14): open is missing; remove the bar or get its price; nothing is ever filled in",
    ),
    "negative price": (
        cell("low", 9, "-2"),
        "X.csv: row 11 (2015-01-14): low is -2: a price must be above 0; remove the bar or give the true number, or "
        'leave the column out: columns = { low = "off" } under [data]',
    ),
    "zero price": (
        cell("close", 0, "0"),
        "X.csv: row 2 (2015-01-05): close is 0: a price must be above 0; remove the bar or give the true number",
    ),
    "infinite price": (
        cell("high", 9, "inf"),
        "X.csv: row 11 (2015-01-14): high is infinite; give the true number",
    ),
    "text": (
        cell("close", 9, "halted"),
        'X.csv: row 11 (2015-01-14): close = "halted" is no number; write a number',
    ),
    "thousands": (
        cell("close", 9, "0,234"),
        'X.csv: row 11 (2015-01-14): close = "0,234" is no number; write plain numbers with a decimal point',
    ),
    "missing volume": (
        cell("volume", 9, ""),
        "X.csv: row 11 (2015-01-14): volume is missing; give it (0 if nothing was traded), "
        'or leave the column out: columns = { volume = "off" } under [data]',
    ),
    "negative volume": (
        cell("volume", 9, "-1"),
        "X.csv: row 11 (2015-01-14): volume is -1: a volume cannot be negative; remove the bar or give the true number"
        ', or leave the column out: columns = { volume = "off" } under [data]',
    ),
    "high below low": (
        lambda f: cell("high", 9, "1")(cell("low", 9, "2")(f)),
        "X.csv: row 11 (2015-01-14): high 1 is below low 2; swap or correct them; are the columns in the right order?",
    ),
    "close above high": (
        cell("close", 9, "1000"),
        "X.csv: row 11 (2015-01-14): close 1000 is above high 52.0344; adjust all prices of a bar for splits and "
        'dividends alike (adjust = "adj_close" does, by a column Adj Close), or leave open, high and low out',
    ),
    "missing timestamp": (
        cell("timestamp", 9, ""),
        "X.csv: row 11: timestamp is missing; remove the row or give its time",
    ),
    "repeated timestamp": (
        cell("timestamp", 9, "2015-01-13"),
        "X.csv: row 11 (2015-01-13): same timestamp as the row before; keep one of them",
    ),
    "unsorted": (
        cell("timestamp", 9, "2015-01-06"),
        "X.csv: row 11 (2015-01-06): is earlier than the row before; sort the file by time, oldest first",
    ),
    "ambiguous date": (
        cell("timestamp", 9, "01/14/2015"),
        'X.csv: row 11 (01/14/2015): "01/14/2015" is no timestamp; write ISO 8601, for example 2024-03-08 or '
        "2024-03-08T14:30:00; day and month are read only if a day above 12 settles which comes first in every row",
    ),
    "no such day": (
        cell("timestamp", 9, "2015-02-30"),
        'X.csv: row 11 (2015-02-30): "2015-02-30" is no timestamp; write ISO 8601, for example 2024-03-08 or '
        "2024-03-08T14:30:00",
    ),
    "seconds since 1970": (
        cell("timestamp", 9, "1421193600"),
        'X.csv: row 11 (1421193600): "1421193600" is no timestamp; write ISO 8601, for example 2024-03-08 or '
        "2024-03-08T14:30:00",
    ),
    "far future": (
        cell("timestamp", 49, "3015-02-20"),
        "X.csv: row 51 (3015-02-20): is not between the years 1700 and 2261; check the dates",
    ),
    "some with an offset": (
        cell("timestamp", 9, "2015-01-14 00:00:00+00:00"),
        "X.csv: row 11 (2015-01-14 00:00:00+00:00): a time with UTC offset among times that are not; "
        "write all timestamps in one time zone, best in UTC",
    ),
    "mixed time zones": (
        lambda f: f.assign(timestamp=[f"{t}T12:00{'Z' if i < 20 else '-05:00'}" for i, t in enumerate(f["timestamp"])]),
        "X.csv: row 22 (2015-01-25T12:00-05:00): UTC offset -05:00 after Z: mixed time zones (and 29 more rows); "
        "write all timestamps in one time zone, best in UTC",
    ),
    "no close": (
        lambda f: f.drop(columns="close"),
        'X.csv: has no column close; write columns = { close = "NAME" } under [data]; '
        "the columns are timestamp, open, high, low, volume",
    ),
    "no timestamp": (
        lambda f: f.rename(columns={"timestamp": "when"}),
        "X.csv: has no timestamp column; "
        'write columns = { timestamp = "when" } under [data]; '
        "the columns are when, open, high, low, close, volume",
    ),
    "two closes": (
        lambda f: f.rename(columns={"volume": "Close"}),
        'X.csv: has 2 columns close; keep one, or write columns = { close = "close" } under [data]',
    ),
    "one bar": (lambda f: f.iloc[:1], "X.csv: 1 bars; give one bar per row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_row_and_remedy(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    assert refusal(tmp_path, change(as_text())) == message


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    frame = cell("volume", 3, "-5")(cell("close", 9, "")(cell("timestamp", 20, "soon")(as_text())))
    lines = refusal(tmp_path, frame).splitlines()
    assert len(lines) == 3
    assert "row 22" in lines[0]
    assert "row 11" in lines[1]
    assert "row 5" in lines[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; give a header and one bar per row"),
        (b"timestamp,close\n", "0 bars; give one bar per row"),
        (b"\xfe\x00\x01", "is not UTF-8 text (invalid start byte); save it as CSV in UTF-8"),
        (
            b"timestamp,close\n2020-01-01,1\n2020-01-02,1,7\n",
            "is no regular table: Expected 2 fields in line 3, saw 3; give every row as many cells as the header",
        ),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_bars("csv", str(path), "X")
    assert str(caught.value) == f"{path}: {message}"


def test_short_rows_and_blank_lines_between_bars_are_missing_bars(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    path.write_text("timestamp,close\n2020-01-01,1\n2020-01-02\n2020-01-03,1\n")
    with pytest.raises(DataError, match=r"row 3 \(2020-01-02\): close is missing"):
        read_bars("csv", str(path), "X")
    path.write_text("timestamp,close\n2020-01-01,1\n\n2020-01-03,1\n")
    with pytest.raises(DataError, match="row 3: timestamp is missing"):
        read_bars("csv", str(path), "X")


def test_harmless_spelling_is_read(tmp_path: Path) -> None:
    """A byte order mark, capitals, spaces, blank lines at the end, columns of no use."""
    path = tmp_path / "X.csv"
    path.write_text("\ufeffDate, Close ,Other\n2020-01-01, 1.5,9\n2020-01-02,2e0,9\n\n\n", encoding="utf-8")
    bars = read_bars("csv", str(path), "X")
    assert list(bars.close) == [1.5, 2.0]
    assert bars.columns == ()
    assert bars.notes == ("columns not used: Other",)


def test_csv_and_parquet_of_the_same_bars_have_one_fingerprint(tmp_path: Path) -> None:
    frame = frame_of(BARS)
    write_csv(frame, tmp_path)
    frame.to_parquet(tmp_path / "X.parquet")
    frame.set_index("timestamp").to_parquet(tmp_path / "indexed.parquet")
    frame.assign(timestamp=frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M")).to_parquet(tmp_path / "text.parquet")
    read = [
        read_bars("csv", str(tmp_path / "X.csv"), "X"),
        *(read_bars("parquet", str(tmp_path / f"{name}.parquet"), "X") for name in ("X", "indexed", "text")),
    ]
    assert {fingerprint(bars) for bars in read} == {fingerprint(BARS)}
    for bars in read:
        np.testing.assert_array_equal(bars.close, BARS.close)
    assert read[0].source == f"csv {tmp_path / 'X.csv'}"


def test_one_changed_digit_changes_the_fingerprint_and_so_does_a_missing_column(tmp_path: Path) -> None:
    frame = frame_of(BARS)
    frame.loc[7, "volume"] = np.nextafter(frame.loc[7, "volume"], np.inf)
    write_csv(frame, tmp_path)
    touched = read_bars("csv", str(tmp_path / "X.csv"), "X")
    write_csv(frame_of(BARS).drop(columns="volume"), tmp_path)
    without = read_bars("csv", str(tmp_path / "X.csv"), "X")
    assert len({fingerprint(BARS), fingerprint(touched), fingerprint(without)}) == 3


def test_parquet_rows_count_from_one(tmp_path: Path) -> None:
    frame = frame_of(BARS)
    frame.loc[9, "close"] = np.nan
    frame.to_parquet(tmp_path / "X.parquet")
    with pytest.raises(DataError, match=r"X\.parquet: row 10 \(2015-01-14 00:00:00\): close is missing"):
        read_bars("parquet", str(tmp_path / "X.parquet"), "X")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "X.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="is no Parquet file"):
        read_bars("parquet", str(path), "X")
    frame_of(BARS).assign(timestamp=np.arange(50)).to_parquet(path)
    with pytest.raises(DataError, match="timestamps are plain numbers; write ISO 8601"):
        read_bars("parquet", str(path), "X")


def test_new_york_keeps_its_clock_change_and_ends_up_in_utc(tmp_path: Path) -> None:
    """Offsets −05:00 and −04:00 are one zone; the same bars in Parquet with the zone's name are the same bars."""
    stamps = pd.date_range("2020-03-02 09:30", periods=50, freq="D", tz="America/New_York")
    frame = frame_of(BARS).assign(timestamp=stamps)
    write_csv(frame, tmp_path)
    frame.to_parquet(tmp_path / "X.parquet")
    csv = read_bars("csv", str(tmp_path / "X.csv"), "X")
    parquet = read_bars("parquet", str(tmp_path / "X.parquet"), "X")
    assert str(csv.timestamps[0])[:16] == "2020-03-02T14:30"
    assert str(csv.timestamps[-1])[:16] == "2020-04-20T13:30"
    assert fingerprint(csv) == fingerprint(parquet)
    assert "-04:00 and -05:00" in csv.notes[0]
    assert "America/New_York" in parquet.notes[0]


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    write_csv(frame_of(BARS), tmp_path, "AAPL")
    cases = {
        None: "data.path: is not set",
        str(tmp_path): "is a directory; expected the file of MSFT",
        str(tmp_path / "{symbol}.csv"): "no such file (bars of MSFT)",
        str(tmp_path / "{symbol.__class__}.csv"): "no such file",  # nothing in a path is evaluated
    }
    for template, message in cases.items():
        with pytest.raises(DataError) as caught:
            read_bars("csv", template, "MSFT")
        assert message in str(caught.value)
    with pytest.raises(DataError, match=r"has AAPL\.csv"):
        read_bars("csv", str(tmp_path / "{symbol}.csv"), "MSFT")


def test_columns_are_known_from_the_header_alone(tmp_path: Path) -> None:
    frame = frame_of(BARS)
    write_csv(frame.rename(columns=str.upper), tmp_path)
    frame.drop(columns=["open", "volume"]).to_parquet(tmp_path / "X.parquet")
    assert read_columns("csv", str(tmp_path / "{symbol}.csv"), "X") == ("open", "high", "low", "volume")
    assert read_columns("parquet", str(tmp_path / "{symbol}.parquet"), "X") == ("high", "low")


def test_newest_first_over_a_change_of_summer_time_is_read_from_its_end(tmp_path: Path) -> None:
    """A file of New York's, newest bar first, with two offsets."""
    times = pd.date_range("2024-10-25 09:30", "2024-11-15", freq="1D", tz="America/New_York")[::-1]
    pd.DataFrame({"timestamp": times, "close": 10.0}).to_csv(tmp_path / "X.csv", index=False)
    bars = read_bars("csv", str(tmp_path / "{symbol}.csv"), "X")
    assert bars.timestamps[0] == np.datetime64("2024-10-25T13:30")
    assert "the newest bar stands first" in bars.notes[1]
