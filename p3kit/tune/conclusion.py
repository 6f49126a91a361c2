"""Conclude a sweep: read the journal, export the winner, draw the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from p3kit.report.export_data import find_export
from p3kit.report.export_page import export_toml
from p3kit.rundir import RunDir
from p3kit.tune.result_data import Result
from p3kit.tune.result_pictures import draw_sweep
from p3kit.tune.study import TrialRecord
from p3kit.tune.sweep import Sweep, gone


def _without_lost(record: TrialRecord, runs_root: Path) -> TrialRecord:
    """A complete trial whose run directories were deleted or renamed since is shown as failed: nobody can use it."""
    lost = next(filter(None, (gone(RunDir(runs_root / name)) for name in record.runs)), "")
    return replace(record, state="failed", message=lost) if lost and record.state == "complete" else record


def conclude(sweep: Sweep) -> Result:
    """Read the journal, export the winner beside it, and draw the pictures."""
    folder, study = sweep.folder, sweep.study
    trials = tuple(_without_lost(record, sweep.runs_root) for record in study.records() if not record.superseded)
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
