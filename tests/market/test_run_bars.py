"""The bars of a run beside those of today: every column, kind of change and place, without a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p3kit.errors import DataError
from p3kit.market import Bars, FeatureRecipe, fingerprint
from p3kit.market.recipe import FORMULAS
from p3kit.market.run_bars import RunBars, prices_of

BARS, MORE = 400, 60
COLUMNS = ("close", "open", "high", "low", "volume")


def made(seed: int = 0) -> Bars:
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.012, BARS + MORE))), 2)
    opened = np.round(close * np.exp(rng.normal(0, 0.004, len(close))), 2)
    days = np.datetime64("2018-01-01", "ns") + np.arange(len(close)) * np.timedelta64(1, "D")
    high, low = np.round(np.maximum(close, opened) + 0.4, 2), np.round(np.minimum(close, opened) - 0.4, 2)
    volume = rng.integers(0, 90_000, len(close)).astype(float)
    return Bars("A", days, close, opened, high, low, volume, source="csv A.csv")


TODAY = made()


def recorded(bars: Bars = TODAY, *, prices: bool = True) -> RunBars:
    """Record of a run on the first 400 bars."""
    part = bars.part(0, BARS)
    facts = {"first": str(part.timestamps[0])[:19], "last": str(part.timestamps[-1])[:19], "bars": BARS}
    return RunBars(facts | {"fingerprint": fingerprint(part)}, prices_of(part) if prices else None)


def changed(column: str, rows: slice | list[int], factor: float, bars: Bars = TODAY) -> Bars:
    values = getattr(bars, column).copy()
    values[rows] = np.round(values[rows] * factor, 4)
    return replace(bars, **{column: values})


def rescaled(rows: slice, factor: float, bars: Bars = TODAY) -> Bars:
    for column in COLUMNS[:4]:
        bars = changed(column, rows, factor, bars)
    return bars


@pytest.mark.parametrize("prices", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_appended_bars_are_left_out(prices: bool, exact: bool) -> None:
    found = recorded(prices=prices).select(TODAY, exact=exact)
    assert fingerprint(found) == fingerprint(TODAY.part(0, BARS))
    assert found.notes == ()


def test_bars_put_before_the_first_are_left_out() -> None:
    run = recorded(TODAY.part(50, BARS + MORE))
    assert len(run.select(TODAY, exact=True)) == BARS


def test_a_new_column_of_the_file_is_left_out() -> None:
    run = recorded(replace(TODAY, volume=None))
    assert run.select(TODAY, exact=True).volume is None


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [[0], [399], [200], [17, 30, 320]])
@pytest.mark.parametrize("factor", [0.5, 0.999, 1.001, 1.01, 3.0])
def test_a_changed_number_is_refused_with_its_day(column: str, rows: list[int], factor: float) -> None:
    if column == "volume":
        factor = 1 + (factor - 1) * 20
    if column == "volume" and (TODAY.volume[rows] < 100).any():  # type: ignore[index]
        pytest.skip("a volume of almost nothing")
    day = str(TODAY.timestamps[rows[0]])[:10]
    with pytest.raises(DataError, match=f"the first bar that differs is that of {day}"):
        recorded().select(changed(column, rows, factor), exact=False)


def test_a_changed_number_after_the_runs_bars_is_no_matter() -> None:
    assert recorded().select(changed("close", [410], 2.0), exact=True).notes == ()


@pytest.mark.parametrize("factors", [(0.97,), (0.9702, 0.985), (0.25,), (1.0001,)])
def test_a_factor_per_stretch_is_accepted_and_named(factors: tuple[float, ...]) -> None:
    bars, ends = TODAY, (120, 300)
    for factor, first, last in zip(factors, (0, *ends), ends, strict=False):
        bars = rescaled(slice(first, last), factor, bars)
    found = recorded().select(bars, exact=False)
    assert len(found.notes) == len(factors)
    for note, factor, first, last in zip(found.notes, factors, (0, *ends), ends, strict=False):
        days = f"{str(TODAY.timestamps[first])[:10]} to {str(TODAY.timestamps[last - 1])[:10]}"
        assert note.startswith(f"prices of {days} are ")
        assert float(note.split(" are ")[1].split(" times")[0]) == pytest.approx(factor, rel=1e-4)
    with pytest.raises(DataError, match="have changed"):
        recorded().select(bars, exact=True)  # a training needs the same bits


def test_one_price_of_a_bar_with_another_factor_is_a_change() -> None:
    bars = changed("high", [80], 1.01, rescaled(slice(0, 120), 0.97))
    with pytest.raises(DataError, match=f"that of {str(TODAY.timestamps[80])[:10]}"):
        recorded().select(bars, exact=False)


def test_a_split_moves_the_volume_the_other_way() -> None:
    bars = changed("volume", slice(0, 300), 4.0, rescaled(slice(0, 300), 0.25))
    (note,) = recorded().select(bars, exact=False).notes
    assert "are 0.25 times those of the run" in note


@pytest.mark.parametrize("at", [0, 200, 399])
def test_a_bar_that_only_one_of_them_has_is_named(at: int) -> None:
    keep = np.arange(BARS + MORE) != at
    names = ("timestamps", *COLUMNS)
    fewer = replace(TODAY, **{name: getattr(TODAY, name)[keep] for name in names})
    day = str(TODAY.timestamps[at])[:10]
    for run_of, today in ((TODAY, fewer), (fewer, TODAY)):
        run = recorded(run_of)
        if at == 0 and run_of is fewer:
            continue  # it begins later, and the bar before its first is left out
        with pytest.raises(DataError, match="have changed"):
            run.select(today, exact=True)
        if at == 200:
            with pytest.raises(DataError, match=f"only one of them has is that of {day}"):
                run.select(today, exact=False)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="the column open is missing"):
        recorded().select(replace(TODAY, open=None), exact=False)


def test_without_recorded_prices_a_change_is_refused_unnamed() -> None:
    with pytest.raises(DataError, match="fingerprint differs"):
        recorded(prices=False).select(rescaled(slice(0, 120), 0.97), exact=False)


@pytest.mark.parametrize(("rows", "change"), [([5], 0.2), ([399], -1.0), ([40, 41], 0.01)])
def test_a_changed_column_of_the_users_is_refused_with_its_day(rows: list[int], change: float) -> None:
    rsi = np.random.default_rng(1).uniform(0, 100, len(TODAY))
    rsi[:3] = np.nan
    bars = replace(TODAY, own={"rsi": rsi})
    run = recorded(bars)
    recipe = FeatureRecipe(FORMULAS, ("rsi",), (), ("rsi",), 252.0, (50.0,), (2.0,), "off").to_json()
    run = replace(run, facts={**run.facts, "recipe": recipe})
    assert run.select(rescaled(slice(0, 50), 0.97, bars), exact=False).notes
    other = rsi.copy()
    other[rows] += change
    day = str(TODAY.timestamps[rows[0]])[:10]
    with pytest.raises(DataError, match=f"the first bar that differs is that of {day}"):
        run.select(replace(bars, own={"rsi": other}), exact=False)
