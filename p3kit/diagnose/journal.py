"""The journal of interventions as text: changes during training, changes that were not made, and the reasons.

Entries of a rule for several agents have no agent of their own but the names of `agents`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p3kit.console import prose_width
from p3kit.diagnose.findings import format_number, format_steps
from p3kit.rundir import RunDir, concerns

DONE = ("fired", "released", "verified", "failed")
"""Decisions that changed something, or checked a change; the others give the reason for no change."""

_STYLES = {"fired": "bold", "released": "", "verified": "green", "failed": "yellow"}

Entry = Mapping[str, Any]


def read_journal(run: RunDir, agent: str | None = None) -> list[dict[str, Any]]:
    """The decisions of a run, in order; with `agent`, those about it, as they changed it."""
    found = run.read_events("intervention")
    return found if agent is None else [for_agent(event, agent) for event in found if concerns(event, agent)]


def for_agent(entry: Entry, agent: str) -> dict[str, Any]:
    """An entry as it changed one agent."""
    return {**entry, **((entry.get("by_agent") or {}).get(agent) or {})}


def changes_training(entry: Entry) -> bool:
    """Return True if an entry changed how an agent trains; False if it only watched or was held back."""
    if entry.get("decision") not in ("fired", "failed"):
        return False
    moved = any(before != after for before, after in (entry.get("keys") or {}).values())
    did = {verb for one in entry.get("did") or () for verb in one}
    return moved or bool(entry.get("checkpoint")) or not did <= {"dump", "episodes", "note"}


def intervened(entries: Iterable[Entry]) -> bool:
    """Return True if interventions changed the agent, so that it must be marked beside clean ones."""
    return any(map(changes_training, entries))


def in_short(entry: Entry) -> str:
    """Short text of the changes of an entry: `ppo.ent_coef 0.01 → 0.05 over 10% of training, back to init`."""
    slow = {key: f" over {span}" for key, span in (entry.get("gradual") or {}).items()}
    keys = (entry.get("keys") or {}).items()
    moved = [(key, values) for key, values in keys if values[0] != values[1]] or keys
    parts = [f"{key} {_short(before)} → {_short(after)}{slow.get(key, '')}" for key, (before, after) in moved]
    if entry.get("checkpoint"):
        parts.append(back_to(entry["checkpoint"]))
    return ", ".join([*parts, *did_in_words(entry)])


def did_in_words(entry: Entry) -> list[str]:
    """Short text of the other actions of an entry: `update ended`."""
    acts = [(verb, what) for did in entry.get("did") or () for verb, what in did.items() if verb in _DID]
    return [_DID[verb].format(what if verb == "note" else _PARTS.get(what, what)) for verb, what in acts]


def back_to(checkpoint: str) -> str:
    """`back to init`, `back to step 49k`, `back to the snapshot of step 49k`."""
    name, _, step = checkpoint.partition("-")
    if name not in ("good", "before") or not step.isdigit():
        return f"back to {checkpoint}"
    return f"back to {'the snapshot of ' if name == 'before' else ''}step {format_steps(int(step))}"


_PARTS = {
    "dormant": "dormant units",
    "policy_head": "policy head",
    "value_head": "value head",
    "episode_replay": "episodes",
    "minibatch": "gradient steps",
}
_DID = {
    "reinit": "{} reinitialised",
    "freeze": "{} frozen",
    "normalize": "{} normalized from here on",
    "early_stop_update": "update ended",  # journals of earlier versions
    "dump": "{} written to replays/",
    "stop": "training ended ({})",
    "note": "{}",
}
"""Words for actions that were done; moved keys and rollbacks are in the entry itself."""


def time_of(entry: Entry) -> str:
    """`at 31k`, `at 31k, gradient step 5`."""
    inside = f", gradient step {entry['gradient_step']}" if entry.get("gradient_step") else ""
    return f"at {format_steps(entry['global_step'])}{inside}"


def whom(entry: Entry) -> str:
    """The agent of an entry; of several the number, or their names where they are few."""
    names = entry.get("agents") or ()
    if entry.get("agent") or not names:
        return str(entry.get("agent") or "all agents")
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} agents"


def print_journal(entries: Sequence[Entry], console: Console) -> None:
    """A line per decision; nothing where there was none. Decisions not to act follow those to act."""
    if not entries:
        return
    acted = [entry for entry in entries if entry["decision"] in DONE]
    held = [entry for entry in entries if entry["decision"] not in DONE]
    several = len({whom(entry) for entry in entries}) > 1
    console.print(Text(f"Interventions: {_counted(acted)}", "bold"))
    for title, some in (("", acted), ("Held back:", held)):
        if not some:
            continue
        if title:
            console.print(Text(title, "dim"))
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
        for entry in some:
            who = f"{whom(entry)} " if several else ""
            what = in_short(entry) if entry["decision"] in ("fired", "released", "failed") else ""
            table.add_row(
                Text(f"{who}{time_of(entry)}"),
                Text(f"{entry.get('id') or ''}\n{entry['decision']}", _STYLES.get(entry["decision"], "dim")),
                Text("\n".join(part for part in (what, _because(entry)) if part)),
            )
        console.print(table, width=prose_width(console))


def _counted(acted: Sequence[Entry]) -> str:
    counts = {decision: sum(entry["decision"] == decision for entry in acted) for decision in DONE}
    return ", ".join(f"{count} {decision}" for decision, count in counts.items() if count) or "none acted"


def _because(entry: Entry) -> str:
    row = f"{entry['row']}: " if entry.get("row") else ""
    return f"{row}{entry.get('reason') or ''}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else format_number(float(value))
