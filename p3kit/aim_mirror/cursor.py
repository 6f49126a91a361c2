"""Positions up to which runs are mirrored, kept between syncs in a file per run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from p3kit.rundir.rows import write_json

CURSOR_VERSION = 2


@dataclass
class Cursor:
    """Position up to which one run is mirrored."""

    version: int = CURSOR_VERSION
    runs_root: str = ""  # whose run it is: several roots may share one repository
    run: str = ""
    stamp: str = ""  # of the run directory when it was last read; equal means nothing is new
    resumes: str = ""  # number and time of the resumes seen: a resume rewrites the end of the files
    metrics: int = 0  # byte offset behind the last row
    event: int = -1  # sequence number of the last event
    tags: list[str] = field(default_factory=list)  # the user's tags (p3kit note --tag) that Aim has from here
    files: dict[str, int] = field(default_factory=dict)  # histograms and plots: modification time, ns

    @classmethod
    def load(cls, path: Path) -> Cursor:
        """The cursor in `path`; a fresh one where there is none, or none that this version can read."""
        try:
            fields = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return cls()
        if not isinstance(fields, dict) or fields.get("version") != CURSOR_VERSION:
            return cls()
        return cls(**fields)

    def save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        write_json(path, dataclasses.asdict(self))


def directory_stamp(*folders: Path) -> str:
    """A digest of names, sizes and times in these folders: changes when a file in one of them is written or added."""
    digest = hashlib.sha256()
    for folder in filter(Path.is_dir, folders):
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):  # locks, and files still being written
                continue
            stat = entry.stat()
            digest.update(f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
