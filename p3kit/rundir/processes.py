"""Whether the process that wrote a status still exists, safe against recycled pids and against other machines."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SILENT_ON_ANOTHER_HOST_S = 900.0
"""A run on another machine cannot be probed; after this long without a heartbeat it counts as gone."""


def host() -> str:
    """The name of this machine, as stored beside a pid."""
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """An opaque mark of when process `pid` began, equal for two looks at the same process; None when there is none.

    Linux: boot id and start in clock ticks since boot. Elsewhere: what `ps` calls the start time. A zombie (ended but
    not yet reaped by its parent) counts as gone.
    """
    if pid <= 0:
        return None
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # "pid (name) state ppid …": the name may hold spaces and brackets, so split after the last one
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, ticks = fields[0], fields[19]
        boot = Path("/proc/sys/kernel/random/boot_id")
        boot_id = boot.read_text().strip() if boot.exists() else ""
        return None if state in "ZX" else f"{boot_id}:{ticks}"
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def identity(pid: int) -> dict[str, Any]:
    """What a status stores to find its process again: pid, start mark and machine."""
    return {"pid": pid, "pid_start": process_start(pid), "host": host()}


def is_alive(status: Mapping[str, Any], now: float) -> bool:
    """Whether the process that `status` names still exists. `now` is in unix seconds."""
    pid = status.get("pid")
    if not isinstance(pid, int):
        return False
    if status.get("host", host()) != host():
        heartbeat = status.get("heartbeat")
        return isinstance(heartbeat, int | float) and abs(now - heartbeat) < SILENT_ON_ANOTHER_HOST_S
    started = process_start(pid)
    return started is not None and status.get("pid_start", started) == started


def this_process() -> dict[str, Any]:
    """`identity` of the calling process."""
    return identity(os.getpid())
