"""Progress of a launch from a terminal, to a file, in a notebook, or from a program with a callback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence

from rich.console import Console

from p3kit.console import Console as OwnConsole
from p3kit.errors import P3kitWarning
from p3kit.launch.display import AgentView, Display, make_display

ProgressCallback = Callable[[Sequence[AgentView]], None]
"""Called in the launching thread, about every half second, with every agent."""

Progress = bool | ProgressCallback | Console
"""True: a live table on a terminal, plain lines elsewhere. False: no output. A callback, or a rich console."""


def open_display(progress: Progress, title: str) -> Display:
    """Return the display for `progress`. A display without a place for messages issues them as `P3kitWarning`."""
    if isinstance(progress, bool | Console):
        return make_display(progress_console(progress), title) if progress else CallbackDisplay(lambda _: None)
    return CallbackDisplay(progress)


def progress_console(progress: Progress) -> Console:
    """Return the console for lines of progress. It prints nothing unless `progress` is True or a console.

    Lines go to stderr, in a notebook to stdout: a notebook colours stderr as an error.
    """
    if isinstance(progress, Console):
        return progress
    quiet = progress is not True
    if "ipykernel" in sys.modules:  # its stdout claims to be a terminal
        return OwnConsole(force_jupyter=False, force_terminal=False, quiet=quiet)
    return OwnConsole(stderr=True, quiet=quiet)


class CallbackDisplay(Display):
    """Passes the agents to a function, and issues messages as Python warnings."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback

    def show(self, agents: Sequence[AgentView]) -> None:
        self._callback(agents)

    def print(self, text: str) -> None:
        warnings.warn(text, P3kitWarning, stacklevel=2)
