"""Bars per year and gaps: US sessions, half-days, lunch breaks, foreign exchange, futures, crypto, short and long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.tseries.holiday import USFederalHolidayCalendar
from pandas.tseries.offsets import CustomBusinessDay

from p3kit.market import SymbolData, load_market
from p3kit.market.annual import bars_per_year
from p3kit.market.gaps import find_gaps, span_text, usual_spacings
from p3kit.plan import data_notes, describe_data
from tests.market.made import frame_of, market_spec, random_bars, write_csv

NEW_YORK = "America/New_York"
WEEK = pd.bdate_range("2024-03-04", periods=5)
FROM_FEBRUARY = pd.bdate_range("2024-02-26", periods=42)  # over a change of summer time
YEAR = pd.date_range("2023-01-03", "2023-12-29", freq=CustomBusinessDay(calendar=USFederalHolidayCalendar()))


def sessions(days: pd.DatetimeIndex, begin: str, end: str, step: str, zone: str = NEW_YORK) -> pd.DatetimeIndex:
    """A bar every `step` from `begin` to before `end` on each day, in UTC."""
    parts = [pd.date_range(f"{d.date()} {begin}", f"{d.date()} {end}", freq=step, inclusive="left") for d in days]
    return parts[0].append(parts[1:]).tz_localize(zone).tz_convert("UTC").tz_localize(None)


def round_the_clock(step: str, pause: bool, weeks: int = 12) -> pd.DatetimeIndex:
    """Sunday evening to Friday evening in New York, over a change of summer time, in UTC; `pause`: an hour a day."""
    times = pd.date_range("2024-01-07 22:00", periods=weeks * 7 * 24, freq="h").repeat(1)
    if step != "h":
        times = pd.date_range(times[0], times[-1], freq=step)
    local = times.tz_localize("UTC").tz_convert(NEW_YORK)
    weekday, hour = local.day_of_week, local.hour
    closed = (weekday == 5) | ((weekday == 4) & (hour >= 17)) | ((weekday == 6) & (hour < 17 + pause))
    return times[~(closed | (pause & (hour == 17)))]


MARKETS = {
    "five US sessions of minutes": (sessions(WEEK, "09:30", "16:00", "1min"), 98_280),
    "one US session": (sessions(WEEK[:1], "09:30", "16:00", "1min"), 98_280),
    "US sessions with a half-day": (
        sessions(WEEK[:4], "09:30", "16:00", "1min").append(sessions(WEEK[4:], "09:30", "13:00", "1min")),
        98_280,
    ),
    "a year of US minutes": (sessions(YEAR, "09:30", "16:00", "1min"), 98_451),
    "42 US sessions of 5 minutes": (
        sessions(pd.bdate_range("2024-02-26", periods=20), "09:30", "16:00", "5min"),
        19_656,
    ),
    "extended hours": (sessions(FROM_FEBRUARY, "04:00", "20:00", "5min"), 48_384),
    "Sydney, over midnight in UTC": (sessions(WEEK, "10:00", "16:00", "1h", "Australia/Sydney"), 1_512),
    "Hong Kong, with a lunch break": (
        sessions(WEEK, "09:30", "12:00", "1min", "Asia/Hong_Kong")
        .append(sessions(WEEK, "13:00", "16:00", "1min", "Asia/Hong_Kong"))
        .sort_values(),
        83_160,
    ),
    "foreign exchange": (round_the_clock("h", pause=False), 252 * 24),
    "foreign exchange, three days": (round_the_clock("h", pause=False)[:72], 252 * 24),
    "futures": (round_the_clock("h", pause=True), 252 * 23),
    "futures by the minute": (round_the_clock("1min", pause=True, weeks=3), 252 * 23 * 60),
    "crypto by the hour": (pd.date_range("2024-01-01", periods=480, freq="h"), 365 * 24),
    "three years of crypto": (pd.date_range("2020-01-01", periods=3 * 8766, freq="h"), 8_766),
    "crypto days": (pd.date_range("2024-01-01", periods=90), 365),
    "days": (YEAR[:100], 252),
    "a year of days": (YEAR, 251.6),
    "Sunday to Thursday": (
        pd.DatetimeIndex([d for d in pd.date_range("2024-01-01", periods=60) if d.day_of_week not in (4, 5)]),
        252,
    ),
    "weeks": (pd.date_range("2024-01-05", periods=30, freq="W-FRI"), 52.18),
    "months": (pd.date_range("2020-01-01", periods=30, freq="MS"), 12.0),
}


def stamps(times: pd.DatetimeIndex) -> np.ndarray:
    return times.to_numpy().astype("datetime64[ns]")


@pytest.mark.parametrize("market", MARKETS)
def test_bars_per_year_of_every_market_and_no_gap_where_no_bar_is_missing(market: str) -> None:
    times, expected = MARKETS[market]
    found = bars_per_year(stamps(times))
    assert found.bars == pytest.approx(expected, rel=0.002)
    assert find_gaps(stamps(times)) == []


def test_an_estimate_names_its_factors() -> None:
    assert bars_per_year(stamps(MARKETS["five US sessions of minutes"][0])).estimate == "252 sessions × 390 bars"
    assert bars_per_year(stamps(YEAR)).estimate == ""


@pytest.mark.parametrize("market", ["five US sessions of minutes", "crypto by the hour", "foreign exchange"])
def test_a_hole_within_a_session_is_a_gap(market: str) -> None:
    times = stamps(MARKETS[market][0])
    gaps = find_gaps(np.delete(times, slice(40, 45)))
    assert [gap.row for gap in gaps] == [39]


def test_a_missing_day_is_a_gap() -> None:
    days = stamps(pd.bdate_range("2024-01-01", periods=100))
    assert [gap.row for gap in find_gaps(np.delete(days, 50))] == [49]


def test_spacings_are_whole_minutes() -> None:
    assert [span_text(hours) for hours in usual_spacings(stamps(MARKETS["a year of US minutes"][0]))[:1]] == ["1 min"]
    assert [span_text(hours) for hours in (1.0, 17.5, 72.0, 1 / 120)] == ["1 h", "17.5 h", "3 d", "30 s"]


def test_an_interruption_does_not_count() -> None:
    days = stamps(pd.bdate_range("2015-01-01", periods=800))
    halted = np.concatenate([days[:400], days[400:] + np.timedelta64(365, "D")])
    assert bars_per_year(halted).bars == pytest.approx(bars_per_year(days).bars, rel=0.005)


def loaded(folder: Path, times: pd.DatetimeIndex, **data: object) -> SymbolData:
    frame = frame_of(random_bars(len(times), ohlcv=False)).assign(timestamp=times)
    write_csv(frame, folder)
    own = {"source": "csv", "path": str(folder / "{symbol}.csv"), **data}
    return load_market(market_spec(["X"], data=own, env={"episode_bars": 60}), ["X"])["X"]


def test_each_split_has_its_own_number_and_features_that_of_training(tmp_path: Path) -> None:
    """Daily bars first, hourly ones later."""
    days = pd.bdate_range("2015-01-01", periods=1_500)
    hours = sessions(pd.bdate_range(days[-1] + pd.Timedelta(days=1), periods=500), "09:30", "16:00", "1h", "UTC")
    split = {"train": f"{days[0].date()}..{days[-1].date()}", "validation": "", "test": ""}
    edge = hours[2_000].date()
    split["validation"] = f"{hours[0].date()}..{edge - pd.Timedelta(days=1)}"
    split["test"] = f"{edge}..{hours[-1].date()}"
    data = loaded(tmp_path, days.append(hours), split=split)
    assert data.bars_per_year == data.bars_per_year_of("train") == pytest.approx(261, abs=1)
    assert data.bars_per_year_of("validation") == pytest.approx(7 * 261, rel=0.01)
    assert any(note.startswith("bars a year differ by split (train 261, ") for note in data.notes)
    assert any(note.startswith("bars come every 1 d at first, every 1 h from about 20") for note in data.notes)
    stated = loaded(tmp_path, days.append(hours), split=split, bars_per_year=300.0)
    assert {stated.bars_per_year_of(name) for name in stated.splits} == {stated.bars_per_year} == {300.0}


def test_appended_bars_change_no_input_of_an_agent(tmp_path: Path) -> None:
    split = {"train": "2015-01-01..2015-12-18", "validation": "2015-12-21..2017-03-31"}
    days = pd.bdate_range("2015-01-01", periods=900)
    short = loaded(tmp_path, days[:800], split={**split, "test": "2017-04-03..2018-01-01"})
    long = loaded(tmp_path, days, split={**split, "test": "2017-04-03..2018-06-01"})
    np.testing.assert_array_equal(short.features, long.features[:800])
    np.testing.assert_array_equal(short.volatility, long.volatility[:800])
    assert short.bars_per_year == long.bars_per_year == 252.0


def test_an_agent_keeps_the_number_that_it_was_trained_with(tmp_path: Path) -> None:
    loaded(tmp_path, pd.bdate_range("2015-01-01", periods=900))
    data = {"source": "csv", "path": str(tmp_path / "{symbol}.csv")}
    spec = market_spec(["X"], data=data, env={"episode_bars": 60})
    own, kept = load_market(spec, ["X"])["X"], load_market(spec, ["X"], stored={"X": 77.0})["X"]
    assert kept.bars_per_year == 77.0
    np.testing.assert_allclose(kept.volatility, own.volatility * np.sqrt(77.0 / own.bars_per_year))


def test_short_splits_are_noted(tmp_path: Path) -> None:
    data = loaded(tmp_path, sessions(WEEK, "09:30", "16:00", "1min"))
    assert (
        "train, validation and test: too short to count bars a year with holidays, so 252 sessions × 390 bars = 98,280 "
        "is used; data.bars_per_year states another number"
    ) in data.notes
    assert {data.bars_per_year_of(name) for name in data.splits} == {98_280.0}


def test_a_running_bar_and_pasted_exports_are_noted(tmp_path: Path) -> None:
    days = pd.bdate_range("2015-01-01", periods=800)
    running = days.append(pd.DatetimeIndex([days[-1] + pd.Timedelta(hours=16)]))
    notes = loaded(tmp_path, running).notes
    assert any(note.startswith("the last bar comes 16 h after the one before") for note in notes)
    pasted = days[:400].append(pd.DatetimeIndex([days[399] + pd.Timedelta(hours=15)])).append(days[400:])
    assert any(
        "15 h after the one before" in note and "1 d is usual" in note for note in loaded(tmp_path, pasted).notes
    )
    assert not any("after the one before" in note for note in loaded(tmp_path, days).notes)


def test_horizons_and_the_description_of_a_run_follow_each_symbol(tmp_path: Path) -> None:
    days = pd.bdate_range("2015-01-01", periods=800)
    hours = sessions(pd.bdate_range("2021-01-04", periods=400), "09:30", "16:00", "1h", "UTC")
    for symbol, times in (("DAYS", days), ("HOURS", hours)):
        write_csv(frame_of(random_bars(len(times), ohlcv=False)).assign(timestamp=times), tmp_path, symbol)
    data = {"source": "csv", "path": str(tmp_path / "{symbol}.csv")}
    spec = market_spec(["DAYS", "HOURS"], data=data, env={"episode_bars": 60})
    market = load_market(spec, ["DAYS", "HOURS"])
    notes = [note for note in data_notes(spec, market) if "horizon" in note]
    assert [note.split(":")[0] for note in notes] == ["DAYS", "HOURS"]
    described = describe_data(market["HOURS"])
    assert described["bars_per_year"] == described["split_bars_per_year"]["train"] == pytest.approx(7 * 261, rel=0.01)
    assert described["split_bars_per_year"]["validation"] == 7 * 252
