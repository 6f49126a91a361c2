"""The request of `p3kit evaluate` to a trainer: play the policy of one checkpoint on one split, and train nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from p3kit.rundir import RunDir
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part
from p3kit.runtime.evaluation import Split


@dataclass(frozen=True)
class Backtest:
    """One checkpoint and one split to backtest."""

    checkpoint: str
    """File name below checkpoints/."""
    agent: str
    global_step: int | None
    weights: Flat
    """The trainer's part: what it gave `Agent.evaluate`, or its own part of a whole checkpoint."""
    split: Split
    final: bool
    episodes: int = 0
    """Windows to hand out bar by bar, in place of the metrics of the whole split."""
    forward: int = 0
    """Observations to pass through the policy, together and one by one, in place of all that."""

    @classmethod
    def of(
        cls,
        directory: RunDir,
        checkpoint: str,
        agent: str,
        split: Split,
        final: bool,
        device: torch.device,
        episodes: int = 0,
        forward: int = 0,
    ) -> Backtest:
        """Load `checkpoint`. Raises CheckpointError where it is missing, torn, or not of this version."""
        path = directory.checkpoint(checkpoint)
        state = load_checkpoint(path, device)
        trainer = part("trainer", state)
        step = state.get(f"agent/{agent}/global_step")
        if step is None and (found := re.match(r"best-(\d+)", path.stem)):
            step = int(found[1])
        return cls(path.name, agent, step, trainer or state, split, final, episodes, forward)
