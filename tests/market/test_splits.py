"""Splits: no bar in two of them, an embargo between them, and no observation that starts cold or crosses a split."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p3kit.market.splits import SPLITS, split_bars

DAYS = (np.datetime64("2010-01-01") + np.arange(4_000)).astype("datetime64[ns]")


@given(
    total=st.integers(300, 4_000),
    cuts=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)).map(sorted).filter(lambda c: c[1] - c[0] > 0.01),
    embargo=st.integers(0, 300),
    warm_up=st.integers(1, 200),
    episode_bars=st.integers(2, 300),
    by_date=st.booleans(),
)
def test_splits_never_overlap_and_keep_their_distance(
    total: int, cuts: list[float], embargo: int, warm_up: int, episode_bars: int, by_date: bool
) -> None:
    stamps = DAYS[:total]
    if by_date:
        first, second = (int(total * cut) for cut in cuts)
        parts = {
            name: f"{stamps[a].astype('datetime64[D]')}..{stamps[max(b - 1, a)].astype('datetime64[D]')}"
            for name, (a, b) in zip(SPLITS, ((0, first), (first, second), (second, total)), strict=True)
        }
    else:
        parts = dict(zip(SPLITS, (cuts[0], cuts[1] - cuts[0], 1.0 - cuts[1]), strict=True))
    ranges, problems = split_bars(stamps, parts, embargo=embargo, warm_up=warm_up, episode_bars=episode_bars)
    if problems:
        assert all(key.startswith("data.split.") and what and hint for key, what, hint in problems)
        return
    train, validation, test = (ranges[name] for name in SPLITS)
    assert warm_up <= train[0]
    assert train[1] - train[0] > episode_bars
    assert train[1] + embargo <= validation[0] < validation[1]
    assert validation[1] + embargo <= test[0] < test[1] <= total
    if embargo >= warm_up:  # the auto embargo: no bar behind a validation observation was ever acted on in training
        assert validation[0] - warm_up >= train[1]
        assert test[0] - warm_up >= validation[1]


def test_shares_of_the_sample() -> None:
    ranges, problems = split_bars(
        DAYS[:3_270], {"train": 0.7, "validation": 0.15, "test": 0.15}, embargo=88, warm_up=88, episode_bars=252
    )
    assert not problems
    assert ranges == {"train": (88, 2_289 - 88), "validation": (2_289, 2_779 - 88), "test": (2_779, 3_270)}


def test_days_are_both_included_and_a_gap_between_splits_counts_as_embargo() -> None:
    parts = {
        "train": "2010-01-01..2014-12-31",
        "validation": "2016-01-01..2017-06-30",
        "test": "2017-07-01..2030-01-01",
    }
    ranges, problems = split_bars(DAYS, parts, embargo=88, warm_up=88, episode_bars=252)  # type: ignore[arg-type]
    assert not problems
    day = {name: (str(DAYS[first])[:10], str(DAYS[last - 1])[:10]) for name, (first, last) in ranges.items()}
    assert day["train"] == ("2010-03-30", "2014-12-31"), "a year of distance is more than the embargo: nothing taken"
    assert day["validation"] == ("2016-01-01", "2017-04-03")
    assert day["test"] == ("2017-07-01", str(DAYS[-1])[:10])


def test_hours_of_the_last_day_belong_to_it() -> None:
    hours = (np.datetime64("2020-01-01T00") + np.arange(24 * 60)).astype("datetime64[ns]")
    parts = {
        "train": "2020-01-01..2020-01-31",
        "validation": "2020-02-01..2020-02-10",
        "test": "2020-02-11..2020-03-01",
    }
    ranges, problems = split_bars(hours, parts, embargo=0, warm_up=0, episode_bars=24)  # type: ignore[arg-type]
    assert not problems
    assert ranges["train"] == (0, 31 * 24)
    assert ranges["validation"] == (31 * 24, 41 * 24)


def test_each_impossible_split_is_named() -> None:
    parts = {
        "train": "1999-01-01..1999-12-31",
        "validation": "2010-01-01..2010-01-20",
        "test": "2030-01-01..2031-01-01",
    }
    _, problems = split_bars(DAYS, parts, embargo=88, warm_up=88, episode_bars=252)  # type: ignore[arg-type]
    assert [key for key, _, _ in problems] == [f"data.split.{name}" for name in SPLITS]
    assert "holds no bar" in problems[0][1]
    assert "2010-01-01 to 2020-12-13" in problems[0][2]
    assert "0 can be used" in problems[1][1]
