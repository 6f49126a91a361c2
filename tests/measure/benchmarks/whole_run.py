"""Measure a whole experiment, from the command to the prompt: its time, and the memory of all its processes together.

    python tests/measure/benchmarks/whole_run.py specs/phase4.toml           about a quarter of an hour on 2 quiet cores
    python tests/measure/benchmarks/whole_run.py specs/phase3.toml specs/phase3_stacked.toml

Each spec is run once as a user runs it, with everything on, in a temporary folder. Memory is sampled every second: the
proportional set size (shared pages count once) of the launcher and all its children. Figures go into
docs/benchmarks/whole.json, in the place of those of the same spec; trainers/README.md shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[3]))

from p3kit.rundir import list_runs
from p3kit.rundir.provenance import provenance
from tests.measure.suite.tables import short

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks" / "whole.json"


def measure(spec: Path) -> dict[str, Any]:
    """Run `spec` to its end. Raises RuntimeError where a run of it does not end well."""
    made, load_before = provenance(), round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "p3kit", "run", str(spec.resolve()), "--runs", str(Path(folder) / "runs")]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT)
        largest: dict[int, float] = {}
        while process.poll() is None:
            now = memory_mb(process.pid)
            if sum(now.values()) > sum(largest.values()):
                largest = now
            time.sleep(1)
        took_s = time.perf_counter() - begin
        runs = list_runs(Path(folder) / "runs")
        states = {str(run.status()["state"]) for run in runs}
        if process.returncode != 0 or states != {"done"}:
            raise RuntimeError(f"{spec}: exit code {process.returncode}, runs {sorted(states)}")
        agents = [plan for run in runs for plan in run.info()["agents"]]
        return {
            "spec": str(spec.resolve().relative_to(ROOT)),
            "commit": short(made["git_commit"]),
            "agents": len(agents),
            "steps": sum(int(plan["total_timesteps"]) for plan in agents),
            "took_s": round(took_s, 1),
            "memory_mb": round(sum(largest.values())),
            "processes_mb": sorted((round(size) for size in largest.values()), reverse=True),
            "load_before": load_before,
            "cores": len(os.sched_getaffinity(0)),
            "torch": made["versions"]["torch"],
        }


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
    for spec in parser.parse_args().specs:
        figures = measure(spec)
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
