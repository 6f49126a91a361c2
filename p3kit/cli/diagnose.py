"""`p3kit diagnose RUN`: the troubleshooting table of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from p3kit.cli.options import UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json, progress_console
from p3kit.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.api.saved_run import SavedRun


@click.command(
    epilog="""\b
Examples:
  p3kit diagnose run-42
  p3kit diagnose latest --explain 1
  p3kit diagnose latest --patch > fix.toml
  p3kit diagnose run-42/AAPL --episode
  p3kit diagnose run-42 --rules stricter.toml"""
)
@run_argument
@click.option("--agent", metavar="NAME", help="One agent only; RUN/NAME is short for this.")
@click.option(
    "--explain",
    "wanted_row",
    metavar="N",
    help="Print row N of the table, or a symptom by its id, with all its numbers.",
)
@click.option(
    "--rules",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Judge the recorded metrics by the [diagnose.rows."ID"] tables of FILE. Nothing is trained again.',
)
@click.option(
    "--episode",
    "wants_episode",
    is_flag=True,
    help="Play the best and the worst paid episode of a split bar by bar: replays/*.json, and a picture of each.",
)
@click.option("--split", type=click.Choice(["train", "validation"]), help="Of --episode.", show_default="validation")
@click.option(
    "--checkpoint", metavar="NAME", help="Of --episode: best, last, or a file below checkpoints/.", show_default="last"
)
@click.option("--patch", "patch_only", is_flag=True, help="Print only the spec changes that the raised rows call for.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as markdown.")
@click.option(
    "--output",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the table as a page: FILE.md, or FILE.html, one file to send.",
)
@json_option
@runs_option
def diagnose(
    run: str,
    agent: str | None,
    wanted_row: str | None,
    rules: Path | None,
    wants_episode: bool,
    split: Literal["train", "validation"] | None,
    checkpoint: str | None,
    patch_only: bool,
    as_markdown: bool,
    output: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Print the troubleshooting table of RUN: symptom, evidence, threshold, since when, causes, patch.

    Below it stand the interventions during training, and the reasons that held others back.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run. It may still be training. A
    row without enough data is marked, and never counts as healthy.
    """
    _check(wants_episode, split, checkpoint, wanted_row, rules, patch_only, as_markdown, output, as_json)
    found = _open(run, agent, runs_root)
    if wants_episode:
        _print_episodes(found, split or "validation", checkpoint or "last", as_json)
    elif output is not None:
        _write_page(found, rules, output)
    elif wanted_row is not None:
        _print_explanation(found, wanted_row, rules, as_json)
    else:
        _print_diagnosis(found, rules, patch_only, as_markdown, as_json)
    if rules is not None and not (as_json or patch_only):
        _print_rule_changes(found, rules)


