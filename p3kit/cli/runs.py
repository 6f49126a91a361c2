"""`p3kit runs`, `p3kit resume` and `p3kit stop`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from p3kit.cli.options import (
    Whole,
    engine_option,
    jobs_option,
    json_option,
    no_aim_option,
    repo_option,
    runs_option,
    several_runs_argument,
)
from p3kit.cli.output import print_json, print_note, progress_console
from p3kit.cli.run import finish, launch_options
from p3kit.errors import Interrupted, P3kitWarning

STATES = ("queued", "running", "done", "stopped", "failed", "crashed")
GRADES = ("FAIL", "PASS", "STRONG", "STRETCH")

if TYPE_CHECKING:
    from p3kit.api.saved_run import RunList
    from p3kit.launch import RunLine


@click.command(
    epilog="""\b
Examples:
  p3kit runs
  p3kit runs --state failed --state crashed
  p3kit runs --name 'phase3*' --grade PASS --last 20
  p3kit runs --tag baseline                   p3kit note gives tags
  p3kit runs --json | jq '.[] | select(.state == "crashed") | .run'"""
)
@click.option("--name", metavar="PATTERN", help="Only experiments of this name; * and ? fit anything.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only runs in this state. Repeatable."
)
@click.option("--symbol", metavar="NAME", help="Only runs that train this symbol.")
@click.option(
    "--grade",
    "grades",
    multiple=True,
    type=click.Choice(GRADES, case_sensitive=False),
    help="Only runs in which an agent got this grade. Repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag. Repeatable.")
@click.option("--last", type=Whole(min=1), metavar="N", help="Only the newest N of these.")
@runs_option
@json_option
def runs(
    name: str | None,
    states: tuple[str, ...],
    symbol: str | None,
    grades: tuple[str, ...],
    tags: tuple[str, ...],
    last: int | None,
    runs_root: Path,
    as_json: bool,
) -> None:
    """List the runs: state, progress, best validation Sharpe, verdict, age, tags and notes.

    Runs without a process are marked as crashed. A run must fit all filters.
    """
    from p3kit.api.saved_run import list_runs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P3kitWarning)  # damaged runs stand below the table
        found = list_runs(runs_root, name=name, state=states, symbol=symbol, grade=grades, tag=tags)
    _print_crashed(found)
    lines = found.lines[-last if last else 0 :]
    if as_json:
        print_json([line.to_json() for line in lines])
    elif lines:
        _print_table(lines)
    elif found.total:
        print_note(f"none of {found.total} runs in {runs_root} fits; p3kit runs lists all")
    elif not found.damaged:
        print_note(f"there are no runs in {runs_root}; start one with: p3kit run specs/smoke.toml")
    for fault in found.damaged:
        click.echo(f"not listed: {fault}", err=True)
    if found.damaged:
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  p3kit resume run-42
  p3kit resume latest
  p3kit resume run-3 run-4 run-5 --jobs 2
  p3kit resume run-42 --total-timesteps 200000   more steps than planned"""
)
@several_runs_argument
@click.option(
    "--total-timesteps",
    type=Whole(min=1),
    metavar="N",
    help="Extend the runs to N env steps per agent, also runs that are done.",
)
@click.option(
    "--schedule",
    type=click.Choice(("keep", "stretch")),
    show_default="keep",
    help="With --total-timesteps: schedules keep their end value, or run over the new number of steps.",
)
@jobs_option
@engine_option
@runs_option
@no_aim_option
@repo_option
@json_option
@click.pass_context
def resume(
    ctx: click.Context,
    references: tuple[str, ...],
    total_timesteps: int | None,
    schedule: Literal["keep", "stretch"] | None,
    jobs: int | None,
    engine: Literal["local", "ray"],
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Continue stopped, crashed or failed runs from their last checkpoints, or extend runs to more env steps.

    On a CPU the result is the same, bit for bit, as if the run had never ended. RUN is run-42, 42, latest or the name
    of an experiment, for all its runs.
    """
    from p3kit.api.training import resume_runs

    if schedule is not None and total_timesteps is None:
        raise click.UsageError("--schedule belongs to an extension: add --total-timesteps N")
    options = launch_options(engine, no_aim, repo)
    try:
        outcome = resume_runs(
            *(references, jobs, runs_root, progress_console(), options),
            total_timesteps=total_timesteps,
            schedule=schedule or "keep",
        ).outcome
    except Interrupted as stopped:
        outcome = stopped.runs.outcome
    finish(ctx, outcome, mirrored=options.mirror, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  p3kit stop run-42
  p3kit stop latest"""
)
@several_runs_argument
@runs_option
@json_option
def stop(references: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Make runs write a checkpoint and end. A queued run will not start.

    Returns at once; `p3kit runs` shows when a run has stopped, and `p3kit resume` continues it. RUN is run-42, 42,
    latest or the name of an experiment, for all its runs.
    """
    from p3kit.api.training import stop_runs

    stopped = stop_runs(references, runs_root)
    if as_json:
        print_json([{"run": run.name, "state": run.state} for run in stopped])
    else:
        for run in stopped:
            click.echo(f"{run.name}: stop requested")


def _print_crashed(found: RunList) -> None:
    """Print the runs that were found crashed, and those that could not be marked, on stderr."""
    for run in found.crashed:
        click.echo(f"{run.name} crashed: {run.message}; p3kit resume {run.name} continues it", err=True)
    for line in found.not_marked:
        click.echo(line, err=True)


def _print_table(lines: Sequence[RunLine]) -> None:
    from rich.text import Text

    from p3kit.console import Console, FittingTable
    from p3kit.launch.display import STATE_COLOURS, number

    table = FittingTable(optional=("age", "done", "name", "tags", "best Sharpe", "state"), agents="agents")
    table.add_column("run", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("agents")
    table.add_column("best Sharpe", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    if any(line.tags for line in lines):
        table.add_column("tags", no_wrap=True)
    for line in lines:
        agents = line.agents[0] if len(line.agents) == 1 else f"{len(line.agents)} agents"
        table.add_row(
            line.run,
            Text(line.name),
            Text(line.state, style=STATE_COLOURS.get(line.state, "")),
            f"{line.progress:.0%}",
            Text(agents),
            number(line.best_sharpe, ".2f"),
            line.verdict,
            line.age,
            *([Text(", ".join(line.tags))] if len(table.columns) > 8 else []),
        )
    console = Console()
    console.print(table)
    for line in lines:
        if line.message and line.state != "done":
            console.print(f"{line.run} {line.state}: {line.message}", soft_wrap=True)
        if line.note:
            console.print(f"{line.run} note: {' '.join(line.note.split())}", soft_wrap=True)
