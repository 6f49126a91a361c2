"""Stable-Baselines3's PPO on the same environments at equal settings: the yardstick of the learning proofs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import envpool
import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from p3kit.env import TradingEnv
from p3kit.env.account import HOLD
from p3kit.env.task import row_seeds
from p3kit.market import SymbolData
from p3kit.metrics import COMPONENTS
from p3kit.runtime.action_rule import GREEDY
from p3kit.runtime.evaluation import Evaluator, Policy
from p3kit.spec import Spec
from p3kit.spec.schedules import value_at


class TradingVecEnv(VecEnv):
    """Our batched environment behind Stable-Baselines3's interface. Its PPO has no masks: a masked action is a HOLD."""

    def __init__(self, spec: Spec, bars: SymbolData, symbol: str, seed: int) -> None:
        self.env = TradingEnv({symbol: bars}, spec, symbols=[symbol], invalid_action="hold")
        size = self.env.observation_size
        box = gymnasium.spaces.Box(-spec.observation.clip, spec.observation.clip, (size,), np.float32)
        super().__init__(self.env.num_envs, box, gymnasium.spaces.Discrete(self.env.num_actions))
        self.weights = torch.tensor([getattr(spec.reward.weights, c) for c in COMPONENTS], dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(seed)

    def reset(self) -> np.ndarray:
        step = self.env.reset(torch.rand(self.num_envs, generator=self.generator))
        self.mask = step.mask.numpy()
        return self.env.observe(step.index, step.account).numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        step = self.env.step(self.actions, torch.rand(self.num_envs, generator=self.generator))
        self.mask = step.mask.numpy()
        reward = (step.components.double() @ self.weights).float().numpy()
        done = (step.terminated | step.truncated).numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            final = self.env.observe(step.final_index, step.final_account).numpy()
            for i in np.flatnonzero(done):
                infos[i] = {"terminal_observation": final[i], "TimeLimit.truncated": bool(step.truncated[i])}
        return self.env.observe(step.index, step.account).numpy(), reward, done, infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        if method_name != "action_masks":  # sb3-contrib's MaskablePPO
            raise AttributeError(method_name)
        return list(self.mask)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class EnvPoolVecEnv(VecEnv):
    """An EnvPool task behind Stable-Baselines3's interface, its rows seeded as `p3kit.env.VectorTask` seeds them.

    EnvPool begins a new episode in the step after an end. Stable-Baselines3 requires its first observation with the end
    itself, so rows that ended are reset at once and no step is lost.
    """

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        self.pool = envpool.make_gymnasium(task, num_envs=num_envs, seed=row_seeds(seed, num_envs))
        super().__init__(num_envs, self.pool.observation_space, self.pool.action_space)

    def reset(self) -> np.ndarray:
        return self.pool.reset()[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, _ = self.pool.step(self.actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            ended = np.flatnonzero(done)
            for i in ended:
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = {"terminal_observation": observation[i].copy(), "TimeLimit.truncated": cut}
            observation = observation.copy()
            observation[ended] = self.pool.reset(ended.astype(np.int32))[0]
        return observation, reward, done, infos

    def seed(self, seed: int | None = None) -> list[int | None]:
        """The rows were seeded when they were made."""
        return [None] * self.num_envs

    def close(self) -> None:
        self.pool.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def policy_of(model: Any, rule: str) -> Policy:
    """The policy of a model, for evaluation by an action rule.

    PPO has no masks: as in training, a masked action is a HOLD, so its probability counts as that of HOLD. MaskablePPO
    chooses no masked action. With `greedy` PPO takes its own most probable action, masked or not.
    """
    has_masks = not isinstance(model, PPO)

    def policy(observation: Tensor, mask: Tensor) -> Tensor:
        logits = model.policy.get_distribution(observation).distribution.logits
        if has_masks:
            return torch.log_softmax(logits.masked_fill(~mask, -torch.inf), -1)
        if rule == GREEDY:
            action = logits.argmax(-1)
            return torch.where(mask.gather(1, action.unsqueeze(1)).squeeze(1), action, HOLD)
        chances = logits.softmax(-1)
        valid = chances * mask
        valid[:, HOLD] += (chances - valid).sum(-1)
        return valid.log()

    return policy


class KeepBest(BaseCallback):
    """The same choice of weights as ours: the best validation Sharpe ratio, looked at as often and as late."""

    def __init__(self, spec: Spec, bars: SymbolData, symbol: str, seed: int) -> None:
        super().__init__()
        self.evaluator = Evaluator(spec, bars, symbol, seed, torch.device("cpu"))
        self.spec = spec
        self.every, self.weights, self.before = spec.evaluation.every, None, 0
        self.best = (False, -np.inf)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        schedule = self.spec.schedules.get("ppo.ent_coef")
        if schedule is not None:  # Stable-Baselines3 has no schedule for it; this gives it ours
            self.model.ent_coef = value_at(schedule, self.num_timesteps / self.spec.ppo.total_timesteps)
        if self.num_timesteps // self.every > self.before // self.every:
            self.look()
        self.before = self.num_timesteps

    def _on_training_end(self) -> None:
        self.look()

    def look(self) -> None:
        sharpe = self.evaluator(policy_of(self.model, self.spec.evaluation.action)).metrics.get(
            "eval/sharpe_ratio", -np.inf
        )
        late = self.num_timesteps >= self.spec.checkpoints.best_from * self.spec.ppo.total_timesteps
        if (late, sharpe) > self.best or self.weights is None:
            self.best = (late, sharpe)
            self.weights = {key: value.clone() for key, value in self.model.policy.state_dict().items()}


def learning_rate(spec: Spec) -> float | Callable[[float], float]:
    """The spec's, with its schedule as Stable-Baselines3 writes one: by the share of training left."""
    schedule = spec.schedules.get("ppo.learning_rate")
    if schedule is None:
        return float(spec.ppo.learning_rate)
    return lambda left: value_at(schedule, 1 - left)


def knobs_of(spec: Spec) -> dict[str, Any]:
    """The spec's knobs that Stable-Baselines3's PPO has under the same names."""
    same = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda")
    same += ("clip_range", "ent_coef", "vf_coef", "max_grad_norm")
    return {"learning_rate": learning_rate(spec)} | {name: getattr(spec.ppo, name) for name in same}


def train_maskable(spec: Spec, bars: SymbolData, symbol: str, seed: int) -> Policy:
    """Train sb3-contrib's MaskablePPO as `train` does PPO."""
    from sb3_contrib import MaskablePPO

    return train(spec, bars, symbol, seed, MaskablePPO)


def train(spec: Spec, bars: SymbolData, symbol: str, seed: int, algorithm: Any = PPO) -> Policy:
    """Train Stable-Baselines3's PPO with the spec's knobs; its best weights by validation as a policy."""
    knobs = spec.ppo
    env = VecNormalize(
        TradingVecEnv(spec, bars, symbol, seed), norm_obs=False, clip_reward=spec.reward.clip, gamma=knobs.gamma
    )
    torch.set_num_threads(1)
    model = algorithm(
        "MlpPolicy",
        env,
        **knobs_of(spec),
        target_kl=None if knobs.target_kl == "off" else knobs.target_kl,
        policy_kwargs={"net_arch": list(knobs.hidden)},
        seed=seed,
        device="cpu",
    )
    keep = KeepBest(spec, bars, symbol, seed)
    model.learn(knobs.total_timesteps, callback=keep)
    assert keep.weights is not None
    model.policy.load_state_dict(keep.weights)
    return policy_of(model, spec.evaluation.action)
