"""The record of all runs in a folder as plain data: attempts, knob effects, repairs, incidents.

An *attempt* is one agent in one run; an agent that was trained twice is two attempts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.errors import RunNotFound
from p3kit.metrics import mean_interval, share_interval
from p3kit.report.agent_data import AgentSummary, Outcome, summarise_agent
from p3kit.report.run_history import RunHistory
from p3kit.rundir import intact_runs
from p3kit.spec.keypath import leaves, written_path
from p3kit.spec.writing import toml_value

ENOUGH = 3
"""Fewer cases than this are no evidence: "insufficient data"."""

Interval = tuple[float, float]
NO_KNOBS = ("name", "start_date", "symbols", "seeds", "matrix", "agents", "criteria", "baselines", "tune")
"""Tables that define the agents and their criteria, not their training."""


@dataclass(frozen=True)
class Attempt:
    """One agent in one run, and what decided how it was trained."""

    agent: AgentSummary
    experiment: str
    knobs: Mapping[str, str]
    """Spec path → value as TOML, of all that shapes training."""
    code: str
    resumed: int
    incidents: Mapping[str, int]
    """Kind of event → number, of the kinds in `INCIDENTS`."""
    info: Mapping[str, Any]
    """The run.json of its run."""

    @property
    def run(self) -> str:
        return str(self.agent.run)

    @property
    def sharpe(self) -> float | None:
        """Of a graded attempt that traded."""
        sharpe = self.agent.scores.sharpe if self.agent.complete and self.agent.scores else None
        return sharpe if sharpe is not None and math.isfinite(sharpe) else None

    @property
    def sound(self) -> bool:
        """Neither crashed or failed nor left with a symptom that was not repaired."""
        return self.agent.state not in ("crashed", "failed") and not self.agent.unrepaired

    def metric(self, name: str) -> float | None:
        """A metric of the chosen evaluation."""
        value = self.agent.scores.metrics.get(name) if self.agent.scores else None
        return value if value is not None and math.isfinite(value) else None


INCIDENTS = {
    "torn_line": "rows of a file were torn by a kill and cut off",
    "oom": "an allocation failed",
    "nonfinite": "numbers were not finite",
}
"""Kinds of events that concern the environment and the machine."""


@dataclass(frozen=True)
class KnobEffect:
    """The effect of one knob, changed from `before` to `after`, on the validation Sharpe ratio.

    The pairs of attempts differ in nothing else: equal symbol, seed, bars and code. Several attempts of one kind count
    as their mean.
    """

    path: str
    before: str
    after: str
    differences: tuple[float, ...]
    runs: tuple[str, ...]
    looked_at: int = 1
    """Number of effects that were tested together, with this one."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def interval(self) -> Interval | None:
        """95 %, Student's t over pairs."""
        return mean_interval(np.array(self.differences))

    @property
    def enough(self) -> bool:
        return len(self.differences) >= ENOUGH

    @property
    def shown(self) -> bool:
        """True if the interval excludes 0 at 5 % for all effects tested together (Bonferroni)."""
        bounds = mean_interval(np.array(self.differences), level=1.0 - 0.05 / self.looked_at)
        return self.enough and bounds is not None and (bounds[0] > 0 or bounds[1] < 0)


@dataclass(frozen=True)
class Repair:
    """One kind of intervention: a symptom, the spec paths that were moved, and every time it fired."""

    symptom: str
    keys: tuple[str, ...]
    outcomes: tuple[tuple[Attempt, Outcome], ...]

    @property
    def known(self) -> int:
        """Firings whose outcome is known."""
        return sum(outcome.recovered is not None for _, outcome in self.outcomes)

    @property
    def recovered(self) -> int:
        return sum(outcome.recovered is True for _, outcome in self.outcomes)

    @property
    def did(self) -> list[str]:
        """Their actions beside moving values, each once."""
        return _distinct(did for _, outcome in self.outcomes for did in outcome.did)

    @property
    def interval(self) -> Interval | None:
        return share_interval(self.recovered, self.known) if self.known else None

    @property
    def runs(self) -> list[str]:
        return _distinct(attempt.run for attempt, _ in self.outcomes)


