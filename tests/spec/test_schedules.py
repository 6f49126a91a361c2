"""Schedules stay between their ends, reach them exactly, and go the right way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from p3kit.spec.schedules import Schedule, extremes, value_at

numbers = st.floats(1e-9, 1e6)
progress = st.floats(-0.5, 1.5)
adapter: TypeAdapter[Any] = TypeAdapter(Schedule)


def schedule(**fields: Any) -> Any:
    return adapter.validate_python(fields)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
@given(start=numbers, end=numbers, at=progress)
def test_between_the_ends(kind: str, start: float, end: float, at: float) -> None:
    moving = schedule(kind=kind, start=start, end=end)
    assert min(start, end) <= value_at(moving, at) <= max(start, end)
    assert value_at(moving, 0) == value_at(moving, -1) == start
    assert value_at(moving, 1) == value_at(moving, 2) == pytest.approx(end, rel=1e-12)


@given(
    points=st.lists(st.tuples(st.floats(0, 1), numbers), min_size=1, max_size=5, unique_by=lambda p: p[0]), at=progress
)
def test_piecewise_between_its_points(points: list[tuple[float, float]], at: float) -> None:
    moving = schedule(kind="piecewise", points=[list(point) for point in sorted(points)])
    low, *_, high = sorted([value for _, value in points] * 2)
    assert low <= value_at(moving, at) <= high
    assert all(value_at(moving, at) == pytest.approx(value, rel=1e-9) for at, value in points)
    assert {min(extremes(moving)), max(extremes(moving))} == {low, high}


@pytest.mark.parametrize(
    ("fields", "middle"),
    [
        ({"kind": "constant", "value": 3}, 3.0),
        ({"kind": "linear", "start": 3e-4, "end": 1e-5}, 1.55e-4),
        ({"kind": "cosine", "start": 1, "end": 0}, 0.5),
        ({"kind": "exponential", "start": 1, "end": 1e-4}, 1e-2),
        ({"kind": "piecewise", "points": [[0.0, 0.05], [0.25, 0.15], [0.75, 0.25]]}, 0.20),
    ],
)
def test_half_way(fields: dict[str, Any], middle: float) -> None:
    assert value_at(schedule(**fields), 0.5) == pytest.approx(middle)


def test_the_guides_decay() -> None:
    """Guide 1.2: 3e-4 × (1 − 0.97 progress) goes from 3e-4 to about 1e-5."""
    moving = schedule(kind="linear", start=3e-4, end=9e-6)
    assert value_at(moving, 0.5) == pytest.approx(3e-4 * (1 - 0.97 * 0.5))
