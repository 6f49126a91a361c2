"""Running statistics: of observations, and of the discounted return that rewards are divided by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from p3kit.runtime.checkpoints import Flat

_EPSILON = 1e-8


class RunningMoments:
    """Mean and variance of rows seen so far, merged batch by batch (Chan, Golub and LeVeque 1983)."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.variance = torch.ones(size, dtype=torch.float64, device=device)
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Take in `rows` of shape (rows, size)."""
        rows = rows.to(torch.float64)
        count, mean, variance = rows.shape[0], rows.mean(0), rows.var(0, correction=0)
        if self.count == 0:
            self.mean, self.variance, self.count = mean, variance, count
            return
        total = self.count + count
        shift = mean - self.mean
        self.variance = (
            self.variance * self.count + variance * count + shift.square() * self.count * count / total
        ) / total
        self.mean = self.mean + shift * count / total
        self.count = total

    def state_dict(self) -> Flat:
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Flat) -> None:
        self.mean, self.variance, self.count = state["mean"], state["variance"], int(state["count"])


class ObservationScaler:
    """`observation.normalize = "running"`: standardise by what was seen so far; otherwise hand through.

    Statistics move once per iteration, after the update, so that a rollout and its update see the same numbers.
    """

    def __init__(
        self,
        size: int,
        *,
        running: bool,
        clip: float,
        device: torch.device,
        is_frozen: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_frozen` tells whether an intervention holds the statistics as they are."""
        self.running, self.clip, self.is_frozen = running, clip, is_frozen
        self.moments = RunningMoments(size, device)
        self.drift: Tensor | None = None  # largest move of a mean in the last update, in standard deviations

    def __call__(self, observation: Tensor) -> Tensor:
        """(…, size) float32 → the same shape, standardised and clipped."""
        if not self.running or self.moments.count == 0:
            return observation
        mean, std = self.moments.mean, (self.moments.variance + _EPSILON).sqrt()
        return ((observation - mean.float()) / std.float()).clamp(-self.clip, self.clip)

    def update(self, observation: Tensor) -> None:
        """Take in rows of shape (rows, size) as the environment gave them."""
        if not self.running:
            return
        if self.is_frozen():
            self.drift = None
            return
        before, std = self.moments.mean, (self.moments.variance + _EPSILON).sqrt()
        began = self.moments.count == 0
        self.moments.update(observation)
        self.drift = None if began else ((self.moments.mean - before).abs() / std).max()

    def state_dict(self) -> Flat:
        return self.moments.state_dict()

    def load_state_dict(self, state: Flat) -> None:
        self.moments.load_state_dict(state)


class MomentsOfEach(RunningMoments):
    """Moments of so many columns that each have a count of their own, since an agent may be taken back alone."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(size, device)
        self.counts = torch.zeros(size, dtype=torch.float64, device=device)

    def update(self, rows: Tensor) -> None:
        """Take in `rows` of shape (rows, size), a column of each."""
        rows = rows.to(torch.float64)
        count, mean, variance = rows.shape[0], rows.mean(0), rows.var(0, correction=0)
        total = self.counts + count
        shift = mean - self.mean
        merged = (self.variance * self.counts + variance * count + shift.square() * self.counts * count / total) / total
        first = self.counts == 0
        self.variance = torch.where(first, variance, merged)
        self.mean = torch.where(first, mean, self.mean + shift * count / total)
        self.counts = total
        self.count += count

    def state_dict(self) -> Flat:
        return super().state_dict() | {"counts": self.counts}

    def load_state_dict(self, state: Flat) -> None:
        super().load_state_dict(state)
        self.counts = state["counts"]

    def load_one(self, place: int, state: Flat, from_place: int) -> None:
        """Take column `place` back to what column `from_place` of a state was."""
        for own, then in ((self.mean, "mean"), (self.variance, "variance"), (self.counts, "counts")):
            own[place] = state[then][from_place]


class RewardScaler:
    """`reward.scaling`, then `reward.clip`.

    "running" divides by the standard deviation of the discounted return (Engstrom et al. 2020, section 3;
    VecNormalize). We depart from VecNormalize in one thing: the statistics take in the whole rollout before it is
    scaled, so that all rewards of an update share one scale and the first update needs no warm-up.
    """

    def __init__(
        self,
        kind: Literal["running", "tanh", "none"],
        clip: float | None,
        num_envs: int,
        device: torch.device,
        agents: int | None = None,
    ) -> None:
        """One scale for `num_envs` envs, or, with `agents`, one for each of so many."""
        self.kind, self.clip = kind, clip
        self._each = () if agents is None else (agents,)
        self.discounted = torch.zeros(num_envs, *self._each, dtype=torch.float64, device=device)
        self.moments = RunningMoments(1, device) if agents is None else MomentsOfEach(agents, device)

    def __call__(self, reward: Tensor, done: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale one rollout. `reward`, `done`: (n_steps, num_envs) or (n_steps, num_envs, agents).

        Returns (scaled float32, was clipped, scale); the scale, and `gamma` where it is a tensor, have one number per
        agent.
        """
        reward = reward.to(torch.float64)
        scale = torch.ones(self._each, dtype=torch.float64, device=reward.device)
        if self.kind == "running":
            sums = self._discount(reward, done, gamma)
            self.moments.update(sums.reshape(-1, self.moments.mean.shape[0]))
            scale = (self.moments.variance.reshape(self._each) + _EPSILON).sqrt()
        scaled = torch.tanh(reward) if self.kind == "tanh" else reward / scale
        if self.clip is None:
            return scaled.float(), torch.zeros_like(done), scale
        return scaled.clamp(-self.clip, self.clip).float(), scaled.abs() > self.clip, scale

    def _discount(self, reward: Tensor, done: Tensor, gamma: float | Tensor) -> Tensor:
        """Discounted sum of rewards so far in each episode, shaped as they are; carries over rollouts."""
        keep = gamma * (~done).to(torch.float64)
        sums = torch.empty_like(reward)
        running = self.discounted
        for step in range(reward.shape[0]):
            running = running + reward[step]
            sums[step] = running
            # VecNormalize's order: the reward that ends an episode counts, then the sum starts again
            running = running * keep[step]
        self.discounted = running
        return sums

    @property
    def steps(self) -> int:
        """Env steps that the scale has seen."""
        return self.moments.count

    def go_back(self, state: Flat, place: int | None = None, from_place: int = 0) -> None:
        """Take the statistics back to a state's; in a stack those of agent `place`, who was `from_place` then. The sums
        of the episodes still running stay, as the episodes do."""
        if isinstance(self.moments, MomentsOfEach) and place is not None:
            self.moments.load_one(place, state, from_place)
        else:
            self.moments.load_state_dict(state)

    def state_dict(self) -> Flat:
        return {"discounted": self.discounted} | self.moments.state_dict()

    def load_state_dict(self, state: Flat) -> None:
        self.discounted = state["discounted"]
        self.moments.load_state_dict(state)
