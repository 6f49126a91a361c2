"""An Aim repository opened for writing, one run of it at a time: the only importer of aim.

Aim's own `Run` is made for a process that trains. It draws its hash at random, starts two threads per run, stamps every
point with the time of the call, and marks the run finished when it is closed. A mirror needs four other things: a hash
that depends only on the run directory (so that a rebuild gives the same addresses), no threads, the time at which a row
was written, and the state in the files. So this module uses the parts of `Run` one layer below (`BaseRun`,
`RunTracker`). They are not documented, so exactly one version of aim is accepted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import InputError, MissingExtra, P3kitError

AIM_VERSION = "3.29.1"
NO_AIM_FROM = (3, 13)
"""Python for which the packages of Aim have no wheels."""
REMEDY = "close other programs that use it, or rebuild it: p3kit sync --rebuild (run directories are not touched)"
INDEX_ATTEMPTS = 20
INDEX_PAUSE_S = 0.1
STALE_LOCK_S = 60.0
_PNG_END = b"IEND\xaeB`\x82"
"""Last bytes of every PNG file."""


def require_aim() -> None:
    """Raise MissingExtra without aim, P3kitError with a version that was not tried. Imports nothing."""
    if importlib.util.find_spec("aim") is None:
        if sys.version_info >= NO_AIM_FROM:
            python = ".".join(map(str, sys.version_info[:2]))
            what = f"Aim {AIM_VERSION}, its last release, does not install on Python {python}"
            raise InputError("the Aim mirror", what, "use Python 3.11 or 3.12 for it; p3kit does all else without Aim")
        raise MissingExtra("aim", "aim", "the Aim mirror")
    version = metadata.version("aim")
    if version != AIM_VERSION:
        raise P3kitError("the Aim mirror", f"needs aim {AIM_VERSION}, found {version}", "pip install 'p3kit[aim]'")


class IndexBusyError(P3kitError):
    """Another program holds the index of the repository, which is otherwise sound."""


class AimStore:
    """The Aim repository in `root`/.aim, created when it is not there.

    Every failure of Aim's (locked, damaged, not writable) is raised as P3kitError with the remedy.
    """

    def __init__(self, root: Path) -> None:
        require_aim()
        self.root = root.absolute()
        self.path = self.root / ".aim"
        with self._failures_named():
            self._repo = self._open()
            self._check()

    def has(self, run_hash: str) -> bool:
        return (self.path / "meta" / "chunks" / run_hash).is_dir()

    @contextlib.contextmanager
    def writing(self, run_hash: str, created: float) -> Iterator[RunWriter]:
        """One run, opened for writing and created if need be. `created` is in unix seconds."""
        with self._failures_named():
            writer = RunWriter(self._repo, run_hash, created)
        try:
            with self._failures_named(only_storage=True):
                yield writer
        finally:
            with self._failures_named():
                writer.close()

    def publish(self, run_hash: str) -> bool:
        """Copy a run's summary into the index, without which the SDK and the UI do not see it.

        The index takes one process at a time. Returns False when it stayed busy: `aim up` is then indexing, the run
        very likely included, and the caller tries again at its next turn.
        """
        with self._failures_named():
            manager = _load("aim.sdk.index_manager").RepoIndexManager(self._repo)
            manager.stop()  # its observers would hold one of the user's 128 inotify instances for each call
            return self._while_index_is_free(lambda: manager.index(run_hash))

    def clear(self, run_hash: str) -> None:
        """Drop all that was tracked for a run. Notes, description and archive flag, which are the user's, stay."""
        with self._failures_named():
            self._with_index(lambda: self._repo._delete_local_run_data(run_hash))

    def delete(self, run_hash: str) -> None:
        """Drop a run and the user's notes on it."""
        with self._failures_named():
            self._with_index(lambda: self._repo._delete_run(run_hash))

    def _open(self) -> Any:
        # a mirror killed while it held this lock would make every later one wait five minutes
        lock = self.path / "locks" / "structured_db_lock"
        with contextlib.suppress(FileNotFoundError):  # another process may release it at any moment
            if time.time() - lock.stat().st_mtime > STALE_LOCK_S:
                lock.unlink()
        with _logging_restored():  # creating the database runs alembic, which configures logging for the process
            return _load("aim.sdk.repo").Repo(str(self.root), init=not (self.path / "VERSION").exists())

    def _check(self) -> None:
        """Touch both databases that all runs share, so that damage shows before anything is sent."""
        self._repo.structured_db.find_run("")
        self._while_index_is_free(lambda: self._repo._get_index_container("meta", timeout=0))

    def _with_index(self, work: Callable[[], object]) -> None:
        if not self._while_index_is_free(work):
            raise IndexBusyError(
                str(self.path), "its index is in use by another program", "close p3kit ui and try again"
            )

    def _while_index_is_free(self, work: Callable[[], object]) -> bool:
        """Call `work`; False when another program held the index all the time."""
        for _ in range(INDEX_ATTEMPTS):
            try:
                work()
            except _load("aimrocks.errors").RocksIOError as error:
                if "lock" not in str(error).lower():
                    raise
                time.sleep(INDEX_PAUSE_S)
            else:
                return True
        return False

    @contextlib.contextmanager
    def _failures_named(self, only_storage: bool = False) -> Iterator[None]:
        failures = _storage_failures()
        if not only_storage:
            # RuntimeError: aim's own (a locked run, no repository); ValueError: a damaged VERSION file or record
            failures += (RuntimeError, ValueError, OSError)
        try:
            yield
        except failures as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise P3kitError(str(self.path), f"the Aim repository cannot be used ({reason[:300]})", REMEDY) from error


