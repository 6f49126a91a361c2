"""The common clock and the small statistics that detectors stand on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p3kit.diagnose.evidence import (
    TICK,
    Evidence,
    median_before,
    median_so_far,
    robust_jump,
    sustained,
    to_ticks,
    trailing,
)
from p3kit.diagnose.registry import detrended, lag_one
from p3kit.rundir import Series


def series(steps: list[int], values: list[float], iterations: list[int] | None = None) -> Series:
    return Series(np.array(steps), np.array(values, float), np.array(iterations or range(len(steps))))


def test_rows_within_a_tick_are_pooled() -> None:
    recorded = series([1024, 2048, 4096, 5120, 8192], [1, 2, 3, 10, 20])
    ticks = to_ticks(recorded)
    assert ticks.steps.tolist() == [4096, 8192]
    assert ticks.values.tolist() == [2.0, 15.0]
    assert to_ticks(recorded, "max").values.tolist() == [3.0, 20.0]
    assert to_ticks(recorded, "sum").values.tolist() == [6.0, 30.0]


def test_rows_further_apart_than_a_tick_stay_as_they_are() -> None:
    ticks = to_ticks(series([16384, 32768], [1, 2]))
    assert ticks.values.tolist() == [1.0, 2.0]
    assert ticks.covered == 8
    assert ticks.rows_for(5) == 2
    assert ticks.rows_for(12) == 3


def test_numbers_that_are_not_finite_are_left_to_num_nan() -> None:
    assert to_ticks(series([4096, 8192], [np.nan, 2.0])).values.tolist() == [2.0]
    assert len(to_ticks(series([4096], [np.inf]))) == 0


def test_a_metric_recorded_less_often_keeps_its_last_value() -> None:
    ticks = to_ticks(series([8192, 16384], [5.0, 6.0]))
    at = ticks.at(np.array([4096, 8192, 12288, 20000]))
    assert np.isnan(at[0])
    assert at[1:].tolist() == [5.0, 5.0, 6.0]


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 5))
def test_sustained_finds_the_first_long_enough_stretch(condition: list[bool], patience: int) -> None:
    span = sustained(np.array(condition, bool), patience)
    starts = [i for i in range(len(condition) - patience + 1) if all(condition[i : i + patience])]
    assert (span is None) == (not starts)
    if span is not None:
        assert span.first == starts[0]
        assert span.open == (bool(starts) and starts[-1] + patience == len(condition))


def test_ticks_of_one_iteration_are_one_piece_of_evidence() -> None:
    held = np.array([True] * 4)
    assert sustained(held, 3, np.array([1, 1, 1, 1])) is None
    assert sustained(held, 3, np.array([1, 1, 1, 2])) is not None


def test_a_few_quiet_ticks_do_not_make_the_next_one_a_jump() -> None:
    quiet = np.array([1.0] * 8 + [1.05])
    assert robust_jump(quiet, np.full(9, 0.02))[-1] < 3
    assert robust_jump(np.array([1.0] * 8 + [15.0]), np.full(9, 0.02))[-1] > 100


numbers = st.lists(st.floats(-1e6, 1e6), max_size=30)


@given(numbers)
def test_windows_taken_all_at_once_say_what_each_says_alone(given_values: list[float]) -> None:
    values = np.array(given_values)
    past = [values[max(0, i - 10) : i] for i in range(len(values))]
    median = [np.median(one) if len(one) else np.nan for one in past]
    np.testing.assert_allclose(median_before(values, 10), median)
    np.testing.assert_allclose(median_so_far(values), [np.median(values[: i + 1]) for i in range(len(values))])
    jump = [
        (values[i] - median[i]) / (1.4826 * np.median(np.abs(past[i] - median[i])) + 0.5) if i >= 5 else np.nan
        for i in range(len(values))
    ]
    np.testing.assert_allclose(robust_jump(values, np.full(len(values), 0.5)), jump)


def test_what_is_missing_has_no_part_in_the_median_so_far() -> None:
    assert median_so_far(np.array([3.0, np.nan, 1.0])).tolist() == [3.0, 3.0, 2.0]
    assert np.isnan(median_so_far(np.array([np.nan, 1.0]))[0])


def test_a_jump_over_no_spread_at_all_is_none() -> None:
    assert np.isnan(robust_jump(np.array([1.0] * 8 + [2.0]), np.zeros(9))).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=12))
def test_autocorrelation_of_many_rows_is_that_of_each(given_values: list[float]) -> None:
    row = np.array(given_values)
    slope, level = np.polyfit(np.arange(len(row)), row, 1)
    np.testing.assert_allclose(detrended(row), row - level - slope * np.arange(len(row)), atol=1e-7)
    np.testing.assert_array_equal(lag_one(np.stack([row, 2 * row]))[:1], lag_one(row[None]))
    assert lag_one(np.zeros(5)) == 0
    assert lag_one(np.array([1.0, -1.0, 1.0, -1.0])) == -0.75


def test_trailing_windows_look_back_only() -> None:
    assert trailing(np.arange(5.0), 3, np.max).tolist()[2:] == [2.0, 3.0, 4.0]
    assert np.isnan(trailing(np.arange(5.0), 3, np.max)[:2]).all()


def test_effective_value_wins_over_the_spec() -> None:
    evidence = Evidence(
        agent="A",
        series={"effective/ppo.ent_coef": series([TICK, 2 * TICK], [0.05, 0.02])},
        spec={"ppo": {"ent_coef": 0.01, "vf_coef": 0.5}},
        total_timesteps=100_000,
    )
    assert evidence.effective("ppo.ent_coef") == 0.02
    assert evidence.effective("ppo.ent_coef", TICK) == 0.05
    assert evidence.effective("ppo.vf_coef") == 0.5
    assert evidence.effective("ppo.no_such") is None
