"""One iteration of one agent: its rollout and update as tensors, the evidence that a diagnosis reads, and the record.

Notation for shapes: T steps, N envs, R = T·N rows, B sampled rows, D observation values, G gradient steps. A trainer of
K agents makes an `Iteration` for each of them, from slices of its own tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from p3kit.runtime.evidence import (
    correlation,
    dead_share,
    dormant_share,
    explained_variance,
    feature_rank,
    ridge_explained_variance,
)
from p3kit.runtime.scaling import Rewards


class RolloutBuffer(Protocol):
    """The fields of a trainer's rollout buffer that a record needs; see `Buffer` in trainers/ppo.py."""

    @property
    def account(self) -> Tensor: ...  # (T, N, K)
    @property
    def mask(self) -> Tensor: ...  # (T, N, A) bool
    @property
    def action(self) -> Tensor: ...  # (T, N)
    @property
    def log_prob(self) -> Tensor: ...  # (T, N)
    @property
    def value(self) -> Tensor: ...  # (T, N)
    @property
    def components(self) -> Tensor: ...  # (T, N, C)
    @property
    def terminated(self) -> Tensor: ...  # (T, N) bool
    @property
    def truncated(self) -> Tensor: ...  # (T, N) bool
    @property
    def equity(self) -> Tensor: ...  # (T, N)
    @property
    def closed_profit(self) -> Tensor: ...  # (T, N)
    @property
    def valid(self) -> Tensor: ...  # (T, N) bool


@dataclass(frozen=True)
class Iteration:
    """The rollout of one agent, and the advantages that its update used."""

    buffer: RolloutBuffer
    rewards: Rewards
    next_value: Tensor  # (T, N)
    advantage: Tensor  # (T, N)
    returns: Tensor  # (T, N)
    gamma: float | Tensor
    gae_lambda: float | Tensor
    same_step: bool
    """Episodes begin again in the step that ends them, so that `next_value` holds values of final observations."""

    @property
    def done(self) -> Tensor:
        return self.buffer.terminated | self.buffer.truncated

    @property
    def rows(self) -> int:
        return self.buffer.action.numel()


class Sample(NamedTuple):
    """The networks on B sampled rows, after the update."""

    rows: Tensor  # (B,) from `sample_rows`
    observation: Tensor  # (B, D) as the networks get it
    log_prob: Tensor  # (B,) of the actions that were taken
    policy: Sequence[Tensor]  # (B, width) activations of each hidden layer
    value: Sequence[Tensor]  # the same of the value network
    observation_stats: tuple[Tensor, Tensor]  # largest |value|, and the fraction that clipping cuts
    relu: bool


def evidence_of(iteration: Iteration, sample: Sample, update_ratio: Tensor, ratio_error: Tensor) -> dict[str, Tensor]:
    """Metrics for the diagnosis, 0-d tensors on the device."""
    buffer, rewards, rows = iteration.buffer, iteration.rewards, sample.rows
    value, returns = buffer.value, iteration.returns
    mask, action = buffer.mask.flatten(0, 1), buffer.action.flatten()
    evidence = {
        "value/explained_variance": explained_variance(value, returns),
        "value/value_mean": value.mean(),
        "value/return_mean": returns.mean(),
        "value/return_std": returns.std(),
        "diag/ev_reference": ridge_explained_variance(sample.observation, returns.flatten()[rows]),
        "diag/update_ratio": update_ratio,
        "diag/advantage_std": iteration.advantage.std(),
        "diag/advantage_signal": correlation(
            iteration.advantage.flatten()[rows], sample.log_prob - buffer.log_prob.flatten()[rows]
        ),
        "diag/obs_max_abs": sample.observation_stats[0],
        "diag/obs_clipped_share": sample.observation_stats[1],
        "diag/mask_violations": (~mask.gather(-1, action.unsqueeze(-1))).sum(),
        "policy/ratio_error": ratio_error,
        "reward/scale": rewards.scale,
    }
    evidence |= _of_units(sample)
    return evidence


def _of_units(sample: Sample) -> dict[str, Tensor]:
    """Hidden units that learn nothing; a linear policy has none."""
    if not sample.policy:
        return {}
    units = [*sample.policy, *sample.value]
    evidence = {"diag/dormant_share": dormant_share(units), "diag/feature_rank": feature_rank(sample.policy[-1])}
    if sample.relu:
        evidence["diag/dead_share"] = dead_share(units)
    return evidence


def rollout_tables(buffer: RolloutBuffer, rewards: Rewards, initial_capital: float) -> Mapping[str, Tensor]:
    """The fields of `p3kit.runtime.recording.Rollout`, on the device."""
    return {
        "reward": rewards.scaled,
        "clipped": rewards.clipped,
        "weighted": rewards.weighted,
        "raw": buffer.components,
        "bonus": rewards.bonus,
        "action": buffer.action,
        "valid_actions": buffer.mask.sum(-1),
        "done": buffer.terminated | buffer.truncated,
        "equity": buffer.equity / initial_capital,
        "closed": ~buffer.closed_profit.isnan(),
        "reset_step": ~buffer.valid,
    }
