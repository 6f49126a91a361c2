"""The recommended setting against the guide's numbers on the ten shipped stocks, walk-forward.

    years='data.walk_forward={train="5y",validation="1y",step="1y"}'
    p3kit run specs/recommended.toml --runs ours --no-aim --set "$years"
    p3kit run specs/phase3_stacked.toml --runs guide --no-aim --set "$years"
    python -m tests.measure.learning.real_bars ours guide

Figures are of the verdicts: the validation bars of each window, from which the weights were chosen. The stocks of one
window share its market, so a window counts once: intervals are Student's t over the means of the windows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from p3kit.rundir import list_runs

FIGURES = {
    "Sharpe ratio": "{:+.2f}",
    "over buy-and-hold": "{:+.2f}",
    "over equal exposure": "{:+.2f}",
    "agents with a positive excess": "{:.0%}",
    "shown to beat buy-and-hold": "{:.0%}",
    "return": "{:+.1%}",
    "largest drawdown": "{:.1%}",
    "turnover, per year": "{:.1f}",
    "exposure": "{:.0%}",
}
"""Figures of an agent, with their format. Excess is in Sharpe ratios."""
AGAINST_HOLD = "over buy-and-hold"


def figures(root: Path) -> pd.DataFrame:
    """The figures of each agent of a folder of runs, indexed by (window, symbol)."""
    rows = {}
    for run in list_runs(root):
        windows = {agent["name"]: (agent["window"], agent["symbol"]) for agent in run.info()["agents"]}
        for verdict in run.read_events("verdict"):
            own, over = verdict["metrics"], verdict["judged"]["over"]
            excess = over["buy_and_hold"]["excess"]
            rows[windows[verdict["agent"]]] = {
                "Sharpe ratio": own.get("eval/sharpe_ratio", 0.0),
                AGAINST_HOLD: excess,
                "over equal exposure": over["equal_exposure"]["excess"],
                "agents with a positive excess": float(excess > 0),
                "shown to beat buy-and-hold": float(over["buy_and_hold"]["shown"]),
                "return": own["eval/total_return"],
                "largest drawdown": own["eval/max_drawdown"],
                "turnover, per year": own["eval/turnover"],
                "exposure": own["eval/exposure"],
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_window(agents: pd.DataFrame) -> pd.DataFrame:
    """Means over the symbols of each window."""
    return agents.groupby([window for window, _ in agents.index]).mean()


def cell(values: pd.Series, text: str) -> str:
    """Mean and 95 % interval."""
    mean, half = values.mean(), stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{text.format(mean)} ({text.format(mean - half)} … {text.format(mean + half)})"


def table(ours: pd.DataFrame, guide: pd.DataFrame) -> str:
    """Both sides and their difference, agent by agent of the same window and symbol."""
    one, other = by_window(ours), by_window(guide)
    lines = ["| | recommended | the guide's numbers | difference |", "|---|---|---|---|"]
    for name, text in FIGURES.items():
        sides = [cell(side[name], text) for side in (one, other, one - other)]
        lines.append(f"| {name} | {' | '.join(sides)} |")
    counts = [f"{(side[AGAINST_HOLD] > 0).sum()} of {len(side)}" for side in (one, other, one - other)]
    lines.append(f"| windows where the mean excess over buy-and-hold is positive | {' | '.join(counts)} |")
    return "\n".join(lines)


def main(roots: Sequence[str]) -> None:
    ours, guide = (figures(Path(root)) for root in roots)
    if set(ours.index) != set(guide.index):
        sys.exit("the two folders have other windows or symbols")
    print(f"{len(ours)} agents a side, {len(by_window(ours))} windows\n\n{table(ours, guide)}")
    print(by_window(ours)[AGAINST_HOLD].round(2).to_dict(), by_window(guide)[AGAINST_HOLD].round(2).to_dict())


if __name__ == "__main__":
    main(sys.argv[1:])
