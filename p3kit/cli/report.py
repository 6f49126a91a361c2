"""`p3kit report --week N`: the weekly status report; `p3kit report --lessons`: what all runs have taught."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from p3kit.cli.options import Whole, json_option, runs_option, templates_option
from p3kit.cli.output import print_json
from p3kit.errors import P3kitError


@click.command(
    epilog="""\b
Examples:
  p3kit report --week 1
  p3kit report --week 1 --name phase3 --output reports
  p3kit report --lessons
  p3kit report --lessons --output reports/phase3-lessons.md"""
)
@click.option("--week", type=Whole(min=1), help="Week of the experiment, counted from 1.")
@click.option("--lessons", is_flag=True, help="What all runs have taught, in place of a week.")
@click.option("--name", metavar="NAME", help="One experiment only (the `name` of its spec).")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder for the page and its pictures; for --lessons also a file.",
)
@templates_option
@json_option
@runs_option
def report(
    week: int | None,
    lessons: bool,
    name: str | None,
    output: Path,
    templates: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Write the weekly status report (--week N) or the lessons learned (--lessons).

    Every number comes from the run directories. The report of a past week shows what was known at its end. What you
    write between the keep-markers of a page survives when it is written again.
    """
    from p3kit.report.markdown import relative_to_here
    from p3kit.rundir import file_name, intact_runs, mark_crashed

    if lessons == (week is not None):
        raise click.UsageError("which report? --week 1 (the first; 2 is the second) or --lessons")
    _, unmarked = mark_crashed(runs_root)
    intact, faults = intact_runs(runs_root)
    if week is not None:
        if output.is_file():
            raise click.UsageError(f"--output {output} is a file; a week's report and its pictures need a folder")
        several = len({run.info()["name"] for run in intact}) > 1
        stem = f"week-{week:02d}-{file_name(name)}" if name is not None and several else None
        path, document = _write_week(week, name, output, stem, templates, runs_root)
    else:
        path, document = _write_lessons(name, output, templates, runs_root)
    if as_json:
        print_json(document)
    else:
        click.echo(relative_to_here(path))
    for line in unmarked:
        click.echo(line, err=True)
    _say(faults)


def _write_week(
    week: int, name: str | None, output: Path, stem: str | None, templates: Path | None, runs_root: Path
) -> tuple[Path, dict[str, Any]]:
    """The file, and what it says as plain data."""
    from p3kit.report.week_data import summarise_week
    from p3kit.report.week_page import week_json, write_week

    experiments = summarise_week(runs_root, week, time.time(), name)
    path = write_week(experiments, output, week, stem, templates)
    return path, week_json(experiments, path)


def _write_lessons(
    name: str | None, output: Path, templates: Path | None, runs_root: Path
) -> tuple[Path, dict[str, Any]]:
    from p3kit.report.lessons_data import gather_attempts
    from p3kit.report.lessons_page import lessons_json, write_lessons

    history = gather_attempts(runs_root, name)
    path = output if output.suffix == ".md" else output / "lessons-learned.md"
    write_lessons(history, path, runs_root, templates)
    return path, lessons_json(history, path)


def _say(faults: Sequence[P3kitError]) -> None:
    """What is wrong with the runs that are not in the report; exit code 1 where there are some."""
    for fault in faults:
        click.echo(f"not in the report: {fault}", err=True)
    if faults:
        sys.exit(1)
