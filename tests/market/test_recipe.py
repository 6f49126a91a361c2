"""`FeatureRecipe`: the features of training, bit for bit, on any stretch of the bars."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p3kit.errors import DataError, InputError
from p3kit.market import LOOKBACK, Bars, FeatureRecipe, load_market
from p3kit.market.bars import OPTIONAL_COLUMNS
from p3kit.market.features import compute_features
from p3kit.market.files import read_bars
from p3kit.plan import describe_data
from tests.market.made import frame_of, market_spec, random_bars, write_csv

CHOICES = [chosen for count in range(5) for chosen in combinations(OPTIONAL_COLUMNS, count)]


def stretch(bars: Bars, first: int, last: int) -> Bars:
    """The bars first … last − 1."""
    names = ("timestamps", "close", *bars.columns)
    return replace(bars, **{name: getattr(bars, name)[first:last] for name in names})


def trained_on(tmp_path_factory: pytest.TempPathFactory, columns: tuple[str, ...], normalize: str):
    folder = tmp_path_factory.mktemp("bars")
    whole = random_bars(700, 3)
    bars = replace(whole, **{name: None for name in OPTIONAL_COLUMNS if name not in columns})
    write_csv(frame_of(bars), folder)
    spec = market_spec(
        ["X"],
        data={"source": "csv", "path": str(folder / "{symbol}.csv")},
        env={"episode_bars": 60},
        observation={"normalize": normalize},
    )
    return load_market(spec, ["X"])["X"], read_bars("csv", spec.data.path, "X")


@pytest.mark.parametrize("normalize", ["train", "none", "running"])
@pytest.mark.parametrize("columns", CHOICES, ids=lambda chosen: "+".join(chosen) or "close")
def test_a_row_has_the_bits_of_training_whatever_bars_stand_beside_it(
    tmp_path_factory: pytest.TempPathFactory, columns: tuple[str, ...], normalize: str
) -> None:
    data, bars = trained_on(tmp_path_factory, columns, normalize)
    recipe = FeatureRecipe.from_json(json.loads(json.dumps(describe_data(data)["recipe"])))
    assert recipe == data.recipe
    np.testing.assert_array_equal(recipe.features(bars), data.features)
    for last in (LOOKBACK + 1, LOOKBACK + 2, 257, 258, 259, 260, 261, len(bars) - 1):
        np.testing.assert_array_equal(recipe.features(stretch(bars, 0, last)), data.features[:last])
        first = last - LOOKBACK - 1
        np.testing.assert_array_equal(recipe.features(stretch(bars, first, last))[-1], data.features[last - 1])


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 500), extra=st.integers(1, 199))
def test_any_stretch_of_bars_gives_the_same_rows(first: int, extra: int) -> None:
    bars = random_bars(700, 5)
    recipe = FeatureRecipe(2, NAMES, OPTIONAL_COLUMNS, (), 252.0, (0.1,) * len(NAMES), (1.3,) * len(NAMES), "off")
    whole = recipe.features(bars)
    last = min(first + LOOKBACK + extra, 700)
    part = recipe.features(stretch(bars, first, last))
    np.testing.assert_array_equal(part[LOOKBACK:], whole[first + LOOKBACK : last])


def test_a_row_that_is_computed_alone_has_the_same_bits() -> None:
    """The formulas work in chunks of rows: the last row of the shorter series stands alone in its chunk."""
    bars = random_bars(16_384 + LOOKBACK + 1, 5)
    whole, shorter = compute_features(bars), compute_features(stretch(bars, 0, len(bars) - 1))
    np.testing.assert_array_equal(shorter.values, whole.values[:-1])


NAMES = ("volume_20", "momentum_12", "volatility_5_20", "return_20", "rsi_14", "gap", "regime_bull")


def test_names_choose_and_order_the_features() -> None:
    bars = random_bars(200, 5)
    count = len(NAMES)
    recipe = FeatureRecipe(2, NAMES, OPTIONAL_COLUMNS, (), 252.0, (0.0,) * count, (1.0,) * count, "off")
    turned = replace(recipe, names=NAMES[::-1])
    np.testing.assert_array_equal(recipe.features(bars), turned.features(bars)[:, ::-1])


def test_the_statistics_stay_when_bars_are_appended(tmp_path_factory: pytest.TempPathFactory) -> None:
    data, bars = trained_on(tmp_path_factory, OPTIONAL_COLUMNS, "train")
    assert data.recipe is not None
    early = stretch(bars, 0, 600)
    np.testing.assert_array_equal(data.recipe.features(early), data.features[:600])


def test_a_missing_column_and_newer_formulas_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    data, bars = trained_on(tmp_path_factory, ("open", "volume"), "train")
    assert data.recipe is not None
    with pytest.raises(DataError, match=r"X\.csv: has no column open, volume; the agent was trained with it"):
        data.recipe.features(replace(bars, open=None, volume=None))
    with pytest.raises(InputError, match="formulas 99; this p3kit has 2"):
        FeatureRecipe.from_json({**data.recipe.to_json(), "formulas": 99})
    assert set(data.recipe.to_json()) == {field.name for field in fields(FeatureRecipe)}


def test_run_json_holds_recipe_days_and_adjustment(tmp_path_factory: pytest.TempPathFactory) -> None:
    data, _ = trained_on(tmp_path_factory, OPTIONAL_COLUMNS, "train")
    stored = describe_data(data)
    assert stored["adjust"] == data.recipe.adjust == "off"
    for name, (first, last) in data.splits.items():
        assert stored["split_days"][name] == [str(data.timestamps[first])[:19], str(data.timestamps[last - 1])[:19]]
