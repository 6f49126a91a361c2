"""Measure the cost of the diagnosis: its share of the processor time of a run; the table in docs/diagnosis.md.

    python tests/measure/benchmarks/diagnosis_overhead.py                   four workloads, ten minutes
    python tests/measure/benchmarks/diagnosis_overhead.py --rounds 1 --only guide
    python tests/measure/benchmarks/diagnosis_overhead.py --render          the table again, nothing measured

A stopwatch runs in every function that a run calls for its diagnosis alone. *Evidence* is what is measured for it:
statistics of the net, the replay, the comparison of rollout and loss, the shape of the reward. *Judging* is the rows
and the rules for repairs. What they take is divided by the processor time of the same run, from the first line of
`main` to the last, evaluations and checkpoints included. Two runs, one with and one without diagnosis, would differ by
the noise of the machine, which is larger than the cost. Not seen: larger rows of metrics, and memory.

A run is a process forked from one that has imported everything, with one thread. The table has medians over rounds,
with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch

import p3kit.runtime.agent as agent_module
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.runtime.agent_run import AgentRun
from p3kit.runtime.loss_input import LossCheck
from p3kit.runtime.repair import Repair
from p3kit.runtime.rollout_check import RolloutCheck
from p3kit.runtime.rule_runner import RuleRunner
from p3kit.runtime.stack_run import Stack
from p3kit.spec import resolve_spec
from p3kit.spec.trainer_file import read_trainer
from tests.measure.suite.suite_runs import import_what_all_need, load
from tests.measure.suite.tables import short

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks" / "diagnosis.json"
PAGE = ROOT / "docs" / "diagnosis.md"
BEGIN, END = "<!-- overhead -->", "<!-- end of overhead -->"
EVIDENCE, JUDGING = "evidence", "judging"
PARTS: Mapping[str, Sequence[tuple[Any, str]]] = {
    EVIDENCE: (
        (AgentRun, "_evidence"),
        (Stack, "_evidence"),
        (RolloutCheck, "begin"),
        *((LossCheck, name) for name in ("begin", "observe", "take", "changes")),
        (agent_module, "reward_shape"),
        (agent_module, "episode_correlations"),
    ),
    JUDGING: ((Repair, "recorded"), (RuleRunner, "recorded"), (RuleRunner, "decide")),
}
"""The functions of each part, by the class or module that holds them."""
Tables = dict[str, Any]
Measured = dict[str, Any]

FIVE = ["AAPL", "AMD", "BAC", "HD", "JNJ"]
WORKLOADS: dict[str, tuple[str, Tables]] = {
    "guide": (
        "`ppo`, the guide's sizes (8 × 2048, batch 64, 10 epochs), 32,768 steps",
        {"trainer": "ppo", "symbols": ["AAPL"], "ppo": {"total_timesteps": 32_768}},
    ),
    "short": (
        "`ppo`, short updates (32 × 128, batch 512, 4 epochs, window 1), 49,152 steps: 32 gradient steps a record",
        {
            "trainer": "ppo",
            "symbols": ["AAPL"],
            "env": {"num_envs": 32, "window": 1},
            "ppo": {"total_timesteps": 49_152, "n_steps": 128, "batch_size": 512, "n_epochs": 4},
        },
    ),
    "stacked": (
        "`ppo_stacked`, five agents, the guide's sizes, 32,768 steps each",
        {"trainer": "ppo_stacked", "symbols": FIVE, "ppo": {"total_timesteps": 32_768}},
    ),
    "shared": (
        "`ppo_shared`, five agents, the guide's sizes with 512 steps, 8,192 steps each",
        {"trainer": "ppo_shared", "symbols": FIVE, "ppo": {"total_timesteps": 8_192, "n_steps": 512}},
    ),
}
_ALWAYS: Tables = {
    "name": "overhead",
    "data": {"source": "sample"},
    "compute": {"compile": "off"},
    "early_stop": {"patience": "off", "stretch_sharpe": "off"},
}


class Stopwatch:
    """Processor time inside the functions of each part. A function called by a measured one counts once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._clock, self._is_running = clock, False

    def measured(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to its part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_running:
                return function(*args, **kwargs)
            self._is_running, began = True, self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self._clock() - began
                self._is_running = False

        return timed


@contextlib.contextmanager
def stopwatch(clock: Callable[[], float]) -> Iterator[Stopwatch]:
    """Measure what the diagnosis takes inside the block."""
    watch = Stopwatch(clock)
    with contextlib.ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, watch.measured(part, getattr(owner, name))))
        yield watch


def measure(workload: str) -> Measured:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="p3kit-overhead-") as folder:
        told = Path(folder) / "told.json"
        process = multiprocessing.get_context("fork").Process(target=_train, args=(workload, told))
        process.start()
        process.join()
        if not told.exists():
            log = next(Path(folder).glob("run-*/log.txt"), None)
            raise RuntimeError(f"{workload}: {log.read_text()[-2000:] if log else 'no run'}")
        found: Measured = json.loads(told.read_text())
        return found


def _train(workload: str, told: Path) -> None:
    spec = resolve_spec({**_ALWAYS, **WORKLOADS[workload][1]}, workload)
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    directory = RunDir.create(
        told.parent, plan.run_json(load_market(spec, spec.symbols), ["overhead"]), "", plan.trainer
    )
    module = load(directory.trainer_file)
    with directory.log_file.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = [str(directory.trainer_file), "--run-dir", str(directory.path)]
    with stopwatch(time.process_time) as watch:
        before = time.process_time()
        with contextlib.suppress(SystemExit):
            module.main()
        whole = time.process_time() - before
    if directory.status()["state"] == "done":
        told.write_text(json.dumps({"cpu_s": whole, **watch.seconds}))


def render(results: Mapping[str, Any]) -> str:
    """The table, with how it was measured."""
    made = results["made_by"]
    lines = [
        f"`python tests/measure/benchmarks/diagnosis_overhead.py`, commit {made['commit']}, {made['cores']} cores, "
        f"{made['machine']}, torch {made['torch']}; share of the processor time of whole runs, "
        f"{max(run['round'] for run in results['runs'])} rounds.",
        "",
        "| workload | CPU seconds | evidence | judging | both |",
        "|---|---|---|---|---|",
    ]
    for name, (title, _) in WORKLOADS.items():
        runs = [run for run in results["runs"] if run["workload"] == name]
        if runs:
            seconds = statistics.median(run["cpu_s"] for run in runs)
            cells = [title, f"{seconds:.1f}", *(_share(runs, parts) for parts in ((EVIDENCE,), (JUDGING,), PARTS))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(runs: Sequence[Mapping[str, Any]], parts: Collection[str]) -> str:
    shares = [sum(run[part] for part in parts) / run["cpu_s"] for run in runs]
    return f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def write_page(results: Mapping[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the table")
    arguments = parser.parse_args()
    if arguments.render:
        write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    import_what_all_need()
    made = provenance()
    results: Measured = {
        "made_by": {
            "commit": short(made["git_commit"]),
            "cores": len(os.sched_getaffinity(0)),
            "machine": f"{platform.machine()}, {platform.system()}",
            "torch": made["versions"]["torch"],
        },
        "runs": [],
    }
    for number in range(1, arguments.rounds + 1):
        for workload in arguments.only:
            result = {"round": number, "workload": workload, **measure(workload)}
            results["runs"].append(result)
            parts = ", ".join(f"{part} {result[part]:.2f} s" for part in PARTS)
            print(f"round {number}  {workload:<8} {result['cpu_s']:7.2f} s of CPU, {parts}", flush=True)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results)
    print(render(results))


if __name__ == "__main__":
    main()
