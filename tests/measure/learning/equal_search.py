"""A search with an equal budget for both sides: the same random settings, on symbols and seeds that are not scored.

    python -m tests.measure.learning.equal_search separate sb3 maskable    the table on stdout

The first setting is that of specs/recommended.toml, the others are drawn. Each is trained on DRILL4 and DRILL5 with
seed 1, for 100,000 steps an agent, and its score is the mean of both. The best of each row is scored by
`python -m tests.measure.learning.scored ROW --set …`, which the last line of the row prints. Results are kept in
--work, so that an interrupted command continues.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from statistics import fmean

import torch

from .scored import OTHERS, ROWS, measure

SYMBOLS, SEEDS = ("DRILL4", "DRILL5"), (1,)
TRIALS = 12


def settings(trials: int) -> list[list[str]]:
    """The changes of each trial to the recommended setting, as `--set` takes them."""
    draw = random.Random(27)
    found: list[list[str]] = [[]]
    while len(found) < trials:
        rate = round(10 ** draw.uniform(-3.5, -2.5), 5)
        bonus = draw.choice([0.005, 0.02, 0.05, 0.1])
        found.append(
            [
                f"ppo.n_steps={draw.choice([32, 64, 128, 256])}",
                f"ppo.batch_size={draw.choice([256, 512, 1024])}",
                f"ppo.n_epochs={draw.choice([3, 5, 10])}",
                f"ppo.gamma={draw.choice([0.9, 0.95, 0.99])}",
                f"ppo.gae_lambda={draw.choice([0.9, 0.95])}",
                f'schedules.learning_rate={{kind="linear",start={rate},end={rate / 2:.3g}}}',
                f'schedules.ent_coef={{kind="linear",start={bonus},end={draw.choice([1, 0.5, 0.1]) * bonus:.3g}}}',
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["separate", *OTHERS], metavar="ROW")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--work", type=Path, default=Path("equal_search"))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for row in chosen.rows:
        means: list[tuple[float, list[str]]] = []
        print(f"\n{ROWS[row].title}\n| trial | mean | each agent | changes |\n|---|---|---|---|")
        for trial, changes in enumerate(settings(chosen.trials)):
            shares = [
                found["share"]
                for symbol in SYMBOLS
                for found in measure(
                    row, [symbol], SEEDS, chosen.work / f"{trial}-{symbol}", [*changes, "compute.threads=1"]
                ).values()
            ]
            means.append((fmean(shares), changes))
            each = " ".join(f"{share:.2f}" for share in shares)
            print(f"| {trial} | {fmean(shares):.2f} | {each} | {' '.join(changes) or 'none'} |", flush=True)
        flags = " ".join(f"--set '{change}'" for change in max(means)[1])
        print(f"best: python -m tests.measure.learning.scored {row} {flags}")


if __name__ == "__main__":
    main()
