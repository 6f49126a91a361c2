"""Detection of scaled, shifted and frozen columns, and false alarms, on bars that no threshold was calibrated on."""

from __future__ import annotations

import pytest

from tests.measure.distortions import (
    DISTORTIONS,
    Subject,
    count_features,
    count_raw,
    false_alarms,
    raw_columns,
    subjects,
)


@pytest.fixture(scope="module")
def sample() -> list[Subject]:
    return subjects("sample", ["AAPL", "JNJ", "XOM"])


@pytest.fixture(scope="module")
def synthetic() -> list[Subject]:
    return subjects("synthetic", ["N0", "N1"])


LEAST = {"× 2": 0.5, "× 10": 0.97, "× 100": 1.0, "× 0.01": 1.0, "+ 1 std": 0.5, "+ 3 std": 0.85, "+ 10 std": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_changed_features_are_detected(sample: list[Subject], distortion: str) -> None:
    assert count_features(sample, distortion).rate >= LEAST.get(distortion, 1.0)


@pytest.mark.parametrize("distortion", ["× 10", "× 100", "× 0.01", "frozen"])
def test_changed_columns_of_the_file_are_detected(synthetic: list[Subject], distortion: str) -> None:
    prices = [column for column in raw_columns(synthetic[0]) if column != "volume"]  # its feature forgets in 20 bars
    for column in prices:
        assert count_raw(synthetic, column, distortion).rate >= 0.9, column


def test_false_alarms_on_other_bars_are_few(sample: list[Subject]) -> None:
    for one in sample:
        assert false_alarms(one) <= 0.03
