"""Our trainers beside other people's PPO, in turn, round after round; the table and the plot of docs/benchmarks.md.

  python tests/measure/benchmarks/trainer_speed.py  all of it: somewhat over an hour on 2 quiet cores
    python tests/measure/benchmarks/trainer_speed.py --rounds 2 --only stacked sb3_best
  python tests/measure/benchmarks/trainer_speed.py --render  the page and the plot again, nothing measured
  python tests/measure/benchmarks/trainer_speed.py --torchtrade PYTHON  an interpreter that has torchtrade beside p3kit

Each measurement goes into docs/benchmarks/trainers.json at once, so that an interrupted run continues; `--fresh` starts
from scratch, which is necessary after the code has changed. Stop all other work: the load of the machine before each
measurement is recorded.

Our rows are a whole `p3kit run`, started as a user starts it, with everything on. The first time, ours
is run once before it is measured, so that what torch.compile makes is found in the cache; *cold* is without a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from p3kit.rundir import RunDir, list_runs

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks" / "trainers.json"
CACHE = Path(tempfile.gettempdir()) / "p3kit-benchmark-inductor"
SYMBOLS = ("AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM")
JOBS = 2
"""Processes at a time, on both sides: the reference machine has two cores."""
REFERENCE = "stacked"
Measured = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """One contestant: its workload and its command."""

    name: str
    title: str
    kind: str  # "ours", or a kind of peers.py
    agents: int  # each on a symbol of its own
    steps: int  # env steps per agent
    trainer: str = "ppo_stacked"
    processes: int = JOBS  # of peers: so many agents at a time
    against: str = REFERENCE  # whose rate is divided by this one's
    window: int = 24
    num_envs: int = 8
    knobs: Mapping[str, Any] = field(default_factory=dict)
    compile: str = "auto"
    precision: str = "fp32"
    source: str = "sample"
    evaluate_every: int = 5_000
    cold: bool = False

    def spec(self) -> str:
        """The spec as TOML: the guide's numbers, and no early end on either side."""
        made = self.source == "synthetic"
        symbols = [f"S{i:03}" for i in range(self.agents)] if made else list(SYMBOLS[: self.agents])
        knobs = {"total_timesteps": self.steps, **self.knobs}
        lines = [
            'name = "speed"',
            f'trainer = "{self.trainer}"',
            f"symbols = {json.dumps(symbols)}",
            f'[data]\nsource = "{self.source}"' + ("\nsynthetic = { bars = 4_000 }" if made else ""),
            f"[env]\nwindow = {self.window}\nnum_envs = {self.num_envs}",
            f'[compute]\ncompile = "{self.compile}"\nprecision = "{self.precision}"',
            '[early_stop]\npatience = "off"\nstretch_sharpe = "off"',
            f"[evaluation]\nevery = {self.evaluate_every}",
            '[ppo]\ntarget_kl = "off"',
            *(f"{name} = {json.dumps(value)}" for name, value in knobs.items()),
        ]
        return "\n".join(lines) + "\n"


