"""The environment for EnvPool; `import p3kit.env.envpool` registers it.

    envpool.make_gymnasium("p3kit/Trading-v1", num_envs=8, symbols=["AAPL", "AMD"])
    envpool.make("p3kit/Trading-v1", env_type="dm", num_envs=8, batch_size=4, symbol="AAPL")    # send, recv

Observation, action, reward and `info` are those of `p3kit.env.gymnasium`, with EnvPool's conventions. Reward is
float32. Seeds are given to `make` (env i is seeded by seed + i, or by its own of a list); `reset` starts a new episode
and does not use them again. The step after an end only resets (NEXT_STEP: its action is ignored, its reward 0). With
`batch_size` below `num_envs`, `recv` returns that many rows in the order they were sent. The engine is the tensors of
`TradingEnv`, not EnvPool's threads, so `num_threads` and `thread_affinity_offset` have no effect here.

`py_env` of EnvPool wraps the two classes whose names begin with an underscore, as it does those written in C++.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from p3kit.env.episodes import Episodes, one_or_many, read_spec
from p3kit.env.registration import ENV_ID
from p3kit.errors import InputError, MissingExtra
from p3kit.metrics import ACTIONS, COMPONENTS

try:
    from envpool.python.api import py_env
    from envpool.registration import registry
except ImportError:
    raise MissingExtra("envpool", "envpool", "p3kit.env.envpool") from None

Array = NDArray[Any]
State = dict[str, Array]
"""Output of some rows, (n, …) by state key."""
ArraySpec = tuple[Any, list[int], tuple[Any, Any], tuple[list[float], list[float]], bool]
INT32 = (-(2**31), 2**31 - 1)
FLOAT32 = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
FIRST, MIDDLE, LAST = 0, 1, 2  # dm_env's step types


class _TradingEnvSpec:
    """Config of an environment: EnvPool's own settings, then ours (as `TradingVectorEnv` takes them)."""

    _config_keys: ClassVar[list[str]] = [
        "num_envs",
        "batch_size",
        "num_threads",
        "max_num_players",
        "thread_affinity_offset",
        "base_path",
        "seed",
        "env_seed",
        "gym_reset_return_info",
        "spec",
        "symbols",
        "symbol",
        "split",
        "device",
        "invalid_action",
        "overrides",
    ]
    _default_config_values: ClassVar[tuple[Any, ...]] = (
        1, 0, 0, 1, -1, "", 42, [], True, None, None, None, "train", "cpu", "hold", None,
    )  # fmt: skip
    _state_keys: ClassVar[list[str]] = [
        "info:env_id",
        "info:players.env_id",
        "elapsed_step",
        "done",
        "reward",
        "discount",
        "step_type",
        "trunc",
        "obs",
        "info:action_mask",
        "info:invalid_action",
        "info:equity",
        "info:exposure",
        "info:cost_paid",
        "info:bar",
        "info:components",
    ]
    _action_keys: ClassVar[list[str]] = ["env_id", "players.env_id", "action"]

    def __init__(self, config: tuple[Any, ...]) -> None:
        """`config` has a value per `_config_keys`. Raises P3kitError where an environment cannot be made of them."""
        self._config_values = config
        chosen = dict(zip(self._config_keys, config, strict=True))
        if chosen["max_num_players"] != 1:
            raise InputError("max_num_players", f"is {chosen['max_num_players']}", "an account has one player")
        spec, symbols = read_spec(chosen["spec"], one_or_many(chosen["symbol"], chosen["symbols"]), chosen["overrides"])
        self.episodes = Episodes(
            spec,
            symbols,
            num_envs=chosen["num_envs"],
            split=chosen["split"],
            device=chosen["device"],
            invalid_action=chosen["invalid_action"],
        )

    @property
    def _state_spec(self) -> tuple[ArraySpec, ...]:
        space = self.episodes.observation_space
        bounds = (float(space.low.min()), float(space.high.max()))
        specs = {
            "obs": _array(np.float32, list(space.shape), bounds),
            "info:env_id": _array(np.int32, [], INT32),
            "info:players.env_id": _array(np.int32, [-1], INT32),
            "elapsed_step": _array(np.int32, [], INT32),
            "done": _array(np.bool_, [], (False, True)),
            "reward": _array(np.float32, [-1], FLOAT32),
            "discount": _array(np.float32, [-1], (0.0, 1.0)),
            "step_type": _array(np.int32, [], INT32),
            "trunc": _array(np.bool_, [], (False, True)),
            "info:action_mask": _array(np.bool_, [len(ACTIONS)], (False, True)),
            "info:invalid_action": _array(np.bool_, [], (False, True)),
            "info:bar": _array(np.int32, [], INT32),
            "info:components": _array(np.float32, [len(COMPONENTS)], FLOAT32),
        }
        money = _array(np.float64, [], (-np.inf, np.inf))
        return tuple(specs.get(key, money) for key in self._state_keys)

    @property
    def _action_spec(self) -> tuple[ArraySpec, ...]:
        action = _array(np.int32, [-1], (0, len(ACTIONS) - 1))
        return (_array(np.int32, [], INT32), _array(np.int32, [-1], INT32), action)


