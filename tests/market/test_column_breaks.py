"""Columns that change part of the way are found at their bar; honest ones are left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from p3kit.market.bars import Floats
from p3kit.market.column_breaks import find_break

BARS, BREAK = 4_000, 2_400
MOVE = 0.01 * np.random.default_rng(0).standard_normal(BARS)


def honest(seed: int) -> dict[str, Floats]:
    """Columns of kinds that users have, (BARS,) each."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(BARS)
    turbulent = np.exp(np.convolve(0.15 * rng.standard_normal(BARS + 199), np.ones(200) / 14, "valid") / 2)
    return {
        "return": MOVE + 0.001 * noise,
        "walk": np.cumsum(noise),
        "momentum": np.convolve(MOVE, np.ones(20))[:BARS] + 0.001 * noise,
        "volatile": turbulent * noise,
        "weekly": np.repeat(rng.standard_normal(BARS // 5), 5),
        "flag": (rng.random(BARS) < 0.3).astype(float),
        "rare flag": (rng.random(BARS) < 0.002).astype(float),
        "constant": np.ones(BARS),
        "trend": 0.01 * np.arange(BARS) + noise,
    }


@pytest.mark.parametrize("seed", range(6))
def test_honest_columns_have_no_break(seed: int) -> None:
    found = {name: find_break(values, MOVE) for name, values in honest(seed).items()}
    assert found == dict.fromkeys(found)


FAULTS: dict[str, Callable[[Floats], Floats]] = {
    "frozen": lambda rest: np.full_like(rest, rest[0]),
    "another unit": lambda rest: 100 * rest,
    "another sign": lambda rest: -rest,
    "late": lambda rest: np.roll(rest, 3),
    "noise": lambda rest: np.random.default_rng(9).permutation(rest),
    "another level": lambda rest: rest + 50 * rest.std(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_break_is_found_at_its_bar(fault: str, seed: int) -> None:
    for name in ("return", "momentum"):
        values = honest(seed)[name].copy()
        values[BREAK:] = FAULTS[fault](values[BREAK:])
        found = find_break(values, MOVE)
        assert found is not None, name
        assert abs(found[0] - BREAK) <= BARS // 40
