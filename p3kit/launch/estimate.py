"""Estimated time of a plan, from past runs of the same trainer and sizes on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
"""Values that two runs share, beside the sizes and words of their trainer, if one pace can predict the other."""

SAYS_NOTHING = {"total_timesteps", "init_gain", "init_hold"}
"""Fixed knobs that two runs of one pace may differ in."""

LATEST = 10
"""Number of latest comparable runs that count: the machine may have changed since the others."""


@dataclass(frozen=True)
class Pace:
    """Env steps per second of one run, evaluation and checkpoints included: the median over `runs`."""

    steps_per_second: float
    runs: tuple[str, ...]
    outside_s: float = 0.0
    """Seconds of a run before its first rollout and after its last row: the least of `runs`, because the others may
    have waited for their turn."""


def measured_pace(plan: RunPlan, runs_root: Path) -> Pace | None:
    """The pace of finished runs that are comparable to `plan`; None when there is none.

    Runs of as many env steps come before others: a shorter run may not have been compiled.
    """
    sizes = [name for name in fixed_knobs(plan.trainer) if name not in SAYS_NOTHING]
    wanted = _pace_values(plan.agents[0].spec.model_dump(mode="json"), sizes)
    alike = [run for run in reversed(intact_runs(runs_root)[0]) if _is_comparable(run, plan, wanted, sizes)]
    steps = sum(agent.spec.ppo.total_timesteps for agent in plan.agents)
    as_long = [run for run in alike if sum(agent["total_timesteps"] for agent in run.info()["agents"]) == steps]
    return _pace_of(as_long) or _pace_of(alike)


def _is_comparable(run: RunDir, plan: RunPlan, wanted: Mapping[str, Any], sizes: Sequence[str]) -> bool:
    if run.status()["state"] != "done":
        return False
    info = run.info()
    if (info["trainer"], len(info["agents"])) != (plan.trainer.stem, len(plan.agents)):
        return False
    return threads_of(info) == plan.threads and _pace_values(info["agents"][0]["spec"], sizes) == wanted


def _pace_of(runs: Sequence[RunDir]) -> Pace | None:
    """The median pace of the latest of these runs."""
    paces = ((run, pace) for run in runs if (pace := run_pace(run)) is not None)
    latest = list(islice(paces, LATEST))
    if not latest:
        return None
    names = tuple(run.name for run, _ in reversed(latest))
    return Pace(statistics.median(pace for _, pace in latest), names, min(seconds_outside(run) for run, _ in latest))


def total_seconds(plans: Sequence[RunPlan], pace: Pace, jobs: int) -> float:
    """Wall seconds of all plans on `jobs` slots, each taking the next plan when it is free."""
    slots = [0.0] * max(1, min(jobs, len(plans)))
    for plan in plans:
        steps = sum(agent.spec.ppo.total_timesteps for agent in plan.agents)
        slots[slots.index(min(slots))] += steps / pace.steps_per_second + pace.outside_s
    return max(slots)


def _pace_values(spec: Mapping[str, Any], sizes: Sequence[str]) -> dict[str, Any]:
    keys = [(table, key) for table, names in SETS_THE_PACE.items() for key in names]
    return {f"{table}.{key}": spec.get(table, {}).get(key) for table, key in (*keys, *(("ppo", n) for n in sizes))}


def run_pace(run: RunDir) -> float | None:
    """Steps over seconds from the end of the first iteration to the last row; None for resumed runs and for runs of one
    iteration."""
    rows = run.read_metrics()
    if not rows or run.read_events("resume"):
        return None
    first = [row for row in rows if row["iteration"] == rows[0]["iteration"]]
    seconds = rows[-1]["time"] - first[-1]["time"]
    before, after = ({row["agent"]: row["global_step"] for row in some} for some in (first, rows))
    steps = sum(after[agent] - step for agent, step in before.items())
    return float(steps / seconds) if seconds > 0 and steps > 0 else None


def seconds_outside(run: RunDir) -> float:
    """Seconds of a run before its first rollout and after its last row. Loading and compiling kernels is not counted:
    it takes a minute once, and seconds after that."""
    rows = run.read_metrics()
    timed = (row for row in rows if "perf/update_s" in row["metrics"])  # of an iteration, the last row has the times
    first = next(timed, rows[0])
    work = sum(first["metrics"].get(name, 0.0) for name in ("perf/rollout_s", "perf/update_s"))
    before = first["time"] - work - run.info()["created"]
    after = run.status().get("heartbeat", rows[-1]["time"]) - rows[-1]["time"]
    return max(0.0, float(before)) + max(0.0, float(after))
