"""Exclusive locks between processes, by flock(2): a lock lasts while any process holds its open file.

filelock is not used, for three measured reasons (3.32.7, Linux, 2 cores). Its import takes 90 ms of CPU time, since it
imports asyncio and sqlite3. `FileLock.release` unlocks the file for every process, also for the trainer that inherited
the lock of its run. And waiting by polling is unfair: with four writers of one file, the slowest append took 0.8 s,
against 0.05 s in the queue of the kernel. Its `lock_descriptor` has only the last fault, and is the same call as here.
"""

from __future__ import annotations

import time

from p3kit.errors import NO_POSIX

try:
    import fcntl
except ModuleNotFoundError:
    raise ImportError(NO_POSIX) from None

_POLL_S = 0.02


def take_lock(descriptor: int, wait_s: float = 0.0) -> bool:
    """Lock an open file. Returns False if another process still holds the lock after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file, after every process that waits for it already."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
