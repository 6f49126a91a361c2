"""Names that are safe as file names. Symbols and agent names come from users: `BRK/B`, `../../etc`, `EUR USD`."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

LONGEST_NAME = 80
REMOVED = "removed.jsonl"
"""File beside the runs that records those that were removed."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]")


def file_name(name: str) -> str:
    """`name` as one path component: letters, digits and `._=+-` only, no leading dot or dash, at most 80 characters.

    A name that had to be changed gets eight hex digits of its hash, so that two names never share a file.
    """
    safe = _UNSAFE.sub("_", name)
    if safe[:1] in (".", "-", ""):
        safe = "_" + safe[1:]
    if safe == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def take_number(root: Path, word: str) -> Path:
    """Make the folder `WORD-N` in `root` with the next number; two processes never get the same.

    The number of a folder that `p3kit rm` removed is not used again.
    """
    root.mkdir(parents=True, exist_ok=True)
    taken = re.compile(rf"{re.escape(word)}-(\d+)")
    there = [path.name for path in root.iterdir()]  # before the record, which is written before a folder vanishes
    names = [*there, *removed_names(root)]
    number = max((int(match[1]) for name in names if (match := taken.fullmatch(name))), default=0)
    while True:
        number += 1
        path = root / f"{word}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


def removed_names(root: Path) -> list[str]:
    """Names of the runs that were removed from `root`. A damaged record still gives the names that can be read."""
    with contextlib.suppress(FileNotFoundError):
        return re.findall(r'"run": ?"([^"\\]+)"', (root / REMOVED).read_text("utf-8", "replace"))
    return []
