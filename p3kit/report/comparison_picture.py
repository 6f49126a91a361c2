"""Picture of a comparison: equity curves of every group, a panel per symbol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p3kit.escape import distinct_pictures
from p3kit.escape import picture as label_of
from p3kit.report.figure import (
    GROUP_COLOURS,
    LARGEST_GRID,
    figure_to,
    mark_synthetic,
    set_margins,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from p3kit.report.comparison_data import Comparison


def draw_comparison(comparison: Comparison, path: Path) -> bool:
    """Equity at the chosen evaluations: a panel per symbol (the first twelve), a colour per group, and buy-and-hold in
    grey. Lines are thin if a group has several agents of a symbol. False if no curve was recorded."""
    drawn = [member for member in comparison.members if member.agent.equity is not None]
    symbols = list(dict.fromkeys(member.agent.symbol for member in drawn))[:LARGEST_GRID]
    if not symbols:
        return False
    columns = min(len(symbols), 3)
    rows = -(-len(symbols) // columns)
    size = (8.4, 4.6) if len(symbols) == 1 else (3.4 * columns + 0.5, 2.5 * rows + 0.9)
    with figure_to(path, *size, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        top = 0.55 if comparison.synthetic else 0.3
        set_margins(figure, left=0.5, right=0.2, top=top, bottom=0.8, between=0.6, beside=0.5)
        for axes in grid.flat[len(symbols) :]:
            axes.set_visible(False)
        for axes, symbol in zip(grid.flat, symbols, strict=False):
            _comparison_panel(axes, comparison, symbol)
        handles = {}
        for axes in grid.flat:
            handles.update({label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)})
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 4))
        mark_synthetic(figure, synthetic=comparison.synthetic)
    return True


def _comparison_panel(axes: Axes, comparison: Comparison, symbol: str) -> None:
    beside, labels = False, distinct_pictures(group.label for group in comparison.groups)
    for number, group in enumerate(comparison.groups):
        own = [member.agent.equity for member in group.members if member.agent.symbol == symbol and member.agent.equity]
        colour = GROUP_COLOURS[number % len(GROUP_COLOURS)]
        for data in own:
            time = np.array(data["timestamps"], dtype="datetime64[s]")
            if not beside and "buy_and_hold" in (data.get("baselines") or {}):
                line = np.asarray(data["baselines"]["buy_and_hold"], float)
                axes.plot(time, line, color="#9a9a9a", linestyle="--", linewidth=1.1, label="buy and hold", zorder=1)
                beside = True
            width, alpha = (1.7, 1.0) if len(own) == 1 else (0.9, 0.7)
            equity, label = np.asarray(data["equity"], float), labels[group.label]
            axes.plot(time, equity, color=colour, linewidth=width, alpha=alpha, label=label)
    axes.set_title(label_of(symbol))
    time_axis(axes)
