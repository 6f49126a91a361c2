"""Evaluate an agent that trains on a Gymnasium or EnvPool task: the returns of whole episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p3kit.api.saved_run import RunLike, open_run
from p3kit.errors import InputError
from p3kit.rundir import find_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 20
"""Episodes that are played side by side."""


@dataclass(frozen=True)
class TaskReturns:
    """Undiscounted returns of whole episodes, each action picked by `evaluation.action` of the spec."""

    run: str
    agent: str
    task: str
    checkpoint: str
    global_step: int | None
    """Env steps after which the checkpoint was written."""
    returns: list[float]
    lengths: list[int]
    """Steps of each episode."""
    action: str = "greedy"
    """The rule that picked the actions: greedy or sampled."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return; NaN for one episode."""
        count = len(self.returns)
        return float(np.std(self.returns, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `p3kit evaluate --json` prints them."""
        numbers = {"mean_return": self.mean, "standard_error": self.standard_error}
        return asdict(self) | {name: None if np.isnan(value) else value for name, value in numbers.items()}


def evaluate_task(
    run: RunLike, checkpoint: str = "last", episodes: int = 100, runs_root: str | Path | None = None
) -> TaskReturns:
    """Play whole episodes of a run's task, none of which was seen in training.

    The run's own copy of its trainer is imported into this process: evaluate only runs that you trust.

    Args:
        run: A run of `trainers/ppo.py --env-id`.
        checkpoint: `last`, or the name of a file in `checkpoints/`.
        episodes: How many, at least 1; rounded up so that every row plays equally many (short ones are not favoured).
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The return and the length of each episode.

    Raises:
        RunNotFound: No run has that name.
        InputError: The run trains on bars, or there is no such checkpoint.
        MissingExtra: The task needs EnvPool, which is not installed.
    """
    import torch

    from p3kit.env import VectorTask
    from p3kit.runtime.action_rule import SHARPENED, choose_action
    from p3kit.runtime.card import weights_of
    from p3kit.runtime.checkpoints import load_checkpoint
    from p3kit.runtime.fixed_rules import seed_of
    from p3kit.runtime.policy import load_policy_of, load_weights
    from p3kit.runtime.trainer_import import import_trainer
    from p3kit.spec import resolve_spec

    saved = open_run(run, runs_root)
    task = saved.info["env_id"]
    if not task:
        raise InputError(saved.name, "trains on bars, not on a task", "p3kit.evaluate_run backtests it")
    if episodes < 1:
        raise InputError("episodes", f"is {episodes}", "give at least 1")
    (plan,) = saved.info["agents"]
    directory = saved.directory
    path = directory.checkpoint(find_checkpoint(directory, plan["name"], checkpoint))
    state = load_checkpoint(path)
    spec = resolve_spec(plan["spec"], f"{directory.path / 'run.json'}: {plan['name']}", directory.trainer_file)
    rows = min(episodes, _ROWS)
    env = VectorTask(task, rows, seed_of("evaluation", plan["seed"]) % 2**31)
    module = import_trainer(directory.trainer_file)
    policy = load_weights(
        load_policy_of(module), module.Args(**spec.ppo.model_dump()), spec, weights_of(state), env.device,
        agent=plan["name"], observation_size=env.observation_size, num_actions=env.num_actions,
    )  # fmt: skip
    rule = spec.evaluation.action
    if rule == SHARPENED:
        what = 'evaluation.action = "sharpened" is for the seven actions of trading'
        raise InputError(saved.name, what, "write greedy or sampled")
    generator = torch.Generator().manual_seed(seed_of("action", plan["seed"]))

    def act(observation: Tensor, mask: Tensor) -> Tensor:
        return choose_action(policy.log_probs(observation, mask), rule, torch.rand(rows, generator=generator))

    try:
        returns, lengths = _play(env, act, -(-episodes // rows))
    finally:
        env.close()
    step = state.get(f"agent/{plan['name']}/global_step")
    return TaskReturns(saved.name, plan["name"], task, path.name, step, returns.tolist(), lengths.tolist(), rule)


def _play(env: Any, act: Any, each: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns and lengths of the first `each` episodes of every row, (rows · each,) in the order of rows."""
    step, earned, steps = env.reset(), np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    returns: list[list[float]] = [[] for _ in range(env.num_envs)]
    lengths: list[list[int]] = [[] for _ in range(env.num_envs)]
    while min(map(len, returns)) < each:
        step = env.step(act(env.observe(step.index, step.account), step.mask))
        earned += step.components[:, 0].numpy()  # 0 where a step only resets
        steps += step.valid.numpy()
        for row in (step.terminated | step.truncated).nonzero().flatten().tolist():
            returns[row].append(float(earned[row]))
            lengths[row].append(int(steps[row]))
            earned[row], steps[row] = 0.0, 0
    return np.array([own[:each] for own in returns]).ravel(), np.array([own[:each] for own in lengths]).ravel()
