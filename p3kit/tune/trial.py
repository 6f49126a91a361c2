"""One trial of a sweep: its runs, its state, and the mean Sharpe ratio over its agents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p3kit.rundir import RunDir, choice_rank
from p3kit.spec.writing import toml_value

if TYPE_CHECKING:
    import optuna


_Agent = tuple[str, str]
"""Run and name."""


class SeedMean:
    """The mean over a trial's agents of the best validation Sharpe ratio so far, read from the metrics of its runs.

    It is the trial's score at its end, because validation chooses an agent's weights. An agent whose evaluations
    contain no trade counts as 0.
    """

    def __init__(self, runs: Sequence[RunDir]) -> None:
        self.runs = runs
        self._offsets: dict[str, tuple[int, int]] = {}  # run → (resumes, bytes read)
        self._evaluations: dict[_Agent, list[tuple[int, float]]] = {}  # steps and Sharpe ratios, in order
        plans = {(run.name, plan["name"]): plan for run in runs for plan in run.info()["agents"]}
        self._plans: dict[_Agent, Any] = plans
        self._steps: dict[_Agent, float] = dict.fromkeys(self._plans, 0.0)

    def update(self) -> None:
        """Read what is new. A resume rewrites the metrics, so they are read from their beginning then."""
        for run in self.runs:
            resumes = len(run.read_events("resume"))
            known, offset = self._offsets.get(run.name, (resumes, 0))
            rows, end = run.tail_metrics(offset if known == resumes else 0)
            if known != resumes:
                self._evaluations = {key: value for key, value in self._evaluations.items() if key[0] != run.name}
            self._offsets[run.name] = (resumes, end)
            for row in rows:
                key = (run.name, row["agent"])
                self._steps[key] = max(self._steps[key], row["global_step"])
                if "eval/total_return" in row["metrics"]:
                    sharpe = row["metrics"].get("eval/sharpe_ratio", -math.inf)
                    self._evaluations.setdefault(key, []).append((row["global_step"], sharpe))
            status = run.status()
            for agent, state in status["agents"].items():
                if "done" in (status["state"], state.get("state")) and (run.name, agent) in self._steps:
                    self._steps[run.name, agent] = math.inf  # ended early by its rules: it keeps what it has

    @property
    def reached(self) -> float:
        """Env steps that every agent has taken; inf once all are done."""
        return min(self._steps.values())

    def at(self, step: float) -> float | None:
        """The mean as it stood after `step` env steps; None where an agent had not been evaluated by then."""
        best = []
        for key in self._steps:
            known = [seen for seen in self._evaluations.get(key, ()) if seen[0] <= step]
            if not known:
                return None
            _, highest = max(choice_rank(self._plans[key], *seen) for seen in known)
            best.append(highest if math.isfinite(highest) else 0.0)
        return sum(best) / len(best)


@dataclass
class ActiveTrial:
    """A trial of this session."""

    asked: optuna.Trial
    values: Mapping[str, Any]
    runs: list[RunDir]
    mean: SeedMean
    ended: dict[str, str] = field(default_factory=dict)
    """Run → how it ended."""
    reported: int = 0
    """Rungs that were reported to the study."""
    pruned: str = ""
    failed: str = ""
    """Why it will have no value."""
    value: float | None = None
    state: str = "running"

    @property
    def number(self) -> int:
        return int(self.asked.number)

    @property
    def all_ended(self) -> bool:
        return len(self.ended) == len(self.runs)


@dataclass(frozen=True)
class TrialView:
    """Current state of a trial of this session."""

    number: int
    state: str
    progress: float
    value: float | None
    """Mean Sharpe ratio so far."""
    values: Mapping[str, Any]


def describe(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.00031, batch_size 64`"""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {in_short(value)}" for path, value in values.items())


def in_short(value: Any) -> str:
    """Three digits of a number."""
    return f"{value:.3g}" if isinstance(value, float) else toml_value(value).strip('"')
