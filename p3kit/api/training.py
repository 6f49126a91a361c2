"""Train, resume, stop and repeat runs. Each function works in a terminal, a script and a notebook alike."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p3kit.api.background import Background
from p3kit.api.saved_run import RunLike, SavedRun, open_run, open_whole_runs
from p3kit.api.specs import SpecLike, load_spec
from p3kit.errors import InputError, Interrupted, MissingExtra
from p3kit.launch import Outcome, compare_weights, extend, make_runs, plan_replay, requeue, train
from p3kit.launch.ancestors import Ancestry
from p3kit.launch.edited_spec import edited_spec_note
from p3kit.launch.engines import Engine, open_engine
from p3kit.launch.local import launch_title, leave_out
from p3kit.launch.older_runs import check_resumable
from p3kit.launch.process import Start
from p3kit.launch.progress import Progress, open_display, progress_console
from p3kit.rundir import ScheduleChoice, folder_of_runs, missing_checkpoint_notes
from p3kit.rundir.threads import available_cores, check_threads, threads_of

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.market import SymbolData
    from p3kit.plan import RunPlan
    from p3kit.rundir import RunDir
    from p3kit.spec import LoadedSpec


@dataclass(frozen=True)
class RunOptions:
    """Settings of a launch that are rarely needed."""

    engine: Literal["local", "ray"] = "local"
    """Place where trainers run: processes of this machine, or a Ray cluster (`RAY_ADDRESS`, else one of its own)."""
    mirror: bool = False
    """Mirror the runs into Aim while they train. `p3kit sync` does it later as well."""
    aim_repo: Path | None = None
    """Folder whose `.aim` holds the mirror. Default: the folder beside the runs."""
    command: tuple[str, ...] = ()
    """Command line to store in `run.json`. Default: the `p3kit run` that does the same."""


class TrainedRuns(list[SavedRun]):
    """The runs of a launch, in the order of the plan, with how the launch ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(SavedRun(run) for run in outcome.runs)
        self.outcome = outcome

    @property
    def states(self) -> Mapping[str, str]:
        """State of each run by name, as the launch ended."""
        return self.outcome.states


@dataclass(frozen=True)
class Repetition:
    """A run that repeats another one by its journal of interventions."""

    runs: TrainedRuns
    same: bool
    """True where both runs ended with the same weights, bit for bit."""
    message: str


def run_spec(
    spec: SpecLike,
    jobs: int | None = None,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: RunOptions = RunOptions(),
) -> TrainedRuns:
    """Train the agents of a spec, one process per run, and return when all runs have ended.

    Everything is checked before the first run directory is made. A run that fails does not stop the others: read
    `run.state` and `run.message`. An exception of a progress callback stops every trainer with a checkpoint.

    Args:
        spec: Path of a spec file, or the result of `load_spec`.
        jobs: Runs that train at a time. Default: as many as have a core for each of their threads.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.
        progress: True prints a live table on a terminal and plain lines elsewhere (a notebook, a file). False prints
            nothing. A function is called about every half second with a list of `AgentView`: `label`, `state`,
            `global_step`, `progress` (0 to 1), `steps_per_second`, `sharpe`. Messages are then Python warnings.
        options: Ray, the Aim mirror and the stored command.

    Returns:
        The runs in the order of the plan: `runs[0].verdict.grade`, `runs[0].metrics`.

    Raises:
        SpecError, DataError: The spec or its bars have faults.
        MissingExtra: torch is not installed.
        Interrupted: Ctrl-C (a KeyboardInterrupt). Every trainer has written a checkpoint; `error.runs` has the runs,
            and `p3kit resume` continues them. A second Ctrl-C kills the trainers at once.

    Example:
        >>> spec = p3kit.load_spec("specs/smoke.toml", {"ppo.total_timesteps": 20_000})
        >>> (run,) = p3kit.run_spec(spec)
        >>> run.verdict.grade
        'FAIL'
    """
    return train_new(spec, Launch(jobs, folder_of_runs(runs_root), progress, options))


def replay_run(
    spec: SpecLike,
    original: RunLike,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: RunOptions = RunOptions(),
) -> Repetition:
    """Repeat a run of the spec: apply its journal of interventions at its steps, and compare the weights.

    Raises InputError where the spec is not the one that `original` had, and the errors of `run_spec`.
    """
    launch = Launch(None, folder_of_runs(runs_root), progress, options)
    first = open_run(original, runs_root)
    runs = train_new(spec, launch, first.directory)
    return Repetition(runs, *compare_weights(first.directory, runs[0].directory))


def resume_runs(
    runs: RunLike | Iterable[RunLike],
    jobs: int | None = None,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: RunOptions = RunOptions(),
    *,
    total_timesteps: int | None = None,
    schedule: ScheduleChoice = "keep",
) -> TrainedRuns:
    """Continue stopped, crashed or failed runs from their last checkpoints, or extend runs to more env steps.

    On a CPU the result is the same, bit for bit, as if the run had never ended.

    Args:
        runs: A run, or several: `run-42`, `latest`, a path, or what `open_run` returned.
        jobs, runs_root, progress, options: See `run_spec`.
        total_timesteps: Extend the runs to this number of env steps per agent, counted from their beginning. Runs that
            are done can be extended too. An agent that stopped early continues, and the patience of early stopping
            starts again. An agent that ended before the others of its stack does not change.
        schedule: With `total_timesteps`: "keep" leaves schedules as they were planned, so that they stay at their end
            value. "stretch" runs them over the new number of steps, so that they go back at the beginning of the
            extension.

    Returns:
        The runs, as `run_spec` does.

    Raises:
        InputError: A run is done and `total_timesteps` is not given, still trains, has taken as many steps, or was
            made by an earlier p3kit whose trainers do not work here.
        Interrupted: See `run_spec`.
    """
    chosen = [run.directory for run in open_whole_runs(runs, runs_root)]
    launch = Launch(jobs, folder_of_runs(runs_root), progress, options)
    checks = (check_resumable, check_threads, edited_spec_note)
    for note in filter(None, (check(run) for check in checks for run in chosen)):
        launch.print(f"note: {note}")
    with launch.engine([run.info()["spec"]["compute"] for run in chosen]) as engine:
        at_a_time, start = engine.room_for(len(chosen), max(threads_of(run.info()) for run in chosen))
        if total_timesteps is not None:
            require_torch()
            for note in extend(chosen, total_timesteps, schedule):
                launch.print(f"note: {note}")
        requeue(chosen)
        for note in (note for run in chosen for note in missing_checkpoint_notes(run)):
            launch.print(f"note: {note}")
        with launch.background() as background:
            return launch.train(chosen, at_a_time, start, background)


