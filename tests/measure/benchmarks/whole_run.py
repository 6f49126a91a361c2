"""Measure a whole experiment, from the command to the prompt: its time, and the memory of all its processes together.

    python tests/measure/benchmarks/whole_run.py specs/phase4.toml           about a quarter of an hour on 2 quiet cores
    python tests/measure/benchmarks/whole_run.py --twice specs/phase3.toml   with an empty compiler cache, then again

Each spec is run as a user runs it, with everything on, in a temporary folder. Memory is sampled every second: the
proportional set size (shared pages count once) of the launcher and all its children. `--twice` also records what
`p3kit plan` predicts for the second run from the first one. Figures go into docs/benchmarks/whole.json, in the place of
those of the same spec; trainers/README.md shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[3]))

from p3kit import plan_runs
from p3kit.rundir import RunDir, list_runs
from p3kit.rundir.provenance import provenance
from tests.measure.benchmarks.trainer_speed import phases, processor
from tests.measure.suite.tables import short

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks" / "whole.json"


def measure(spec: Path, twice: bool) -> dict[str, Any]:
    """Run `spec` to its end, once or twice. Raises RuntimeError where a run of it does not end well."""
    made, load_before = provenance(), round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        figures = run_once(spec, runs, {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"} if twice else {})
        if twice:
            predicted_s = plan_runs(spec, None, runs).seconds
            again = run_once(spec, runs, {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"})
            figures = again | {"first_s": figures["took_s"], "predicted_s": predicted_s and round(predicted_s, 1)}
        agents = [plan for run in list_runs(runs)[: figures["runs"]] for plan in run.info()["agents"]]
        return {
            "spec": str(spec.resolve().relative_to(ROOT)),
            "commit": short(made["git_commit"]),
            "agents": len(agents),
            "steps": sum(int(plan["total_timesteps"]) for plan in agents),
            **figures,
            "load_before": load_before,
            "cores": len(os.sched_getaffinity(0)),
            "processor": processor(),
            "torch": made["versions"]["torch"],
        }


def run_once(spec: Path, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One run of a spec, beside earlier ones in `folder`: its time, its phases and its memory."""
    before = {run.name for run in list_runs(folder)}
    command = [sys.executable, "-m", "p3kit", "run", str(spec.resolve()), "--runs", str(folder)]
    begin, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ) | environment)
    largest: dict[int, float] = {}
    while process.poll() is None:
        now = memory_mb(process.pid)
        if sum(now.values()) > sum(largest.values()):
            largest = now
        time.sleep(1)
    took_s = time.perf_counter() - clock
    runs = [run for run in list_runs(folder) if run.name not in before]
    states = {str(run.status()["state"]) for run in runs}
    if process.returncode != 0 or states != {"done"}:
        raise RuntimeError(f"{spec}: exit code {process.returncode}, runs {sorted(states)}")
    return {
        "runs": len(runs),
        "took_s": round(took_s, 1),
        **{name: round(seconds, 1) for name, seconds in phases(runs, begin, begin + took_s).items()},
        **{name: round(seconds, 1) for name, seconds in work(runs).items()},
        "memory_mb": round(sum(largest.values())),
        "processes_mb": sorted((round(size) for size in largest.values()), reverse=True),
    }


def work(runs: Sequence[RunDir]) -> dict[str, float]:
    """Seconds that trainers spent on rollouts, updates and evaluations, over all runs."""
    seconds = {"rollouts_s": 0.0, "updates_s": 0.0, "evaluations_s": 0.0}
    for run in runs:
        shared: dict[int, list[float]] = {}  # agents that train at once report the same rollout and update
        for row in run.read_metrics():
            metrics = row["metrics"]
            if "perf/update_s" in metrics:
                shared[row["iteration"]] = [metrics["perf/rollout_s"], metrics["perf/update_s"]]
            seconds["evaluations_s"] += metrics.get("perf/evaluation_s", 0.0)  # each agent's part
        seconds["rollouts_s"] += sum(rollout for rollout, _ in shared.values())
        seconds["updates_s"] += sum(update for _, update in shared.values())
    return seconds


def memory_mb(root: int) -> dict[int, float]:
    """Proportional set size of a process and all that it has started, by process number; of those still alive."""
    found: dict[int, float] = {}
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in processes:
        try:
            found[process.pid] = process.memory_full_info().pss / 2**20
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="+", type=Path, metavar="SPEC")
    parser.add_argument("--twice", action="store_true", help="first with an empty compiler cache, then again")
    arguments = parser.parse_args()
    for spec in arguments.specs:
        figures = measure(spec, arguments.twice)
        known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
        others = [one for one in known if one["spec"] != figures["spec"]]
        RESULTS.write_text(json.dumps([*others, figures], indent=1) + "\n", encoding="utf-8")
        print(
            f"{figures['spec']}: {figures['agents']} agents, {figures['steps']:,} env steps in "
            f"{figures['took_s'] / 60:.1f} minutes; {figures['memory_mb']:,} MB together, the largest processes "
            f"{figures['processes_mb'][:3]} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
