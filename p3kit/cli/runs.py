"""`p3kit runs`, `p3kit resume` and `p3kit stop`."""

from __future__ import annotations

import fnmatch
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p3kit.cli.aim import repo_option
from p3kit.cli.engines import open_engine
from p3kit.cli.options import (
    Whole,
    engine_option,
    jobs_option,
    json_option,
    no_aim_option,
    runs_option,
    several_runs_argument,
)
from p3kit.cli.output import print_json, progress_console, say
from p3kit.cli.run import show_outcome, suggest_next
from p3kit.errors import InputError

STATES = ("queued", "running", "done", "stopped", "failed", "crashed")
GRADES = ("FAIL", "PASS", "STRONG", "STRETCH")

if TYPE_CHECKING:
    from p3kit.launch import RunLine
    from p3kit.rundir import RunDir


@click.command(
    epilog="""\b
Examples:
  p3kit runs
  p3kit runs --state failed --state crashed
  p3kit runs --name 'phase3*' --grade PASS --last 20
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
@click.option("--last", type=Whole(min=1), metavar="N", help="Only the newest N of these.")
@runs_option
@json_option
def runs(
    name: str | None,
    states: tuple[str, ...],
    symbol: str | None,
    grades: tuple[str, ...],
    last: int | None,
    runs_root: Path,
    as_json: bool,
) -> None:
    """List the runs: state, progress, best validation Sharpe, verdict and age.

    Runs whose process is gone are found here and marked crashed. Filters narrow the list; all of them must fit.
    """
    from p3kit.launch import run_lines
    from p3kit.rundir import intact_runs

    say_crashed(runs_root)
    intact, faults = intact_runs(runs_root, of_metrics=False)
    every = run_lines(intact, time.time())
    lines = [line for line in every if _fits(line, name, states, symbol, grades)][-last if last else 0 :]
    if as_json:
        print_json([line.to_json() for line in lines])
    elif lines:
        _print_table(lines)
    elif every:
        say(f"none of {len(every)} runs in {runs_root} fits; p3kit runs lists all")
    elif not faults:
        say(f"there are no runs in {runs_root}; start one with: p3kit run specs/smoke.toml")
    for fault in faults:
        click.echo(f"not listed: {fault}", err=True)
    if faults:
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  p3kit resume run-42
  p3kit resume latest
  p3kit resume run-3 run-4 run-5 --jobs 2"""
)
@several_runs_argument
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
    jobs: int | None,
    engine: str,
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Continue stopped, crashed or failed runs from their last checkpoints.

    On a CPU the result is the same, bit for bit, as if the run had never ended.
    """
    from p3kit.cli.companions import Companions, aim_is_installed
    from p3kit.launch import resume as resume_runs

    chosen = _find_runs(runs_root, references)
    console = progress_console()
    mirror = not no_aim and aim_is_installed()
    computes = [run.info()["spec"]["compute"] for run in chosen]
    with ExitStack() as stack:
        where = stack.enter_context(open_engine(engine, jobs, computes, console))
        at_a_time, start = where.room_for(len(chosen))
        companions = stack.enter_context(Companions(runs_root, console, mirror=mirror, aim_repo=repo))
        outcome = resume_runs(chosen, jobs=at_a_time, console=console, on_end=companions.draw, start=start)
        show_outcome(outcome, as_json)
    suggest_next(ctx, outcome, console, mirrored=mirror)
    sys.exit(outcome.exit_code)


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
    """Ask runs to write a checkpoint and end. A run that waits for its turn will not begin.

    Returns at once; `p3kit runs` shows when a run has stopped, and `p3kit resume` continues it.
    """
    chosen = _find_runs(runs_root, references)
    asked = []
    for run in chosen:
        run.mark_crashed()
        state = run.status()["state"]
        if state not in ("queued", "running"):
            raise InputError(run.name, f"is {state}", "only a queued or running run can be stopped")
    for run in chosen:
        run.request_stop()
        asked.append({"run": run.name, "state": run.status()["state"]})
    if as_json:
        print_json(asked)
    else:
        for entry in asked:
            click.echo(f"{entry['run']} was asked to stop")


def _fits(line: RunLine, name: str | None, states: Sequence[str], symbol: str | None, grades: Sequence[str]) -> bool:
    """Whether a run is among those asked for; what was not asked for does not matter."""
    return (
        (name is None or fnmatch.fnmatchcase(line.name, name))
        and (not states or line.state in states)
        and (symbol is None or symbol in line.symbols)
        and (not grades or any(grade in line.grades for grade in grades))
    )


def say_crashed(runs_root: Path) -> None:
    """Marks runs whose process is gone, and says so on stderr."""
    from p3kit.rundir import mark_crashed

    marked, faults = mark_crashed(runs_root)
    for run in marked:
        click.echo(f"{run.name} crashed: {run.status()['message']}; p3kit resume {run.name} continues it", err=True)
    for fault in faults:
        click.echo(fault, err=True)


def _find_runs(runs_root: Path, references: Sequence[str]) -> list[RunDir]:
    """The runs named, each once. An agent cannot be stopped or resumed on its own."""
    from p3kit.rundir import find_run

    found: dict[str, RunDir] = {}
    for reference in references:
        run, agent = find_run(runs_root, reference)
        if agent is not None:
            raise InputError(reference, "names one agent; a run goes on or ends as a whole", f'use "{run.name}"')
        found[run.name] = run
    return list(found.values())


def _print_table(lines: Sequence[RunLine]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from p3kit.launch.board import STATE_COLOURS, number

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", no_wrap=True)
    table.add_column("name", overflow="fold", min_width=6, max_width=16)
    table.add_column("state", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("agents", overflow="fold", min_width=8, max_width=20)
    table.add_column("best Sharpe", justify="right", no_wrap=True)
    table.add_column("verdict", min_width=8)
    table.add_column("age", justify="right", no_wrap=True)
    for line in lines:
        agents = line.agents[0] if len(line.agents) == 1 else f"{len(line.agents)} agents"
        table.add_row(
            line.run,
            Text(line.name),
            Text(line.state, style=STATE_COLOURS[line.state]),
            f"{line.progress:.0%}",
            Text(agents),
            number(line.best_sharpe, ".2f"),
            line.verdict,
            line.age,
        )
    console = Console()
    console.print(table)
    for line in lines:
        if line.message and line.state != "done":
            console.print(f"{line.run} {line.state}: {line.message}", markup=False, highlight=False, soft_wrap=True)
