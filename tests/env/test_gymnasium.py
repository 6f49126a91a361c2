"""`p3kit/Trading-v1`: the environment through gymnasium and compatible libraries."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from p3kit.env import TradingEnv, TradingGymEnv, TradingVectorEnv
from p3kit.errors import InputError, NumericalFault, SpecError
from p3kit.market import load_market, sample
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import resolve_spec

SHORT = {"env.episode_bars": 9, "env.window": 4}
RUINOUS = {"env.commission_bps": 100, "env.ruin": 0.97, "env.window": 4}
LEFT = TradingEnv.account_fields.index("episode_left") - len(TradingEnv.account_fields)
HOLD_ONLY = [True] + [False] * 6


def make_vec(num_envs: int = 4, **arguments: Any) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec("p3kit/Trading-v1", num_envs=num_envs, **arguments)


def random_actions(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    return (rng.random(mask.shape) * mask).argmax(-1)


@pytest.fixture
def no_warnings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MPLBACKEND", "agg")  # the checkers open every render mode
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
    assert [row[LEFT] for row in info["final_obs"]] == [0, 0, 0]  # where it arrived
    assert observation[:, LEFT].tolist() == [1, 1, 1]  # where it goes on
    assert info["final_info"]["_equity"].all()
    assert info["final_info"]["action_mask"].tolist() == [HOLD_ONLY] * 3
    assert info["equity"].tolist() == [100_000.0] * 3
    assert (info["bar"] != info["final_info"]["bar"]).any()


def test_a_row_that_ends_alone_leaves_the_others_alone() -> None:
    """Ruin at 97 % under heavy costs ends rows one by one."""
    env = make_vec(6, symbol="AMD", overrides=RUINOUS)
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
    """Tools with only an id and a number of rows can make it."""
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
    with pytest.raises(InputError, match=r'use symbols=\["AAPL"\]'):
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
    for mask in (np.ones(3, bool), np.ones(2, int), np.zeros(2, bool)):
        with pytest.raises(InputError, match="at least one True"):
            env.reset(options={"reset_mask": mask})
    env.reset(seed=0)
    for wrong in ([0, 7], [0, -1], [0.0, 1.0], [0]):
        with pytest.raises(ValueError, match="expected"):
            env.step(np.array(wrong))


def test_the_next_step_resets_a_row_that_ended() -> None:
    env = make_vec(4, symbol="AMD", overrides=RUINOUS, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    _, info = env.reset(seed=3)
    rng, ended, resets = np.random.default_rng(1), np.zeros(4, bool), 0
    for _ in range(80):
        before = ended
        seen, reward, terminated, truncated, info = env.step(random_actions(rng, info["action_mask"]))
        ended = terminated | truncated
        assert not (before & ended).any()
        assert (reward[before] == 0).all()
        assert (info["equity"][before] == 100_000.0).all()
        assert info["action_mask"][ended].tolist() == [HOLD_ONLY] * ended.sum()
        assert (seen[before, LEFT] == 1).all()
        resets += before.sum() if before.sum() < 4 else 0
    assert resets


def test_without_autoreset_a_row_that_ended_waits_for_its_reset() -> None:
    env = make_vec(4, symbol="AMD", overrides=RUINOUS, autoreset_mode="disabled")
    _, info = env.reset(seed=3)
    rng, ended = np.random.default_rng(1), np.zeros(4, bool)
    while not ended.any():
        before, _, terminated, truncated, info = env.step(random_actions(rng, info["action_mask"]))
        ended = terminated | truncated
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.step(np.zeros(4, int))
    seen, info = env.reset(options={"reset_mask": ended})
    np.testing.assert_array_equal(seen[~ended], before[~ended])
    assert (info["equity"][ended] == 100_000.0).all()
    env.step(np.zeros(4, int))


def test_all_reset_modes_play_the_same_episode() -> None:
    envs = [make_vec(3, symbol="AAPL", overrides=SHORT, autoreset_mode=mode) for mode in AutoresetMode]
    infos = [env.reset(seed=2)[1] for env in envs]
    rng = np.random.default_rng(0)
    for _ in range(9):
        actions = random_actions(rng, infos[0]["action_mask"])
        steps = [env.step(actions) for env in envs]
        infos = [step[-1] for step in steps]
        for step in steps[1:]:
            for place in (1, 2, 3):
                np.testing.assert_array_equal(step[place], steps[0][place])
    last = {mode: step[0] for mode, step in zip(AutoresetMode, steps, strict=True)}
    np.testing.assert_array_equal(last[AutoresetMode.NEXT_STEP], np.stack(infos[1]["final_obs"]))


def test_gymnasium_plays_alike_in_its_own_vector_env() -> None:
    """Our NEXT_STEP and gymnasium's around single accounts: the same kinds of steps in the same order."""
    ours = make_vec(2, symbol="AAPL", overrides=SHORT, autoreset_mode=AutoresetMode.NEXT_STEP)
    theirs = make_vec(2, vectorization_mode="sync", symbol="AAPL", overrides=SHORT)
    ours.reset(seed=0), theirs.reset(seed=0)
    for _ in range(21):
        mine, other = (env.step(np.zeros(2, int)) for env in (ours, theirs))
        assert mine[3].tolist() == other[3].tolist()
        assert (mine[0][:, LEFT] == other[0][:, LEFT]).all()


