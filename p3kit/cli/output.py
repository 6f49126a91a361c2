"""How commands tell their results: tables and JSON on stdout, each in one way for all commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_json(told: Any) -> None:
    """`told` as strict JSON; NaN and infinity as the words that run directories have for them."""
    from p3kit.rundir.rows import dump

    click.echo(dump(told, indent=2))


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Tables and lines; a pipe gets whole lines, a terminal folded ones."""
    from rich.console import Console

    stdout = Console(soft_wrap=not sys.stdout.isatty())
    for line in lines:
        stdout.print(line)


def runs_flag(ctx: click.Context) -> str:
    """ " --runs FOLDER" where the command was given one, for the commands that it proposes."""
    named = ctx.get_parameter_source("runs_root") is click.core.ParameterSource.COMMANDLINE
    return f" --runs {ctx.params['runs_root']}" if named else ""
