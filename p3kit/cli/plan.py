"""`p3kit plan`: what `p3kit run` would start, and what it would take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from p3kit.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    runs_option,
    set_option,
    spec_argument,
)
from p3kit.cli.output import print_json, size_text
from p3kit.errors import InputError, Interrupted

if TYPE_CHECKING:
    from p3kit.api.specs import Plan

UNKNOWN_TIME = "unknown until a run of this trainer and these sizes has finished here; --calibrate trains a beginning"


@click.command(
    epilog="""\b
Examples:
  p3kit plan specs/phase3.toml
  p3kit plan specs/phase4.toml --calibrate      measures time, memory and disk
  p3kit plan specs/phase4.toml --set 'trainer="ppo"' --engine ray --gpus 8
  p3kit plan specs/phase3.toml --set env.num_envs=16 --json"""
)
@spec_argument
@set_option
@jobs_option
@click.option(
    "--calibrate",
    is_flag=True,
    help="Train the beginning of the first runs in a temporary folder, and estimate the cost of all runs from it.",
)
@engine_option
@click.option(
    "--gpus", type=click.IntRange(min=0), help="Plan for a cluster with this number of GPUs (with --engine ray)."
)
@click.option(
    "--cpus", type=click.IntRange(min=1), help="Plan for a cluster with this number of CPUs (with --engine ray)."
)
@runs_option
@json_option
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    jobs: int | None,
    calibrate: bool,
    engine: Literal["local", "ray"],
    gpus: int | None,
    cpus: int | None,
    runs_root: Path,
    as_json: bool,
) -> None:
    """Show what `p3kit run SPEC` would start: runs, agents, iterations, gradient steps, memory, time and disk.

    Time is an estimate only from runs that finished in the runs folder, or from a calibration. Nothing is written.
    """
    from p3kit.api.specs import PlanOptions, load_spec, plan_runs
    from p3kit.cli import INTERRUPTED
    from p3kit.console import Console

    _check(calibrate, engine, gpus, cpus)
    options = PlanOptions(engine, gpus, cpus, calibrate)
    try:
        plan = plan_runs(load_spec(spec, overrides), jobs, runs_root, Console(stderr=True), options)
    except Interrupted:
        sys.exit(INTERRUPTED)
    if as_json:
        print_json(plan.to_json())
        return
    _print_table(plan)
    if plan.packing is not None:
        click.echo(f"packing: {plan.packing.words()}")
    for line in _cost_lines(plan):
        click.echo(line)
    for note in plan.notes:
        click.echo(f"note: {note}")


def _check(calibrate: bool, engine: str, gpus: int | None, cpus: int | None) -> None:
    """Refuse options that exclude each other."""
    if engine == "local" and (gpus is not None or cpus is not None):
        raise InputError("--gpus" if gpus is not None else "--cpus", "is for a cluster", "add --engine ray")
    if engine == "ray" and calibrate:
        what = "trains here, which gives no figures for the nodes of a cluster"
        raise InputError("--calibrate", what, "calibrate on a node with --engine local")


def _cost_lines(plan: Plan) -> list[str]:
    """Lines about time, memory and disk."""
    from p3kit.launch.display import duration

    if (cost := plan.cost) is not None:
        how = f"the first {cost.iterations} iterations of {plan.jobs} run{'s' if plan.jobs > 1 else ''}"
        return [
            f"time: about {duration(cost.seconds)} with {plan.jobs} at a time (calibrated on {how})",
            f"memory: about {cost.memory_bytes / 1e9:.1f} GB with {plan.jobs} at a time, the Aim mirror left out",
            f"disk: about {size_text(cost.disk_bytes)} of run directories",
        ]
    if plan.pace is None or plan.seconds is None:
        return [f"time: {UNKNOWN_TIME}"]
    there = " if its nodes are as fast as this machine" if plan.packing is not None else ""
    rate = f"{plan.pace.steps_per_second:,.0f} steps/s a run, as measured in {_span(plan.pace.runs)}"
    return [f"time: about {duration(plan.seconds)} with {plan.jobs} at a time{there} ({rate})"]


def _print_table(plan: Plan) -> None:
    """Print the agents of each run with their counted work."""
    from p3kit.api.specs import agent_work
    from p3kit.console import Console, FittingTable
    from p3kit.launch.display import number

    runs = [[agent_work(agent) for agent in run.agents] for run in plan.runs]
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''} each"
    click.echo(f"{plan.loaded.spec.name}: {count} of the trainer {plan.trainer}, {plan.jobs} at a time, {threads}")
    optional = ("buffer", "iterations", "gradient steps", "env steps", "run")
    table = FittingTable(optional=optional, agents="agent", footer_style="bold", show_footer=True)
    table.add_column("run", "", justify="right", no_wrap=True)
    agents = [agent for run in runs for agent in run]
    table.add_column("agent", "all")
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
