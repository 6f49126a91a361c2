"""A. Jones' probe environments ("Debugging RL, without the agonizing pain", 2021): each can go wrong in one place only.

gymnasium finds them as `p3kit.check.probe_envs:p3kit/Probe1-v0` and so on, so `--env-id` of any trainer takes them.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

Observation = np.ndarray[Any, np.dtype[np.float32]]


class ProbeTask(gymnasium.Env[Observation, np.int64]):
    """One of five tasks of one or two steps; the observation is one number.

    1. one action, observation 0, one step, reward 1: tests that the value is learnt at all
    2. one action, observation ±1, one step, reward = observation: tests that the value reads the observation
    3. one action, observation 0 then 1, two steps, reward 1 at the end: tests the discount
    4. two actions, observation 0, one step, reward +1 or −1 by the action: tests advantage, loss and policy
    5. two actions, observation ±1, one step, reward +1 if the action matches: tests policy and value together
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (gymnasium's own attribute)

    def __init__(self, number: int) -> None:
        self.number = number
        self.action_space = gymnasium.spaces.Discrete(2 if number >= 4 else 1)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.sign, self.taken = 1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = 0
        self.sign = int(self.np_random.integers(0, 2)) * 2 - 1
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        ended = self.taken == (2 if self.number == 3 else 1)
        wanted = 1 if self.number == 4 else (self.sign + 1) // 2
        matched = 1.0 if int(action) == wanted else -1.0
        reward = {1: 1.0, 2: float(self.sign), 3: float(ended)}.get(self.number, matched)
        return self._observe(), reward, ended, False, {}

    def _observe(self) -> Observation:
        shown = {1: 0, 3: self.taken, 4: 0}.get(self.number, self.sign)
        return np.array([shown], dtype=np.float32)


NUMBERS = (1, 2, 3, 4, 5)


def env_id(number: int) -> str:
    """Name under which Gymnasium makes the task."""
    return f"p3kit.check.probe_envs:p3kit/Probe{number}-v0"


def make_tasks(num_envs: int, number: int, **_: Any) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """`num_envs` of one task that restart in the same step, so that every row is a step to learn from."""
    makers = [lambda: ProbeTask(number)] * num_envs
    return gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)


for _number in NUMBERS:
    if f"p3kit/Probe{_number}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"p3kit/Probe{_number}-v0",
            entry_point="p3kit.check.probe_envs:ProbeTask",
            vector_entry_point="p3kit.check.probe_envs:make_tasks",
            kwargs={"number": _number},
        )
