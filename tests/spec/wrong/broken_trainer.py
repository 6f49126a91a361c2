"""A trainer whose Args p3kit cannot read."""

from dataclasses import dataclass


@dataclass
class Args:
    learning_rate: float = 10**-4
    """Not a literal."""
    layers: dict = None
    """Not a type a knob may have."""
    gamma: float = 0.99
    n_steps: int
    """No default."""
    clip_range = 0.2
