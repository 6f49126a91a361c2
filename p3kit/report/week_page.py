"""The weekly status report: words for the data of `week_data.py`, in the shape of the training guide (6.3)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.diagnose.diagnosis import OUTCOMES
from p3kit.diagnose.findings import format_missed, format_number, format_steps
from p3kit.edge import family_sentence
from p3kit.escape import code
from p3kit.escape import markdown as safe
from p3kit.headline import LEGEND, headline
from p3kit.metrics import mean_interval, share_interval
from p3kit.report.agent_data import AgentSummary
from p3kit.report.markdown import count_of, experiment_title, interval, listed, render, write_page
from p3kit.report.portfolio_page import portfolio_rows, portfolio_words
from p3kit.report.portfolio_picture import draw_portfolio
from p3kit.report.week_data import ENDED_BADLY, Experiment, WindowSummary, scored_agents
from p3kit.report.week_issues import issues, symptom_title
from p3kit.report.week_pictures import draw_equity_curves, draw_learning_curves, draw_reward_composition
from p3kit.rundir import file_name
from p3kit.spec.writing import toml_value

CAPTIONS = {
    "Learning curves": "Vertical lines separate the guide's phases: exploration, initial learning, refinement, "
    "convergence. The shaded area shows the expected entropy.",
    "Reward composition": "Share of each component in the sum of |weighted component over an episode|. The guide "
    "expects P&L to lead; if a penalty grows over training, the agent exploits the reward.",
    "Equity on the validation split": "Growth of 1 after costs, with the weights that validation chose, beside "
    "the baselines.",
    "Portfolio": "Left: the agents' accounts together, beside buy-and-hold of their symbols; the shaded area contains "
    "eight of ten agents. Middle: histogram of the agents' Sharpe ratios. Right: correlation of their returns, with "
    "similar agents side by side; a red square is a group of correlated agents.",
}
"""Caption of each picture."""

_TOO_MANY_CRASHES = 0.2
_MOST_NAMED = 8
_WHOLE_WINDOW = 0.9  # months differ by a few bars
_MOST_STEPS = 6


@dataclass(frozen=True)
class Stability:
    """Rating of the stability, with the measured lines of its evidence."""

    word: str
    why: str
    lines: Sequence[str]


def write_week(
    experiments: Sequence[Experiment],
    output: Path,
    week: int,
    stem: str | None = None,
    templates: Path | None = None,
) -> Path:
    """Write `week-NN.md` and `week-NN/*.png` into `output` and return the markdown file.

    Parts between keep-markers in an existing file are carried over. The same summaries give the same bytes.
    """
    folder = f"week-{week:02d}"
    path = output / f"{stem or folder}.md"
    pictures = {
        experiment.name: _draw(experiment, output / folder) for experiment in experiments if experiment.has_runs
    }
    return write_page(render_week(experiments, pictures, templates), path)


def _draw(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Draw the pictures of an experiment; title → path relative to the report. What has no data is not drawn."""
    drawn = {}
    for title, kind, draw in (
        ("Learning curves", "learning", draw_learning_curves),
        ("Reward composition", "reward", draw_reward_composition),
        ("Equity on the validation split", "equity", draw_equity_curves),
        ("Portfolio", "portfolio", draw_portfolio),
    ):
        path = folder / f"{file_name(experiment.name)}-{kind}.png"
        if draw(experiment, path):
            drawn[title] = f"{folder.name}/{path.name}"
    return drawn


def render_week(
    experiments: Sequence[Experiment], pictures: dict[str, dict[str, str]], templates: Path | None = None
) -> str:
    """The markdown of the report. `pictures`: experiment → title → relative path."""
    sections = [
        {
            "experiment": experiment,
            "title": experiment_title(experiment.name),
            "stability": stability(experiment),
            "headline": headline(scored_agents(experiment)),
            "legend": LEGEND,
            "agent_lines": [agent_line(agent) for agent in _in_order(experiment.agents)],
            "issues": issues(experiment),
            "next_steps": next_steps(experiment),
            "scored": [agent for agent in experiment.agents if agent.scores is not None],
            "families": [family_sentence(found) for found in experiment.families],
            "walk_forward": walk_forward_words(experiment.walk_forward),
            "accounts": portfolio_rows(experiment.portfolio),
            "portfolio": portfolio_words(experiment.portfolio),
            "pictures": pictures.get(experiment.name, {}),
            "captions": CAPTIONS,
        }
        for experiment in experiments
    ]
    return render("week.md.j2", templates, sections=sections)


# --- words ---


def agent_line(agent: AgentSummary) -> str:
    """The agent's line under "Agents Completed", with the guide's marks."""
    line = _agent_line(agent)
    return f"{line}; intervened" if agent.intervened and agent.grade is None else line


