"""`p3kit data fetch`, against frames of the shape that yfinance 1.7 returns. Nothing here touches a network."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

from p3kit.errors import InputError
from p3kit.market import fingerprint
from p3kit.market.files import read_bars
from p3kit.market.yahoo import bars_of, span
from tests.command import invoke

yfinance = pytest.importorskip("yfinance")

NOW = dt.datetime(2024, 6, 7, 17, 10, tzinfo=dt.UTC)  # a Friday, 13:10 in New York
FIELDS = ["Open", "High", "Low", "Close", "Volume"]


def one(index: pd.DatetimeIndex, price: float) -> pd.DataFrame:
    """One symbol's history as yfinance has it, adjusted: four prices that belong together, and a volume."""
    close = price * (1 + 0.01 * np.sin(np.arange(len(index))))
    columns = {"Open": close * 0.999, "High": close * 1.01, "Low": close * 0.99, "Close": close, "Volume": 1000.0}
    return pd.DataFrame(columns, index=index)[FIELDS]


def joined(frames: dict[str, pd.DataFrame], *, by: str = "ticker") -> pd.DataFrame:
    """Result of `yfinance.download` for them: two levels of columns, the union of all rows."""
    table = pd.concat(frames.values(), axis=1, sort=True, keys=frames.keys(), names=["Ticker", "Price"])
    if by == "column":
        table.columns = table.columns.swaplevel(0, 1)
        table = table.sort_index(axis=1)
    return table


def daily() -> pd.DatetimeIndex:
    return pd.bdate_range("2024-01-02", "2024-06-07", name="Date")


