"""`p3kit diagnose RUN`: the troubleshooting table of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import json_option, run_argument, runs_option
from p3kit.cli.output import print_json, progress_console

if TYPE_CHECKING:
    from p3kit.diagnose import AgentDiagnosis
    from p3kit.rundir import RunDir


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
    help="Tell row N of the table, or a symptom by its id, with all its numbers.",
)
@click.option(
    "--rules",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Judge the recorded metrics anew by the [diagnose.rows."ID"] tables of FILE. Nothing is trained again.',
)
@click.option(
    "--episode",
    "wants_episode",
    is_flag=True,
    help="Play the best and the worst paid episode of a split bar by bar: replays/*.json, and a picture of each.",
)
@click.option("--split", type=click.Choice(["train", "validation"]), help="Of --episode.  [default: validation]")
@click.option(
    "--checkpoint", metavar="NAME", help="Of --episode: best, last, or a file below checkpoints/.  [default: last]"
)
@click.option("--patch", "patch_only", is_flag=True, help="Print only the spec changes that the raised rows call for.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as markdown.")
@json_option
@runs_option
def diagnose(
    run: str,
    agent: str | None,
    wanted_row: str | None,
    rules: Path | None,
    wants_episode: bool,
    split: str | None,
    checkpoint: str | None,
    patch_only: bool,
    as_markdown: bool,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Print the troubleshooting table of RUN: symptom, evidence, threshold, since when, causes, patch.

    Below it stands what interventions did while the run trained, and what held them back.

    RUN is run-42, 42, latest or run-42/AAPL, and may still be training. A row without enough data says so and is never
    called fine.
    """
    from p3kit.console import Console
    from p3kit.diagnose import diagnose as judge_run
    from p3kit.diagnose import merged_patch
    from p3kit.diagnose.journal import print_journal, read_journal
    from p3kit.errors import InputError, RunNotFound
    from p3kit.rundir import find_run
    from p3kit.spec import load_rules

    if not wants_episode and (split or checkpoint):
        raise InputError("--split or --checkpoint", "goes with --episode only", "add --episode, or leave it out")
    if wants_episode and (patch_only or as_markdown or wanted_row is not None or rules is not None):
        raise InputError(
            "--episode", "shows episodes and judges nothing", "only --json, --split and --checkpoint go with it"
        )
    chosen = [name for name, given in (("--patch", patch_only), ("--markdown", as_markdown), ("--json", as_json),
              ("--explain", wanted_row is not None and not as_json)) if given]  # fmt: skip
    if len(chosen) > 1:
        raise InputError(" ".join(chosen), "only one of them can be printed", "only --explain goes with --json")
    found, named = find_run(runs_root, run)
    wanted = agent or named
    if wants_episode:
        _episodes(found, wanted, split or "validation", checkpoint or "last", as_json)
        return
    overridden = None if rules is None else load_rules(rules)
    diagnoses = judge_run(found, wanted, overridden)
    if not diagnoses:
        names = ", ".join(found.agent_names())
        raise RunNotFound(f"{found.name}/{wanted}", "no agent of that name in this run", f"its agents: {names}")
    console = Console()
    if wanted_row is not None:
        from p3kit.diagnose import gather_run
        from p3kit.diagnose.explain import explain, pick, print_explanation

        finding = pick(diagnoses, wanted_row)
        diagnosis = next(one for one in diagnoses if one.agent == finding.agent)
        [evidence] = gather_run(found, finding.agent, overridden)
        explanation = explain(finding, diagnosis, evidence)
        if as_json:
            print_json(explanation.to_json())
        else:
            print_explanation(explanation, console)
    elif as_json:
        journals = {diagnosis.agent: read_journal(found, diagnosis.agent) for diagnosis in diagnoses}
        print_json([one.to_json() | {"interventions": journals[one.agent]} for one in diagnoses])
    elif patch_only:
        click.echo(_with_origin(found.name, merged_patch(diagnoses)))
    elif as_markdown:
        from p3kit.diagnose.markdown import diagnoses_as_markdown

        click.echo(diagnoses_as_markdown(diagnoses), nl=False)
    else:
        from p3kit.diagnose.table import print_diagnoses

        print_diagnoses(diagnoses, console)
        print_journal(read_journal(found, wanted), console)
    if overridden is not None and not (as_json or patch_only):
        for line in _what_the_rules_changed(judge_run(found, wanted), diagnoses, rules):
            click.echo(line, err=True)


def _what_the_rules_changed(
    before: Sequence[AgentDiagnosis], after: Sequence[AgentDiagnosis], rules: Path | None
) -> list[str]:
    """A line per row that the file of rules raised, silenced or moved."""
    from p3kit.diagnose.findings import format_steps

    lines = []
    for old, new in zip(before, after, strict=True):
        earlier = {finding.symptom: finding.since_step for finding in old.raised}
        later = {finding.symptom: finding.since_step for finding in new.raised}
        for symptom in dict.fromkeys((*later, *earlier)):
            if symptom not in earlier:
                lines.append(f"{new.agent}: {symptom} raised since {format_steps(later[symptom])}")
            elif symptom not in later:
                lines.append(f"{new.agent}: {symptom} no longer raised")
            elif later[symptom] != earlier[symptom]:
                moved = f"{format_steps(earlier[symptom])} → {format_steps(later[symptom])}"
                lines.append(f"{new.agent}: {symptom} raised since {moved}")
    heading = f"Judged by {rules}: " + ("what is different from the run's own rules:" if lines else "nothing differs.")
    return [heading, *(f"  {line}" for line in lines)]


def _episodes(run: RunDir, wanted: str | None, split: str, checkpoint: str, as_json: bool) -> None:
    """Write and draw the best and the worst paid episode of every agent, or of one."""

    from p3kit.errors import RunNotFound
    from p3kit.launch.backtest import replay
    from p3kit.report.episode_picture import draw_episode
    from p3kit.rundir import file_name

    names = run.agent_names()
    if wanted is not None and wanted not in names:
        raise RunNotFound(
            f"{run.name}/{wanted}", "no agent of that name in this run", f"its agents: {', '.join(names)}"
        )
    console = progress_console()
    told = []
    for agent in [wanted] if wanted else names:
        with console.status(f"{run.name}/{agent}: playing the {split} split"):
            episodes = replay(run, agent, checkpoint, split=split)
        for episode in episodes:
            name = f"{file_name(agent)}-{episode['checkpoint'].removesuffix('.pt')}-{split}-{episode['first_bar']:06d}"
            path = run.write_replay(name, episode)
            label = "SYNTHETIC data, " if episode["synthetic"] else ""
            place = f"episode {episode['rank']} of {episode['of']} by reward, {split}"
            picture = run.replays / f"{name}.png"
            draw_episode(episode, f"{label}{run.name}/{agent}, {episode['checkpoint']}: {place}", picture)
            told.append({"agent": agent, "file": str(path), "picture": str(picture), "rank": episode["rank"],
                         "of": episode["of"], "split": split, **episode["totals"]})  # fmt: skip
    if as_json:
        print_json(told)
        return
    for one in told:
        click.echo(_in_words(run.name, one))


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
    """A comment line above the fragment, so that a saved patch says where it came from; also where there is nothing."""
    return f"# p3kit diagnose {run} --patch" + (f"\n{patch}" if patch else ": nothing to change")
