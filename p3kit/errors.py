"""Errors for users: where, what is wrong, and the remedy.

Every error that a user can cause derives from `P3kitError`. The command line prints `str(error)` and exits with
`error.exit_code`, and what the operating system refuses (a full disk, a read-only folder) in one line; nothing else is
caught there, so a traceback always means a fault of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from p3kit import escape

NO_POSIX = "p3kit runs on Linux and macOS. On Windows, use WSL: run `wsl --install`, and install p3kit there."
"""For systems without fcntl, which locks the run directories."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with an input.

    `where` is a place a user can go to (`specs/phase3.toml:14:1`, `--set ppo.gama=1`, `data/AAPL.csv: row 812`).
    `what` names the key, the value and the expected value. `hint` is the remedy or the nearest right word.
    """

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        """One line. Control characters in names and values stand escaped."""
        line = f"{self.where}: {self.what}" + (f"; {self.hint}" if self.hint else "")
        return escape.one_line(line)


class P3kitError(Exception):
    """A failure with a message for the user. `exit_code` 1: the work failed; 2: the input is at fault."""

    exit_code = 1

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        self.faults: tuple[Fault, ...] = (Fault(where, what, hint),)
        super().__init__(str(self.faults[0]))


class InputError(P3kitError):
    """The user's input is at fault: a spec, a flag, a data file, the name of a run."""

    exit_code = 2


class SpecError(InputError):
    """All faults of one spec at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        Exception.__init__(self, "\n".join(str(fault) for fault in self.faults))


class DataError(InputError):
    """Bars that cannot be trusted: the message names symbol, file, row and remedy."""

    @classmethod
    def collected(cls, faults: Iterable[Fault]) -> DataError:
        """The faults of several files or symbols at once."""
        error = cls("", "")
        error.faults = tuple(faults)
        error.args = ("\n".join(str(fault) for fault in error.faults),)
        return error


class BarsError(InputError):
    """Too few bars for a decision, or bars that are too old."""

    exit_code = 3


class RunNotFound(InputError):
    """No run directory has that name."""


class MissingExtra(InputError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            purpose, f"needs the package {package!r}, which is not installed", f"pip install 'p3kit[{extra}]'"
        )


class CheckpointError(P3kitError):
    """A checkpoint that is torn, altered, or from another run."""


class NumericalFault(P3kitError):
    """A number that is not finite where money or learning depends on it."""


class P3kitWarning(UserWarning):
    """Something that a caller of the Python API should read, and that did not stop the call."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while runs trained. Every trainer has ended with a checkpoint.

    `runs` are the runs of the call, `result` is that of a search.
    """

    def __init__(self, runs: Any = (), result: Any = None) -> None:
        self.runs, self.result = runs, result
        unfinished = " ".join(run.name for run in runs if run.state != "done")
        command = f"tune --resume {result.sweep}" if result is not None else f"resume {unfinished}"
        has_more = bool(unfinished) or result is not None
        super().__init__(f"every trainer wrote a checkpoint; p3kit {command} continues" if has_more else "")
