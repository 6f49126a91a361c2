"""Advantages of a whole rollout of trainers/ppo.py, in both ways that environments begin again, against a plain hand
loop over the episodes that were really played."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from p3kit.env import VectorTask
from p3kit.env.timestep import Timestep
from p3kit.rundir import list_runs
from p3kit.runtime import load_checkpoint, part

GAMMA, LAMBDA, STEPS, ENVS = 0.9, 0.8, 31, 3


class Stairs(gymnasium.Env[np.ndarray, int]):
    """Episodes of 2 to 5 steps that end by ruin or by the clock, depending on the last action."""

    observation_space = gymnasium.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n, self.last = 0, int(self.np_random.integers(2, 6))
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n += 1
        over = self.n == self.last
        return self._seen(), float(self.np_random.normal()), over and action == 0, over and action == 1, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.n, self.last, self.np_random.normal()], np.float32)


@dataclass
class Played:
    """Data that the trainer received, and its advantages; (T, N, …)."""

    seen: list[torch.Tensor] = field(default_factory=list)  # T + 1 observations to act on
    steps: list[Timestep] = field(default_factory=list)
    advantage: torch.Tensor | None = None


def play(ppo: ModuleType, mode: AutoresetMode, folder: Path, patch: pytest.MonkeyPatch) -> tuple[Played, Any]:
    """One rollout of the trainer, and its net as it was then."""
    played = Played()
    reset, step, gae = VectorTask.reset, VectorTask.step, ppo.compute_gae

    def watched_reset(task: VectorTask, start: torch.Tensor | None = None) -> Timestep:
        first = reset(task, start)
        played.seen.append(first.account)
        return first

    def watched_step(task: VectorTask, action: torch.Tensor, start: torch.Tensor | None = None) -> Timestep:
        one = step(task, action, start)
        played.seen.append(one.account)
        played.steps.append(one)
        return one

    def watched_gae(*arguments: Any) -> torch.Tensor:
        played.advantage = gae(*arguments)
        return played.advantage

    patch.setattr(VectorTask, "reset", watched_reset)
    patch.setattr(VectorTask, "step", watched_step)
    patch.setattr(ppo, "compute_gae", watched_gae)
    patch.setattr(gymnasium, "make_vec", lambda _, num_envs: SyncVectorEnv([Stairs] * num_envs, autoreset_mode=mode))
    flags = {"env-id": "Stairs-v0", "runs": folder, "n-steps": STEPS, "total-timesteps": STEPS * ENVS, "n-epochs": 1}
    flags |= {"gamma": GAMMA, "gae-lambda": LAMBDA, "batch-size": 31, "set": f"env.num_envs={ENVS}"}
    patch.setattr(
        sys, "argv", ["ppo.py", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    )
    ppo.main()
    (run,) = list_runs(folder)
    net = ppo.ActorCritic(3, 2, ppo.Args(), torch.Generator())
    net.load_state_dict(part("net", part("trainer", load_checkpoint(run.checkpoint("init")))))
    return played, net


def by_hand(played: Played, net: Any) -> dict[tuple[int, int], float]:
    """Equation 16 of Schulman et al. 2016 over every real transition, by (step, env)."""

    def value(observation: torch.Tensor) -> float:
        with torch.no_grad():
            return float(net(observation.unsqueeze(0))[1])

    found = {}
    for env in range(ENVS):
        real = [t for t in range(STEPS) if bool(played.steps[t].valid[env])]
        episode: list[int] = []
        for t in real:
            episode.append(t)
            one = played.steps[t]
            ended = bool(one.terminated[env] or one.truncated[env])
            if not ended and t != real[-1]:
                continue
            after = 0.0 if one.terminated[env] else value(one.final_account[env])
            for first in episode:
                total, weight = 0.0, 1.0
                for u in (u for u in episode if u >= first):
                    following = after if u == episode[-1] else value(played.seen[u + 1][env])
                    reward = float(played.steps[u].components[env, 0])
                    total += weight * (reward + GAMMA * following - value(played.seen[u][env]))
                    weight *= GAMMA * LAMBDA
                found[first, env] = total
            episode = []
    return found


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
def test_a_rollouts_advantages_are_those_of_its_episodes(
    ppo: ModuleType, mode: AutoresetMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played, net = play(ppo, mode, tmp_path, monkeypatch)
    assert played.advantage is not None
    assert played.advantage.shape == (STEPS, ENVS)
    expected = by_hand(played, net)
    ends = torch.stack([one.terminated.int() + 2 * one.truncated.int() for one in played.steps])
    assert {1, 2} <= set(ends.flatten().tolist())  # both kinds of ends were met
    assert (len(expected) < STEPS * ENVS) == (mode is AutoresetMode.NEXT_STEP)
    for (t, env), advantage in expected.items():
        assert float(played.advantage[t, env]) == pytest.approx(advantage, abs=1e-4), (t, env)


class ThreeSteps(Stairs):
    """Episodes of three steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed, options=options)
        self.last = 3
        return self._seen(), {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    ("n_steps", "total"),
    [(2, 6), (3, 8), (3, 7)],
    ids=["rollouts of two steps", "a last rollout of reset steps", "a last rollout of one row"],
)
def test_the_shortest_rollouts_train_to_their_end(
    ppo: ModuleType, mode: AutoresetMode, n_steps: int, total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gymnasium, "make_vec", lambda _, num_envs: SyncVectorEnv([ThreeSteps] * 2, autoreset_mode=mode))
    flags = ["--env-id", "Steps-v0", "--runs", str(tmp_path), "--set", "env.num_envs=2", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", ["ppo.py", *flags, "--n-steps", str(n_steps), "--total-timesteps", str(total)])
    ppo.main()
    (run,) = list_runs(tmp_path)
    assert run.status()["state"] == "done"
    assert run.read_metrics()[-1]["global_step"] == total


def test_a_rollout_of_one_step_needs_restarts_in_the_same_step(
    ppo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        monkeypatch.setattr(
            gymnasium, "make_vec", lambda _, num_envs, mode=mode: SyncVectorEnv([ThreeSteps] * 2, autoreset_mode=mode)
        )
        flags = [
            "--env-id",
            "S-v0",
            "--runs",
            str(tmp_path / mode.name),
            "--set",
            "env.num_envs=2",
            "--batch-size",
            "2",
        ]
        monkeypatch.setattr(sys, "argv", ["ppo.py", *flags, "--n-steps", "1", "--total-timesteps", "9"])
        with contextlib.suppress(SystemExit):
            ppo.main()
    states = [list_runs(tmp_path / mode)[0].status() for mode in ("SAME_STEP", "NEXT_STEP")]
    assert [status["state"] for status in states] == ["done", "failed"]
    assert "ppo.n_steps: 1: this task restarts" in states[1]["message"]
    capsys.readouterr()
