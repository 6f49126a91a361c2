"""Estimated time of a plan, from past runs of the same trainer and sizes on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.plan import RunPlan
from p3kit.rundir import RunDir, intact_runs
from p3kit.rundir.threads import threads_of
from p3kit.spec.trainer_file import fixed_knobs

SETS_THE_PACE = {
    "ppo": ("target_kl",),
    "env": ("backend", "num_envs", "window"),
    "evaluation": ("every",),
    "compute": ("device", "precision", "compile"),
}
"""What two runs share, beside the sizes and words of their trainer, if the pace of one is to tell that of the other."""

SAYS_NOTHING = {"total_timesteps", "init_gain"}
"""Fixed knobs that two runs of one pace may differ in."""

LATEST = 10
"""Only so many of the latest comparable runs count: the machine may have changed since."""


@dataclass(frozen=True)
class Pace:
    """Env steps per second of one run, evaluation and checkpoints included: the median over `runs`."""

    steps_per_second: float
    runs: tuple[str, ...]


def measured_pace(plan: RunPlan, runs_root: Path) -> Pace | None:
    """The pace of finished runs that are comparable to `plan`; None when there is none."""
    sizes = [name for name in fixed_knobs(plan.trainer) if name not in SAYS_NOTHING]
    wanted = _pace_values(plan.agents[0].spec.model_dump(mode="json"), sizes)
    paces: dict[str, float] = {}
    for run in reversed(intact_runs(runs_root)[0]):
        if len(paces) == LATEST:
            break
        if run.status()["state"] != "done":
            continue
        info = run.info()
        if info["trainer"] != plan.trainer.stem or len(info["agents"]) != len(plan.agents):
            continue
        if threads_of(info) != plan.threads:
            continue
        if _pace_values(info["agents"][0]["spec"], sizes) == wanted and (pace := _pace(run)) is not None:
            paces[run.name] = pace
    return Pace(statistics.median(paces.values()), tuple(reversed(paces))) if paces else None


def total_seconds(plans: Sequence[RunPlan], pace: Pace, jobs: int) -> float:
    """Wall seconds of all plans on `jobs` slots, each taking the next plan when it is free; starting up is left out."""
    slots = [0.0] * max(1, min(jobs, len(plans)))
    for plan in plans:
        steps = sum(agent.spec.ppo.total_timesteps for agent in plan.agents)
        slots[slots.index(min(slots))] += steps / pace.steps_per_second
    return max(slots)


def _pace_values(spec: Mapping[str, Any], sizes: Sequence[str]) -> dict[str, Any]:
    keys = [(table, key) for table, names in SETS_THE_PACE.items() for key in names]
    return {f"{table}.{key}": spec.get(table, {}).get(key) for table, key in (*keys, *(("ppo", n) for n in sizes))}


def _pace(run: RunDir) -> float | None:
    """Steps over seconds between the first and the last row of all agents; None for resumed runs and single rows."""
    rows = run.read_metrics()
    if len(rows) < 2 or run.read_events("resume"):
        return None
    seconds = rows[-1]["time"] - rows[0]["time"]
    first = {row["agent"]: row["global_step"] for row in reversed(rows)}
    last = {row["agent"]: row["global_step"] for row in rows}
    steps = sum(last.values()) - sum(first.values())
    return float(steps / seconds) if seconds > 0 and steps > 0 else None
