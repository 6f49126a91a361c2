"""`p3kit run`: from a spec to trained agents and their verdicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from p3kit.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    no_aim_option,
    repo_option,
    runs_option,
    set_option,
    spec_argument,
)
from p3kit.cli.output import print_json, print_lines, progress_console, runs_flag
from p3kit.errors import Interrupted

if TYPE_CHECKING:
    from p3kit.api.training import RunOptions
    from p3kit.launch import Outcome
    from p3kit.rundir import RunDir


@click.command(
    epilog="""\b
Examples:
  p3kit run specs/smoke.toml                   one symbol, about a minute
  p3kit run specs/phase3.toml --jobs 2         ten symbols, two at a time
  RAY_ADDRESS=head:6379 p3kit run specs/phase4.toml --engine ray
  p3kit run specs/smoke.toml --set ppo.ent_coef=0.05 --set 'symbols=["AMD"]'
  p3kit run specs/smoke.toml --replay run-42   apply its interventions again

\b
Ctrl-C writes a checkpoint of every run; p3kit resume continues from it.
Exit codes: 0 success; 1 a run failed or was not repeated; 2 the spec or the
data are at fault; 130 interrupted."""
)
@spec_argument
@set_option
@jobs_option
@engine_option
@click.option(
    "--replay",
    metavar="RUN",
    help="Repeat RUN: apply its journal of interventions at its steps without judging, and compare the weights. "
    "RUN may be the name of an experiment that has one run.",
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
    engine: Literal["local", "ray"],
    replay: str | None,
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Plan and train the agents of SPEC: one process per run, a few at a time.

    Everything is checked before the first run directory is made. Progress goes to stderr, the verdicts to stdout.
    """
    from p3kit.api.specs import load_spec
    from p3kit.api.training import replay_run, run_spec

    console = progress_console()
    options = launch_options(engine, no_aim, repo)
    try:
        loaded = load_spec(spec, overrides)
        if replay is not None:
            repetition = replay_run(loaded, replay, runs_root, console, options)
            show_outcome(repetition.runs.outcome, as_json)
            click.echo(repetition.message, err=as_json)
            sys.exit(0 if repetition.same else 1)
        outcome = run_spec(loaded, jobs, runs_root, console, options).outcome
    except Interrupted as stopped:
        outcome = stopped.runs.outcome
    finish(ctx, outcome, mirrored=options.mirror, as_json=as_json)


def launch_options(engine: Literal["local", "ray"], no_aim: bool, repo: Path | None) -> RunOptions:
    """The options of a launch from the command line."""
    from p3kit.api.background import aim_is_installed
    from p3kit.api.training import RunOptions

    mirror = not no_aim and aim_is_installed()
    return RunOptions(engine, mirror, repo, ("p3kit", *sys.argv[1:]))


def finish(ctx: click.Context, outcome: Outcome, *, mirrored: bool, as_json: bool) -> None:
    """Print the result and the commands that come next, and exit."""
    show_outcome(outcome, as_json)
    suggest_next(ctx, outcome, mirrored=mirrored)
    sys.exit(outcome.exit_code)


def show_outcome(outcome: Outcome, as_json: bool) -> None:
    """Print the result on stdout: verdicts as tables, or all of it as JSON."""
    from p3kit.launch import agent_results, verdict_lines

    results = agent_results(outcome.kept)
    if as_json:
        runs = [{"run": run.name, "path": str(run.path), "state": outcome.states[run.name]} for run in outcome.runs]
        result = {"interrupted": outcome.interrupted, "runs": runs, "agents": [agent.to_json() for agent in results]}
        print_json(result)
        return
    print_lines(verdict_lines(results))


def has_custom_trainer(run: RunDir) -> bool:
    """Return True where the run was planned with a trainer file of the user, not with a shipped one."""
    from p3kit.spec.shipped import looks_like_a_file

    return looks_like_a_file(str(run.info().get("spec", {}).get("trainer", "")))


def suggest_next(ctx: click.Context, outcome: Outcome, *, mirrored: bool) -> None:
    """Print the commands that come next on stderr."""
    console = progress_console()
    suffix = runs_flag(ctx)
    names = [run.name for run in outcome.unfinished]
    custom = [run for run in outcome.unfinished if outcome.states[run.name] == "failed" and has_custom_trainer(run)]
    if custom:
        trainer = custom[0].info()["spec"]["trainer"]
        text = f"note:  resume uses the run's own copy of the trainer ({custom[0].trainer_file}); "
        text += f"once {trainer} is fixed, p3kit run uses it"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if names:
        console.print(
            f"to go on:  p3kit resume {' '.join(names)}{suffix}", markup=False, highlight=False, soft_wrap=True
        )
    if done := next((run.name for run in outcome.kept if run.name not in names), ""):
        commands = [f"p3kit report --week 1{suffix}", f"p3kit diagnose {done}{suffix}"]
        commands += [f"p3kit ui{suffix}"] if mirrored else []
        console.print(f"next:  {'   '.join(commands)}", markup=False, highlight=False, soft_wrap=True)
