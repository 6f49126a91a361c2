"""`observation.features` and `observation.columns`: the inputs of an agent, and the look-ahead check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p3kit.errors import DataError, SpecError
from p3kit.market import LOOKBACK, FeatureRecipe, load_market
from p3kit.market.feature_table import USES, feature_rows
from p3kit.market.features import compute_features
from p3kit.metrics import FORESIGHT
from p3kit.spec import Spec
from p3kit.spec.feature_names import BUILT_IN
from tests.command import invoke
from tests.market.made import frame_of, market_spec, random_bars, write_csv

COUNT = 700


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(COUNT)


def spec_on(folder: Path, symbols: tuple[str, ...] = ("X",), kind: str = "csv", **observation: object) -> Spec:
    data = {"source": kind, "path": str(folder / f"{{symbol}}.{kind}")}
    return market_spec(symbols, data=data, env={"episode_bars": 60, "window": 8}, observation=observation)


def table(seed: int = 0, **columns: np.ndarray) -> pd.DataFrame:
    return frame_of(random_bars(COUNT, seed)).assign(**columns)


# --- the built-in ones ------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_formulas() -> None:
    assert compute_features(random_bars(100)).names == BUILT_IN
    assert tuple(USES) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_bars_and_columns_of_the_table_are_those_behind_a_value(name: str) -> None:
    """A change of the oldest bar of a value shows in it, a change of the bar before does not, nor other columns'."""
    used, count = USES[name]
    bars, t = random_bars(200, 3), 150

    def value(column: str, age: int, factor: float) -> float:
        values = getattr(bars, column).copy()
        values[t - age] *= factor
        features = compute_features(replace(bars, **{column: values}))
        return float(features.values[t, features.names.index(name)])

    def shows(column: str, ages: range) -> bool:
        before = value(column, 0, 1.0)
        return any(value(column, age, factor) != before for age in ages for factor in (0.3, 1.2, 4.0))

    regime = name.startswith("regime_")  # a threshold, which a change may not reach
    if name != "momentum_3" and not regime:  # whose oldest weight is rounded away
        assert any(shows(column, range(count - 1, count)) for column in used)
    for column in ("open", "high", "low", "close", "volume"):
        assert not shows(column, range(count, LOOKBACK + 3, 7))
        assert regime or shows(column, range(count)) == (column in used), column