WIDE: dict[str, Any] = {"hidden": [256, 256]}
SHARED = {"n_steps": 512}
CONTESTANTS = (
    Contestant("sb3_best", "SB3 PPO, 2 processes of 1 thread", "dummy", 2, 16_384),
    Contestant("stacked", "p3kit, ppo_stacked", "ours", 10, 98_304),
    Contestant("stacked_short", "p3kit, ppo_stacked, short run", "ours", 10, 49_152),
    Contestant("stacked_bf16", "p3kit, ppo_stacked, bf16", "ours", 10, 98_304, precision="bf16"),
    Contestant("sb3_prescribed", "SB3 PPO, SubprocVecEnv × 8, one symbol at a time", "subproc", 1, 16_384, processes=1),
    Contestant("sb3_dummy", "SB3 PPO, its DummyVecEnv × 8, 2 processes of 1 thread", "scalar", 2, 16_384),
    Contestant("maskable", "sb3-contrib MaskablePPO, 2 processes of 1 thread", "masked", 2, 16_384),
    Contestant("torchtrade", "TorchTrade's PPO modules, update alone, 2 processes", "torchrl", 2, 16_384),
    Contestant("ppo", "p3kit, ppo (one agent per process)", "ours", 2, 32_768, "ppo"),
    Contestant("ppo_compiled", "p3kit, ppo, compiled", "ours", 2, 32_768, "ppo", compile="on"),
    Contestant("wide", "p3kit, ppo_stacked, 2 × 256", "ours", 10, 49_152, knobs=WIDE),
    Contestant("sb3_wide", "SB3 PPO, 2 × 256, 2 processes", "dummy", 2, 16_384, knobs=WIDE, against="wide"),
    Contestant(
        "sb3_wide_dummy",
        "SB3 PPO, 2 × 256, its DummyVecEnv × 8, 2 processes",
        "scalar",
        2,
        16_384,
        knobs=WIDE,
        against="wide",
    ),
    Contestant(
        "shared", "p3kit, ppo_shared (transformer)", "ours", 10, 8_192, "ppo_shared", knobs=SHARED, compile="on"
    ),
    Contestant(
        "sb3_shared", "SB3 PPO, same transformer", "shared", 2, 4_096, "ppo_shared", knobs=SHARED, against="shared"
    ),
)
SHORT: dict[str, Any] = {"knobs": {"n_steps": 512}, "compile": "on", "evaluate_every": 16_384}
"""Of growth: short rollouts, evaluated as seldom as the reference workload is."""
GROWTH = (
    Contestant("cold", "no cache", "ours", 10, 98_304, cold=True),
    *(Contestant(f"agents_{k}", str(k), "ours", k, 8_192, source="synthetic", **SHORT) for k in (1, 10, 50, 143)),
    *(Contestant(f"envs_{n}", str(n), "ours", 10, 1_024 * n, num_envs=n, **SHORT) for n in (8, 16, 64)),
    *(Contestant(f"window_{w}", str(w), "ours", 10, 8_192, window=w, **SHORT) for w in (1, 24, 48)),
)


# ── measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(contestant: Contestant, torchtrade: str) -> Measured:
    """One measurement, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "speed.toml").write_text(contestant.spec(), encoding="utf-8")
        load = os.getloadavg()[0]
        play = ours if contestant.kind == "ours" else peers
        result = play(contestant, folder, torchtrade)
    return {"contestant": contestant.name, "load_before": round(load, 2), "measured_at": time.time(), **result}


def ours(contestant: Contestant, folder: Path, torchtrade: str) -> Measured:
    """`p3kit run` from the command to the prompt, and what its trainers recorded of themselves."""
    cache = folder / "inductor" if contestant.cold else CACHE
    command = [sys.executable, "-m", "p3kit", "run", "speed.toml", "--no-aim", "--runs", "runs", "--jobs", str(JOBS)]
    begin = time.time()
    wall_s, cpu_s, _ = run_all([command], folder, environment(threads=None) | {"TORCHINDUCTOR_CACHE_DIR": str(cache)})
    runs = list_runs(folder / "runs")
    tables = [iterations(run) for run in runs]
    gradient_steps = sum(table["gradient_steps"] for table in tables)
    return {
        "steps": contestant.agents * contestant.steps,
        "gradient_steps": gradient_steps,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "rate": contestant.agents * contestant.steps / wall_s,
        "steady_rate": min(JOBS, len(runs)) * statistics.mean(table["rate"] for table in tables),
        "update_share": statistics.mean(table["update_share"] for table in tables),
        **phases(runs, begin, begin + wall_s),
        "memory_mb": sum(sorted(table["memory_mb"] for table in tables)[-JOBS:]),
        "runs": len(runs),
    }


def phases(runs: Sequence[RunDir], begin: float, end: float) -> dict[str, float]:
    """Seconds of a command outside its updates and rollouts: until the first rollout, what the first iteration takes
    longer than the others (loading or compiling kernels), and from the last update to the prompt."""
    first, loading, last = [], [], []
    for run in runs:
        rows = [row for row in run.read_metrics() if "perf/update_s" in row["metrics"]]
        by_iteration: dict[int, Any] = {row["iteration"]: row for row in rows}  # a stack's agents share the seconds
        work = {
            k: row["metrics"]["perf/rollout_s"] + row["metrics"]["perf/update_s"] for k, row in by_iteration.items()
        }
        first.append(by_iteration[1]["time"] - work[1])
        loading.append(work[1] - statistics.mean([seconds for k, seconds in work.items() if k > 1] or [work[1]]))
        last.append(max(row["time"] for row in rows))
    return {"start_s": min(first) - begin, "loading_s": statistics.mean(loading), "end_s": end - max(last)}


def iterations(run: RunDir) -> dict[str, float]:
    """Figures of a run: its env steps per second after the first iteration (which holds all one-time work), the
    gradient steps of all agents, the update's share of the time, and its peak memory."""
    rows = run.read_metrics()
    whole = [row for row in rows if "perf/update_s" in row["metrics"]]
    last = max(row["iteration"] for row in whole)
    spec = run.info()["spec"]
    batches = spec["ppo"]["n_steps"] * spec["env"]["num_envs"] / spec["ppo"]["batch_size"]

    def end(iteration: int) -> float:
        return max(row["time"] for row in rows if row["iteration"] == iteration)

    later = [row for row in whole if row["iteration"] > 1]
    agents = len(run.agent_names())
    first_steps = min(row["global_step"] for row in whole)
    steps = agents * (max(row["global_step"] for row in whole) - first_steps)
    update_s = sum(row["metrics"]["perf/update_s"] for row in later) / agents  # each agent reports a stack's update
    return {
        "rate": steps / (end(last) - end(1)),
        "gradient_steps": sum(row["metrics"]["policy/epochs_done"] * batches for row in whole),
        "update_share": update_s / (end(last) - end(1)),
        "memory_mb": max(row["metrics"]["perf/memory_mb"] for row in whole),
    }


def peers(contestant: Contestant, folder: Path, torchtrade: str) -> Measured:
    """One process per agent, as many at a time as the contestant has; only the time inside training counts."""
    python = torchtrade if contestant.kind == "torchrl" else sys.executable
    script = str(Path(__file__).with_name("peers.py"))
    commands = [[python, script, "speed.toml", symbol, contestant.kind] for symbol in SYMBOLS[: contestant.agents]]
    alone = contestant.processes == 1
    wall_s, cpu_s, printed = run_all(commands, folder, environment(threads=None if alone else 1))
    timings = [json.loads(text.splitlines()[-1]) for text in printed]
    steps = sum(timing["steps"] for timing in timings)
    return {
        "steps": steps,
        "gradient_steps": sum(timing["gradient_steps"] for timing in timings),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "rate": sum(timing["steps"] / timing["train_s"] for timing in timings),
        "update_rate": sum(timing["steps"] / timing["update_s"] for timing in timings),
        "update_share": statistics.mean(timing["update_s"] / timing["train_s"] for timing in timings),
        "runs": len(commands),
    }


