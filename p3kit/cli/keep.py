"""`p3kit note` and `p3kit rm`: notes and tags of runs, and their removal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p3kit.cli.options import json_option, repo_option, runs_option, several_runs_argument
from p3kit.cli.output import print_json, size_text
from p3kit.errors import InputError

if TYPE_CHECKING:
    from p3kit.api.keeping import Removal


@click.command(
    epilog="""\b
Examples:
  p3kit note run-42 --text "more entropy, first PASS"
  p3kit note run-42 run-43 --tag baseline --tag keep
  p3kit note phase3 --untag keep          all runs of the experiment phase3
  p3kit note run-42                       print its note and tags
  p3kit runs --tag baseline"""
)
@several_runs_argument
@click.option("-m", "--text", metavar="TEXT", help="The note; it replaces an earlier one, and '' removes it.")
@click.option("--tag", "add", multiple=True, metavar="TAG", help="Add a tag: one word. Repeatable.")
@click.option("--untag", "remove", multiple=True, metavar="TAG", help="Remove a tag. Repeatable.")
@runs_option
@json_option
def note(
    references: tuple[str, ...],
    text: str | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    runs_root: Path,
    as_json: bool,
) -> None:
    """Keep a note and tags with runs, also while they train; without options print them.

    `p3kit runs` and `p3kit show RUN` print both. They change nothing else of a run. RUN is run-42, 42, latest or the
    name of an experiment, for all its runs.
    """
    from p3kit.api.keeping import note_runs

    noted = [(run.name, run.note) for run in note_runs(references, text, add, remove, runs_root)]
    if as_json:
        print_json([{"run": name, "note": note.text, "tags": list(note.tags)} for name, note in noted])
        return
    for name, note in noted:
        for line in note.lines() or ["no note and no tags"]:
            click.echo(f"{name}: {line}")


@click.command(
    epilog="""\b
Examples:
  p3kit rm run-3 run-4
  p3kit rm trial --yes          all runs of the experiment trial"""
)
@several_runs_argument
@click.option("-y", "--yes", is_flag=True, help="Delete without the question.")
@runs_option
@repo_option
@json_option
def rm(references: tuple[str, ...], yes: bool, runs_root: Path, repo: Path | None, as_json: bool) -> None:
    """Delete runs with their weights, metrics and pictures, also from the Aim mirror. This cannot be undone.

    A queued or running run is never deleted. The number of a deleted run is not used again.
    RUN is run-42, 42, latest or the name of an experiment, for all its runs.
    """
    from p3kit.api.keeping import plan_removal

    removal = plan_removal(references, runs_root)
    for line in _what_goes(removal):
        click.echo(line, err=True)
    if not yes:
        _confirm(len(removal.runs))
    deleted = [
        {"run": run.name, "path": str(run.path), "bytes": size}
        for run, size in zip(removal.runs, removal.sizes, strict=True)
    ]
    remaining = removal.apply(repo)
    if as_json:
        print_json({"deleted": deleted, "dependants": list(removal.dependants), "remaining": remaining})
    else:
        click.echo(f"deleted {', '.join(run.name for run in removal.runs)}")
    for line in remaining:
        click.echo(line, err=True)


def _what_goes(removal: Removal) -> list[str]:
    """Lines on the runs, their sizes, and what was made from them."""
    lines = []
    for run, text, size in zip(removal.runs, removal.descriptions, removal.sizes, strict=True):
        lines.append(f"{run.path}: {text}, {size_text(size)}")
        lines += [f"  {line}" for line in run.note.lines()]
    if len(removal.runs) > 1:
        lines.append(f"{len(removal.runs)} runs: {size_text(sum(removal.sizes))}")
    return lines + [f"note: {line}" for line in removal.dependants]


def _confirm(count: int) -> None:
    """Print the question on stderr. Raises InputError where nobody can answer, and ends the command after a no."""
    if not can_answer():
        raise InputError("p3kit rm", "needs an answer before it deletes, and stdin is no terminal", "add --yes")
    if not click.confirm(f"Delete {'this run' if count == 1 else f'these {count} runs'}?", err=True):
        click.echo("nothing is deleted", err=True)
        raise click.exceptions.Exit(1)


def can_answer() -> bool:
    """Return True where stdin is a terminal."""
    return sys.stdin.isatty()
