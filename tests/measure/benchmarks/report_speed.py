"""Measure the time of the weekly report of 150 runs: `python -m tests.measure.benchmarks.report_speed [RUNS]`.

The runs are generated (24 rows of metrics each). Printed are the process time and the wall time; the wall time is
useless on a busy machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from tests.made_runs import make_run

REPEATS = 3


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        symbols = [f"S{number:03d}" for number in range(runs)]
        for symbol in symbols:
            make_run(Path(folder) / "runs", symbol=symbol, symbols=symbols, started=time.time() - 7_200)
        command = [sys.executable, "-m", "p3kit", "report", "--week", "1"]
        for _ in range(REPEATS):
            began, used = time.perf_counter(), getrusage(RUSAGE_CHILDREN).ru_utime
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            wall, cpu = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN).ru_utime - used
            print(f"{runs} runs: {wall:.1f} s by the wall, {cpu:.1f} s of one core")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