class _TradingEnvPool:
    """The accounts of one spec, moved in the subsets that are sent."""

    _state_keys: ClassVar[list[str]] = _TradingEnvSpec._state_keys
    _action_keys: ClassVar[list[str]] = _TradingEnvSpec._action_keys

    def __init__(self, spec: _TradingEnvSpec) -> None:
        self._spec = spec
        config = dict(zip(spec._config_keys, spec._config_values, strict=True))
        self._batch = config["batch_size"] or config["num_envs"]
        self._is_sync = self._batch == config["num_envs"]
        seeds = config["env_seed"] or [config["seed"] + i for i in range(config["num_envs"])]
        self._random = [np.random.default_rng(seed % 2**32) for seed in seeds]
        self._episodes = spec.episodes
        self._env = spec.episodes.env
        self._start = np.array([random.random() for random in self._random])  # (N,) of each row's next episode
        self._env.reset(torch.as_tensor(self._start, device=self._env.device))
        self._starts_used(np.arange(config["num_envs"]))
        self._fresh = np.ones(config["num_envs"], dtype=bool)  # no row has moved since the episode began
        self._ended = np.zeros(config["num_envs"], dtype=bool)  # the next step only resets
        self._elapsed = np.zeros(config["num_envs"], dtype=np.int32)
        self._queue: deque[State] = deque()  # some rows each, as they were sent

    def _reset(self, env_ids: Array) -> None:
        """New episodes in the rows `env_ids`."""
        rows = np.asarray(env_ids, dtype=np.int64)
        moved = rows[~self._fresh[rows] & ~self._ended[rows]]  # the others stand at a new start already
        if len(moved):
            self._episodes.restart_some(moved, self._start[moved])
            self._starts_used(moved)
        self._queue.append(self._begin(rows))

    def _send(self, action: Sequence[Array]) -> None:
        """`action`: env ids, players' env ids, actions, (n,) each. Raises ValueError for an action that is none."""
        rows, _, chosen = (np.asarray(part) for part in action)
        rows = rows.astype(np.int64)
        if ((chosen < 0) | (chosen >= len(ACTIONS))).any():
            raise ValueError(f"expected actions of 0 … {len(ACTIONS) - 1}, got {chosen!r}")
        resting = self._ended[rows]
        places = np.concatenate((np.flatnonzero(resting), np.flatnonzero(~resting)))
        states = [self._begin(rows[resting])] if resting.any() else []
        states += [self._move(rows[~resting], chosen[~resting])] if not resting.all() else []
        batch = {key: np.concatenate([state[key] for state in states]) for key in self._state_keys}
        back = np.argsort(places)  # rows come out in the order they were sent
        self._queue.append({key: values[back] for key, values in batch.items()} if resting.any() else batch)

    def _recv(self) -> list[Array]:
        """The states of the next rows: all that were sent, or `batch_size` of them. RuntimeError where none wait."""
        waiting = sum(len(state["done"]) for state in self._queue)
        count = waiting if self._is_sync else self._batch
        if waiting == 0 or count > waiting:
            raise RuntimeError(f"recv waits for {max(count, 1)} rows and {waiting} were sent: send first")
        parts: list[State] = []
        while count:
            state = self._queue.popleft()
            size = len(state["done"])
            if size > count:
                self._queue.appendleft({key: values[count:] for key, values in state.items()})
                state = {key: values[:count] for key, values in state.items()}
            parts.append(state)
            count -= min(size, count)
        if len(parts) == 1:
            return [parts[0][key] for key in self._state_keys]
        return [np.concatenate([part[key] for part in parts]) for key in self._state_keys]

    def _begin(self, rows: Array) -> State:
        """The rows at the start of an episode."""
        self._ended[rows], self._fresh[rows], self._elapsed[rows] = False, True, 0
        standing = self._env.standing()
        where = torch.as_tensor(rows, device=self._env.device)
        count = len(rows)
        return self._state(
            rows,
            {
                "obs": self._episodes.observe(standing.index[where], standing.account[where]),
                "reward": np.zeros(count, np.float32),
                "discount": np.ones(count, np.float32),
                "step_type": np.full(count, FIRST, np.int32),
                "done": np.zeros(count, bool),
                "trunc": np.zeros(count, bool),
                "info:action_mask": standing.mask[where].cpu().numpy(),
                "info:invalid_action": np.zeros(count, bool),
                "info:equity": standing.equity[where].cpu().numpy(),
                "info:exposure": np.zeros(count),
                "info:cost_paid": np.zeros(count),
                "info:bar": standing.bar[where].cpu().numpy(),
                "info:components": np.zeros((count, len(COMPONENTS))),
            },
        )

    def _move(self, rows: Array, action: Array) -> State:
        """Let one bar pass for the rows; where they arrived."""
        step = self._episodes.play_some(rows, action, self._start[rows])
        terminated, truncated = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        ended = terminated | truncated
        self._fresh[rows], self._ended[rows] = False, ended
        self._elapsed[rows] += 1
        self._starts_used(rows[ended])
        mask = step.mask.cpu().numpy().copy()
        mask[ended] = np.eye(len(ACTIONS), dtype=bool)[0]  # nothing is left to do there
        facts = {f"info:{name}": values for name, values in self._episodes.facts(step, action).items()}
        return self._state(
            rows,
            facts
            | {
                "obs": self._episodes.observe(step.final_index, step.final_account),
                "reward": self._episodes.reward(step).astype(np.float32),
                "discount": (~terminated).astype(np.float32),
                "step_type": np.where(ended, LAST, MIDDLE).astype(np.int32),
                "done": ended,
                "trunc": truncated,
                "info:action_mask": mask,
            },
        )

    def _state(self, rows: Array, state: State) -> State:
        """`state` with the fields that every state has for its rows."""
        ids = rows.astype(np.int32)
        state |= {"info:env_id": ids, "info:players.env_id": ids, "elapsed_step": self._elapsed[rows]}
        state["info:bar"] = state["info:bar"].astype(np.int32)
        state["info:components"] = state["info:components"].astype(np.float32)
        return state

    def _starts_used(self, rows: Array) -> None:
        """Draw where the next episodes of `rows` begin, each from its own generator."""
        for row in rows.tolist():
            self._start[row] = self._random[row].random()


def _array(dtype: Any, shape: list[int], bounds: tuple[Any, Any]) -> ArraySpec:
    """One array as EnvPool describes it; −1 is the number of players."""
    return np.dtype(dtype), shape, bounds, ([], []), False


TradingEnvSpec, TradingDMEnvPool, TradingGymnasiumEnvPool = py_env(_TradingEnvSpec, _TradingEnvPool)  # type: ignore[arg-type]  # its protocol lists what it adds itself

if ENV_ID not in registry.specs:  # a module that is loaded again registers nothing twice
    registry.register(ENV_ID, __name__, "TradingEnvSpec", "TradingDMEnvPool", "TradingGymnasiumEnvPool")
