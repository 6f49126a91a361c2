"""The settings of a runs folder, and the attempts that support each of them.

A *setting* is all that shapes training except the symbol and the seed. Every attempt of the runs folder with that
setting supports it, whichever run it was in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.edge import Family, among, family
from p3kit.errors import InputError
from p3kit.metrics import ReturnShape, deflated_choice, mean_interval
from p3kit.report.lessons_data import NO_KNOBS, Attempt, gather_attempts
from p3kit.rundir import RunDir, find_run
from p3kit.spec.knobs import read_agents
from p3kit.spec.writing import toml_value

_ABOUT_AGENTS = tuple(name for name in NO_KNOBS if name not in ("agents", "criteria", "baselines"))
"""Tables that two runs of one setting may differ in."""


@dataclass(frozen=True)
class Export:
    """One setting and its record. `every`: all its attempts, in the order of the runs."""

    runs_root: Path
    every: tuple[Attempt, ...]
    tried: tuple[float, ...] = ()
    """Mean Sharpe ratios of every setting of the experiment that was evaluated, this one's among them; of one that was
    not trained to its end, as far as it came."""
    rivals: tuple[Attempt, ...] = ()
    """The attempts of every other setting of the experiment."""

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.every[0].experiment

    @cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """The newest one of every symbol and seed; the newest graded one where there is any."""
        newest: dict[tuple[str, int], Attempt] = {}
        for attempt in self.every:
            who = (attempt.agent.symbol, attempt.agent.seed)
            if who not in newest or attempt.agent.complete or not newest[who].agent.complete:
                newest[who] = attempt
        return tuple(newest.values())

    @property
    def graded(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.agent.complete]

    @property
    def sharpes(self) -> list[float]:
        """Of the graded agents that traded."""
        return [attempt.sharpe for attempt in self.graded if attempt.sharpe is not None]

    @property
    def worth(self) -> tuple[float, float]:
        """Score of `best`: the lower end of the 95 % interval of the mean Sharpe ratio over agents, so that one lucky
        agent is not the best setting. A setting without an interval comes after all others, by its ratio. An agent
        without a trade counts as 0."""
        values = np.array([attempt.sharpe or 0.0 for attempt in self.graded])
        bounds = mean_interval(values)
        return (1.0, bounds[0]) if bounds is not None else (0.0, float(values.mean()))

    @property
    def mean(self) -> float | None:
        """Sharpe ratio over the agents that were evaluated; one that never traded counts as 0."""
        known = [attempt.agent.scores.sharpe or 0.0 for attempt in self.attempts if attempt.agent.scores]
        return float(np.mean(known)) if known else None

    @property
    def deflated(self) -> float | None:
        """Probability that the mean Sharpe ratio is truly above 0, the luck of the best of `tried` taken off; None
        where nothing else was tried, or no agent traded.

        Agents of one market are no independent witnesses: the bars count once, as if there were one agent, so the
        figure errs on the low side.
        """
        scores = [attempt.agent.scores for attempt in self.graded]
        shapes = [one.returns for one in scores if one is not None and one.returns is not None]
        if len(self.tried) < 2 or not shapes or self.mean is None:
            return None
        shape: ReturnShape = {
            "bars": min(one["bars"] for one in shapes),
            "bars_per_year": float(np.mean([one["bars_per_year"] for one in shapes])),
            "skewness": float(np.mean([one["skewness"] for one in shapes])),
            "kurtosis": float(np.mean([one["kurtosis"] for one in shapes])),
        }
        return deflated_choice(self.mean, shape, self.tried)

    @cached_property
    def family(self) -> Family | None:
        """The graded agents together against buy-and-hold, each as the best of all evaluations of its symbol by any
        setting of the experiment; None where there are none."""
        members = []
        for attempt in self.graded:
            own = attempt.agent
            rivals = [one.agent for one in self.rivals if one.agent.symbol == own.symbol and one.agent.scores]
            if own.member is not None:
                members.append(among(own.member, [one.member for one in rivals if one.member is not None]))
        return family(members) if members else None

    @property
    def seeds(self) -> list[int]:
        return sorted({attempt.agent.seed for attempt in self.attempts})

    @property
    def symbols(self) -> list[str]:
        """In the order of the spec."""
        own = {attempt.agent.symbol for attempt in self.attempts}
        asked = [symbol for attempt in self.attempts for symbol in attempt.info["spec"].get("symbols") or []]
        return [symbol for symbol in dict.fromkeys(asked) if symbol in own]

    @property
    def point(self) -> Mapping[str, Any]:
        return self.attempts[0].agent.point

    @property
    def synthetic(self) -> bool:
        return any(attempt.agent.data.get("synthetic") for attempt in self.attempts)

    def seed_means(self) -> dict[int, float]:
        """Seed → mean Sharpe ratio over its symbols."""
        means = {}
        for seed in self.seeds:
            own = [a.sharpe for a in self.graded if a.agent.seed == seed and a.sharpe is not None]
            if own:
                means[seed] = float(np.mean(own))
        return means


def find_export(runs_root: Path, reference: str, name: str | None = None) -> Export:
    """The setting of `reference`: a run, an agent of it, or `best` among all of the folder (of the experiment `name`).

    Raises InputError where a run has several settings or nothing was graded, RunNotFound for a name that is none.
    """
    settings = _settings(runs_root, name if reference == "best" else None)
    if reference == "best":
        candidates = [Export(runs_root, attempts) for attempts in settings.values()]
        candidates = [export for export in candidates if export.graded]
        if not candidates:
            raise InputError("best", "nothing was graded yet", "p3kit runs shows what is under way")
        return _beside_the_others(max(candidates, key=lambda export: export.worth), settings)
    run, agent = find_run(runs_root, reference)
    if run.path.resolve().parent != runs_root.resolve():  # another run may have its name here
        raise InputError(reference, f"is no run of {runs_root}", "give its folder by --runs")
    own = {  # setting → the agent of this run that has it
        key: next(a.agent.name for a in attempts if a.run == run.name)
        for key, attempts in settings.items()
        if any(a.run == run.name and agent in (None, a.agent.name) for a in attempts)
    }
    if len(own) > 1:
        hint = f"name an agent: {', '.join(f'{run.name}/{agent_name}' for agent_name in list(own.values())[:6])}"
        raise InputError(reference, f"has {len(own)} settings", hint)
    if not own:
        run.verify()  # a damaged run is no setting; this raises its own fault
    export = Export(runs_root, settings[next(iter(own))])
    if not export.graded:
        raise InputError(reference, "has no verdict yet", f"p3kit resume {run.name}, or wait until it is done")
    return _beside_the_others(export, settings)


def _beside_the_others(export: Export, settings: Mapping[str, tuple[Attempt, ...]]) -> Export:
    """The setting with the other settings of its experiment, because the best of many is partly lucky."""
    others = [Export(export.runs_root, attempts) for attempts in settings.values()]
    means = [other.mean for other in others if other.name == export.name]
    rivals = [
        one for other in others if other.name == export.name and other.every != export.every for one in other.every
    ]
    return replace(export, tried=tuple(mean for mean in means if mean is not None), rivals=tuple(rivals))


def _settings(runs_root: Path, name: str | None) -> dict[str, tuple[Attempt, ...]]:
    """Every setting of the folder, by its identity, with all its attempts."""
    found: dict[str, list[Attempt]] = {}
    shared: dict[str, bool] = {}
    for attempt in gather_attempts(runs_root, name).attempts:
        if attempt.code not in shared:
            shared[attempt.code] = read_agents(RunDir(runs_root / attempt.run).trainer_file) == "all"
        found.setdefault(_identity(attempt, together=shared[attempt.code]), []).append(attempt)
    return {key: tuple(attempts) for key, attempts in found.items()}


def _identity(attempt: Attempt, *, together: bool) -> str:
    """Key that two attempts of one setting share. `together`: the trainer's agents learn from one another, so that
    the symbols belong to it."""
    spec = attempt.info["spec"]
    tables = {key: value for key, value in spec.items() if key not in _ABOUT_AGENTS}
    point = sorted((path, toml_value(value)) for path, value in attempt.agent.point.items())
    return json.dumps([attempt.experiment, attempt.code, tables, point, together and spec["symbols"]], sort_keys=True)
