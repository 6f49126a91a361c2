"""`p3kit validate`, `p3kit show`, `p3kit schema`: the spec language at the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import complete_spec_or_run, json_option, runs_option, set_option, spec_argument
from p3kit.cli.output import print_json
from p3kit.errors import SpecError

if TYPE_CHECKING:
    from p3kit.rundir import RunNote


@click.command(
    epilog="""\b
Examples:
  p3kit validate specs/phase3.toml
  p3kit validate specs/phase3.toml --set ppo.gamma=0.995"""
)
@spec_argument
@set_option
@runs_option
@json_option
def validate(spec: Path, overrides: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Check SPEC: print all faults at once, or notes about it.

    Exit code 0 if it can be run, 2 if not. `p3kit plan` and `p3kit data` check the bars.
    """
    from p3kit.api.specs import check_init
    from p3kit.spec.loading import check_files, load_spec
    from p3kit.spec.notes import notes

    try:
        loaded = load_spec(spec, overrides)
        check_files(loaded)
        further = check_init(loaded, runs_root)
    except SpecError as error:
        if not as_json:
            raise
        faults = [{"where": fault.where, "what": fault.what, "hint": fault.hint} for fault in error.faults]
        print_json({"valid": False, "faults": faults, "notes": []})
        raise click.exceptions.Exit(error.exit_code) from None
    unread = [f"the bars were not read: p3kit data {shlex.quote(str(spec))} checks them"]
    remarks = [*notes(loaded), *further, *(unread if loaded.spec.data.path else [])]
    if as_json:
        print_json({"valid": True, "faults": [], "notes": remarks})
        return
    click.echo(f"{spec}: valid")
    for remark in remarks:
        click.echo(f"  note: {remark}")


@click.command(
    epilog="""\b
Examples:
  p3kit show specs/smoke.toml
  p3kit show specs/phase3.toml --set ppo.gamma=0.95
  p3kit show run-42/AAPL
  p3kit show                    the defaults of options here, and their origin"""
)
@click.argument("spec_or_run", metavar="[SPEC|RUN]", required=False, shell_complete=complete_spec_or_run)
@set_option
@runs_option
@json_option
def show(spec_or_run: str | None, overrides: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Print the resolved spec of SPEC or RUN, every value with its origin.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run.

    The output is a spec itself: `p3kit show specs/smoke.toml > whole.toml`. Without an argument, print the defaults of
    options that p3kit.toml, [tool.p3kit] of pyproject.toml and the user's p3kit.toml set.
    """
    from p3kit.spec.keypath import written_path
    from p3kit.spec.writing import to_toml

    if spec_or_run is None:
        _show_defaults(as_json)
        return
    tables, origins, note = _resolved(spec_or_run, overrides, runs_root)
    if as_json:
        kept = {} if note is None else {"note": note.text, "tags": list(note.tags)}
        print_json({"spec": tables, "origins": origins, **kept})
    else:
        for line in () if note is None else note.lines():
            click.echo(f"# {line}")
        click.echo(to_toml(tables, lambda path: origins.get(written_path(path), "")), nl=False)


@click.command(
    epilog="""\b
Examples:
  p3kit schema > specs/p3kit.schema.json"""
)
@click.option(
    "--trainer", help="Trainer with the knobs of [ppo]: a name or a .py file.", show_default="every shipped trainer's"
)
def schema(trainer: str | None) -> None:
    """Print the JSON Schema of specs, for editors.

    A spec that begins with `#:schema ./p3kit.schema.json` gets completion and checks from it.
    """
    from p3kit.spec.schema import schema_text

    click.echo(schema_text(trainer), nl=False)


def _show_defaults(as_json: bool) -> None:
    """Print each default with its origin, and the files that were looked for."""
    import os

    from p3kit.cli.user_defaults import Default, project_file, read_defaults, user_file

    defaults = read_defaults()
    if folder := os.environ.get("P3KIT_RUNS"):
        defaults["runs"] = Default(folder, "P3KIT_RUNS")
    if as_json:
        print_json({key: vars(one) for key, one in defaults.items()})
        return
    for key, one in defaults.items():
        value = "one core per thread" if one.value is None else str(one.value).lower() if key == "aim" else one.value
        click.echo(f"{key:5} {value}  ({one.origin})")
    click.echo(f"project file: {project_file() or 'none'}; user file: {user_file()}")


def _resolved(
    spec_or_run: str, overrides: tuple[str, ...], runs_root: Path
) -> tuple[dict[str, Any], dict[str, str], RunNote | None]:
    """Plain tables and origins: of a file if there is one by that name, else of a run, with its note."""
    from p3kit.api.saved_run import open_run
    from p3kit.api.specs import load_spec

    if spec_or_run.endswith(".toml") or Path(spec_or_run).is_file():
        loaded = load_spec(spec_or_run, overrides)
        return loaded.spec.model_dump(mode="json"), loaded.origins, None
    if overrides:
        raise click.UsageError("--set is for a spec; what a run used cannot be changed")
    run = open_run(spec_or_run, runs_root)
    return run.spec, run.origins, run.note