@dataclass(frozen=True)
class AttemptHistory:
    """Everything that the lessons are drawn from."""

    attempts: tuple[Attempt, ...]
    as_of: float
    """Time of the newest record, unix seconds."""

    @property
    def experiments(self) -> list[str]:
        return _distinct(attempt.experiment for attempt in self.attempts)

    @property
    def runs(self) -> list[str]:
        return _distinct(attempt.run for attempt in self.attempts)

    @property
    def synthetic(self) -> bool:
        return any(attempt.agent.data.get("synthetic") for attempt in self.attempts)

    @property
    def intervened(self) -> list[Attempt]:
        """Those that something changed while they trained."""
        return [attempt for attempt in self.attempts if attempt.agent.intervened]

    @property
    def graded(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.agent.complete]

    @property
    def traded(self) -> list[Attempt]:
        return [attempt for attempt in self.graded if attempt.sharpe is not None]

    @property
    def begun(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.agent.global_step > 0]

    def with_symptoms(self) -> dict[str, list[Attempt]]:
        """Root symptom → the attempts it was raised in as critical or warning, the commonest first."""
        found: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            for symptom in _distinct(finding.symptom for finding in attempt.agent.alarms):
                found.setdefault(symptom, []).append(attempt)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    @cached_property
    def repairs(self) -> list[Repair]:
        """The interventions that fired, by symptom and the paths they moved."""
        found: dict[tuple[str, tuple[str, ...]], list[tuple[Attempt, Outcome]]] = {}
        for attempt in self.attempts:
            for outcome in attempt.agent.outcomes:
                keys = tuple(outcome.keys) or (("rollback",) if outcome.rolled_back_to else ())
                found.setdefault((outcome.symptom, keys), []).append((attempt, outcome))
        return [Repair(symptom, keys, tuple(cases)) for (symptom, keys), cases in sorted(found.items())]

    @cached_property
    def varied(self) -> dict[str, list[str]]:
        """Every spec path that traded attempts do not agree on, with its values, the commonest first."""
        values: dict[str, dict[str, int]] = {}
        paths = _distinct(path for attempt in self.traded for path in attempt.knobs)
        for path in paths:
            counts: dict[str, int] = {}
            for attempt in self.traded:
                text = attempt.knobs.get(path, "–")
                counts[text] = counts.get(text, 0) + 1
            if len(counts) > 1:
                values[path] = counts
        return {path: sorted(counts, key=lambda text: -counts[text]) for path, counts in values.items()}

    @cached_property
    def effects(self) -> list[KnobEffect]:
        """Effects of every varied knob: each two values that separate some pair of attempts, the smaller or more common
        value first. Knobs without such a pair are in `entangled`."""
        found = [effect for path, values in self.varied.items() for effect in self._effects_of(path, values)]
        return [replace(effect, looked_at=len(found)) for effect in found]

    @property
    def entangled(self) -> list[str]:
        """Knobs that never varied alone, so that their effects cannot be separated."""
        alone = {effect.path for effect in self.effects}
        return [path for path in self.varied if path not in alone]

    def _effects_of(self, path: str, values: Sequence[str]) -> list[KnobEffect]:
        cells: dict[tuple[str, ...], dict[str, list[Attempt]]] = {}
        for attempt in self.traded:
            others = tuple(attempt.knobs.get(other, "–") for other in self.varied if other != path)
            whole = attempt.agent.data.get("fingerprint", "")
            bars = attempt.agent.data.get("price_fingerprint", whole) if path == "observation.columns" else whole
            code = "" if path == "trainer" else attempt.code
            who = (attempt.agent.symbol, str(attempt.agent.seed), str(bars), code, *others)
            cells.setdefault(who, {}).setdefault(attempt.knobs.get(path, "–"), []).append(attempt)
        effects = []
        for before, after in combinations(sorted(values, key=_size), 2):
            pairs = [(cell[before], cell[after]) for cell in cells.values() if before in cell and after in cell]
            if pairs:
                differences = tuple(_mean_sharpe(new) - _mean_sharpe(old) for old, new in pairs)
                runs = _distinct(attempt.run for old, new in pairs for attempt in (*old, *new))
                effects.append(KnobEffect(path, before, after, differences, tuple(runs)))
        return effects

    @cached_property
    def seed_differences(self) -> list[float]:
        """Sharpe differences of attempts that differ in their seed alone, one per pair of seeds."""
        families: dict[tuple[str, ...], dict[int, list[Attempt]]] = {}
        for attempt in self.traded:
            own = (attempt.agent.symbol, attempt.code, *(attempt.knobs.get(path, "–") for path in self.varied))
            families.setdefault(own, {}).setdefault(attempt.agent.seed, []).append(attempt)
        return [
            _mean_sharpe(family[a]) - _mean_sharpe(family[b])
            for family in families.values()
            for a, b in combinations(sorted(family), 2)
        ]

    @cached_property
    def seed_spread(self) -> float | None:
        """Standard deviation of the Sharpe ratio over seeds; None where no two seeds of one kind traded."""
        if not self.seed_differences:
            return None
        return float(np.sqrt(np.mean(np.square(self.seed_differences)) / 2))


