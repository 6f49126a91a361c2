"""Measure the cost of many runs, long runs and many processes: `python -m tests.measure.benchmarks.large`, ten minutes.

    python -m tests.measure.benchmarks.large --output docs/benchmarks/large.json
    python -m tests.measure.benchmarks.large --runs 100 --rows 10_000 --launched 10      small, to try it

Each command runs in its own process. Printed are processor seconds (wall time is useless on a busy machine) and the
largest resident memory. Runs are generated; the launched ones use a trainer that learns nothing.
"""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
from rich.console import Console

from p3kit.launch import make_runs
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.rundir.rows import write_json
from tests.launch.conftest import FakePlan
from tests.launch.launching import launch
from tests.made_runs import make_run

Figures = dict[str, Any]
COMMANDS: dict[str, Sequence[str]] = {
    "runs": ["runs"],
    "runs --json": ["runs", "--json"],
    "diagnose RUN": ["diagnose", "latest"],
    "compare RUN RUN": ["compare", "1", "latest"],
    "export best": ["export", "best"],
    "report --week 1": ["report", "--week", "1"],
    "report --lessons": ["report", "--lessons"],
}


FROM_A_SMALL_ONE = """
import json, os, sys
quiet = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[quiet])
_, status, used = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""A process begins with the memory of the one it was forked from as its largest so far; this one has next to none."""


def in_a_process(words: Sequence[str], folder: Path) -> Figures:
    """Processor seconds and largest resident memory (MB) of one process."""
    command = [sys.executable, "-S", "-c", FROM_A_SMALL_ONE, sys.executable, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    code, seconds, kilobytes = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}: {done.stderr[-2000:]}")
    return {"cpu_s": round(seconds, 2), "memory_mb": round(kilobytes / 1e3)}


def many_runs(folder: Path, count: int) -> Figures:
    """`count` run directories of one experiment, an agent each, and the commands that look at all of them."""
    symbols = [f"S{number:04d}" for number in range(count)]
    with mock.patch("os.fsync"):
        for symbol in symbols:
            make_run(folder / "runs", symbol=symbol, symbols=symbols[:10], started=time.time() - 7_200)
    return {name: in_a_process(["-m", "p3kit", *words], folder) for name, words in COMMANDS.items()}


def a_long_run(folder: Path, count: int) -> Figures:
    """One run with `count` rows of metrics: what looks at it from outside, follows it, and makes it ready to go on."""
    run = make_run(folder / "runs", state="running", verdict=None)
    last = run.read_metrics()[-1]
    names = list(last["metrics"])[:5]
    file, tail = run.path / "metrics.jsonl", 100
    for first in [*range(0, count - tail, 10_000), count - tail]:
        offset = file.stat().st_size
        rows = [
            {"agent": "AAPL", "iteration": n, "global_step": 100_000 + n, "time": last["time"],
             "metrics": {name: float(n) for name in names}}
            for n in range(first, min(first + 10_000, count - tail) if first < count - tail else count)
        ]  # fmt: skip
        run.append_metrics(rows)
    python = f"from p3kit.rundir import RunDir; run = RunDir.open({str(run.path)!r}); "
    return {
        "rows": count,
        "file_mb": round(file.stat().st_size / 1e6),
        "runs": in_a_process(["-m", "p3kit", "runs"], folder),
        "the newest rows, as the mirror follows them": in_a_process(
            ["-c", python + f"assert len(run.tail_metrics({offset})[0]) == {tail}"], folder
        ),
        "its checksums": in_a_process(["-c", python + "run.verify()"], folder),
        "the cut before a resume": in_a_process(
            ["-c", python + f"assert run.cut_after({{'AAPL': {99_999 + count - tail}}}) == {tail}"], folder
        ),
    }


def many_processes(folder: Path, count: int) -> Figures:
    """`count` runs trained by one launcher, two at a time: its resident memory (MB) after every tenth."""
    memory: list[float] = []
    ended: list[RunDir] = []

    def note(run: RunDir) -> None:
        ended.append(run)
        if len(ended) % 10 == 0 or len(ended) == count:
            memory.append(round(resident_mb(), 1))

    plans: Any = [FakePlan(f"A{n}", {"total_timesteps": 200, "pause": 0.001}) for n in range(count)]
    loaded: Any = SimpleNamespace(path=Path("x.toml"), source_text="", spec=SimpleNamespace(name="large"))
    console = Console(file=io.StringIO())
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = launch(make_runs(plans, loaded, {}, folder / "runs", command=[]), jobs=2, console=console, on_end=note)
    after = resource.getrusage(resource.RUSAGE_SELF)
    if set(outcome.states.values()) != {"done"}:
        raise SystemExit(f"not all runs ended well: {outcome.states}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"runs": count, "launcher_cpu_s": round(cpu, 2), "launcher_memory_mb": memory}


def resident_mb() -> float:
    """Of this process, now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(part: Callable[[Path, int], Figures], count: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="p3kit-large-") as folder:
        return part(Path(folder), count)


@click.command(help=__doc__)
@click.option("--runs", default=1_000, show_default=True, help="Run directories to be listed and reported.")
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of metrics of the long run.")
@click.option("--launched", default=150, show_default=True, help="Runs of one launcher.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(runs: int, rows: int, launched: int, output: Path | None) -> None:
    command = f"python -m tests.measure.benchmarks.large --runs {runs} --rows {rows} --launched {launched}"
    cores, machine = len(os.sched_getaffinity(0)), platform.processor() or platform.machine()
    figures: Figures = {
        "how": {**provenance(), "command": command, "cores": cores, "machine": machine, "load": os.getloadavg()[0]},
        "many_runs": {"count": runs, **measured(many_runs, runs)},
        "a_long_run": measured(a_long_run, rows),
        "many_processes": measured(many_processes, launched),
    }
    print(figures)
    if output:
        write_json(output, figures)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    main()
