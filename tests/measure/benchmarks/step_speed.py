"""Processor time of one compiled gradient step of ten agents, beside its floor: the matrix products alone.

    python tests/measure/benchmarks/step_speed.py ppo_stacked ppo_shared    two minutes, most of them for compiling

The sizes are those of specs/phase3.toml: 64 rows of each agent, a window of 24 bars. The floor is the number of
multiplications and additions, divided by the rate of one large batch of products. One thread, medians of seven.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[3]))

from p3kit.runtime.machine import keep_freed_memory, spare_lasting_objects
from p3kit.runtime.products import prepare_compiling
from p3kit.runtime.stacking import AdamW, stack_knobs
from tests.measure.benchmarks.peers import trainer_module

AGENTS, ROWS, WINDOW, VALUES, ACCOUNT, ACTIONS = 10, 64, 24, 21, 8, 7
TIMES, STEPS = 7, 40
CPU = torch.device("cpu")
Step = Callable[[Callable[..., Any]], Any]
"""One gradient step by the function that it gets: `learn`, or what was compiled from it."""


def rows_of(trainer: Any) -> tuple[Any, ...]:
    """Observation, batch, dropout masks, knobs, loss scale and live agents, drawn by seed."""
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator)
    action = torch.randint(0, 4, (AGENTS, ROWS), generator=generator)
    columns = (draw(AGENTS, ROWS) - 2, *(draw(AGENTS, ROWS) for _ in range(3)))
    batch = trainer.Minibatch(action, *columns, torch.ones(AGENTS, ROWS, ACTIONS, dtype=torch.bool))
    knobs = stack_knobs([trainer.Args()] * AGENTS, CPU)
    observation = draw(AGENTS, ROWS, WINDOW * VALUES + ACCOUNT)
    return observation, batch, None, knobs, torch.ones(AGENTS), torch.ones(AGENTS, dtype=torch.bool)


def stacked(trainer: Any) -> Step:
    make = partial(trainer.ActorCritic, WINDOW * VALUES + ACCOUNT, ACTIONS, trainer.Args())
    weights = trainer.Networks(make, generators(), "tanh", CPU).weights
    optimizer, rows = AdamW(weights, (AGENTS,), CPU), rows_of(trainer)
    return lambda learn: learn(weights, optimizer.moments, optimizer.steps, *rows, "tanh", "mse", torch.float32)


def shared(trainer: Any) -> Step:
    shape, args = trainer.Shape(WINDOW, VALUES, ACCOUNT), trainer.Args()
    encoder = trainer.make_encoder(shape, args, torch.Generator().manual_seed(1))
    heads = [trainer.make_heads(shape, ACTIONS, args, generator) for generator in generators()]
    networks = trainer.Networks(encoder, heads, shape, ACTIONS, args, CPU)
    one, own = AdamW(networks.encoder, (), CPU), AdamW(networks.weights, (AGENTS,), CPU)
    fixed = replace(args, **dict.fromkeys(trainer.LIVE, 0.5))
    moving = (networks.encoder, networks.weights, (one.moments, own.moments), (one.steps, own.steps))
    rest = (None, torch.tensor(True), shape, fixed, torch.float32)
    rows = rows_of(trainer)
    return lambda learn: learn(*moving, *rows, *rest)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(agent) for agent in range(AGENTS)]


def median_ms(call: Callable[[], Any]) -> float:
    """Processor milliseconds of one call."""
    found = []
    for _ in range(TIMES + 1):
        begin = time.process_time()
        for _ in range(STEPS):
            call()
        found.append((time.process_time() - begin) / STEPS * 1e3)
    return statistics.median(found[1:])


def products_per_ms() -> float:
    """Multiplications and additions that a batch of products does in a millisecond."""
    a, b = torch.randn(AGENTS, 384, 128), torch.randn(AGENTS, 128, 128)
    return 2 * a.numel() * b.shape[-1] / median_ms(lambda: torch.bmm(a, b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainers", nargs="+", choices=["ppo_stacked", "ppo_shared"])
    torch.set_num_threads(1)
    keep_freed_memory()
    prepare_compiling()
    for name in parser.parse_args().trainers:
        trainer = trainer_module(name)
        step = {"ppo_stacked": stacked, "ppo_shared": shared}[name](trainer)
        with FlopCounterMode(display=False) as counter:
            step(trainer.learn)
        fast = torch.compile(trainer.learn)
        step(fast)
        spare_lasting_objects()
        took, floor = median_ms(partial(step, fast)), counter.get_total_flops() / products_per_ms()
        print(f"{name}: {took:.1f} ms a step, products {floor:.1f} ms, {took / floor:.1f} times the floor", flush=True)


if __name__ == "__main__":
    main()
