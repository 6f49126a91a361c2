"""The learning table of trainers/README.md: shares of the attainable score on unseen bars after 100,000 steps.

    python -m tests.measure.learning.scored --seeds 12                      every row, table on stdout
    python -m tests.measure.learning.scored separate guide --seeds 12       some rows
    python -m tests.measure.learning.scored separate --symbols DRILL4 --set ppo.gamma=0.95    a setting, not scored

Each row but `guide` extends specs/recommended.toml and changes name, trainer, symbols, seeds, [data] and [early_stop]
alone. The market is that of specs/learning.toml; the test split is scored. Results are kept in --work, a file per row
and seed, so that an interrupted command continues. Rows "as much time" take more steps: as many as use the processor
seconds that Stable-Baselines3 used for its 100,000.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from p3kit.errors import InputError
from p3kit.market import load_market
from p3kit.rundir import list_runs
from p3kit.runtime.evaluation import Policy
from p3kit.spec import Spec, agent_spec, load_spec

from .learning_scores import score, scores

SPECS = Path(__file__).parents[3] / "specs"
SEPARATE, SHARED = ("EDGE",), ("EDGE1", "EDGE2", "EDGE3")


class Row(NamedTuple):
    """A row of the table."""

    title: str
    base: str
    """The spec that it extends."""
    trainer: str
    symbols: tuple[str, ...]
    """Symbols that are scored."""
    steps_of: str = ""
    """The row from whose processor seconds the number of steps follows, so that an agent uses those of `sb3`."""


ROWS = {
    "separate": Row("recommended, separate nets", "recommended.toml", "ppo_stacked", SEPARATE),
    "shared": Row("recommended, one encoder for three symbols", "recommended.toml", "ppo_shared", SHARED),
    "guide": Row("the guide's sizes, separate nets", "phase3.toml", "ppo_stacked", SEPARATE),
    "sb3": Row("Stable-Baselines3 PPO, recommended sizes", "recommended.toml", "ppo_stacked", SEPARATE),
    "maskable": Row("sb3-contrib MaskablePPO, recommended sizes", "recommended.toml", "ppo_stacked", SEPARATE),
    "separate_time": Row(
        "recommended, separate nets, as much time as Stable-Baselines3",
        "recommended.toml",
        "ppo_stacked",
        SEPARATE,
        "separate",
    ),
    "shared_time": Row(
        "recommended, one encoder, as much time as Stable-Baselines3",
        "recommended.toml",
        "ppo_shared",
        SHARED,
        "shared",
    ),
}
STEPS = 100_000
"""Env steps per agent of a row, if they do not follow from a time."""
OTHERS = ("sb3", "maskable")
"""Rows of other libraries."""

EXPERIMENT = """
name = "scored"
extends = "{base}"
trainer = "{trainer}"
symbols = {symbols}
seeds = {seeds}

[data]
source = "synthetic"
split = {{ train = 0.55, validation = 0.15, test = 0.30 }}

[data.synthetic]
bars = 80_000
regimes = false

[ppo]
total_timesteps = {steps}

