"""Search the values under `[tune]` of a spec, or go on with such a sweep."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p3kit.api.specs import SpecLike, load_spec
from p3kit.api.training import Launch, RunOptions, command_of, require_torch
from p3kit.errors import Interrupted, MissingExtra
from p3kit.launch import train
from p3kit.launch.progress import Progress
from p3kit.rundir import folder_of_runs
from p3kit.rundir.threads import available_cores

if TYPE_CHECKING:
    from p3kit.launch import Outcome
    from p3kit.tune import Result, Sweep
    from p3kit.tune.display import LiveTrials, TrialLines


@dataclass(frozen=True)
class TuneOptions(RunOptions):
    """Settings of a search that are rarely needed."""

    trials: int | None = None
    """Trials in all. Default: `tune.trials` of the spec."""


def tune_spec(
    spec: SpecLike,
    jobs: int | None = None,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: TuneOptions = TuneOptions(),
) -> Result:
    """Search the values under `[tune]` of a spec for the highest mean validation Sharpe ratio.

    Arguments are those of `run_spec`; a callback as `progress` is not called. Returns trials, winner and pictures.
    Raises the errors of `run_spec`; `Interrupted.result` then has the trials so far, and `resume_sweep` continues.
    """
    from p3kit.plan import data_notes
    from p3kit.spec.notes import first_notes
    from p3kit.tune import begin

    require_tune()
    loaded = load_spec(spec, {} if options.trials is None else {"tune.trials": options.trials})
    launch = Launch(jobs, folder_of_runs(runs_root), progress, options)
    command = options.command or command_of("tune", loaded)
    with begin(loaded, loaded.overrides, launch.root, command) as sweep:
        return _search(sweep, launch, [*sweep.notes, *first_notes(loaded, data_notes(loaded.spec, sweep.market))])


def resume_sweep(
    sweep: str,
    jobs: int | None = None,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: TuneOptions = TuneOptions(),
) -> Result:
    """Go on with a sweep: `tune-1`, `1` or `latest`. The sweep keeps its own spec. For the rest see `tune_spec`."""
    from p3kit.tune import go_on

    require_tune()
    launch = Launch(jobs, folder_of_runs(runs_root), progress, options)
    with go_on(launch.root, sweep, options.trials) as opened:
        return _search(opened, launch, opened.notes)


def require_tune() -> None:
    """Raise MissingExtra where optuna or torch is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtra("optuna", "tune", "tuning")
    require_torch()


def _search(sweep: Sweep, launch: Launch, remarks: Sequence[str]) -> Result:
    """Train the trials of a sweep, and conclude it."""
    from p3kit.tune import conclude

    for remark in dict.fromkeys(remarks):
        launch.print(f"note: {remark}")
    with launch.engine([sweep.loaded.spec.compute.model_dump()]) as engine:
        threads = sweep.loaded.spec.compute.threads
        at_a_time, start = engine.room_for(engine.slots or available_cores(), 1 if threads == "auto" else int(threads))
        with launch.background() as background, _display(sweep, launch) as display:
            sweep.messages = display
            outcome = train([], jobs=at_a_time, display=display, on_end=background.draw, feed=sweep, start=start)
            sweep.close()
    return _checked(conclude(sweep), outcome)


def _display(sweep: Sweep, launch: Launch) -> LiveTrials | TrialLines:
    from p3kit.tune.display import trial_display

    records = [record for record in sweep.study.records() if not record.superseded]
    before = sum(record.state in ("complete", "pruned", "failed") for record in records)
    title = f"{sweep.loaded.spec.name} · {sweep.folder.name}{' (synthetic data)' if sweep.synthetic else ''}"
    return trial_display(launch.console, title, before, sweep.study.wanted(), sweep.views)


def _checked(result: Result, outcome: Outcome) -> Result:
    if outcome.interrupted:
        raise Interrupted(result=result)
    return result
