"""`p3kit/Trading-v1` as EnvPool makes environments, and what we rely on EnvPool for."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from p3kit.env import TradingVectorEnv
from p3kit.errors import InputError
from p3kit.metrics import ACTIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # EnvPool's own
    import envpool

    import p3kit.env.envpool as face

SHORT = {"env.episode_bars": 9, "env.window": 4}
HOLD_ONLY = [True] + [False] * 6


def make(num_envs: int = 4, **arguments: Any) -> Any:
    arguments = {"symbol": "AAPL", "overrides": SHORT} | arguments
    return envpool.make_gymnasium("p3kit/Trading-v1", num_envs=num_envs, **arguments)


def random_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    return (rng.random(mask.shape) * mask).argmax(-1)


def test_envpool_still_asks_for_what_we_give() -> None:
    """Its C++ environments have the same private parts as ours. The test fails if a new EnvPool requires others."""
    spec = envpool.make_spec("CartPole-v1", num_envs=2)
    own = envpool.make_spec("p3kit/Trading-v1", num_envs=2, symbol="AAPL")
    standard = set(spec._config_keys) - {"max_episode_steps", "reward_threshold"}
    assert standard <= set(face._TradingEnvSpec._config_keys)
    assert list(spec._state_keys) == own._state_keys[: len(spec._state_keys)]
    assert list(spec._action_keys) == own._action_keys
    for key, theirs in zip(spec._state_keys, spec._state_spec, strict=True):
        ours = dict(zip(own._state_keys, own._state_spec, strict=True))[key]
        assert np.dtype(ours[0]) == np.dtype(theirs[0]), key
        assert len(ours) == len(theirs)
        if key != "obs":
            assert list(ours[1]) == list(theirs[1]), key
    assert [np.dtype(part[0]) for part in own._action_spec] == [np.dtype(part[0]) for part in spec._action_spec]


def test_types_and_spaces_are_envpools() -> None:
    env = make()
    assert env.metadata["autoreset_mode"].name == "NEXT_STEP"
    observation, info = env.reset()
    assert observation.dtype == np.float32
    assert observation[0] in env.observation_space
    assert env.action_space.n == len(ACTIONS)
    assert info["env_id"].dtype == np.int32
    assert info["action_mask"].shape == (4, len(ACTIONS))
    _, reward, terminated, truncated, info = env.step(np.zeros(4, int))
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float32, bool, bool)
    assert info["elapsed_step"].tolist() == [1] * 4


def test_an_id_and_a_number_of_rows_are_enough() -> None:
    """As a script of EnvPool's makes any of its environments: the accounts trade the sample."""
    env = envpool.make_gymnasium("p3kit/Trading-v1", num_envs=8)
    observation, info = env.reset()
    assert observation.shape[0] == len(info["env_id"]) == 8
    env.send(np.zeros(8, int), info["env_id"])
    assert len(env.recv()[0]) == 8


def test_an_ended_row_only_resets_in_the_next_step() -> None:
    env = make()
    env.reset()
    for _ in range(9):
        observation, _, _, truncated, info = env.step(np.zeros(4, int))
    assert truncated.all()
    assert info["elapsed_step"].tolist() == [9] * 4
    assert info["action_mask"].tolist() == [HOLD_ONLY] * 4
    left = -len(ACTIONS) - 3
    assert observation[:, left].tolist() == [0.0] * 4  # the share of the episode that is left
    buy = np.full(4, ACTIONS.index("BUY_LARGE"))
    observation, reward, terminated, truncated, info = env.step(buy)
    assert observation[:, left].tolist() == [1.0] * 4
    assert reward.tolist() == [0.0] * 4
    assert not (terminated | truncated).any()
    assert info["elapsed_step"].tolist() == [0] * 4
    assert info["equity"].tolist() == [100_000.0] * 4
    assert not info["invalid_action"].any()
    _, _, _, _, info = env.step(buy)
    assert (info["exposure"] > 0.9).all()


def test_an_episode_is_the_same_as_behind_gymnasium() -> None:
    """From the same start the same actions give the same numbers; only the form differs."""
    env = make(1, seed=11)
    observation, info = env.reset()
    other = TradingVectorEnv(symbol="AAPL", num_envs=1, overrides=SHORT)
    other.reset(seed=0)
    start = np.random.default_rng(11).random(1)
    other._episodes.restart_some(np.array([0]), start)
    rng = np.random.default_rng(0)
    for _ in range(9):
        action = random_actions(rng, info["action_mask"])
        observation, reward, terminated, truncated, info = env.step(action)
        batch, rewards, terminations, truncations, infos = other.step(action)
        np.testing.assert_allclose(reward, rewards, rtol=1e-6)
        assert (terminated, truncated) == (terminations, truncations)
        if not truncated:
            np.testing.assert_array_equal(observation, batch)
            assert info["equity"] == infos["equity"]
    np.testing.assert_array_equal(observation[0], infos["final_obs"][0])
    assert info["equity"] == infos["final_info"]["equity"]


