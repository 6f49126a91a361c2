"""`p3kit init` and `p3kit eject`: new files to start with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from p3kit.cli.options import UserPath, force_option, json_option
from p3kit.cli.output import print_json, print_note


def complete_trainer(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of shipped trainers for the shell."""
    from p3kit.spec.shipped import shipped_trainers

    return [CompletionItem(name) for name in shipped_trainers() if name.startswith(incomplete)]


def complete_shipped(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of shipped specs for the shell."""
    from p3kit.spec.shipped import shipped_specs

    return [CompletionItem(spec.stem) for spec in shipped_specs() if spec.stem.startswith(incomplete)]


@click.command(
    epilog="""\b
Examples:
  p3kit init                             experiment.toml, on the sample
  p3kit init hourly.toml --bars data     on your files: data/SPY.csv, …
  p3kit init mine.toml --trainer my_ppo.py
  p3kit init specs --from phase3_hourly  a shipped spec and those it extends"""
)
@click.argument("place", metavar="[DIR|FILE.toml]", type=UserPath(path_type=Path), default=Path())
@click.option(
    "--bars",
    type=UserPath(path_type=Path),
    metavar="FOLDER|FILE",
    help="Trade your own files: one per symbol in FOLDER, such as SYMBOL.csv, or a FILE with several symbols.",
)
@click.option("--trainer", shell_complete=complete_trainer, help="A shipped trainer, or a .py file of yours.")
@click.option("--from", "shipped", metavar="NAME", shell_complete=complete_shipped, help="Copy a shipped spec instead.")
@force_option
@json_option
def init(place: Path, bars: Path | None, trainer: str | None, shipped: str | None, force: bool, as_json: bool) -> None:
    """Write a commented spec to start from, and the JSON Schema that editors read beside it.

    Without arguments: experiment.toml in the current folder.
    """
    from p3kit.spec.starter import OwnBars, copy_shipped, spec_file, start_spec

    if shipped is not None and (bars is not None or trainer is not None):
        raise click.UsageError("--from copies a spec as it is; it takes neither --bars nor --trainer")
    if shipped is not None:
        started = copy_shipped(place, shipped, overwrite=force)
    else:
        own = None
        if bars is not None:
            from p3kit.market.folder import find_bars, relative_template

            found = find_bars(bars)
            template = relative_template(found.template, spec_file(place).parent)
            own = OwnBars(found.kind, template, found.symbols, found.options)
        started = start_spec(place, bars=own, trainer=trainer, overwrite=force)
    if as_json:
        print_json({"spec": str(started.spec), "written": list(map(str, started.written)),
                    "kept": list(map(str, started.kept))})  # fmt: skip
        return
    for path in started.written:
        click.echo(f"wrote {path}")
    for path in started.kept:
        print_note(f"kept {path}, which was there; --force renews it")
    first = "data" if started.has_own_bars else "validate"
    spec = shlex.quote(str(started.spec))
    print_note(f"next:  p3kit {first} {spec}   p3kit run {spec}")


@click.command(
    epilog="""\b
Examples:
  p3kit eject ppo
  p3kit eject ppo_stacked trainers/mine.py"""
)
@click.argument("trainer", shell_complete=complete_trainer)
@click.argument("place", metavar="[DIR|FILE.py]", type=UserPath(path_type=Path), required=False)
@force_option
@json_option
def eject(trainer: str, place: Path | None, force: bool, as_json: bool) -> None:
    """Copy a shipped TRAINER to a file of your own, to change it: my_ppo.py in the current folder.

    A field that you add to its class Args is a knob of [ppo] in every spec whose trainer is that file. Its type and
    bounds are checked, and it can be scheduled, tuned and recorded like the others.
    """
    from p3kit.spec.starter import eject as copy

    file = copy(trainer, place, overwrite=force)
    if as_json:
        print_json({"trainer": trainer, "file": str(file)})
        return
    click.echo(f"wrote {file}")
    print_note(f'next:  p3kit init mine.toml --trainer {shlex.quote(str(file))}   or  trainer = "{file}" in a spec')