def environment(threads: int | None) -> dict[str, str]:
    """Ours sets its own threads; a peer alone takes what PyTorch gives it; peers side by side get one each."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return own | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})


def run_all(commands: Sequence[list[str]], folder: Path, env: Mapping[str, str]) -> tuple[float, float, list[str]]:
    """Start all commands together; seconds until the last one ended, their CPU seconds, and what each printed."""
    before, begin = os.times(), time.perf_counter()
    outs = [(folder / f"{i}.out").open("w+", encoding="utf-8") for i in range(len(commands))]
    errors = [(folder / f"{i}.err").open("w+", encoding="utf-8") for i in range(len(commands))]
    started = [
        subprocess.Popen(command, cwd=folder, env=dict(env), stdout=out, stderr=error)
        for command, out, error in zip(commands, outs, errors, strict=True)
    ]
    codes = [process.wait() for process in started]
    wall_s, after = time.perf_counter() - begin, os.times()
    texts = []
    for code, command, out, error in zip(codes, commands, outs, errors, strict=True):
        out.seek(0)
        error.seek(0)
        texts.append(out.read())
        if code != 0:
            raise RuntimeError(f"{' '.join(command)} ended with exit code {code}:\n{error.read()[-3000:]}")
        out.close()
        error.close()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return wall_s, cpu_s, texts


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_results(fresh: bool) -> Measured:
    """Results so far for this commit, or an empty document."""
    here = describe_machine()
    if fresh or not RESULTS.exists():
        return {"made_by": here, "warmed": [], "rounds": [], "growth": []}
    found: Measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    if found["made_by"] != here:
        different = [name for name in here if found["made_by"].get(name) != here[name]]
        sys.exit(f"{RESULTS.relative_to(ROOT)} was measured with other {', '.join(different)}; --fresh starts again")
    return found


def write_results(results: Measured) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    draft = RESULTS.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draft.replace(RESULTS)


def describe_machine() -> Measured:
    """Versions and machine that a figure depends on."""
    trained = ("p3kit", "trainers")
    commit = git("log", "-1", "--format=%h", "--", *trained)  # a commit of other files changes no figure
    packages = ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")
    return {
        "commit": commit + ("+changes" if git("status", "--porcelain", "--", *trained) else ""),
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
        "workloads": {c.name: json.loads(json.dumps(asdict(c))) for c in (*CONTESTANTS, *GROWTH)},
    }


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """The processor's name from Linux."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


def measure_all(results: Measured, rounds: int, chosen: Sequence[str], torchtrade: str) -> None:
    """Everything chosen that has not been measured yet: round after round, then growth once."""
    field_of_play = [c for c in CONTESTANTS if c.name in chosen and (c.kind != "torchrl" or torchtrade)]
    growth = [c for c in GROWTH if c.name in chosen]
    for contestant in [c for c in (*field_of_play, *growth) if c.kind == "ours" and not c.cold]:
        if contestant.name not in results["warmed"] or not CACHE.exists():
            say(f"{contestant.name}: once for the cache", measure(contestant, torchtrade))
            results["warmed"].append(contestant.name)
            write_results(results)
    for number in range(1, rounds + 1):
        done = {one["contestant"] for one in results["rounds"] if one["round"] == number}
        for contestant in [c for c in field_of_play if c.name not in done]:
            result = {"round": number, **measure(contestant, torchtrade)}
            results["rounds"].append(result)
            write_results(results)
            say(f"round {number}  {contestant.name}", result)
    done = {one["contestant"] for one in results["growth"]}
    for contestant in [c for c in growth if c.name not in done]:
        result = measure(contestant, torchtrade)
        results["growth"].append(result)
        write_results(results)
        say(f"growth  {contestant.name}", result)


def say(what: str, result: Measured) -> None:
    steady = f", steady {result['steady_rate']:,.0f}" if "steady_rate" in result else ""
    print(
        f"{what:<32}{result['rate']:>9,.0f} steps/s{steady}   ({result['wall_s']:.0f} s, "
        f"{result['cpu_s']:.0f} s of CPU, load {result['load_before']})",
        flush=True,
    )


def main() -> None:
    names = [c.name for c in (*CONTESTANTS, *GROWTH)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--fresh", action="store_true", help="forget what was measured, and the compiler's cache")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page and the plot")
    parser.add_argument("--torchtrade", default="", metavar="PYTHON", help="an interpreter with torchtrade installed")
    arguments = parser.parse_args()
    if not arguments.render:
        if arguments.fresh:
            shutil.rmtree(CACHE, ignore_errors=True)
        found = read_results(arguments.fresh)
        measure_all(found, arguments.rounds, arguments.only, arguments.torchtrade)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    from tests.measure.benchmarks.speed_page import write_page

    write_page(results, CONTESTANTS, GROWTH, ROOT / "docs")


if __name__ == "__main__":
    main()
