"""Lengths and checksums of the files of rows, as a checkpoint holds them.

A checkpoint is synced to disk, and rests on rows that were written before it. A power cut may take rows that were not
synced, so a checkpoint is written only after its rows are on disk, and a resume compares the rows with its mark.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p3kit.errors import P3kitError
from p3kit.rundir import rows

RECORDS = ("metrics.jsonl", "events.jsonl")
_BLOCK = 1 << 20


class RecordMarks:
    """Takes marks of the files of rows in one run directory; reads only what was added since the last mark."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = dict.fromkeys(RECORDS, (0, 0))

    def take(self) -> dict[str, str]:
        """Sync both files to disk, and return `length checksum` of each by name.

        Raises P3kitError for a file that lost rows since the last mark.
        """
        return {name: "{} {:08x}".format(*self._mark(name)) for name in RECORDS}

    def _mark(self, name: str) -> tuple[int, int]:
        path, (length, crc) = self._folder / name, self._known[name]
        if not path.exists() and not length:
            return 0, 0
        with rows.locked(path) as handle:
            end = rows.whole_rows_end(handle)
            if end < length:
                raise P3kitError(str(path), f"had {length:,} bytes, and has {end:,}: rows were lost", "restore it")
            self._known[name] = end, _crc_of(handle, length, end, crc)
            os.fsync(handle.fileno())
        if not length:
            rows.sync_folder(self._folder)
        return self._known[name]


def lost_rows(folder: Path, marks: Mapping[str, str]) -> str:
    """Describe rows that were lost since `marks` were taken; empty where none were."""
    for name, mark in marks.items():
        length, expected = int(mark.split()[0]), int(mark.split()[1], 16)
        path = folder / name
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            return f"{name} has {size:,} bytes, and had {length:,} when the checkpoint was written: rows were lost"
        if length:
            with path.open("rb") as handle:
                if _crc_of(handle, 0, length, 0) != expected:
                    return f"{name} is not what it was when the checkpoint was written: rows were lost or changed"
    return ""


def _crc_of(handle: Any, begin: int, end: int, crc: int) -> int:
    """CRC-32 of the bytes up to `end`, given that of the bytes up to `begin`."""
    handle.seek(begin)
    while begin < end:
        block = handle.read(min(_BLOCK, end - begin))
        if not block:
            break
        crc, begin = zlib.crc32(block, crc), begin + len(block)
    return crc
