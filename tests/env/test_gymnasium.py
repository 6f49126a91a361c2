"""`p3kit/Trading-v1`: the environment as gymnasium, and those who speak its language, know environments."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from p3kit.env import TradingEnv, TradingGymEnv, TradingVectorEnv
from p3kit.errors import InputError, NumericalFault, SpecError
from p3kit.market import load_market, sample
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import resolve_spec

SHORT = {"env.episode_bars": 9, "env.window": 4}
HOLD_ONLY = [True] + [False] * 6


def make_vec(num_envs: int = 4, **arguments: Any) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec("p3kit/Trading-v1", num_envs=num_envs, **arguments)


def random_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    return (rng.random(mask.shape) * mask).argmax(-1)


@pytest.fixture
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_warnings")
def test_the_checkers_of_gymnasium_and_stable_baselines_are_content() -> None:
    env = gymnasium.make("p3kit/Trading-v1", symbol="AAPL", overrides=SHORT)
    check_env(env.unwrapped)
    check_env_for_sb3(env.unwrapped)


def test_a_vector_env_is_ours_and_says_how_it_resets() -> None:
    env = make_vec(5, symbols=["AAPL", "AMD"])
    assert isinstance(env.unwrapped, TradingVectorEnv)
    assert env.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    assert env.num_envs == 5
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation.shape == (5, env.single_observation_space.shape[0])
    assert info["action_mask"].shape == (5, len(ACTIONS))
    assert info["_action_mask"].all()
    close = [env.unwrapped.trading._data[i % 2].close[bar] for i, bar in enumerate(info["bar"])]
    assert len(set(close)) > 1


def test_rows_play_the_symbols_in_turn_and_pay_the_weighted_reward() -> None:
    """The face is the engine: the same starts and actions through `TradingEnv` give the same numbers."""
    overrides = SHORT | {"reward.action_bonus": 0.25, "reward.weights.cost": 0.5}
    env = make_vec(4, symbols=["AAPL", "AMD"], overrides=overrides)
    spec = resolve_spec(
        {
            "name": "same",
            "symbols": ["AAPL", "AMD"],
            "env": {"episode_bars": 9, "window": 4},
            "reward": {"action_bonus": 0.25, "weights": {"cost": 0.5}},
        },
        "same",
    )
    engine = TradingEnv(load_market(spec, spec.symbols), spec, symbols=spec.symbols, num_envs=4, invalid_action="hold")
    weights = torch.tensor([getattr(spec.reward.weights, name) for name in COMPONENTS], dtype=torch.float64)
    observation, info = env.reset(seed=5)
    starts = np.random.default_rng(5)
    step = engine.reset(torch.as_tensor(starts.random(4)))
    rng = np.random.default_rng(0)
    for _ in range(25):
        np.testing.assert_array_equal(observation, engine.observe(step.index, step.account).numpy())
        np.testing.assert_array_equal(info["action_mask"], step.mask.numpy())
        action = random_actions(rng, info["action_mask"])
        observation, reward, terminated, truncated, info = env.step(action)
        step = engine.step(torch.as_tensor(action), torch.as_tensor(starts.random(4)))
        expected = (step.components @ weights).numpy() + 0.25 * (action != 0)
        np.testing.assert_allclose(reward, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(terminated, step.terminated.numpy())
        np.testing.assert_array_equal(truncated, step.truncated.numpy())


def test_an_episode_that_ends_leaves_its_last_observation_and_facts() -> None:
    env = make_vec(3, symbol="AAPL", overrides=SHORT)
    _, info = env.reset(seed=1)
    for _ in range(9):
        assert "final_obs" not in info
        observation, _, _, truncated, info = env.step(np.zeros(3, int))
    assert truncated.all()
    assert info["_final_obs"].all()
    left = TradingEnv.account_fields.index("episode_left") - len(TradingEnv.account_fields)
    assert [row[left] for row in info["final_obs"]] == [0, 0, 0]  # where it arrived
    assert observation[:, left].tolist() == [1, 1, 1]  # where it goes on
    assert info["final_info"]["_equity"].all()
    assert info["final_info"]["action_mask"].tolist() == [HOLD_ONLY] * 3
    assert info["equity"].tolist() == [100_000.0] * 3
    assert (info["bar"] != info["final_info"]["bar"]).any()


def test_a_row_that_ends_alone_leaves_the_others_alone() -> None:
    """Ruin at 97 % under heavy costs ends rows one by one."""
    overrides = {"env.commission_bps": 100, "env.ruin": 0.97, "env.window": 4}
    env = make_vec(6, symbol="AMD", overrides=overrides)
    _, info = env.reset(seed=3)
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(60):
        _, _, terminated, truncated, info = env.step(random_actions(rng, info["action_mask"]))
        ended = terminated | truncated
        if ended.any() and not ended.all():
            seen += 1
            np.testing.assert_array_equal(info["_final_obs"], ended)
            assert [row is not None for row in info["final_obs"]] == ended.tolist()
            np.testing.assert_array_equal(info["final_info"]["_equity"], ended)
            assert (info["final_info"]["equity"][~ended] == 0).all()
            assert (info["equity"][ended] == 100_000).all()
            assert (info["equity"][~ended] != 0).all()
    assert seen > 3


def test_a_seed_decides_everything_and_a_reset_without_one_goes_on() -> None:
    def walk(env: gymnasium.vector.VectorEnv, seed: int | None) -> list[np.ndarray]:
        seen = [env.reset(seed=seed)[0]]
        seen += [env.step(np.ones(4, int))[0] for _ in range(20)]
        return seen

    one, other = make_vec(symbol="AAPL", overrides=SHORT), make_vec(symbol="AAPL", overrides=SHORT)
    for first, second in zip(walk(one, 7), walk(other, 7), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(walk(one, None)[0], walk(other, 8)[0])
    assert not np.array_equal(walk(one, None)[0], walk(one, None)[0])


def test_what_a_user_writes_on_never_reaches_the_books() -> None:
    tidy, messy = (make_vec(3, symbol="AAPL", overrides=SHORT) for _ in range(2))
    seen, soiled = tidy.reset(seed=2)[0], messy.reset(seed=2)[0]
    for _ in range(20):
        seen, _, _, _, info = tidy.step(np.ones(3, int))
        soiled, _, _, _, dirt = messy.step(np.ones(3, int))
        np.testing.assert_array_equal(seen, soiled)
        soiled[:] = 7
        for name, values in dirt.items():
            if not name.startswith(("_", "final")):
                np.testing.assert_array_equal(values, info[name])
                values[:] = 1


@pytest.mark.parametrize("backend", ["batched", "scalar"])
def test_a_masked_action_is_a_hold_that_is_told_and_counted(backend: str) -> None:
    env = make_vec(2, symbol="AAPL", overrides=SHORT | {"env.backend": backend})
    env.reset(seed=0)
    sell = ACTIONS.index("SELL_ALL")
    _, reward, _, _, info = env.step(np.array([sell, 0]))
    assert info["invalid_action"].tolist() == [True, False]
    assert info["equity"].tolist() == [100_000.0] * 2
    assert reward.tolist() == [0.0, 0.0]
    assert env.unwrapped.masked_actions.tolist() == [1, 0]


def test_a_masked_action_raises_where_that_is_wanted() -> None:
    env = gymnasium.make("p3kit/Trading-v1", symbol="AAPL", invalid_action="error", overrides=SHORT)
    env.reset(seed=0)
    with pytest.raises(NumericalFault, match="1 masked actions were selected"):
        env.step(ACTIONS.index("SELL_ALL"))


def test_one_account_plays_as_the_vector_does() -> None:
    alone, among = (
        gymnasium.make("p3kit/Trading-v1", symbol="AAPL", overrides=SHORT),
        make_vec(1, symbol="AAPL", overrides=SHORT),
    )
    seen, info = alone.reset(seed=4)
    batch, infos = among.reset(seed=4)
    rng = np.random.default_rng(2)
    for _ in range(9):
        np.testing.assert_array_equal(seen, batch[0])
        np.testing.assert_array_equal(alone.unwrapped.action_masks(), infos["action_mask"][0])
        action = random_actions(rng, infos["action_mask"])
        seen, reward, terminated, truncated, info = alone.step(int(action[0]))
        batch, rewards, terminations, truncations, infos = among.step(action)
        assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
    assert truncated
    np.testing.assert_array_equal(seen, infos["final_obs"][0])
    assert info["equity"] == infos["final_info"]["equity"][0]
    assert info["action_mask"].tolist() == HOLD_ONLY


def test_gymnasiums_own_wrappers_and_vectorisers_work() -> None:
    env = RecordEpisodeStatistics(make_vec(3, symbol="AAPL", overrides=SHORT))
    env.reset(seed=0)
    returns = np.zeros(3)
    for _ in range(9):
        _, reward, _, _, info = env.step(np.ones(3, int))
        returns += reward
    np.testing.assert_allclose(info["episode"]["r"], returns, rtol=1e-6)
    assert info["episode"]["l"].tolist() == [9] * 3
    for mode in ("sync", "async"):
        env = make_vec(2, vectorization_mode=mode, symbol="AAPL", overrides=SHORT)
        observation, _ = env.reset(seed=0)
        for _ in range(11):
            observation, _, _, _, info = env.step(np.zeros(2, int))
        assert observation.shape[0] == 2
        assert info["action_mask"].shape == (2, len(ACTIONS))
        env.close()


def test_a_spec_becomes_an_env_in_one_call() -> None:
    env = TradingVectorEnv("specs/phase3.toml", overrides={"env.num_envs": 2})
    assert env.num_envs == 20
    assert env.trading.symbols[:2] == ("AAPL", "AMD")
    spec = resolve_spec({"name": "mine", "symbols": ["XOM"]}, "mine")
    assert TradingVectorEnv(spec, split="validation").trading.split == "validation"


def test_with_nothing_said_the_sample_is_traded() -> None:
    """Tools that know an id and a number of rows alone can make it."""
    many = make_vec(12).unwrapped
    assert many.trading.symbols == sample.SYMBOLS
    many.reset(seed=0)
    assert gymnasium.make("p3kit/Trading-v1").unwrapped.trading.symbols == ("AAPL",)
    chosen = TradingVectorEnv(overrides={"symbols": ["XOM", "PG"]}, num_envs=2)
    assert chosen.trading.symbols == ("XOM", "PG")
    assert TradingGymEnv(overrides={"symbols": ["XOM"]}).trading.symbols == ("XOM",)


def test_wrong_words_are_answered_as_everywhere() -> None:
    with pytest.raises(InputError, match="symbols: is empty"):
        TradingVectorEnv(symbols=[])
    with pytest.raises(InputError, match=r'say symbols=\["AAPL"\]'):
        TradingVectorEnv(symbols="AAPL")
    with pytest.raises(InputError, match="beside symbols"):
        TradingVectorEnv(symbols=["AAPL"], symbol="AAPL")
    with pytest.raises(InputError, match="cannot trade AAPL, AMD"):
        TradingGymEnv(symbols=["AAPL", "AMD"])
    with pytest.raises(InputError, match="has symbols, and symbols were given"):
        TradingGymEnv(symbol="AAPL", overrides={"symbols": ["XOM"]})
    with pytest.raises(SpecError, match='did you mean "window"'):
        TradingVectorEnv(symbol="AAPL", overrides={"env.windw": 4})
    with pytest.raises(InputError, match="did you mean"):
        TradingVectorEnv("specs/phase33.toml")
    with pytest.raises(InputError, match='expected "error" or "hold"'):
        TradingVectorEnv(symbol="AAPL", invalid_action="punish")  # type: ignore[arg-type]
    rules = {"name": "t", "symbols": ["AAPL", "AMD"], "agents": {"AMD": {"env": {"commission_bps": 1.0}}}}
    with pytest.raises(InputError, match=r"\[agents.AMD\].*rules of its own"):
        TradingVectorEnv(resolve_spec(rules, "t"))
    assert TradingVectorEnv(resolve_spec(rules, "t"), symbol="AMD").trading.rules.commission == pytest.approx(1e-4)


def test_wrong_actions_and_options_are_refused() -> None:
    env = make_vec(2, symbol="AAPL", overrides=SHORT)
    with pytest.raises(InputError, match="start"):
        env.reset(options={"start": 3})
    env.reset(seed=0)
    for wrong in ([0, 7], [0, -1], [0.0, 1.0], [0]):
        with pytest.raises(ValueError, match="expected"):
            env.step(np.array(wrong))