def _check(
    wants_episode: bool,
    split: str | None,
    checkpoint: str | None,
    wanted_row: str | None,
    rules: Path | None,
    patch_only: bool,
    as_markdown: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Refuse options that exclude each other."""
    if not wants_episode and (split or checkpoint):
        raise InputError("--split or --checkpoint", "goes with --episode only", "add --episode, or leave it out")
    if wants_episode and (patch_only or as_markdown or output or wanted_row is not None or rules is not None):
        raise InputError(
            "--episode", "shows episodes and judges nothing", "only --json, --split and --checkpoint go with it"
        )
    chosen = [name for name, given in (("--patch", patch_only), ("--markdown", as_markdown), ("--json", as_json),
              ("--output", output), ("--explain", wanted_row is not None and (output or not as_json)),
              ) if given]  # fmt: skip
    if len(chosen) > 1:
        raise InputError(" ".join(chosen), "only one of them can be printed", "only --explain goes with --json")


def _open(run: str, agent: str | None, runs_root: Path) -> SavedRun:
    """The run, narrowed to the agent of `--agent`."""
    from p3kit.api.saved_run import SavedRun, open_run

    found = open_run(run, runs_root)
    return found if agent is None else SavedRun(found.directory, agent)


def _print_diagnosis(found: SavedRun, rules: Path | None, patch_only: bool, as_markdown: bool, as_json: bool) -> None:
    """Print the table, or its patch, markdown or JSON."""
    from p3kit.api.judging import diagnose_run
    from p3kit.diagnose import merged_patch
    from p3kit.diagnose.journal import print_journal, read_journal

    diagnoses = diagnose_run(found, rules)
    if as_json:
        journals = {one.agent: read_journal(found.directory, one.agent) for one in diagnoses}
        print_json([one.to_json() | {"interventions": journals[one.agent]} for one in diagnoses])
    elif patch_only:
        click.echo(_with_origin(found.name, merged_patch(diagnoses)))
    elif as_markdown:
        from p3kit.diagnose.markdown_table import diagnoses_as_markdown

        click.echo(diagnoses_as_markdown(diagnoses), nl=False)
    else:
        from p3kit.diagnose.table import print_diagnoses

        print_diagnoses(diagnoses, _console())
        print_journal(read_journal(found.directory, found.agent), _console())


def _write_page(found: SavedRun, rules: Path | None, output: Path) -> None:
    """Write the table as a page, and print its path."""
    from p3kit.api.judging import diagnose_run
    from p3kit.api.pages import write_diagnosis_page
    from p3kit.report.markdown import relative_to_here

    title = found.name if found.agent is None else f"{found.name}/{found.agent}"
    click.echo(relative_to_here(write_diagnosis_page(title, diagnose_run(found, rules), output)))


def _print_explanation(found: SavedRun, wanted_row: str, rules: Path | None, as_json: bool) -> None:
    """Print one row with all its numbers."""
    from p3kit.api.judging import explain_finding
    from p3kit.diagnose.explain import print_explanation

    explanation = explain_finding(found, wanted_row, rules)
    if as_json:
        print_json(explanation.to_json())
    else:
        print_explanation(explanation, _console())


def _print_episodes(found: SavedRun, split: Literal["train", "validation"], checkpoint: str, as_json: bool) -> None:
    """Print the best and the worst paid episode of each agent."""
    from p3kit.api.judging import replay_episodes

    with progress_console().status(f"{found.name}: playing the {split} split"):
        episodes = replay_episodes(found, split, checkpoint)
    if as_json:
        print_json(episodes)
        return
    for episode in episodes:
        click.echo(_in_words(found.name, episode))


def _print_rule_changes(found: SavedRun, rules: Path) -> None:
    """Print on stderr what the file of rules changed against the rules of the run."""
    from p3kit.api.judging import diagnose_run
    from p3kit.diagnose.findings import rule_changes

    lines = rule_changes(diagnose_run(found), diagnose_run(found, rules))
    heading = f"Judged by {rules}: " + ("what is different from the run's own rules:" if lines else "nothing differs.")
    for line in [heading, *(f"  {line}" for line in lines)]:
        click.echo(line, err=True)


def _console() -> Console:
    from p3kit.console import Console

    return Console()


def _in_words(run: str, episode: Mapping[str, Any]) -> str:
    """An episode in four lines: what it earned, who paid, what was done, where it is."""
    paid = ", ".join(f"{name} {value:+.2f}" for name, value in episode["weighted"].items() if value)
    done = ", ".join(f"{count} {name}" for name, count in episode["actions"].items())
    lines = [
        f"{run} {episode['agent']}: episode {episode['rank']} of {episode['of']} by reward, {episode['split']}",
        f"  reward {episode['reward']:+.2f} ({paid or 'nothing was paid'})",
        f"  return {episode['return']:+.2%}, costs {episode['cost']:.2%}, {episode['round_trips']} round trips: {done}",
        f"  {episode['file']}",
        f"  {episode['picture']}",
    ]
    return "\n".join(lines)


def _with_origin(run: str, patch: str) -> str:
    """A comment line above the fragment, so that a saved patch names its source; also for an empty patch."""
    return f"# p3kit diagnose {run} --patch" + (f"\n{patch}" if patch else ": nothing to change")
