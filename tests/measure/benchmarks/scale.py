"""Measure the growth of cost with agents, steps and runs, and extrapolate it to clusters.

`python -m tests.measure.benchmarks.scale measure FILE.json`: one core, some minutes. Trainers are timed by
processor time, because wall time is useless on a busy machine.
`python -m tests.measure.benchmarks.scale simulate FILE.json PICTURE.png`: seconds. 143 and 10,000 agents on 1 to 64
GPUs, with failures, fed by those figures.

Simulated are a driver, slots and nodes. The driver makes run directories one after another. A free slot takes the next
run (18 slots a GPU, 8 GPUs a node). Nodes fail at random and return; their runs continue elsewhere from the last
checkpoint. The pace of a slot is that of one core here: for a GPU set your own, from `p3kit plan --calibrate`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 3
PER_GPU, NODE_GPUS = 18, 8
GPUS = (1, 2, 4, 8, 16, 32, 64)
PACE = 6_335 / 2
"""Env steps a second of one `ppo` run on one core, once started: docs/benchmarks.md."""


# --- measured ---

_COUNTER = """
import atexit, os, sys
_made = {"opened for writing": 0, "renamed": 0, "removed": 0}
def _hook(event, arguments):
    name = {"os.rename": "renamed", "os.remove": "removed"}.get(event)
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        name = "opened for writing" if "/run-" in str(arguments[0]) else None
    if name and "/run-" in str(arguments[0]):
        _made[name] += 1
sys.addaudithook(_hook)
if "--run-dir" in sys.argv:
    at = sys.argv[sys.argv.index("--run-dir") + 1]
    atexit.register(lambda: open(at + "/operations.json", "w").write(__import__("json").dumps(_made)))
"""
"""As a sitecustomize.py: counts what a trainer does to the files of its run."""


def measure(target: Path) -> None:
    results: dict[str, Any] = {"launcher": [], "growth": []}
    for key, found in (("launcher", map(_launcher, (143, 600))), ("growth", _growth())):
        for one in found:
            print(one, flush=True)
            results[key].append(one)
            target.write_text(json.dumps(results, indent=1) + "\n")


def _growth() -> Iterator[dict[str, Any]]:
    """Whole runs, by what they have more of than the first."""
    cases = [("ppo_stacked", 1, 1, 4_096)]
    cases += [("ppo_stacked", agents, 1, 4_096) for agents in (2, 4, 8)]
    cases += [("ppo_stacked", 1, 1, steps) for steps in (8_192, 16_384)]
    cases += [("ppo", agents, agents, 4_096) for agents in (1, 2, 4)]
    for trainer, agents, runs, steps in cases:
        yield _whole_runs(trainer, agents, runs, steps)


def _whole_runs(trainer: str, agents: int, runs: int, steps: int) -> dict[str, Any]:
    from rich.console import Console

    from p3kit.launch import make_runs
    from p3kit.market import load_market
    from p3kit.plan import plan_runs
    from p3kit.spec import load_spec
    from p3kit.spec.trainer_file import read_trainer
    from tests.launch.launching import launch

    symbols = json.dumps([f"S{number:03d}" for number in range(agents)])
    text = f'name = "scale"\ntrainer = "{trainer}"\nsymbols = {symbols}\ndata = {{ source = "synthetic" }}\n'
    text += f'ppo = {{ total_timesteps = {steps}, n_steps = 256 }}\ncompute = {{ group = {agents}, compile = "off" }}\n'
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scale.toml").write_text(text)
        (folder / "sitecustomize.py").write_text(textwrap.dedent(_COUNTER))
        known = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{known}"
        try:
            loaded = load_spec(folder / "scale.toml", [])
            market = load_market(loaded.spec, loaded.spec.symbols)
            used = _children_s()
            console = Console(file=io.StringIO())
            plans = plan_runs(loaded.spec, read_trainer(loaded.spec.trainer))
            outcome = launch(make_runs(plans, loaded, market, folder / "runs", command=[]), jobs=1, console=console)
        finally:
            os.environ["PYTHONPATH"] = known
        assert list(outcome.states.values()) == ["done"] * runs, outcome.states
        rows = [row["metrics"] for run in outcome.runs for row in run.read_metrics()]
        operations = [json.loads((run.path / "operations.json").read_text()) for run in outcome.runs]
        return {
            "trainer": trainer,
            "agents": agents,
            "runs": runs,
            "steps": steps,
            "iterations": -(-steps // 2_048),
            "processor_s": round(_children_s() - used, 2),
            "memory_mb": round(max(row.get("perf/memory_mb", 0.0) for row in rows)),
            "disk_mb": round(sum(run.disk_usage().total for run in outcome.runs) / 1e6, 2),
            "file_operations": sum(sum(one.values()) for one in operations),
        }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _launcher(count: int) -> dict[str, Any]:
    """Processor time of the process that watches `count` runs, in this one thread."""
    from p3kit.launch.display import agent_views
    from p3kit.launch.local import make_runs
    from p3kit.plan import plan_runs
    from p3kit.spec import load_spec
    from p3kit.spec.trainer_file import read_trainer

    with tempfile.TemporaryDirectory() as name:
        spec = Path(name) / "many.toml"
        symbols = json.dumps([f"S{number:05d}" for number in range(count)])
        spec.write_text(f'name = "many"\ntrainer = "ppo"\nsymbols = {symbols}\ndata = {{ source = "synthetic" }}\n')
        loaded = load_spec(spec, [])
        began = time.thread_time()
        plans = plan_runs(loaded.spec, read_trainer(loaded.spec.trainer))
        planned = time.thread_time() - began
        began = time.thread_time()
        runs = make_runs(plans, loaded, {}, Path(name) / "runs", command=[])
        made = time.thread_time() - began
        infos = {run: run.info() for run in runs}
        looks = []
        for _ in range(REPEATS):
            began = time.thread_time()
            for run in runs:
                agent_views(run, infos[run], run.status(), time.time())
            looks.append(time.thread_time() - began)
    return {
        "runs": count,
        "plan_ms_per_run": round(1e3 * planned / count, 3),
        "make_ms_per_run": round(1e3 * made / count, 2),
        "look_ms_per_run": round(1e3 * statistics.median(looks) / count, 3),
    }


# --- simulated ---


@dataclass(frozen=True)
class World:
    """Seconds throughout."""

    runs: int
    gpus: int
    work_s: float
    """Of one run in one slot, start included."""
    start_s: float
    """Until a run that begins, or continues, takes its first step."""
    checkpoint_s: float
    """Between two checkpoints of a run."""
    make_s: float
    """The driver's, to make one run directory; all are made before the first run begins."""
    node_fails_every_s: float = float("inf")
    """Mean time to the failure of one node."""
    node_back_s: float = 300.0
    noticed_s: float = 15.0
    """From the death of a node to the next attempt."""


