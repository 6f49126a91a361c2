"""Learning curves of a comparison: a line per setting, and a band over its agents.

The line is the interquartile mean over agents, the band its 95 % bootstrap interval (Agarwal et al. 2021, "Deep
reinforcement learning at the edge of the statistical precipice", and its library rliable).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p3kit.escape import distinct_pictures
from p3kit.report.comparison_data import Comparison, Group, Member
from p3kit.report.figure import GROUP_COLOURS, figure_to, mark_synthetic, point_marker, set_margins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("eval/sharpe_ratio", "validation Sharpe ratio"),
    ("episode/episode_reward_mean", "episode reward"),
    ("policy/entropy_norm", "entropy / maximum"),
)
POINTS = 80
"""Env steps at which a curve is drawn."""
RESAMPLES = 2_000
FEW_SEEDS = 5
"""Below this number of agents the bootstrap interval is too narrow."""
MOST_SETTINGS = 21
"""Settings that are drawn: seven colours, three kinds of line."""
_LONGEST_LABEL = 40

Curves = NDArray[np.float64]
"""Shape (agents, points)."""


@dataclass(frozen=True)
class Band:
    """The curve of one setting on a common grid. All arrays have shape (points,)."""

    steps: NDArray[np.float64]
    line: NDArray[np.float64]
    """Interquartile mean over agents."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """95 % bootstrap interval of the line; equal to it for one agent."""


def draw_learning(comparison: Comparison, path: Path) -> bool:
    """Draw the learning curves of each setting, a panel per metric. Return False where nothing was recorded."""
    groups = settings(comparison)[:MOST_SETTINGS]
    panels = [(metric, title) for metric, title in PANELS if any(_curves(group, metric) for group in groups)]
    if not panels:
        return False
    rows = -(-len(groups) // 3)
    bottom = 0.8 + 0.17 * rows
    with figure_to(path, 3.6 * len(panels) + 0.6, 3.1 + 0.17 * rows, measured=False) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        top = 0.55 if comparison.synthetic else 0.3
        set_margins(figure, left=0.5, right=0.2, top=top, bottom=bottom, between=0.0, beside=0.5)
        for axes, (metric, title) in zip(grid, panels, strict=True):
            _panel(axes, metric, groups)
            axes.set_title(title)
            axes.set_xlabel("thousand env steps")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, title=_legend_title(groups))
        mark_synthetic(figure, synthetic=comparison.synthetic)
    return True


def settings(comparison: Comparison) -> list[Group]:
    """The groups of a comparison; runs whose specs differ only in seeds and symbols are one group."""
    if comparison.by not in ("run", "agent"):
        return list(comparison.groups)
    differences = [each for each in comparison.differences if each.is_of_training]
    merged: dict[tuple[str, ...], list[Group]] = {}
    for number, group in enumerate(comparison.groups):
        merged.setdefault(tuple(each.values[number] for each in differences), []).append(group)
    if len(merged) in (1, len(comparison.groups)):
        return list(comparison.groups)
    paths = [each.path.rsplit(".", 1)[-1] for each in differences]
    found = []
    for values, groups in merged.items():
        words = ", ".join(f"{path} = {value}" for path, value in zip(paths, values, strict=True))
        label = words if 0 < len(words) <= _LONGEST_LABEL else _span(groups)
        found.append(Group(label, tuple(member for group in groups for member in group.members)))
    return found


def band_of(members: Sequence[Member], metric: str) -> Band | None:
    """The curve of the agents of one setting. None where none of them recorded the metric.

    The bootstrap draws agents within each symbol if every symbol has at least two, else from all agents.
    """
    recorded = [member for member in members if metric in member.agent.curves]
    if not recorded:
        return None
    curves = [member.agent.curves[metric] for member in recorded]
    first, last = min(steps[0] for steps, _ in curves), max(steps[-1] for steps, _ in curves)
    grid = np.linspace(first, last, POINTS if first < last else 1)
    values = np.array([np.interp(grid, steps, found) for steps, found in curves])  # the last value is kept at the end
    symbols = np.array([member.agent.symbol or "" for member in recorded])
    low, high = _interval(values, symbols)
    return Band(grid, interquartile_mean(values), low, high)


def interquartile_mean(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Mean without the lowest and the highest quarter, rounded down: for up to three values the mean."""
    cut = values.shape[axis] // 4
    ordered = np.sort(values, axis=axis)
    kept: NDArray[np.float64] = ordered.take(range(cut, values.shape[axis] - cut), axis=axis).mean(axis=axis)
    return kept


def band_words(comparison: Comparison) -> str:
    """The caption: what line and band are."""
    groups = settings(comparison)
    most, least = (how(len(group.members) for group in groups) for how in (max, min))
    if most == 1:
        return "Learning curves, one agent per setting: without a band, since one agent shows no spread."
    text = "Learning curves: interquartile mean over the agents of a setting, and its 95 % bootstrap interval"
    text += " (agents are drawn within each symbol)" if _stratified(groups) else ""
    text += ". An agent that ended early keeps its last value."
    if len(groups) > MOST_SETTINGS:
        text += f" The first {MOST_SETTINGS} of {len(groups)} settings are drawn."
    return text + (f" With fewer than {FEW_SEEDS} agents the interval is too narrow." if least < FEW_SEEDS else "")


def _legend_title(groups: Sequence[Group]) -> str | None:
    several = any(len(group.members) > 1 for group in groups)
    return "line: interquartile mean over agents; band: its 95 % bootstrap interval" if several else None


def _curves(group: Group, metric: str) -> bool:
    return any(metric in member.agent.curves for member in group.members)


def _panel(axes: Axes, metric: str, groups: Sequence[Group]) -> None:
    labels = distinct_pictures(group.label for group in groups)
    for number, group in enumerate(groups):
        band = band_of(group.members, metric)
        colour, dashes = GROUP_COLOURS[number % len(GROUP_COLOURS)], ("-", "--", ":")[number // len(GROUP_COLOURS) % 3]
        count = len(group.members)
        label = f"{labels[group.label]} ({count} agent{'' if count == 1 else 's'})"
        if band is None:
            axes.plot([], [], color=colour, linestyle=dashes, label=label)
            continue
        thousand = band.steps / 1_000
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.7, "label": label, "zorder": 3}
        axes.plot(thousand, band.line, marker=point_marker(thousand), **style)
        axes.fill_between(thousand, band.low, band.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
        if len(thousand) == 1:  # such a band has no width
            axes.vlines(thousand, band.low, band.high, color=colour, alpha=0.4, zorder=2)


def _interval(values: Curves, symbols: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """2.5 % and 97.5 % points of the interquartile mean over resampled agents."""
    random = np.random.default_rng(0)
    places = [np.flatnonzero(symbols == symbol) for symbol in dict.fromkeys(symbols.tolist())]
    if min(map(len, places)) < 2:
        places = [np.arange(len(values))]
    drawn = np.concatenate([random.choice(own, (RESAMPLES, len(own))) for own in places], axis=1)
    low, high = np.percentile(
        [interquartile_mean(values[some], axis=1) for some in np.array_split(drawn, 20)], (2.5, 97.5), axis=(0, 1)
    )
    return low, high


def _stratified(groups: Sequence[Group]) -> bool:
    """True where the agents of some setting are drawn within several symbols."""
    for group in groups:
        symbols = [member.agent.symbol for member in group.members]
        if len(set(symbols)) > 1 and min(map(symbols.count, symbols)) > 1:
            return True
    return False


def _span(groups: Sequence[Group]) -> str:
    labels = [group.label for group in groups]
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
