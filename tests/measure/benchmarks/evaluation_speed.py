"""Processor time of one evaluation on a single path, beside the same one in windows; the figures of docs/evaluation.md.

    python tests/measure/benchmarks/evaluation_speed.py    a minute

The policy is a linear one with weights drawn by seed. The fixed rules are computed once per run, and not timed. Medians
of seven, the two modes in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[3]))

from p3kit.env import make_trading_env
from p3kit.market import load_market
from p3kit.runtime.evaluation import Evaluator, evaluate_together
from p3kit.spec import load_spec

ROOT = Path(__file__).parents[3]
TIMES = 7
SETTINGS: Mapping[str, tuple[str, list[str]]] = {
    "ten agents of specs/phase3.toml": ("specs/phase3.toml", []),
    "one agent on 19,440 synthetic bars": (
        "specs/smoke.toml",
        ["data.source=synthetic", "data.synthetic.bars=19440", 'symbols=["S001"]'],
    ),
}


def linear_policy(size: int, actions: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(observation (K, B, D), mask (K, B, A)) → masked log-probabilities (K, B, A)."""
    weight = torch.randn(size, actions, generator=torch.Generator().manual_seed(1)) / size**0.5
    return lambda seen, mask: (seen @ weight).masked_fill(~mask, -1e9).log_softmax(-1)


def measure(spec_file: str, changes: list[str]) -> tuple[int, dict[str, float]]:
    """Validation bars of an agent, and the median processor seconds of an evaluation by mode."""
    spec = load_spec(ROOT / spec_file, changes).spec
    market = load_market(spec, spec.symbols)
    env = make_trading_env(market, spec, symbols=[spec.symbols[0]], split="train", device=torch.device("cpu"))
    policy = linear_policy(env.observation_size, env.num_actions)
    evaluators = {
        mode: [
            Evaluator(spec, market[symbol], symbol, 1, torch.device("cpu"), split="validation", final=False, mode=mode)
            for symbol in spec.symbols
        ]
        for mode in ("continuous", "windows")
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in evaluators}
    for _ in range(TIMES + 1):
        for mode, agents in evaluators.items():
            begin = time.process_time()
            evaluate_together(agents, policy)
            seconds[mode].append(time.process_time() - begin)
    first, last = market[spec.symbols[0]].splits["validation"]
    return last - first, {mode: statistics.median(own[1:]) for mode, own in seconds.items()}


def main() -> None:
    torch.set_num_threads(1)
    for name, setting in SETTINGS.items():
        bars, found = measure(*setting)
        ratio = found["continuous"] / found["windows"]
        print(
            f"{name}, {bars:,} validation bars: {found['continuous']:.2f} s on one path, "
            f"{found['windows']:.2f} s in windows, {ratio:.1f} times as long",
            flush=True,
        )


if __name__ == "__main__":
    main()
