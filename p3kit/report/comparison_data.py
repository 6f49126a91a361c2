"""A comparison of runs as plain data: groups of agents, differences of their specs, differences of their results.

A group is a run, an agent, or all agents with one value of a knob. The first group is the reference. Every agent of
another group is compared with its partner of equal symbol, seed and matrix point, over the same dates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from p3kit import edge
from p3kit.errors import InputError
from p3kit.metrics import mean_interval
from p3kit.report.agent_data import AgentSummary, summarise_agent
from p3kit.report.run_history import RunHistory
from p3kit.rundir import RunDir, extended_origins, find_runs
from p3kit.spec.expansion import full_path
from p3kit.spec.keypath import is_written, leaves, split_path, value_at_path, written_path
from p3kit.spec.loading import overrides_of, stored_origins
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.writing import toml_value

Interval = tuple[float, float]
Parity = Literal["match", "differ", "undecided"]
BY_IDENTITY = ("run", "symbol", "seed", "trainer")
"""What agents can be grouped by besides the paths of their specs."""

GRADES = ("STRETCH", "STRONG", "PASS", "FAIL")
_NAMES = ("name", "start_date", "symbols", "seeds", "matrix", "agents")
"""Paths that define the agents, not their training."""


@dataclass(frozen=True)
class Member:
    """One agent of one run, with where each value of its spec came from, and the code that trained it."""

    agent: AgentSummary
    origins: Mapping[str, str]
    trainer: str
    code: str
    """Digest of the run's trainer.py."""
    commit: str
    versions: Mapping[str, str]

    @property
    def label(self) -> str:
        return f"{self.agent.run}/{self.agent.name}"

    def value(self, key: str) -> Any:
        """Value of `--by key` for this agent. Raises KeyError if it has none."""
        if key == "run":
            return self.agent.run
        if key == "trainer":
            return self.trainer
        if key in ("symbol", "seed"):
            return getattr(self.agent, key)
        return value_at_path(self.agent.spec, split_path(key))


@dataclass(frozen=True)
class Group:
    """The agents that stand in one column."""

    label: str
    members: tuple[Member, ...]

    def values(self, measure: Measure) -> list[float]:
        """A measure of every agent that has it."""
        found = (measure.of(member.agent) for member in self.members)
        return [value for value in found if value is not None]

    @property
    def grades(self) -> dict[str, int]:
        """Grade → number of agents, the best first; those without a verdict are counted by their state."""
        words = [member.agent.grade or member.agent.state for member in self.members]
        ordered = [*(grade for grade in GRADES if grade in words), *(word for word in words if word not in GRADES)]
        return {word: words.count(word) for word in ordered}


@dataclass(frozen=True)
class Measure:
    """A number that every agent may have: how it is called, where it is found, how it is written."""

    heading: str
    metric: str
    form: str

    def of(self, agent: AgentSummary) -> float | None:
        """The value at the chosen evaluation, or the last one recorded; None where there is none, NaN or infinite."""
        if self.metric.startswith("eval/"):
            value = agent.scores.metrics.get(self.metric) if agent.scores else None
        else:
            value = agent.ranges[self.metric].last if self.metric in agent.ranges else None
        return value if value is not None and math.isfinite(value) else None


SHARPE = Measure("Sharpe ratio", "eval/sharpe_ratio", "z.2f")
EXCESS = Measure("minus buy-and-hold's", "eval/sharpe_excess", "z.2f")
MEASURES = (
    SHARPE,
    EXCESS,
    Measure("total return", "eval/total_return", "z.1%"),
    Measure("max drawdown", "eval/max_drawdown", ".1%"),
    Measure("trades", "eval/total_trades", ".0f"),
    Measure("win rate", "eval/win_rate", ".0%"),
    Measure("profit factor", "eval/profit_factor", ".2f"),
    Measure("exposure", "eval/exposure", ".0%"),
    Measure("costs paid", "eval/cost_paid", ".2%"),
    Measure("explained variance, last", "value/explained_variance", "z.2f"),
    Measure("entropy / maximum, last", "policy/entropy_norm", ".2f"),
    Measure("KL divergence, last", "policy/kl_divergence", ".4f"),
    Measure("env steps/s, last", "perf/steps_per_second", ",.0f"),
)


