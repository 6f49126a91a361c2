"""Cost of an experiment on this machine, measured on its own beginning.

As many runs as will train at a time begin as they would, in a folder that is thrown away, and are stopped after a few
iterations. So the pace is that of this machine with every slot busy, of the very sizes, with evaluations, checkpoints
and what the compiler does. The rest is arithmetic.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import P3kitError
from p3kit.launch.display import Display
from p3kit.launch.local import RunHook, make_runs, train
from p3kit.rundir import RunDir

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.plan import AgentPlan, RunPlan
    from p3kit.spec import LoadedSpec

LEAST_ITERATIONS = 3
"""The first one compiles and warms up; the pace is that of the others."""

LEAST_SECONDS = 10.0
"""Shortest training after the first iteration: shorter spans are too noisy on a busy machine."""

COMPILING_SHOWS_FROM = 0.05
"""Share of a run's time from which its first iteration is looked at again, now that the compiler's cache is filled."""

_MIB = 2**20


@dataclass(frozen=True)
class Beginning:
    """Measurements from the beginning of one run. Seconds and bytes; `steps` are env steps of all its agents."""

    startup_s: float
    """Until its first env step."""
    first_extra_s: float
    """What its first iteration takes longer than the others."""
    seconds_per_step: float
    ending_s: float
    """From its last record to its end."""
    memory_bytes: float
    growing_bytes_per_step: float
    """Metrics, events and histograms."""
    best_checkpoint_bytes: float
    fixed_bytes: float


@dataclass(frozen=True)
class Cost:
    """The whole plan on `jobs` slots, without the Aim mirror."""

    seconds: float
    memory_bytes: float
    """All trainers that run at a time, and the launcher."""
    disk_bytes: float
    """The run directories when all is done, pictures included."""
    measured_s: float
    """What was trained to find out."""
    iterations: int


class _Watch:
    """Stops all runs once each has come far enough: none may be alone on the machine while another is timed."""

    def __init__(self, enough: Callable[[RunDir], bool]) -> None:
        self._enough = enough
        self._runs: list[RunDir] = []
        self._ended: set[str] = set()
        self._stopped = False

    def watch(self, runs: Sequence[RunDir]) -> None:
        self._runs = list(runs)

    def more(self) -> Sequence[RunDir]:
        return ()

    def look(self) -> None:
        if not self._stopped and all(run.name in self._ended or self._enough(run) for run in self._runs):
            self._stopped = True
            for run in self._runs:
                if run.name not in self._ended:
                    run.request_stop()

    def ended(self, run: RunDir, state: str, *, interrupted: bool) -> None:
        self._ended.add(run.name)


def calibrate(
    plans: Sequence[RunPlan],
    loaded: LoadedSpec,
    market: Mapping[str, SymbolData],
    *,
    jobs: int,
    display: Display,
    on_end: RunHook | None = None,
) -> Cost | None:
    """Train the beginning of the first `jobs` plans; `on_end` is called with each, as after a run. None: interrupted.

    Raises P3kitError where one of them fails.
    """
    started = plans[:jobs]
    with tempfile.TemporaryDirectory(prefix="p3kit-calibration-") as folder:
        runs = _train_beginnings(started, loaded, market, Path(folder), display, _has_pace, on_end)
        if runs is None:
            return None
        beginnings = [_measure(run, plan) for run, plan in zip(runs, started, strict=True)]
        usual = statistics.mean(_run_seconds(plan, beginnings) for plan in started)
        measured_s = sum(max(row["time"] for row in run.read_metrics()) - run.info()["created"] for run in runs)
        iterations = min(max(row["iteration"] for row in run.read_metrics()) for run in runs)
        warm = beginnings
        if max(one.first_extra_s for one in beginnings) > COMPILING_SHOWS_FROM * usual:
            again = _train_beginnings(
                started, loaded, market, Path(folder) / "warm", display, lambda run: bool(_iterations(run)), None
            )
            if again is None:
                return None
            warm = [_first_again(run, old) for run, old in zip(again, beginnings, strict=True)]
    return Cost(
        seconds=whole_seconds(plans, warm, jobs),
        memory_bytes=statistics.mean(one.memory_bytes for one in beginnings) * len(started) + _own_memory(),
        disk_bytes=sum(run_bytes(plan, beginnings) for plan in plans),
        measured_s=measured_s,
        iterations=iterations,
    )


def _train_beginnings(
    plans: Sequence[RunPlan],
    loaded: LoadedSpec,
    market: Mapping[str, SymbolData],
    root: Path,
    display: Display,
    enough: Callable[[RunDir], bool],
    on_end: RunHook | None,
) -> list[RunDir] | None:
    runs = make_runs(plans, loaded, market, root, command=["p3kit", *sys.argv[1:]])
    watch = _Watch(enough)
    watch.watch(runs)
    outcome = train(runs, jobs=len(runs), display=display, on_end=on_end, feed=watch)
    if outcome.interrupted:
        return None
    for run in runs:
        if outcome.states[run.name] not in ("done", "stopped"):
            what = f"{outcome.states[run.name]} while its beginning was timed: {run.status()['message']}"
            raise P3kitError(", ".join(run.agent_names()), what, "p3kit check SPEC looks for the cause")
    return runs


# --- how far is far enough ---


def _iterations(run: RunDir) -> dict[int, list[dict[str, Any]]]:
    """By iteration, the rows that end its update, one per agent."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in run.read_metrics():
        if "perf/rollout_s" in row["metrics"]:
            found.setdefault(row["iteration"], []).append(row)
    return {number: rows for number, rows in found.items() if len(rows) == len(run.agent_names())}


