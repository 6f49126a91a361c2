"""Measure the cost of the diagnosis: a run with and without it, in alternating rounds; the table in docs/diagnosis.md.

    python tests/measure/benchmarks/diagnosis_overhead.py                   four workloads, twenty minutes
    python tests/measure/benchmarks/diagnosis_overhead.py --rounds 3 --only guide
    python tests/measure/benchmarks/diagnosis_overhead.py --render          the table again, nothing measured

Every workload is trained in three ways from one seed: *on* as it comes; *unwatched*, with `diagnose.mode = "off"`,
with evidence but without a diagnosis; *bare*, where neither evidence nor the shape of the reward is measured.
All three must learn the same. A run is a process forked from one that has imported everything. Its processor time from
the first line of `main` to the last counts, evaluations and checkpoints included. The table has medians over rounds of
the ratio within a round, with the smallest and the largest. The load before each run is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from torch import Tensor

import p3kit.runtime.agent as agent_module
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.runtime.agent_run import AgentRun
from p3kit.runtime.evidence import sample_rows
from p3kit.runtime.iteration import Iteration
from p3kit.runtime.stack_run import Stack
from p3kit.runtime.stacking import to_rows
from p3kit.spec import resolve_spec
from p3kit.spec.trainer_file import read_trainer
from tests.measure.suite.suite_runs import import_what_all_need, load
from tests.measure.suite.tables import short

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks" / "diagnosis.json"
PAGE = ROOT / "docs" / "diagnosis.md"
BEGIN, END = "<!-- overhead -->", "<!-- end of overhead -->"
NOT_MEASURED = "Not measured yet: `python tests/measure/benchmarks/diagnosis_overhead.py` on a quiet machine."
Variant = Literal["on", "unwatched", "bare"]
VARIANTS: tuple[Variant, ...] = ("on", "unwatched", "bare")
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


@contextlib.contextmanager
def no_evidence() -> Iterator[None]:
    """Train without evidence for the diagnosis: what p3kit.runtime measures beside the metrics of PPO is left out."""

    def of_agent(run: Any, iteration: Iteration, *_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        buffer: Any = iteration.buffer
        rows = sample_rows(iteration.rows, run.device)
        index, account = (table.flatten(0, 1)[rows] for table in (buffer.index, buffer.account))
        return run._env.observe(index, account), {"reward/scale": iteration.rewards.scale}

    def of_stack(stack: Any, buffer: Any, iterations: Sequence[Iteration], *_: Any) -> tuple[Tensor, list[Any]]:
        rows = sample_rows(iterations[0].rows, stack.device)
        index, account = (to_rows(table)[:, rows] for table in (buffer.index, buffer.account))
        return stack._env.observe(index, account), [{"reward/scale": one.rewards.scale} for one in iterations]

    with (
        mock.patch.object(AgentRun, "_evidence", of_agent),
        mock.patch.object(Stack, "_evidence", of_stack),
        mock.patch.object(agent_module, "reward_shape", return_value={}),
        mock.patch.object(agent_module, "episode_correlations", return_value={}),
    ):
        yield


def measure(workload: str, variant: Variant) -> Measured:
    """One run in a process of its own."""
    load_before = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="p3kit-overhead-") as folder:
        told = Path(folder) / "told.json"
        process = multiprocessing.get_context("fork").Process(target=_train, args=(workload, variant, told))
        process.start()
        process.join()
        if not told.exists():
            log = next(Path(folder).glob("run-*/log.txt"), None)
            raise RuntimeError(f"{workload} {variant}: {log.read_text()[-2000:] if log else 'no run'}")
        return {"variant": variant, "load_before": load_before, **json.loads(told.read_text())}


def _train(workload: str, variant: Variant, told: Path) -> None:
    tables: Tables = {**_ALWAYS, **WORKLOADS[workload][1]}
    if variant != "on":
        tables["diagnose"] = {"mode": "off"}
    spec = resolve_spec(tables, workload)
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    directory = RunDir.create(
        told.parent, plan.run_json(load_market(spec, spec.symbols), ["overhead"]), "", plan.trainer
    )
    module = load(directory.trainer_file)
    with directory.log_file.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = [str(directory.trainer_file), "--run-dir", str(directory.path)]
    before, clock = _cpu_seconds(), time.perf_counter()
    with contextlib.suppress(SystemExit), no_evidence() if variant == "bare" else contextlib.nullcontext():
        module.main()
    spent: Measured = {"cpu_s": _cpu_seconds() - before, "wall_s": time.perf_counter() - clock}
    if directory.status()["state"] == "done":
        returns = [directory.series(agent)["eval/total_return"].values.tolist() for agent in directory.agent_names()]
        told.write_text(json.dumps(spent | {"returns": returns}))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ratios(runs: Sequence[Mapping[str, Any]], over: Variant) -> list[float]:
    """on / `over` in processor time, one of each round."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        by_round.setdefault(run["round"], {})[run["variant"]] = run["cpu_s"]
    return [one["on"] / one[over] for one in by_round.values() if {"on", over} <= one.keys()]


def render(results: Mapping[str, Any]) -> str:
    """The table, with how it was measured."""
    made = results["made_by"]
    lines = [
        f"`python tests/measure/benchmarks/diagnosis_overhead.py`, commit {made['commit']}, {made['cores']} cores, "
        f"{made['machine']}, torch {made['torch']}; processor time of whole runs, paired within "
        f"{max(run['round'] for run in results['runs'])} rounds; load before a run "
        f"{min(run['load_before'] for run in results['runs'])} to "
        f"{max(run['load_before'] for run in results['runs'])}.",
        "",
        "| workload | CPU seconds | all of it (on ÷ bare) | judging alone (on ÷ unwatched) |",
        "|---|---|---|---|",
    ]
    for name, (title, _) in WORKLOADS.items():
        runs = [run for run in results["runs"] if run["workload"] == name]
        if runs:
            seconds = statistics.median(run["cpu_s"] for run in runs if run["variant"] == "on")
            cells = [title, f"{seconds:.1f}", _ratio(ratios(runs, "bare")), _ratio(ratios(runs, "unwatched"))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(found: Sequence[float]) -> str:
    if not found:
        return "not measured"
    middle, low, high = (one - 1 for one in (statistics.median(found), min(found), max(found)))
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def write_page(results: Mapping[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
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
            returns = []
            for variant in rotated(VARIANTS, number):
                result = {"round": number, "workload": workload, **measure(workload, variant)}
                returns.append(result.pop("returns"))
                results["runs"].append(result)
                print(f"round {number}  {workload:<8} {variant:<10} {result['cpu_s']:7.2f} s of CPU", flush=True)
            if any(other != returns[0] for other in returns):
                raise RuntimeError(f"{workload}: the variants did not learn the same")
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results)
    print(render(results))


def rotated(variants: Sequence[Variant], by: int) -> Sequence[Variant]:
    """Another one first in every round: what comes first finds the machine otherwise than what comes last."""
    start = by % len(variants)
    return [*variants[start:], *variants[:start]]


if __name__ == "__main__":
    main()
