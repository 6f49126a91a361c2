"""Picture of all agents of an experiment as one account."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p3kit.escape import picture as label_of
from p3kit.report.figure import BASELINE_STYLES, BLUE, GREEN, GREY, figure_to, mark_synthetic, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from p3kit.report.portfolio_data import Portfolio
    from p3kit.report.week_data import Experiment

_MOST_LABELS = 30


def draw_portfolio(experiment: Experiment, path: Path) -> bool:
    """The agents as one account, how their Sharpe ratios lie, and how alike they are. False without a portfolio."""
    portfolio = experiment.portfolio
    if portfolio is None:
        return False
    with figure_to(path, 12.5, 4.2) as figure:
        account, sharpes, alike = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.25))
        _portfolio_lines(account, portfolio)
        _sharpe_bars(sharpes, experiment)
        _correlation_map(figure, alike, portfolio)
        mark_synthetic(figure, synthetic=experiment.synthetic)
    return True


def _portfolio_lines(axes: Axes, portfolio: Portfolio) -> None:
    time = portfolio.times
    low, high = np.percentile(portfolio.curves[:, 1:], (10, 90), axis=0)
    axes.fill_between(time, low, high, color=BLUE, alpha=0.13, linewidth=0, label="eight of ten agents")
    colour, style = BASELINE_STYLES["buy_and_hold"]
    axes.plot(time, portfolio.buy_and_hold.equity[1:], color=colour, linestyle=style, label="buy and hold")
    if portfolio.passed is not None:
        label = f"the {portfolio.passed.members} that passed"
        axes.plot(time, portfolio.passed.equity[1:], color=GREEN, linestyle="--", linewidth=1.1, label=label)
    axes.plot(time, portfolio.agents.equity[1:], color=BLUE, linewidth=2.0, label=f"all {len(portfolio.names)} agents")
    axes.axhline(1.0, color="#777777", linewidth=0.8)
    axes.set(title="One account, equal shares", ylabel="growth of 1")
    time_axis(axes)
    axes.legend(loc="best", fontsize=7.5)


def _sharpe_bars(axes: Axes, experiment: Experiment) -> None:
    from matplotlib.ticker import MaxNLocator

    graded = [agent for agent in experiment.complete if agent.scores and agent.scores.sharpe is not None]
    passed = [agent.sharpe_or(0.0) for agent in graded if agent.passed]
    others = [agent.sharpe_or(0.0) for agent in graded if not agent.passed]
    edges = np.histogram_bin_edges([*passed, *others], bins=min(30, max(6, len(graded) // 4))) if graded else 6
    kinds = [(passed, GREEN, "passed"), (others, GREY, "failed")]
    values, colours, labels = zip(*[kind for kind in kinds if kind[0]] or kinds, strict=True)
    axes.hist(values, bins=edges, stacked=True, color=colours, label=labels, edgecolor="white", linewidth=0.6)  # type: ignore[arg-type]
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axvline(0.0, color="#777777", linewidth=0.8)
    axes.set(title="Agents by Sharpe", xlabel="validation Sharpe", ylabel="agents")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="best", fontsize=7.5)


def _correlation_map(figure: Figure, axes: Axes, portfolio: Portfolio) -> None:
    if len(portfolio.moving) < 2:
        axes.set_axis_off()
        return
    image = axes.imshow(portfolio.correlation, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.85, ticks=(-1, -0.5, 0, 0.5, 1))
    names = list(map(label_of, portfolio.moving)) if len(portfolio.moving) <= _MOST_LABELS else []
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(visible=False)
    mean = "" if portfolio.mean_correlation is None else f", mean {portfolio.mean_correlation:z.2f}"
    axes.set_title(f"Correlation of returns{mean}")