def _agent_line(agent: AgentSummary) -> str:
    name, progress = (
        safe(agent.name),
        f"{format_steps(agent.global_step)}/{format_steps(agent.total_timesteps)} steps",
    )
    if agent.grade is not None:
        edge = agent.over_buy_and_hold
        mark = "❌" if not agent.passed else "✅" if edge == "shown" else "➖"
        line = f"{mark} {name}: {agent.sharpe_text} ({safe(agent.grade)})"
        if agent.scores is not None and agent.scores.sharpe_interval is not None:
            line += f", 95% interval {interval(agent.scores.sharpe_interval)}"
        if agent.passed and edge != "shown":
            line += ", passed" if edge == "not judged" else ", passed, edge not shown"
        line += f"; {safe(agent.evidence)}"
        notes = [safe(label) for label in agent.labels]
        if agent.intervened and "intervened" not in agent.labels:
            notes.append("intervened")
        if agent.failed_reasons:
            notes.append("not met: " + ", ".join(_unmet(reason) for reason in agent.failed_reasons))
        if agent.stopped_early:
            notes.append(f"stopped early at {progress}")
        if agent.retrained_in:
            notes.append(f"trained again in {safe(agent.retrained_in)}")
        return line + "".join(f"; {note}" for note in notes)
    if agent.state == "running":
        best = f", best so far {agent.sharpe_text}" if agent.scores is not None else ""
        return f"⏳ {name}: Training ({progress}){best}"
    if agent.state == "stopped":
        return f"⏳ {name}: stopped at {progress}; {_command('resume', agent.run)} continues"
    if agent.state in ENDED_BADLY:
        why = f": {safe(agent.message)}" if agent.message else ""
        resume = f"{_command('resume', agent.run)} continues from its last checkpoint"
        return f"❌ {name}: {agent.state} at {progress}{why}; {resume}"
    if agent.state == "done":
        return f"❌ {name}: trained ({progress}), never evaluated"
    return f"⏳ {name}: {'queued' if agent.state == 'queued' else 'not started'}"


def _unmet(reason: Any) -> str:
    value = reason.get("value")
    shown = "none" if value is None else format_missed(float(value), str(reason["threshold"]))
    return f"{safe(str(reason['criterion']))} {shown} (needs {safe(str(reason['threshold']))})"


def _command(*words: str | None) -> str:
    return code(shlex.join(["p3kit", *map(str, words)]))


def _in_order(agents: Sequence[AgentSummary]) -> list[AgentSummary]:
    """Passed by Sharpe ratio, then failed, then running, then stopped or crashed, then never started."""
    ranks = {"running": 2, "stopped": 3, "crashed": 4, "failed": 4, "done": 4, "queued": 5, "untrained": 6}

    def key(agent: AgentSummary) -> tuple[float, ...]:
        if agent.complete:
            return (0 if agent.passed else 1, -agent.sharpe_or(float("-inf")))
        return (ranks.get(agent.state, 6), 0.0)

    return sorted(agents, key=key)


def stability(experiment: Experiment) -> Stability:
    """GOOD: no critical or warning row about learning, no crash. POOR: a critical row that is still open, or more than
    a fifth of the agents ended badly. FAIR: anything between. What an agent earns is not a matter of stability."""
    begun = [agent for agent in experiment.agents if agent.ranges]
    if not begun:
        return Stability("NOT KNOWN", "nothing was recorded yet", ())
    rows = [(a, f) for a in begun for f in a.findings if f.alarming and f.symptom not in OUTCOMES]
    critical = [f for _, f in rows if f.severity == "critical" and f.open]
    bad = experiment.with_state(*ENDED_BADLY)
    counts = {severity: sum(f.severity == severity for _, f in rows) for severity in ("critical", "warning")}
    counted = ", ".join(count_of(count, f"{severity} row") for severity, count in counts.items())
    why = f"{count_of(len(begun), 'agent')}: {counted} about how they learn, {len(bad)} ended badly."
    word = "FAIR" if rows or bad else "GOOD"
    if critical or len(bad) > _TOO_MANY_CRASHES * len(begun):
        word = "POOR"
    return Stability(word, why, _stability_lines(begun, bad))


def _stability_lines(agents: Sequence[AgentSummary], bad: Sequence[AgentSummary]) -> list[str]:
    nan = _raised(agents, "num.nan")
    lines = [f"NaN losses: {nan}" if nan else "No NaN losses"]
    entropy = _span(agents, "policy/entropy")
    restless = _raised(agents, "policy.hold", "policy.early_entropy", "policy.uniform", "policy.frozen")
    if entropy:
        lines.append(
            f"Entropy not stable: {restless}; {entropy} nats" if restless else f"Entropy stable ({entropy} nats)"
        )
    if norm := _high(agents, "grad/grad_norm"):
        lines.append(f"Grad norms up to {norm} before clipping")
    if kl := _high(agents, "policy/kl_divergence"):
        lines.append(f"KL divergence up to {kl} per update")
    if explained := _span(agents, "value/explained_variance", last=True):
        lines.append(f"Explained variance at the end {explained}")
    if speed := _span(agents, "perf/steps_per_second", last=True):
        lines.append(f"Speed {speed} env steps/s per agent")
    names = ", ".join(safe(agent.name) for agent in bad)
    lines.append(f"Ended badly: {names}" if bad else "No crashes")
    return lines


