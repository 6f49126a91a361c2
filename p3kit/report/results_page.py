"""The first page of the dashboard: verdicts per agent, equity and learning curves, with links into Aim."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.diagnose.findings import format_steps
from p3kit.escape import markdown as safe
from p3kit.headline import LEGEND, headline
from p3kit.report.agent_data import AgentSummary
from p3kit.report.html_page import html_page
from p3kit.report.markdown import experiment_title, interval, percent, ratio, render
from p3kit.report.week_data import Experiment, scored_agents, summarise_newest
from p3kit.report.week_pictures import draw_equity_curves, draw_learning_curves
from p3kit.rundir.rows import write_bytes

_PICTURES: Mapping[str, Callable[[Experiment, Path], bool]] = {
    "Equity on the validation split": draw_equity_curves,
    "Learning curves": draw_learning_curves,
}


@dataclass(frozen=True)
class Links:
    """Paths on the server of the page, all of which begin with `/`."""

    runs: Mapping[str, str]
    """Name of a run → its page in Aim."""
    others: Sequence[tuple[str, str]]
    """(title, path) of the bookmarks and comparisons."""


def write_results(runs_root: Path, html: Path, links: Links, only: Sequence[str] = ()) -> Path:
    """Write the page of all runs, or of the runs `only`, as one HTML file. Returns `html`.

    Each agent stands in it with its newest graded run.
    """
    experiments = summarise_newest(runs_root, time.time(), only)
    with tempfile.TemporaryDirectory() as scratch:
        text = render_results(experiments, links, Path(scratch))
        html.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(html, html_page(text, Path(scratch), own_links=True).encode("utf-8"))
    return html


def render_results(experiments: Sequence[Experiment], links: Links, folder: Path) -> str:
    """The markdown of the page. Its pictures are drawn into `folder`."""
    return render(
        "results.md.j2",
        sections=[_section(number, experiment, links, folder) for number, experiment in enumerate(experiments)],
        legend=LEGEND,
        links=links.others,
    )


def _section(number: int, experiment: Experiment, links: Links, folder: Path) -> dict[str, Any]:
    pictures = {
        title: f"{number}-{place}.png"
        for place, (title, draw) in enumerate(_PICTURES.items())
        if draw(experiment, folder / f"{number}-{place}.png")
    }
    return {
        "title": experiment_title(experiment.name),
        "headline": headline(scored_agents(experiment)),
        "rows": [_row(agent, links) for agent in experiment.agents],
        "pictures": pictures,
    }


def _row(agent: AgentSummary, links: Links) -> list[str]:
    metrics = agent.scores.metrics if agent.scores else {}
    held = (agent.scores.baselines if agent.scores else {}).get("buy_and_hold", {})
    bounds = interval(agent.scores.sharpe_interval) if agent.scores else ""
    drawdown, path = metrics.get("eval/max_drawdown"), links.runs.get(str(agent.run))
    progress = f"{agent.state}, {format_steps(agent.global_step)} of {format_steps(agent.total_timesteps)} steps"
    return [
        f"[{safe(agent.name)}]({path})" if path else safe(agent.name),
        safe(agent.grade_text) if agent.complete else safe(progress),
        percent(metrics.get("eval/total_return")),
        percent(held.get("total_return")),
        f"{ratio(agent.scores.sharpe if agent.scores else None)} {bounds}".strip(),
        "n/a" if drawdown is None else f"{drawdown:.1%}",
        "; ".join(map(safe, [agent.evidence, *agent.labels])) if agent.complete else "–",
    ]
