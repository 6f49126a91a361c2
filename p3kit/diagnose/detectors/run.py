"""Detectors of `run.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, step_of, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, indices, passed, raised, raised_at, silent


@detector("run.slow", "perf/steps_per_second", warn=100.0, minimum=2, patience=2)
def slow_training(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1: below 100 steps a second. The causes come from where the seconds go."""
    speed = evidence.ticks("perf/steps_per_second")
    span = sustained(speed.values < row.warn, speed.rows_for(row.patience, least=1))
    if span is None:
        return silent(evidence, row, speed, "lowest")
    slow = speed.values[indices(span)]
    seconds = {
        cause: float(np.sum(evidence.ticks(f"perf/{part}_s", "sum").values))
        for cause, part in (("update_bound", "update"), ("env_bound", "rollout"), ("evaluation_bound", "evaluation"))
    }
    total = sum(seconds.values())
    causes = [
        (part / total, cause, f"{part / total:.0%} of the recorded seconds") for cause, part in seconds.items() if part
    ]
    evidence_text = f"{format_number(float(np.median(slow)))} steps/s, expected at least {format_number(row.warn)}"
    return raised(evidence, row, speed, span, float(np.median(slow)), evidence_text, causes=causes)


@detector("run.oom")
def out_of_memory(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1. Exact: the trainer records every refused allocation as an event."""
    events = evidence.events_of("oom")
    if not events:
        return passed(evidence, row, "no allocation was refused")
    first = events[0]
    said = str(first.get("message") or "an allocation was refused")
    times = f" ({len(events)} times)" if len(events) > 1 else ""
    memory = first.get("memory_mb")
    size = f"peak memory {float(memory):,.0f} MB" if memory is not None else "the message does not name the allocation"
    in_rollout = "rollout" in said
    causes = [
        (
            2.0 if in_rollout else 0.5,
            "rollout",
            "refused in the rollout" if in_rollout else "the next largest user of memory",
        ),
        (1.0, "minibatch", size),
    ]
    step = step_of(first) or evidence.last_step
    return raised_at(evidence, row, step, f"out of memory{times}: {said}", float(len(events)), causes)
