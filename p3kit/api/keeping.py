"""Keep notes and tags with runs, and remove runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p3kit.api.saved_run import RunLike, SavedRun, open_whole_runs
from p3kit.errors import P3kitError
from p3kit.rundir import (
    check_note,
    check_removable,
    dependants,
    edit_note,
    folder_of_runs,
    list_runs,
    remove_run,
)


def note_runs(
    runs: RunLike | Iterable[RunLike],
    text: str | None = None,
    add_tags: Sequence[str] = (),
    remove_tags: Sequence[str] = (),
    runs_root: str | Path | None = None,
) -> list[SavedRun]:
    """Change the note and the tags of runs, also while they train.

    Args:
        runs: A run or an experiment's name, or several.
        text: The new note. "" removes it, None keeps the old one.
        add_tags, remove_tags: Tags to add and to remove; absent ones are ignored.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The runs: `runs[0].note.text`, `runs[0].note.tags`.

    Raises:
        RunNotFound: No run has that name.
        InputError: A tag is no single word, or the note is too long. Nothing is changed.
    """
    check_note(text, add_tags)
    chosen = open_whole_runs(runs, runs_root)
    if text is not None or add_tags or remove_tags:
        for run in chosen:
            edit_note(run.directory, text, add_tags, remove_tags)
    return chosen


@dataclass(frozen=True)
class Removal:
    """Runs that can be removed. Nothing has been deleted."""

    runs: tuple[SavedRun, ...]
    descriptions: tuple[str, ...]
    """Experiment, state and number of agents of each run."""
    sizes: tuple[int, ...]
    """Bytes on disk of each run."""
    dependants: tuple[str, ...]
    """Sentences on runs and sweeps that were made from these runs."""

    def apply(self, aim_repo: Path | None = None) -> list[str]:
        """Remove the runs, also from the Aim mirror. Return notes on what remains there.

        Raises P3kitError at the first run that cannot be removed.
        """
        removed: list[tuple[str, str | None]] = []
        try:
            for run in self.runs:
                known = (run.name, _aim_hash(run))
                remove_run(run.directory)
                removed.append(known)
        finally:
            remaining = _forget(removed, self.runs[0].path.parent, aim_repo)
        return remaining


def plan_removal(runs: RunLike | Iterable[RunLike], runs_root: str | Path | None = None) -> Removal:
    """Check that runs can be removed, and measure them.

    Raises InputError for a run that is queued or running, and for the name of an agent.
    """
    chosen = open_whole_runs(runs, runs_root)
    for run in chosen:
        check_removable(run.directory)
    directories = [run.directory for run in chosen]
    sizes = tuple(directory.disk_usage().total for directory in directories)
    texts = tuple(map(_described, chosen))
    return Removal(tuple(chosen), texts, sizes, tuple(dependants(directories, list_runs(folder_of_runs(runs_root)))))


def _described(run: SavedRun) -> str:
    try:
        name, count = run.info["name"], len(run.agents)
    except P3kitError:
        return "damaged"
    return f"experiment {name}, {run.state}, {count} agent{'' if count == 1 else 's'}"


def _aim_hash(run: SavedRun) -> str | None:
    """Name of the run in Aim; None for a damaged run.json."""
    from p3kit.aim_mirror import run_hash

    try:
        return run_hash(run.info)
    except P3kitError:
        return None


def _forget(removed: Sequence[tuple[str, str | None]], root: Path, repo: Path | None) -> list[str]:
    """Delete runs from the mirror, if it has them."""
    from p3kit.aim_mirror import Mirror, is_mirrored

    there = [(name, key) for name, key in removed if key is not None and is_mirrored(root, repo, key)]
    if not there:
        return []
    try:
        Mirror(root, repo).forget([key for _, key in there])
    except P3kitError as error:
        names = ", ".join(name for name, _ in there)
        return [f"Aim still shows {names}: {error}; later: p3kit sync --rebuild"]
    return []
