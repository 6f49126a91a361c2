"""The results of probes as lines and a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from p3kit.check.probe import Probe


def print_probes(probes: Sequence[Probe], title: str, console: Console) -> None:
    """Print a line per probe with its evidence and remedy, and the table of rules below."""
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


def _rules_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per rule and fee level: its reward, and the component that paid most."""
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