def _raised(agents: Sequence[AgentSummary], *symptoms: str) -> str:
    found = [(agent, f) for agent in agents for f in agent.alarms if f.symptom in symptoms]
    return ", ".join(f"{safe(agent.name)} ({f.symptom} since {format_steps(f.since_step)})" for agent, f in found)


def _span(agents: Sequence[AgentSummary], metric: str, *, last: bool = False) -> str:
    seen = [agent.ranges[metric] for agent in agents if metric in agent.ranges]
    if not seen:
        return ""
    low = format_number(min(r.last if last else r.low for r in seen))
    high = format_number(max(r.last if last else r.high for r in seen))
    return low if low == high else f"{low} to {high}"


def _high(agents: Sequence[AgentSummary], metric: str) -> str:
    seen = [agent.ranges[metric].high for agent in agents if metric in agent.ranges]
    return format_number(max(seen)) if seen else ""


def walk_forward_words(windows: Sequence[WindowSummary]) -> str:
    """Text on the windows in which the agents did better than buy-and-hold, and on the spread over windows."""
    excesses = [window.excess for window in windows if window.excess is not None]
    if not excesses:
        return ""
    last = windows[-1]
    usual = max((window.bars or 0 for window in windows), default=0)
    cut = ""
    if last.bars and last.bars < _WHOLE_WINDOW * usual:
        cut = " The last window is shorter: bars before the test split are left out (embargo)."
    positive = sum(excess > 0 for excess in excesses)
    low, high = share_interval(positive, len(excesses))
    words = f"Better than buy-and-hold in {positive} of {len(excesses)} windows (95% interval {low:.0%} to {high:.0%})"
    bounds = mean_interval(np.array(excesses))
    if bounds is None:
        return f"{words}; one window gives no spread over windows.{cut}"
    return (
        f"{words}. Mean excess {np.mean(excesses):+z.2f}, standard deviation over windows "
        f"{np.std(excesses, ddof=1):.2f}, 95% interval {interval(bounds)} (Student's t, as if windows were "
        f"independent). The weights of each window were chosen on its bars, so this is no evidence of an "
        f"edge.{cut}"
    )


def next_steps(experiment: Experiment) -> list[str]:
    """Next steps, most urgent first: agents with critical rows, stopped or crashed runs, agents never trained, failures
    without an explanation, then next uses of the passed agents."""
    agents = experiment.agents
    steps = _repair_steps(experiment)
    halted = [agent for agent in agents if not agent.complete and agent.state in ("stopped", *ENDED_BADLY)]
    if halted:
        steps.append(f"Continue {_names(halted)}: {_command('resume', *dict.fromkeys(agent.run for agent in halted))}")
    if running := experiment.with_state("running", "queued"):
        steps.append(f"Let {_names(running)} finish")
    if untrained := experiment.with_state("untrained"):
        steps.append(f"Train the remaining {len(untrained)}: {_names(untrained)}")
    trained = [agent for agent in experiment.ranked if not agent.scored.hardly_trained]
    if short := [agent for agent in experiment.ranked if agent.scored.hardly_trained]:
        steps.append(f"Train {_names(short)} longer: hardly trained, so the results are no evidence")
    unexplained = [a for a in agents if a in trained and not a.passed and not a.patch and not a.unrepaired]
    if unexplained:
        unmet = dict.fromkeys(safe(str(reason["criterion"])) for a in unexplained for reason in a.failed_reasons)
        below = f"below {', '.join(unmet)}" if unmet else "below the criteria"
        steps.append(f"Tune or drop {_names(unexplained)}: {below}, and no symptom was found")
    passed = [agent for agent in trained if agent.passed and agent.over_buy_and_hold != "not judged"]
    if unjudged := [agent for agent in trained if agent.passed and agent not in passed]:
        steps.append(f"Train {_names(unjudged)} with other settings: passed, but an edge cannot be judged")
    if len(passed) >= 3:
        symbols = toml_value(list(dict.fromkeys(agent.symbol for agent in passed[:3])))
        command = _command("tune", "specs/tune.toml", "--set", f"symbols={symbols}")
        steps.append(f"Begin hyperparameter tuning on the best 3: {_names(passed[:3])}: {command}")
    if agents and len(experiment.complete) == len(agents) and passed:
        steps += _last_steps(experiment, passed)
    return steps


