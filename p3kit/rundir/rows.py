"""Files of JSON rows that survive a kill at any moment, and JSON documents that are replaced whole.

A row counts once its newline is on disk. Text after the last newline is a torn row: readers leave it out, and the next
append cuts it off and reports it. Numbers that are not finite are written as the strings "nan", "inf" and "-inf", which
every JSON reader accepts, and are read as floats.

Rows and documents end with their own checksum, `"crc": "1f0a99c2"`. A flipped bit, a block of zeros or an edited line
is reported and never used. Rows and documents without a checksum are accepted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.errors import P3kitError
from p3kit.rundir.locks import wait_for_lock

EVENT_KINDS = {
    "resume": "training went on from a checkpoint",
    "checkpoint": "a checkpoint was written",
    "evaluation": "the policy walked a split",
    "extension": "training continues to a larger number of steps than was planned",
    "early_stop": "training ended before its last step, and why",
    "symptom": "a symptom was raised or went away",
    "intervention": "an intervention fired, was suppressed or released",
    "verdict": "an agent was graded",
    "note": "a note for the user",
    "torn_line": "an incomplete row was cut off",
    "nonfinite": "a number was not finite",
    "oom": "an allocation failed",
    "crash": "the trainer process ended without a final status",
    "failed": "a fault of one agent ended it; the others of its run went on",
    "stop": "a stop of the run was requested",
    "paper": "a paper account of the agent was opened",
    "final_evaluation": "the test split was used: one event at the start of the evaluation, one with its result",
}
"""Every kind of event, and its meaning."""

BACKTEST_RESULT = "p3kit-backtest "
"""What a trainer process prints before the one line of JSON that a backtest results in."""

TEMPORARY_NAME = re.compile(r"\..+?\.(?P<pid>\d+)(\.\d+)?\.tmp")
"""Of a file that is still being written, by whom: `.status.json.4711.140213.tmp`. A kill leaves it behind."""

CHANGED = "was changed or damaged after it was written: its checksum does not fit"

_SEAL = re.compile(rb',\s+"crc": "(?P<crc>[0-9a-f]{8})"(?P<end>\n?)\}\Z')
_NO_JSON = (ValueError, RecursionError)  # json's own errors and those of Unicode are ValueErrors
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TEXT_FIELDS = ("agent", "kind", "text", "message", "id", "note")
_BLOCK = 1 << 16


def encode(value: Any) -> Any:
    """`value` in plain JSON types: numpy and torch scalars and arrays as numbers and lists, nan and inf as strings."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return encode(value.tolist())
    raise TypeError(f"cannot be written as JSON: {value!r} of type {type(value).__name__}")


