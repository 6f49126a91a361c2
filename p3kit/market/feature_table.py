"""Columns and bars behind each feature, for people and for exports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from p3kit.market.symbol_data import SymbolData

_CLOSE = ("close",)
_TOP, _BOTTOM = ("close", "high"), ("close", "low")
_RANGE = ("close", "high", "low")

USES: dict[str, tuple[tuple[str, ...], int]] = {
    "return_1": (_CLOSE, 21),
    "return_5": (_CLOSE, 21),
    "return_20": (_CLOSE, 21),
    "momentum_3": (_CLOSE, 65),
    "momentum_6": (_CLOSE, 65),
    "momentum_12": (_CLOSE, 65),
    "momentum_24": (_CLOSE, 65),
    "momentum_48": (_CLOSE, 65),
    "volatility_5_20": (_CLOSE, 21),
    "volatility_20_60": (_CLOSE, 61),
    "volatility": (_CLOSE, 21),
    "mean_distance_10": (_CLOSE, 21),
    "mean_distance_50": (_CLOSE, 50),
    "high_distance_60": (_TOP, 60),
    "low_distance_60": (_BOTTOM, 60),
    "range_position_20": (_RANGE, 20),
    "rsi_14": (_CLOSE, 15),
    "gap": (("close", "open"), 21),
    "bar_range": (_RANGE, 21),
    "close_location": (_RANGE, 1),
    "volume_20": (("volume",), 20),
    "regime_bear": (_CLOSE, 65),
    "regime_sideways": (_CLOSE, 65),
    "regime_bull": (_CLOSE, 65),
}
"""Built-in feature → the columns that it uses where a file has them, and its bars, the newest one included.

Moves are divided by the volatility of 20 returns, so that they use 21 closes at least."""

NEEDED = {"gap": ("open",), "bar_range": ("high", "low"), "close_location": ("high", "low"), "volume_20": ("volume",)}
"""Built-in feature → the optional columns without which there is none."""


def needed_columns(names: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Those of the optional `columns` that the formulas of `names` use. `high` and `low` count only together."""
    used = {column for name in names for column in USES[name][0]}
    used |= {"high", "low"} if used & {"high", "low"} else set()
    return tuple(name for name in columns if name in used)


@dataclass(frozen=True)
class FeatureRow:
    """A feature as an agent observes it: (value − mean) / scale."""

    name: str
    source: str
    """Columns of the bars; `column NAME` for a column of the user's files."""
    bars: int
    """Bars that a value depends on, the newest one included."""
    mean: float
    scale: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def feature_rows(bars: SymbolData, own: Mapping[str, str | int] = MappingProxyType({})) -> list[FeatureRow]:
    """The features of a bar, in the order of an observation. `own` is `data.columns.own`."""
    columns = {"close", *(bars.recipe.columns if bars.recipe else ())}
    statistics = zip(bars.feature_mean.tolist(), bars.feature_scale.tolist(), strict=True)
    rows = []
    for name, (mean, scale) in zip(bars.feature_names, statistics, strict=True):
        if name in bars.own_features:
            rows.append(FeatureRow(name, f"column {own.get(name, name)}", 1, mean, scale))
        else:
            used, count = USES[name]
            rows.append(FeatureRow(name, ", ".join(one for one in used if one in columns), count, mean, scale))
    return rows
