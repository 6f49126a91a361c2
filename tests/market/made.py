"""Specs and bars for the tests of the market: small, and made by plain formulas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from p3kit.market import Bars
from p3kit.spec import Spec, resolve_spec


def market_spec(symbols: Sequence[str] = ("AAPL",), **tables: Any) -> Spec:
    """A spec with these symbols; `tables` are data, env, observation as plain dicts."""
    return resolve_spec({"name": "market-test", "symbols": list(symbols), **tables}, "test")


def random_bars(bars: int = 400, seed: int = 0, *, ohlcv: bool = True, symbol: str = "X") -> Bars:
    """Daily bars of a random walk with 2 % a day, consistent open, high, low and volume."""
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(0.02 * rng.standard_normal(bars)))
    open_ = np.concatenate([[50.0], close[:-1]]) * np.exp(0.004 * rng.standard_normal(bars))
    high = np.maximum(open_, close) * (1.0 + 0.01 * rng.random(bars))
    low = np.minimum(open_, close) * (1.0 - 0.01 * rng.random(bars))
    volume = np.exp(rng.normal(12.0, 0.5, bars))
    timestamps = (np.datetime64("2015-01-05") + np.arange(bars)).astype("datetime64[ns]")
    if not ohlcv:
        return Bars(symbol, timestamps, close)
    return Bars(symbol, timestamps, close, open_, high, low, volume)


def frame_of(bars: Bars) -> pd.DataFrame:
    """The table a user would have on disk."""
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    present = {name: values for name, values in columns.items() if values is not None}
    return pd.DataFrame({"timestamp": pd.to_datetime(bars.timestamps), **present})


def write_csv(frame: pd.DataFrame, folder: Path, symbol: str = "X") -> Path:
    """`frame` as folder/SYMBOL.csv, numbers in full precision."""
    path = folder / f"{symbol}.csv"
    frame.to_csv(path, index=False)
    return path


def hourly_bars(seed: int, days: int = 300) -> Bars:
    """Seven bars a business day from 9:30, an hour apart, a random walk; two bars inside a day are missing."""
    bars = random_bars(7 * days, seed)
    opening = pd.bdate_range("2021-01-04", periods=days) + pd.Timedelta(hours=9.5)
    times = (opening.to_numpy()[:, None] + np.arange(7) * np.timedelta64(1, "h")).ravel()
    kept = np.setdiff1d(np.arange(len(times)), [7 * 10 + 3, 7 * 143 + 3])
    columns = {name: getattr(bars, name)[kept] ** 0.3 for name in ("close", "open", "high", "low", "volume")}
    return Bars("H", times[kept].astype("datetime64[ns]"), **columns)


def write_hourly_csv(path: Path, seed: int) -> None:
    """`hourly_bars` as a vendor's CSV file, New York's time with its offset."""
    path.parent.mkdir(exist_ok=True)
    frame = frame_of(hourly_bars(seed))
    frame["timestamp"] = frame["timestamp"].dt.tz_localize("America/New_York")
    frame.to_csv(path, index=False)
