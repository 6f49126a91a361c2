"""`p3kit check SPEC`: what can be known before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import json_option, set_option, spec_argument

if TYPE_CHECKING:
    from p3kit.check import Probe

NOT_MET = 3


@click.command(
    epilog="""\b
Examples:
  p3kit check specs/phase3.toml
  p3kit check specs/phase3.toml --set 'reward.formulas="guide"'
  p3kit check specs/phase3.toml --set reward.weights.time=0.6 --json"""
)
@spec_argument
@set_option
@click.option("--symbol", metavar="NAME", help="The symbol to look at.  [default: the first of the spec]")
@click.option("--episodes", type=click.IntRange(min=400), default=600, show_default=True, help="Episodes per rule.")
@json_option
def check(spec: Path, overrides: tuple[str, ...], symbol: str | None, episodes: int, as_json: bool) -> None:
    """Probe SPEC before training: the environment alone, and whether the reward pays for anything but money.

    Fixed rules (churning, quick profits, moving averages, …) play the spec's reward in a market where nothing can be
    earned, at the spec's fees and at 1 bp; none may beat staying flat. Ends with exit code 3 if a probe does not pass.
    """
    from rich.console import Console

    from p3kit.check import probe_environment, probe_reward
    from p3kit.errors import InputError
    from p3kit.market import load_market
    from p3kit.spec import load_spec

    loaded = load_spec(spec, overrides).spec
    chosen = symbol or loaded.symbols[0]
    if chosen not in loaded.symbols:
        raise InputError(f"--symbol {chosen}", "is not in the spec", f"it has {', '.join(loaded.symbols)}")
    own = loaded.for_agent(chosen, {})
    bars = load_market(loaded, [chosen])[chosen]
    with Console(stderr=True, highlight=False).status("environment") as status:
        probes = [probe_environment(own, bars), *probe_reward(own, bars, episodes, status.update)]
    if as_json:
        click.echo(json.dumps([probe.to_json() for probe in probes], indent=2, ensure_ascii=False))
    else:
        print_probes(probes, f"{loaded.name}/{chosen}", Console(highlight=False))
    if not all(probe.passed for probe in probes):
        raise SystemExit(NOT_MET)


def print_probes(probes: Sequence[Probe], title: str, console: Any) -> None:
    """A line per probe with its evidence and remedy, and the table of rules below."""
    from rich.text import Text

    console.print(Text(f"{title}: probes before training", style="bold"))
    for probe in probes:
        mark = Text("passed ", style="green") if probe.passed else Text("FAILED ", style="bold red")
        console.print(mark + Text(f"{probe.name}: {probe.question}", style=""), soft_wrap=True)
        console.print(f"       {probe.evidence}", soft_wrap=True)
        if probe.remedy:
            console.print(f"       remedy: {probe.remedy}", soft_wrap=True)
    for probe in probes:
        if probe.name == "reward":
            console.print(
                "\nReward per episode beyond staying flat, in a driftless market (SYNTHETIC), mean ± standard error:"
            )
            console.print(_rules_table(probe.details["rules"]))


def _rules_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A row per rule and fee level: what it earned, and the component that paid most."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("rule", "fees", "reward", "paid most by", ""):
        table.add_column(heading, justify="right" if heading == "reward" else "left")
    for row in rows:
        payer = max(row["paid"], key=lambda name: row["paid"][name])
        verdict = "[bold red]beats flat[/]" if row["beats_flat"] else ""
        fees = row["fees"].replace("the spec's fees ", "").strip("()")
        paid = f"{payer} {row['paid'][payer]:+.2f}" if row["paid"][payer] > 0.005 else "nothing"
        table.add_row(row["rule"], fees, f"{row['mean']:+.2f} ± {row['error']:.2f}", paid, verdict)
    return table
