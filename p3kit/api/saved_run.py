"""Runs on disk as objects, and their metrics as a DataFrame. Nothing is cached: each access reads the run's files."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import os
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import InputError, P3kitError, P3kitWarning, RunNotFound
from p3kit.launch import AgentResult, RunLine, agent_results, run_lines
from p3kit.metrics import METRICS, is_metric
from p3kit.rundir import (
    RunDir,
    RunNote,
    extended_origins,
    find_run,
    find_runs,
    folder_of_runs,
    intact_runs,
    mark_crashed,
    read_note,
)

if TYPE_CHECKING:
    import pandas as pd

STATES = ("queued", "running", "done", "stopped", "failed", "crashed")
KEY_COLUMNS = ("run", "agent", "iteration", "global_step", "time")
"""The first columns of a metrics DataFrame."""


@dataclass(frozen=True)
class SavedRun:
    """A run on disk. It may still be training: each property reads the files as they are now."""

    directory: RunDir
    agent: str | None = None
    """The one agent that a reference such as `run-42/AAPL` names. None: all agents of the run."""

    @property
    def name(self) -> str:
        """`run-42`."""
        return self.directory.name

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @property
    def info(self) -> dict[str, Any]:
        """Content of `run.json`: the spec with every value, agents, versions, data fingerprints, command."""
        return self.directory.info()

    @property
    def spec(self) -> dict[str, Any]:
        """The spec with every value as plain tables, as the run or its one agent used it."""
        spec: dict[str, Any] = self._plan["spec"]
        return spec

    @property
    def origins(self) -> dict[str, str]:
        """Origin of each value of `spec` by dotted path: a place in the file, `--set ...`, or `default`."""
        from p3kit.spec.loading import overrides_of, stored_origins

        run, plan = self.directory, self._plan
        given = overrides_of(self.info.get("command") or [])
        origins = stored_origins(plan["spec"], run.trainer_file, run.spec_text(), given, plan["symbol"])
        return origins | extended_origins([plan] if self.agent is not None else self.info["agents"])

    @property
    def _plan(self) -> dict[str, Any]:
        """The entry of the one agent in the plan, or that of the whole run."""
        info = self.info
        whole = {"spec": info["spec"], "symbol": None}
        return next((plan for plan in info["agents"] if plan["name"] == self.agent), whole)

    @property
    def state(self) -> str:
        """`queued`, `running`, `done`, `stopped`, `failed` or `crashed`."""
        return str(self.directory.status()["state"])

    @property
    def message(self) -> str:
        """The reason of a state such as `failed`. Empty where there is none."""
        return str(self.directory.status()["message"])

    @property
    def agents(self) -> list[str]:
        """Names of the agents, in the order of the plan."""
        return [self.agent] if self.agent is not None else self.directory.agent_names()

    @property
    def verdicts(self) -> dict[str, AgentResult]:
        """The result of each agent by name: `grade`, `metric("sharpe_ratio")`, `baseline(...)`, `to_json()`."""
        results = {result.agent: result for result in agent_results([self.directory])}
        return {name: results[name] for name in self.agents}

    @property
    def verdict(self) -> AgentResult:
        """The result of the only agent. Raises InputError where the run has several."""
        if len(self.agents) != 1:
            hint = f'open one, for example "{self.name}/{self.agents[0]}", or read verdicts'
            raise InputError(self.name, f"has {len(self.agents)} agents, so it has no single verdict", hint)
        return self.verdicts[self.agents[0]]

    @property
    def metrics(self) -> pd.DataFrame:
        """Every recorded metric; see `load_metrics`."""
        return load_metrics(self)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Journal of the run in order: evaluations, checkpoints, symptoms, interventions, resumes, verdicts."""
        return self.directory.read_events(agent=self.agent)

    @property
    def note(self) -> RunNote:
        """Text and tags that the user keeps with the run: `run.note.text`, `run.note.tags`."""
        return read_note(self.directory)

    @property
    def summary(self) -> RunLine:
        """The line that `p3kit runs` prints: progress (0 to 1), best validation Sharpe ratio, grades, age in s."""
        return run_lines([self.directory], time.time())[0]

    def __fspath__(self) -> str:
        """Path of the run directory, with `/AGENT` for one agent: every function takes it in place of a name."""
        return str(self.path) + (f"/{self.agent}" if self.agent is not None else "")

    def __repr__(self) -> str:
        return f"<SavedRun {self.name}{f'/{self.agent}' if self.agent else ''}, {self.state}>"


