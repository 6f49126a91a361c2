"""The pace of finished runs, on which the plan's time rests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from p3kit.launch.estimate import run_pace, seconds_outside

BEGINNING, ITERATION, EVALUATION, END = 7.0, 50.0, 1.0, 3.0
"""Seconds of a made-up run. The first iteration takes `LOADING` more."""
LOADING = 90.0
TICKS, STEPS, ITERATIONS, AGENTS = 4, 4_096, 5, ("AAA", "BBB")


def made_run() -> Any:
    """Rows as a stack writes them: all at the end of an iteration, with the clock in the last one of each agent."""
    rows: list[dict[str, Any]] = []
    now = BEGINNING
    for iteration in range(1, ITERATIONS + 1):
        took = ITERATION + (LOADING if iteration == 1 else 0)
        now += took
        for agent in AGENTS:
            for tick in range(1, TICKS + 1):
                step = ((iteration - 1) * TICKS + tick) * STEPS
                clock = {"perf/rollout_s": 0.1 * took, "perf/update_s": 0.9 * took} if tick == TICKS else {}
                rows.append(
                    {"agent": agent, "iteration": iteration, "global_step": step, "time": now, "metrics": clock}
                )
        now += EVALUATION
        step = iteration * TICKS * STEPS
        for agent in AGENTS:
            rows.append({"agent": agent, "iteration": iteration, "global_step": step, "time": now, "metrics": {}})
    return SimpleNamespace(
        read_metrics=lambda: rows,
        read_events=lambda kind: [],
        info=lambda: {"created": 0.0},
        status=lambda: {"heartbeat": now + END},
    )


def test_a_pace_leaves_the_first_iteration_out_and_its_kernels() -> None:
    steps = len(AGENTS) * TICKS * STEPS
    assert run_pace(made_run()) == pytest.approx(steps / (ITERATION + EVALUATION))
    assert seconds_outside(made_run()) == pytest.approx(BEGINNING + END)


def test_a_run_of_one_iteration_has_no_pace() -> None:
    run = made_run()
    first = [row for row in run.read_metrics() if row["iteration"] == 1]
    run.read_metrics = lambda: first
    assert run_pace(run) is None