@dataclass(frozen=True)
class Outcome:
    seconds: float
    busy: float
    """Share of the slots' time that went into work that was kept."""
    attempts: int


def simulate(world: World, seed: int = 0) -> Outcome:
    """One experiment, from the command to the last run's end."""
    import simpy

    rng = np.random.default_rng(seed)
    clock = simpy.Environment()
    waiting = simpy.Store(clock)
    left = dict.fromkeys(range(world.runs), world.work_s - world.start_s)
    done = simpy.Container(clock)
    attempts = 0

    def driver() -> Iterator[Any]:
        yield clock.timeout(world.runs * world.make_s)
        for run in left:
            waiting.put(run)

    def slot(node: dict[str, Any]) -> Iterator[Any]:
        nonlocal attempts
        while True:
            run = None
            taken = waiting.get()
            try:
                run = yield taken
                attempts += 1
                yield clock.timeout(world.start_s)
                began = clock.now
                node["at"][clock.active_process] = (run, began)
                yield clock.timeout(left[run])
                left[run] = 0.0
                done.put(1)
            except simpy.Interrupt:
                if run is None:
                    if not taken.triggered:
                        taken.cancel()
                    else:  # it got a run in the very moment that its node died
                        run = taken.value
                if run is not None:
                    known, began = node["at"].get(clock.active_process, (run, clock.now))
                    if known == run:
                        kept = (clock.now - began) // world.checkpoint_s * world.checkpoint_s
                        left[run] = max(0.0, left[run] - kept)
                    clock.process(again(run))
                yield node["back"]
            finally:
                node["at"].pop(clock.active_process, None)

    def again(run: int) -> Iterator[Any]:
        yield clock.timeout(world.noticed_s)
        waiting.put(run)

    def fate(node: dict[str, Any]) -> Iterator[Any]:
        while True:
            yield clock.timeout(rng.exponential(world.node_fails_every_s))
            node["back"] = clock.event()
            for process in node["slots"]:
                process.interrupt()
            yield clock.timeout(world.node_back_s)
            node["back"].succeed()

    clock.process(driver())
    for first in range(0, world.gpus, NODE_GPUS):
        node: dict[str, Any] = {"at": {}, "back": clock.event()}
        count = min(NODE_GPUS, world.gpus - first) * PER_GPU
        node["slots"] = [clock.process(slot(node)) for _ in range(count)]
        if world.node_fails_every_s < float("inf"):
            clock.process(fate(node))
    clock.run(until=done.get(world.runs))
    useful = world.runs * world.work_s
    return Outcome(clock.now, useful / (clock.now * world.gpus * PER_GPU), attempts)


