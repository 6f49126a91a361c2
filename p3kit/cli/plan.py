"""`p3kit plan`: what `p3kit run` would start, and what it would take."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    runs_option,
    set_option,
    spec_argument,
)
from p3kit.cli.output import print_json
from p3kit.errors import InputError, MissingExtra
from p3kit.launch.engines import available_cores

if TYPE_CHECKING:
    from p3kit.launch import Pace
    from p3kit.launch.calibrate import Cost
    from p3kit.launch.cluster import Needs, Packing
    from p3kit.market import SymbolData
    from p3kit.plan import AgentPlan, RunPlan
    from p3kit.rundir import RunDir
    from p3kit.spec import LoadedSpec, Spec

UNKNOWN_TIME = "unknown until a run of this trainer and these sizes has finished here; --calibrate trains a beginning"


@click.command(
    epilog="""\b
Examples:
  p3kit plan specs/phase3.toml
  p3kit plan specs/phase4.toml --calibrate         time, memory and disk from its first minutes
  p3kit plan specs/phase4.toml --set 'trainer="ppo"' --engine ray --gpus 8
  p3kit plan specs/phase3.toml --set env.num_envs=16 --json"""
)
@spec_argument
@set_option
@jobs_option
@click.option(
    "--calibrate",
    is_flag=True,
    help="Train the beginning of the first runs in a folder that is thrown away, and tell from it what all will take.",
)
@engine_option
@click.option("--gpus", type=click.IntRange(min=0), help="Plan for a cluster of so many GPUs (with --engine ray).")
@click.option("--cpus", type=click.IntRange(min=1), help="Plan for a cluster of so many CPUs (with --engine ray).")
@runs_option
@json_option
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    jobs: int | None,
    calibrate: bool,
    engine: str,
    gpus: int | None,
    cpus: int | None,
    runs_root: Path,
    as_json: bool,
) -> None:
    """Show what `p3kit run SPEC` would start: runs, agents, iterations, gradient steps, memory, time and disk.

    Time is an estimate only from runs that finished in the runs folder, or from a calibration. Nothing is written.
    """
    from p3kit.launch import measured_pace, total_seconds
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes, plan_runs
    from p3kit.spec import load_spec
    from p3kit.spec.notes import notes

    _check(calibrate, engine, gpus, cpus)
    loaded = load_spec(spec, overrides)
    market = load_market(loaded.spec, loaded.spec.symbols)
    windows = walk_windows(loaded.spec, market)
    if engine == "ray":
        cluster = _cluster(loaded.spec, gpus, cpus)
        plans = plan_runs(loaded.spec, cluster.slots(jobs), windows)
        packing = cluster.pack(len(plans), jobs)
        slots = packing.at_a_time
    else:
        plans = plan_runs(loaded.spec, jobs or available_cores(), windows)
        packing, slots = None, min(jobs or available_cores(), len(plans))
    cost = _calibrated(plans, loaded, market, slots) if calibrate else None
    pace = measured_pace(plans[0], runs_root)
    seconds = cost.seconds if cost else total_seconds(plans, pace, slots) if pace else None
    remarks = [*notes(loaded), *data_notes(loaded.spec, market)]
    runs = [[_facts(agent) for agent in plan.agents] for plan in plans]
    if as_json:
        time = {
            "seconds": seconds,
            "steps_per_second": pace and pace.steps_per_second,
            "measured_in": pace and pace.runs,
        }
        result = {
            "name": loaded.spec.name,
            "trainer": plans[0].trainer.stem,
            "jobs": slots,
            "runs": [{"agents": agents} for agents in runs],
            "time": time,
            "calibration": None if cost is None else asdict(cost),
            "packing": None if packing is None else asdict(packing),
            "notes": remarks,
        }
        print_json(result)
        return
    _print_table(loaded.spec.name, plans, runs, slots)
    if packing is not None:
        click.echo(f"packing: {packing.words()}")
    for line in _cost_lines(cost, pace, seconds, slots, elsewhere=packing is not None):
        click.echo(line)
    for remark in remarks:
        click.echo(f"note: {remark}")


def _check(calibrate: bool, engine: str, gpus: int | None, cpus: int | None) -> None:
    if engine == "local" and (gpus is not None or cpus is not None):
        raise InputError("--gpus" if gpus is not None else "--cpus", "is for a cluster", "add --engine ray")
    if engine == "ray" and calibrate:
        what = "trains here, which tells nothing about the nodes of a cluster"
        raise InputError("--calibrate", what, "calibrate on a node with --engine local")
    if calibrate and importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "train", "--calibrate")


@dataclass(frozen=True)
class _Room:
    """A cluster as it is, or as it is thought of."""

    cpus: float
    gpus: int
    needs: Needs

    def slots(self, jobs: int | None) -> int:
        from p3kit.launch.cluster import Cluster

        return Cluster(self.cpus, self.gpus, nodes=1).slots(self.needs, jobs)

    def pack(self, runs: int, jobs: int | None) -> Packing:
        from p3kit.launch.cluster import pack

        return pack(runs, self.cpus, self.gpus, self.needs, jobs)


def _cluster(spec: Spec, gpus: int | None, cpus: int | None) -> _Room:
    """As --gpus and --cpus say; else as the cluster at RAY_ADDRESS tells; else this machine."""
    from p3kit.launch.cluster import local_gpus, needs_of, ray_cluster

    needs = needs_of([spec.compute.model_dump()])
    if os.environ.get("RAY_ADDRESS") and gpus is None and cpus is None:
        with ray_cluster(available_cores()) as cluster:
            return _Room(cluster.cpus, cluster.gpus, needs)
    known_gpus = gpus if gpus is not None else local_gpus()
    return _Room(cpus or max(available_cores(), known_gpus), known_gpus, needs)


def _calibrated(plans: Sequence[RunPlan], loaded: LoadedSpec, market: Mapping[str, SymbolData], slots: int) -> Cost:
    from p3kit.cli import INTERRUPTED
    from p3kit.console import Console
    from p3kit.launch.board import board_for
    from p3kit.launch.calibrate import calibrate

    with board_for(Console(stderr=True), f"{loaded.spec.name}, calibrating") as board:
        cost = calibrate(plans, loaded, market, jobs=slots, board=board, on_end=_draw)
    if cost is None:
        sys.exit(INTERRUPTED)
    return cost


def _draw(run: RunDir) -> None:
    """As `p3kit run` does with each run that ended: pictures take their time and room, too."""
    from p3kit.report.run_pictures import draw_run

    draw_run(run)


def _cost_lines(
    cost: Cost | None, pace: Pace | None, seconds: float | None, slots: int, *, elsewhere: bool
) -> list[str]:
    from p3kit.launch.board import duration

    if cost is not None:
        how = f"the first {cost.iterations} iterations of {slots} run{'s' if slots > 1 else ''}"
        return [
            f"time: about {duration(cost.seconds)} with {slots} at a time (calibrated on {how})",
            f"memory: about {cost.memory_bytes / 1e9:.1f} GB with {slots} at a time, the Aim mirror left out",
            f"disk: about {_megabytes(cost.disk_bytes)} of run directories",
        ]
    if pace is None or seconds is None:
        return [f"time: {UNKNOWN_TIME}"]
    there = " if its nodes are as fast as this machine" if elsewhere else ""
    rate = f"{pace.steps_per_second:,.0f} steps/s a run, as measured in {_span(pace.runs)}"
    return [f"time: about {duration(seconds)} with {slots} at a time{there} ({rate})"]


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _facts(agent: AgentPlan) -> dict[str, Any]:
    """The counted work of one agent; None where a trainer's knobs do not tell."""
    from p3kit.spec.notes import ROW_BYTES, rollout_steps

    rollout = rollout_steps(agent.spec)
    has_minibatches = all(hasattr(agent.spec.ppo, knob) for knob in ("batch_size", "accumulation_steps", "n_epochs"))
    return {
        "agent": agent.name,
        "symbol": agent.symbol,
        "seed": agent.seed,
        "point": dict(agent.point),
        "env_steps": agent.spec.ppo.total_timesteps,
        "iterations": None if rollout is None else agent.iterations,
        "gradient_steps": agent.gradient_steps if rollout is not None and has_minibatches else None,
        "buffer_bytes": None if rollout is None else rollout * ROW_BYTES,
    }


