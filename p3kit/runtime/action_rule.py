"""Rules that pick an action from a policy's log-probabilities, for backtests and live decisions alike.

`greedy` takes the most probable valid action. `side` takes the most probable side first (hold, buy or sell, each with
the probabilities of its actions added up), then that side's most probable action. `sampled` draws from the
probabilities. Its random number belongs to the agent's seed, the symbol and the time of the bar, so a decision does not
depend on earlier ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit.metrics import ACTIONS

GREEDY, SIDE, SAMPLED = "greedy", "side", "sampled"
ACTION_RULES = (GREEDY, SIDE, SAMPLED)
BOTH_RULES = (GREEDY, SAMPLED)
"""The rules that every evaluation plays."""
SIDES = tuple({"HOLD": 0, "BUY": 1, "ADD": 1, "SELL": 2}[name.split("_")[0]] for name in ACTIONS)
"""Side of each action: 0 holds, 1 buys, 2 sells."""


def choose_action(log_probs: Tensor, rule: str, draws: Tensor) -> Tensor:
    """Actions (…) of masked log-probabilities (…, A). `draws` (…) are uniform numbers of the bars, see `bar_draws`.

    Side: holding before buying before selling in a tie. Sampled: the first action whose cumulative probability
    exceeds the draw.
    """
    if rule == GREEDY:
        return log_probs.argmax(-1)
    if rule == SIDE:
        sides, chances = torch.tensor(SIDES, device=log_probs.device), log_probs.double().exp()
        totals = chances.new_zeros(*chances.shape[:-1], 3).index_add(-1, sides, chances)
        return log_probs.masked_fill(sides != totals.argmax(-1, keepdim=True), -torch.inf).argmax(-1)
    cumulative = log_probs.double().exp().cumsum(-1)
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
