"""Columns of the user's files as features: what is read, what is refused, and what is odd enough for a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p3kit.errors import DataError
from p3kit.market import LOOKBACK, fingerprint
from p3kit.market.files import Reading, read_bars
from tests.market.made import frame_of, random_bars, write_csv

BARS = 600
Change = Callable[[pd.DataFrame], None]


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(BARS)


def table(seed: int = 0) -> pd.DataFrame:
    return frame_of(random_bars(BARS, seed)).assign(sentiment=noise(seed + 1))


def read(folder: Path, frame: pd.DataFrame, kind: str = "csv", **own: str | int):  # type: ignore[no-untyped-def]
    path = folder / f"X.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    return read_bars(kind, str(path), "X", Reading(own=own or {"sentiment": "sentiment"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_values_are_those_of_the_file(tmp_path: Path, kind: str) -> None:
    frame = table()
    bars = read(tmp_path, frame, kind)
    np.testing.assert_array_equal(bars.own["sentiment"], frame["sentiment"])
    assert not any("not used" in note for note in bars.notes)


def test_integers_and_missing_first_values_count(tmp_path: Path) -> None:
    frame = table()
    frame["sentiment"] = pd.array([None] * LOOKBACK + list(range(BARS - LOOKBACK)), dtype="Int64")
    for kind in ("csv", "parquet"):
        values = read(tmp_path, frame, kind).own["sentiment"]
        assert np.isnan(values[:LOOKBACK]).all()
        np.testing.assert_array_equal(values[LOOKBACK:], np.arange(BARS - LOOKBACK))


@pytest.mark.parametrize("written", ["Sentiment", "SENTIMENT", "<sentiment>"])
def test_names_count_in_any_case_and_without_signs(tmp_path: Path, written: str) -> None:
    frame = table()
    bars = read(tmp_path, frame.rename(columns={"sentiment": written}))
    np.testing.assert_array_equal(bars.own["sentiment"], frame["sentiment"])


@pytest.mark.parametrize("column", ["News Score", 7])
def test_a_column_under_another_name_or_number(tmp_path: Path, column: str | int) -> None:
    frame = table().rename(columns={"sentiment": "News Score"})
    assert "sentiment" in read(tmp_path, frame, sentiment=column).own


def test_a_file_without_a_header(tmp_path: Path) -> None:
    frame, path = table(), tmp_path / "X.csv"
    frame.to_csv(path, index=False, header=False)
    reading = Reading({"timestamp": 1, "close": 5}, own={"sentiment": 7})
    np.testing.assert_array_equal(read_bars("csv", str(path), "X", reading).own["sentiment"], frame["sentiment"])
    with pytest.raises(DataError, match=r"write columns.own = \{ sentiment = 7 \}"):
        read_bars("csv", str(path), "X", Reading({"timestamp": 1, "close": 5}, own={"sentiment": "sentiment"}))


def wide(names: Callable[[str, str], str]) -> pd.DataFrame:
    one, two = table(0), table(10)
    columns = {
        names(ticker, name): frame[name] for ticker, frame in (("X", one), ("Y", two)) for name in frame.columns[1:]
    }
    return pd.DataFrame({"Date": one["timestamp"], **columns, "vix": noise(7)})


@pytest.mark.parametrize("names", ["{ticker}.{name}", "{name}_{ticker}", "('{name}', '{ticker}')"])
def test_each_symbol_of_a_wide_file_has_its_own_and_shared_columns(tmp_path: Path, names: str) -> None:
    frame = wide(lambda ticker, name: names.format(ticker=ticker, name=name))
    path = tmp_path / "both.csv"
    frame.to_csv(path, index=False)
    reading = Reading(several=True, own={"sentiment": "sentiment", "vix": "vix"})
    for ticker, seed in (("X", 0), ("Y", 10)):
        own = read_bars("csv", str(path), ticker, reading).own
        np.testing.assert_array_equal(own["sentiment"], table(seed)["sentiment"])
        np.testing.assert_array_equal(own["vix"], noise(7))


def test_rows_of_a_long_file_keep_their_values(tmp_path: Path) -> None:
    long = pd.concat([table(seed).assign(symbol=name) for name, seed in (("X", 0), ("Y", 10))])
    path = tmp_path / "long.csv"
    long.sort_values(["timestamp", "symbol"]).to_csv(path, index=False)
    for name, seed in (("X", 0), ("Y", 10)):
        own = read_bars("csv", str(path), name, Reading(several=True, own={"sentiment": "sentiment"})).own
        np.testing.assert_array_equal(own["sentiment"], table(seed)["sentiment"])


def at(rows: slice | int, value: object) -> Change:
    def change(frame: pd.DataFrame) -> None:
        if isinstance(value, str):
            frame["sentiment"] = frame["sentiment"].astype(object)
        frame.loc[frame.index[rows], "sentiment"] = value

    return change


REFUSED: dict[str, tuple[Change, int, str]] = {
    "missing": (at(slice(300, 302), None), 301, "sentiment is missing .*ffill"),
    "late": (at(slice(0, LOOKBACK + 2), None), 67, "begins here, at bar 67; .*remove 2 bars at the start"),
    "stops": (at(slice(590, None), None), 591, "sentiment stops here .and 9 more rows.; give its values, or remove"),
    "empty": (at(slice(None), None), 1, "sentiment has no value at all"),
    "text": (at(300, "good"), 301, 'sentiment = "good" is text; observation.columns takes numbers'),
    "infinite": (at(300, np.inf), 301, "sentiment is inf"),
    "huge": (at(300, 1e300), 301, r"sentiment is 1e\+300; give numbers within ±1e\+30"),
}
"""Change, bar of the message, message."""


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_values_that_no_observation_may_hold(tmp_path: Path, case: str, kind: str) -> None:
    change, bar, message = REFUSED[case]
    frame = table()
    change(frame)
    if kind == "parquet" and case == "text":
        frame["sentiment"] = frame["sentiment"].astype(str)
    with pytest.raises(DataError, match=f"row {bar + (kind == 'csv')} .*{message}"):
        read(tmp_path, frame, kind)


def test_a_column_that_is_not_there_names_the_nearest_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'X.csv: has no column sentimnt.*columns.own = \{ sentimnt = "sentiment" \}'):
        read(tmp_path, table(), sentimnt="sentimnt")
    with pytest.raises(DataError, match=r'columns.own = \{ mood = "NAME" \}.*the columns are timestamp, open'):
        read(tmp_path, table(), mood="mood")


def test_columns_that_have_a_meaning_already(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x is the column volume; .*volume = \"off\"|Vol is the column volume"):
        read(tmp_path, table().rename(columns={"volume": "Vol"}), traded="Vol")
    with pytest.raises(DataError, match="one and two are the same column sentiment"):
        read(tmp_path, table(), one="sentiment", two="Sentiment")


def test_another_value_is_another_fingerprint(tmp_path: Path) -> None:
    frame = table()
    plain, before = read_bars("csv", str(write_csv(frame, tmp_path)), "X"), read(tmp_path, frame)
    frame.loc[400, "sentiment"] += 1e-12
    assert len({fingerprint(plain), fingerprint(before), fingerprint(read(tmp_path, frame))}) == 3
    assert fingerprint(plain) == fingerprint(read_bars("csv", str(tmp_path / "X.csv"), "X")), (
        "unused columns do not count"
    )


# --- what is odd ------------------------------------------------------------------------------------------------------

STEPS = np.repeat(np.arange(BARS // 60), 60)
ODD: dict[str, tuple[np.ndarray, str]] = {
    "stops": (np.where(np.arange(BARS) < 550, noise(), 0.5), "stands at 0.5 to the end, from 2016-07-08 (50 bars)"),
    "begins": (np.where(np.arange(BARS) < 200, 0.0, noise()), "at 0 from the start, until 2015-07-24 (200 bars)"),
    "forward-filled": (pd.Series(np.where(np.arange(BARS) < 500, noise(), np.nan)).ffill().to_numpy(), "to the end"),
    "constant": (np.full(BARS, 3.0), "sentiment is 3 on every bar"),
    "another unit": (noise() * np.where(np.arange(BARS) < 317, 1, 100), "changes its nature at about 2015-1"),
    "a fraction": ((60 + 10 * noise()) / np.where(np.arange(BARS) < 317, 1, 100), "its spread"),
    "another index": (noise() + np.where(np.arange(BARS) < 317, 0, 1000), "about 2015-11-18 (its level)"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_columns_get_a_note(tmp_path: Path, case: str) -> None:
    values, note = ODD[case]
    bars = read(tmp_path, table().assign(sentiment=values))
    assert note in " / ".join(bars.notes)


HONEST = {
    "noise": noise(),
    "walk": np.cumsum(noise()),
    "price": np.exp(np.cumsum(0.05 * noise())),
    "grows tenfold": np.exp(np.linspace(0, 2.3, BARS)) * (1 + 0.05 * noise()),
    "grows a thousandfold": np.exp(np.linspace(0, 7, BARS)) * (1 + 0.05 * noise()),
    "quarterly": STEPS + np.repeat(noise()[:10], 60),
    "event": (noise() > 2).astype(float),
    "rare event": (noise() > 2.8).astype(float),
    "month": np.arange(BARS) // 30 % 12 + 1,
    "season": np.sin(np.arange(BARS) / 40),
    "heavy tails": np.random.default_rng(2).standard_t(2, BARS),
    "volatile phases": noise() * np.exp(1.0 * np.sin(np.arange(BARS) / 50)),
}


@pytest.mark.parametrize("case", HONEST)
def test_honest_columns_get_none(tmp_path: Path, case: str) -> None:
    assert not [note for note in read(tmp_path, table().assign(sentiment=HONEST[case])).notes if "sentiment" in note]
