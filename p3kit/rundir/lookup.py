"""Runs of a folder, and the run that a reference names."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from p3kit.errors import InputError, P3kitError, RunNotFound
from p3kit.home import home
from p3kit.rundir.directory import RUN_NAME, RunDir
from p3kit.rundir.file_names import removed_names


def folder_of_runs(runs_root: str | Path | None) -> Path:
    """Return the folder of the run directories: as given, else the environment variable `P3KIT_RUNS`, else `runs`."""
    return home(runs_root if runs_root is not None else os.environ.get("P3KIT_RUNS") or "runs")


def list_runs(runs_root: Path | str) -> list[RunDir]:
    """The runs in `runs_root`, oldest number first; a root that does not exist holds none."""
    root = Path(runs_root)
    if not root.is_dir():
        return []
    named = [(int(match[1]), path) for path in root.iterdir() if (match := RUN_NAME.fullmatch(path.name))]
    return [RunDir(path) for _, path in sorted(named) if (path / "run.json").is_file()]


def intact_runs(runs_root: Path | str, *, of_metrics: bool = True) -> tuple[list[RunDir], list[P3kitError]]:
    """The runs whose files can be read, and the fault of each of the others.

    One damaged directory must not hide the others: a command about all runs uses these and prints the faults. Without
    `of_metrics` the metrics, which can be long, are not checked.
    """
    intact, faults = [], []
    for run in list_runs(runs_root):
        try:
            run.verify(of_metrics=of_metrics)
        except P3kitError as error:
            faults.append(error)
        else:
            intact.append(run)
    return intact, faults


def find_run(runs_root: Path | str, reference: str) -> tuple[RunDir, str | None]:
    """The run that `reference` names, and the agent if it names one.

    `run-42` · `42` · `latest` · a path to a run directory · the name of an experiment that has one run; each may be
    followed by `/AGENT`. Raises RunNotFound with the nearest name, InputError for an experiment of several runs.
    """
    root = Path(runs_root)
    whole = str(home(reference.rstrip("/")))
    if (Path(whole) / "run.json").is_file():
        return RunDir(Path(whole)), None
    if "/" in whole and (run_path := _run_above(Path(whole))) is not None:
        run, agent = RunDir(run_path), str(Path(whole).relative_to(run_path))
    else:
        name, _, agent = whole.partition("/")
        run = _named_run(root, name, reference)
    return (run, _checked_agent(run, agent)) if agent else (run, None)


def find_runs(runs_root: Path | str, reference: str) -> list[tuple[RunDir, str | None]]:
    """The run that `reference` names as in `find_run`, or all runs of the experiment of that name."""
    several = _of_experiment(list_runs(runs_root), reference)
    return [(run, None) for run in several] if len(several) > 1 else [find_run(runs_root, reference)]


def started_with(run: RunDir) -> list[RunDir]:
    """The runs just before `run` that the same command has started: other seeds, or symbols that train apart."""
    found, agents, info = [], set(run.agent_names()), run.info()
    for other in reversed([one for one in list_runs(run.path.parent) if (one.number or 0) < (run.number or 0)]):
        same = all(other.info().get(key) == info.get(key) for key in ("name", "command"))
        if not same or not info.get("command") or agents & set(other.agent_names()):
            break
        agents |= set(other.agent_names())
        found.append(other)
    return found[::-1]


def mark_crashed(runs_root: Path | str) -> tuple[list[RunDir], list[str]]:
    """Mark the runs without a process as crashed, and return them, with the faults of those that could not be marked
    (a read-only folder, a full disk). These faults prevent no reading."""
    marked, faults = [], []
    for run in list_runs(runs_root):
        try:
            if run.mark_crashed():
                marked.append(run)
        except (OSError, P3kitError) as error:
            faults.append(f"{run.name}: crashed, but its status cannot be saved: {error}")
    return marked, faults


def _run_above(path: Path) -> Path | None:
    for parent in path.parents:
        if (parent / "run.json").is_file():
            return parent
    return None


def _named_run(root: Path, name: str, reference: str) -> RunDir:
    if (own := list_runs(home(reference))) and not _of_experiment(list_runs(root), name):
        raise RunNotFound(
            repr(reference), f"is a folder of {len(own)} runs", f"name one of them, such as {own[-1].path}"
        )
    runs = list_runs(root)
    if not runs:
        raise RunNotFound(repr(reference), f"there are no runs in {root}", "start one with: p3kit run specs/smoke.toml")
    if name == "latest":
        return runs[-1]
    wanted = f"run-{name}" if name.isdigit() else name
    for run in runs:
        if run.name == wanted:
            return run
    named = _of_experiment(runs, name)
    if len(named) > 1:
        what = f"is an experiment of {len(named)} runs: {', '.join(run.name for run in named)}"
        raise InputError(repr(reference), what, "name one of them")
    if named:
        return named[0]
    if wanted in removed_names(root):
        raise RunNotFound(repr(reference), f"was removed from {root}", "p3kit runs lists the others")
    raise RunNotFound(
        repr(reference),
        f"no run of that name in {root}",
        f'did you mean "{_nearest(wanted, runs)}"? p3kit runs lists all',
    )


def _of_experiment(runs: Sequence[RunDir], name: str) -> list[RunDir]:
    """The runs of an experiment; none for a word that names a run. Damaged directories are left out."""
    if name == "latest" or name.isdigit() or RUN_NAME.fullmatch(name):
        return []
    found = []
    for run in runs:
        with contextlib.suppress(P3kitError):
            if run.info().get("name") == name:
                found.append(run)
    return found


def _nearest(wanted: str, runs: Sequence[RunDir]) -> str:
    if match := RUN_NAME.fullmatch(wanted):
        return min(runs, key=lambda run: abs((run.number or 0) - int(match[1]))).name
    names = ["latest", *(run.name for run in runs)]
    return next(iter(difflib.get_close_matches(wanted, names, n=1)), runs[-1].name)


def _checked_agent(run: RunDir, agent: str) -> str:
    names = run.agent_names()
    if agent in names:
        return agent
    near = difflib.get_close_matches(agent, names, n=1, cutoff=0.4)
    hint = f'did you mean "{near[0]}"?' if near else f"its agents: {', '.join(names)}"
    raise RunNotFound(f"{run.name}/{agent}", f"{run.name} has no agent of that name", hint)