@pytest.mark.parametrize(
    "chosen", [("rsi_14",), ("gap", "return_1"), ("high_distance_60",), ("regime_bull", "volume_20")]
)
def test_chosen_features_are_bit_for_bit_those_of_all(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    write_csv(table(), tmp_path)
    every = load_market(spec_on(tmp_path), ["X"])["X"]
    some = load_market(spec_on(tmp_path, features=chosen), ["X"])["X"]
    assert some.feature_names == tuple(name for name in BUILT_IN if name in chosen)
    columns = [every.feature_names.index(name) for name in some.feature_names]
    np.testing.assert_array_equal(some.features, every.features[:, columns])
    assert some.recipe is not None
    needed = set().union(*(USES[name][0] for name in chosen)) - {"close"}
    assert needed <= set(some.recipe.columns) <= needed | {"high", "low"}


def test_a_feature_whose_column_some_symbol_lacks_is_refused(tmp_path: Path) -> None:
    write_csv(table(), tmp_path)
    write_csv(table(1).drop(columns=["volume", "open"]), tmp_path, "Y")
    with pytest.raises(DataError, match=r"X\.csv: observation\.features: gap, volume_20 needs the column open, volume"):
        load_market(spec_on(tmp_path, ("X", "Y"), features=["gap", "volume_20", "return_1"]), ["X"])


# --- columns of the user's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("normalize", ["train", "none", "running"])
def test_own_columns_come_last_and_obey_the_normaliser(tmp_path: Path, kind: str, normalize: str) -> None:
    mood, tiny = 50 + 7 * noise(), 1e-15 * noise(2)
    frame = table(mood=mood, tiny=tiny)
    frame.to_parquet(tmp_path / "X.parquet") if kind == "parquet" else write_csv(frame, tmp_path)
    spec = spec_on(tmp_path, kind=kind, features=["return_1"], columns=["mood", "tiny"], normalize=normalize)
    bars = load_market(spec, ["X"])["X"]
    assert bars.feature_names == ("return_1", "mood", "tiny")
    assert bars.own_features == ("mood", "tiny")
    first, last = bars.splits["train"]
    for at, values in ((1, mood), (2, tiny)):
        expected = values
        if normalize == "train":
            expected = (values - values[first:last].mean()) / values[first:last].std()
        np.testing.assert_array_equal(bars.features[LOOKBACK:, at], expected[LOOKBACK:].astype(np.float32))
    assert not any("constant" in note for note in bars.notes)


def test_own_columns_alone_are_enough(tmp_path: Path) -> None:
    write_csv(table(mood=noise())[["timestamp", "close", "mood"]], tmp_path)
    bars = load_market(spec_on(tmp_path, features=[], columns=["mood"]), ["X"])["X"]
    assert bars.feature_names == ("mood",)
    with pytest.raises(SpecError, match="shows nothing of the market"):
        spec_on(tmp_path, features=[])


def test_the_value_of_a_bar_is_seen_at_that_bar_and_not_before(tmp_path: Path) -> None:
    spec = spec_on(tmp_path, columns=["mood"])
    write_csv(table(mood=noise()), tmp_path)
    before = load_market(spec, ["X"])["X"]
    changed = noise()
    changed[650:] += 1  # behind the training split, whose statistics stay
    write_csv(table(mood=changed), tmp_path)
    after = load_market(spec, ["X"])["X"]
    np.testing.assert_array_equal(before.features[:650], after.features[:650])
    assert (before.features[650:, -1] != after.features[650:, -1]).all()
    assert before.fingerprint != after.fingerprint


def test_every_symbol_must_have_them(tmp_path: Path) -> None:
    write_csv(table(mood=noise()), tmp_path, "X")
    write_csv(table(1), tmp_path, "Y")
    for asked in (["X", "Y"], ["X"]):
        with pytest.raises(DataError, match=r"Y.csv: has no column mood, which observation.columns needs"):
            load_market(spec_on(tmp_path, ("X", "Y"), columns=["mood"]), asked)


@pytest.mark.parametrize("rows", [slice(None), slice(300, 500)])
def test_the_recipe_gives_the_same_bits_on_other_bars(tmp_path: Path, rows: slice) -> None:
    write_csv(table(mood=noise()), tmp_path)
    spec = spec_on(tmp_path, columns=["mood"])
    bars = load_market(spec, ["X"])["X"]
    assert bars.recipe is not None
    recipe = FeatureRecipe.from_json(json.loads(json.dumps(bars.recipe.to_json())))
    made = random_bars(COUNT, 0)
    columns = {name: getattr(made, name)[rows] for name in ("timestamps", "close", "open", "high", "low", "volume")}
    new = replace(made, **columns, own={"mood": noise()[rows]})
    np.testing.assert_array_equal(recipe.features(new)[LOOKBACK:], bars.features[rows][LOOKBACK:])
    with pytest.raises(DataError, match="has no column mood; the agent was trained with it"):
        recipe.features(replace(new, own={}))


WRONG = {
    "unknown": ({"features": ["retrn_1"]}, '"retrn_1" is no built-in feature; did you mean "return_1"?'),
    "own in features": ({"features": ["mood"]}, "columns of your files go into columns"),
    "twice": ({"columns": ["mood", "mood"]}, '"mood" is there twice'),
    "built-in": ({"columns": ["rsi_14"]}, "is the name of a built-in feature"),
    "price": ({"columns": ["Close"]}, "is a column that p3kit reads itself"),
    "no list": ({"columns": "mood"}, "expected a list"),
    "control": ({"columns": ["mo\nod"]}, "expected at most 64 letters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_are_refused(tmp_path: Path, case: str) -> None:
    observation, message = WRONG[case]
    with pytest.raises(SpecError) as caught:
        spec_on(tmp_path, **observation)
    assert message in str(caught.value)


@pytest.mark.parametrize("source", ["sample", "synthetic"])
def test_sources_without_columns_of_yours(source: str) -> None:
    with pytest.raises(SpecError, match=f'observation.columns: source = "{source}" has no columns of yours'):
        market_spec(["AAPL"], data={"source": source}, observation={"columns": ["mood"]})


# --- look-ahead -------------------------------------------------------------------------------------------------------

CLOSE = random_bars(COUNT, 0).close
RETURNS = np.diff(np.log(CLOSE), append=np.log(CLOSE[-1]))  # RETURNS[t] leads from bar t to t + 1
LEAKS = {
    "next return": RETURNS,
    "return after next": np.roll(RETURNS, -1),
    "sign of the next return": np.sign(RETURNS),
    "next return in noise": RETURNS / RETURNS.std() + noise(5),
    "next close": np.append(CLOSE[1:], CLOSE[-1]),
    "centred mean": pd.Series(CLOSE).rolling(5, center=True, min_periods=1).mean().to_numpy(),
    "shifted back": pd.Series(RETURNS).rolling(3).mean().shift(-2).fillna(0).to_numpy(),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_column_that_knows_the_future_is_noted_and_fails_the_check(tmp_path: Path, case: str) -> None:
    write_csv(table(mood=LEAKS[case]), tmp_path)
    spec = tmp_path / "leak.toml"
    spec.write_text(
        'name = "leak"\nsymbols = ["X"]\n[data]\nsource = "csv"\npath = "{symbol}.csv"\n'
        '[env]\nepisode_bars = 60\nwindow = 8\n[observation]\ncolumns = ["mood"]\n'
    )
    for command in ("data", "plan"):
        output = invoke(command, spec).output
        assert "mood correlates with a coming return by" in output, command


@pytest.mark.parametrize("seed", range(5))
def test_honest_columns_are_not_noted(tmp_path: Path, seed: int) -> None:
    honest = {"mood": noise(seed), "rsi": np.roll(RETURNS, 1), "level": CLOSE, "walk": np.cumsum(noise(seed + 9))}
    write_csv(table(**honest), tmp_path)
    bars = load_market(spec_on(tmp_path, columns=list(honest)), ["X"])["X"]
    assert not [note for note in bars.notes if "coming return" in note]


def test_the_probe_of_check_has_the_same_threshold(tmp_path: Path) -> None:
    from p3kit.check import probe_features

    for values, passed in ((noise(), True), (RETURNS, False)):
        write_csv(table(mood=values), tmp_path)
        probe = probe_features(load_market(spec_on(tmp_path, columns=["mood"]), ["X"])["X"])
        assert probe.passed == passed
        assert (probe.details["foresight"] <= FORESIGHT) == passed
        assert passed or probe.details["feature"] == "mood"


# --- what `p3kit data` lists ------------------------------------------------------------------------------------------


def test_data_lists_what_the_agent_sees(tmp_path: Path) -> None:
    write_csv(table(**{"News Score": 50 + noise()}), tmp_path)
    spec = tmp_path / "own.toml"
    spec.write_text(
        'name = "own"\nsymbols = ["X"]\n[data]\nsource = "csv"\npath = "{symbol}.csv"\n'
        'columns.own = { mood = "News Score" }\n[env]\nepisode_bars = 60\nwindow = 8\n'
    )
    chosen = ["--set", 'observation.columns=["mood"]', "--set", 'observation.features=["return_1", "bar_range"]']
    text = invoke("data", spec, *chosen).output
    assert "3 features of each of the last 8 bars, normalised as (value − mean) / scale of the training split" in text
    assert [line.split()[:3] for line in text.splitlines() if line.startswith(("return_1", "mood"))] == [
        ["return_1", "close", "21"],
        ["mood", "column", "News"],
    ]
    facts = json.loads(invoke("data", spec, *chosen, "--json").output)["X"]
    assert [row["name"] for row in facts["observed"]] == facts["features"] == ["return_1", "bar_range", "mood"]
    assert facts["observed"][2]["mean"] == pytest.approx(50, abs=0.2)
    unused = invoke("validate", spec).output
    assert 'data.columns.own: "mood" has no effect' in unused


def test_the_sample_is_listed_by_its_closes() -> None:
    rows = feature_rows(load_market(market_spec(["AAPL"]), ["AAPL"])["AAPL"])
    assert {row.source for row in rows} == {"close"}
    assert max(row.bars for row in rows) == LOOKBACK + 1