RunLike = str | Path | SavedRun
"""`run-42`, `42`, `latest`, `run-42/AAPL`, the path of a run directory, or a run that another function returned."""


class RunList(list[SavedRun]):
    """Runs, oldest first, with what was found about the others."""

    def __init__(self, runs: Iterable[SavedRun] = (), lines: Sequence[RunLine] = ()) -> None:
        super().__init__(runs)
        self.lines = tuple(lines)
        """The line that `p3kit runs` prints, for each run."""
        self.damaged: tuple[P3kitError, ...] = ()
        """Faults of runs that cannot be read. They are not in the list."""
        self.crashed: tuple[SavedRun, ...] = ()
        """Runs whose process is gone, marked as crashed by this call."""
        self.not_marked: tuple[str, ...] = ()
        """Reasons why a crashed run could not be marked, for example a read-only folder."""
        self.total = len(self)
        """Number of readable runs before the filters."""

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with a row per run: run, name, state, progress, best_sharpe, grades and more."""
        import pandas as pd

        return pd.DataFrame([line.to_json() for line in self.lines])


def open_run(run: RunLike, runs_root: str | Path | None = None) -> SavedRun:
    """Open a run on disk.

    Args:
        run: `run-42`, `42`, `latest`, `run-42/AAPL` for one agent, or the path of a run directory.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The run with `info`, `state`, `verdicts`, `metrics` and `events`.

    Raises:
        RunNotFound: No run or agent has that name. The message has the nearest one.

    Example:
        >>> run = p3kit.open_run("latest")
        >>> run.metrics.plot("global_step", "policy/entropy_norm")
    """
    if isinstance(run, SavedRun):
        return run
    return SavedRun(*find_run(folder_of_runs(runs_root), os.fspath(run)))


def list_runs(
    runs_root: str | Path | None = None,
    *,
    name: str | None = None,
    state: str | Collection[str] = (),
    symbol: str | None = None,
    grade: str | Collection[str] = (),
    tag: str | Collection[str] = (),
) -> RunList:
    """List the runs of a folder, oldest first. A run has to meet every filter that is given.

    Runs whose process is gone are marked as crashed first. A damaged run is left out, with a `P3kitWarning`.

    Args:
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.
        name: Name of the experiment; `*` and `?` are wildcards.
        state: One state, or several: queued, running, done, stopped, failed, crashed.
        symbol: A symbol that the run trains.
        grade: A grade, or several, that one of its agents has: FAIL, PASS, STRONG, STRETCH.
        tag: A tag, or several. The run has to have all of them.

    Returns:
        A list of runs. `list_runs().to_frame()` is a DataFrame with a row per run.

    Raises:
        InputError: A state is none of the six.

    Example:
        >>> failed = p3kit.list_runs(name="phase3*", state=["failed", "crashed"])
    """
    root = folder_of_runs(runs_root)
    states, grades = _several(state), _several(grade)
    if strange := [one for one in states if one not in STATES]:
        raise InputError(f"state={strange[0]!r}", "is no state of a run", f"states: {', '.join(STATES)}")
    marked, not_marked = mark_crashed(root)
    intact, damaged = intact_runs(root, of_metrics=False)
    pairs = list(zip(intact, run_lines(intact, time.time()), strict=True))
    chosen = [
        (run, line)
        for run, line in pairs
        if _fits(line, name, states, symbol, grades) and set(_several(tag)) <= set(line.tags)
    ]
    found = RunList([SavedRun(run) for run, _ in chosen], [line for _, line in chosen])
    found.damaged, found.not_marked, found.total = tuple(damaged), tuple(not_marked), len(pairs)
    found.crashed = tuple(SavedRun(run) for run in marked)
    for fault in damaged:
        warnings.warn(f"not listed: {fault}", P3kitWarning, stacklevel=2)
    return found


def load_metrics(
    runs: RunLike | Iterable[RunLike], names: str | Sequence[str] = (), runs_root: str | Path | None = None
) -> pd.DataFrame:
    """Load the recorded metrics of runs as a DataFrame.

    A row is what one agent recorded at one point of training. Training metrics and those of an evaluation are recorded
    apart, so columns have missing values: `frame["eval/sharpe_ratio"].dropna()`.

    Args:
        runs: A run, an agent (`run-42/AAPL`), or several of them.
        names: Metrics to load; `*` and `?` are wildcards (`"policy/*"`). Default: all. Rows with none of them are
            left out.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        Shape (rows, 5 + metrics): the columns run, agent, iteration, global_step (env steps) and time (UTC), then
        one float column per metric. docs/metrics.md has their units; shares and returns are fractions.

    Raises:
        RunNotFound: No run or agent has that name.
        InputError: A name is no metric.
        P3kitError: A file of the run is damaged.

    Example:
        >>> frame = p3kit.load_metrics(["run-1", "run-2"], ["policy/entropy_norm", "eval/*"])
        >>> frame.groupby("run")["eval/sharpe_ratio"].max()
    """
    import pandas as pd

    patterns = _several(names)
    _check_names(patterns)
    chosen = [open_run(run, runs_root) for run in ([runs] if isinstance(runs, RunLike) else runs)]
    rows = [row for run in chosen for row in _rows_of(run, patterns)]
    columns = sorted({name for row in rows for name in row} - set(KEY_COLUMNS))
    frame = pd.DataFrame(rows, columns=[*KEY_COLUMNS, *columns])
    frame["time"] = pd.to_datetime(frame["time"].astype(float), unit="s", utc=True)
    return frame.astype(dict.fromkeys(columns, "float64") | dict.fromkeys(("iteration", "global_step"), "int64"))


def open_runs(runs: RunLike | Iterable[RunLike], runs_root: str | Path | None) -> list[SavedRun]:
    """Open runs in the order of their references, all runs of an experiment by its name."""
    wanted = [runs] if isinstance(runs, RunLike) else runs
    named = [one for reference in wanted for one in find_runs(folder_of_runs(runs_root), os.fspath(reference))]
    return list(itertools.starmap(SavedRun, named))


def open_whole_runs(runs: RunLike | Iterable[RunLike], runs_root: str | Path | None) -> list[SavedRun]:
    """Open each run once, as `open_runs` does.

    Raises InputError for an agent, which cannot be stopped, resumed or removed alone.
    """
    found: dict[Path, SavedRun] = {}
    for run in open_runs(runs, runs_root):
        if run.agent is not None:
            what = "names one agent; this takes whole runs"
            raise InputError(f"{run.name}/{run.agent}", what, f'use "{run.name}"')
        found[run.path] = run
    return list(found.values())


def check_agent(run: SavedRun) -> None:
    """Raise RunNotFound where the run has no agent of the name in `run.agent`."""
    names = run.directory.agent_names()
    if run.agent is not None and run.agent not in names:
        hint = f"its agents: {', '.join(names)}"
        raise RunNotFound(f"{run.name}/{run.agent}", "no agent of that name in this run", hint)


def _rows_of(run: SavedRun, patterns: Collection[str]) -> Iterable[Mapping[str, Any]]:
    for row in run.directory.read_metrics(run.agent):
        metrics = {name: value for name, value in row["metrics"].items() if _is_chosen(name, patterns)}
        if metrics or not patterns:
            yield {"run": run.name, **{key: row[key] for key in KEY_COLUMNS[1:]}, **metrics}


def _is_chosen(name: str, patterns: Collection[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_names(patterns: Collection[str]) -> None:
    """Raise InputError for a name without wildcards that is no metric."""
    for name in patterns:
        if not set(name) & set("*?[") and not is_metric(name):
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "docs/metrics.md lists all"
            raise InputError(f"metric {name!r}", "is not recorded by any trainer", hint)


def _fits(
    line: RunLine, name: str | None, states: Collection[str], symbol: str | None, grades: Collection[str]
) -> bool:
    """Return True where the run meets every filter that is given."""
    return (
        (name is None or fnmatch.fnmatchcase(line.name, name))
        and (not states or line.state in states)
        and (symbol is None or symbol in line.symbols)
        and (not grades or any(grade in line.grades for grade in grades))
    )


def _several(words: str | Collection[str]) -> Sequence[str]:
    return [words] if isinstance(words, str) else list(words)
