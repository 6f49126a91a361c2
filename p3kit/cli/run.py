"""`p3kit run`: from a spec to trained agents and their verdicts."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p3kit.cli.aim import repo_option
from p3kit.cli.engines import open_engine
from p3kit.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    no_aim_option,
    runs_option,
    set_option,
    spec_argument,
)
from p3kit.cli.output import print_json, print_lines, progress_console, runs_flag, say
from p3kit.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.launch import Outcome, Replay
    from p3kit.market import SymbolData
    from p3kit.plan import RunPlan
    from p3kit.rundir import RunDir
    from p3kit.spec import LoadedSpec


@click.command(
    epilog="""\b
Examples:
  p3kit run specs/smoke.toml                       one symbol, about a minute
  p3kit run specs/phase3.toml --jobs 2             ten symbols, two at a time
  RAY_ADDRESS=head:6379 p3kit run specs/phase4.toml --engine ray --runs /shared/runs
  p3kit run specs/smoke.toml --set ppo.ent_coef=0.05 --set 'symbols=["AMD"]'
  p3kit run specs/smoke.toml --replay run-42       its interventions again, as its journal has them

\b
Ctrl-C writes a checkpoint of every run; p3kit resume goes on from there.
Exit codes: 0 fine, 1 a run failed or was not repeated, 2 the spec or the data are at fault, 130 interrupted."""
)
@spec_argument
@set_option
@jobs_option
@engine_option
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
    from p3kit.launch import compare_weights, launch, make_runs

    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "train", "training")
    loaded, market = check(spec, overrides)
    console = progress_console()
    mirror = not no_aim and aim_is_installed()
    with ExitStack() as stack:
        where = stack.enter_context(open_engine(engine, jobs, [loaded.spec.compute.model_dump()], console))
        plans = plan_all(loaded, market, where.slots)
        repeated = None if replay is None else find_replay(plans, runs_root, replay)
        if repeated is not None:
            plans = [repeated.plan]
        at_a_time, start = where.room_for(len(plans))
        companions = stack.enter_context(Companions(runs_root, console, mirror=mirror, aim_repo=repo))
        extra = None if repeated is None else {"replay": repeated.to_json()}
        runs = make_runs(plans, loaded, market, runs_root, command=["p3kit", *sys.argv[1:]], extra=extra)
        del market  # a gigabyte for 143 symbols, and every trainer reads its own
        give_memory_back()
        outcome = launch(runs, jobs=at_a_time, console=console, on_end=companions.draw, start=start)
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


def check(spec: Path, overrides: tuple[str, ...]) -> tuple[LoadedSpec, Mapping[str, SymbolData]]:
    """What can be told of a spec and its bars before it is known where they train."""
    from p3kit.market import load_market
    from p3kit.spec import load_spec

    loaded = load_spec(spec, overrides)
    return loaded, load_market(loaded.spec, loaded.spec.symbols)


def plan_all(loaded: LoadedSpec, market: Mapping[str, SymbolData], slots: int) -> list[RunPlan]:
    """The runs, and the checks that are left before the first directory. What is worth knowing goes to stderr."""
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes, plan_runs
    from p3kit.spec.notes import notes

    plans = plan_runs(loaded.spec, slots, walk_windows(loaded.spec, market))
    for window in {plan.agents[0].window: plan for plan in plans if plan.windows}.values():
        load_market(window.spec, window.spec.symbols)  # every window has enough bars, or nothing begins
    for note in [*notes(loaded), *data_notes(loaded.spec, market)]:
        say(f"note: {note}")
    return plans


def give_memory_back() -> None:
    """What was freed goes back to the system: glibc keeps it for a process that, here, will wait for its trainers."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # other C libraries have no such call
        trim(0)


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


def has_own_trainer(run: RunDir) -> bool:
    """Whether the run was planned with a trainer file of the user's, not with a shipped one."""
    from p3kit.spec.shipped import looks_like_a_file

    return looks_like_a_file(str(run.info().get("spec", {}).get("trainer", "")))


def suggest_next(ctx: click.Context, outcome: Outcome, console: Console, *, mirrored: bool) -> None:
    """The commands that come next, on stderr."""
    suffix = runs_flag(ctx)
    names = [run.name for run in outcome.unfinished]
    own = [run for run in outcome.unfinished if outcome.states[run.name] == "failed" and has_own_trainer(run)]
    if own:
        trainer = own[0].info()["spec"]["trainer"]
        text = f"note:  resume goes on with the run's own copy of the trainer ({own[0].trainer_file}); "
        text += f"once {trainer} is mended, p3kit run takes it"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if names:
        console.print(
            f"to go on:  p3kit resume {' '.join(names)}{suffix}", markup=False, highlight=False, soft_wrap=True
        )
    if len(names) < len(outcome.runs):
        done = next(run.name for run in outcome.runs if run.name not in names)
        commands = [f"p3kit report --week 1{suffix}", f"p3kit diagnose {done}{suffix}"]
        commands += [f"p3kit ui{suffix}"] if mirrored else []
        console.print(f"next:  {'   '.join(commands)}", markup=False, highlight=False, soft_wrap=True)
