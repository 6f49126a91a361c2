"""`p3kit report --week N`: the weekly status report; `p3kit report --lessons`: what all runs have taught."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from p3kit.cli.options import UserPath, Whole, json_option, runs_option, templates_option
from p3kit.cli.output import print_json


@click.command(
    epilog="""\b
Examples:
  p3kit report --week 1
  p3kit report --week 1 --name phase3 --output reports
  p3kit report --lessons
  p3kit report --week 1 --html
  p3kit report --lessons --output reports/phase3-lessons.html"""
)
@click.option("--week", type=Whole(min=1), help="Week of the experiment, counted from 1.")
@click.option("--lessons", is_flag=True, help="Findings over all runs, in place of a week.")
@click.option("--name", metavar="NAME", help="One experiment only (the `name` of its spec).")
@click.option(
    "--output",
    type=UserPath(path_type=Path),
    default=Path("reports"),
    help="Folder for the page and its pictures, or a file that ends in .md or .html.",
)
@click.option("--html", is_flag=True, help="One HTML file to send: pictures inside, tables that sort, printable.")
@templates_option
@json_option
@runs_option
def report(
    week: int | None,
    lessons: bool,
    name: str | None,
    output: Path,
    html: bool,
    templates: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Write the weekly status report (--week N) or the lessons learned (--lessons).

    Every number comes from the run directories. The report of a past week uses only records up to its end. Your text
    between the keep-markers of a page is kept when the page is written again.
    """
    from p3kit.api.pages import write_lessons_report, write_week_report
    from p3kit.report.markdown import relative_to_here

    if lessons == (week is not None):
        raise click.UsageError("which report? --week 1 (the first; 2 is the second) or --lessons")
    if week is not None:
        page = write_week_report(week, output, runs_root, name, templates, html=html)
    else:
        page = write_lessons_report(output, runs_root, name, templates, html=html)
    if as_json:
        print_json(page.data)
    else:
        click.echo(relative_to_here(page.path))
    for line in page.not_marked:
        click.echo(line, err=True)
    for fault in page.damaged:
        click.echo(f"not in the report: {fault}", err=True)
    if page.damaged:
        sys.exit(1)
