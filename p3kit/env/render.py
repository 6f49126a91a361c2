"""Pictures of running episodes: price with buys and sells, and equity, as frames of `render()`.

Notation for shapes: H × W pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import InputError
from p3kit.market import SymbolData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RENDER_MODES = ("human", "rgb_array")
FRAMES_PER_SECOND = 10
PRICE, BOUGHT, SOLD = "#333333", "#009E73", "#D55E00"  # apart for colour-blind readers
_CONTEXT_BARS = 20
"""Bars before the episode that the picture shows."""


def check_render_mode(mode: str | None) -> None:
    """Raise InputError for a mode that is none of `RENDER_MODES`. Warn where "human" finds no display.

    A backend without windows that the user has chosen (`MPLBACKEND=agg`) draws unseen, without a warning.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise InputError("render_mode", f"is {mode!r}", 'expected None, "human" or "rgb_array"')
    if mode == "human":
        import matplotlib.pyplot as plt  # chooses a backend for this desktop

        if plt.get_backend().lower() == "agg" and "MPLBACKEND" not in os.environ:
            what = 'render_mode="human" finds no display, so no window opens; render_mode="rgb_array" returns pictures'
            warnings.warn(what, stacklevel=2)


@dataclass
class Episode:
    """The bars that one account has played since its episode began."""

    data: SymbolData
    bars: list[int] = field(default_factory=list)
    equity: list[float] = field(default_factory=list)
    exposure: list[float] = field(default_factory=list)

    def record(self, bar: int, equity: float, exposure: float) -> None:
        """Add the state of the account at the close of `bar`. A bar that does not follow the last one starts
        another episode."""
        if self.bars and bar != self.bars[-1] + 1:
            self.bars, self.equity, self.exposure = [], [], []
        self.bars.append(bar)
        self.equity.append(equity)
        self.exposure.append(exposure)


class EpisodePicture:
    """One figure, 800 × 480 pixels, redrawn for each frame."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._figure: Figure | None = None

    def draw(self, episode: Episode) -> NDArray[np.uint8] | None:
        """Return a frame, (H, W, 3) uint8, or show it in the window of "human" and return None."""
        figure = self._figure = self._figure or self._new_figure()
        figure.clear()
        _draw(figure, episode)
        if self._mode == "human":
            import matplotlib.pyplot as plt

            figure.canvas.draw()
            if plt.get_backend().lower() != "agg":
                plt.pause(1 / FRAMES_PER_SECOND)
            return None
        canvas: Any = figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def close(self) -> None:
        """Close the window."""
        if self._figure is not None and self._mode == "human":
            import matplotlib.pyplot as plt

            plt.close(self._figure)
        self._figure = None

    def _new_figure(self) -> Figure:
        if self._mode == "human":
            import matplotlib.pyplot as plt

            return plt.figure(figsize=(8, 4.8), dpi=100)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.8), dpi=100)
        FigureCanvasAgg(figure)
        return figure


def _draw(figure: Figure, episode: Episode) -> None:
    data, bars = episode.data, np.array(episode.bars)
    price, equity = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    shown = np.arange(max(bars[0] - _CONTEXT_BARS, 0), bars[-1] + 1)
    price.plot(data.timestamps[shown], data.close[shown], color=PRICE, linewidth=1.2)
    _mark_trades(price, data, bars, episode.exposure)
    price.set_ylabel("close")
    price.set_title(f"{data.symbol}, {str(data.timestamps[bars[-1]])[:16].replace('T', ' ')}", loc="left", fontsize=10)
    equity.plot(data.timestamps[bars], episode.equity, color=PRICE, linewidth=1.2)
    equity.fill_between(
        data.timestamps[bars],
        0,
        1,
        where=np.array(episode.exposure) > 0,
        transform=equity.get_xaxis_transform(),
        color=BOUGHT,
        alpha=0.12,
        linewidth=0,
        label="invested",
    )
    equity.set_ylabel("equity")
    equity.legend(loc="upper left", frameon=False, fontsize=8)
    figure.autofmt_xdate()
    figure.tight_layout()


def _mark_trades(axes: Any, data: SymbolData, bars: NDArray[np.int64], exposure: Sequence[float]) -> None:
    """Mark the closes after which more, or less, of the equity was invested by a whole step."""
    held = np.array(exposure) > 0
    before = np.concatenate(([False], held[:-1]))
    for where, marker, colour, word in (
        (held & ~before, "^", BOUGHT, "entry"),
        (~held & before, "v", SOLD, "exit"),
    ):
        axes.plot(data.timestamps[bars[where]], data.close[bars[where]], marker, color=colour, markersize=7, label=word)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
