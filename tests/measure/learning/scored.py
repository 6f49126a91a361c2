"""The learning table of trainers/README.md: shares of the attainable score on unseen bars after 100,000 steps.

    python -m tests.measure.learning.scored --seeds 12                      every row, table on stdout
    python -m tests.measure.learning.scored separate guide --seeds 12       some rows
    python -m tests.measure.learning.scored separate --symbols DRILL4 --set ppo.gamma=0.95    a setting, not scored

Each row but `guide` extends specs/recommended.toml and changes name, trainer, symbols, seeds, [data] and [early_stop]
alone. The market is that of specs/learning.toml; the test split is scored. Results are kept in --work, a file per row
and seed, so that an interrupted command continues.
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
from typing import Any

import torch

from p3kit.market import load_market
from p3kit.rundir import list_runs
from p3kit.runtime.evaluation import Policy
from p3kit.spec import Spec, agent_spec, load_spec

from .learning_scores import score, scores

SPECS = Path(__file__).parents[3] / "specs"
SEPARATE, SHARED = ("EDGE",), ("EDGE1", "EDGE2", "EDGE3")
ROWS = {
    "separate": ("recommended, separate nets", "recommended.toml", "ppo_stacked", SEPARATE),
    "shared": ("recommended, one encoder for three symbols", "recommended.toml", "ppo_shared", SHARED),
    "guide": ("the guide's sizes, separate nets", "phase3.toml", "ppo_stacked", SEPARATE),
    "sb3": ("Stable-Baselines3 PPO, recommended sizes", "recommended.toml", "ppo_stacked", SEPARATE),
    "maskable": ("sb3-contrib MaskablePPO, recommended sizes", "recommended.toml", "ppo_stacked", SEPARATE),
}
"""Row: title, the spec that it extends, trainer, symbols that are scored."""

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

[early_stop]
patience = "off"
stretch_sharpe = "off"
"""


def write_spec(folder: Path, row: str, symbols: Sequence[str], seeds: Sequence[int]) -> Path:
    """Write the experiment of a row."""
    _, base, trainer, _ = ROWS[row]
    folder.mkdir(parents=True, exist_ok=True)
    text = EXPERIMENT.format(base=base, trainer=trainer, symbols=json.dumps(list(symbols)), seeds=list(seeds))
    file = folder / f"{row}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def train_ours(spec: Path, runs: Path, changes: Sequence[str]) -> dict[str, dict[int, float]]:
    """Run a spec as a user does. Shares of all agents by seed, of the chosen weights."""
    flags = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "p3kit", "run", str(spec), "--no-aim", "--runs", str(runs), *flags]
    subprocess.run(command, check=True, stdout=sys.stderr)
    found: dict[str, dict[int, float]] = {}
    for run in list_runs(runs):
        agents = {agent["name"]: agent for agent in run.info()["agents"]}
        for name, result in scores(run).items():
            found.setdefault(agents[name]["symbol"], {})[agents[name]["seed"]] = result.share
    return found


def train_other(
    spec: Spec, seeds: Sequence[int], train: Callable[[Spec, Any, str, int], Policy]
) -> dict[str, dict[int, float]]:
    """Train another library's agent for each seed of the one symbol of `spec`."""
    (symbol,) = spec.symbols
    bars = load_market(spec, [symbol])[symbol]
    return {symbol: {seed: score(spec, symbol, train(spec, bars, symbol, seed)).share for seed in seeds}}


def measure(row: str, symbols: Sequence[str], seeds: Sequence[int], work: Path, changes: Sequence[str]) -> list[float]:
    """Mean share over the symbols of each seed. Only the missing seeds are trained."""
    kept = work / f"{row}.json"
    done: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [seed for seed in seeds if str(seed) not in done]
    if missing:
        spec = write_spec(work, row, symbols, missing)
        if row in ("sb3", "maskable"):
            from . import sb3

            loaded = agent_spec(load_spec(spec, list(changes)).spec, symbols[0])
            found = train_other(loaded, missing, sb3.train if row == "sb3" else sb3.train_maskable)
        else:
            found = train_ours(spec, work / f"runs-{row}-{missing[0]}", changes)
        for seed in missing:
            done[str(seed)] = sum(by_seed[seed] for by_seed in found.values()) / len(found)
        kept.write_text(json.dumps(done))
    return [done[str(seed)] for seed in seeds]


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
    print("| | median | worst | each seed | processor seconds |\n|---|---|---|---|---|")
    for row in chosen.rows:
        before = processor_seconds()
        seeds = range(1, chosen.seeds + 1)
        shares = measure(row, chosen.symbols or ROWS[row][3], seeds, chosen.work, chosen.changes)
        each = " ".join(f"{share:.2f}" for share in shares)
        spent = processor_seconds() - before
        print(f"| {ROWS[row][0]} | {median(shares):.2f} | {min(shares):.2f} | {each} | {spent:.0f} |", flush=True)


def processor_seconds() -> float:
    """Of this process and of those that it has started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