def _has_pace(run: RunDir) -> bool:
    """Return True if evaluations and checkpoints have come as often as they usually do, and the span is long enough."""
    found = _iterations(run)
    if len(found) < LEAST_ITERATIONS:
        return False
    spec = run.info()["agents"][0]["spec"]
    first, last = min(found), max(found)
    rollout = found[first][0]["global_step"]
    every = max(spec["evaluation"]["every"], spec["checkpoints"]["every"])
    seconds = _at(found[last]) - _at(found[first])
    return len(found) - 1 >= math.ceil(every / rollout) and seconds >= LEAST_SECONDS


def _at(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(max(row["time"] for row in rows))


def _steps(rows: Sequence[Mapping[str, Any]]) -> int:
    return int(sum(row["global_step"] for row in rows))


# --- figures of a beginning ---


def _measure(run: RunDir, plan: RunPlan) -> Beginning:
    found = _iterations(run)
    first, last = found[min(found)], found[max(found)]
    steps = _steps(last) - _steps(first)
    if not steps:  # a run of one iteration
        seconds_per_step, extra = _work(first) / _steps(first), 0.0
    else:
        seconds_per_step = (_at(last) - _at(first)) / steps
        later = [_work(rows) / _steps_of(rows, found) for number, rows in found.items() if number != min(found)]
        extra = max(0.0, _work(first) - statistics.mean(later) * _steps(first))
    rows = run.read_metrics()
    usage = run.disk_usage()
    return Beginning(
        startup_s=_at(first) - _work(first) - run.info()["created"],
        first_extra_s=extra,
        seconds_per_step=seconds_per_step,
        ending_s=max(0.0, float(run.status()["heartbeat"]) - max(row["time"] for row in rows)),
        memory_bytes=max(row["metrics"].get("perf/memory_mb", 0.0) for row in rows) * _MIB,
        growing_bytes_per_step=usage.growing / _steps(last),
        best_checkpoint_bytes=usage.best_checkpoints / usage.best_checkpoint_count
        if usage.best_checkpoint_count
        else 0,
        fixed_bytes=usage.rest,
    )


def _work(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of rollout and update of one iteration. Agents of a stack share them."""
    return max(float(row["metrics"]["perf/rollout_s"] + row["metrics"]["perf/update_s"]) for row in rows)


def _steps_of(rows: Sequence[Mapping[str, Any]], found: Mapping[int, Sequence[Mapping[str, Any]]]) -> int:
    before = rows[0]["iteration"] - 1
    return _steps(rows) - (_steps(found[before]) if before in found else 0)


def _first_again(run: RunDir, old: Beginning) -> Beginning:
    """`old`, with what start and first iteration take now that everything was compiled once."""
    first = _iterations(run)[min(_iterations(run))]
    startup = _at(first) - _work(first) - run.info()["created"]
    later = old.seconds_per_step * _steps(first)
    return Beginning(**{**vars(old), "startup_s": startup, "first_extra_s": max(0.0, _work(first) - later)})


def _own_memory() -> float:
    """The most that this process has held; a launcher holds as much until the bars are checked, and less after that."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


# --- what follows for the whole ---


def _env_steps(plan: RunPlan) -> int:
    return sum(int(agent.spec.ppo.total_timesteps) for agent in plan.agents)


def _run_seconds(plan: RunPlan, beginnings: Sequence[Beginning]) -> float:
    whole = [
        one.startup_s + one.first_extra_s + one.seconds_per_step * _env_steps(plan) + one.ending_s for one in beginnings
    ]
    return statistics.mean(whole)


def whole_seconds(plans: Sequence[RunPlan], beginnings: Sequence[Beginning], jobs: int) -> float:
    """Each slot takes the next plan when it is free."""
    slots = [0.0] * min(jobs, len(plans))
    for plan in plans:
        slots[slots.index(min(slots))] += _run_seconds(plan, beginnings)
    return max(slots)


def run_bytes(plan: RunPlan, beginnings: Sequence[Beginning]) -> float:
    best = sum(min(int(agent.spec.checkpoints.keep_best), _evaluations(agent)) for agent in plan.agents)
    whole = [
        one.fixed_bytes + one.growing_bytes_per_step * _env_steps(plan) + one.best_checkpoint_bytes * best
        for one in beginnings
    ]
    return statistics.mean(whole)


def _evaluations(agent: AgentPlan) -> int:
    """Of one agent: at update boundaries, so no more of them than updates."""
    return min(agent.iterations, math.ceil(int(agent.spec.ppo.total_timesteps) / agent.spec.evaluation.every))
