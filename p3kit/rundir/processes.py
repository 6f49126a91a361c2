"""Identity of the process that wrote a status, safe against recycled pids, set clocks and other machines.

psutil finds processes on every system. Its start time is in seconds since the epoch and moves when the clock is set.
The boot time moves with it, so a mark holds their difference and the boot.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SILENT_ON_ANOTHER_HOST_S = 900.0
"""A run on another machine cannot be probed; after this long without a heartbeat it counts as gone."""

TICKS_PER_S = 100
"""Clock ticks of Linux, in which earlier versions stored the start of a process."""


def host() -> str:
    """Return the name of this machine, as stored beside a pid."""
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """Return a mark of the start of process `pid`: boot and hundredths of a second since. None when there is none.

    A zombie (ended, and not yet reaped by its parent) counts as gone.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        since_boot = process.create_time() - psutil.boot_time()
    except (psutil.NoSuchProcess, ValueError):  # ValueError: a negative number is no pid
        return None
    return f"{_boot_id()}:{round(since_boot * TICKS_PER_S)}"


def _boot_id() -> str:
    """Return the identity of this boot on Linux; "" elsewhere, where a pid and its tick are rarely used twice."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else ""


def identity(pid: int) -> dict[str, Any]:
    """Return the fields of a status that identify process `pid`: pid, start mark and machine."""
    return {"pid": pid, "pid_start": process_start(pid), "host": host()}


def is_alive(status: Mapping[str, Any], now: float) -> bool:
    """Return True if the process of `status` still exists. `now` is in unix seconds."""
    pid = status.get("pid")
    if not isinstance(pid, int):
        return False
    if status.get("host", host()) != host():
        heartbeat = status.get("heartbeat")
        return isinstance(heartbeat, int | float) and abs(now - heartbeat) < SILENT_ON_ANOTHER_HOST_S
    started = process_start(pid)
    return started is not None and status.get("pid_start", started) == started


def this_process() -> dict[str, Any]:
    """Return `identity` of the calling process."""
    return identity(os.getpid())
