"""The folder of a sweep on disk: name, files, lock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import InputError, P3kitError
from p3kit.rundir import take_number
from p3kit.rundir.locks import take_lock
from p3kit.rundir.rows import read_json, write_bytes, write_json
from p3kit.spec.nearest import did_you_mean

if TYPE_CHECKING:
    pass

WORD = "tune"
"""A sweep's folder is `tune-N`, beside the run directories."""

SWEEP_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepDir:
    """The folder of one sweep: `sweep.json` (spec, overrides, provenance), `spec.toml` as the user wrote it, the
    journal, and in the end the winner and the pictures."""

    path: Path

    @classmethod
    def create(cls, runs_root: Path, info: Mapping[str, Any], spec_text: str) -> SweepDir:
        """Make `tune-N` with the next free number."""
        folder = cls(take_number(runs_root, WORD))
        write_bytes(folder.path / "spec.toml", spec_text.encode("utf-8", "surrogateescape"))
        own = {"schema_version": SWEEP_SCHEMA_VERSION, "sweep": folder.name, "created": time.time()}
        own["paths_from"] = os.path.relpath(Path.cwd(), runs_root.resolve())
        write_json(folder.path / "sweep.json", {**info, **own})
        return folder

    @classmethod
    def find(cls, runs_root: Path, reference: str) -> SweepDir:
        """`tune-3`, `3`, `latest`, or the folder's path. Raises InputError with the nearest name."""
        if (Path(reference) / "sweep.json").is_file():
            return cls(Path(reference))
        sweeps = sorted(runs_root.glob(f"{WORD}-*/sweep.json"), key=lambda path: path.stat().st_mtime)
        names = [path.parent.name for path in sweeps]
        wanted = f"{WORD}-{reference}" if reference.isdigit() else reference
        if wanted == "latest" and names:
            wanted = names[-1]
        if wanted not in names:
            there = did_you_mean(wanted, names).removeprefix("; ") or f"there are {', '.join(names[-6:])}"
            hint = there if names else "p3kit tune specs/tune.toml begins one"
            raise InputError(f"--resume {reference}", f"no sweep of that name in {runs_root}", hint)
        return cls(runs_root / wanted)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def winner(self) -> Path:
        """The winner's spec, once a trial is complete."""
        return self.path / "winner.toml"

    def info(self) -> dict[str, Any]:
        """`sweep.json`. Raises P3kitError when it is damaged or was written by a newer p3kit."""
        info = read_json(self.path / "sweep.json")
        if not isinstance(info, dict) or info.get("schema_version", 0) > SWEEP_SCHEMA_VERSION:
            what = f"has a schema newer than {SWEEP_SCHEMA_VERSION}"
            raise P3kitError(str(self.path / "sweep.json"), what, "pip install -U p3kit")
        return info

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Inside, no other process can go on with this sweep. The lock goes with the process."""
        descriptor = os.open(self.path, os.O_RDONLY)
        if not take_lock(descriptor):
            os.close(descriptor)
            hint = "wait for it, or end it with Ctrl-C in its terminal"
            raise InputError(self.name, "another p3kit tune is at work on this sweep", hint)
        try:
            yield
        finally:
            os.close(descriptor)
