"""`p3kit compare RUN RUN…`: runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from p3kit.cli.options import UserPath, json_option, runs_option, several_runs_argument, templates_option
from p3kit.cli.output import print_json


@click.command(
    epilog="""\b
Examples:
  p3kit compare run-1 run-2
  p3kit compare run-1/AAPL run-1/XOM
  p3kit compare run-1 --by symbol
  p3kit compare run-1 run-2 run-3 --by ppo.gae_lambda --output reports/gae.md"""
)
@several_runs_argument
@click.option(
    "--by",
    metavar="KEY",
    help="Group all agents by a spec path such as ppo.gae_lambda, or by run, symbol, seed or trainer.",
)
@click.option(
    "--output",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with learning curves per setting, a band over its agents, and equity curves: FILE.md with "
    "pictures beside it, or FILE.html, one file to send.",
)
@templates_option
@json_option
@runs_option
def compare(
    references: tuple[str, ...],
    by: str | None,
    output: Path | None,
    templates: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Compare runs, agents or the values of a knob: the differences of their specs with their origins, the results with
    intervals, and the differences from the first one.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment, for all its runs. If only compute.… differs (a
    precision, for example), a verdict states if the results match. Without --output the page goes to stdout, as
    Markdown.
    """
    from p3kit.api.judging import compare_runs
    from p3kit.api.pages import write_comparison_page
    from p3kit.report.comparison_page import comparison_json, render_comparison
    from p3kit.report.markdown import relative_to_here

    found = compare_runs(references, by, runs_root)
    written = write_comparison_page(found, output, templates) if output is not None else None
    if as_json:
        document = {"page": written and written.as_posix(), **comparison_json(found)}
        print_json(document)
    elif written is not None:
        click.echo(relative_to_here(written))
    else:
        click.echo(render_comparison(found, templates=templates).replace("<!-- keep:notes -->\n<!-- /keep -->\n", ""))
