"""Rules that pick an action from a policy's log-probabilities, for backtests and live decisions alike.

`greedy` takes the most probable valid action. `sampled` draws from the probabilities. `sharpened` draws hold, buy or
sell at a temperature of 0.2, then an action of that side by its probability. The random number of a draw belongs to the
agent's seed, the symbol and the time of the bar, so a decision does not depend on earlier ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit.metrics import ACTIONS

GREEDY, SHARPENED, SAMPLED = "greedy", "sharpened", "sampled"
ACTION_RULES = (GREEDY, SHARPENED, SAMPLED)
SIDES = tuple({"HOLD": 0, "BUY": 1, "ADD": 1, "SELL": 2}[name.split("_")[0]] for name in ACTIONS)
"""Side of each action: 0 holds, 1 buys, 2 sells."""
SHARPNESS = 5
"""Power to which `sharpened` raises the probability of a side; the inverse of its temperature."""


def rules_beside(rule: str) -> tuple[str, str]:
    """The two rules that an evaluation of an agent plays: greedy and its own, or sampled where that is greedy. Always
    two, because the last bits of a path depend on the number of paths."""
    return GREEDY, SAMPLED if rule == GREEDY else rule


def choose_action(log_probs: Tensor, rule: str, draws: Tensor) -> Tensor:
    """Actions (…) of masked log-probabilities (…, A). `draws` (…) are uniform numbers of the bars, see `bar_draws`.

    A draw picks the first action whose cumulative probability exceeds it. Sharpened: p · P^4 in place of the
    probability p of an action, where P adds up the probabilities of its side.
    """
    if rule == GREEDY:
        return log_probs.argmax(-1)
    chances = log_probs.double().exp()
    if rule == SHARPENED:
        sides = torch.tensor(SIDES, device=chances.device)
        totals = chances.new_zeros(*chances.shape[:-1], 3).index_add(-1, sides, chances)
        chances = chances * totals[..., sides] ** (SHARPNESS - 1)
    cumulative = chances.cumsum(-1)
    return (cumulative <= draws.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)


def choose_by_agent(log_probs: Tensor, rules: Sequence[str], draws: Tensor) -> Tensor:
    """Actions (K, R) of K agents, each by its own rule; log-probabilities (K, R, A), draws (K, R)."""
    if len(set(rules)) == 1:
        return choose_action(log_probs, rules[0], draws)
    chosen = {rule: choose_action(log_probs, rule, draws) for rule in ACTION_RULES}
    return torch.stack([chosen[rule][k] for k, rule in enumerate(rules)])


def bar_draws(seed: int, symbol: str, times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each bar: 48 bits of SHA-256 of `SEED/SYMBOL/MICROSECONDS since 1970`."""
    moments: list[int] = times.astype("datetime64[us]").astype(np.int64).tolist()
    hashes = (hashlib.sha256(f"{seed}/{symbol}/{moment}".encode()).digest() for moment in moments)
    return np.array([int.from_bytes(found[:6], "big") / 2**48 for found in hashes])
