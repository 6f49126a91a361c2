"""Env steps per second beside others': `python tests/measure/benchmarks/env_speed.py [--rows 8 80 1024] [--rounds 7]`.

Ours plays one synthetic hourly symbol at the shipped rules with a stop, a target and a holding limit, the full reward
on (all that a step can have to do), one torch thread. *State* is `step` alone, its observations never built; *observed*
adds the gathered observation of every row. Random allowed actions; drawing them is outside the clock, applying the
mask inside it. The others:

- EnvPool's CartPole-v1, C++, on its default number of threads and on one thread; it always builds its (tiny)
  observations.
- Stable-Baselines3's DummyVecEnv and SubprocVecEnv over our scalar gymnasium env. Both step one account at a time, so
  they run with 8 rows (SubprocVecEnv: 8 processes) and stand beside every N: more rows give them no more steps per
  second, and 80 processes would not fit into the memory of a small machine.

All contestants of one N play in turn, round after round, so that a change in the machine's speed meets all of them.
Printed are env steps per second of wall time and per second of processor time (of all threads and of the worker
processes), as medians of the rounds, and the median over rounds of the ratio to ours (state, eager) by either. On a
busy machine use the processor time. Wall time favours a contestant that uses several cores.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import path as search_path

import numpy as np
import psutil
import torch

search_path.insert(0, str(Path(__file__).parents[3]))

import gymnasium

from p3kit.env import TradingEnv
from p3kit.market import load_market
from p3kit.spec import Spec, resolve_spec

Round = Callable[[], "Speed"]
"""Plays for about half a second and returns its speed."""
SCALAR_ROWS = 8
SECONDS = 0.5


def make_spec() -> Spec:
    limits = {"stop": 0.02, "target": 0.04, "max_hold": 60}
    tables = {"name": "speed", "symbols": ["SYN"], "data": {"source": "synthetic"}, "env": limits}
    return resolve_spec(tables, "env_speed")


@dataclass(frozen=True)
class Speed:
    """Env steps per second by the clock, and per second of processor time."""

    clock: float
    processor: float


def timed(rows: int, play: Callable[[int], object], workers: Sequence[int] = ()) -> Round:
    """A round of `play(t)`, t = 0, 1, …, each moving `rows` rows by one step; `workers` are the processes that help."""
    helpers = [psutil.Process(worker) for worker in workers]

    def processor_s() -> float:
        helped = (helper.cpu_times() for helper in helpers)
        return time.process_time() + sum(times.user + times.system for times in helped)

    play(0)
    begin = time.perf_counter()
    for t in range(5):
        play(t)
    steps = max(10, int(SECONDS / ((time.perf_counter() - begin) / 5)))

    def one_round() -> Speed:
        begin, spent = time.perf_counter(), processor_s()
        for t in range(steps):
            play(t)
        return Speed(rows * steps / (time.perf_counter() - begin), rows * steps / (processor_s() - spent))

    return one_round


@contextmanager
def ours(rows: int, *, observed: bool, compiled: bool) -> Iterator[Round]:
    """`TradingEnv` with `rows` accounts."""
    spec = make_spec()
    env = TradingEnv(load_market(spec, ["SYN"]), spec, symbols=["SYN"], num_envs=rows)
    if compiled:
        env.compile()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(64, rows, env.num_actions, generator=generator) + 1.0
    start = torch.rand(64, rows, generator=generator)
    step = env.reset(start[0])

    def play(t: int) -> None:
        nonlocal step
        if observed:
            env.observe(step.index, step.account)
        step = env.step((noise[t % 64] * step.mask).argmax(1), start[t % 64])

    yield timed(rows, play)
    env.raise_if_faulty()


@contextmanager
def envpool_cartpole(rows: int, *, threads: int) -> Iterator[Round]:
    """EnvPool's CartPole-v1, synchronous; 0 threads is its own choice."""
    import envpool

    env = envpool.make_gymnasium("CartPole-v1", num_envs=rows, num_threads=threads)
    env.reset()
    actions = np.random.default_rng(0).integers(0, 2, (64, rows))
    yield timed(rows, lambda t: env.step(actions[t % 64]))
    env.close()


@contextmanager
def stable_baselines(kind: str) -> Iterator[Round]:
    """8 rows of our scalar gymnasium env under Stable-Baselines3; a masked action is executed as HOLD."""
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    env = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}[kind]([scalar_env] * SCALAR_ROWS)
    env.reset()
    actions = np.random.default_rng(0).integers(0, 7, (64, SCALAR_ROWS))
    workers = [process.pid for process in getattr(env, "processes", [])]
    yield timed(SCALAR_ROWS, lambda t: env.step(actions[t % 64]), workers)
    env.close()


def scalar_env() -> gymnasium.Env:
    """One account of the same market and rules behind `gymnasium.make`."""
    torch.set_num_threads(1)
    return gymnasium.make("p3kit/Trading-v1", symbol="SYN", spec=make_spec())


def contestants(rows: int) -> dict[str, Callable[[], object]]:
    """Everything that plays against `TradingEnv` with `rows` rows, ours first."""
    field: dict[str, Callable[[], object]] = {}
    for compiled in (False, True):
        for observed in (False, True):
            name = f"p3kit {'observed' if observed else 'state'}, {'compiled' if compiled else 'eager'}"
            field[name] = functools.partial(ours, rows, observed=observed, compiled=compiled)
    field["EnvPool CartPole-v1"] = functools.partial(envpool_cartpole, rows, threads=0)
    field["EnvPool CartPole-v1, 1 thread"] = functools.partial(envpool_cartpole, rows, threads=1)
    for kind in ("DummyVecEnv", "SubprocVecEnv"):
        field[f"SB3 {kind}, {SCALAR_ROWS} rows"] = functools.partial(stable_baselines, kind)
    return field


def compare(rows: int, rounds: int) -> None:
    """Play all contestants in turn and print a row each."""
    with ExitStack() as stack:
        games = {name: stack.enter_context(make()) for name, make in contestants(rows).items()}  # type: ignore[arg-type]
        speeds: dict[str, list[Speed]] = {name: [] for name in games}
        for _ in range(rounds):
            for name, one_round in games.items():
                speeds[name].append(one_round())
    reference = next(iter(speeds.values()))
    print(f"\n| N = {rows:,} | steps/s | ours is | steps per processor second | ours is |")
    print("|---|--:|--:|--:|--:|")
    for name, rates in speeds.items():
        cells = []
        for by in ("clock", "processor"):
            own, other = [getattr(speed, by) for speed in reference], [getattr(speed, by) for speed in rates]
            ratio = statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=True))
            cells.append(f"{statistics.median(other):,.0f} | {ratio:.2f} ×")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 80, 1024, 8192])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, median of {arguments.rounds} rounds played in turn")
    for rows in arguments.rows:
        compare(rows, arguments.rounds)


if __name__ == "__main__":
    main()