def test_rows_may_be_sent_and_received_in_any_company() -> None:
    """Two rows at a time, in a random order, play the very episodes that all rows together play."""
    together, apart = (
        make(4, seed=2, symbols=["AAPL", "AMD"], symbol=None),
        make(4, seed=2, symbols=["AAPL", "AMD"], symbol=None, batch_size=2),
    )
    rng = np.random.default_rng(0)
    scripts = rng.integers(0, len(ACTIONS), (30, 4))
    seen: dict[int, list[np.ndarray]] = {i: [] for i in range(4)}
    together.reset()
    for t in range(30):
        observation, reward, *_ = together.step(scripts[t])
        for i in range(4):
            seen[i].append(np.append(observation[i], reward[i]))
    apart.async_reset()
    waiting = [apart.recv() for _ in range(2)]
    assert [batch[-1]["env_id"].tolist() for batch in waiting] == [[0, 1], [2, 3]]
    steps = np.zeros(4, int)
    while (steps < 30).all() or (steps < 30).any():
        ready = rng.permutation(np.flatnonzero(steps < 30))[:2].astype(np.int32)
        if len(ready) < 2:
            break
        apart.send(scripts[steps[ready], ready], ready)
        observation, reward, *_, info = apart.recv()
        np.testing.assert_array_equal(info["env_id"], ready)
        for row, i in enumerate(ready):
            np.testing.assert_array_equal(np.append(observation[row], reward[row]), seen[i][steps[i]])
            steps[i] += 1
    assert steps.sum() > 100


def test_seeds_decide_row_by_row() -> None:
    first, same, listed, other = make(seed=5), make(seed=5), make(seed=[5, 6, 7, 8]), make(seed=6)
    observations = [env.reset()[0] for env in (first, same, listed, other)]
    np.testing.assert_array_equal(observations[0], observations[1])
    np.testing.assert_array_equal(observations[0], observations[2])
    np.testing.assert_array_equal(observations[0][1:], observations[3][:-1])
    again = first.reset()[0]
    np.testing.assert_array_equal(again, observations[0])  # nobody has moved yet
    first.step(np.zeros(4, int))
    assert not np.array_equal(first.reset()[0], observations[0])


def test_some_rows_may_be_reset() -> None:
    env = make(4, seed=1)
    env.reset()
    for _ in range(3):
        env.step(np.ones(4, int))
    observation, info = env.reset(options={"reset_mask": np.array([False, True, False, True])})
    assert info["env_id"].tolist() == [1, 3]
    assert info["elapsed_step"].tolist() == [0, 0]
    assert observation.shape[0] == 2
    _, _, _, _, info = env.step(np.zeros(4, int))
    assert info["elapsed_step"].tolist() == [4, 1, 4, 1]
    assert (info["exposure"] > 0).tolist() == [True, False, True, False]


def test_the_dm_env_form_works() -> None:
    env = envpool.make("p3kit/Trading-v1", env_type="dm", num_envs=2, symbol="AAPL", overrides=SHORT)
    step = env.reset()
    assert step.step_type.tolist() == [0, 0]
    for _ in range(9):
        step = env.step(np.zeros(2, np.int32))
    assert step.step_type.tolist() == [2, 2]
    assert step.discount.tolist() == [1.0, 1.0]  # truncated, not terminated
    assert step.observation.action_mask.tolist() == [HOLD_ONLY] * 2


def test_plain_accounts_play_behind_it_too() -> None:
    """`env.backend = "scalar"`: the same observations, masks and rewards, a few rows at a time."""
    batched, plain = (make(overrides=SHORT | {"env.backend": name}, seed=3) for name in ("batched", "scalar"))
    rng = np.random.default_rng(0)
    seen, info = batched.reset()
    also, others = plain.reset()
    for _ in range(30):
        np.testing.assert_allclose(also, seen, atol=1e-6)
        assert (others["action_mask"] == info["action_mask"]).all()
        some = rng.permutation(4)[:2].astype(np.int32)
        chosen = random_actions(rng, info["action_mask"]).astype(np.int32)
        for env in (batched, plain):
            env.send(chosen[some], some)
        here, there = batched.recv(), plain.recv()
        np.testing.assert_allclose(there[1], here[1], atol=1e-9)  # rewards
        rest = np.setdiff1d(np.arange(4), some).astype(np.int32)
        for env in (batched, plain):
            env.send(chosen[rest], rest)
        later, also_later = batched.recv(), plain.recv()
        order = np.argsort(np.concatenate([some, rest]))
        seen = np.concatenate([here[0], later[0]])[order]
        also = np.concatenate([there[0], also_later[0]])[order]
        info = {"action_mask": np.concatenate([here[-1]["action_mask"], later[-1]["action_mask"]])[order]}
        others = {"action_mask": np.concatenate([there[-1]["action_mask"], also_later[-1]["action_mask"]])[order]}


def test_wrong_words_are_answered() -> None:
    with pytest.raises(InputError, match="one player"):
        make(max_num_players=2)
    env = make()
    with pytest.raises(RuntimeError, match="send first"):
        env.recv()
    env.reset()
    with pytest.raises(ValueError, match="actions of 0"):
        env.step(np.full(4, 7))


def test_without_envpool_the_rest_works_and_this_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['envpool'] = None; sys.modules['envpool.python.api'] = None\n"
        "import p3kit.env\n"
        "try:\n    import p3kit.env.envpool\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MissingExtra" in result.stdout
    assert "p3kit[envpool]" in result.stdout
