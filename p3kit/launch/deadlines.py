"""Deadlines for other people's code: a call that hangs is left in its thread, and the process continues."""

from __future__ import annotations

import threading
from collections.abc import Callable

abandoned: list[str] = []
"""Threads of this process that hang. The end of the interpreter would wait for them: see `p3kit.cli`."""


def ends_within(seconds: float, name: str, work: Callable[[], object]) -> bool:
    """Call `work` in a thread. Return False where it has not ended within `seconds`; it is then abandoned."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        abandoned.append(name)
    return not thread.is_alive()
