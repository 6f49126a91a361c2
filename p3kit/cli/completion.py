"""`p3kit completion SHELL`: names of commands, specs, runs, agents, sweeps and trainers at the press of Tab."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from p3kit.cli.options import json_option
from p3kit.cli.output import print_json

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_P3KIT_COMPLETE"
"""Environment variable of the script when it requests words from p3kit."""


@click.command(
    epilog="""\b
Once for each shell:
  p3kit completion bash >> ~/.bashrc
  p3kit completion zsh >> ~/.zshrc
  p3kit completion fish > ~/.config/fish/completions/p3kit.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the script that lets SHELL complete commands, options, specs, runs and agents."""
    from p3kit.cli import main

    kind = get_completion_class(shell)
    if kind is None:  # click supports all three
        raise click.UsageError(f"click does not complete for {shell}")
    script = kind(main, {}, "p3kit", VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
