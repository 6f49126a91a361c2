"""The bars of a spec at a glance: price, splits, embargo, regimes and gaps per symbol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p3kit.escape import picture as label_of
from p3kit.market.gaps import find_gaps
from p3kit.report.figure import REGIME_COLOURS, figure_to, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from p3kit.market import SymbolData

_SPLIT_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#D55E00"}
_REGIMES = ("bear", "sideways", "bull")
_STRIP = 0.06
"""Height of the regime strip, a share of the panel."""
_MOST_GAPS = 60
_WIDE = 5.0
"""Highest over lowest close from which ticks are 1, 2 and 5 of every power of ten."""


def draw_data(market: Mapping[str, SymbolData], title: str, path: Path) -> None:
    """A panel per symbol, two in a row. Each has the close on a logarithmic scale, coloured by split (grey: warm-up and
    embargo), the regime of each bar in a strip below, and red ticks on top for missing bars."""
    columns = 1 if len(market) == 1 else 2
    rows = math.ceil(len(market) / columns)
    with figure_to(path, 9.6, 0.9 + 1.9 * rows) as figure:
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes, (symbol, bars) in zip(panels, market.items(), strict=False):
            _panel(axes, symbol, bars)
        for axes in panels[len(market) :]:
            axes.set_visible(False)
        synthetic = ", SYNTHETIC" if any(bars.synthetic for bars in market.values()) else ""
        figure.suptitle(f"{label_of(title)}: closes{synthetic}", x=0.01, ha="left", fontsize=10)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=8, fontsize=7.5)


def _panel(axes: Axes, symbol: str, bars: SymbolData) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    time = bars.timestamps.astype("datetime64[s]")
    axes.plot(time, bars.close, color="#b5b5b5", linewidth=0.9)
    for name, (first, last) in bars.splits.items():
        axes.plot(time[first:last], bars.close[first:last], color=_SPLIT_COLOURS[name], linewidth=1.2)
    axes.set_yscale("log")
    wide = bars.close.max() > _WIDE * bars.close.min()  # there even steps would crowd at the top
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4, min_n_ticks=3))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    across = axes.get_xaxis_transform()
    known = bars.regime >= 0
    for number, regime in enumerate(_REGIMES):
        here = known & (bars.regime == number)
        axes.fill_between(
            time, 0, _STRIP, where=here, step="post", transform=across, color=_STRONG[regime], linewidth=0
        )
    gaps = find_gaps(bars.timestamps)
    longest = sorted(gaps, key=lambda gap: -gap.hours)[:_MOST_GAPS]
    axes.plot(
        [gap.begin.astype("datetime64[s]") for gap in longest],
        np.full(len(longest), 0.985),
        "|",
        transform=across,
        color="#D55E00",
        markersize=5,
    )
    counts = f"{len(bars):,} bars, {bars.bars_per_year:,.0f} a year" + (f", {len(gaps)} gaps" if gaps else "")
    axes.set_title(f"{label_of(symbol)}  ({counts})", fontsize=8.5)
    time_axis(axes)


_STRONG = {"bear": "#D98E73", "sideways": "#CFCFCF", "bull": "#7CC4A8"}


def _legend() -> list[object]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines: list[object] = [Line2D([], [], color=colour, label=name) for name, colour in _SPLIT_COLOURS.items()]
    lines.append(Line2D([], [], color="#b5b5b5", label="warm-up, embargo"))
    lines += [Patch(color=_STRONG[name], label=name) for name in REGIME_COLOURS]
    lines.append(Line2D([], [], color="#D55E00", marker="|", linestyle="", label="gap"))
    return lines
