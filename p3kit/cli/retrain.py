"""`p3kit retrain`: a run again with the bars of today."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from p3kit.cli.options import (
    complete_run,
    engine_option,
    json_option,
    no_aim_option,
    repo_option,
    runs_option,
    set_option,
)
from p3kit.cli.output import print_json, progress_console
from p3kit.cli.run import finish, launch_options
from p3kit.errors import Interrupted


@click.command(
    epilog="""\b
Examples:
  p3kit retrain run-42 --dry-run     prints the days, trains nothing
  p3kit retrain run-42               from the weights that validation chose
  p3kit retrain run-42 --scratch     from new weights
  p3kit retrain latest --set ppo.total_timesteps=20000

\b
Exit codes: 0 success; 1 the run failed; 2 no new bars or a fault of the spec;
130 interrupted."""
)
@click.argument("reference", metavar="RUN", shell_complete=complete_run)
@click.option("--scratch", is_flag=True, help="Start from new weights, not from those of RUN.")
@click.option("--dry-run", is_flag=True, help="Print the days of the splits before and after, and train nothing.")
@set_option
@engine_option
@runs_option
@no_aim_option
@repo_option
@json_option
@click.pass_context
def retrain(
    ctx: click.Context,
    reference: str,
    scratch: bool,
    dry_run: bool,
    overrides: tuple[str, ...],
    engine: Literal["local", "ray"],
    runs_root: Path,
    no_aim: bool,
    repo: Path | None,
    as_json: bool,
) -> None:
    """Train RUN again: the same spec with the bars of today and later splits.

    RUN is run-42, 42, latest or the name of an experiment that has one run.

    Splits that are fractions move by themselves. Splits that are days move by the calendar days between the last bar of
    RUN and the last bar of today. The new test split never has bars that RUN was trained on.
    """
    from p3kit.api.retraining import plan_retraining, retrain_run

    if dry_run:
        plan = plan_retraining(reference, scratch=scratch, overrides=overrides, runs_root=runs_root)
        if as_json:
            print_json(plan.to_json())
        else:
            click.echo("\n".join(plan.notes()))
        return
    options = launch_options(engine, no_aim, repo)
    try:
        outcome = retrain_run(
            reference,
            scratch=scratch,
            overrides=overrides,
            runs_root=runs_root,
            progress=progress_console(),
            options=options,
        ).outcome
    except Interrupted as stopped:
        outcome = stopped.runs.outcome
    finish(ctx, outcome, mirrored=options.mirror, as_json=as_json)
