"""An experiment in one week as plain data: run directories in, frozen dataclasses out.

A report shows the state at one moment: now, or the end of its week, whichever is earlier. Everything is read by its
time stamp, so the report of an old week never changes, and the same files give the same data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from p3kit import edge
from p3kit.errors import RunNotFound
from p3kit.headline import Scored
from p3kit.metrics import deflated_choice, interquartile_mean
from p3kit.plan import agent_name
from p3kit.report.agent_data import AgentSummary, Deflated, Scores, summarise_agent
from p3kit.report.paper_data import PaperLine, paper_lines
from p3kit.report.portfolio_data import Portfolio, build_portfolio
from p3kit.report.run_history import RunHistory, command_line
from p3kit.rundir import RunDir, intact_runs

ENDED_BADLY = ("crashed", "failed")


@dataclass(frozen=True)
class OverSeeds:
    """Agents that differ only in the seed. `sharpes` has those that traded; None if fewer than two did."""

    name: str
    agents: int
    sharpes: Sequence[float]
    mean: float | None
    std: float | None
    interquartile_mean: float | None
    shown: int
    """Of them, those whose edge over buy-and-hold is shown."""


@dataclass(frozen=True)
class WindowSummary:
    """The graded agents of one walk-forward window; means over those that traded, None where none did."""

    validation: str
    """Its validation days."""
    agents: int
    sharpe: float | None
    excess: float | None
    """Sharpe ratio minus buy-and-hold's; of an agent that never traded, minus buy-and-hold's."""
    shown: int
    """Agents whose edge over buy-and-hold is shown."""
    bars: int | None = None
    """The most that an agent was judged on: an embargo shortens the window before the test split."""


@dataclass(frozen=True)
class Experiment:
    """All agents of one spec, at the time of the report. Days are UTC."""

    name: str
    week: int
    first_day: date
    last_day: date
    as_of: datetime | None
    """The newest record in the report; None in a week without runs."""
    weeks_with_runs: Sequence[int]
    is_future: bool = False
    """True for a week that starts after the report."""
    agents: Sequence[AgentSummary] = ()
    runs: Sequence[str] = ()
    trainer: str = ""
    source: str = ""
    synthetic: bool = False
    seeds: int = 1
    commands: Sequence[str] = ()
    commits: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    paper: Sequence[PaperLine] = ()
    """Paper accounts at the end of the week, whether or not anything was trained in it."""

    @property
    def has_runs(self) -> bool:
        """Return True if anything was recorded within the week."""
        return self.as_of is not None

    def with_state(self, *states: str) -> list[AgentSummary]:
        return [agent for agent in self.agents if agent.state in states]

    @property
    def complete(self) -> list[AgentSummary]:
        return [agent for agent in self.agents if agent.complete]

    @property
    def over_seeds(self) -> list[OverSeeds]:
        """Graded agents with several seeds, one row per symbol and matrix point. A seed counts once: agents of the
        newest spec come before agents that only older runs have."""
        groups: dict[str, dict[int, AgentSummary]] = {}
        for agent in self.complete:
            groups.setdefault(agent.name.replace(f".s{agent.seed}", "", 1), {}).setdefault(agent.seed, agent)
        return [_over_seeds(name, list(agents.values())) for name, agents in groups.items() if len(agents) > 1]

    @property
    def walk_forward(self) -> list[WindowSummary]:
        """The windows that have graded agents, in order of time."""
        windows: dict[str, list[AgentSummary]] = {}
        for agent in self.complete:
            if agent.window is not None:
                windows.setdefault(agent.window, []).append(agent)
        return [_window(agents) for _, agents in sorted(windows.items())]

    @cached_property
    def portfolio(self) -> Portfolio | None:
        """The graded agents as one account; None if there is too little data."""
        return build_portfolio(self.complete, synthetic=self.synthetic)

    @cached_property
    def families(self) -> list[edge.Family]:
        """The graded agents together, against each yardstick."""
        members = [agent.member for agent in self.complete if agent.member is not None]
        return [edge.family(members, yardstick) for yardstick in edge.YARDSTICKS] if members else []

    @property
    def final_looks(self) -> int:
        """Number of evaluations of the test split, over all agents."""
        return sum(agent.final.looks for agent in self.agents if agent.final is not None)

    @property
    def ranked(self) -> list[AgentSummary]:
        """Graded agents by validation Sharpe, the best first."""
        return sorted(self.complete, key=lambda agent: -agent.sharpe_or(-np.inf))


def summarise_week(runs_root: Path, week: int, now: float, name: str | None = None) -> list[Experiment]:
    """The experiments of `runs_root` in their week number `week` (from 1), by name. `now` in unix seconds.

    Damaged run directories are left out; `intact_runs` names them. Raises RunNotFound where there are no runs at all,
    or none of that name.
    """
    groups: dict[str, list[tuple[RunDir, dict[str, Any]]]] = {}
    for run in intact_runs(runs_root)[0]:
        info = run.info()
        groups.setdefault(str(info["name"]), []).append((run, info))
    if not groups:
        raise RunNotFound(
            str(runs_root), "there are no runs to report on", "start one with: p3kit run specs/smoke.toml"
        )
    if name is not None and name not in groups:
        raise RunNotFound(
            f"--name {name}", f"no experiment of that name in {runs_root}", f"there are: {', '.join(groups)}"
        )
    names = [name] if name is not None else sorted(groups)
    found = [_summarise(groups[experiment], experiment, week, now) for experiment in names]
    return [
        replace(one, paper=paper_lines((run for run, _ in groups[one.name]), min(one.last_day, _day(now))))
        for one in found
    ]


def summarise_newest(runs_root: Path, now: float, only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of `runs_root` as they are now, by name, or those of the runs `only`."""
    groups: dict[str, list[tuple[RunDir, dict[str, Any]]]] = {}
    for run in intact_runs(runs_root)[0]:
        if not only or run.name in only:
            info = run.info()
            groups.setdefault(str(info["name"]), []).append((run, info))
    found = [(group, _summarise(group, name, 1, now)) for name, group in sorted(groups.items())]
    weeks = [(group, one, max(one.weeks_with_runs, default=1)) for group, one in found]
    return [one if one.week == week else _summarise(group, one.name, week, now) for group, one, week in weeks]


