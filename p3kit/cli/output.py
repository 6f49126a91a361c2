"""Output of commands: results as tables or JSON on stdout, notes and progress on stderr.

`--quiet` leaves results, warnings and errors; `--verbose` adds what belongs into a report of a fault.
"""

from __future__ import annotations

import platform
import shlex
import time
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_VOLUME = "p3kit.volume"
QUIET, USUAL, VERBOSE = -1, 0, 1


def print_json(document: Any) -> None:
    """`document` as strict JSON; NaN and infinity as the words that run directories have for them."""
    from p3kit.rundir.rows import dump

    click.echo(dump(document, indent=2))


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Tables and lines; a pipe gets whole lines, a terminal folded ones."""
    from p3kit.console import Console

    stdout = Console()
    for line in lines:
        stdout.print(line)


def print_note(text: str) -> None:
    """Print a note, a hint or a step of progress on stderr, or nothing under --quiet."""
    if volume() > QUIET:
        click.echo(text, err=True)


def size_text(size: float) -> str:
    """`12 MB`, `1.3 GB`, from bytes."""
    for least, unit in ((1e9, "GB"), (1e6, "MB")):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def progress_console() -> Console:
    """Return the console for live tables, progress and hints: stderr, or nothing under --quiet."""
    from p3kit.console import Console

    return Console(stderr=True, quiet=volume() <= QUIET)


def volume() -> int:
    """QUIET, USUAL or VERBOSE, from the options of the command in progress."""
    context = click.get_current_context(silent=True)
    return USUAL if context is None else int(context.meta.get(_VOLUME, USUAL))


def add_volume(command: click.Command) -> click.Command:
    """The command with -q and -v, and so are the commands inside a group."""
    if isinstance(command, click.Group):
        for inside in command.commands.values():
            add_volume(inside)
    elif not any(option.name == "quiet" for option in command.params):
        command.params += volume_options()
    return command


def volume_options() -> list[click.Option]:
    """-q and -v, before a command's name or after it."""
    return [
        _switch("-q", "--quiet", QUIET, "Only results, warnings and errors."),
        _switch("-v", "--verbose", VERBOSE, "Versions, time taken, and where in p3kit an error was raised."),
    ]


def print_versions(began: float) -> None:
    """Print versions and the time taken, under --verbose. `began` is from time.perf_counter()."""
    if volume() < VERBOSE:
        return
    from importlib import metadata

    from p3kit import __version__

    packages = ("torch", "numpy", "pandas", "gymnasium", "envpool", "aim", "optuna")
    known = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    there = [f"{package} {known[package]}" for package in packages if package in known]
    parts = [f"p3kit {__version__}", f"Python {platform.python_version()}", platform.system(), *there]
    click.echo(f"{', '.join(parts)}; {time.perf_counter() - began:.1f} s", err=True)


def print_origin(error: Exception) -> None:
    """Print the traceback of an error, under --verbose."""
    if volume() >= VERBOSE:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)


def _switch(short: str, long: str, level: int, text: str) -> click.Option:
    def turn(context: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            context.meta[_VOLUME] = level

    return click.Option([short, long], is_flag=True, expose_value=False, callback=turn, is_eager=True, help=text)


def runs_flag(ctx: click.Context) -> str:
    """ " --runs FOLDER" where the command was given one, for the commands that it proposes."""
    named = ctx.get_parameter_source("runs_root") is click.core.ParameterSource.COMMANDLINE
    return f" --runs {shlex.quote(str(ctx.params['runs_root']))}" if named else ""