@dataclass(frozen=True)
class SpecDifference:
    """One spec path whose values are not the same in all groups; per group the values as TOML, and their origins."""

    path: str
    values: tuple[str, ...]
    origins: tuple[str, ...]

    @property
    def is_of_training(self) -> bool:
        """False for a path that only defines the agents, such as `seeds`."""
        return split_path(self.path)[0] not in _NAMES


@dataclass(frozen=True)
class Pair:
    """One agent and its partner in the reference group. `interval`: paired bootstrap of the Sharpe difference, valid
    for the best evaluation of each (`p3kit.edge.difference_interval`)."""

    reference: Member
    other: Member
    difference: float | None
    interval: Interval | None
    identical: bool
    why_not: str = ""
    """Why there is no interval."""


@dataclass(frozen=True)
class Contrast:
    """A group against the reference. `mean` and `interval` (Student's t) are of the Sharpe differences of its pairs;
    `seed_spread` is the standard deviation over seeds of what is else the same, pooled over both groups. The intervals
    of all contrasts of a comparison hold together with 95 %, by Bonferroni's bound."""

    label: str
    pairs: tuple[Pair, ...]
    mean: float | None
    interval: Interval | None
    seed_spread: float | None
    speed_ratio: float | None
    only_compute: bool
    """Nothing differs but how it was computed (`compute.…`): then there is a verdict on parity."""

    @property
    def known(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.difference is not None]

    @property
    def nan_in(self) -> list[str]:
        """Agents of this group, not of the reference, that met numbers that are not finite."""
        return [p.other.label for p in self.pairs if _met_nan(p.other) and not _met_nan(p.reference)]

    @property
    def other_seed(self) -> float | None:
        """Difference of two trainings that differ in the seed alone: the 95 % range of the difference, from the
        spread over seeds."""
        return None if self.seed_spread is None else 1.96 * math.sqrt(2.0) * self.seed_spread

    @cached_property
    def parity(self) -> Parity | None:
        """`match`: the mean difference is compatible with 0, and its whole interval is within the effect of another
        seed. `differ`: the interval excludes 0, or numbers became NaN. `undecided`: too few agents to show either.
        None if more than the computation differs."""
        if not self.only_compute or not self.pairs:
            return None
        if self.nan_in:
            return "differ"
        if all(pair.identical for pair in self.pairs):
            return "match"
        if self.interval is None or self.other_seed is None:
            return "undecided"
        low, high = self.interval
        if low > 0 or high < 0:
            return "differ"
        return "match" if max(-low, high) <= self.other_seed else "undecided"


@dataclass(frozen=True)
class Comparison:
    """All contents of `p3kit compare`."""

    by: str
    """`run`, `agent`, or the key the agents were grouped by."""
    groups: tuple[Group, ...]
    differences: tuple[SpecDifference, ...]
    beside: tuple[str, ...]
    """Differences outside the spec: data, code, versions."""
    contrasts: tuple[Contrast, ...]

    @property
    def members(self) -> list[Member]:
        return [member for group in self.groups for member in group.members]

    @property
    def synthetic(self) -> bool:
        return any(member.agent.data.get("synthetic") for member in self.members)


