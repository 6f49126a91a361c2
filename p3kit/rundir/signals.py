"""Signal handlers that leave ignored signals ignored.

`nohup` ignores SIGHUP, and shells ignore SIGINT for jobs in the background. A program that sets a handler anyway would
undo this.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

LAUNCHED = "P3KIT_LAUNCHED"
"""Environment variable of a trainer that p3kit started: SIGTERM then comes from p3kit, and is never ignored."""


def is_ignored(number: signal.Signals) -> bool:
    """Return True for a signal that this process ignores, as it inherited."""
    return signal.getsignal(number) is signal.SIG_IGN


def handle_signals(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], Any]
) -> dict[signal.Signals, Any]:
    """Set a handler for the signals that are not ignored, and return their former handlers. Main thread only."""
    return {number: signal.signal(number, handler) for number in numbers if not is_ignored(number)}
