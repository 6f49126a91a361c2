"""Novelty of features against the training distribution: a slow plain reference, the record, thresholds, edges."""

from __future__ import annotations

import json

import numpy as np
import pytest

from p3kit.market.novelty import FROZEN, Distribution, count_novel, fit_distribution, shrunk_covariance
from p3kit.plan import plan_runs
from p3kit.spec import read_trainer
from tests.market.made import market_spec

NAMES = ("a", "b", "c", "d")
TRAIN, VALIDATION = (30, 900), (930, 1_400)


def correlated(rows: int = 1_800, seed: int = 0) -> np.ndarray:
    """Four features: two that go together, one alone, one slow."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, 4))
    noise[:, 1] = 0.9 * noise[:, 0] + 0.3 * noise[:, 1]
    for row in range(1, rows):
        noise[row, 3] = 0.9 * noise[row - 1, 3] + 0.4 * noise[row, 3]
    return noise.astype(np.float32)


def fitted(features: np.ndarray, window: int = 24) -> Distribution:
    return fit_distribution(features, NAMES, TRAIN, VALIDATION, window)


def plain_distance(found: Distribution, features: np.ndarray) -> float:
    """Largest drop of the squared Mahalanobis distance when one feature is left out, by a new inverse each time."""
    window = features[-found.window :].astype(float)
    looks = {"bar": window[-1], "mean": window.mean(0), "spread": np.log(window.std(0) / found.scale)}
    largest = 0.0
    for name, part in found.parts.items():
        z = (looks[name][list(part.columns)] - part.mean) / part.scale
        covariance = np.linalg.inv(part.precision)
        whole = z @ np.linalg.inv(covariance) @ z
        for i in range(len(z)):
            rest = np.delete(np.arange(len(z)), i)
            without = z[rest] @ np.linalg.inv(covariance[np.ix_(rest, rest)]) @ z[rest]
            largest = max(largest, whole - without)
    return float(np.sqrt(largest))


def test_the_distance_is_what_one_feature_adds_to_the_mahalanobis_distance() -> None:
    features = correlated()
    found = fitted(features)
    for row in range(1_400, 1_500, 7):
        part = features[: row + 1]
        assert found.assess(part).distance == pytest.approx(plain_distance(found, part), rel=1e-6)


def test_a_broken_correlation_is_found_inside_the_range_of_each_feature() -> None:
    features = correlated()
    found = fitted(features)
    features[1_500] = [2.0, -2.0, 0.0, 0.0]
    novelty = found.assess(features[:1_501])
    assert novelty.is_novel
    assert novelty.outside == ()
    assert set(novelty.unusual) == {"a", "b"}
    assert "unusual: " in novelty.warning


def test_rows_are_assessed_alike_one_by_one_together_and_from_the_record() -> None:
    features = correlated()
    found = fitted(features)
    record = json.loads(json.dumps(found.to_json()))
    again = Distribution.from_json(record)
    together = found.assess_rows(features, 1_400, 1_800)
    assert together == again.assess_rows(features, 1_400, 1_800)
    assert together == [again.assess(features[row - 23 : row + 1]) for row in range(1_400, 1_800)]
    assert again.to_json() == record


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [5, 99, 100, 470])
def test_at_most_one_percent_of_validation_bars_are_beyond_the_threshold(seed: int, rows: int) -> None:
    features = correlated(seed=seed)
    found = fit_distribution(features, NAMES, TRAIN, (930, 930 + rows), 24)
    alarms = [one.is_novel for one in found.assess_rows(features, 930, 930 + rows)]
    assert found.calibration is not None
    assert np.mean(alarms) == found.calibration["false_alarms"] <= 0.01
    low, high = found.calibration["interval"]
    assert low <= found.calibration["false_alarms"] <= high
    if rows == 470:  # the threshold is no larger than it has to be
        largest = max(one.distance for one in found.assess_rows(features, 930, 930 + rows))
        assert found.threshold < largest


def test_frozen_and_outside_features_are_named() -> None:
    features = correlated()
    found = fitted(features)
    features[1_500:, 2] = features[1_500, 2]
    assert found.assess(features[:1_560]).frozen == ("c",)
    assert "frozen: c" in found.assess(features[:1_560]).warning
    features[1_600:, 3] = found.high[3] + 0.5
    novelty = found.assess(features[:1_601])
    assert novelty.outside == ("d",)
    assert novelty.outside_fraction == 0.25


def test_novel_bars_are_counted_by_feature() -> None:
    features = correlated()
    found = fitted(features)
    features[1_500:1_510, 3] += 40
    counted = count_novel(found, features, 1_450, 1_510)
    alone = [one.is_novel for one in found.assess_rows(features, 1_450, 1_510)]
    assert counted["novel"] == sum(alone) >= 10
    assert counted["first"] == 1_450 + alone.index(True)
    assert next(iter(counted["features"])) == "d"
    assert count_novel(found, features, 1_450, 1_451)["first"] is None


def test_flags_are_no_matter_of_distances_and_a_constant_may_not_move() -> None:
    features = correlated()
    features[:, 1] = np.arange(len(features)) // 400 % 2  # a flag that is constant for a long time
    features[:, 2] = 0.25
    found = fitted(features)
    assert found.watched == (0, 3)
    assert found.constant == (2,)
    assert not found.assess(features[:1_500]).is_novel
    features[1_499, 2] = 0.26
    novelty = found.assess(features[:1_500])
    assert novelty.is_novel
    assert novelty.unusual[0] == "c"
    assert np.isfinite(novelty.distance)


@pytest.mark.parametrize("rest", [0, 1, 2, 3, 4])
def test_means_are_those_of_evenly_spaced_training_rows(rest: int) -> None:
    """Also where the last chunk of 4,096 rows ends before its first one of them."""
    features = correlated(45_400)
    train = (30, 30 + 11 * 4_096 + rest)  # every third row is used
    found = fit_distribution(features, NAMES, train, (45_130, 45_400), 24)
    rows = features[slice(*train)][::3].astype(float)
    assert found.parts["bar"].mean == pytest.approx(rows.mean(0), rel=1e-7)
    windows = np.array([features[row - 23 : row + 1].astype(float).mean(0) for row in range(*train, 3)])
    assert found.parts["mean"].mean == pytest.approx(windows.mean(0), rel=1e-7)


@pytest.mark.parametrize("size", [0.0, 0.5, 0.99, 1.01, 2.0, 12.0])
@pytest.mark.parametrize("shape", ["steps to and fro", "one step", "a ramp"])
def test_a_feature_that_was_ever_frozen_is_not_watched(shape: str, size: float) -> None:
    """Around the bound, by the plain definition: the smallest standard deviation over all windows."""
    features = correlated().astype(float)
    moves = {"steps to and fro": np.resize([1.0, -1.0], 24), "one step": np.repeat([0.0, 1.0], 12)}
    move = moves.get(shape, np.linspace(0, 1, 24))
    features[600:624, 2] = move * size * FROZEN * features[slice(*TRAIN), 2].std() / move.std()
    found = fitted(features)
    deviations = [features[end - 23 : end + 1].std(0) for rows in (TRAIN, VALIDATION) for end in range(*rows)]
    least = np.min(deviations, axis=0) / features[slice(*TRAIN)].std(0)
    assert found.watched == tuple(np.flatnonzero(least > FROZEN))
    assert (2 in found.watched) == (size > 1)


def test_an_agent_that_sees_one_bar_has_no_window() -> None:
    features = correlated()
    found = fitted(features, window=1)
    assert set(found.parts) == {"bar"}
    assert found.assess(features[-1:]).frozen == ()
    assert fitted(features, window=12).window == 12
    assert fitted(features, window=500).window == 24


def test_what_cannot_be_assessed_is_refused() -> None:
    features = correlated()
    found = fitted(features)
    with pytest.raises(ValueError, match="no window of 24 rows"):
        found.assess(features[:23])
    features[-3, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        found.assess(features)


def test_the_covariance_is_shrunk_as_its_source_says() -> None:
    """Ledoit and Wolf 2004, equations 5 to 14, written as sums over rows."""
    values = correlated(60).astype(float)
    values -= values.mean(0)
    rows, columns = values.shape
    sample = sum(np.outer(row, row) for row in values) / rows
    m = np.trace(sample) / columns
    d2 = np.sum((sample - m * np.eye(columns)) ** 2) / columns
    b2 = sum(np.sum((np.outer(row, row) - sample) ** 2) / columns for row in values) / rows**2
    expected = b2 / d2 * m * np.eye(columns) + (1 - b2 / d2) * sample
    np.testing.assert_allclose(shrunk_covariance(values), expected, rtol=1e-12)


def test_a_few_training_rows_are_enough() -> None:
    features = correlated()
    found = fit_distribution(features, NAMES, (30, 33), (40, 42), 24)
    assert np.isfinite(found.assess(features[:100]).distance)


def test_a_run_records_the_distribution_of_each_symbol(tmp_path) -> None:
    from p3kit.market import load_market

    spec = market_spec(("AAPL", "XOM"), env={"window": 10, "episode_bars": 60})
    market = load_market(spec, spec.symbols)
    runs = plan_runs(spec, read_trainer(spec.trainer))
    for run in runs:
        data = json.loads(json.dumps(run.run_json(market, ["test"])))["data"]
        for symbol, facts in data.items():
            found = Distribution.from_json(facts["distribution"])
            assert found.window == 10
            assert found.names == market[symbol].feature_names
            assert found.threshold > 0
