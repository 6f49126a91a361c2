"""The CPU never waits for the device inside a rollout, nor once per gradient step: a GPU would idle meanwhile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from p3kit.env import TradingEnv
from p3kit.runtime import evaluation
from p3kit.runtime.rollout_check import RolloutCheck

from .conftest import load_trainer
from .tiny_runs import train

WAITS = ("item", "cpu", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")
"""What makes the CPU wait for a tensor's numbers."""
STEPS = 75
SHORT = {"ppo.total_timesteps": 600, "ppo.n_steps": STEPS, "evaluation.every": 100_000, "checkpoints.every": 100_000}


class Waits:
    """Counts waits while a trainer runs, in its rollouts and in all."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.in_rollout: Counter[str] = Counter()
        self.in_all: Counter[str] = Counter()
        self.steps = 0
        self._rolling = self._replays = self._evaluates = False
        for name in WAITS:
            patch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))
        step, faults = TradingEnv.step, TradingEnv.faults

        def counted_step(env: TradingEnv, action: Tensor, start: Tensor | None = None) -> Any:
            if self._replays:
                return step(env, action, start)
            self._rolling = not env._replay  # evaluations play windows
            self.steps += self._rolling
            return step(env, action, start)

        def counted_faults(env: TradingEnv) -> Any:  # called once, at the end of a rollout
            self._rolling = False
            return faults(env)

        compare = RolloutCheck.compare

        def replayed(check: RolloutCheck, buffer: Any) -> Any:  # plays the first steps of a rollout again
            self._replays = True
            try:
                return compare(check, buffer)
            finally:
                self._replays = False

        walk = evaluation.walk_together

        def walked(*arguments: Any) -> Any:  # its passes are as many as the policy makes wrong guesses
            self._evaluates = True
            try:
                return walk(*arguments)
            finally:
                self._evaluates = False

        patch.setattr(evaluation, "walk_together", walked)
        patch.setattr(TradingEnv, "step", counted_step)
        patch.setattr(RolloutCheck, "compare", replayed)
        patch.setattr(TradingEnv, "faults", counted_faults)

    def _counted(self, name: str, method: Any) -> Any:
        def call(tensor: Tensor, *arguments: Any, **words: Any) -> Any:
            self.in_all[name] += not self._evaluates
            if self._rolling:
                self.in_rollout[name] += 1
            return method(tensor, *arguments, **words)

        return call


def waits_of(trainer: str, folder: Path, changes: dict[str, Any]) -> Waits:
    symbols = {"symbols": ["AAA"] if trainer == "ppo" else ["AAA", "BBB"]}
    with pytest.MonkeyPatch.context() as patch:
        waits = Waits(patch)
        (run,) = train(load_trainer(trainer), folder, trainer, SHORT | symbols | changes)
    assert run.status()["state"] == "done"
    return waits


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_nobody_waits_inside_a_rollout_or_at_a_gradient_step(trainer: str, tmp_path: Path) -> None:
    few = waits_of(trainer, tmp_path / "few", {"ppo.batch_size": 150})
    many = waits_of(trainer, tmp_path / "many", {"ppo.batch_size": 30})
    assert few.steps == many.steps == 2 * STEPS
    assert not few.in_rollout
    assert not many.in_rollout
    assert many.in_all == few.in_all  # five times the gradient steps, not one wait more
    assert few.in_all.total() > 0
