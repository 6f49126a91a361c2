"""`p3kit diagnose RUN`: the troubleshooting table of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from p3kit.cli.options import json_option, run_argument, runs_option


@click.command(
    epilog="""\b
Examples:
  p3kit diagnose run-42
  p3kit diagnose latest --patch > fix.toml"""
)
@run_argument
@click.option("--agent", metavar="NAME", help="One agent only; RUN/NAME is short for this.")
@click.option("--patch", "patch_only", is_flag=True, help="Print only the spec changes that the raised rows call for.")
@json_option
@runs_option
def diagnose(run: str, agent: str | None, patch_only: bool, as_json: bool, runs_root: Path) -> None:
    """Print the troubleshooting table of RUN: symptom, evidence, threshold, since when, causes, patch.

    RUN is run-42, 42, latest or run-42/AAPL, and may still be training. A row without enough data says so and is never
    called fine.
    """
    from p3kit.diagnose import diagnose as judge_run
    from p3kit.diagnose import merged_patch
    from p3kit.errors import RunNotFound
    from p3kit.rundir import find_run

    found, named = find_run(runs_root, run)
    wanted = agent or named
    diagnoses = judge_run(found, wanted)
    if not diagnoses:
        names = ", ".join(found.agent_names())
        raise RunNotFound(f"{found.name}/{wanted}", "no agent of that name in this run", f"its agents: {names}")
    if as_json:
        click.echo(json.dumps([diagnosis.to_json() for diagnosis in diagnoses], indent=2, ensure_ascii=False))
    elif patch_only:
        click.echo(_with_origin(found.name, merged_patch(diagnoses)))
    else:
        from rich.console import Console

        from p3kit.diagnose.table import print_diagnoses

        print_diagnoses(diagnoses, Console(highlight=False))


def _with_origin(run: str, patch: str) -> str:
    """A comment line above the fragment, so that a saved patch says where it came from; also where there is nothing."""
    return f"# p3kit diagnose {run} --patch" + (f"\n{patch}" if patch else ": nothing to change")
