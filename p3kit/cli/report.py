"""`p3kit report --week N`: the weekly status report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from p3kit.cli.options import json_option, runs_option


@click.command(
    epilog="""\b
Examples:
  p3kit report --week 1
  p3kit report --week 1 --name phase3 --output reports"""
)
@click.option("--week", type=click.IntRange(min=1), required=True, help="Week of the experiment, counted from 1.")
@click.option("--name", metavar="NAME", help="One experiment only (the `name` of its spec).")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder for the markdown file and its pictures.",
)
@json_option
@runs_option
def report(week: int, name: str | None, output: Path, as_json: bool, runs_root: Path) -> None:
    """Write the weekly status report: agents completed, stability, issues, next steps, validation.

    Every number comes from the run directories. The report of a past week shows what was known at its end. What you
    write between the keep-markers of the file survives when it is written again.
    """
    from p3kit.report.page import relative_to_here
    from p3kit.report.summary import summarise_week
    from p3kit.report.week import week_json, write_week
    from p3kit.rundir import file_name, intact_runs, mark_crashed

    mark_crashed(runs_root)
    experiments = summarise_week(runs_root, week, time.time(), name)
    intact, faults = intact_runs(runs_root)
    several = len({run.info()["name"] for run in intact}) > 1
    stem = f"week-{week:02d}-{file_name(name)}" if name is not None and several else None
    path = write_week(experiments, output, week, stem)
    if as_json:
        click.echo(json.dumps(week_json(experiments, path), indent=2, ensure_ascii=False))
    else:
        click.echo(relative_to_here(path))
    for fault in faults:
        click.echo(f"not in the report: {fault}", err=True)
    if faults:
        sys.exit(1)
