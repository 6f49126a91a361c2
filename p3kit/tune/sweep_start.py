"""Begin a sweep, or go on with an earlier one: the checks that come first, and the trainers a killed process left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import Fault, InputError, P3kitError, SpecError
from p3kit.market import load_market, walk_windows
from p3kit.plan import describe_data, plan_runs
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.spec import LoadedSpec, load_spec, read_trainer
from p3kit.spec.keypath import is_written, leaves, written_path
from p3kit.spec.models import Tune
from p3kit.spec.search_fit import unfit_settings
from p3kit.spec.shipped import find_trainer
from p3kit.tune.study import Study
from p3kit.tune.sweep import Sweep
from p3kit.tune.sweep_folder import SweepDir

if TYPE_CHECKING:
    from p3kit.market import SymbolData

ORPHANS_END_WITHIN_S = 300.0
"""A trainer survives the death of its p3kit. On SIGTERM it finishes an update and writes a checkpoint first."""

_NOT_COMPARED = ("trainer", "data.path", "tune.trials")
"""Values that may differ when a sweep continues: paths from another folder, and the number of trials."""


# --- beginning and continuing -----------------------------------------------------------------------------------------


def check_spec(loaded: LoadedSpec) -> Tune:
    """The [tune] table of a spec that can be searched. Raises SpecError."""
    spec = loaded.spec
    if spec.tune is None:
        hint = 'for example space = { "ppo.learning_rate" = { low = 1e-4, high = 1e-3, log = true } } under [tune]'
        raise SpecError([Fault(f"{loaded.path}:1:1", "tune: missing; the sweep has no values to search", hint)])
    if spec.matrix:
        origin = loaded.origins.get(f"matrix.{written_path((next(iter(spec.matrix)),))}", str(loaded.path))
        hint = "a trial is one setting; move what is to be searched to [tune] space"
        raise SpecError([Fault(origin, "matrix: cannot be searched over", hint)])
    if spec.init is not None:
        what = "init: a sweep starts every trial from new weights"
        raise SpecError([Fault(loaded.origins["init.from"], what, "take [init] out of what is searched")])
    if not is_written(spec.model_dump(mode="json"), ("ppo", "total_timesteps")):
        raise SpecError([Fault(str(loaded.path), f'trainer = "{spec.trainer}": has no total_timesteps to count by')])
    if (unfit := unfit_settings(spec)) is not None and unfit.is_exact and unfit.number == unfit.total:
        what = f"tune.space: none of its {unfit.total} settings fits: with {unfit.example}"
        raise SpecError([Fault(loaded.origins.get("tune.space", str(loaded.path)), what, "widen the space")])
    return spec.tune


@contextlib.contextmanager
def begin(loaded: LoadedSpec, overrides: Sequence[str], runs_root: Path, command: Sequence[str]) -> Iterator[Sweep]:
    """A new sweep, owned while this is entered. All checks come before its folder is made."""
    tune = check_spec(loaded)
    market = load_market(loaded.spec, loaded.spec.symbols)
    plan_runs(loaded.spec, read_trainer(loaded.spec.trainer), windows=walk_windows(loaded.spec, market))
    info = {
        "name": loaded.spec.name,
        "spec_file": str(loaded.path),
        "overrides": list(overrides),
        "spec": loaded.spec.model_dump(mode="json"),
        "trainer_sha256": _digest(loaded),
        "data": _fingerprints(market),
        "command": list(command),
        **provenance(),
    }
    folder = SweepDir.create(runs_root, info, loaded.source_text)
    with folder.owned():
        study = Study(folder, tune, loaded.spec)
        sweep = Sweep(folder, loaded, overrides, study, runs_root, market)
        if outside := study.enqueue_first(loaded.spec):
            what = f"the spec's own {', '.join(outside)} lies outside of tune.space"
            sweep.notes.append(f"{what}: the unchanged spec is no trial")
        if (unfit := unfit_settings(loaded.spec)) is not None:
            sweep.notes.append(unfit.note())
        if study.wanted() < tune.trials:
            sweep.notes.append(f"tune.space holds {study.wanted()} settings that fit: each is tried once")
        yield sweep


@contextlib.contextmanager
def go_on(runs_root: Path, reference: str, trials: int | None) -> Iterator[Sweep]:
    """A sweep where it was left, owned while this is entered, with `trials` in all where that is given.

    Raises InputError where the spec, the trainer or the bars are no longer what they were: what was learnt would not
    hold for them.
    """
    folder = SweepDir.find(runs_root, reference)
    with folder.owned():
        info = folder.info()
        spec_file = Path(info["spec_file"])
        if not spec_file.is_absolute():
            spec_file = Path(os.path.relpath(runs_root / str(info["paths_from"]) / spec_file))
        more = [f"tune.trials={trials}"] if trials is not None else []
        loaded = load_spec(spec_file, [*info["overrides"], *more])
        _refuse_changed(folder, info, loaded)
        tune = check_spec(loaded)
        market = load_market(loaded.spec, loaded.spec.symbols)
        bars = _fingerprints(market)
        if changed := [symbol for symbol in bars if info["data"].get(symbol) != bars[symbol]]:
            what = f"the bars of {', '.join(changed)} have changed since it began"
            raise InputError(folder.name, what, "begin a new one")
        study = Study(folder, tune, loaded.spec)
        sweep = Sweep(folder, loaded, info["overrides"], study, runs_root, market)
        if study.torn:
            sweep.notes.append(f"{study.torn} bytes of a torn row were cut off the journal")
        if not study.records():  # killed before its first trial was queued
            study.enqueue_first(loaded.spec)
        _end_orphans(runs_root, [record.runs for record in study.records() if record.state == "running"])
        if dead := [str(record.number) for record in study.requeue_running()]:
            sweep.notes.append(f"running when their process died, and queued again: trial {', '.join(dead)}")
        yield sweep


def _refuse_changed(folder: SweepDir, info: Mapping[str, Any], loaded: LoadedSpec) -> None:
    then = {written_path(path): value for path, value in leaves(info["spec"])}
    now = {written_path(path): value for path, value in leaves(loaded.spec.model_dump(mode="json"))}
    paths = [path for path in dict.fromkeys([*then, *now]) if path not in _NOT_COMPARED]
    differing = [path for path in paths if _text(then.get(path)) != _text(now.get(path))]
    hint = "put it back, or begin a new sweep"
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        first = differing[0]
        what = f"{first} is not what it was when {folder.name} began: {_text(then.get(first))}{more}"
        raise InputError(loaded.origins.get(first, str(loaded.path)), what, hint)
    if info["trainer_sha256"] != _digest(loaded):
        raise InputError(str(find_trainer(loaded.spec.trainer)), f"has changed since {folder.name} began", hint)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _digest(loaded: LoadedSpec) -> str:
    return hashlib.sha256(find_trainer(loaded.spec.trainer).read_bytes()).hexdigest()


def _fingerprints(market: Mapping[str, SymbolData]) -> dict[str, str]:
    return {symbol: str(describe_data(bars)["fingerprint"]) for symbol, bars in market.items()}


def _end_orphans(runs_root: Path, runs_of: Sequence[Sequence[str]]) -> None:
    """Make trainers that outlived the process of their sweep write a checkpoint and end, and wait for them."""
    runs = [RunDir(runs_root / name) for names in runs_of for name in names]
    alive = [run for run in runs if (run.path / "run.json").is_file() and run.is_locked()]
    for run in alive:
        run.request_stop("its sweep continues in another process")
    deadline = time.monotonic() + ORPHANS_END_WITHIN_S
    while alive := [run for run in alive if run.is_locked()]:
        if time.monotonic() > deadline:
            names = ", ".join(run.name for run in alive)
            raise P3kitError(names, "still trains after a stop request", "try again when it has ended")
        time.sleep(0.1)
