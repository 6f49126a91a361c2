"""Running statistics: of observations, and of the discounted return that rewards are divided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from p3kit.runtime.checkpoints import Flat

_EPSILON = 1e-8
_LARGE = 5.0
"""Root mean square of an observation value that an intervention brings down; what is standardised has 1."""


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

    def forget(self, column: int) -> None:
        """Reset a column. Columns share their count here, so it has to be the only one."""
        self.mean[column], self.variance[column], self.count = 0.0, 1.0, 0

    def state_dict(self) -> Flat:
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Flat) -> None:
        self.mean, self.variance, self.count = state["mean"], state["variance"], int(state["count"])


class ObservationScaler:
    """`observation.normalize = "running"`: standardise by the statistics so far; otherwise pass through.

    If an intervention started the statistics, only values that are out of scale are standardised by them. The others
    keep the scale that the policy was trained on, and small ones are not enlarged.

    Statistics change once per iteration, after the update, so that a rollout and its update use the same numbers.
    """

    def __init__(
        self,
        size: int,
        *,
        running: bool,
        clip: float,
        device: torch.device,
        is_frozen: Callable[[], bool] = lambda: False,
        has_begun: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_frozen` returns True while an intervention freezes the statistics, `has_begun` if one started statistics
        that the spec does not have."""
        self.clip, self.is_frozen = clip, is_frozen
        self._running, self._has_begun = running, has_begun
        self._seen: Tensor | None = None  # the rows of the last update, for statistics that are to begin with them
        self.moments = RunningMoments(size, device)
        self.drift: Tensor | None = None  # largest move of a mean in the last update, in standard deviations

    @property
    def running(self) -> bool:
        return self._running or self._has_begun() or self.moments.count > 0  # a backtest applies no intervention

    def begin(self, *, again: bool = False) -> None:
        """Start the statistics with the rows of the last rollout, if an intervention did so. With `again`, forget what
        was seen before them."""
        if again:
            self.moments = RunningMoments(len(self.moments.mean), self.moments.mean.device)
        if (again or self._has_begun()) and self.moments.count == 0 and self._seen is not None:
            self.moments.update(self._seen)

    def __call__(self, observation: Tensor) -> Tensor:
        """(…, size) float32 → the same shape, standardised and clipped."""
        if not self.running or self.moments.count == 0:
            return observation
        mean, std = self.moments.mean, (self.moments.variance + _EPSILON).sqrt()
        if not self._running:
            is_large = mean.square() + self.moments.variance > _LARGE**2
            mean, std = torch.where(is_large, mean, 0.0), torch.where(is_large, std, 1.0)
        return ((observation - mean.float()) / std.float()).clamp(-self.clip, self.clip)

    def update(self, observation: Tensor) -> None:
        """Take in rows of shape (rows, size) as the environment gave them."""
        self._seen = observation
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
    """Moments of several columns, each with its own count, because an agent may roll back alone."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(size, device)
        self.counts = torch.zeros(size, dtype=torch.float64, device=device)

    def update(self, rows: Tensor, of: Tensor | None = None) -> None:
        """Take in `rows` of shape (rows, size), a column of each, or of those of `of` (size,) bool."""
        rows = rows.to(torch.float64)
        count, mean, variance = rows.shape[0], rows.mean(0), rows.var(0, correction=0)
        before = self.mean, self.variance, self.counts
        total = self.counts + count
        shift = mean - self.mean
        merged = (self.variance * self.counts + variance * count + shift.square() * self.counts * count / total) / total
        first = self.counts == 0
        self.variance = torch.where(first, variance, merged)
        self.mean = torch.where(first, mean, self.mean + shift * count / total)
        self.counts = total
        self.count += count
        if of is not None:
            taken = self.mean, self.variance, self.counts
            self.mean, self.variance, self.counts = (torch.where(of, a, b) for a, b in zip(taken, before, strict=True))

    def state_dict(self) -> Flat:
        return super().state_dict() | {"counts": self.counts}

    def load_state_dict(self, state: Flat) -> None:
        super().load_state_dict(state)
        self.counts = state["counts"]

    def forget(self, column: int) -> None:
        """Reset one column; the others continue."""
        self.mean[column], self.variance[column], self.counts[column] = 0.0, 1.0, 0.0

    def load_one(self, place: int, state: Flat, from_place: int) -> None:
        """Take column `place` back to what column `from_place` of a state was."""
        for own, then in ((self.mean, "mean"), (self.variance, "variance"), (self.counts, "counts")):
            own[place] = state[then][from_place]


class Shaping(NamedTuple):
    """One agent's reward scale and clip, as interventions set them."""

    begun: bool
    """Whether one let the running scale begin."""
    clip: float
    """The clip in force; infinite: none."""
    edits: int
    """Number of edits of the reward. Rewards from before an edit do not describe the returns after it."""


class Rewards(NamedTuple):
    """The rewards of a rollout, and how they came about. T steps, N envs, C components."""

    scaled: Tensor  # (T, N) float32, for the learner
    clipped: Tensor  # (T, N) bool
    scale: Tensor  # () the divisor of `reward.scaling`
    weighted: Tensor  # (T, N, C) float64, components times weights
    bonus: Tensor  # (T, N) `reward.action_bonus` and terms of the trainer's own


