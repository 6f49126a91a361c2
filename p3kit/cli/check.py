"""`p3kit check SPEC`: what can be known before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import Whole, json_option, set_option, spec_argument
from p3kit.cli.output import print_json, progress_console

if TYPE_CHECKING:
    from p3kit.check import Probe

NOT_MET = 3


@click.command(
    epilog="""\b
Examples:
  p3kit check specs/phase3.toml
  p3kit check specs/phase3.toml --set 'reward.formulas="guide"'
  p3kit check specs/phase3.toml --learn --leak
  p3kit check specs/phase3.toml --set reward.weights.time=0.6 --json"""
)
@spec_argument
@set_option
@click.option("--symbol", metavar="NAME", help="The symbol to look at.  [default: the first of the spec]")
@click.option("--episodes", type=Whole(min=400), default=600, show_default=True, help="Episodes per rule.")
@click.option("--learn", is_flag=True, help="Also let the trainer solve five probe tasks (half a minute).")
@click.option("--leak", is_flag=True, help="Also train on a market whose edge nobody could miss (minutes).")
@json_option
def check(
    spec: Path, overrides: tuple[str, ...], symbol: str | None, episodes: int, learn: bool, leak: bool, as_json: bool
) -> None:
    """Probe SPEC before training: the environment, the trainer's forward pass and update, and the reward.

    1. The environment alone over 1,000 random steps. 2. The policy on many observations and on one. 3. One update: the
    loss falls on a repeated batch, the ratio starts at 1, every layer moves. Then fixed rules (churning, quick profits,
    …) play the spec's reward where nothing can be earned, at the spec's fees and at 1 bp; none may beat staying flat.
    4. With --learn and --leak: short trainings that a sound trainer passes. Exit code 3 if a probe does not pass.
    """
    from p3kit.check import probe_environment, probe_leak, probe_learning, probe_reward, probe_update
    from p3kit.console import Console
    from p3kit.errors import InputError
    from p3kit.launch import run_trainer
    from p3kit.market import load_market
    from p3kit.spec import load_spec

    loaded = load_spec(spec, overrides).spec
    chosen = symbol or loaded.symbols[0]
    if chosen not in loaded.symbols:
        raise InputError(f"--symbol {chosen}", "is not in the spec", f"it has {', '.join(loaded.symbols)}")
    own = loaded.for_agent(chosen, {})
    bars = load_market(loaded, [chosen])[chosen]
    console = progress_console()
    with console.status("environment") as status, tempfile.TemporaryDirectory(prefix="p3kit-check-") as folder:
        probes = [probe_environment(own, bars)]
        status.update("one update of the trainer")
        probes += probe_update(own, bars, Path(folder), run_trainer)
        probes += probe_reward(own, bars, episodes, status.update)
        if learn:
            probes += probe_learning(own, Path(folder), run_trainer, status.update)
        if leak:
            status.update("a market whose edge nobody could miss")
            probes += probe_leak(own, Path(folder), run_trainer)
    if as_json:
        print_json([probe.to_json() for probe in probes])
    else:
        print_probes(probes, f"{loaded.name}/{chosen}", Console())
    if not all(probe.passed for probe in probes):
        raise SystemExit(NOT_MET)


def print_probes(probes: Sequence[Probe], title: str, console: Any) -> None:
    """A line per probe with its evidence and remedy, and the table of rules below."""
    from rich.text import Text

    console.print(Text(f"{title}: probes before training", style="bold"))
    for probe in probes:
        mark = Text("passed ", style="green") if probe.passed else Text("FAILED ", style="bold red")
        mark = Text("not run ", style="yellow") if probe.skipped else mark
        console.print(mark + Text(f"{probe.name}: {probe.question}", style=""), soft_wrap=True)
        console.print(f"       {probe.evidence or probe.skipped}", soft_wrap=True, markup=False)
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
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("rule", "fees", "reward", "paid most by", ""):
        table.add_column(heading, justify="right" if heading == "reward" else "left")
    for row in rows:
        payer = max(row["paid"], key=lambda name: row["paid"][name])
        verdict = Text("beats flat" if row["beats_flat"] else "", style="bold red")
        fees = row["fees"].replace("the spec's fees ", "").strip("()")
        paid = f"{payer} {row['paid'][payer]:+.2f}" if row["paid"][payer] > 0.005 else "nothing"
        table.add_row(row["rule"], fees, f"{row['mean']:+.2f} ± {row['error']:.2f}", paid, verdict)
    return table
