"""`p3kit run`: from a spec to trained agents and their verdicts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p3kit.cli.aim import repo_option
from p3kit.cli.options import (
    available_cores,
    jobs_option,
    json_option,
    no_aim_option,
    runs_option,
    set_option,
    spec_argument,
)
from p3kit.cli.output import print_json, print_lines, progress_console, runs_flag, say
from p3kit.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.launch import Outcome, Replay
    from p3kit.market import SymbolData
    from p3kit.plan import RunPlan
    from p3kit.spec import LoadedSpec


@click.command(
    epilog="""\b
Examples:
  p3kit run specs/smoke.toml                       one symbol, about a minute
  p3kit run specs/phase3.toml --jobs 2             ten symbols, two at a time
  p3kit run specs/smoke.toml --set ppo.ent_coef=0.05 --set 'symbols=["AMD"]'
  p3kit run specs/smoke.toml --replay run-42       its interventions again, as its journal has them

\b
Ctrl-C writes a checkpoint of every run; p3kit resume goes on from there.
Exit codes: 0 fine, 1 a run failed or was not repeated, 2 the spec or the data are at fault, 130 interrupted."""
)
@spec_argument
@set_option
@jobs_option
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where trainers run: processes of this machine, or a Ray cluster.",
)
@click.option(
    "--replay",
    metavar="RUN",
    help="Repeat RUN: apply its journal of interventions at its steps without judging, and compare the weights.",
)
@runs_option
@no_aim_option
@repo_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    spec: Path,
    overrides: tuple[str, ...],
    jobs: int | None,
    engine: str,
    replay: str | None,
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Plan and train the agents of SPEC: one process per run, a few at a time.

    Everything is checked before the first run directory is made. Progress goes to stderr, the verdicts to stdout.
    """
    from p3kit.cli.companions import Companions, aim_is_installed
    from p3kit.launch import compare_weights, launch

    if engine == "ray":
        raise InputError("--engine ray", "is not part of this version", "--engine local trains on this machine")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "train", "training")
    slots = jobs or available_cores()
    loaded, plans, market = prepare(spec, overrides, slots)
    repeated = None if replay is None else find_replay(plans, runs_root, replay)
    console = progress_console()
    mirror = not no_aim and aim_is_installed()
    with Companions(runs_root, console, mirror=mirror, aim_repo=repo) as companions:
        outcome = launch(
            plans if repeated is None else [repeated.plan],
            loaded,
            market,
            runs_root,
            jobs=slots,
            command=["p3kit", *sys.argv[1:]],
            console=console,
            on_end=companions.draw,
            extra=None if repeated is None else {"replay": repeated.to_json()},
        )
        show_outcome(outcome, as_json)
    if repeated is not None and not outcome.interrupted:
        same, told = compare_weights(repeated.original, outcome.runs[0])
        click.echo(told, err=as_json)
        sys.exit(0 if same else 1)
    suggest_next(ctx, outcome, console, mirrored=mirror)
    sys.exit(outcome.exit_code)


def find_replay(plans: list[RunPlan], runs_root: Path, run: str) -> Replay:
    """The run to repeat, refused where the spec is not the one it had."""
    from p3kit.launch import plan_replay
    from p3kit.rundir import find_run

    return plan_replay(plans, find_run(runs_root, run)[0])


def prepare(
    spec: Path, overrides: tuple[str, ...], jobs: int
) -> tuple[LoadedSpec, list[RunPlan], Mapping[str, SymbolData]]:
    """All checks that come before the first run directory. What is worth knowing goes to stderr."""
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes, plan_runs
    from p3kit.spec import load_spec
    from p3kit.spec.notes import notes

    loaded = load_spec(spec, overrides)
    market = load_market(loaded.spec, loaded.spec.symbols)
    plans = plan_runs(loaded.spec, jobs, walk_windows(loaded.spec, market))
    for window in {plan.agents[0].window: plan for plan in plans if plan.windows}.values():
        load_market(window.spec, window.spec.symbols)  # every window has enough bars, or nothing begins
    for note in [*notes(loaded), *data_notes(loaded.spec, market)]:
        say(f"note: {note}")
    return loaded, plans, market


def show_outcome(outcome: Outcome, as_json: bool) -> None:
    """The result, on stdout: verdicts as tables, or all of it as JSON."""
    from p3kit.launch import agent_results, verdict_lines

    results = agent_results(outcome.runs)
    if as_json:
        runs = [{"run": run.name, "path": str(run.path), "state": outcome.states[run.name]} for run in outcome.runs]
        result = {"interrupted": outcome.interrupted, "runs": runs, "agents": [agent.to_json() for agent in results]}
        print_json(result)
        return
    print_lines(verdict_lines(results))


def suggest_next(ctx: click.Context, outcome: Outcome, console: Console, *, mirrored: bool) -> None:
    """The commands that come next, on stderr."""
    suffix = runs_flag(ctx)
    names = [run.name for run in outcome.unfinished]
    if names:
        console.print(
            f"to go on:  p3kit resume {' '.join(names)}{suffix}", markup=False, highlight=False, soft_wrap=True
        )
    if len(names) < len(outcome.runs):
        done = next(run.name for run in outcome.runs if run.name not in names)
        commands = [f"p3kit report --week 1{suffix}", f"p3kit diagnose {done}{suffix}"]
        commands += [f"p3kit ui{suffix}"] if mirrored else []
        console.print(f"next:  {'   '.join(commands)}", markup=False, highlight=False, soft_wrap=True)
