"""Removal of runs. `removed.jsonl` beside the runs records each, so that a number is never used for a second run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterable
from typing import Any

from p3kit.errors import InputError, P3kitError
from p3kit.rundir import rows
from p3kit.rundir.directory import ACTIVE_STATES, RunDir
from p3kit.rundir.file_names import REMOVED


def check_removable(run: RunDir) -> None:
    """Raise InputError for a run that is queued or running, and for a link to a directory elsewhere."""
    if run.path.is_symlink():
        raise InputError(str(run.path), f"is a link to {run.path.resolve()}", "remove the link itself with rm")
    run.mark_crashed()
    state = run.status()["state"]
    if state in ACTIVE_STATES or run.is_locked():
        raise InputError(run.name, f"is {state}", f"end it first: p3kit stop {run.name}")


def remove_run(run: RunDir) -> None:
    """Remove the directory of a run that no process trains. It vanishes in one step, before its files are deleted.

    Raises InputError where another process has started it, P3kitError where files cannot be deleted.
    """
    descriptor = run.lock(wait_s=0.0)
    try:
        if run.status()["state"] in ACTIVE_STATES:
            raise InputError(run.name, "was started meanwhile", f"end it first: p3kit stop {run.name}")
        record = {"run": run.name, "experiment": str(_info(run).get("name", "")), "removed": time.time()}
        rows.append_rows(run.path.parent / REMOVED, [record])
        aside = run.path.with_name(f".{run.name}.removed-{os.getpid()}")
        run.path.rename(aside)
    finally:
        os.close(descriptor)
    try:
        shutil.rmtree(aside)
    except OSError as error:
        what = f"is removed, but some of its files remain ({error.strerror})"
        raise P3kitError(run.name, what, f"delete {aside}") from error


def dependants(runs: Collection[RunDir], others: Iterable[RunDir]) -> list[str]:
    """Sentences on what was made from `runs`: `others` that start from their weights or repeat them, and sweeps."""
    names = {run.name for run in runs}
    sweeps = {run.name: (_info(run).get("tune") or {}).get("sweep") for run in runs}
    found = [f"{name} is a trial of the sweep {sweep}" for name, sweep in sweeps.items() if sweep]
    for other in others:
        if other.name in names:
            continue
        info = _info(other)
        started = [str((plan.get("init") or {}).get("from", "")).partition("/")[0] for plan in info.get("agents", [])]
        found += [
            f"{other.name} starts from the weights of {name}, and keeps its copy"
            for name in dict.fromkeys(started)
            if name in names
        ]
        repeated = (info.get("replay") or {}).get("run")
        found += [f"{other.name} repeats {repeated}"] if repeated in names else []
    return found


def _info(run: RunDir) -> dict[str, Any]:
    """`run.json`; nothing for a damaged one, which can be removed too."""
    try:
        return run.info()
    except P3kitError:
        return {}
