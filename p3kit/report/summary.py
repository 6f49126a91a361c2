"""What a report says, as plain data: run directories in, frozen dataclasses out. No words and no pictures here.

A report shows the state at one moment: now, or the end of its week, whichever is earlier. Everything is read by its
time stamp, so the report of an old week never changes, and the same files give the same summary.
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

from p3kit.diagnose.diagnosis import OUTCOMES, gather_evidence, judge, merged_patch, ranges
from p3kit.diagnose.evidence import Evidence, Recorded
from p3kit.diagnose.findings import AgentDiagnosis, Finding, Range
from p3kit.diagnose.journal import did_in_words, for_agent, intervened
from p3kit.errors import RunNotFound
from p3kit.metrics import COMPONENTS, ReturnShape, deflated_choice, interquartile_mean
from p3kit.plan import agent_name
from p3kit.report.portfolio import Portfolio, build_portfolio
from p3kit.rundir import RunDir, Series, chosen_evaluation, concerns, intact_runs

BASELINES = ("hold", "buy_and_hold", "moving_average", "random")
CURVES = (
    "eval/sharpe_ratio",
    "eval/buy_and_hold_sharpe",
    "episode/episode_reward_mean",
    "policy/entropy_norm",
    "policy/hold_share",
    "value/value_loss",
    "value/explained_variance",
    "diag/ev_reference",
    *(f"reward/episode_share.{component}" for component in COMPONENTS),
)
"""The metrics that the pictures of a report show."""
Curve = tuple[Sequence[int], Sequence[float]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """One evaluation on the validation split: the policy's metrics, the fixed rules', intervals, regimes."""

    global_step: int
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float | None]]
    sharpe_interval: Interval | None
    excess_interval: Interval | None
    regimes: Mapping[str, Mapping[str, float | None]]
    returns: ReturnShape | None
    """None for a policy that never traded, and where an older journal does not have it."""

    @property
    def sharpe(self) -> float | None:
        """None for a policy that never traded."""
        return self.metrics.get("eval/sharpe_ratio")


@dataclass(frozen=True)
class Deflated:
    """Chance that the true Sharpe ratio is above 0, the luck of the best of `trials` taken off."""

    value: float
    trials: int
    """Evaluations of the symbol in this experiment, whichever agent made them."""


@dataclass(frozen=True)
class Outcome:
    """What one intervention did about a symptom, from the journal.

    `symptom` is the row it was on, or `intervention "ID"` where its trigger names none. `keys`: spec path → value
    before and after. `ended` is the step at which it was verified, released or found to have failed; None while it is
    live. `recovered` is None where neither the journal nor the diagnosis tells.
    """

    symptom: str
    global_step: int
    keys: Mapping[str, Sequence[Any]]
    recovered: bool | None
    ended: int | None = None
    word: str = ""
    """How the journal says it ended: verified, released, failed, or over after the span it was meant to last."""
    rolled_back_to: str = ""
    """The checkpoint that training went back to."""
    rule: str = ""
    """The intervention, by its id."""
    did: Sequence[str] = ()
    """What it did beside, in words: `update ended`."""
    turns: int = 1
    """How often a controller has turned the key; `keys` has its first value and its last."""


@dataclass(frozen=True)
class FinalLook:
    """What the newest look at the test split found, and how many looks there were."""

    looks: int
    metrics: Mapping[str, float]
    sharpe_interval: Interval | None
    excess_interval: Interval | None


@dataclass(frozen=True)
class OverSeeds:
    """Agents that differ in nothing but the seed. `sharpes` has those that traded; None where fewer than two did."""

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
class AgentSummary:
    """One agent of an experiment at the moment of the report. `run` is None while nobody has begun it."""

    name: str
    symbol: str
    state: str = "untrained"
    run: str | None = None
    global_step: int = 0
    total_timesteps: int = 0
    message: str = ""
    stopped_early: str = ""
    grade: str | None = None
    reasons: Sequence[Mapping[str, Any]] = ()
    labels: Sequence[str] = ()
    over_buy_and_hold: str = "not shown"
    supervised_return: float | None = None
    scores: Scores | None = None
    deflated: Deflated | None = None
    findings: Sequence[Finding] = ()
    outcomes: Sequence[Outcome] = ()
    suppressed: Mapping[str, int] = field(default_factory=dict)
    """Symptom → how often an intervention on it was held back."""
    intervened: bool = False
    """Whether something changed how it trains: its scores are not those of its spec alone."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    patch: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    equity: Mapping[str, Any] | None = None
    retrained_in: str | None = None
    """A newer run of this agent that has no verdict yet."""
    seed: int = 1
    final: FinalLook | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    """Its point of the matrix, by spec path."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The resolved spec as it applies to this agent, as plain tables."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says about its bars: fingerprint, source, synthetic, bars_per_year; empty where there are none."""
    window: str | None = None
    """First validation day of its walk-forward window."""

    @property
    def grade_text(self) -> str:
        """`PASS`, or `PASS, intervened`; a dash before there is one."""
        return f"{self.grade or '–'}{', intervened' if self.intervened else ''}"

    @property
    def complete(self) -> bool:
        """Trained to the end, or stopped early by its own rules, and graded."""
        return self.grade is not None

    @property
    def passed(self) -> bool:
        return self.grade is not None and self.grade != "FAIL"

    @property
    def failed_reasons(self) -> list[Mapping[str, Any]]:
        """The minimum criteria that were not met."""
        return [reason for reason in self.reasons if not reason["met"] and reason.get("set", "minimum") == "minimum"]

    @property
    def unrepaired(self) -> list[Finding]:
        """Alarms that still held at the end of the record. What an agent earns is another matter: see the grade."""
        return [finding for finding in self.alarms if finding.open and finding.symptom not in OUTCOMES]

    @property
    def alarms(self) -> list[Finding]:
        """Critical and warning rows that no other row explains."""
        return [finding for finding in self.findings if finding.alarming and finding.follows is None]

    @property
    def sharpe_text(self) -> str:
        """`Sharpe 0.42`, or `Sharpe n/a` for a policy that never traded."""
        sharpe = self.scores.sharpe if self.scores else None
        return "Sharpe n/a" if sharpe is None else f"Sharpe {sharpe:.2f}"

    def sharpe_or(self, otherwise: float) -> float:
        sharpe = self.scores.sharpe if self.scores else None
        return otherwise if sharpe is None else sharpe