def _print_table(name: str, plans: Sequence[RunPlan], runs: Sequence[Sequence[dict[str, Any]]], slots: int) -> None:

    from p3kit.console import Console, FittingTable
    from p3kit.launch.board import number

    count = f"{len(plans)} run{'s' if len(plans) > 1 else ''}"
    click.echo(f"{name}: {count} of the trainer {plans[0].trainer.stem}, {slots} at a time")
    optional = ("buffer", "iterations", "gradient steps", "env steps", "run")
    table = FittingTable(optional=optional, footer_style="bold", show_footer=True)
    table.add_column("run", "", justify="right", no_wrap=True)
    agents = [agent for run in runs for agent in run]
    table.add_column("agent", "all", overflow="fold")
    for title, key in (("env steps", "env_steps"), ("iterations", "iterations"), ("gradient steps", "gradient_steps")):
        values = [agent[key] for agent in agents]
        table.add_column(title, number(None if None in values else sum(values), ","), justify="right", no_wrap=True)
    table.add_column("buffer", "", justify="right", no_wrap=True)
    for index, run in enumerate(runs, 1):
        for agent in run:
            buffer = agent["buffer_bytes"]
            table.add_row(
                str(index),
                agent["agent"],
                number(agent["env_steps"], ","),
                number(agent["iterations"], ","),
                number(agent["gradient_steps"], ","),
                "–" if buffer is None else f"{buffer / 1e6:.1f} MB",
            )
    Console().print(table)


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs, {names[0]} to {names[-1]}"