def test_a_step_before_reset_after_an_end_and_after_close_is_refused() -> None:
    alone, many = TradingGymEnv(symbol="AAPL", overrides=SHORT), TradingVectorEnv(symbol="AAPL", overrides=SHORT)
    for env, action in ((alone, 0), (many, np.zeros(many.num_envs, int))):
        for call in (lambda env=env, action=action: env.step(action), env.action_masks):
            with pytest.raises(ResetNeeded, match="reset"):
                call()
        assert env.reset(seed=0)
        env.step(action)
    for _ in range(8):
        alone.step(0)
    with pytest.raises(ResetNeeded, match="after the end"):
        alone.step(0)
    for env, action in ((alone, 0), (many, np.zeros(many.num_envs, int))):
        env.close()
        env.close()
        for call in (lambda env=env, action=action: env.step(action), env.reset, env.render):
            with pytest.raises(ClosedEnvironmentError, match="closed"):
                call()


def test_a_picture_shows_each_rows_episode() -> None:
    many = make_vec(2, symbols=["AAPL", "AMD"], overrides=SHORT, render_mode="rgb_array")
    many.reset(seed=0)
    first = many.render()
    assert [frame.shape for frame in first] == [(480, 800, 3)] * 2
    for action in (3, 0, 5):
        many.step(np.array([action, 0]))
    later = many.render()
    assert all((now != then).any() for now, then in zip(later, first, strict=True))
    assert (_green(later[0]), _green(later[1])) == (True, False)  # only the first account was invested
    alone = gymnasium.make("p3kit/Trading-v1", symbol="AAPL", overrides=SHORT, render_mode="rgb_array_list")
    alone.reset(seed=0)
    alone.step(0)
    assert [frame.shape for frame in alone.render()] == [(480, 800, 3)] * 2


def _green(frame: np.ndarray) -> bool:
    """True if the colour of an entry is in the upper half of a picture."""
    return bool((np.abs(frame[60:280, 100:].astype(int) - (0, 158, 115)) < 8).all(-1).any())


def test_human_without_a_display_warns_and_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "agg")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    with pytest.warns(UserWarning, match="no display"):
        env = TradingGymEnv(symbol="AAPL", overrides=SHORT, render_mode="human")
    env.reset(seed=0)
    env.step(0)
    assert env.render() is None
    env.close()


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(InputError, match=r'render_mode: is .ansi.; expected None, "human"'):
        TradingGymEnv(symbol="AAPL", render_mode="ansi")
    with pytest.raises(InputError, match=r"autoreset_mode: is .later.; expected one of NEXT_STEP"):
        TradingVectorEnv(symbol="AAPL", autoreset_mode="later")


@pytest.mark.parametrize("order", ["gymnasium, p3kit.env", "p3kit.env, gymnasium", "gymnasium, p3kit.env.gymnasium"])
def test_it_is_registered_whatever_is_imported_first(order: str) -> None:
    code = f"import {order}; print(gymnasium.spec('p3kit/Trading-v1').vector_entry_point)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TradingVectorEnv" in result.stdout, result.stderr