@functools.cache
def _storage_failures() -> tuple[type[Exception], ...]:
    """Exception types of the databases under Aim, and of nothing else."""
    rocks = _load("aimrocks.errors")
    return (
        rocks.RocksIOError,
        rocks.Corruption,
        rocks.InvalidArgument,
        _load("sqlalchemy.exc").SQLAlchemyError,
        _load("filelock").Timeout,
    )


class RunWriter:
    """One Aim run, held for writing until `close`."""

    def __init__(self, repo: Any, run_hash: str, created: float) -> None:
        # aim opens only runs whose folder exists, and draws a random hash for the others
        Path(repo.path, "meta", "chunks", run_hash).mkdir(parents=True, exist_ok=True)
        repo._all_run_hashes.cache_clear()
        # p3kit's own lock keeps mirrors apart, so a lock on this run was left by one that was killed
        repo._lock_manager.release_locks(run_hash, force=True)
        self._repo, self._hash = repo, run_hash
        self._run = _load("aim.sdk.maintenance_run").MaintenanceRun(run_hash, repo=repo)
        self._tracker = _load("aim.sdk.tracker").RunTracker(self._run)
        self._props = repo.request_props(run_hash, False, datetime.fromtimestamp(created, tz=UTC))

    def close(self) -> None:
        """Flush to disk and release the run's databases and lock."""
        pool = self._repo.container_pool
        for key in [key for key in pool if key.sub == self._hash]:
            pool.pop(key).close()
        self._run._resources.close()

    def describe(self, name: str, experiment: str, tags: Collection[str], vocabulary: Collection[str]) -> None:
        """Set name, experiment and tags. Of the tags already there, only those in `vocabulary` are ever removed."""
        if self._props.name != name:
            self._props.name = name
        if self._props.experiment != experiment:
            self._props.experiment = experiment
        present = set(self._props.tags)
        for tag in sorted(set(tags) - present):
            self._props.add_tag(tag)
        for tag in sorted((present & set(vocabulary)) - set(tags)):
            self._props.remove_tag(tag)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Replace the run's parameters: a tree of plain values, its leaves found in Aim as `run.key.key`."""
        for key, value in params.items():
            self._run.meta_run_tree.subtree("attrs")[key] = value
            self._run.meta_tree.subtree("attrs")[key] = value  # the union over runs, for suggestions in the UI

    def set_end(self, time: float | None) -> None:
        """Mark the run finished at `time` (unix seconds), or active with None."""
        self._run.meta_run_tree["end_time"] = time

    def track(
        self,
        value: Any,
        name: str,
        *,
        step: int,
        context: Mapping[str, str],
        time: float,
        epoch: int | None = None,
    ) -> None:
        """One point of a series. The same name, context and step again overwrite it."""
        self._tracker._track(value, time, name, step, epoch, context=dict(context))


def image(path: Path, caption: str) -> Any:
    """A PNG as Aim keeps it. Aim would decode the file and encode it again; here its bytes are kept as they are. Raises
    OSError for half a file."""
    content = path.read_bytes()
    with _load("PIL.Image").open(path) as picture:
        if not content.endswith(_PNG_END):
            raise OSError(f"{path.name} is not a whole PNG file")
        kept = _load("aim").Image(_load("PIL.Image").new(picture.mode, (1, 1)), caption=caption, format="png")
        kept.storage["data"] = _load("aim.storage.types").BLOB(data=content)
        kept.storage["width"], kept.storage["height"] = picture.size
    return kept


def text(content: str) -> Any:
    """A piece of text as Aim keeps it."""
    return _load("aim").Text(content)


def distribution(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> Any:
    """A histogram as Aim keeps it: `counts` of equally wide bins between the first and the last edge."""
    return _load("aim").Distribution(hist=counts, bin_range=(float(edges[0]), float(edges[-1])))


def move_aside(root: Path) -> Path | None:
    """Rename `root`/.aim to a free name beside it and return that; None where there is none.

    Stores opened on it must not be used any more.
    """
    path = root.absolute() / ".aim"
    if not path.exists():
        return None
    # aim keeps one database object per path, and would go on with the one whose file is moved
    if database := _load("aim.storage.structured.db").DB._pool.pop(str(path), None):
        database.engine.dispose()
    spare = next(place for n in range(1, 10_000) if not (place := root / f".aim.broken-{n}").exists())
    return Path(shutil.move(path, spare))


def _load(module: str) -> Any:
    """Import a module of Aim lazily: Aim is optional and has no types."""
    return importlib.import_module(module)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """Undo what `logging.config.fileConfig` does: handlers replaced, and every existing logger disabled."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    loggers = [item for item in logging.Logger.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    disabled = {logger: logger.disabled for logger in loggers}
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        for logger, was_disabled in disabled.items():
            logger.disabled = was_disabled
