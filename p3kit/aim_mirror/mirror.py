"""Copy the run directories under one root into an Aim repository.

Each run directory has one Aim run. Its hash depends only on the run, so links, notes and bookmarks survive a rebuild. A
cursor file per run inside the Aim repository records the progress of the copy. If a cursor is lost, the run is sent
again and overwrites equal values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.aim_mirror.cursor import Cursor, directory_stamp
from p3kit.aim_mirror.sender import Sender
from p3kit.aim_mirror.store import AimStore, IndexBusyError, move_aside, require_aim
from p3kit.errors import P3kitError
from p3kit.home import home
from p3kit.rundir import RunDir, list_runs
from p3kit.rundir.locks import take_lock

LOCK_WAIT_S = 30.0
FOLLOW_INTERVAL_S = 10.0
SILENT_S = 60.0
"""Seconds for one run after which Aim is taken to hang. On a full disk its database waits without end for room."""
FOLLOW_SHARE = 0.05
_CURSORS = Path(".aim", "p3kit")


@dataclass(frozen=True)
class SyncResult:
    """Result of one pass over the run directories. `problems` are runs that could not be mirrored, and why."""

    runs: int = 0
    changed: int = 0
    points: int = 0
    distributions: int = 0
    images: int = 0
    texts: int = 0
    problems: tuple[str, ...] = ()

    def plus(self, **counts: int) -> SyncResult:
        return dataclasses.replace(self, **{name: getattr(self, name) + count for name, count in counts.items()})

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.runs} runs, nothing new"
        return (
            f"{self.runs} runs, {self.changed} changed: {self.points} points, {self.distributions} distributions, "
            f"{self.images} images, {self.texts} texts"
        )


def default_repo(runs_root: str | Path) -> Path:
    """The folder whose `.aim` mirrors `runs_root`: the one beside the runs, so `./.aim` for `./runs`."""
    return Path(runs_root).absolute().parent


def run_hash(info: Mapping[str, Any]) -> str:
    """The Aim hash of the run with this run.json: 24 hex digits from its name, experiment and time of creation."""
    identity = json.dumps([info["run"], info["name"], info["created"]])
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def is_mirrored(runs_root: str | Path, repo: str | Path | None, key: str) -> bool:
    """Return True if the mirror of `runs_root` has the run with this Aim hash. Imports no Aim."""
    return (_folder(runs_root, repo) / _CURSORS / f"{key}.json").is_file()


def _folder(runs_root: str | Path, repo: str | Path | None) -> Path:
    """The folder whose `.aim` is the mirror."""
    folder = home(repo).absolute() if repo is not None else default_repo(runs_root)
    return folder.parent if folder.name == ".aim" else folder  # as aim's own commands take it


class Mirror:
    """The run directories under `runs_root`, mirrored into the Aim repository in `repo`/.aim.

    Several mirrors may serve one repository: they take turns. Raises MissingExtra when aim is not installed.
    """

    def __init__(self, runs_root: str | Path, repo: str | Path | None = None) -> None:
        require_aim()
        self.runs_root = Path(runs_root)
        self.repo = _folder(runs_root, repo)
        self._cursors = self.repo / _CURSORS
        self.bookmarks = self.repo / ".aim" / "p3kit.bookmarks.json"
        self._store: AimStore | None = None
        self._busy_since: float | None = None

    @property
    def hangs(self) -> bool:
        """Aim has been at work on one run for too long. The thread that called it cannot be ended."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > SILENT_S

    def sync(self) -> SyncResult:
        """Send what is new. Without news it opens nothing and costs a directory listing per run.

        A run that cannot be mirrored is named in the result and does not stop the others. Raises P3kitError when the
        repository as a whole cannot be used. Run directories are only read.
        """
        with self._turn(), self._busy():
            return self._sync()

    def rebuild(self) -> SyncResult:
        """Rebuild the mirror: drop every mirrored run and send all runs.

        The user's notes on runs that still exist stay, as do other runs in the repository. A repository that cannot be
        opened is renamed to `.aim.broken-N`, never deleted.
        """
        with self._turn(), self._busy():
            try:
                self._forget_all()
            except IndexBusyError:
                raise
            except P3kitError:
                self._store = None
                move_aside(self.repo)
            return self._sync()

    def forget(self, keys: Iterable[str]) -> None:
        """Delete runs whose directories were removed, by their hashes, with the user's notes on them in Aim."""
        with self._turn(), self._busy():
            for key in keys:
                self._busy_since = time.monotonic()
                self._opened().delete(key)
                self._cursor(key).unlink(missing_ok=True)

    def follow(
        self, stop: threading.Event, interval: float = FOLLOW_INTERVAL_S, news: threading.Event | None = None
    ) -> Iterator[SyncResult]:
        """Sync again and again until `stop` is set, and once more then; yields each result. `news`, which is set with
        `stop` too, ends a pause.

        The pause grows with the work, so that the mirror takes at most a twentieth of one core from training.
        """
        while True:
            if news is not None:
                news.clear()
            last = stop.is_set()
            started = time.monotonic()
            yield self.sync()
            if last:
                return
            (news or stop).wait(max(interval, (time.monotonic() - started) / FOLLOW_SHARE))

    def runs(self) -> dict[str, RunDir]:
        """The run directories by Aim hash, those left out whose run.json cannot be read."""
        found = {}
        for run in list_runs(self.runs_root):
            with contextlib.suppress(P3kitError):
                found[run_hash(run.info())] = run
        return found

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other mirrors of this repository out. The lock is on the folder itself, and goes with the process."""
        try:
            self.repo.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.repo, os.O_RDONLY)
        except OSError as error:
            raise P3kitError(str(self.repo), f"no Aim repository can be kept here ({error.strerror})") from error
        try:
            if not take_lock(descriptor, LOCK_WAIT_S):
                what = "another p3kit has been writing to this Aim repository"
                raise P3kitError(str(self.repo / ".aim"), what, "try again when it is done")
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Time the work on Aim, for `hangs`."""
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def _sync(self) -> SyncResult:
        result = SyncResult()
        for run in list_runs(self.runs_root):
            self._busy_since = time.monotonic()
            result = result.plus(runs=1)
            try:
                result = self._sync_run(run, result)
            except (P3kitError, OSError) as error:  # OSError: the run was deleted, or a picture is half drawn
                result = dataclasses.replace(result, problems=(*result.problems, f"{run.name}: {error}"))
        return result

    def _sync_run(self, run: RunDir, result: SyncResult) -> SyncResult:
        info = run.info()
        key = run_hash(info)
        cursor_path = self._cursor(key)
        cursor = Cursor.load(cursor_path)
        stamp = directory_stamp(
            run.path, run.plots
        )  # taken before reading, so that what is written meanwhile shows next time
        if stamp == cursor.stamp:
            return result
        store = self._opened()
        resumes = _resumes(run)
        if not store.has(key) or resumes != cursor.resumes:
            root = str(self.runs_root.absolute())
            cursor = Cursor(runs_root=root, run=run.name, resumes=resumes, tags=cursor.tags)
            if store.has(key):
                store.clear(key)  # rows that a resume cut off must not live on in the mirror
        with store.writing(key, info["created"]) as writer:
            counts = Sender(run, info, writer, cursor).send()
        # an unpublished run keeps its old stamp, so the next sync comes back to it
        cursor.stamp = stamp if store.publish(key) else ""
        cursor.save(cursor_path)
        return result.plus(changed=1, **counts)

    def _cursor(self, key: str) -> Path:
        return self._cursors / f"{key}.json"

    def _opened(self) -> AimStore:
        if self._store is None or not self._store.path.is_dir():
            self._store = AimStore(self.repo)
        return self._store

    def _forget_all(self) -> None:
        """Drop all that was sent from these runs. The cursor goes last: a kill in between changes nothing."""
        store, existing = self._opened(), self.runs()
        root = str(self.runs_root.absolute())
        mirrored = {path.stem for path in self._cursors.glob("*.json") if Cursor.load(path).runs_root == root}
        for key in sorted(mirrored | existing.keys()):
            self._busy_since = time.monotonic()
            if key in existing:
                store.clear(key)
            else:
                store.delete(key)
            self._cursor(key).unlink(missing_ok=True)


def _resumes(run: RunDir) -> str:
    times = [event["time"] for event in run.read_events("resume")]
    return f"{len(times)}@{times[-1]}" if times else ""