def hourly() -> pd.DatetimeIndex:
    """9:30 to 15:30 in New York, over the change to summer time."""
    days = pd.bdate_range("2024-03-04", "2024-06-07")
    hours = [day + pd.Timedelta(hours=9.5 + hour) for day in days for hour in range(7)]
    return pd.DatetimeIndex(hours, name="Datetime").tz_localize("America/New_York")


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`p3kit data fetch …` in an empty folder, with a given answer of Yahoo; `asked` has the requests."""
    monkeypatch.chdir(tmp_path)

    def call(answer: Any, *words: str) -> Result:
        def download(tickers: list[str], **how: Any) -> Any:
            call.asked = {"tickers": tickers, **how}  # type: ignore[attr-defined]
            return answer() if callable(answer) else answer

        monkeypatch.setattr(yfinance, "download", download)
        monkeypatch.setattr("p3kit.cli.data.utc_now", lambda: NOW)
        return invoke("data", "fetch", *words)

    return call


def test_daily_bars_become_files_that_the_spec_reads(fetch: Any, tmp_path: Path) -> None:
    result = fetch(joined({"MSFT": one(daily(), 400.0), "AAPL": one(daily(), 180.0)}), "aapl", "MSFT")
    assert (result.exit_code, result.stderr) == (0, "next:  p3kit init mine.toml --bars data\n")
    assert result.stdout.splitlines() == [  # the seventh of June is not over
        "data/AAPL.csv: 113 bars, 2024-01-02 00:00:00 to 2024-06-06 00:00:00; left out: 1 unfinished",
        "data/MSFT.csv: 113 bars, 2024-01-02 00:00:00 to 2024-06-06 00:00:00; left out: 1 unfinished",
    ]
    assert fetch.asked["tickers"] == ["AAPL", "MSFT"]
    assert (fetch.asked["start"], fetch.asked["end"]) == (dt.date(1970, 1, 2), dt.date(2024, 6, 8))
    assert fetch.asked["auto_adjust"] is True
    assert (tmp_path / "data" / "AAPL.csv").read_text().startswith("timestamp,open,high,low,close,volume\n2024-01-02,")
    bars = read_bars("csv", "data/{symbol}.csv", "MSFT")
    assert bars.columns == ("open", "high", "low", "volume")
    assert np.allclose(bars.close, one(daily(), 400.0)["Close"][:-1])


def test_a_spec_on_fetched_bars_can_be_run(fetch: Any) -> None:
    days = pd.bdate_range("2015-01-01", "2024-06-07", name="Date")
    fetch(joined({"AAPL": one(days, 180.0)}), "AAPL")
    assert invoke("init", "--bars", "data").exit_code == 0
    facts = json.loads(invoke("data", "experiment.toml", "--json").stdout)
    assert facts["AAPL"]["bars"] == len(days) - 1


def test_hourly_bars_keep_their_zone_and_lose_the_bar_that_is_going_on(fetch: Any, tmp_path: Path) -> None:
    result = fetch(joined({"SPY": one(hourly(), 500.0)}), "SPY", "--interval", "1h", "--format", "parquet")
    assert result.exit_code == 0, result.stderr
    bars = read_bars("parquet", "data/{symbol}.parquet", "SPY")
    # 11:30 in New York is over at 12:30; 12:30 still goes on at 13:10
    assert bars.timestamps[-1] == np.datetime64("2024-06-07T15:30")
    assert bars.timestamps[0] == np.datetime64("2024-03-04T14:30")
    assert "left out: 4 unfinished" in result.stdout
    assert fetch.asked["start"] == dt.date(2024, 6, 7) - dt.timedelta(days=729)
    text = fetch(joined({"SPY": one(hourly(), 500.0)}), "SPY", "--interval", "1h")
    assert text.exit_code == 0
    rows = (tmp_path / "data" / "SPY.csv").read_text().splitlines()
    assert rows[1].startswith("2024-03-04 09:30:00-05:00,")
    assert rows[-1].startswith("2024-06-07 11:30:00-04:00,")


def test_provenance_keeps_source_time_and_fingerprint(fetch: Any, tmp_path: Path) -> None:
    fetch(joined({"AAPL": one(daily(), 180.0)}), "AAPL")
    fetch(joined({"SPY": one(daily(), 500.0)}), "SPY")
    files = json.loads((tmp_path / "data" / "provenance.json").read_text())["files"]
    assert list(files) == ["AAPL.csv", "SPY.csv"]
    assert files["SPY.csv"]["fingerprint"] == fingerprint(read_bars("csv", "data/{symbol}.csv", "SPY"))
    assert files["SPY.csv"]["fetched"] == "2024-06-07T17:10:00+00:00"
    assert files["SPY.csv"]["through"] == f"yfinance {yfinance.__version__}"
    assert files["SPY.csv"]["adjusted_for"] == ["splits", "dividends"]


def test_rows_without_a_price_are_left_out_and_counted(fetch: Any) -> None:
    """A row that only another symbol has is not counted; one with a volume alone, or a price of 0, is."""
    full = one(daily(), 180.0)
    holed = full.copy()
    holed.iloc[10, :4] = np.nan  # a volume and no price
    holed.iloc[11, 3] = np.nan
    holed.iloc[12, 0] = 0.0
    other = full.drop(full.index[[20, 21]])
    result = fetch(joined({"AAPL": holed, "SPY": other}), "AAPL", "SPY", "--json")
    files = {one["symbol"]: one for one in json.loads(result.stdout)["files"]}
    assert (files["AAPL"]["bars"], files["AAPL"]["without_price"]) == (110, 3)
    assert (files["SPY"]["bars"], files["SPY"]["without_price"]) == (111, 0)


@pytest.mark.parametrize("by", ["ticker", "column"])
def test_every_shape_of_frame_is_understood(by: str) -> None:
    table = joined({"AAPL": one(daily(), 180.0), "SPY": one(daily(), 500.0)}, by=by)
    bars, _, unfinished = bars_of(table, "SPY", "1d", NOW)
    assert list(bars.columns) == ["open", "high", "low", "close", "volume"]
    assert (bars.index.name, len(bars), unfinished) == ("timestamp", 113, 1)
    assert bars_of(table, "MSFT", "1d", NOW)[0].empty
    flat, _, _ = bars_of(one(daily(), 500.0), "SPY", "1d", NOW)
    pd.testing.assert_frame_equal(flat, bars)
    assert bars_of(pd.DataFrame(), "SPY", "1d", NOW)[0].empty


def test_a_symbol_that_does_not_come_is_told_in_yahoos_words(fetch: Any, tmp_path: Path) -> None:
    def answer() -> pd.DataFrame:
        logging.getLogger("yfinance").error("\n1 Failed download:")
        logging.getLogger("yfinance").error("['NOPE']: possibly delisted; no timezone found")
        nothing = pd.DataFrame(columns=FIELDS, index=daily(), dtype=float)
        return joined({"AAPL": one(daily(), 180.0), "NOPE": nothing})

    result = fetch(answer, "AAPL", "NOPE")
    assert result.exit_code == 1
    assert result.stdout.startswith("data/AAPL.csv: 113 bars")
    assert result.stderr.splitlines()[0] == "NOPE: not fetched: ['NOPE']: possibly delisted; no timezone found"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["AAPL.csv", "provenance.json"]


def test_without_a_network_one_line_says_so(fetch: Any, tmp_path: Path) -> None:
    def answer() -> pd.DataFrame:
        raise ConnectionError("Failed to resolve 'finance.yahoo.com'")

    result = fetch(answer, "AAPL")
    assert result.exit_code == 2
    assert result.stderr == (
        "Yahoo Finance: the request failed: ConnectionError: Failed to resolve 'finance.yahoo.com'; "
        "this command needs the network; is there one, and may it reach finance.yahoo.com?\n"
    )
    assert not (tmp_path / "data").exists()


def test_bars_that_the_reader_would_refuse_are_not_kept(fetch: Any, tmp_path: Path) -> None:
    mad = one(daily(), 180.0)
    mad.loc[mad.index[5], "High"] = 1.0
    result = fetch(joined({"AAPL": mad}), "AAPL")
    assert result.exit_code == 1
    assert "AAPL: not fetched: what Yahoo sent: row 7 (2024-01-09): high 1 is below low" in result.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_nothing_is_written_over_unless_told(fetch: Any, tmp_path: Path) -> None:
    table = joined({"AAPL": one(daily(), 180.0)})
    fetch(table, "AAPL")
    again = fetch(table, "AAPL")
    assert again.exit_code == 2
    assert again.stderr == "data/AAPL.csv: is there already; --force writes over it; or give another --output\n"
    assert fetch(table, "AAPL", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["AAPL", "--interval", "1h", "--from", "2020-01-01"],
         "--from 2020-01-01: is earlier than the 730 days for which Yahoo keeps 1h bars; "
         "--from 2022-06-09 is the earliest; --interval 1d goes back further\n"),
        (["AAPL", "--from", "2024-05-01", "--to", "2024-04-01"],
         "--from 2024-05-01: is after the last day, 2024-04-01; give an earlier day\n"),
        (["../etc"], "symbols: '../ETC' is no symbol; use 1 to 32 letters, digits and . _ ^ = -\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anybody_is_asked(fetch: Any, words: list[str], message: str) -> None:
    def answer() -> None:
        raise AssertionError("a request was sent to Yahoo")

    result = fetch(answer, *words)
    assert (result.exit_code, result.stderr) == (2, message)


def test_the_span_ends_today_and_begins_where_yahoo_does() -> None:
    today = dt.date(2024, 6, 7)
    assert span("1d", None, None, today) == (dt.date(1970, 1, 2), today)
    assert span("5m", None, dt.date(2030, 1, 1), today) == (dt.date(2024, 4, 9), today)
    with pytest.raises(InputError, match="before 1970"):
        span("1d", dt.date(1960, 1, 1), None, today)


def test_data_still_describes_a_spec_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fetch.toml").write_text('name = "x"\nsymbols = ["AAPL"]\n')
    assert invoke("data", "--json", "fetch.toml").exit_code == 0
    assert invoke("data", "describe", "fetch.toml").exit_code == 0
    told = invoke("data", "--help").output
    assert "data SPEC|FILE [OPTIONS]" in told
    assert "data fetch SYMBOL..." in told
