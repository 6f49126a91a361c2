"""`p3kit export RUN|best`: validated values as a file to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from p3kit.cli.options import UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json


@click.command(
    epilog="""\b
Examples:
  p3kit export run-42
  p3kit export best --name phase3 --output specs/phase4_production.toml
  p3kit export run-42/AAPL --format yaml"""
)
@run_argument
@click.option("--name", metavar="NAME", help="For best: one experiment only (the `name` of its spec).")
@click.option(
    "--format", "kind", type=click.Choice(["toml", "yaml"]), help="[default: by the output's ending, or toml]"
)
@click.option(
    "--output", type=UserPath(dir_okay=False, path_type=Path), metavar="FILE", help="[default: standard output]"
)
@json_option
@runs_option
def export(
    run: str,
    name: str | None,
    kind: Literal["toml", "yaml"] | None,
    output: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Print the spec of RUN with every value pinned, and how it did: validation Sharpe over seeds, training stability,
    bars, provenance.

    RUN is run-42, 42, latest or run-42/AAPL; every agent of the folder with its settings stands behind the numbers.
    `best` is the setting with the highest lower end of the 95 % interval of its mean Sharpe ratio. The TOML is a spec:
    another one goes on from it with extends = "FILE". The YAML is for other programs; p3kit does not read it.
    """
    from p3kit.api.pages import export_run
    from p3kit.report.markdown import relative_to_here

    exported = export_run(run, output, runs_root, name, kind)
    if as_json:
        print_json(exported.data)
    else:
        click.echo(exported.text if output is None else relative_to_here(output), nl=output is not None)