class RewardScaler:
    """`reward.scaling`, then `reward.clip`.

    "running" divides by the standard deviation of the discounted return (Engstrom et al. 2020, section 3;
    VecNormalize). We depart from VecNormalize in two things. The statistics take in the whole rollout before it is
    scaled, so that all rewards of an update share one scale and the first update needs no warm-up. And nothing is added
    to the variance: 1e-8 would be most of it where rewards are a ten-thousandth, and leave them half as large.
    """

    def __init__(
        self,
        kind: Literal["running", "tanh", "none"],
        clip: float | None,
        num_envs: int,
        device: torch.device,
        agents: int | None = None,
        in_force: Callable[[], Sequence[Shaping]] | None = None,
    ) -> None:
        """One scale for `num_envs` envs, or, with `agents`, one scale per agent. `in_force` returns scale and clip
        after interventions; without it they stay unchanged."""
        self.kind = kind
        as_in_spec = Shaping(begun=False, clip=math.inf if clip is None else clip, edits=0)
        self._in_force = in_force or (lambda: [as_in_spec] * (agents or 1))
        self._each = () if agents is None else (agents,)
        self._edits = [0] * (agents or 1)
        self.discounted = torch.zeros(num_envs, *self._each, dtype=torch.float64, device=device)
        self.moments = RunningMoments(1, device) if agents is None else MomentsOfEach(agents, device)

    def __call__(self, reward: Tensor, done: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale one rollout. `reward`, `done`: (n_steps, num_envs) or (n_steps, num_envs, agents).

        Returns (scaled float32, was clipped, scale); the scale, and `gamma` where it is a tensor, have one number per
        agent.
        """
        reward = reward.to(torch.float64)
        begun, clips, edits = zip(*self._in_force(), strict=True)
        self._begin_anew(edits)
        is_running = [self.kind == "running" or one for one in begun]
        scale = torch.ones(self._each, dtype=torch.float64, device=reward.device)
        scaled = torch.tanh(reward) if self.kind == "tanh" else reward
        if any(is_running):
            of = torch.tensor(is_running, device=reward.device).reshape(self._each)
            sums = self._discount(reward, done, gamma)
            if isinstance(self.moments, MomentsOfEach):
                self.moments.update(sums.reshape(-1, self.moments.mean.shape[0]), of)
            else:
                self.moments.update(sums.reshape(-1, 1))
            self.discounted = torch.where(of, self.discounted, 0.0)
            deviation = self.moments.variance.reshape(self._each).sqrt()
            scale = torch.where(of & (deviation > 0), deviation, scale)
            scaled = torch.where(of, reward / scale, scaled)
        limit = torch.tensor(clips, dtype=torch.float64, device=reward.device).reshape(self._each)
        return scaled.clamp(-limit, limit).float(), scaled.abs() > limit, scale

    def _begin_anew(self, edits: Sequence[int]) -> None:
        """Forget what was seen of an agent before its reward was edited."""
        for place, (now, before) in enumerate(zip(edits, self._edits, strict=True)):
            if now != before:
                self.moments.forget(place)
                self.discounted[..., place if self._each else slice(None)] = 0.0
        self._edits = list(edits)

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
        edits = state["edits"].tolist()
        if isinstance(self.moments, MomentsOfEach) and place is not None:
            self.moments.load_one(place, state, from_place)
            self._edits[place] = edits[from_place]
        else:
            self.moments.load_state_dict(state)
            self._edits = edits

    def statistics(self, place: int | None = None) -> Flat:
        """The statistics of the scale; in a stack those of agent `place`. They are what a later training can take."""
        moments = self.moments
        if isinstance(moments, MomentsOfEach) and place is not None:
            count = int(moments.counts[place])
            return {"mean": moments.mean[[place]], "variance": moments.variance[[place]], "count": count}
        return moments.state_dict()

    def start_from(self, state: Flat, from_place: int | None, place: int | None = None) -> None:
        """Take the statistics of an earlier training: of agent `from_place` if it was a stack, for agent `place` if
        this is one. Nothing changes where this scale is not a running one, or has seen nothing before."""
        count = state.get("count", 0) if from_place is None else int(state["counts"][from_place])
        if self.kind != "running" or not count:
            return
        row = from_place or 0
        mean, variance = state["mean"][row : row + 1].clone(), state["variance"][row : row + 1].clone()
        if isinstance(self.moments, MomentsOfEach) and place is not None:
            counts = torch.tensor([float(count)], dtype=torch.float64, device=mean.device)
            self.moments.load_one(place, {"mean": mean, "variance": variance, "counts": counts}, 0)
            self.moments.count = max(self.moments.count, count)
        else:
            self.moments.load_state_dict({"mean": mean, "variance": variance, "count": count})

    def state_dict(self) -> Flat:
        return {"discounted": self.discounted, "edits": torch.tensor(self._edits)} | self.moments.state_dict()

    def load_state_dict(self, state: Flat) -> None:
        self.discounted, self._edits = state["discounted"], state["edits"].tolist()
        self.moments.load_state_dict(state)
