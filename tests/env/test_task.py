"""`VectorTask`: the tasks of others behind the same interface."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from p3kit.env import VectorTask
from p3kit.errors import InputError, NumericalFault
from p3kit.metrics import COMPONENTS


class Countdown(gymnasium.Env[np.ndarray, int]):
    """Observes the step number; ends after three steps, by truncation when the last action was 1."""

    observation_space = gymnasium.spaces.Box(-1, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert action in (5, 6)
        self.n += 1
        over = self.n == 3
        reward = float("inf") if self.n == 2 and action == 6 else float(self.n)
        return np.full(2, self.n, np.float32), reward, over and action == 5, over and action == 6, {}


def countdown(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> VectorTask:
    def make_vec(env_id: str, num_envs: int) -> gymnasium.vector.VectorEnv:
        return gymnasium.vector.SyncVectorEnv([Countdown] * num_envs, autoreset_mode=mode)

    monkeypatch.setattr(gymnasium, "make_vec", make_vec)
    return VectorTask("Countdown-v0", 2, seed=0)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "envpool:CartPole-v1"])
def test_cartpole_speaks_the_trainers_interface(env_id: str) -> None:
    task = VectorTask(env_id, 3, seed=1)
    assert (task.num_envs, task.num_actions, task.observation_size, task.autoreset) == (3, 2, 4, "next_step")
    step = task.reset(torch.zeros(3))
    ended = torch.zeros(3, dtype=torch.bool)
    for _ in range(120):
        step = task.step(torch.ones(3, dtype=torch.int64), torch.zeros(3))
        assert step.components.shape == (3, len(COMPONENTS))
        assert torch.equal(step.components[:, 0], step.valid.double())  # CartPole pays 1 for every real step
        assert not step.components[:, 1:].any()
        assert torch.equal(step.valid, ~ended)
        ended = step.terminated | step.truncated
        assert task.observe(step.index, step.account).dtype == torch.float32
        assert step.mask.all()
    task.raise_if_faulty()
    task.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "envpool:CartPole-v1"])
def test_seeds_decide(env_id: str) -> None:
    first = [VectorTask(env_id, 2, seed=seed).reset().account for seed in (1, 1, 2)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("env_id", ["CartPole-v1", "envpool:CartPole-v1"])
def test_neighbouring_seeds_have_no_row_in_common(env_id: str) -> None:
    begins = [VectorTask(env_id, 8, seed=seed).reset().account.tolist() for seed in (1, 2, 3)]
    assert len({tuple(row) for rows in begins for row in rows}) == 24


def test_same_step_keeps_the_final_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    task = countdown(AutoresetMode.SAME_STEP, monkeypatch)
    assert task.autoreset == "same_step"
    task.reset()
    for _ in range(3):
        step = task.step(torch.tensor([0, 1]) if task._env.envs[0].n == 2 else torch.tensor([0, 0]))
    assert step.terminated.tolist() == [True, False]
    assert step.truncated.tolist() == [False, True]
    assert step.account.tolist() == [[0, 0], [0, 0]]
    assert step.final_account.tolist() == [[3, 3], [3, 3]]
    assert step.valid.tolist() == [True, True]
    assert step.components[:, 0].tolist() == [3.0, 3.0]


def test_next_step_marks_the_reset_row(monkeypatch: pytest.MonkeyPatch) -> None:
    task = countdown(AutoresetMode.NEXT_STEP, monkeypatch)
    task.reset()
    seen = [task.step(torch.tensor([0, 0])) for _ in range(5)]
    assert [step.valid[0].item() for step in seen] == [True, True, True, False, True]
    assert [step.account[0, 0].item() for step in seen] == [1, 2, 3, 0, 1]
    assert [step.components[0, 0].item() for step in seen] == [1, 2, 3, 0, 1]


def test_rewards_that_are_not_finite_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    task = countdown(AutoresetMode.NEXT_STEP, monkeypatch)
    task.reset()
    task.step(torch.tensor([0, 0]))
    task.raise_if_faulty()
    task.step(torch.tensor([1, 0]))
    with pytest.raises(NumericalFault, match="1 rewards were not finite"):
        task.raise_if_faulty()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulum-v1", "only tasks with discrete actions"),
        ("Nothing-v7", "gymnasium cannot make it"),
        ("envpool:Nothing-v7", "EnvPool has no such task"),
        ("Blackjack-v1", "only Box and Discrete observations"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(env_id: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorTask(env_id, 1, seed=0)


def test_discrete_observations_are_one_hot() -> None:
    task = VectorTask("FrozenLake-v1", 2, seed=0)
    step = task.reset()
    assert task.observation_size == 16
    assert step.account.sum(1).tolist() == [1.0, 1.0]
