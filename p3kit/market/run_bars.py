"""The bars of a run beside the bars of today: the same, appended, rescaled by a factor per stretch, or changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import DataError
from p3kit.market.bars import OPTIONAL_COLUMNS, Bars
from p3kit.market.fingerprint import fingerprint
from p3kit.market.recipe import FORMULAS, FeatureRecipe
from p3kit.market.rescaling import PriceComparison, compare_prices
from p3kit.market.symbol_data import SymbolData

Columns = Mapping[str, NDArray[Any]]
_PRICES = ("close", "open", "high", "low")
_OWN = "own."
_OWN_TOLERANCE = 1e-3
"""Difference of equal values of a column of the user's, in standard deviations of the training split."""
_VOLUME_TOLERANCE = 1e-3
"""Relative difference of equal volumes. Vendors round them again at a split."""


def prices_of(bars: SymbolData | Bars) -> dict[str, NDArray[Any]]:
    """Times and columns of bars, to be kept with a run: 32-bit floats are enough to find what has changed."""
    columns = {name: getattr(bars, name) for name in (*_PRICES, "volume")}
    own = bars.own if isinstance(bars, Bars) else {name: _own_column(bars, name) for name in bars.own_features}
    columns |= {f"{_OWN}{name}": values for name, values in own.items()}
    kept = {name: values.astype(np.float32) for name, values in columns.items() if values is not None}
    return {"time": bars.timestamps.astype("datetime64[ns]").astype(np.int64), **kept}


def _own_column(bars: SymbolData, name: str) -> NDArray[np.float64]:
    """A column of the user's, before it was scaled."""
    at = bars.feature_names.index(name)
    values: NDArray[np.float64] = bars.features[:, at].astype(np.float64)
    values *= bars.feature_scale[at]
    values += bars.feature_mean[at]
    return values


@dataclass(frozen=True)
class RunBars:
    """The bars of one symbol that a run was made with, as far as it recorded them."""

    facts: Mapping[str, Any]
    """`data[SYMBOL]` of run.json."""
    prices: Columns | None = None
    """Prices as `prices_of` returned them; None in runs of an older p3kit, and where bars can be made again."""

    @property
    def recipe(self) -> FeatureRecipe | None:
        """The features of the run; None in runs of an older p3kit or with older formulas."""
        stored = self.facts.get("recipe")
        return FeatureRecipe.from_json(stored) if stored and stored["formulas"] == FORMULAS else None

    def rows(self, bars: Bars) -> tuple[int, int]:
        """Rows (first, last exclusive) of `bars` in the time of the run's bars; all where format 1 has no time."""
        if "first" not in self.facts:
            return 0, len(bars)
        return rows_between(bars, self.facts["first"], self.facts["last"])

    def select(self, bars: Bars, *, exact: bool) -> Bars:
        """The bars of the run out of those of today, without bars that were appended since.

        Unless `exact`, prices may have another factor per stretch; a note names it. Raises DataError for others.
        """
        part = self._own_columns(bars.part(*self.rows(bars)))
        if fingerprint(part) == self.facts["fingerprint"]:
            return part
        if exact or self.prices is None:
            raise self._changed(bars, "their fingerprint differs")
        return replace(part, notes=(*part.notes, *self.compare(part)))

    def compare(self, bars: Bars) -> list[str]:
        """Notes on factors between the run's prices and those of `bars`, bar by bar; DataError for changed bars.

        `bars` are within the time of the run's bars and may begin later or end earlier.
        """
        old, time = self._old(bars)
        now = bars.timestamps.astype("datetime64[ns]").astype(np.int64)
        if len(now) != len(time) or (now != time).any():
            differ = np.setxor1d(now, time)
            raise self._changed(bars, f"the first bar that only one of them has is that of {_day(differ.min())}")
        names = [name for name in _PRICES if name in old]
        if missing := [name for name in names if getattr(bars, name) is None]:
            raise self._changed(bars, f"the column {', '.join(missing)} is missing")
        new = np.stack([getattr(bars, name) for name in names], axis=1)
        found = compare_prices(np.stack([old[name] for name in names], axis=1), new)
        changed = {*found.changed, *self._changed_volumes(bars, old, found), *self._changed_own(bars, old)}
        if changed:
            raise self._changed(bars, f"the first bar that differs is that of {_day(now[min(changed)])}")
        return [_note(one.factor, now[one.first], now[one.last - 1]) for one in found.stretches if one.factor != 1.0]

    def _old(self, bars: Bars) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
        """The run's columns and times, from the first time of `bars` to the last."""
        if self.prices is None:
            raise self._changed(bars, "the run keeps no prices to compare with")
        time = self.prices["time"]
        first, last = (bars.timestamps[at].astype("datetime64[ns]").astype(np.int64) for at in (0, -1))
        rows = slice(np.searchsorted(time, first), np.searchsorted(time, last, side="right"))
        columns = {name: _exact(values[rows]) for name, values in self.prices.items() if name != "time"}
        return columns, time[rows]

    def _changed_volumes(self, bars: Bars, old: Columns, found: PriceComparison) -> list[int]:
        """Rows whose volume is neither that of the run nor, after a split, that one over the factor of the price."""
        if "volume" not in old or bars.volume is None:
            return []
        factor = np.concatenate([np.full(one.last - one.first, one.factor) for one in found.stretches])
        same, split = (np.abs(bars.volume * f - old["volume"]) for f in (1.0, factor))
        slack = _VOLUME_TOLERANCE * np.abs(old["volume"]) + 1.0
        return np.flatnonzero((same > slack) & (split > slack)).tolist()

    def _changed_own(self, bars: Bars, old: Columns) -> list[int]:
        """Rows in which a column of the user's that is a feature has another value."""
        recipe = self.recipe
        rows: list[int] = []
        for name in recipe.own if recipe else ():
            slack = _OWN_TOLERANCE * recipe.scale[recipe.names.index(name)]  # type: ignore[union-attr]
            same = np.isclose(bars.own[name], old[f"{_OWN}{name}"], rtol=1e-5, atol=slack, equal_nan=True)
            rows += np.flatnonzero(~same & ~np.isnan(old[f"{_OWN}{name}"])).tolist()
        return rows

    def _own_columns(self, bars: Bars) -> Bars:
        """The columns that the run had, of those that there are today."""
        if self.prices is None:
            return bars
        new: dict[str, Any] = {name: None for name in OPTIONAL_COLUMNS if name not in self.prices}
        return replace(bars, **new)

    def _changed(self, bars: Bars, how: str) -> DataError:
        what = f"the bars of {bars.symbol} have changed since the run was planned: {how}"
        return DataError(bars.source or bars.symbol, what, "restore the data, or start a new run")


def rows_between(bars: Bars, first: str, last: str) -> tuple[int, int]:
    """Rows (first, last exclusive) of the bars from one time to another, both included, to the second."""
    seconds = bars.timestamps.astype("datetime64[s]")
    return (
        int(np.searchsorted(seconds, np.datetime64(first, "s"))),
        int(np.searchsorted(seconds, np.datetime64(last, "s"), side="right")),
    )


def _exact(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The decimal numbers that 32-bit floats were made from, as far as these hold them: 1.1, not 1.10000002."""
    return values.astype(str).astype(np.float64)


def _note(factor: float, first: int, last: int) -> str:
    span = f"{_day(first)} to {_day(last)}"
    return f"prices of {span} are {factor:.6g} times those of the run, as after a dividend or a split"


def _day(nanoseconds: int) -> str:
    return str(np.datetime64(int(nanoseconds), "ns"))[:19].removesuffix("T00:00:00")
