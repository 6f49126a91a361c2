"""Output on a terminal, a pipe or a file. It escapes foreign text, and its failure never ends a training.

`guarded_output` covers everything that a command prints. `p3kit.console` builds on it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from p3kit import escape

_ASCII = str.maketrans(
    {"→": "->", "–": "-", "—": "-", "−": "-", "·": "-", "…": "...", "±": "+/-", "×": "x", "γ": "gamma", "≥": ">=",
     "≤": "<=", "✅": "[passed]", "❌": "[failed]", "⏳": "[open]", "’": "'", "“": '"', "”": '"', "─": "-", "━": "-",
     "╸": "-", "╺": "-", "│": "|", "═": "="}
)  # fmt: skip
"""Our own characters where the encoding of a terminal lacks them."""


class LastingStream:
    """A text stream whose writes never raise.

    Characters that its encoding lacks are replaced. After the first failure (a closed pipe, a full disk) the rest is
    dropped, and `failure` holds the error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        if self.stream is not None and self.failure is None:
            with self._failing():
                self.stream.write(encodable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None and self.failure is None:
            with self._failing():
                self.stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.failure = error
            self._drain()

    def _drain(self) -> None:
        """Send what is still buffered to the null device: the interpreter flushes it at its exit."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = self.stream.fileno()  # type: ignore[union-attr]
            if descriptor in (1, 2):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)


class EscapingStream(LastingStream):
    """A lasting stream that escapes everything: its text comes from specs, run directories and other programs."""

    def __init__(self, lasting: LastingStream) -> None:
        self.lasting = lasting

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.lasting.write(escape.terminal(text))
        return len(text)

    def flush(self) -> None:
        self.lasting.flush()

    def isatty(self) -> bool:
        return self.lasting.isatty()

    @property
    def buffer(self) -> BytesOf:
        return BytesOf(self)

    @property
    def encoding(self) -> str:
        """UTF-8 for click, which writes past a stream of ASCII. The lasting stream encodes."""
        return "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lasting, name)


class BytesOf:
    """The binary stream below an escaping stream, for click: it writes the words of shell completion as bytes."""

    def __init__(self, stream: EscapingStream) -> None:
        self.stream = stream

    def write(self, data: bytes) -> int:
        self.stream.write(bytes(data).decode("utf-8", "surrogateescape"))
        return len(data)

    def flush(self) -> None:
        self.stream.flush()


class GuardedOutput:
    """The two streams of a guarded command."""

    def __init__(self) -> None:
        self.stdout = EscapingStream(lasting_stream(sys.stdout))
        self.stderr = EscapingStream(lasting_stream(sys.stderr))

    @property
    def lost(self) -> str:
        """The reason for missing output, or "". A reader that closed its pipe needs no more."""
        failure = self.stdout.lasting.failure
        closed = isinstance(failure, OSError) and failure.errno == errno.EPIPE
        if failure is None or closed:
            return ""
        return getattr(failure, "strerror", None) or str(failure)


@contextlib.contextmanager
def guarded_output() -> Iterator[GuardedOutput]:
    """Guard `sys.stdout` and `sys.stderr` while this is entered."""
    fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    guarded = GuardedOutput()
    sys.stdout, sys.stderr = guarded.stdout, guarded.stderr
    try:
        yield guarded
    finally:
        if (sys.stdout, sys.stderr) == (guarded.stdout, guarded.stderr):
            sys.stdout, sys.stderr = before


def guard_output() -> None:
    """Guard `sys.stdout` and `sys.stderr` for the rest of the process, as a trainer script does."""
    fill_closed_descriptors()
    guarded = GuardedOutput()
    sys.stdout, sys.stderr = guarded.stdout, guarded.stderr


def fill_closed_descriptors() -> None:
    """Open the null device on each closed standard descriptor. The next file would get its number, and its output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def lasting_stream(stream: TextIO | LastingStream | None) -> LastingStream:
    """Return the lasting stream below `stream`, or a new one around it."""
    if isinstance(stream, EscapingStream):
        return stream.lasting
    return stream if isinstance(stream, LastingStream) else LastingStream(stream)


def encodable(text: str, encoding: str) -> str:
    """Replace the characters that `encoding` lacks: our own by ASCII, others by `\\u2192` and the like."""
    return text.encode(encoding, _ERRORS).decode(encoding)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return found.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii"), error.end


_ERRORS = "p3kit.in_ascii"
codecs.register_error(_ERRORS, _in_ascii)
