"""Detectors of `intervention.*`."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from p3kit.diagnose.evidence import TICK, Evidence
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, passed, raised_at


@detector("intervention.oscillates", warn=2.0)
def interventions_undo_each_other(evidence: Evidence, row: Row) -> Finding:
    """Exact: the journal of interventions. One key raised and lowered, twice, within ten ticks. Entries that changed
    nothing do not count, nor do those of a controller, whose trade it is to go to and fro within its bounds."""
    moves: dict[str, list[tuple[int, bool]]] = {}
    for event in evidence.events_of("intervention"):
        if event.get("decision", "fired") not in ("fired", "released") or event.get("factor") is not None:
            continue
        for key, change in (event.get("keys") or {}).items():
            before, after = change
            if isinstance(before, (int, float)) and isinstance(after, (int, float)) and before != after:
                moves.setdefault(key, []).append((int(event.get("global_step") or 0), after > before))
    for key, made in moves.items():
        turns = [step for (_, up), (step, next_up) in pairwise(made) if up != next_up]
        for first, last in zip(turns, turns[2:], strict=False):
            if last - first <= 10 * TICK:
                text = f"{key} was raised and lowered twice within {format_number((last - first) / TICK)} ticks"
                cause = [(1.0, "thresholds", f"it turned {len(turns)} times in all")]
                return replace(raised_at(evidence, row, first, text, float(len(turns)), cause), threshold=row.warn)
    count = len(evidence.events_of("intervention"))
    return passed(evidence, row, f"{count} entries in the journal of interventions" if count else "nothing intervened")