def gather_attempts(runs_root: Path, name: str | None = None) -> AttemptHistory:
    """Every attempt of `runs_root`, or of the experiment `name`. Damaged run directories are left out.

    Raises RunNotFound where there are no runs, or none of that name.
    """
    runs = [(run, run.info()) for run in intact_runs(runs_root)[0]]
    names = _distinct(str(info["name"]) for _, info in runs)
    if not runs:
        hint = "start one with: p3kit run specs/smoke.toml"
        raise RunNotFound(str(runs_root), "there are no runs to learn from", hint)
    if name is not None and name not in names:
        what = f"no experiment of that name in {runs_root}"
        raise RunNotFound(f"--name {name}", what, f"there are: {', '.join(names)}")
    attempts: list[Attempt] = []
    last = 0.0
    for run, info in runs:
        if name is not None and info["name"] != name:
            continue
        history = RunHistory(run, info, math.inf)
        last = max(last, *history.all_times)
        code = hashlib.sha256(run.trainer_file.read_bytes()).hexdigest()
        for plan in info["agents"]:
            own = [event for event in history.events if event["agent"] in (None, plan["name"])]
            kinds = [str(event["kind"]) for event in own]
            attempts.append(
                Attempt(
                    agent=summarise_agent(history, plan),
                    experiment=str(info["name"]),
                    knobs=_knobs(plan["spec"]),
                    code=code,
                    resumed=kinds.count("resume"),
                    incidents={kind: kinds.count(kind) for kind in INCIDENTS if kind in kinds},
                    info=info,
                )
            )
    return AttemptHistory(tuple(attempts), last)


def _knobs(spec: Mapping[str, Any]) -> dict[str, str]:
    """Settings that shape training, by path; the interventions of a spec count as one knob, by their names."""
    tables = {key: value for key, value in spec.items() if key not in (*NO_KNOBS, "intervention")}
    knobs = {written_path(path): toml_value(value) for path, value in leaves(tables)}
    rules = [str(rule.get("id", "")) for rule in spec.get("intervention") or []]
    return knobs | {"intervention": ", ".join(rules) or "none"}


def _size(value: str) -> float:
    """Numbers in TOML by their size; words unchanged."""
    try:
        return float(value)
    except ValueError:
        return 0.0


def _mean_sharpe(attempts: Iterable[Attempt]) -> float:
    return float(np.mean([attempt.sharpe for attempt in attempts if attempt.sharpe is not None]))


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
