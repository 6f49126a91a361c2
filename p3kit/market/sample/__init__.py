"""The shipped sample: ten real US stocks, daily adjusted closes 2010–2022. `PROVENANCE.md` beside it has details."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import P3kitError
from p3kit.market.bars import Bars, Floats

SYMBOLS = ("AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM")

SHA256 = "44a15fb77a52b4a1fa48c47b149f4e153f816d7099a2c9aaccd789590a00e1b1"
"""Of the unpacked CSV text."""

PROVENANCE = (
    "ten US stocks, daily adjusted closes 2010-01-04 to 2022-12-28, from the data set sp500_dataset "
    "of the Python package skfolio 1.12.2 (BSD 3-Clause)"
)

CAUTION = (
    "This dataset is provided solely for testing and example purposes. It is a stale dataset and does not reflect "
    "current or accurate market prices. It is not intended for investment, trading, or commercial use and should not "
    "be relied upon as authoritative market data."
)
"""skfolio's own words about the data set."""


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.datetime64], dict[str, Floats]]:
    """Timestamps (T,) and the closes (T,) of every symbol."""
    file = resources.files(__name__) / "prices.csv.gz"
    text = gzip.decompress(file.read_bytes())
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise P3kitError(str(file), "the shipped sample has been altered", "reinstall p3kit")
    header, *rows = (line.split(",") for line in text.decode("ascii").splitlines())
    timestamps = np.array([row[0] for row in rows], dtype="datetime64[ns]")
    prices = np.array([row[1:] for row in rows], dtype=np.float64)  # (T, symbols)
    return timestamps, {symbol: prices[:, i].copy() for i, symbol in enumerate(header[1:])}


def sample_bars(symbol: str) -> Bars:
    """The bars of one of `SYMBOLS` (closes only). KeyError for any other name."""
    timestamps, closes = _table()
    return Bars(symbol=symbol, timestamps=timestamps.copy(), close=closes[symbol].copy(), source="sample")
