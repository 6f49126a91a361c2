"""Names of the built-in features, and of the columns that p3kit reads itself."""

from __future__ import annotations

from typing import Literal, get_args

Feature = Literal[
    "return_1", "return_5", "return_20", "momentum_3", "momentum_6", "momentum_12", "momentum_24", "momentum_48",
    "volatility_5_20", "volatility_20_60", "volatility", "mean_distance_10", "mean_distance_50", "high_distance_60",
    "low_distance_60", "range_position_20", "rsi_14", "gap", "bar_range", "close_location", "volume_20", "regime_bear",
    "regime_sideways", "regime_bull",
]  # fmt: skip
"""A built-in feature. `p3kit.market.features` has the formulas."""

BUILT_IN: tuple[str, ...] = get_args(Feature)
"""The built-in features, in the order of an observation."""

PRICE_COLUMNS = ("timestamp", "time", "symbol", "open", "high", "low", "close", "volume", "adj_close")
"""Columns of a file that p3kit reads itself."""
