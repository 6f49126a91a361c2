"""The request of `p3kit evaluate` to a trainer: play the policy of one checkpoint on one split, and train nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from p3kit.env import TradingEnv
from p3kit.rundir import RunDir
from p3kit.runtime.card import weights_of
from p3kit.runtime.checkpoints import Flat, load_checkpoint
from p3kit.runtime.evaluation import Policy
from p3kit.runtime.walks import Mode, Split


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
    mode: Mode | None = None
    """None is the mode of the run."""
    episodes: int = 0
    """Windows to return bar by bar, in place of the metrics of the whole split."""
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
        mode: Mode | None = None,
        episodes: int = 0,
        forward: int = 0,
    ) -> Backtest:
        """Load `checkpoint`. Raises CheckpointError where it is missing, torn, or not of this version."""
        path = directory.checkpoint(checkpoint)
        state = load_checkpoint(path, device)
        step = state.get(f"agent/{agent}/global_step")
        if step is None and (found := re.match(r"best-(\d+)", path.stem)):
            step = int(found[1])
        return cls(path.name, agent, step, weights_of(state), split, final, mode, episodes, forward)


@torch.no_grad()
def forward_pass(policy: Policy, env: TradingEnv, rows: int, generator: torch.Generator) -> dict[str, int]:
    """Pass `rows` observations of a random walk through a policy, together and one by one.

    {rows, forbidden: actions that the mask closes, apart: actions that differ one by one}.
    """
    device = env.device
    step = env.reset(torch.rand(rows, generator=generator).to(device))
    for _ in range(20):
        noise = torch.rand(step.mask.shape, generator=generator).to(device)
        action = noise.masked_fill(~step.mask, -1).argmax(1)
        step = env.step(action, torch.rand(rows, generator=generator).to(device))
    observation = env.observe(step.index, step.account)
    together = _likeliest(policy(observation, step.mask))
    alone = torch.cat([_likeliest(policy(observation[i : i + 1], step.mask[i : i + 1])) for i in range(rows)])
    allowed = step.mask.gather(1, together.unsqueeze(1)).squeeze(1)
    return {"rows": rows, "forbidden": int((~allowed).sum()), "apart": int((together != alone).sum())}


def _likeliest(found: Tensor) -> Tensor:
    """Actions (R,) of what a policy returned: log-probabilities (R, A), or actions."""
    return found.argmax(-1) if found.is_floating_point() else found