@dataclass(frozen=True)
class Experiment:
    """All agents that one spec asks for, at the moment of the report. Days are UTC."""

    name: str
    week: int
    first_day: date
    last_day: date
    as_of: datetime | None
    """The newest record that the report knows; None in a week without runs."""
    weeks_with_runs: Sequence[int]
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

    @property
    def has_runs(self) -> bool:
        """Whether anything was recorded within the week."""
        return self.as_of is not None

    def with_state(self, *states: str) -> list[AgentSummary]:
        return [agent for agent in self.agents if agent.state in states]

    @property
    def complete(self) -> list[AgentSummary]:
        return [agent for agent in self.agents if agent.complete]

    @property
    def over_seeds(self) -> list[OverSeeds]:
        """Graded agents with several seeds, one row per symbol and matrix point. A seed counts once: agents that
        the newest spec asks for come before those that only older runs know."""
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
        """The graded agents as one account; None where that says nothing."""
        return build_portfolio(self.complete, synthetic=self.synthetic)

    @property
    def final_looks(self) -> int:
        """How often the test split was looked at, over all agents."""
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
    return [_summarise(groups[experiment], experiment, week, now) for experiment in names]


def first_day(infos: Iterable[Mapping[str, Any]]) -> date:
    """Where week 1 of an experiment begins: `start_date` of its newest spec, or the day of its first run (UTC)."""
    infos = list(infos)
    start = infos[-1]["spec"].get("start_date")
    if start is not None:
        return start if isinstance(start, date) else date.fromisoformat(str(start)[:10])
    return _day(min(float(info["created"]) for info in infos))


