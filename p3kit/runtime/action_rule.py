"""The rule that picks an action from a policy's log-probabilities: one function for backtests and live decisions."""

from __future__ import annotations

from torch import Tensor

from p3kit.errors import InputError

GREEDY = "greedy"
"""The most probable valid action; the rule of runs that record none."""


def choose_action(logits: Tensor, rule: str = GREEDY) -> Tensor:
    """Actions (B,) of masked log-probabilities (B, A). Raises InputError for a rule of a newer p3kit."""
    if rule != GREEDY:
        raise InputError(f"action rule {rule!r}", "is not in this p3kit", "pip install -U p3kit")
    return logits.argmax(-1)
