"""Picture of one replayed episode: trades, reward components, reward-to-go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.escape import picture as label_of
from p3kit.report.figure import BLUE, BONUS_COLOUR, COMPONENT_COLOURS, GREEN, ORANGE, RED, figure_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACTION_MARKS = {
    "BUY_SMALL": ("^", GREEN, 22),
    "BUY_MEDIUM": ("^", GREEN, 36),
    "BUY_LARGE": ("^", GREEN, 52),
    "ADD": ("P", "#56B4E9", 34),
    "SELL_HALF": ("v", ORANGE, 34),
    "SELL_ALL": ("v", RED, 48),
}


def draw_episode(episode: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw one episode of `p3kit.runtime.replay`: price with the trades, the reward of each component, and the reward
    still to come beside the profit of the account. An order is drawn at the bar after its decision.
    """
    bars = episode["bars"]
    step = np.arange(1, len(bars["price"]) + 1)
    price = np.asarray(bars["price"], float)
    with figure_to(path, 8.6, 8.0) as figure:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[2.6, 2.2, 1.8])
        _episode_trades(top, step, price, bars)
        top.set(title=label_of(title), ylabel="price")
        top.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        _episode_components(middle, step, bars, episode["totals"])
        middle.set_ylabel("weighted reward per bar")
        middle.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        bottom.axhline(0, color="#444444", linewidth=0.8)
        label = f"reward-to-go (γ {episode['gamma']:g})"
        bottom.plot(step, np.asarray(bars["reward_to_go"], float), color=BLUE, label=label)
        bottom.plot(
            step, np.cumsum(np.asarray(bars["reward"], float)), color=BLUE, linestyle=":", label="reward so far"
        )
        bottom.set_ylabel("reward")
        money = bottom.twinx()
        money.plot(step, (np.asarray(bars["equity"], float) - 1) * 100, color=GREEN, linewidth=1.1, label="return")
        money.set_ylabel("return of the account, %", color=GREEN)
        money.grid(visible=False)
        money.spines["right"].set_visible(True)
        lines = [*bottom.get_legend_handles_labels()[0], *money.get_legend_handles_labels()[0]]
        bottom.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="best")
        bottom.set_xlabel(f"bar of the episode, {label_of(bars['timestamp'][0])} to {label_of(bars['timestamp'][-1])}")
        bottom.set_xlim(0, len(step) + 1)


def _episode_trades(axes: Axes, step: Any, price: Any, bars: Mapping[str, Any]) -> None:
    """The price, shaded by exposure, with a mark per order; a position that the rules closed has a cross."""
    exposure = np.asarray(bars["exposure"], float)
    low, high = float(price.min()), float(price.max())
    room = 0.06 * max(high - low, 1e-9)
    axes.set_ylim(low - 2 * room, high + 2 * room)
    floor = np.full(len(step), low - 2 * room)
    axes.fill_between(
        step, floor, floor + exposure * (high - low + 4 * room), step="pre", color=BLUE, alpha=0.10, linewidth=0
    )
    axes.plot(step, price, color="#444444", linewidth=1.1)
    actions = np.array(bars["action"])
    for name, (marker, colour, size) in _ACTION_MARKS.items():
        at = actions == name
        if at.any():
            shift = room if marker == "v" else -room
            axes.scatter(step[at], price[at] + shift, s=size, marker=marker, color=colour, zorder=5, label=name)
    closed = np.array([profit is not None for profit in bars["closed_profit"]])
    forced = closed & ~np.isin(actions, ["SELL_ALL", "SELL_HALF"])
    if forced.any():
        axes.scatter(step[forced], price[forced], s=34, marker="x", color=RED, zorder=6, label="closed by the rules")


def _episode_components(axes: Axes, step: Any, bars: Mapping[str, Any], totals: Mapping[str, Any]) -> None:
    """Draw the reward components stacked, gains upwards and penalties downwards, without those that stayed 0."""
    parts = {name: np.asarray(values, float) for name, values in bars["weighted"].items()}
    parts["bonus"] = np.asarray(bars["bonus"], float)
    sums = {**totals["weighted"], "bonus": float(parts["bonus"].sum())}
    above, below = np.zeros(len(step)), np.zeros(len(step))
    for name, values in parts.items():
        if not np.any(values):
            continue
        base = np.where(values >= 0, above, below)
        axes.bar(
            step,
            values,
            bottom=base,
            width=1.0,
            color=COMPONENT_COLOURS.get(name, BONUS_COLOUR),
            linewidth=0,
            label=f"{label_of(name)} {sums[name]:+.2f}",
        )
        above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
    axes.axhline(0, color="#444444", linewidth=0.8)
