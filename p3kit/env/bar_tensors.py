"""Every bar of every symbol as resident tensors: what a window shows, and what the next bar does to an account.

Notation for shapes: N accounts, S symbols, R rows (the bars of all symbols, one symbol after another), F features,
W bars in a window. A *row* or *index* is a flat position 0 … R − 1; a *bar* is a position inside one symbol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit.errors import DataError

if TYPE_CHECKING:
    from p3kit.market import SymbolData


class Transition(NamedTuple):
    """The path from bar t to bar t + 1, each (N,) float64. Prices are raw; the account charges slippage.

    `open`, `high` and `low` are the path that resting orders meet. Where a symbol has no open, the path starts at the
    last close, kept inside [low, high]; where it has no high and low either, the path is the close of t + 1 alone.
    """

    fill: Tensor  # price of an order decided on bar t
    open: Tensor  # path of bar t + 1
    high: Tensor
    low: Tensor
    close: Tensor  # mark of bar t + 1
    volatility: Tensor  # annualised, of the 20 bars up to t
    late: Tensor  # 1 where the fill is at the close of t + 1, else 0


class Bars:
    """The feature and transition tables of all symbols on one device."""

    def __init__(
        self, market: Mapping[str, SymbolData], symbols: Sequence[str], fill: str, window: int, device: torch.device
    ) -> None:
        """`symbols` without repetition, each present in `market`. Raises DataError on features that are not finite."""
        data = [market[symbol] for symbol in symbols]
        lengths = [len(symbol_data.close) for symbol_data in data]
        self.symbols = tuple(symbols)
        self.window = window
        self.offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)  # (S,) first row of a symbol
        self.lengths = np.asarray(lengths, dtype=np.int64)  # (S,)
        self.any_late = fill == "next" and any(symbol_data.open is None for symbol_data in data)
        self.num_features = data[0].features.shape[1]

        features = np.concatenate([np.asarray(d.features, dtype=np.float32) for d in data])  # (R, F)
        table = np.concatenate([transitions(d, fill) for d in data])  # (R, 7), columns of Transition
        self.features = torch.as_tensor(features, device=device)
        self.transitions = torch.as_tensor(table, device=device)

    def windows(self, features: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The `window` bars up to and including each row of `index` (N,), oldest first: (N, W·F), written to `out` if
        given. `features` (R, F) is the feature table, or one made of it; `index` is at least `window` − 1."""
        # A window is W·F consecutive numbers of the table, so all windows are one overlapping view of it.
        rows = features.shape[0] - self.window + 1
        every = features.contiguous().as_strided((rows, self.window * self.num_features), (self.num_features, 1))
        return torch.index_select(every, 0, index - (self.window - 1), out=out)


def check_windows(data: SymbolData, first: int, end: int, window: int) -> None:
    """Raise DataError if the window of a bar in `first` … `end` − 1 begins before the data or holds a value that is not
    finite."""
    oldest = first - (window - 1)
    if oldest < 0:
        raise DataError(data.symbol, f"bar {first} has no window of {window} bars behind it", "start the split later")
    damaged = ~np.isfinite(data.features[oldest:end]).all(axis=1)
    if damaged.any():
        bar = oldest + int(damaged.argmax())
        raise DataError(data.symbol, f"a feature of bar {bar} is not finite", "look at that row of the data")


class PriceColumns(Protocol):
    """Columns of the bars of one symbol, (T,) each."""

    @property
    def open(self) -> NDArray[np.float64] | None: ...
    @property
    def high(self) -> NDArray[np.float64] | None: ...
    @property
    def low(self) -> NDArray[np.float64] | None: ...
    @property
    def close(self) -> NDArray[np.float64]: ...
    @property
    def volatility(self) -> NDArray[np.float64]: ...


def transitions(data: PriceColumns, fill: str) -> NDArray[np.float64]:
    """The columns of `Transition` for each bar of one symbol, (T, 7) float64; the last bar's row is NaN."""
    close = np.asarray(data.close, dtype=np.float64)
    now, then = close[:-1], close[1:]
    late = fill == "next" and data.open is None
    if data.open is not None:
        opened = np.asarray(data.open, dtype=np.float64)[1:]
        high = np.maximum(opened, then) if data.high is None else np.asarray(data.high, dtype=np.float64)[1:]
        low = np.minimum(opened, then) if data.low is None else np.asarray(data.low, dtype=np.float64)[1:]
    else:
        high = then if data.high is None else np.asarray(data.high, dtype=np.float64)[1:]
        low = then if data.low is None else np.asarray(data.low, dtype=np.float64)[1:]
        opened = np.clip(now, low, high)
    filled = now if fill == "close" else then if late else opened
    table = np.full((len(close), len(Transition._fields)), np.nan)
    columns = (filled, opened, high, low, then, np.asarray(data.volatility)[:-1], np.full(len(now), float(late)))
    table[:-1] = np.stack(columns, axis=1)
    return table