def _summarise(group: Sequence[tuple[RunDir, dict[str, Any]]], name: str, week: int, now: float) -> Experiment:
    begin = first_day(info for _, info in group)
    monday, sunday = begin + timedelta(days=7 * (week - 1)), begin + timedelta(days=7 * week - 1)
    moment = min(now, _midnight(sunday + timedelta(days=1)))
    histories = [History(run, info, moment) for run, info in group]
    told = [time for history in histories for time in history.all_times if time <= now]  # a clock may have jumped back
    weeks = sorted(_weeks_of(told, begin))
    known = [history for history in histories if history.begun]
    facts = Experiment(name, week, monday, sunday, None, weeks)
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
        commands=list(dict.fromkeys(_shell(history.info.get("command") or []) for history in known)),
        commits=list(dict.fromkeys(str(h.info["git_commit"]) for h in known if h.info.get("git_commit"))),
        versions=newest.get("versions") or {},
        fingerprints={symbol: str(entry.get("fingerprint", "")) for symbol, entry in sorted(data, key=lambda d: d[0])},
    )


class History:
    """One run as it was known at `moment` (unix seconds): its rows, events and state up to then."""

    def __init__(self, run: RunDir, info: dict[str, Any], moment: float) -> None:
        self.run, self.info, self.moment = run, info, moment
        rows, events = run.read_metrics(), run.read_events()
        self.all_times = [float(info["created"]), *(float(row["time"]) for row in (*rows, *events))]
        self.rows = [row for row in rows if row["time"] <= moment]
        self.events = [event for event in events if event["time"] <= moment]
        self.begun = float(info["created"]) <= moment

    @property
    def last_time(self) -> float:
        return max(time for time in self.all_times if time <= self.moment)

    def state(self, agent: str) -> tuple[str, str]:
        """(state, message) of an agent. `status.json` knows only the present; for the past the journal is asked."""
        status = self.run.status()
        if float(status.get("heartbeat") or 0.0) <= self.moment:
            entry = (status.get("agents") or {}).get(agent) or {}
            state = str(status["state"])
            if state == "running" and entry.get("state") in ("done", "stopped"):
                state = str(entry["state"])
            return state, str(status.get("message") or "")
        for event in reversed(self.events):
            if event["kind"] == "verdict" and event["agent"] == agent:
                return "done", ""
            if event["kind"] == "crash":
                return "crashed", str(event.get("message") or "")
            if event["kind"] == "resume":
                break
        return ("running", "") if self.rows else ("queued", "")

    def series(self, agent: str) -> dict[str, Series]:
        """The metrics of an agent up to the moment; the form of `RunDir.series`."""
        columns: dict[str, list[tuple[int, float, int]]] = {}
        for row in self.rows:
            if row["agent"] == agent:
                for metric, value in row["metrics"].items():
                    columns.setdefault(metric, []).append((row["global_step"], value, row["iteration"]))
        arrays = {metric: list(zip(*points, strict=True)) for metric, points in columns.items()}
        return {
            metric: Series(np.array(steps, np.int64), np.array(values, np.float64), np.array(iterations, np.int64))
            for metric, (steps, values, iterations) in arrays.items()
        }

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """The record of every agent, as the diagnosis takes it."""
        found = {}
        for plan in self.info["agents"]:
            state, message = self.state(plan["name"])
            status = {"state": state, "message": message}
            found[plan["name"]] = gather_evidence(self.series(plan["name"]), plan, self.info, status, self.events)
        return found

    def of(self, agent: str, kind: str) -> list[dict[str, Any]]:
        """The events of one kind that concern an agent."""
        return [event for event in self.events if event["kind"] == kind and concerns(event, agent)]


def _agents(histories: Sequence[History]) -> list[AgentSummary]:
    """Every agent that the newest spec asks for, then those that only older runs know; each from the run that tells
    most: the newest that was graded, else the newest."""
    runs_of: dict[str, list[tuple[History, Mapping[str, Any]]]] = {}
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
        graded = [attempt for attempt in tries if attempt[0].of(name, "verdict")]
        history, plan = graded[-1] if graded else tries[-1]
        newer = tries[-1][0].run.name if tries[-1][0] is not history else None
        summary = summarise_agent(history, plan, newer)
        agents.append(replace(summary, deflated=_deflate(summary.scores, tried.get(plan["symbol"], []))))
    return agents


