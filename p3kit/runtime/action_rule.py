"""The rule that picks an action from a policy's log-probabilities: one function for backtests and live decisions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ActionRule = Literal["greedy"]

GREEDY: ActionRule = "greedy"
"""The most probable valid action."""


def choose_action(logits: Tensor, rule: str = GREEDY) -> Tensor:
    """Actions (B,) of masked log-probabilities (B, A). Raises ValueError for a rule of a newer p3kit."""
    if rule != GREEDY:
        raise ValueError(f"action rule {rule!r} is not in this p3kit")
    return logits.argmax(-1)