def worlds(measured: dict[str, Any], agents: int, gpus: int, steps: int) -> World:
    """`agents` runs of one agent each, as they were measured."""
    start_s, make_s = startup_seconds(measured), measured["launcher"][-1]["make_ms_per_run"] / 1e3
    return World(
        runs=agents,
        gpus=gpus,
        work_s=start_s + steps / PACE,
        start_s=start_s,
        checkpoint_s=16_384 / PACE,
        make_s=make_s,
    )


def startup_seconds(measured: dict[str, Any]) -> float:
    """Of one trainer: where the line through runs of 1, 2 and 4 times the steps meets zero."""
    own = [one for one in measured["growth"] if one["trainer"] == "ppo_stacked" and one["agents"] == 1]
    slope, start = np.polyfit([one["steps"] for one in own], [one["processor_s"] for one in own], 1)
    assert slope > 0
    return float(max(start, 1.0))


FAILURES = {"no failures": float("inf"), "mean time to failure 1 day": 86_400.0, "mean time to failure 2 h": 7_200.0}
LENGTHS = {"100,000 steps": 100_000, "10 million steps": 10_000_000}


def report(measured: dict[str, Any], picture: Path, seeds: Sequence[int] = range(3)) -> None:
    """A markdown table of everything, and the picture of it."""
    results: dict[tuple[int, str, str], list[tuple[int, float, float, float]]] = {}
    print("| agents | steps | failures | GPUs | time | useful slot time | attempts per run |")
    print("|---|---|---|---|---|---|---|")
    for agents in (143, 10_000):
        for length, steps in LENGTHS.items():
            for failures, every in FAILURES.items():
                for gpus in GPUS:
                    world = replace(worlds(measured, agents, gpus, steps), node_fails_every_s=every)
                    found = [simulate(world, seed) for seed in (seeds if np.isfinite(every) else seeds[:1])]
                    seconds, busy = (statistics.mean(getattr(o, key) for o in found) for key in ("seconds", "busy"))
                    attempts = statistics.mean(o.attempts for o in found) / agents
                    results.setdefault((agents, length, failures), []).append((gpus, seconds, busy, attempts))
                    if gpus in (1, 8, 64):
                        took = f"{seconds / 3600:.1f} h" if seconds > 5_400 else f"{seconds / 60:.1f} min"
                        row = (f"{agents:,}", length, failures, gpus, took, f"{busy:.0%}", f"{attempts:.2f}")
                        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    _draw(results, picture)


def _draw(results: dict[tuple[int, str, str], list[tuple[int, float, float, float]]], path: Path) -> None:
    from matplotlib.ticker import FuncFormatter

    from p3kit.report.figure import figure_to

    colours = dict(zip(FAILURES, ("#0072B2", "#E69F00", "#D55E00"), strict=True))
    with figure_to(path, 10.5, 5.6) as figure:
        grid = figure.subplots(2, 2, sharex=True)
        for column, agents in enumerate((143, 10_000)):
            for length, dash in zip(LENGTHS, ("--", "-"), strict=True):
                for failures, colour in colours.items():
                    points = results[agents, length, failures]
                    gpus = [point[0] for point in points]
                    label = f"{length}, {failures}"
                    hours = [point[1] / 3600 for point in points]
                    grid[0, column].plot(gpus, hours, dash, color=colour, marker="o", markersize=3, label=label)
                    busy = [point[2] for point in points]
                    grid[1, column].plot(gpus, busy, dash, color=colour, marker="o", markersize=3)
            grid[0, column].set(title=f"{agents:,} agents", xscale="log", yscale="log", ylabel="hours")
            grid[1, column].set(xlabel="GPUs (18 runs each)", ylabel="useful slot time", ylim=(0, 1.03))
            grid[1, column].set_xticks(GPUS)
            grid[1, column].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            grid[1, column].minorticks_off()
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(Path(sys.argv[2]))
    else:
        report(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
