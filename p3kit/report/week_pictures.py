"""Pictures of the weekly report: learning curves, reward composition, equity curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.diagnose.detectors.phase import ENTROPY_CORRIDOR
from p3kit.escape import picture as label_of
from p3kit.metrics import COMPONENTS
from p3kit.report.figure import (
    BLUE,
    COMPONENT_COLOURS,
    GREY,
    LARGEST_GRID,
    ORANGE,
    draw_equity_lines,
    figure_to,
    mark_synthetic,
    point_marker,
    set_margins,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from p3kit.report.agent_data import AgentSummary
    from p3kit.report.week_data import Experiment

_CURVES = (
    ("eval/sharpe_ratio", "Validation Sharpe\n(dashed: buy-and-hold)"),
    ("episode/episode_reward_mean", "Episode reward"),
    ("policy/entropy_norm", "Entropy / maximum\n(shaded: expected)"),
    ("policy/hold_share", "Share of HOLD"),
    ("value/value_loss", "Value loss"),
    ("value/explained_variance", "Explained variance\n(-- ridge, ·· guide)"),
)
_LIMITS = {"policy/entropy_norm": (0, 1.03), "policy/hold_share": (0, 1.03), "value/explained_variance": (-0.5, 1)}
PHASES = (0.2, 0.5, 0.8)
"""Where the guide's phases end (3.1), as shares of training: exploration, initial learning, refinement, convergence."""

_GUIDE_VARIANCE = ((0.5, 0.5), (0.8, 0.5), (0.8, 0.7), (1.0, 0.7))
"""(share of training, explained variance) that the guide expects to be passed in its last two phases."""


