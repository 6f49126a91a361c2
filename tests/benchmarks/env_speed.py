"""Steps per second of the batched environment: `python tests/benchmarks/env_speed.py`.

Full reward, one torch thread, the shipped rules with a stop and a target (all that a step can have to do). Random
allowed actions are drawn before the clock starts where that is possible; the mask is applied inside it, as a trainer
does. *State* is `step` alone; *observed* adds the gathered observation of every row. Prints the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from sys import path as search_path

import torch

search_path.insert(0, str(Path(__file__).parents[2]))

from p3kit.env import TradingEnv
from p3kit.market import load_market
from p3kit.spec import resolve_spec

ROUNDS = 5


def make_env(num_envs: int, resting: bool) -> TradingEnv:
    """Accounts on one synthetic hourly symbol with the default window of 24 bars."""
    limits = {"stop": 0.02, "target": 0.04, "max_hold": 60} if resting else {}
    tables = {"name": "speed", "symbols": ["SYN"], "data": {"source": "synthetic"}, "env": limits}
    spec = resolve_spec(tables, "env_speed")
    return TradingEnv(load_market(spec, ["SYN"]), spec, symbols=["SYN"], num_envs=num_envs)


def seconds_per_step(env: TradingEnv, steps: int, observed: bool) -> float:
    """Median over the rounds."""
    generator = torch.Generator().manual_seed(0)
    step = env.reset(torch.rand(env.num_envs, generator=generator))
    rounds = []
    for _ in range(ROUNDS):
        noise = torch.rand(steps, env.num_envs, env.num_actions, generator=generator)
        starts = torch.rand(steps, env.num_envs, generator=generator)
        begin = time.perf_counter()
        for t in range(steps):
            if observed:
                env.observe(step.index, step.account)
            step = env.step(noise[t].masked_fill_(~step.mask, -1.0).argmax(1), starts[t])
        rounds.append((time.perf_counter() - begin) / steps)
    env.raise_if_faulty()
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8, 80, 1024])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, eager")
    print(f"{'N':>6} {'rules':>10} {'state ms':>9} {'steps/s':>12} {'observed ms':>12} {'steps/s':>12}")
    for num_envs in arguments.num_envs:
        for resting in (False, True):
            env = make_env(num_envs, resting)
            steps = max(50, 20_000 // (num_envs + 32))
            cells = []
            for observed in (False, True):
                seconds = seconds_per_step(env, steps, observed)
                cells.append((seconds * 1e3, num_envs / seconds))
            (state_ms, state_rate), (seen_ms, seen_rate) = cells
            rules = "resting" if resting else "defaults"
            print(
                f"{num_envs:>6} {rules:>10} {state_ms:>9.3f} {state_rate:>12,.0f} {seen_ms:>12.3f} {seen_rate:>12,.0f}"
            )


if __name__ == "__main__":
    main()