def _reference(experiment: Experiment, agent: AgentSummary) -> str:
    """Name of an agent for a command: its run alone if the run has no other agent."""
    alone = sum(other.run == agent.run for other in experiment.agents) == 1
    return str(agent.run) if alone else f"{agent.run}/{agent.name}"


def _repair_steps(experiment: Experiment) -> list[str]:
    """Next steps for symptoms: with a patch, with a failed intervention, and without a known change."""
    agents = [agent for agent in experiment.agents if not agent.passed]
    steps = [
        f"Fix {safe(agent.name)}: {_command('diagnose', _reference(experiment, agent), '--patch')} prints the change"
        for agent in agents
        if agent.patch
    ]
    if len(steps) > _MOST_STEPS:
        rest = f"… and {len(steps) - _MOST_STEPS} more agents with a patch: `p3kit diagnose RUN` shows them"
        steps = [*steps[:_MOST_STEPS], rest]
    for agent in agents:
        if failed := dict.fromkeys(o.symptom for o in agent.outcomes if o.recovered is False):
            titles = ", ".join(symptom_title(symptom) for symptom in failed)
            steps.append(f"Look into {safe(agent.name)}: interventions did not end {titles}")
    if helpless := [agent for agent in agents if agent.unrepaired and not agent.patch]:
        rows = dict.fromkeys(finding.symptom for agent in helpless for finding in agent.unrepaired)
        steps.append(f"Look into {_names(helpless)}: no spec value fixes {', '.join(rows)}")
    return steps


def _last_steps(experiment: Experiment, passed: Sequence[AgentSummary]) -> list[str]:
    """For an experiment whose agents are all graded: the values that did well, then the one look at the test split."""
    best = _reference(experiment, passed[0])
    steps = [f"Keep the values that were validated: {_command('export', best, '--output', 'specs/production.toml')}"]
    if unseen := [agent for agent in passed if agent.final is None]:
        look = _command("evaluate", _reference(experiment, unseen[0]), "--final")
        more = ", and so on" if len(unseen) > 1 else ""
        steps.append(f"After all choices are final, evaluate the test split of {_names(unseen)}: {look}{more}")
    return steps


def _names(agents: Sequence[AgentSummary]) -> str:
    return listed([agent.name for agent in agents])


# --- JSON ---


def week_json(experiments: Sequence[Experiment], path: Path) -> dict[str, Any]:
    """The report for programs: states, grades, scores, issues and next steps. Paths have forward slashes."""
    return {"report": path.as_posix(), "experiments": [_experiment_json(experiment) for experiment in experiments]}


def _experiment_json(experiment: Experiment) -> dict[str, Any]:
    judged = stability(experiment)
    return {
        "name": experiment.name,
        "week": experiment.week,
        "first_day": experiment.first_day.isoformat(),
        "last_day": experiment.last_day.isoformat(),
        "as_of": experiment.as_of.isoformat() if experiment.as_of else None,
        "weeks_with_runs": list(experiment.weeks_with_runs),
        "synthetic": experiment.synthetic,
        "agents_completed": len(experiment.complete),
        "agents": [_agent_json(agent) for agent in experiment.agents],
        "stability": {"word": judged.word, "why": judged.why, "lines": list(judged.lines)},
        "families": [found.to_json() for found in experiment.families],
        "walk_forward": [asdict(window) for window in experiment.walk_forward],
        "portfolio": experiment.portfolio.to_json() if experiment.portfolio else None,
        "paper": [
            {"run": line.run, "folder": line.folder, "fault": line.fault, **line.status} for line in experiment.paper
        ],
        "issues": issues(experiment),
        "next_steps": next_steps(experiment),
    }


def _agent_json(agent: AgentSummary) -> dict[str, Any]:
    scores = agent.scores
    return {
        "name": agent.name,
        "symbol": agent.symbol,
        "state": agent.state,
        "run": agent.run,
        "global_step": agent.global_step,
        "total_timesteps": agent.total_timesteps,
        "grade": agent.grade,
        "reasons": list(agent.reasons),
        "labels": list(agent.labels),
        "over_buy_and_hold": agent.over_buy_and_hold,
        "judged": agent.judged,
        "in_words": agent.in_words if agent.complete else None,
        "metrics": dict(scores.metrics) if scores else None,
        "sharpe_interval": scores.sharpe_interval if scores else None,
        "deflated_sharpe": asdict(agent.deflated) if agent.deflated else None,
        "excess_interval": scores.excess_interval if scores else None,
        "baselines": dict(scores.baselines) if scores else None,
        "symptoms": [finding.symptom for finding in agent.alarms],
    }