def scored_agents(experiment: Experiment) -> list[Scored]:
    """The graded agents, as the headline takes them."""
    agents = [agent for agent in experiment.agents if agent.complete and agent.scores]
    return [replace(agent.scored, synthetic=experiment.synthetic) for agent in agents]


def first_day(infos: Iterable[Mapping[str, Any]]) -> date:
    """First day of week 1 of an experiment: `start_date` of its newest spec, or the day of its first run (UTC)."""
    infos = list(infos)
    start = infos[-1]["spec"].get("start_date")
    if start is not None:
        return start if isinstance(start, date) else date.fromisoformat(str(start)[:10])
    return _day(min(float(info["created"]) for info in infos))


def _summarise(group: Sequence[tuple[RunDir, dict[str, Any]]], name: str, week: int, now: float) -> Experiment:
    begin = first_day(info for _, info in group)
    monday, sunday = begin + timedelta(days=7 * (week - 1)), begin + timedelta(days=7 * week - 1)
    moment = min(now, _midnight(sunday + timedelta(days=1)))
    histories = [RunHistory(run, info, moment) for run, info in group]
    times = [time for history in histories for time in history.all_times if time <= now]  # a clock may have jumped back
    weeks = sorted({(_day(time) - begin).days // 7 + 1 for time in times if _day(time) >= begin})
    known = [history for history in histories if history.begun]
    facts = Experiment(name, week, monday, sunday, None, weeks, is_future=now < _midnight(monday))
    if not known or week not in weeks:
        return facts
    newest = known[-1].info
    data = [(symbol, entry) for history in known for symbol, entry in (history.info.get("data") or {}).items()]
    return Experiment(
        name=name,
        week=week,
        first_day=monday,
        last_day=sunday,
        as_of=datetime.fromtimestamp(max(history.last_time for history in known), UTC),
        weeks_with_runs=weeks,
        agents=_agents(known),
        runs=[history.run.name for history in known],
        trainer=str(newest["trainer"]),
        source=", ".join(dict.fromkeys(str(entry.get("source", "")) for _, entry in data)),
        synthetic=any(entry.get("synthetic") for _, entry in data),
        seeds=len(newest["spec"].get("seeds") or [1]),
        commands=list(dict.fromkeys(command_line(history.info) for history in known)),
        commits=list(dict.fromkeys(str(h.info["git_commit"]) for h in known if h.info.get("git_commit"))),
        versions=newest.get("versions") or {},
        fingerprints={symbol: str(entry.get("fingerprint", "")) for symbol, entry in sorted(data, key=lambda d: d[0])},
    )


def _agents(histories: Sequence[RunHistory]) -> list[AgentSummary]:
    """Every agent of the newest spec, then those that only older runs have. Each comes from its newest graded run, else
    from its newest run."""
    runs_of: dict[str, list[tuple[RunHistory, Mapping[str, Any]]]] = {}
    for history in histories:
        for plan in history.info["agents"]:
            runs_of.setdefault(plan["name"], []).append((history, plan))
    planned = _planned(histories[-1].info)
    tried = _tried(histories)
    agents = []
    for name in [*planned, *(name for name in runs_of if name not in planned)]:
        tries = runs_of.get(name)
        if not tries:
            agents.append(AgentSummary(name, planned[name]))
            continue
        graded = [attempt for attempt in tries if attempt[0].since_extension(name, "verdict")]
        history, plan = graded[-1] if graded else tries[-1]
        newer = tries[-1][0].run.name if tries[-1][0] is not history else None
        summary = summarise_agent(history, plan, newer)
        agents.append(replace(summary, deflated=_deflate(summary.scores, tried.get(plan["symbol"], []))))
    return agents


def _tried(histories: Sequence[RunHistory]) -> dict[str, list[float]]:
    """Symbol → the Sharpe ratios of all evaluations on its validation bars, by whichever agent of whichever run."""
    tried: dict[str, list[float]] = {}
    for history in histories:
        for plan in history.info["agents"]:
            sharpes = (event["metrics"].get("eval/sharpe_ratio") for event in history.of(plan["name"], "evaluation"))
            tried.setdefault(plan["symbol"], []).extend(sharpe for sharpe in sharpes if sharpe is not None)
    return tried


def _deflate(scores: Scores | None, tried: Sequence[float]) -> Deflated | None:
    if scores is None or scores.sharpe is None or scores.returns is None:
        return None
    return Deflated(deflated_choice(scores.sharpe, scores.returns, tried), len(tried))


def _planned(info: Mapping[str, Any]) -> dict[str, str]:
    """Agent name → symbol, for every agent in the spec of a run (the run may train only one of them). Read from the
    stored tables, because the data or the trainer of the spec may be gone at the time of the report."""
    spec = info["spec"]
    seeds, matrix = spec.get("seeds") or [1], spec.get("matrix") or {}
    points = [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]
    return {
        agent_name(symbol, seed, point, several_seeds=len(seeds) > 1, window=window): symbol
        for window in info.get("windows") or [None]
        for symbol in spec.get("symbols") or []
        for seed in seeds
        for point in points
    }


def _over_seeds(name: str, agents: Sequence[AgentSummary]) -> OverSeeds:
    sharpes = [agent.scores.sharpe for agent in agents if agent.scores and agent.scores.sharpe is not None]
    enough = len(sharpes) > 1
    return OverSeeds(
        name=name,
        agents=len(agents),
        sharpes=sharpes,
        mean=float(np.mean(sharpes)) if enough else None,
        std=float(np.std(sharpes, ddof=1)) if enough else None,
        interquartile_mean=interquartile_mean(np.array(sharpes)) if enough else None,
        shown=sum(agent.over_buy_and_hold == "shown" for agent in agents),
    )


def _window(agents: Sequence[AgentSummary]) -> WindowSummary:
    sharpes = [agent.scores.sharpe for agent in agents if agent.scores and agent.scores.sharpe is not None]
    excesses = [excess for agent in agents if (excess := _excess(agent)) is not None]
    return WindowSummary(
        validation=str(agents[0].spec["data"]["split"]["validation"]).replace("..", " to "),
        agents=len(agents),
        sharpe=float(np.mean(sharpes)) if sharpes else None,
        excess=float(np.mean(excesses)) if excesses else None,
        shown=sum(agent.over_buy_and_hold == "shown" for agent in agents),
        bars=max((_bars(agent) for agent in agents), default=0) or None,
    )


def _bars(agent: AgentSummary) -> int:
    shape = agent.scores.returns if agent.scores is not None else None
    return shape["bars"] if shape is not None else 0


def _excess(agent: AgentSummary) -> float | None:
    if agent.scores is None:
        return None
    excess = agent.scores.metrics.get("eval/sharpe_excess")
    held = agent.scores.metrics.get("eval/buy_and_hold_sharpe")
    return excess if excess is not None else None if held is None else -held


def _day(time: float) -> date:
    return datetime.fromtimestamp(time, UTC).date()


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
