"""`FeatureRecipe`: everything that turns the bars of one symbol into the features that an agent was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import DataError, InputError
from p3kit.market.bars import REGIMES, Bars, Floats
from p3kit.market.features import LOOKBACK, Features, compute_features

FORMULAS = 2
"""Version of the feature formulas. 1 summed in an order that depended on the number of bars; 2 sums bar by bar."""


@dataclass(frozen=True)
class FeatureRecipe:
    """The features of one symbol: formulas, columns and the statistics of the training split.

    Row t of `features` depends on the bars t − `look_back` … t alone: it has the same bits however many bars come
    before or after. JSON holds every number exactly.
    """

    formulas: int
    """Version of the feature formulas, `FORMULAS`."""
    names: tuple[str, ...]
    """Features of a bar, in the order of the observation."""
    columns: tuple[str, ...]
    """Optional price columns that the formulas use."""
    own: tuple[str, ...]
    """Columns of the user's files that are features themselves, the last of `names`."""
    bars_per_year: float
    mean: tuple[float, ...]
    """Subtracted from each feature; 0 where a feature is left as it is."""
    scale: tuple[float, ...]
    """Divisor of each feature; 1 where a feature is left as it is."""
    adjust: str
    """`data.adjust`: adjustment of the prices."""
    look_back: int = LOOKBACK
    """Bars before a bar that its features depend on."""

    def features(self, bars: Bars) -> NDArray[np.float32]:
        """Features (T, F) of `bars`; NaN in the first `look_back` rows. Raises DataError where a column is missing."""
        self.check_columns(bars)
        table = compute_features(bars, self.columns, self.bars_per_year, self.own).chosen(self.names)
        return scaled(table.values, np.array(self.mean), np.array(self.scale))

    def check_columns(self, bars: Bars) -> None:
        """Raise DataError where a column is missing."""
        missing = [name for name in self.columns if name not in bars.columns]
        missing += [name for name in self.own if name not in bars.own]
        if missing:
            what = f"has no column {', '.join(missing)}; the agent was trained with it"
            raise DataError(bars.source or bars.symbol, what, "give the bars with the columns of the training")

    def check_names(self, names: Sequence[str], place: str) -> None:
        """Raise DataError where the features are others than those of the recipe."""
        if tuple(names) != self.names:
            other = sorted(set(names) ^ set(self.names)) or names
            what = f"its features are not those of the training: {', '.join(other)}"
            raise DataError(place, what, "use the columns and features that the agent was trained with")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> FeatureRecipe:
        """Read what `to_json` returned. Raises InputError for formulas of a newer p3kit."""
        if stored["formulas"] > FORMULAS:
            what = f"features have formulas {stored['formulas']}; this p3kit has {FORMULAS}"
            raise InputError("feature recipe", what, "pip install -U p3kit")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
        return cls(**values)


def scaled(values: Floats, mean: Floats, scale: Floats) -> NDArray[np.float32]:
    """(values − mean) / scale by column: (T, F) float64 → (T, F) float32."""
    out = np.empty(values.shape, dtype=np.float32)
    for i, column in enumerate(values.T):  # one at a time, to bound memory
        out[:, i] = (column - mean[i]) / scale[i]
    return out


def standard_scale(
    features: Features, first: int, last: int, own: Sequence[str] = ()
) -> tuple[Floats, Floats, list[str]]:
    """Mean (F,) and standard deviation (F,) over rows first … last − 1, the training split.

    Regimes stay 0 or 1. A feature that is constant in the training split is only shifted, never divided by (almost)
    zero: columns of the user's, `own`, may have any scale. The third value names the constant features.
    """
    train = features.values[first:last]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    constant = np.where(np.isin(features.names, own), np.ptp(train, axis=0) == 0, scale < 1e-9)
    as_it_is = np.isin(features.names, [f"regime_{name}" for name in REGIMES])
    mean = np.where(as_it_is, 0.0, mean)
    scale = np.where(as_it_is | constant, 1.0, scale)
    names = [n for n, c, r in zip(features.names, constant, as_it_is, strict=True) if c and not r]
    return mean, scale, names