def decode(value: Any) -> Any:
    """The inverse of `encode` for nan and inf. Fields that hold text (agent, kind, text, message) stay text."""
    if isinstance(value, str):
        return _NONFINITE.get(value, value)
    if isinstance(value, dict):
        return {
            key: inner if key in _TEXT_FIELDS and isinstance(inner, str) else decode(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [decode(inner) for inner in value]
    return value


def _has_nonfinite(content: bytes) -> bool:
    """True if JSON may hold a word of `encode` for nan or inf. Most documents hold none, and need no `decode`."""
    return any(f'"{word}"'.encode() in content for word in _NONFINITE)


def concerns(event: Mapping[str, Any], agent: str) -> bool:
    """Return True if an event concerns an agent: it names this agent, alone or among others, or no agent."""
    if event.get("agents"):
        return agent in event["agents"]
    return event.get("agent") in (None, agent)


def decode_numbers(values: dict[str, Any]) -> dict[str, float]:
    """`decode` for a flat table of numbers, several times as fast."""
    return {name: _NONFINITE[value] if value.__class__ is str else value for name, value in values.items()}


def dump(value: Any, indent: int | None = None) -> str:
    """`value` as strict JSON."""
    return json.dumps(encode(value), allow_nan=False, ensure_ascii=False, indent=indent)


def line_of(row: Mapping[str, Any]) -> str:
    """`row` as a line of a file of rows, with its checksum."""
    return seal(dump(row)) + "\n"


def seal(text: str) -> str:
    """A JSON object with the CRC-32 of what it was as its last field."""
    crc = f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x}"
    if text.endswith("\n}"):  # a document of one field per line
        return f'{text[:-2]},\n "crc": "{crc}"\n}}'
    return f'{text[:-1]}, "crc": "{crc}"}}'


def unseal(content: bytes) -> tuple[Any, bool]:
    """Return the content of a line or a document, and whether it had a checksum. Raises ValueError if that does not
    fit, and without JSON."""
    found = _SEAL.search(content, max(0, len(content) - 40))
    if found is not None:
        content = content[: found.start()] + found["end"] + b"}"
        if zlib.crc32(content) != int(found["crc"], 16):
            raise ValueError(CHANGED)
    value = json.loads(content)
    if isinstance(value, dict) and "crc" in value:  # not where we put it
        raise ValueError(CHANGED)
    return value, found is not None


def write_json(path: Path, value: Any, *, durable: bool = True, sealed: bool = False) -> None:
    """Replace `path` by `value` in one step: readers see the old document or the new one, never a part."""
    text = dump(value, indent=1)
    content = (seal(text) if sealed else text) + "\n"
    write_bytes(path, content.encode("utf-8", "surrogateescape"), durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`, as `write_pieces` does."""
    write_pieces(path, [content], durable=durable)


def write_pieces(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> None:
    """Replace `path` by the pieces, joined: a temporary file, fsync, rename, fsync of the folder.

    Without the fsyncs (`durable=False`, some 10 ms cheaper) it still survives the end of the process at any moment, but
    a power cut may leave the file damaged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as handle:
            for piece in pieces:
                handle.write(piece)
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a full or vanished disk the temporary file may not be removable either
            temporary.unlink(missing_ok=True)
        raise _disk_error(path, error) from error
    if durable:
        sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """The document in `path`. Raises P3kitError when it is damaged, FileNotFoundError when it is not there."""
    try:
        content = path.read_bytes().rstrip()
        value, _ = unseal(content)
        return decode(value) if _has_nonfinite(content) else value
    except FileNotFoundError:
        raise
    except OSError as error:
        raise P3kitError(str(path), f"cannot be read ({error.strerror or error})", "repair the file") from error
    except _NO_JSON as error:
        what, remedy = f"is not valid JSON ({error})", "restore the file or delete the run"
        if str(error) == CHANGED:
            what, remedy = CHANGED, f'{remedy}; take its "crc" out if the change was meant'
        raise P3kitError(str(path), what, remedy) from error


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add `rows` at the end of `path` in one write; returns how many bytes of a torn last row were cut off before.

    If the disk is full the file keeps the rows it had. Raises P3kitError.
    """
    with locked(path) as handle:
        cut = cut_torn_row(handle)
        write_at_end(handle, path, "".join(map(line_of, rows)))
    return cut


def append_numbered(path: Path, row: Mapping[str, Any]) -> tuple[int, int]:
    """Add `row` with the field `seq`, one more than the last row's; returns (seq, bytes of a torn row cut off).

    Safe between processes: the number is read and the row written under a lock.
    """
    with locked(path) as handle:
        cut = cut_torn_row(handle)
        seq = last_seq(handle, path) + 1
        write_at_end(handle, path, line_of({"seq": seq, **row}))
    return seq, cut


@dataclass(frozen=True)
class RowKind:
    """The rows of one file. A row with a valid checksum and the right first keys is accepted. Any other row, of another
    version or another file, is checked key by key."""

    begins: bytes
    lacks: Callable[[Any], str]
    """What is wrong with a row, in a few words; empty where nothing is."""


def read_rows(path: Path, kind: RowKind, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The complete rows that begin at byte `offset` or later, and the offset behind the last of them.

    `kind` is one of `p3kit.rundir.validation`.

    A file that does not exist holds no rows. An `offset` that is no beginning of a row (the file was cut since) starts
    again at 0. Raises P3kitError naming the line of a damaged row.
    """
    if offset and not _begins_a_row(path, offset):
        offset = 0
    rows = []
    place = f"{path}: row {{}} after byte {offset}" if offset else f"{path}:{{}}"
    for number, line in enumerate(complete_lines(path, offset), start=1):
        rows.append(_checked(line, kind, place.format(number)))
        offset += len(line)
    return rows, offset


def verify_rows(path: Path, kind: RowKind) -> None:
    """Check like `read_rows` and raise the same errors, without returning the rows."""
    for number, line in enumerate(complete_lines(path), start=1):
        found = _SEAL.search(line, max(0, len(line) - 40), len(line) - 1)
        intact = found is not None and zlib.crc32(b"}", zlib.crc32(memoryview(line)[: found.start()])) == int(
            found["crc"], 16
        )
        if not intact or not line.startswith(kind.begins):
            _checked(line, kind, f"{path}:{number}")


def complete_lines(path: Path, offset: int = 0) -> Iterator[bytes]:
    """The lines from byte `offset` on, one after the other, each with its newline; a torn last one is left out."""
    try:
        with path.open("rb") as handle:
            handle.seek(offset)
            yield from (line for line in handle if line.endswith(b"\n"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise P3kitError(str(path), f"cannot be read ({error.strerror or error})", "repair the file") from error


def _checked(line: bytes, kind: RowKind, place: str) -> dict[str, Any]:
    try:
        row, sealed = unseal(line.rstrip(b"\n"))
        if not (sealed and line.startswith(kind.begins)) and (fault := kind.lacks(row)):
            raise ValueError(fault)
    except _NO_JSON as error:
        what, remedy = f"is not a JSON row ({error})", "delete that line to read the rest"
        if str(error) == CHANGED:
            what, remedy = CHANGED, f'{remedy}, or take its "crc" out if the change was meant'
        raise P3kitError(place, what, remedy) from error
    found: dict[str, Any] = row
    return found


def drop_rows(handle: Any, path: Path, kind: RowKind, unwanted: Callable[[Mapping[str, Any]], bool]) -> int:
    """Take the unwanted rows out of `path`, which `handle` holds locked; returns how many. A kill leaves all or none
    of them. Rows are looked at one by one, so that a file of any length needs no memory."""
    gone, first, offset, kept_later = 0, 0, 0, False
    for number, line in enumerate(complete_lines(path), start=1):
        if unwanted(_checked(line, kind, f"{path}:{number}")):
            first, gone = (first if gone else offset), gone + 1
        elif gone:
            kept_later = True
        offset += len(line)
    if kept_later:
        kept = (line for line in complete_lines(path) if not unwanted(unseal(line.rstrip(b"\n"))[0]))
        write_pieces(path, kept)
    elif gone:
        handle.truncate(first)
        os.fsync(handle.fileno())
    return gone


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Any]:
    """`path` opened for reading and writing, held alone: other writers wait. The lock goes with the process."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _disk_error(path, error) from error
        with os.fdopen(descriptor, "r+b", buffering=0) as handle:
            wait_for_lock(descriptor)
            if _is_current(path, descriptor):  # else `path` was replaced while we waited
                yield handle
                return


def cut_torn_row(handle: Any) -> int:
    """Cut what follows the last newline; returns how many bytes that were."""
    end = handle.seek(0, os.SEEK_END)
    whole = _after_last_newline(handle, end)
    if whole < end:
        handle.truncate(whole)
    return int(end - whole)


def whole_rows_end(handle: Any) -> int:
    """The offset behind the last complete row."""
    return _after_last_newline(handle, handle.seek(0, os.SEEK_END))


def last_seq(handle: Any, path: Path) -> int:
    """The `seq` of the last row, -1 in an empty file."""
    end = handle.seek(0, os.SEEK_END)
    if end == 0:
        return -1
    start = _after_last_newline(handle, end - 1)
    handle.seek(start)
    line = handle.read(end - start)
    try:
        return int(unseal(line.rstrip(b"\n"))[0]["seq"])
    except (*_NO_JSON, KeyError, TypeError) as error:
        raise P3kitError(str(path), "the last row is damaged or has no sequence number", "delete that line") from error


def _begins_a_row(path: Path, offset: int) -> bool:
    try:
        with path.open("rb") as handle:
            handle.seek(offset - 1)
            return handle.read(1) == b"\n"
    except FileNotFoundError:
        return False


def _is_current(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _after_last_newline(handle: Any, end: int) -> int:
    """The offset behind the last newline before `end`; 0 without one."""
    while end > 0:
        start = max(0, end - _BLOCK)
        handle.seek(start)
        found = handle.read(end - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        end = start
    return 0


def write_at_end(handle: Any, path: Path, text: str) -> None:
    """Add `text` to `path`, which `handle` holds locked: all of it, or nothing where the disk is full (P3kitError)."""
    end = handle.seek(0, os.SEEK_END)
    content = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while content:
            content = content[handle.write(content) :]
    except OSError as error:
        handle.truncate(end)
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: OSError) -> P3kitError:
    return P3kitError(
        str(path),
        f"cannot be written ({error.strerror or error})",
        "free some space or fix the folder, then p3kit resume",
    )


def sync_folder(folder: Path) -> None:
    """Make a rename itself durable (POSIX: the directory entry is data of the directory)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