def _tried(histories: Sequence[History]) -> dict[str, list[float]]:
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
    """Agent name → symbol, for every agent that the spec of a run asks for (a run may train one of them only). Read
    from the stored tables: a report is written long after the data or the trainer that the spec names may have gone."""
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


def summarise_agent(history: History, plan: Mapping[str, Any], retrained_in: str | None = None) -> AgentSummary:
    """One agent of one run, as known at the history's moment. `plan` is its entry in run.json."""
    name = plan["name"]
    state, message = history.state(name)
    evidence = history.evidence[name]
    evidence = replace(evidence, peers=[other for other in history.evidence.values() if other is not evidence])
    findings = judge(evidence)
    several = len(history.info["spec"].get("symbols") or []) > 1
    seen = tuple(ranges(evidence))
    diagnosis = AgentDiagnosis(
        history.run.name, name, plan["symbol"], several, evidence.last_step, evidence.total_timesteps, findings, seen
    )
    verdicts = history.of(name, "verdict")
    verdict = verdicts[-1] if verdicts else {}
    scores = _chosen_scores(plan, history.of(name, "evaluation"), verdict.get("chosen_step"))
    early = history.of(name, "early_stop")
    journal = [for_agent(event, name) for event in history.of(name, "intervention")]
    return AgentSummary(
        name=name,
        symbol=plan["symbol"],
        state=state,
        run=history.run.name,
        global_step=evidence.last_step,
        total_timesteps=evidence.total_timesteps,
        message=message,
        stopped_early=str(early[-1].get("reason") or "") if early else "",
        grade=verdict.get("grade"),
        reasons=verdict.get("reasons") or (),
        labels=verdict.get("labels") or (),
        over_buy_and_hold=str(verdict.get("over_buy_and_hold") or "not shown"),
        supervised_return=verdict.get("supervised_return"),
        scores=scores,
        findings=findings,
        outcomes=_outcomes(journal, findings),
        suppressed=_suppressed(journal),
        intervened=intervened(journal),
        ranges={found.metric: found for found in seen},
        patch=merged_patch([diagnosis]),
        curves=_curves(evidence.series),
        equity=_equity(history.run, name, scores),
        retrained_in=retrained_in,
        seed=int(plan["seed"]),
        final=_final(history.of(name, "final_evaluation")),
        point=plan.get("point") or {},
        spec=plan["spec"],
        data=(history.info.get("data") or {}).get(plan["symbol"]) or {},
        window=plan.get("window"),
    )


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
    told = agent.scores.metrics.get("eval/sharpe_excess")
    held = agent.scores.metrics.get("eval/buy_and_hold_sharpe")
    return told if told is not None else None if held is None else -held


def _final(events: Sequence[Mapping[str, Any]]) -> FinalLook | None:
    looks = sum("look" in event for event in events)
    found = [event for event in events if "metrics" in event]
    if not looks:
        return None
    newest: Mapping[str, Any] = found[-1] if found else {}
    return FinalLook(
        looks=looks,
        metrics=newest.get("metrics") or {},
        sharpe_interval=_interval(newest.get("sharpe_interval")),
        excess_interval=_interval(newest.get("excess_interval")),
    )


def _chosen_scores(
    plan: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], chosen_step: int | None
) -> Scores | None:
    """The evaluation that the verdict chose; before there is one, the best by Sharpe so far, else the last."""
    validation = [event for event in evaluations if event.get("split", "validation") == "validation"]
    if not validation:
        return None
    chosen = [event for event in validation if event["global_step"] == chosen_step]
    event = chosen[-1] if chosen else chosen_evaluation(plan, validation) or validation[-1]
    return Scores(
        global_step=int(event["global_step"]),
        metrics=event["metrics"],
        baselines=event.get("baselines") or {},
        sharpe_interval=_interval(event.get("sharpe_interval")),
        excess_interval=_interval(event.get("excess_interval")),
        regimes=event.get("regimes") or {},
        returns=event.get("returns"),
    )


