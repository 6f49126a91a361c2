"""One command in this process, and what may never come of it."""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from click.testing import CliRunner

from p3kit.cli import main

LONGEST_S = 20.0
"""Seconds of the processor: a busy machine makes nothing slower. What waits for something may take ten times as long by
the clock."""
LONGEST_MESSAGE = 20_000


class Finding(Exception):
    """Behaviour that no input may cause."""


class Hang(BaseException):
    """Raised by the clock in a call that takes too long; no `except Exception` catches it."""


@dataclass(frozen=True)
class Answer:
    """Output and exit code of a command."""

    code: int
    stdout: str
    stderr: str


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Hang in what takes longer. In the main thread only."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    former = {number: signal.signal(number, ring) for number in clocks}
    try:
        for timer, limit in clocks.values():
            signal.setitimer(timer, limit)
        yield
    finally:
        for number, (timer, _) in clocks.items():
            signal.setitimer(timer, 0)
            signal.signal(number, former[number])


def call(*arguments: str, codes: Sequence[int] = (0, 1, 2), seconds: float = LONGEST_S) -> Answer:
    """Run a command and return its result.

    Raises Finding for a traceback, a hang, an exit code that is none of `codes`, and a failure without a message.
    """
    command = " ".join(arguments)
    try:
        with at_most(seconds):
            result = CliRunner().invoke(main, arguments)
    except Hang:
        raise Finding(f"{command}: no answer after {seconds:g} s") from None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        where = traceback.extract_tb(result.exc_info[2])[-1] if result.exc_info else None
        place = f"{where.filename.rpartition('/p3kit/')[2]}:{where.lineno} {where.name}" if where else "?"
        raise Finding(f"{command}: {type(result.exception).__name__}: {result.exception} ({place})")
    answer = Answer(result.exit_code, result.stdout, result.stderr)
    if re.search("^Traceback", answer.stdout + answer.stderr, re.MULTILINE):
        raise Finding(f"{command}: a traceback: {answer.stderr[-500:]}")
    if answer.code not in codes:
        raise Finding(f"{command}: exit code {answer.code}: {answer.stderr[-300:]}")
    if answer.code and not answer.stderr.strip():
        raise Finding(f"{command}: exit code {answer.code} without a message")
    if len(answer.stderr) > LONGEST_MESSAGE:
        raise Finding(f"{command}: {len(answer.stderr)} characters of message")
    return answer
