"""`VectorTask`: any gymnasium or EnvPool vector environment with discrete actions, with the interface of
`TradingEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from p3kit.env.timestep import Timestep
from p3kit.errors import InputError, MissingExtra, NumericalFault
from p3kit.metrics import COMPONENTS

ENVPOOL = "envpool:"
"""Prefix of a task that EnvPool makes: `envpool:CartPole-v1`. Without it gymnasium makes the task."""


class VectorTask:
    """N rows of a task that is not ours. Notation for shapes: N rows, K values of a flat observation, A actions.

    `Timestep.account` is the observation, flat; `index` has no meaning (zeros); the task's reward is the first
    component and the others are 0; every action is allowed; money fields are 0. `autoreset` is the task's behaviour at
    the end of an episode: "same_step", or "next_step", where the step after an end only resets. Its action and reward
    mean nothing, and `Timestep.valid` is False there.
    """

    autoreset: Literal["same_step", "next_step"]

    def __init__(self, env_id: str, num_envs: int, seed: int, device: str | torch.device = "cpu") -> None:
        """Raise InputError for an unknown task, or one without discrete actions and a Box or Discrete observation."""
        self.env_id, self.num_envs, self.seed = env_id, num_envs, seed
        self.device = torch.device(device)
        self._env = _make(env_id, num_envs, seed)
        observation = getattr(self._env, "single_observation_space", self._env.observation_space)
        action = getattr(self._env, "single_action_space", self._env.action_space)
        if type(action).__name__ != "Discrete":
            raise InputError(env_id, f"has actions {action}", "only tasks with discrete actions can be trained")
        if type(observation).__name__ not in ("Box", "Discrete"):
            raise InputError(env_id, f"observes {observation}", "only Box and Discrete observations can be trained")
        self._categories = int(observation.n) if type(observation).__name__ == "Discrete" else 0
        self._first_category = int(getattr(observation, "start", 0))
        self._first_action = int(getattr(action, "start", 0))
        self.num_actions = int(action.n)
        self.action_names = tuple(f"action {i}" for i in range(self.num_actions))
        self.observation_size = self.account_size = self._categories or int(np.prod(observation.shape))
        self.autoreset = _autoreset(env_id, self._env.metadata)
        self._nothing = self._fields_without_meaning()

    def reset(self, start: Tensor | None = None) -> Timestep:
        """Start an episode in every row, seeded; `start` is not used: the task draws its own beginnings."""
        if self.env_id.startswith(ENVPOOL):  # was seeded when it was made
            observation, _ = self._env.reset()
        else:  # gymnasium counts up from one seed, and some of its tasks take no list
            observation, _ = self._env.reset(seed=row_seeds(self.seed, 1)[0])
        self._ended = np.zeros(self.num_envs, dtype=bool)
        self._nonfinite = 0
        zero = np.zeros(self.num_envs)
        flat = self._flat(observation)
        return self._timestep(flat, flat, zero, self._ended, self._ended, zero.astype(np.int64), ~self._ended)

    def step(self, action: Tensor, start: Tensor | None = None) -> Timestep:
        """Make one step; `action` (N,) int64."""
        chosen = action.cpu().numpy()
        observation, reward, terminated, truncated, info = self._env.step(chosen + self._first_action)
        terminated, truncated = np.asarray(terminated, dtype=bool), np.asarray(truncated, dtype=bool)
        truncated = truncated & ~terminated
        valid = ~self._ended if self.autoreset == "next_step" else np.ones(self.num_envs, dtype=bool)
        self._ended = terminated | truncated
        reward = np.where(valid, np.asarray(reward, dtype=np.float64), 0.0)
        self._nonfinite += int((~np.isfinite(reward)).sum())
        flat = self._flat(observation)
        final = flat
        if self.autoreset == "same_step" and self._ended.any():
            last = np.stack([np.asarray(info["final_obs"][i]) for i in np.flatnonzero(self._ended)])
            final = flat.clone()
            final[torch.as_tensor(self._ended, device=self.device)] = self._flat(last)
        return self._timestep(flat, final, reward, terminated, truncated, chosen, valid)

    def observe(self, index: Tensor, account: Tensor) -> Tensor:
        """The observation (…, K) float32: `account` itself."""
        return account

    def observation_stats(self, index: Tensor, account: Tensor) -> tuple[Tensor, Tensor]:
        """Largest |value| and the share that clipping cuts: nothing is cut here."""
        return account.abs().amax(), account.new_zeros(())

    def raise_if_faulty(self) -> None:
        """Raise NumericalFault if a reward was not finite since the last reset."""
        if self._nonfinite:
            raise NumericalFault(self.env_id, f"{self._nonfinite} rewards were not finite", "look into the task")

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: the tasks of others cannot be saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Timestep:
        """Start new episodes, because the old ones were not saved; returns the current rows."""
        return self.reset()

    def close(self) -> None:
        """Free what the task holds."""
        self._env.close()

    def _flat(self, observation: Any) -> Tensor:
        """(rows, K) float32 on the device."""
        table = np.asarray(observation)
        if self._categories:
            table = np.eye(self._categories)[table - self._first_category]
        return torch.as_tensor(table.reshape(len(table), -1), device=self.device).to(torch.float32)

    def _timestep(
        self,
        flat: Tensor,
        final: Tensor,
        reward: np.ndarray[Any, Any],
        terminated: np.ndarray[Any, Any],
        truncated: np.ndarray[Any, Any],
        action: np.ndarray[Any, Any],
        valid: np.ndarray[Any, Any],
    ) -> Timestep:
        components = torch.zeros(self.num_envs, len(COMPONENTS), dtype=torch.float64, device=self.device)
        components[:, 0] = torch.as_tensor(reward, device=self.device)
        return self._nothing._replace(
            account=flat,
            components=components,
            terminated=torch.as_tensor(terminated, device=self.device),
            truncated=torch.as_tensor(truncated, device=self.device),
            final_account=final,
            action=torch.as_tensor(action, device=self.device),
            valid=torch.as_tensor(valid, device=self.device),
        )

    def _fields_without_meaning(self) -> Timestep:
        """Constant fields of `Timestep` for a foreign task, made once; the fields that it fills are empty here."""
        zero = torch.zeros(self.num_envs, dtype=torch.float64, device=self.device)
        nowhere = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        every = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        empty = zero.new_empty(0)
        return Timestep(
            index=nowhere,
            account=empty,
            mask=every.unsqueeze(1).repeat(1, self.num_actions),
            components=empty,
            terminated=empty,
            truncated=empty,
            final_index=nowhere,
            final_account=empty,
            equity=zero,
            bar_return=zero,
            traded_value=zero,
            cost_paid=zero,
            closed_profit=torch.full_like(zero, torch.nan),
            exposure=zero,
            bar=nowhere,
            action=empty,
            alive=every,
            valid=empty,
        )


def row_seeds(seed: int, num_envs: int) -> list[int]:
    """A seed for each row, (N,) in 0 … 2³¹ − 1. Counting up from `seed` instead, as vector environments do on their
    own, would give agents of neighbouring seeds all rows but one in common."""
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num_envs)]


def _make(env_id: str, num_envs: int, seed: int) -> Any:
    """The vector env of `env_id`."""
    if env_id.startswith(ENVPOOL):
        try:
            import envpool
        except ImportError:
            raise MissingExtra("envpool", "envpool", f"the task {env_id!r}") from None
        name = env_id.removeprefix(ENVPOOL)
        if name not in envpool.list_all_envs():
            raise InputError(env_id, "EnvPool has no such task", "see envpool.list_all_envs()")
        return envpool.make_gymnasium(name, num_envs=num_envs, seed=row_seeds(seed, num_envs))
    try:
        import gymnasium
    except ImportError:
        raise MissingExtra("gymnasium", "envpool", f"the task {env_id!r}") from None
    try:
        return gymnasium.make_vec(env_id, num_envs=num_envs)
    except (gymnasium.error.Error, ModuleNotFoundError) as fault:
        raise InputError(env_id, f"gymnasium cannot make it: {fault}", "see gymnasium.pprint_registry()") from None


def _autoreset(env_id: str, metadata: Mapping[str, Any]) -> Literal["same_step", "next_step"]:
    """Autoreset mode of the task, from `metadata["autoreset_mode"]`."""
    mode = getattr(metadata.get("autoreset_mode"), "name", None)
    if mode == "SAME_STEP":
        return "same_step"
    if mode == "NEXT_STEP":
        return "next_step"
    raise InputError(
        env_id, f"has an unknown reset behaviour (autoreset_mode is {mode})", "SAME_STEP or NEXT_STEP is needed"
    )