OSCILLATES = "intervention.oscillates"
"""The row of a key that is moved no more: nothing was on it that could have been held back."""

_ENDINGS = {"verified": True, "released": True, "failed": False}


def _outcomes(events: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> list[Outcome]:
    """Interventions that fired, each with what became of its symptom: as the journal says, else as the diagnosis does
    (over by the end of the record, or not). A change that ended because its time was up tells neither."""
    open_now = {finding.symptom: finding.open for finding in findings if finding.raised}
    outcomes: list[Outcome] = []
    for event in events:
        rule, step, decision = str(event.get("id") or ""), _step_of(event), str(event.get("decision") or "")
        mine = next((i for i in reversed(range(len(outcomes))) if outcomes[i].rule == rule), None)
        if decision == "fired" and event.get("factor") is not None and mine is not None:
            last = outcomes[mine]
            keys = {key: (last.keys.get(key, (before,))[0], after) for key, (before, after) in event["keys"].items()}
            outcomes[mine] = replace(last, keys=keys, turns=last.turns + 1)
        elif decision == "fired":
            symptom = str(event.get("row") or "").partition(":")[0] or f'intervention "{rule}"'
            outcomes.append(
                Outcome(
                    symptom=symptom,
                    global_step=step,
                    keys=event.get("keys") or {},
                    recovered=not open_now[symptom] if symptom in open_now else None,
                    rolled_back_to=str(event.get("checkpoint") or ""),
                    rule=rule,
                    did=did_in_words(event),
                )
            )
        elif decision in _ENDINGS and mine is not None and outcomes[mine].word in ("", "released", "over"):
            last = outcomes[mine]  # what was released may be verified yet
            if event.get("expired"):
                outcomes[mine] = replace(last, ended=step, word=last.word or "over")
            else:
                outcomes[mine] = replace(last, recovered=_ENDINGS[decision], ended=step, word=decision)
    return outcomes


def _suppressed(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Symptom → how often an intervention on it was held back."""
    counts: dict[str, int] = {}
    for event in events:
        if event.get("decision") in ("suppressed", "blocked") and event.get("row") != OSCILLATES:
            symptom = str(event.get("row") or "").partition(":")[0]
            counts[symptom] = counts.get(symptom, 0) + 1
    return counts


def _step_of(event: Mapping[str, Any]) -> int:
    return int(event.get("global_step") or event.get("env_step") or 0)


def _curves(series: Mapping[str, Recorded]) -> dict[str, Curve]:
    curves = {}
    for metric in CURVES:
        if metric in series:
            steps, values = np.asarray(series[metric].steps), np.asarray(series[metric].values)
            finite = np.isfinite(values)
            if finite.any():
                curves[metric] = (steps[finite].tolist(), values[finite].tolist())
    return curves


def _equity(run: RunDir, agent: str, scores: Scores | None) -> Mapping[str, Any] | None:
    if scores is None:
        return None
    for histogram in run.histograms("equity", agent):
        if histogram.global_step == scores.global_step:
            return histogram.data
    return None


def _interval(values: Sequence[float] | None) -> Interval | None:
    return None if values is None else (float(values[0]), float(values[1]))


def _weeks_of(times: Iterable[float], begin: date) -> set[int]:
    """Numbers of the weeks, counted from `begin`, in which these moments fall; nothing before week 1."""
    return {(_day(time) - begin).days // 7 + 1 for time in times if _day(time) >= begin}


def _day(time: float) -> date:
    return datetime.fromtimestamp(time, UTC).date()


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _shell(command: Sequence[str]) -> str:
    """A command line that can be pasted: the program by its name, its arguments quoted where needed."""
    import shlex

    if not command:
        return "p3kit run"
    return shlex.join([Path(command[0]).name, *command[1:]])