def draw_learning_curves(experiment: Experiment, path: Path) -> bool:
    """Small multiples: a row per agent, a column per curve, one scale per column. Upright lines part the guide's four
    phases; the shaded area behind the entropy is its expected path, the dotted line the guide's explained variance.
    Dashed: buy-and-hold's Sharpe ratio and the ridge reference of explained variance. More than twelve agents share one
    row, with their median. False where nothing was recorded."""
    agents = [agent for agent in experiment.agents if agent.curves]
    if not agents:
        return False
    single_row = len(agents) > LARGEST_GRID
    groups = [agents] if single_row else [[agent] for agent in agents]
    budget = max(agent.total_timesteps for agent in agents) / 1_000
    tallest = 2.6 if single_row else max(1.1, 2.4 - 0.25 * len(groups))
    labels = [f"{len(group)} agents" if single_row else label_of(group[0].name) for group in groups]
    margins = {
        "left": 0.55 + 0.085 * max(map(len, labels)),
        "right": 0.15,
        "top": 0.7 if experiment.synthetic else 0.45,
        "bottom": 0.45,
    }
    with figure_to(path, 13, tallest * len(groups) + 1.0, measured=False) as figure:
        grid = figure.subplots(len(groups), len(_CURVES), sharex="col", sharey="col", squeeze=False)
        set_margins(figure, **margins, between=0.3, beside=0.45)
        for axes, (metric, _) in zip(grid[0], _CURVES, strict=True):
            axes.set_xlim(0, budget)  # for the whole column, once: a shared limit set in each panel takes seconds
            if metric in _LIMITS:
                axes.set_ylim(_LIMITS[metric])
        for group, label, row in zip(groups, labels, grid, strict=True):
            for axes, (metric, _) in zip(row, _CURVES, strict=True):
                _curve_panel(axes, metric, group, budget)
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontweight="bold", labelpad=8)
        for axes, (_, title) in zip(grid[0], _CURVES, strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("thousand env steps")
        mark_synthetic(figure, synthetic=experiment.synthetic)
    return True


def _curve_panel(axes: Axes, metric: str, agents: Sequence[AgentSummary], budget: float) -> None:
    for end in PHASES:
        axes.axvline(end * budget, color="#c4c4c4", linewidth=0.8, zorder=0)
    if metric == "policy/entropy_norm":
        progress, low, high = (np.asarray(bound) for bound in ENTROPY_CORRIDOR)
        axes.fill_between(progress * budget, low, high, color="#E4EEF6", linewidth=0, zorder=0)
    elif metric not in ("episode/episode_reward_mean", "policy/hold_share"):
        axes.axhline(0, color="#999999", linewidth=0.8)
    if metric == "value/explained_variance":
        progress, expected = np.array(_GUIDE_VARIANCE).T
        axes.plot(progress * budget, expected, color="#777777", linestyle=":", linewidth=1.1)
    crowded = len(agents) > 1
    for agent in agents:
        if metric in agent.curves:
            steps, values = agent.curves[metric]
            style: dict[str, Any] = {"color": GREY, "alpha": 0.4, "linewidth": 0.7} if crowded else {"color": BLUE}
            axes.plot(np.asarray(steps) / 1_000, values, marker=point_marker(values), **style)
        if not crowded:
            _reference(axes, metric, agent)
    if crowded and (middle := _median_curve([agent.curves[metric] for agent in agents if metric in agent.curves])):
        axes.plot(np.asarray(middle[0]) / 1_000, middle[1], color=BLUE, linewidth=2.2)


def _reference(axes: Axes, metric: str, agent: AgentSummary) -> None:
    other = {"eval/sharpe_ratio": "eval/buy_and_hold_sharpe", "value/explained_variance": "diag/ev_reference"}.get(
        metric
    )
    if other is not None and other in agent.curves:
        steps, values = agent.curves[other]
        marker = point_marker(values)
        axes.plot(np.asarray(steps) / 1_000, values, color=ORANGE, linestyle="--", linewidth=1.1, marker=marker)


def _median_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[Any, Any] | None:
    """The median over curves on a common grid of steps, where at least three of them reach."""
    if len(curves) < 3:
        return None
    grid = np.linspace(min(c[0][0] for c in curves), max(c[0][-1] for c in curves), 60)
    stacked = np.array([np.where(grid <= c[0][-1], np.interp(grid, c[0], c[1]), np.nan) for c in curves])
    reached = np.isfinite(stacked).sum(0) >= 3
    return grid[reached], np.nanmedian(stacked[:, reached], axis=0)


def draw_reward_composition(experiment: Experiment, path: Path) -> bool:
    """Draw the composition of the reward over training: fractions of the seven components in the sum of
    |component over an episode|, stacked, a panel per agent. More than twelve agents are drawn as their mean.
    Return False if nothing was recorded."""
    agents = [agent for agent in experiment.agents if _composition([agent]) is not None]
    if not agents:
        return False
    together = len(agents) > LARGEST_GRID
    groups = [agents] if together else [[agent] for agent in agents]
    columns = min(len(groups), 4 if len(groups) > 6 else 3)
    rows = -(-len(groups) // columns)
    panel = 3.0 if rows == 1 else 1.9
    with figure_to(path, max(7.5, 3.1 * columns), 1.0 + panel * rows, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        top = 0.55 if experiment.synthetic else 0.3
        set_margins(figure, left=0.55, right=0.2, top=top, bottom=0.95, between=0.4, beside=0.2)
        for axes in grid.flat[len(groups) :]:
            axes.set_visible(False)
        for axes, group in zip(grid.flat, groups, strict=False):
            steps, shares = _composition(group) or (np.empty(0), np.empty((7, 0)))
            axes.stackplot(
                steps / 1_000, shares, labels=COMPONENTS, colors=list(COMPONENT_COLOURS.values()), linewidth=0
            )
            axes.set_title(f"mean of {len(group)} agents" if together else label_of(group[0].name))
            axes.set_ylim(0, 1)
            axes.margins(x=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        for axes in grid.flat[max(0, len(groups) - columns) : len(groups)]:
            axes.set_xlabel("thousand env steps")
            axes.tick_params(labelbottom=True)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels))
        mark_synthetic(figure, synthetic=experiment.synthetic)
    return True


def _composition(agents: Sequence[AgentSummary]) -> tuple[Any, Any] | None:
    """(steps (n,), shares (7, n)) as the mean over agents, on the steps of the one that got furthest; None where none
    recorded them."""
    names = [f"reward/episode_share.{component}" for component in COMPONENTS]
    known = [agent for agent in agents if all(name in agent.curves for name in names)]
    if not known:
        return None
    furthest = max(known, key=lambda agent: (agent.curves[names[0]][0][-1], len(agent.curves[names[0]][0])))
    steps = np.asarray(furthest.curves[names[0]][0], float)
    shares = np.array([[np.interp(steps, *agent.curves[name]) for name in names] for agent in known])
    return steps, shares.mean(0)


def draw_equity_curves(experiment: Experiment, path: Path) -> bool:
    """One panel per agent at the evaluation that validation chose: the policy beside buy-and-hold, a moving average, a
    random policy and all HOLD. Of more than twelve agents the best twelve by Sharpe. False where there is none."""
    agents = [agent for agent in experiment.agents if agent.equity is not None]
    agents = sorted(agents, key=lambda agent: -agent.sharpe_or(-np.inf))[:LARGEST_GRID]
    agents.sort(key=lambda agent: [a.name for a in experiment.agents].index(agent.name))
    if not agents:
        return False
    columns = min(len(agents), 4 if len(agents) > 6 else 3)
    rows = -(-len(agents) // columns)
    panel = 3.2 if rows == 1 else 2.2
    with figure_to(path, max(7.5, 3.1 * columns), 1.0 + panel * rows, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        set_margins(
            figure, left=0.5, right=0.2, top=0.55 if experiment.synthetic else 0.3, bottom=0.75, between=0.6, beside=0.5
        )
        for axes in grid.flat[len(agents) :]:
            axes.set_visible(False)
        for axes, agent in zip(grid.flat, agents, strict=False):
            data = agent.equity or {}
            time = np.array(data["timestamps"], dtype="datetime64[s]")
            draw_equity_lines(axes, time, np.asarray(data["equity"], float), data.get("baselines") or {})
            axes.set_title(f"{label_of(agent.name)}  {agent.sharpe_text}")
            time_axis(axes)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels))
        mark_synthetic(figure, synthetic=experiment.synthetic)
    return True