[early_stop]
patience = "off"
stretch_sharpe = "off"
"""


def write_spec(folder: Path, row: str, symbols: Sequence[str], seeds: Sequence[int], steps: int = STEPS) -> Path:
    """Write the experiment of a row, with `steps` env steps per agent."""
    own = ROWS[row]
    folder.mkdir(parents=True, exist_ok=True)
    text = EXPERIMENT.format(
        base=own.base, trainer=own.trainer, symbols=json.dumps(list(symbols)), seeds=list(seeds), steps=steps
    )
    file = folder / f"{row}.toml"
    file.write_text(text, encoding="utf-8")
    return file


Shares = dict[str, dict[int, float]]
"""By symbol and seed."""


def train_ours(spec: Path, runs: Path, changes: Sequence[str]) -> tuple[Shares, float]:
    """Run a spec as a user does. Shares of all agents, of the chosen weights, and processor seconds per agent."""
    flags = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "p3kit", "run", str(spec), "--no-aim", "--runs", str(runs), *flags]
    before = processor_seconds()
    subprocess.run(command, check=True, stdout=sys.stderr)
    spent = processor_seconds() - before
    found: Shares = {}
    for run in list_runs(runs):
        agents = {agent["name"]: agent for agent in run.info()["agents"]}
        for name, result in scores(run).items():
            found.setdefault(agents[name]["symbol"], {})[agents[name]["seed"]] = result.share
    return found, spent / sum(map(len, found.values()))


def train_other(
    spec: Spec, seeds: Sequence[int], train: Callable[[Spec, Any, str, int], Policy]
) -> tuple[Shares, float]:
    """Train another library's agent for each seed of the one symbol of `spec`; results as in `train_ours`."""
    (symbol,) = spec.symbols
    bars = load_market(spec, [symbol])[symbol]
    before = processor_seconds()
    policies = {seed: train(spec, bars, symbol, seed) for seed in seeds}
    spent = processor_seconds() - before
    return {symbol: {seed: score(spec, symbol, policy).share for seed, policy in policies.items()}}, spent / len(seeds)


def batches(row: str, seeds: Sequence[int]) -> list[Sequence[int]]:
    """Seeds that are trained together: all of ours, one of another library's."""
    if row in OTHERS:
        return [[seed] for seed in seeds]
    return [seeds] if seeds else []


def steps_of(row: str, work: Path) -> int:
    """Env steps per agent. Raises InputError where the results are missing that they follow from."""
    if not (base := ROWS[row].steps_of):
        return STEPS
    files = [work / f"{name}.json" for name in ("sb3", base)]
    if missing := [file for file in files if not file.exists()]:
        raise InputError(
            str(missing[0]), f"is missing, and the steps of {row} follow from it", "measure that row first"
        )
    theirs, ours = (median(one["seconds"] for one in json.loads(file.read_text()).values()) for file in files)
    return max(round(STEPS * theirs / ours), STEPS)


Results = dict[str, dict[str, float]]
"""By seed: `share`, the mean over the symbols, and `seconds` of a processor per agent."""


def measure(row: str, symbols: Sequence[str], seeds: Sequence[int], work: Path, changes: Sequence[str]) -> Results:
    """Results of each seed. Only the missing seeds are trained."""
    kept = work / f"{row}.json"
    done: Results = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [seed for seed in seeds if str(seed) not in done]
    for some in batches(row, missing):
        spec = write_spec(work, row, symbols, some, steps_of(row, work))
        if row in OTHERS:
            from . import sb3

            loaded = agent_spec(load_spec(spec, list(changes)).spec, symbols[0])
            found, seconds = train_other(loaded, some, sb3.train if row == "sb3" else sb3.train_maskable)
        else:
            found, seconds = train_ours(spec, work / f"runs-{row}-{some[0]}", changes)
        for seed in some:
            share = sum(by_seed[seed] for by_seed in found.values()) / len(found)
            done[str(seed)] = {"share": share, "seconds": seconds}
        kept.write_text(json.dumps(done))
    return {str(seed): done[str(seed)] for seed in seeds}


def line(title: str, results: Results) -> str:
    """A row of the table."""
    shares, seconds = ([one[name] for one in results.values()] for name in ("share", "seconds"))
    each = " ".join(f"{share:.2f}" for share in shares)
    return f"| {title} | {median(shares):.2f} | {min(shares):.2f} | {each} | {median(seconds):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--symbols", nargs="+", help="others than the scored ones")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("scored"))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    print("| | median | worst | each seed | processor seconds per agent |\n|---|---|---|---|---|")
    for row in chosen.rows:
        symbols, seeds = chosen.symbols or ROWS[row].symbols, range(1, chosen.seeds + 1)
        print(line(ROWS[row].title, measure(row, symbols, seeds, chosen.work, chosen.changes)), flush=True)


def processor_seconds() -> float:
    """Of this process and of those that it has started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
