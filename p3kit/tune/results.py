"""What a sweep adds up to: the trials in order, the winner beside the spec's own values, and how much of it is luck."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from p3kit.metrics import mean_interval
from p3kit.report.export import Export, export_toml, find_export
from p3kit.report.page import interval
from p3kit.tune.display import STATE_COLOURS
from p3kit.tune.pictures import draw_sweep
from p3kit.tune.study import TrialRecord
from p3kit.tune.sweep import Sweep, describe

_MOST_ROWS = 12


@dataclass(frozen=True)
class Result:
    """A sweep as it stands. Sharpe ratios are annualised, on the validation split."""

    sweep: str
    experiment: str
    folder: Path
    synthetic: bool
    paths: tuple[str, ...]
    wanted: int
    trials: tuple[TrialRecord, ...]
    """In the order of their numbers, without those that were queued again or repeated another."""
    own: int | None
    """The trial that is the spec as it stands, where that is one."""
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
            "importance": dict(self.importance),
            "winner": str(self.winner_file) if self.winner_file else None,
            "pictures": [str(path) for path in self.pictures],
        }


def conclude(sweep: Sweep) -> Result:
    """Reads the journal, exports the winner beside it, and draws the pictures."""
    folder, study = sweep.folder, sweep.study
    trials = tuple(record for record in study.records() if not record.superseded)
    complete = [trial for trial in trials if trial.state == "complete"]
    best = max(complete, key=lambda trial: trial.value or 0.0, default=None)
    export = None
    if best is not None:
        export = find_export(sweep.runs_root, best.runs[0])
        folder.winner.write_text(export_toml(export, folder.path), encoding="utf-8")
    params, _ = study.space.of_spec(sweep.loaded.spec)
    own_values = study.space.to_spec(params)
    own = next((trial.number for trial in trials if dict(trial.values) == own_values), None)
    result = Result(
        sweep=folder.name,
        experiment=sweep.loaded.spec.name,
        folder=folder.path,
        synthetic=sweep.synthetic,
        paths=tuple(study.space.paths),
        wanted=study.wanted(),
        trials=trials,
        own=own,
        importance=study.importance(),
        export=export,
        pictures=(),
        winner_file=folder.winner if best is not None else None,
    )
    pictures = draw_sweep(result, study.space, folder.path)
    return replace(result, pictures=tuple(pictures))


# --- words ------------------------------------------------------------------------------------------------------------


def result_lines(result: Result) -> list[RenderableType]:
    """The table of the best trials and what is to be thought of them."""
    counts = Counter(trial.state for trial in result.trials)
    tally = ", ".join(f"{n} {state}" for state in ("complete", "pruned", "failed", "waiting") if (n := counts[state]))
    synthetic = ", SYNTHETIC data: nothing is said about a real market" if result.synthetic else ""
    title = f"{result.experiment}: {result.sweep}, {result.wanted} trials: {tally}{synthetic}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if result.best is None:
        return [*parts, Text("no trial is complete, so there is no winner")]
    return [*parts, "", _table(result), "", *map(Text, _remarks(result))]


def _table(result: Result) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("mean Sharpe", justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")  # the one column that may wrap
    shown = result.complete[:_MOST_ROWS]
    if result.own_trial is not None and result.own_trial not in shown:
        shown = [*shown[:-1], result.own_trial]
    for trial in shown:
        words = (["best"] if trial is result.best else []) + (["the spec's own"] if trial.number == result.own else [])
        table.add_row(
            str(trial.number),
            Text(", ".join(words), style=STATE_COLOURS["complete"]),
            _mean_and_spread(list(trial.agents.values())),
            describe(trial.values),
        )
    return table


def _mean_and_spread(sharpes: Sequence[float]) -> str:
    """The standard deviation is over agents."""
    spread = f" ± {np.std(sharpes, ddof=1):.2f}" if len(sharpes) > 1 else ""
    return f"{np.mean(sharpes):z.2f}{spread}"


def _remarks(result: Result) -> list[str]:
    best, lines = result.best, list[str]()
    if best is None:
        return lines
    if len(result.complete) > _MOST_ROWS:
        lines.append(f"the best {_MOST_ROWS} of {len(result.complete)} completed trials are listed")
    lines += [_gain_words(result, best)]
    if result.export is not None and result.export.deflated is not None:
        tried = len(result.export.tried)
        lines.append(
            f"with the luck of the best of {tried} settings taken off, its true Sharpe ratio is above 0 with "
            f"probability {result.export.deflated:.0%} (deflated Sharpe ratio)"
        )
    if result.importance:
        shares = ", ".join(f"{path.rsplit('.', 1)[-1]} {share:.0%}" for path, share in result.importance.items())
        lines.append(f"what mattered: {shares}")
    return lines


def _gain_words(result: Result, best: TrialRecord) -> str:
    gain = result.gain()
    if result.own is not None and best.number == result.own:
        return "no setting did better than the spec's own values"
    if not gain:
        return "the spec's own values are no completed trial, so the winner stands beside nothing"
    bounds = mean_interval(np.array(gain))
    how_sure = "one agent cannot tell how sure that is"
    if bounds is not None:
        how_sure = f"95 % interval {interval(bounds)} over {len(gain)} agents"
    return (
        f"trial {best.number} is {np.mean(gain):+z.2f} above the spec's own values ({how_sure}); "
        "it was chosen as the best, so expect less of it"
    )
