"""Measure the memory that gradient accumulation saves: `python tests/measure/benchmarks/accumulation.py`.

One update of each trainer on a rollout of 16,384 rows in one effective batch, summed up from 1, 4 and 16 minibatches.
Printed are the memory, the seconds of the update, and the difference between the first epoch's losses and those of the
whole batch, which is rounding. The memory is the peak above a run with minibatches of 64 rows, which needs little more
than the program.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from sys import executable
from sys import path as search_path

search_path.insert(0, str(Path(__file__).parents[3]))

from p3kit.rundir import RunDir

ROOT = Path(__file__).parents[3]
ROWS = 16_384
PIECES = (1, 4, 16)
TRAINERS = ("ppo", "ppo_stacked", "ppo_shared")


def one_update(trainer: str, batch_size: int, accumulation_steps: int) -> dict[str, float]:
    """Train for one rollout in a process of its own; the metrics of its only update."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {
            "total-timesteps": ROWS,
            "n-epochs": 1,
            "batch-size": batch_size,
            "accumulation-steps": accumulation_steps,
        }
        flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        command = [executable, str(ROOT / "trainers" / f"{trainer}.py"), "--source", "synthetic", *flags]
        subprocess.run([*command, "--runs", folder], check=True, capture_output=True)
        (path,) = Path(folder).iterdir()
        series = RunDir.open(path).series("AAPL")
        wanted = ("perf/memory_mb", "perf/update_s", "policy/policy_loss", "value/value_loss")
        return {name: float(series[name].values[-1]) for name in wanted}


def main() -> None:
    print(
        f"{'trainer':<12}{'minibatch':>10}{'summed':>8}{'MB over the program':>21}{'update s':>10}{'losses off by':>15}"
    )
    for trainer in TRAINERS:
        program = one_update(trainer, 64, 1)["perf/memory_mb"]
        whole: dict[str, float] = {}
        for pieces in PIECES:
            found = one_update(trainer, ROWS // pieces, pieces)
            whole = whole or found
            off = max(abs(found[name] - whole[name]) for name in ("policy/policy_loss", "value/value_loss"))
            memory, seconds = found["perf/memory_mb"] - program, found["perf/update_s"]
            row = f"{trainer:<12}{ROWS // pieces:>10,}{pieces:>8}{memory:>21,.0f}{seconds:>10.2f}{off:>15.1e}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
