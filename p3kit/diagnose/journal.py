"""The journal of interventions, told: what was done to a run while it trained, what was not, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p3kit.diagnose.findings import format_number, format_steps
from p3kit.rundir import RunDir

DONE = ("fired", "released", "verified", "failed")
"""Decisions that changed something, or told whether a change had helped; the others say why nothing was done."""

_STYLES = {"fired": "bold", "released": "", "verified": "green", "failed": "yellow"}

Entry = Mapping[str, Any]


def read_journal(run: RunDir, agent: str | None = None) -> list[dict[str, Any]]:
    """The decisions of a run, in order; with `agent`, those about it or about the whole run."""
    return [event for event in run.read_events("intervention") if agent is None or event["agent"] in (None, agent)]


def in_short(entry: Entry) -> str:
    """What an entry changed, in a few words: `ppo.ent_coef 0.01 → 0.05, back to init`."""
    parts = [f"{key} {_short(before)} → {_short(after)}" for key, (before, after) in (entry.get("keys") or {}).items()]
    if entry.get("checkpoint"):
        parts.append(f"back to {entry['checkpoint']}")
    for did in entry.get("did") or ():
        parts += [f"{verb} {what}" for verb, what in did.items() if verb in ("stop", "dump", "freeze", "note")]
    return ", ".join(parts)


def print_journal(entries: Sequence[Entry], console: Console) -> None:
    """A line per decision; nothing where there was none. Decisions not to act are told after those to act."""
    if not entries:
        return
    acted = [entry for entry in entries if entry["decision"] in DONE]
    held = [entry for entry in entries if entry["decision"] not in DONE]
    several = len({entry["agent"] for entry in entries}) > 1
    console.print(Text(f"Interventions: {_counted(acted)}", "bold"))
    for title, some in (("", acted), ("Held back:", held)):
        if not some:
            continue
        if title:
            console.print(Text(title, "dim"))
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
        for entry in some:
            who = f"{entry['agent'] or 'all'} " if several else ""
            what = in_short(entry) if entry["decision"] in ("fired", "released") else ""
            table.add_row(
                Text(f"{who}at {format_steps(entry['global_step'])}"),
                Text(f"{entry.get('id') or ''}\n{entry['decision']}", _STYLES.get(entry["decision"], "dim")),
                Text("\n".join(part for part in (what, _because(entry)) if part)),
            )
        console.print(table)


def _counted(acted: Sequence[Entry]) -> str:
    counts = {decision: sum(entry["decision"] == decision for entry in acted) for decision in DONE}
    return ", ".join(f"{count} {decision}" for decision, count in counts.items() if count) or "none acted"


def _because(entry: Entry) -> str:
    row = f"{entry['row']}: " if entry.get("row") else ""
    return f"{row}{entry.get('reason') or ''}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else format_number(float(value))
