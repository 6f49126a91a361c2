"""Torch threads of a run: recorded when it was planned, and needed again when it is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from p3kit.errors import InputError
from p3kit.rundir.directory import RunDir

LIMIT = "OMP_THREAD_LIMIT"
"""OpenMP's variable for the most threads of a process."""


def available_cores() -> int:
    """Number of cores this process may use: a container's or taskset's share, and what OpenMP's limit allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _thread_limit() or cores)


def threads_of(info: Mapping[str, Any]) -> int:
    """The torch threads of a run, from its `run.json`. Runs of an older p3kit had one by default."""
    planned = info.get("spec", {}).get("compute", {}).get("threads", "auto")
    return int(info.get("threads") or (1 if planned == "auto" else planned))


def check_threads(run: RunDir) -> str:
    """Return a note where a run was planned for more cores than this process may use, else "".

    Raises InputError where OpenMP would give it fewer threads: sums over fewer threads differ in the last bits.
    """
    threads, limit = threads_of(run.info()), _thread_limit()
    if limit is not None and limit < threads:
        what = f"trains with {threads} threads, and {LIMIT}={limit} allows fewer, which changes its weights"
        raise InputError(run.name, what, f"env -u {LIMIT} p3kit resume {run.name}")
    if threads > available_cores():
        return f"{run.name} uses {threads} threads, as planned, on {available_cores()} cores: same bits, slower"
    return ""


def _thread_limit() -> int | None:
    value = os.environ.get(LIMIT, "")
    return int(value) if value.isdigit() and int(value) > 0 else None
