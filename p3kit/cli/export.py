"""`p3kit export RUN|best`: validated values as a file to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from p3kit.cli.options import UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json
from p3kit.errors import InputError


@click.command(
    epilog="""\b
Examples:
  p3kit export run-42
  p3kit export best --name phase3 --output specs/phase4_production.toml
  p3kit export run-42/AAPL --format yaml
  p3kit export run-42/AAPL --policy exports/aapl"""
)
@run_argument
@click.option("--name", metavar="NAME", help="For best: one experiment only (the `name` of its spec).")
@click.option("--format", "kind", type=click.Choice(["toml", "yaml"]), show_default="by the output's ending, or toml")
@click.option("--output", type=UserPath(dir_okay=False, path_type=Path), metavar="FILE", show_default="standard output")
@click.option(
    "--policy",
    "folder",
    type=UserPath(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the trained agent RUN/AGENT into FOLDER, as ONNX, safetensors and a JSON card.",
)
@click.option("--checkpoint", metavar="NAME", help="For --policy: best, last or a file name.", show_default="best")
@json_option
@runs_option
def export(
    run: str,
    name: str | None,
    kind: Literal["toml", "yaml"] | None,
    output: Path | None,
    folder: Path | None,
    checkpoint: str | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Print the spec of RUN with every value pinned, and its results: validation Sharpe over seeds, training stability,
    bars, provenance.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run. The numbers use every agent of
    the folder with its settings. `best` is the setting with the highest lower end of the 95 % interval of its mean
    Sharpe ratio. The TOML is a spec: another spec can extend it with extends = "FILE". The YAML is for other programs;
    p3kit does not read it.

    With --policy, write a trained agent for use without p3kit and PyTorch: network.onnx, weights.safetensors, card.json
    and policy.py, a reader that needs numpy and onnxruntime. It needs the extra `export`.
    """
    if folder is not None:
        _refuse("--policy", {"--name": name, "--format": kind, "--output": output})
        _export_policy(run, folder, checkpoint or "best", runs_root, as_json)
        return
    if checkpoint is not None:
        raise InputError("--checkpoint", "goes with --policy only", "add --policy FOLDER, or leave it out")
    from p3kit.api.pages import export_run
    from p3kit.report.markdown import relative_to_here

    exported = export_run(run, output, runs_root, name, kind)
    if as_json:
        print_json(exported.data)
    else:
        click.echo(exported.text if output is None else relative_to_here(output), nl=output is not None)


def _export_policy(run: str, folder: Path, checkpoint: str, runs_root: Path, as_json: bool) -> None:
    from p3kit.policy.exporting import export_policy
    from p3kit.report.markdown import relative_to_here

    path = export_policy(run, folder, checkpoint, runs_root)
    card = json.loads((path / "card.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"folder": path.as_posix(), "card": card})
        return
    click.echo(f"{card['name']}, {card['trained']['checkpoint']}: {relative_to_here(path)}")
    click.echo(f"python {relative_to_here(path / 'policy.py')} BARS.csv")


def _refuse(what: str, options: dict[str, object]) -> None:
    """Raise InputError where an option is given that has no meaning beside `what`."""
    for option, value in options.items():
        if value is not None:
            raise InputError(option, f"does not go with {what}", "leave it out")