def stop_runs(runs: RunLike | Iterable[RunLike], runs_root: str | Path | None = None) -> list[SavedRun]:
    """Request that runs write a checkpoint and end. Returns at once; a queued run will not begin.

    Raises InputError, before any run is stopped, for a run that is neither queued nor running.
    """
    chosen = open_whole_runs(runs, runs_root)
    for run in chosen:
        run.directory.mark_crashed()
        if run.state not in ("queued", "running"):
            raise InputError(run.name, f"is {run.state}", "only a queued or running run can be stopped")
    for run in chosen:
        run.directory.request_stop()
    return chosen


def require_torch(purpose: str = "training") -> None:
    """Raise MissingExtra where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "train", purpose)


def give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps it for a process that, here, waits for its trainers."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # other C libraries have no such call
        trim(0)


@dataclass(frozen=True)
class Launch:
    """Settings of one call: jobs, folder of the runs, progress, options."""

    jobs: int | None
    root: Path
    progress: Progress
    options: RunOptions
    console: Console = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "console", progress_console(self.progress))

    def print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def engine(self, computes: Iterable[Mapping[str, Any]]) -> Iterator[Engine]:
        with open_engine(self.options.engine, self.jobs, computes, self.print) as engine:
            yield engine

    def background(self) -> Background:
        return Background(self.root, self.console, mirror=self.options.mirror, aim_repo=self.options.aim_repo)

    def train(self, runs: Sequence[RunDir], jobs: int, start: Start, background: Background) -> TrainedRuns:
        """Train queued runs. If this call ends early, none of them stays queued."""
        try:
            with open_display(self.progress, launch_title(runs)) as display:
                outcome = train(runs, jobs=jobs, display=display, on_end=background.draw, start=start)
        except BaseException:
            leave_out(runs)
            raise
        trained = TrainedRuns(outcome)
        if outcome.interrupted:
            raise Interrupted(trained)
        return trained


def train_new(
    spec: SpecLike,
    launch: Launch,
    original: RunDir | None = None,
    choose: Callable[[list[RunPlan]], list[RunPlan]] = lambda plans: plans,
    extra: Mapping[str, Any] | None = None,
    on_made: Callable[[list[RunDir]], None] = lambda runs: None,
) -> TrainedRuns:
    """Make the run directories of a spec and train them, or only the run that repeats `original`.

    `choose` takes the plans to train, `extra` is what else run.json shall hold, `on_made` is called with the queued
    runs.
    """
    from p3kit.market import load_market

    require_torch()
    loaded = load_spec(spec)
    market = load_market(loaded.spec, loaded.spec.symbols)
    with launch.engine([loaded.spec.compute.model_dump()]) as engine:
        plans = choose(_plan(loaded, market, engine.slots, launch))
        agents = [agent for plan in plans for agent in plan.agents]
        ancestry = Ancestry.find(agents, launch.root, loaded.origins.get("init.from", "init.from"))
        if ancestry.recipes:
            market = load_market(loaded.spec, loaded.spec.symbols, recipes=ancestry.recipes)
        for note in [*ancestry.notes(), *ancestry.check(plans, market)]:
            launch.print(f"note: {note}")
        if original is not None:
            replay = plan_replay(plans, original)
            replay.check_start(ancestry)
            plans, extra = [replay.plan], {"replay": replay.to_json(), **replay.plan_json()}
        at_a_time, start = engine.room_for(len(plans), plans[0].threads)
        with launch.background() as background:
            command = launch.options.command or command_of("run", loaded)
            runs = make_runs(plans, loaded, market, launch.root, command=command, extra=extra, ancestry=ancestry)
            on_made(runs)
            del market  # a gigabyte for 143 symbols, and every trainer reads its own
            give_memory_back()
            return launch.train(runs, at_a_time, start, background)


def _plan(loaded: LoadedSpec, market: Mapping[str, SymbolData], slots: int | None, launch: Launch) -> list[RunPlan]:
    """Plan the runs, make the checks that are left, and print the notes."""
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes, plan_runs
    from p3kit.spec import read_trainer
    from p3kit.spec.notes import first_notes

    windows = walk_windows(loaded.spec, market)
    plans = plan_runs(loaded.spec, read_trainer(loaded.spec.trainer), available_cores(), windows, slots)
    for window in {plan.agents[0].window: plan for plan in plans if plan.windows}.values():
        load_market(window.market_spec, window.spec.symbols)  # every window has enough bars, or nothing begins
    for note in first_notes(loaded, data_notes(loaded.spec, market, windows)):
        launch.print(f"note: {note}")
    return plans


def command_of(command: str, loaded: LoadedSpec) -> list[str]:
    """The command line that does the same: `p3kit show` reads the origin of values from it."""
    return ["p3kit", command, str(loaded.path), *(word for value in loaded.overrides for word in ("--set", value))]
