"""`p3kit export RUN|best`: validated values as a file to go on from."""

from __future__ import annotations

from pathlib import Path

import click

from p3kit.cli.options import json_option, run_argument, runs_option
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
    "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="[default: standard output]"
)
@json_option
@runs_option
def export(run: str, name: str | None, kind: str | None, output: Path | None, as_json: bool, runs_root: Path) -> None:
    """Print the spec of RUN with every value pinned, and how it did: validation Sharpe over seeds, training stability,
    bars, provenance.

    RUN is run-42, 42, latest or run-42/AAPL; every agent of the folder with its settings stands behind the numbers.
    `best` is the setting with the highest lower end of the 95 % interval of its mean Sharpe ratio. The TOML is a spec:
    another one goes on from it with extends = "FILE".
    """
    from p3kit.errors import InputError
    from p3kit.report.export_data import find_export
    from p3kit.report.export_page import export_json, export_toml, export_yaml
    from p3kit.report.markdown import relative_to_here

    if name is not None and run != "best":
        raise InputError(f"--name {name}", "chooses among experiments, and a run was named", "use it with best")
    endings = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
    if output is not None and output.suffix not in endings:
        raise InputError(f"--output {output}", "what to write is not known", "end it in .toml, .yaml or .yml")
    if output is not None and kind is not None and endings[output.suffix] != kind:
        raise InputError(f"--format {kind}", f"does not go with --output {output}", "leave one of them out")
    kind = kind or (endings[output.suffix] if output is not None else "toml")
    found = find_export(runs_root, run, name)
    folder = output.parent if output is not None else Path()
    text = export_toml(found, folder) if kind == "toml" else export_yaml(found, folder)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    if as_json:
        document = {"file": output and output.as_posix(), **export_json(found, folder)}
        print_json(document)
    else:
        click.echo(text if output is None else relative_to_here(output), nl=output is not None)
