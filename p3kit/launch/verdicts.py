"""Results of the agents of some runs: the verdicts their trainers left in `status.json`, as a table and as plain data.

Nothing is judged here. Returns, drawdowns and shares are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from p3kit import edge
from p3kit.console import FittingTable
from p3kit.diagnose.findings import format_missed
from p3kit.headline import HARDLY_TRAINED, LEGEND, Scored, headline
from p3kit.launch.display import number
from p3kit.rundir import RunDir, read_candidates

BASELINES = {
    "hold": "all-HOLD",
    "buy_and_hold": "buy & hold",
    "random": "random",
    "moving_average": "mov. avg",
}
"""Baselines by the name they are recorded under, in the order of the table."""

GRADES = ("STRETCH", "STRONG", "PASS", "FAIL")
_LABEL_WIDTH = 20
_COLOURS = {"STRETCH": "bold green", "STRONG": "bold green", "PASS": "green", "FAIL": "red"}


@dataclass(frozen=True)
class AgentResult:
    """One agent of one run. `verdict` is None while there is none: stopped, crashed, failed, or a task without one."""

    run: str
    agent: str
    experiment: str
    state: str
    message: str
    synthetic: bool
    verdict: Mapping[str, Any] | None
    window: str | None = None
    """First validation day of its walk-forward window."""
    intervened: bool = False
    read: Callable[[], Sequence[edge.Candidate]] = tuple
    """Reads its candidates."""

    @property
    def member(self) -> edge.Member:
        """The agent as a member of a family."""
        return edge.Member(self.agent, self.get("judged"), self.read, self.get("chosen_step"))

    @property
    def in_words(self) -> str:
        """One plain sentence about what it earned and what that shows."""
        return edge.sentence(self.grade, self.metric("sharpe_ratio"), self.get("judged"))

    @property
    def grade(self) -> str:
        """FAIL, PASS, STRONG or STRETCH; empty while there is no verdict."""
        return str(self.get("grade") or "")

    def get(self, key: str) -> Any:
        """Value of the verdict under `key`; None where it has none."""
        return None if self.verdict is None else self.verdict.get(key)

    def metric(self, name: str) -> float | None:
        """A validation metric of the weights that were chosen, such as `sharpe_ratio`; None where it does not apply."""
        metrics: Mapping[str, float | None] = self.get("metrics") or {}
        return metrics.get(f"eval/{name}")

    def baseline(self, name: str, metric: str) -> float | None:
        """The same metric of a baseline on the same bars."""
        baselines: Mapping[str, Mapping[str, float | None]] = self.get("baselines") or {}
        return baselines.get(name, {}).get(metric)

    def unmet(self) -> list[Mapping[str, Any]]:
        """Criteria that the agent misses for PASS, or else for STRONG: {criterion, value, threshold}, in order."""
        wanted = "minimum" if self.grade == "FAIL" else "strong"
        return [reason for reason in self.get("reasons") or [] if reason["set"] == wanted and not reason["met"]]

    @property
    def scored(self) -> Scored:
        """Its part of the headline."""
        own, hold = self.metric, partial(self.baseline, "buy_and_hold")
        label = edge.label(self.get("judged"))
        columns = own("total_return"), hold("total_return"), own("max_drawdown"), hold("max_drawdown")
        is_new = HARDLY_TRAINED in (self.get("labels") or ())
        return Scored(self.agent, label, *columns, self.window, self.synthetic, is_new)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "agent": self.agent,
            "experiment": self.experiment,
            "state": self.state,
            "message": self.message,
            "synthetic": self.synthetic,
            "intervened": self.intervened,
            "verdict": self.verdict,
        }


def agent_results(runs: Sequence[RunDir]) -> list[AgentResult]:
    """Every agent of `runs`, in the order of the plan."""
    results = []
    for run in runs:
        info, status = run.info(), run.status()
        for planned in info["agents"]:
            agent = status["agents"].get(planned["name"], {})
            results.append(
                AgentResult(
                    run=run.name,
                    agent=planned["name"],
                    experiment=info["name"],
                    state=status["state"],
                    message=status["message"],
                    synthetic=bool(info.get("data", {}).get(planned.get("symbol"), {}).get("synthetic", False)),
                    verdict=agent.get("verdict"),
                    window=planned.get("window"),
                    intervened=bool(agent.get("interventions")),
                    read=partial(_read, run, planned["name"]),
                )
            )
    return results


def _read(run: RunDir, agent: str) -> Sequence[edge.Candidate]:
    return read_candidates(run, agent, run.read_events("evaluation", agent))


def verdict_lines(results: Sequence[AgentResult]) -> list[RenderableType]:
    """The verdict tables, 80 columns wide: grades with their uncertainty, returns beside the baselines, and reasons."""
    judged = [result for result in results if result.verdict is not None]
    title = " and ".join(sorted({result.experiment for result in results})) + ": verdicts on the validation split"
    if any(result.synthetic for result in results):
        title += ", SYNTHETIC data: no evidence about a real market"
    parts: list[RenderableType] = []
    if judged:
        parts += [Text(headline([result.scored for result in judged]), style="bold"), ""]
    parts.append(Text(title))
    if judged:
        labels = _labels(judged)
        parts += ["", _grades(judged, labels), "", Text(LEGEND, style="dim")]
        if any(result.intervened for result in judged):
            parts.append(Text("* intervened while training: p3kit diagnose RUN lists the changes", style="dim"))
        parts += ["", _scores(judged, labels), "", _returns(judged, labels), ""]
    parts += [_remark(result) for result in results]
    if len(judged) > 1:
        parts.append(Text(_tally(judged), style="bold"))
        found = edge.family([result.member for result in judged])
        parts += [Text(edge.family_sentence(found))] if found.judged > 1 else []
    return parts


def _grades(judged: Sequence[AgentResult], labels: Sequence[str]) -> Table:
    table = _table((), "agent", "grade")
    table.add_column("what it shows", overflow="fold")
    for result, label in zip(judged, labels, strict=True):
        grade = Text(f"{result.grade}{'*' if result.intervened else ''}", style=_COLOURS.get(result.grade, ""))
        table.add_row(Text(label), grade, Text(result.in_words))
    return table


def _scores(judged: Sequence[AgentResult], labels: Sequence[str]) -> Table:
    table = _table(("trades", "drawdown"), "agent", "Sharpe [95 % interval]", "drawdown", "trades")
    for result, label in zip(judged, labels, strict=True):
        table.add_row(
            Text(label),
            _with_interval(result.metric("sharpe_ratio"), result.get("sharpe_interval")),
            number(result.metric("max_drawdown"), ".3f"),
            number(result.metric("total_trades"), ".0f"),
        )
    return table


def _returns(judged: Sequence[AgentResult], labels: Sequence[str]) -> Table:
    optional = ("supervised", "mov. avg", "random", "all-HOLD")
    table = _table(optional, "total return", "agent", *BASELINES.values(), "supervised")
    for result, label in zip(judged, labels, strict=True):
        table.add_row(
            Text(label),
            Text(number(result.metric("total_return"), "+z.3f"), style="bold"),
            *(number(result.baseline(name, "total_return"), "+z.3f") for name in BASELINES),
            number(result.get("supervised_return"), "+z.3f"),
        )
    return table


def _remark(result: AgentResult) -> Text:
    """One line below the tables: why not better, and what to keep in mind."""
    label = f"{result.run}/{result.agent}"
    if result.verdict is None:
        reason = f": {result.message}" if result.message else ""
        why = "" if result.state != "done" else ", without a verdict"
        why += ", intervened" if result.intervened else ""
        return Text(f"{label} {result.state}{why}{reason}", style="yellow")
    unmet = result.unmet()
    parts = []
    if unmet:
        first = unmet[0]
        value = "n/a" if first["value"] is None else format_missed(first["value"], first["threshold"])
        more = f" (and {len(unmet) - 1} more)" if len(unmet) > 1 else ""
        aim = "PASS" if result.grade == "FAIL" else "STRONG"
        parts.append(f"not {aim}: {first['criterion']} is {value}, needs {first['threshold']}{more}")
    labels = list(result.get("labels") or [])
    parts += labels + (["intervened"] if result.intervened and "intervened" not in labels else [])
    if ended := result.get("ended_early"):
        parts.append(f"stopped early: {ended}")
    step = result.get("chosen_step")
    parts.insert(0, f"{label} {result.grade}" + ("" if step is None else f" at step {step:,}"))
    return Text(" · ".join(parts))


def _tally(judged: Sequence[AgentResult]) -> str:
    grades = [result.grade for result in judged]
    counted = ", ".join(f"{grades.count(grade)} {grade}" for grade in GRADES if grade in grades)
    shown = sum(edge.label(result.get("judged")) == "shown" for result in judged)
    changed = sum(result.intervened for result in judged)
    labelled = f"; {changed} intervened" if changed else ""
    return f"{len(judged)} agents: {counted}; {shown} shown to beat buy-and-hold{labelled}"


def _table(optional: Sequence[str], first: str, *others: str) -> Table:
    table = FittingTable(optional=optional, agents=first)
    table.add_column(first)  # its labels get shorter
    for name in others:
        table.add_column(name, justify="left" if name == "grade" else "right", no_wrap=True)
    return table


def _labels(judged: Sequence[AgentResult]) -> list[str]:
    """RUN/AGENT, or the agent alone if that is too long for the table and names of agents are unique."""
    whole, names = [f"{result.run}/{result.agent}" for result in judged], [result.agent for result in judged]
    return names if max(map(len, whole)) > _LABEL_WIDTH and len(set(names)) == len(names) else whole


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:z.2f}" + (f" [{edge.bound(interval[0])}, {edge.bound(interval[1])}]" if interval else "")