def compare_runs(runs_root: Path, references: Sequence[str], by: str | None = None) -> Comparison:
    """Read what `references` name (`run-42`, `run-42/AAPL`, …) and set it side by side.

    Raises RunNotFound for a name that is none, InputError where there is nothing to set side by side.
    """
    named = [found for reference in dict.fromkeys(references) for found in find_runs(runs_root, reference)]
    members: dict[str, Member] = {}
    columns: list[list[Member]] = []
    for run, agent in named:
        column = [members.setdefault(member.label, member) for member in _members(run, agent)]
        columns.append(column)
    if by is not None:
        groups, word = _groups_by(_key(by, members.values()), list(members.values())), by
    else:
        if len(named) == 1:
            raise InputError(references[0], "one run alone", _what_varies(list(members.values())))
        one_each = any(agent is not None for _, agent in named)
        word = "agent" if one_each else "run"
        groups = [
            Group(run.name if agent is None else f"{run.name}/{agent}", tuple(column))
            for (run, agent), column in zip(named, columns, strict=True)
        ]
    level = 1.0 - 0.05 / max(1, len(groups) - 1)
    contrasts = tuple(_contrast(groups[0], group, by, level) for group in groups[1:])
    return Comparison(word, tuple(groups), _differences(groups), _beside(groups), contrasts)


def _members(run: RunDir, only: str | None) -> list[Member]:
    info = run.info()
    history = RunHistory(run, info, math.inf)
    given = overrides_of(info.get("command") or [])
    code = hashlib.sha256(run.trainer_file.read_bytes()).hexdigest()[:12]
    members = []
    for plan in info["agents"]:
        if only is not None and plan["name"] != only:
            continue
        origins = stored_origins(plan["spec"], run.trainer_file, run.spec_text(), given, plan["symbol"])
        from_matrix = dict.fromkeys(plan.get("point") or {}, "matrix")
        members.append(
            Member(
                agent=summarise_agent(history, plan),
                origins={**origins, **from_matrix, **extended_origins([plan])},
                trainer=str(info["trainer"]),
                code=code,
                commit=str(info.get("git_commit") or ""),
                versions=info.get("versions") or {},
            )
        )
    return members


# --- groups ---


def _key(by: str, members: Iterable[Member]) -> str:
    """`--by` written out: a bare name is a knob, as everywhere in a spec. Raises InputError for an unknown one."""
    members = list(members)
    if by in BY_IDENTITY:
        return by
    key = full_path(by)
    if not all(is_written(member.agent.spec, split_path(key)) for member in members):
        known = [written_path(path) for path, _ in leaves(members[0].agent.spec)]
        what = "no such key in the spec of every agent" + did_you_mean(key, [*known, *BY_IDENTITY])
        raise InputError(f"--by {by}", what, f"or one of {', '.join(BY_IDENTITY)}")
    return key


def _groups_by(key: str, members: Sequence[Member]) -> list[Group]:
    """One group per value, numbers from small to large, all else in the order met."""
    found: dict[str, tuple[Any, list[Member]]] = {}
    for member in members:
        value = member.value(key)
        found.setdefault(toml_value(value), (value, []))[1].append(member)
    if len(found) == 1:
        only = next(iter(found))
        raise InputError(f"--by {key}", f"all agents have {only}: one group alone", _what_varies(members))
    ordered = list(found.items())
    if all(isinstance(value, int | float) for _, (value, _) in ordered):
        ordered.sort(key=lambda item: float(item[1][0]))
    name = key.rsplit(".", 1)[-1]
    return [Group(f"{name} = {text}".replace('"', ""), tuple(own)) for text, (_, own) in ordered]


def _what_varies(members: Sequence[Member]) -> str:
    """The remedy where agents are not set side by side yet."""
    knobs = list(dict.fromkeys(path for member in members for path in member.agent.point))
    keys = [key for key in (*knobs, "symbol", "seed") if len({toml_value(m.value(key)) for m in members}) > 1]
    if not keys:
        return "name a second run: p3kit compare run-1 run-2"
    return f"name a second run, or group its agents: --by {' or --by '.join(keys)}"


# --- what differs ---


