"""`SymbolData`: the bars of one symbol made ready for an environment. T bars, F features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from p3kit.market.bars import REGIMES, Floats
from p3kit.market.recipe import FeatureRecipe

AnySplit = Literal["train", "validation", "test", "outside"]
"""A split of the spec, or bars outside all of them."""


@dataclass(frozen=True, eq=False)
class SymbolData:
    """All data of one symbol that an environment needs.

    Rows of `features` before the longest look-back are NaN, and `regime` is −1 there. No split reaches them: for every
    split (first, last) the rows first − window … last − 1 are finite.
    """

    symbol: str
    timestamps: NDArray[np.datetime64]  # (T,) datetime64[ns]
    close: Floats  # (T,)
    open: Floats | None  # (T,) or None where the source has none
    high: Floats | None
    low: Floats | None
    features: NDArray[np.float32]  # (T, F), standardised with training statistics if observation.normalize = "train"
    feature_names: tuple[str, ...]  # F names
    feature_mean: Floats  # (F,) what was subtracted; 0 where a feature is left as it is
    feature_scale: Floats  # (F,) what was divided by; 1 where a feature is left as it is
    volatility: Floats  # (T,) of the last 20 bars, annualised; NaN in the first 20
    regime: NDArray[np.int8]  # (T,) 0 bear, 1 sideways, 2 bull; −1 before the look-back
    bars_per_year: float  # of the training split: features are annualised by it
    fingerprint: str  # SHA-256 (hex) of the parsed table
    splits: dict[AnySplit, tuple[int, int]]
    """Split → (first, last exclusive) bar an account may act on; embargo and warm-up already taken out."""
    source: str  # "sample", "csv data/AAPL.csv", "synthetic (not real)"
    synthetic: bool
    notes: list[str] = field(default_factory=list)
    split_bars_per_year: dict[AnySplit, float] = field(default_factory=dict)
    """Split → bars per year, by which the metrics of that split are annualised."""
    volume: Floats | None = None
    price_fingerprint: str = ""
    """The fingerprint without the columns of the user's that are features."""
    recipe: FeatureRecipe | None = None
    """Recipe of the features; None for made-up bars."""

    def __len__(self) -> int:
        return len(self.close)

    @property
    def own_features(self) -> tuple[str, ...]:
        """Those of `feature_names` that are columns of the user's files."""
        return self.recipe.own if self.recipe else ()

    def bars_per_year_of(self, split: AnySplit) -> float:
        """Bars per year of a split."""
        return self.split_bars_per_year.get(split, self.bars_per_year)

    def regime_shares(self, split: AnySplit) -> dict[str, float]:
        """Share of the split's bars in each regime; zeros for an empty split."""
        first, last = self.splits[split]
        counts = np.bincount(self.regime[first:last], minlength=len(REGIMES))
        return {name: float(n) / max(last - first, 1) for name, n in zip(REGIMES, counts, strict=True)}
