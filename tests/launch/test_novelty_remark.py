"""`p3kit evaluate` names the features that are unlike training: a remark, or a warning where bars are many."""

from __future__ import annotations

import pytest

from p3kit.launch.backtest_table import novelty_remark

FOUND = {"bars": 400, "novel": 8, "first": "2020-03-09T00:00:00", "expected": 0.01, "features": {"gap": 7, "rsi_14": 2}}


def test_novel_bars_are_named_by_feature() -> None:
    (line,) = novelty_remark(FOUND)
    assert line.startswith("novelty: 8 of 400 bars (2.0%; 1% is usual)")
    assert "the first 2020-03-09, by gap (7), rsi_14 (2)" in line
    assert novelty_remark(FOUND | {"novel": 40})[0].startswith("WARNING: 40 of 400 bars (10.0%")
    assert "and 3 more" in novelty_remark(FOUND | {"features": {f"f{i}": 9 - i for i in range(9)}})[0]


@pytest.mark.parametrize("found", [None, FOUND | {"novel": 0}])
def test_nothing_is_said_where_nothing_is_novel(found) -> None:
    assert novelty_remark(found) == []
