"""`load_market`: one entry point, the same result for every caller, errors of several symbols at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from p3kit.errors import DataError
from p3kit.market import LOOKBACK, SymbolData, load_market
from tests.market.made import frame_of, market_spec, random_bars, write_csv


def same(one: SymbolData, two: SymbolData) -> bool:
    arrays = all(
        np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True)
        for name in ("features", "volatility", "close", "regime")
    )
    return arrays and one.splits == two.splits and one.fingerprint == two.fingerprint


def csv_spec(folder: Path, symbols: list[str], **tables):  # type: ignore[no-untyped-def]
    tables = {"env": {"episode_bars": 60}, **tables}
    return market_spec(symbols, data={"source": "csv", "path": str(folder / "{symbol}.csv")}, **tables)


@pytest.mark.parametrize("source", ["sample", "synthetic"])
def test_the_same_alone_and_in_company(source: str) -> None:
    spec = market_spec(["AAPL", "MSFT"], data={"source": source, "synthetic": {"bars": 4_000}})
    together = load_market(spec, ["MSFT", "AAPL"])
    assert list(together) == ["MSFT", "AAPL"]
    assert same(together["MSFT"], load_market(spec, ["MSFT"])["MSFT"])
    assert not same(together["MSFT"], together["AAPL"])


def test_every_window_an_account_can_see_is_there_and_finite() -> None:
    for window in (1, 24, 100):
        spec = market_spec(["JNJ"], env={"window": window})
        data = load_market(spec, ["JNJ"])["JNJ"]
        for first, last in data.splits.values():
            assert first - window >= LOOKBACK
            assert np.isfinite(data.features[first - window : last]).all()
            assert np.isfinite(data.volatility[first:last]).all()
            assert (data.regime[first:last] >= 0).all()
        assert data.splits["train"][1] + window + LOOKBACK == data.splits["validation"][0]


def test_raw_features_unless_the_spec_asks_for_training_statistics() -> None:
    raw = load_market(market_spec(["PG"], observation={"normalize": "none"}), ["PG"])["PG"]
    standard = load_market(market_spec(["PG"]), ["PG"])["PG"]
    assert (raw.feature_mean == 0).all()
    assert (raw.feature_scale == 1).all()
    expected = (raw.features - standard.feature_mean) / standard.feature_scale
    np.testing.assert_allclose(standard.features[LOOKBACK:], expected[LOOKBACK:], atol=1e-4)
    first, last = standard.splits["train"]
    assert standard.features[first:last, 0].mean() == pytest.approx(0.0, abs=1e-5)


def test_columns_that_only_some_symbols_have_are_left_out_for_all(tmp_path: Path) -> None:
    """Decided over all symbols of the spec, so that a trainer of one symbol builds the same observation."""
    write_csv(frame_of(random_bars(600, 1)), tmp_path, "FULL")
    write_csv(frame_of(random_bars(600, 2, ohlcv=False)), tmp_path, "BARE")
    spec = csv_spec(tmp_path, ["FULL", "BARE"])
    both, alone = load_market(spec, ["FULL", "BARE"]), load_market(spec, ["FULL"])
    assert both["FULL"].feature_names == both["BARE"].feature_names
    assert len(both["FULL"].feature_names) == 20
    assert same(both["FULL"], alone["FULL"])
    assert any("left out here or elsewhere: open, high, low, volume" in note for note in alone["FULL"].notes)
    assert both["FULL"].high is not None, "prices stay: fills and stops use what a symbol has"
    assert len(load_market(csv_spec(tmp_path, ["FULL"]), ["FULL"])["FULL"].feature_names) == 24


def test_faults_of_several_symbols_at_once(tmp_path: Path) -> None:
    frame = frame_of(random_bars(600))
    write_csv(frame, tmp_path, "GOOD")
    write_csv(frame.iloc[[1, 0, *range(2, 600)]], tmp_path, "TURNED")
    write_csv(frame.iloc[:100], tmp_path, "SHORT")
    spec = csv_spec(tmp_path, ["GOOD", "TURNED", "SHORT", "ABSENT"])
    with pytest.raises(DataError) as caught:
        load_market(spec, spec.symbols)
    text = str(caught.value)
    assert [fault.where.rsplit("/", 1)[-1].split(":")[0] for fault in caught.value.faults] == [
        "TURNED.csv", "ABSENT.csv", "SHORT.csv"
    ]  # fmt: skip
    assert "100 bars; at least 149 are needed (longest look-back 64 + env.window 24 + env.episode_bars 60 + 1)" in text
    assert "ABSENT.csv: no such file" in text
    assert caught.value.exit_code == 2


def test_a_split_without_room_names_itself(tmp_path: Path) -> None:
    write_csv(frame_of(random_bars(300)), tmp_path)
    with pytest.raises(DataError, match=r"X\.csv: data\.split\.validation = 0\.15 is 45 bars, of which 0 can be used"):
        load_market(csv_spec(tmp_path, ["X"]), ["X"])


def test_unknown_symbols_of_the_sample_get_the_nearest_name() -> None:
    with pytest.raises(DataError) as caught:
        load_market(
            SimpleNamespace(data=SimpleNamespace(source="sample")),  # type: ignore[arg-type]
            ["msft", "GOOG"],
        )
    assert 'did you mean "MSFT"?' in str(caught.value)
    assert '"GOOG" is not in the shipped sample' in str(caught.value)


@pytest.mark.parametrize(
    "symbol", ["../../etc", "a/b", "..", ".", "", "a\\b", "a\n", "a b", "x" * 33, "{symbol}", "\0"]
)
def test_a_symbol_never_becomes_a_path_unchecked(symbol: str) -> None:
    """Even past the spec's own check: this test does not use the spec."""
    spec = SimpleNamespace(symbols=[symbol], data=SimpleNamespace(source="csv", path="data/{symbol}.csv"))
    with pytest.raises(DataError, match="is no symbol"):
        load_market(spec, [symbol])  # type: ignore[arg-type]


def test_notes_say_what_a_careful_person_would_look_at(tmp_path: Path) -> None:
    frame = frame_of(random_bars(700, ohlcv=False))
    frame.loc[300:, "close"] *= 0.25  # an unadjusted 4:1 split
    frame.loc[500:, "timestamp"] += np.timedelta64(90, "D")
    write_csv(frame, tmp_path)
    data = load_market(csv_spec(tmp_path, ["X"]), ["X"])["X"]
    assert "in one bar at 2015-11-01 (1 such bars): are prices adjusted for splits?" in data.notes[0]
    assert data.notes[1].startswith("91 days without a bar before 2016-08-17")
    shorter = csv_spec(tmp_path, ["X"])
    shorter = shorter.model_copy(update={"data": shorter.data.model_copy(update={"embargo": 5})})
    assert any("data.embargo = 5 is shorter than" in note for note in load_market(shorter, ["X"])["X"].notes)


def test_synthetic_bars_are_labelled() -> None:
    spec = market_spec(["MADE"], data={"source": "synthetic", "synthetic": {"bars": 4_000}})
    data = load_market(spec, ["MADE"])["MADE"]
    assert data.synthetic
    assert data.source == "synthetic (not real)"
    assert any("no market ever traded them" in note for note in data.notes)


def test_the_market_needs_no_pandas_until_a_file_is_read() -> None:
    code = (
        "import sys, p3kit.market as m; "
        "assert not {'pandas', 'torch', 'scipy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
