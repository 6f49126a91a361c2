"""Old prices beside new ones: dividends and splits are factors, everything else is a correction."""

from __future__ import annotations

import numpy as np
import pytest

from p3kit.market.rescaling import PriceComparison, Stretch, compare_prices
from tests.market.made import random_bars


def prices(decimals: int | None = 2, bars: int = 300, seed: int = 0) -> np.ndarray:
    made = random_bars(bars, seed)
    table = np.column_stack([made.open, made.high, made.low, made.close])
    return table if decimals is None else np.maximum(table.round(decimals), 0.01)


def rescaled(table: np.ndarray, decimals: int | None, factors: dict[int, float]) -> np.ndarray:
    """All rows before each key times its factor, as new rows."""
    new = table.copy()
    for day, factor in factors.items():
        new[:day] *= factor
    return new if decimals is None else new.round(decimals)


def is_equal(found: PriceComparison) -> bool:
    return not found.changed and all(stretch.factor == 1.0 for stretch in found.stretches)


@pytest.mark.parametrize("decimals", [2, 4, 6, None])
def test_equal_prices_are_equal_also_as_32_bit_floats(decimals) -> None:
    table = prices(decimals)
    found = compare_prices(table, table.copy())
    assert is_equal(found)
    assert found.stretches == (Stretch(0, 300, 1.0),)
    assert is_equal(compare_prices(table, table.astype(np.float32).astype(float)))


@pytest.mark.parametrize("decimals", [2, 4, None])
@pytest.mark.parametrize(
    "factors",
    [{300: 0.98}, {300: 0.5}, {300: 10.0}, {200: 0.97}, {100: 0.98, 200: 0.975, 300: 0.99}, {3: 0.5}],
)
def test_dividends_and_splits_are_stretches_of_a_constant_factor(decimals, factors) -> None:
    table = prices(decimals) + (0 if decimals is None else 20)
    found = compare_prices(table, rescaled(table, decimals, factors))
    assert not found.changed
    assert not is_equal(found)
    days = sorted(factors)
    expected = [float(np.prod([factors[later] for later in days[i:]])) for i in range(len(days))]
    expected += [1.0] * (days[-1] < 300)
    assert [one.factor for one in found.stretches] == pytest.approx(expected, rel=1e-3)
    assert [one.last for one in found.stretches] == [*days, *([300] if days[-1] < 300 else [])]


@pytest.mark.parametrize("row", [0, 1, 150, 298, 299])
@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("factor", [1.001, 0.99, 100.0])
def test_a_corrected_price_is_a_changed_row(row, column, factor) -> None:
    table = prices()
    for base in (table, rescaled(table, None, {300: 0.9})):
        new = base.copy()
        new[row, column] *= factor
        found = compare_prices(table, new)
        assert found.changed == (row,)
        assert len(found.stretches) == 1


def test_few_bars_with_a_factor_of_their_own_are_corrections() -> None:
    table = prices()
    new = table.copy()
    new[100:103] *= 1.02
    assert compare_prices(table, new).changed == (100, 101, 102)
    assert is_equal(compare_prices(table[:0], table[:0]))