def _differences(groups: Sequence[Group]) -> tuple[SpecDifference, ...]:
    """Every path of the agents' specs whose values are not the same set in each group, in the order of the spec."""
    paths: dict[str, None] = {}
    tables = {id(m): _flat(m.agent.spec) for group in groups for m in group.members}
    for table in tables.values():
        paths.update(dict.fromkeys(table))
    found = []
    for path in paths:
        columns = [[tables[id(member)].get(path, "–") for member in group.members] for group in groups]
        if len({frozenset(column) for column in columns}) > 1:
            origins = [_several(m.origins.get(path, "default") for m in group.members) for group in groups]
            found.append(SpecDifference(path, tuple(map(_several, columns)), tuple(origins)))
    return tuple(found)


def _flat(spec: Mapping[str, Any]) -> dict[str, str]:
    return {written_path(path): toml_value(value) for path, value in leaves(spec)}


def _several(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return " · ".join(distinct) if len(distinct) <= 3 else f"{len(distinct)} different ones"


def _beside(groups: Sequence[Group]) -> tuple[str, ...]:
    """Differences beside the specs, a line each: bars of one symbol, trainer code, commits, versions."""
    members = [member for group in groups for member in group.members]
    lines = []
    symbols = list(dict.fromkeys(member.agent.symbol for member in members))
    changed = [s for s in symbols if _other_bars([m.agent for m in members if m.agent.symbol == s])]
    if changed:
        lines.append(f"the bars of {', '.join(changed)} are not the same (their fingerprints differ)")
    if _distinct(map(_mode, members)):
        lines.append(_per_group("evaluation mode", groups, _mode) + " (--mode of p3kit evaluate gives both)")
    if _distinct(member.trainer for member in members):
        lines.append(_per_group("trainer", groups, lambda member: member.trainer))
    elif _distinct(member.code for member in members):
        lines.append(_per_group("the trainer's code (SHA-256)", groups, lambda member: member.code))
    for package in dict.fromkeys(name for member in members for name in member.versions):
        if _distinct(member.versions.get(package, "none") for member in members):
            lines.append(_per_group(package, groups, lambda member, p=package: member.versions.get(p, "none")))  # type: ignore[misc]
    if _distinct(member.commit for member in members):
        lines.append(_per_group("git commit", groups, lambda member: member.commit[:12] or "none"))
    return tuple(lines)


def _mode(member: Member) -> str:
    return member.agent.scores.mode if member.agent.scores else "none"


def _distinct(values: Iterable[Any]) -> bool:
    return len(set(values)) > 1


def _per_group(what: str, groups: Sequence[Group], of: Callable[[Member], str]) -> str:
    return f"{what}: " + ", ".join(f"{group.label} {_several(of(m) for m in group.members)}" for group in groups)


# --- the difference it made ---


def _contrast(reference: Group, group: Group, by: str | None, level: float) -> Contrast:
    pairs = tuple(_pair(one, other, level) for one, other in _partners(reference, group, by))
    known = [pair.difference for pair in pairs if pair.difference is not None]
    speeds = [_speed_ratio(pair) for pair in pairs]
    known_speeds = [ratio for ratio in speeds if ratio is not None]
    return Contrast(
        label=group.label,
        pairs=pairs,
        mean=float(np.mean(known)) if known else None,
        interval=mean_interval(np.array(known), level),
        seed_spread=_seed_spread([reference, group]),
        speed_ratio=float(np.exp(np.mean(np.log(known_speeds)))) if known_speeds else None,
        only_compute=bool(pairs) and all(_only_compute(pair) for pair in pairs),
    )


def _partners(reference: Group, group: Group, by: str | None) -> list[tuple[Member, Member]]:
    """Members of equal symbol, seed and matrix point, but for what they are grouped by; of several runs the newest.
    Two single agents that were named are always partners."""
    if by is None and len(reference.members) == len(group.members) == 1:
        return [(reference.members[0], group.members[0])]
    key = None if by is None else (by if by in BY_IDENTITY else full_path(by))

    def identity(member: Member) -> str:
        agent = member.agent
        point = sorted((path, toml_value(value)) for path, value in agent.point.items() if path != key)
        return repr((key != "symbol" and agent.symbol, key != "seed" and agent.seed, point))

    partners = {identity(member): member for member in reference.members}
    own = {identity(member): member for member in group.members}
    return [(partners[who], member) for who, member in own.items() if who in partners]


def _pair(reference: Member, other: Member, level: float) -> Pair:
    first, second = SHARPE.of(reference.agent), SHARPE.of(other.agent)
    if reference.agent.scores and other.agent.scores and _mode(reference) != _mode(other):
        why_not = f"one was evaluated in mode {_mode(reference)}, the other in {_mode(other)}"
        return Pair(reference, other, None, None, identical=False, why_not=why_not)
    difference = None if first is None or second is None else second - first
    ours, theirs = reference.agent.equity, other.agent.equity
    if ours is None or theirs is None:
        return Pair(reference, other, difference, None, identical=False, why_not="no equity curve was recorded")
    if ours["timestamps"] != theirs["timestamps"] or ours["bars"] != theirs["bars"]:
        return Pair(reference, other, difference, None, identical=False, why_not="not the same dates")
    interval, why_not = None, ""
    if difference is not None:
        interval, why_not = _interval(reference.agent, other.agent, level)
    return Pair(reference, other, difference, interval, ours["equity"] == theirs["equity"], why_not)


def _interval(reference: AgentSummary, other: AgentSummary, level: float) -> tuple[Interval | None, str]:
    """The interval of the Sharpe difference, or the reason why there is none."""
    ours, theirs = (
        replace(one.member or edge.Member(one.name, None), chosen_step=one.scores.global_step if one.scores else None)
        for one in (other, reference)
    )
    if ours.chosen is None or theirs.chosen is None:
        return None, "the returns of some evaluations were not recorded"
    interval = edge.difference_interval(ours, theirs, level)
    return interval, "" if interval else "too few independent bars"


def _speed_ratio(pair: Pair) -> float | None:
    speed = Measure("", "perf/steps_per_second", "")
    ours, theirs = speed.of(pair.reference.agent), speed.of(pair.other.agent)
    return None if not ours or not theirs else theirs / ours


def _other_bars(agents: Sequence[AgentSummary]) -> bool:
    """True where prices differ, or the columns of agents that see the same ones."""
    columns: dict[str, list[str]] = {}
    for agent in agents:
        columns.setdefault(str(agent.spec.get("observation", {}).get("columns")), []).append(
            str(agent.data.get("fingerprint"))
        )
    prices = [agent.data.get("price_fingerprint") or agent.data.get("fingerprint") for agent in agents]
    return _distinct(prices) or any(map(_distinct, columns.values()))


def _only_compute(pair: Pair) -> bool:
    """Return True if, of all that decides how an agent trains, only `compute.…` differs: spec, seed, code, bars."""
    ours, theirs = pair.reference, pair.other
    if (ours.agent.symbol, ours.agent.seed, ours.code) != (theirs.agent.symbol, theirs.agent.seed, theirs.code):
        return False
    if ours.agent.data.get("fingerprint") != theirs.agent.data.get("fingerprint"):
        return False
    one, two = _flat(ours.agent.spec), _flat(theirs.agent.spec)
    paths = {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)}
    changed = {path for path in paths if path.split(".")[0].split("[")[0] not in _NAMES}
    return bool(changed) and all(path.startswith("compute.") for path in changed)


def _seed_spread(groups: Sequence[Group]) -> float | None:
    """Pooled standard deviation of the Sharpe ratio over seeds: of agents of one group, symbol and matrix point. None
    where nowhere two seeds traded."""
    squares, freedom = 0.0, 0
    for group in groups:
        families: dict[str, list[float]] = {}
        for member in group.members:
            if (sharpe := SHARPE.of(member.agent)) is not None:
                families.setdefault(repr((member.agent.symbol, member.agent.point)), []).append(sharpe)
        for sharpes in families.values():
            squares += float(np.var(sharpes)) * len(sharpes)
            freedom += len(sharpes) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _met_nan(member: Member) -> bool:
    return any(finding.symptom == "num.nan" and finding.raised for finding in member.agent.findings)
