"""The result of a sweep as plain data: trials, winner, gain over the values of the spec."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.metrics import mean_interval
from p3kit.report.export_data import Export
from p3kit.tune.study import TrialRecord


@dataclass(frozen=True)
class Result:
    """Current state of a sweep. Sharpe ratios are annualised, on the validation split."""

    sweep: str
    experiment: str
    folder: Path
    synthetic: bool
    paths: tuple[str, ...]
    wanted: int
    trials: tuple[TrialRecord, ...]
    """In the order of their numbers, without those that were queued again or repeated another."""
    own: int | None
    """Number of the trial with the unchanged spec, if there is one."""
    importance: Mapping[str, float]
    export: Export | None
    """The winner's setting; None while no trial is complete."""
    pictures: tuple[Path, ...]
    winner_file: Path | None

    @property
    def complete(self) -> list[TrialRecord]:
        """The best first."""
        done = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(done, key=lambda trial: -(trial.value if trial.value is not None else -math.inf))

    @property
    def best(self) -> TrialRecord | None:
        return next(iter(self.complete), None)

    @property
    def left(self) -> int:
        """Trials that are still to be trained."""
        ended = sum(trial.state in ("complete", "pruned", "failed") for trial in self.trials)
        return max(0, self.wanted - ended)

    @property
    def own_trial(self) -> TrialRecord | None:
        found = [trial for trial in self.trials if trial.number == self.own]
        return found[0] if found and found[0].state == "complete" else None

    def gain(self) -> list[float]:
        """Sharpe ratio of the winner's agents minus that of the same agents under the spec's own values."""
        own, best = self.own_trial, self.best
        if own is None or best is None or own is best:
            return []
        return [best.agents[name] - own.agents[name] for name in best.agents if name in own.agents]

    def to_json(self) -> dict[str, Any]:
        best, gain = self.best, self.gain()
        return {
            "sweep": self.sweep,
            "experiment": self.experiment,
            "folder": str(self.folder),
            "synthetic": self.synthetic,
            "wanted": self.wanted,
            "left": self.left,
            "trials": [trial.to_json() for trial in self.trials],
            "best": best and best.number,
            "spec_trial": self.own,
            "gain_over_spec": {"mean": float(np.mean(gain)), "interval": mean_interval(np.array(gain))}
            if gain
            else None,
            "settings_tried": len(self.export.tried) if self.export else None,
            "deflated_sharpe": self.export.deflated if self.export else None,
            "family": self.export.family.to_json() if self.export and self.export.family else None,
            "importance": dict(self.importance),
            "winner": str(self.winner_file) if self.winner_file else None,
            "pictures": [str(path) for path in self.pictures],
        }
