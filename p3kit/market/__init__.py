"""Market data: bars, features, regimes, splits, the shipped sample, the synthetic market.

`load_market(spec, symbols)` is the only entry point. It reads or makes the bars of each symbol, raises an error for bad
bars, and returns one `SymbolData` per symbol. Importing this package imports only numpy; pandas follows when files are
read.
"""

from p3kit.market.bars import BEAR, BULL, REGIMES, SIDEWAYS, Bars
from p3kit.market.features import LOOKBACK
from p3kit.market.fingerprint import fingerprint
from p3kit.market.load import check_symbols, load_market, synthetic_market
from p3kit.market.recipe import FeatureRecipe
from p3kit.market.symbol_data import SymbolData
from p3kit.market.walk_forward import walk_windows

__all__ = [
    "BEAR",
    "BULL",
    "LOOKBACK",
    "REGIMES",
    "SIDEWAYS",
    "Bars",
    "FeatureRecipe",
    "SymbolData",
    "check_symbols",
    "fingerprint",
    "load_market",
    "synthetic_market",
    "walk_windows",
]
