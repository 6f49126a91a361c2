"""`p3kit tune SPEC`: search the values of a spec that do best."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.shell_completion import CompletionItem

from p3kit.cli import INTERRUPTED
from p3kit.cli.options import (
    SpecFile,
    UserPath,
    Whole,
    engine_option,
    jobs_option,
    json_option,
    no_aim_option,
    repo_option,
    runs_option,
    set_option,
)
from p3kit.cli.output import print_json, print_lines, progress_console, runs_flag
from p3kit.cli.run import launch_options
from p3kit.errors import InputError, Interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.tune import Result


def complete_sweep(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sweeps for the shell."""
    root = Path(ctx.params.get("runs_root") or os.environ.get("P3KIT_RUNS", "runs"))
    names = sorted(path.parent.name for path in root.glob("tune-*/sweep.json"))
    words = ["latest", *names] if names else []
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


@click.command(
    epilog="""\b
Examples:
  p3kit tune specs/tune.toml                  the guide's grid, 24 trials
  p3kit tune specs/tune.toml --trials 8 --jobs 2 --set 'symbols=["AMD"]'
  p3kit tune --resume latest                  go on after Ctrl-C or a kill
  p3kit tune --resume tune-1 --trials 48      more trials of a finished sweep

\b
Ctrl-C writes a checkpoint in every trainer and queues its trial again.
The journal is Optuna's:
  pip install optuna-dashboard && optuna-dashboard runs/tune-1/journal.log
Exit codes: 0 success; 1 no trial is complete; 2 the spec or the data are at
fault; 130 interrupted."""
)
@click.argument("spec", type=SpecFile(dir_okay=False, path_type=Path), required=False)
@set_option
@click.option("--trials", type=Whole(min=1), help="Settings to try in all.", show_default="tune.trials of the spec")
@jobs_option
@engine_option
@click.option(
    "--resume",
    metavar="SWEEP",
    shell_complete=complete_sweep,
    help="Continue a sweep: tune-1, 1 or latest. It has its own spec.",
)
@click.option(
    "--output",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Write the winner's spec there, too.",
)
@runs_option
@no_aim_option
@repo_option
@json_option
@click.pass_context
def tune(
    ctx: click.Context,
    spec: Path | None,
    overrides: tuple[str, ...],
    trials: int | None,
    jobs: int | None,
    engine: Literal["local", "ray"],
    resume: str | None,
    output: Path | None,
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Search the values under [tune] of SPEC for the highest validation Sharpe ratio, the mean over symbols and seeds.

    The first trial is the unchanged spec. Every trial is trained as ordinary runs. A trial below the median of the
    others is ended early. The sweep's folder (tune-1, beside the runs) keeps the journal, four pictures and the winner
    as a spec.
    """
    from p3kit.api.search import TuneOptions, resume_sweep, tune_spec
    from p3kit.api.specs import load_spec

    _check(spec, overrides, resume, output)
    console, interrupted = progress_console(), False
    options = TuneOptions(**vars(launch_options(engine, no_aim, repo)), trials=trials)
    try:
        if spec is None:
            result = resume_sweep(str(resume), jobs, runs_root, console, options)
        else:
            result = tune_spec(load_spec(spec, overrides), jobs, runs_root, console, options)
    except Interrupted as stopped:
        result, interrupted = stopped.result, True
    _keep(result, output)
    _show(result, as_json)
    _suggest_next(ctx, result, console, interrupted=interrupted)
    sys.exit(INTERRUPTED if interrupted else 0 if result.best else 1)


def _check(spec: Path | None, overrides: tuple[str, ...], resume: str | None, output: Path | None) -> None:
    """Refuse options that exclude each other, before anything is read."""
    from p3kit.api.search import require_tune

    if spec is None and resume is None:
        raise InputError("SPEC", "is missing", "p3kit tune specs/tune.toml, or --resume latest to go on with a sweep")
    if resume is not None and (spec is not None or overrides):
        given = str(spec) if spec is not None else f"--set {overrides[0]}"
        raise InputError(given, "does not go with --resume: a sweep keeps the spec it began with", "leave it out")
    if output is not None and output.suffix != ".toml":
        raise InputError(f"--output {output}", "the winner is written as a spec", "end it in .toml")
    require_tune()


def _keep(result: Result, output: Path | None) -> None:
    from p3kit.report.export_page import export_toml

    if output is not None and result.export is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(export_toml(result.export, output.parent), encoding="utf-8")


def _show(result: Result, as_json: bool) -> None:
    """Print the result on stdout."""
    from p3kit.tune import result_lines

    if as_json:
        print_json(result.to_json())
        return
    print_lines(result_lines(result))


def _suggest_next(ctx: click.Context, result: Result, console: Console, *, interrupted: bool) -> None:
    """Print the commands that come next on stderr."""
    suffix = runs_flag(ctx)
    lines = []
    if interrupted and result.left:
        lines.append(f"to go on:  p3kit tune --resume {result.sweep}{suffix}")
    if result.best is not None:
        lines.append(f"winner:    {result.winner_file}   pictures: {', '.join(map(str, result.pictures))}")
        own = result.own_trial
        beside = f"   p3kit compare {own.runs[0]} {result.best.runs[0]}{suffix}" if own and own != result.best else ""
        lines.append(f"next:      p3kit run {shlex.quote(str(result.winner_file))}{suffix}{beside}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
