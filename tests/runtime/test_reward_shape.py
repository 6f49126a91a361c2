"""The shape of rewards: modes, reward-to-go, correlations, against cases that each must separate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from p3kit.metrics import COMPONENTS
from p3kit.runtime.recording import EpisodeLedger, Rollout
from p3kit.runtime.reward_shape import (
    env_twins,
    episode_correlations,
    event_classes,
    mode_gap,
    reward_histogram,
    reward_shape,
    reward_to_go,
    reward_to_go_curve,
    whole_episodes,
)

PNL, SHARPE, COST = (COMPONENTS.index(name) for name in ("pnl", "sharpe", "cost"))


def rollout(
    reward: np.ndarray, done: np.ndarray, *, traded: np.ndarray | None = None, closed: np.ndarray | None = None
) -> Rollout:
    """A rollout whose reward is all P&L, with costs where something was traded."""
    none = np.zeros(reward.shape, dtype=bool)
    raw = np.zeros((*reward.shape, len(COMPONENTS)))
    raw[..., PNL] = raw[..., SHARPE] = reward
    raw[..., COST] = np.where(none if traded is None else traded, -0.1, 0.0)
    weighted = np.zeros_like(raw)
    weighted[..., PNL] = reward
    equity = np.ones(reward.shape)
    for env in range(reward.shape[1]):
        level = 1.0
        for t in range(reward.shape[0]):
            level += 0.001 * reward[t, env]
            equity[t, env] = level
            level = 1.0 if done[t, env] else level
    return Rollout(
        reward=reward,
        clipped=none,
        weighted=weighted,
        raw=raw,
        bonus=np.zeros(reward.shape),
        action=np.ones(reward.shape, int),
        valid_actions=np.full(reward.shape, 4),
        done=done,
        equity=equity,
        closed=none if closed is None else closed,
        reset_step=none,
    )


def ends(steps: int, envs: int, length: int) -> np.ndarray:
    done = np.zeros((steps, envs), dtype=bool)
    done[length - 1 :: length] = True
    return done


@pytest.mark.parametrize("seed", range(20))
def test_one_mode_is_one_mode(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [
        rng.normal(size=2_000),
        rng.uniform(size=2_000),
        rng.standard_t(3, size=2_000),
        rng.exponential(size=2_000),
        rng.laplace(size=2_000),
        np.concatenate([rng.normal(size=1_900), np.zeros(100)]),
        np.full(2_000, 3.0),
    ]
    assert [mode_gap(values) for values in shapes] == [0.0] * len(shapes)


@pytest.mark.parametrize("share", [0.08, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_two_modes_are_found_and_measured(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    second = rng.random(2_000) < share
    values = np.where(second, rng.normal(7, 1, 2_000), rng.normal(0, 1, 2_000))
    assert mode_gap(values) == pytest.approx(7, rel=0.1)


def test_a_few_outliers_and_a_small_sample_are_no_mode() -> None:
    rng = np.random.default_rng(0)
    outliers = np.concatenate([rng.normal(size=1_950), rng.normal(30, 1, 50)])
    assert mode_gap(outliers) == 0.0
    assert mode_gap(np.repeat([0.0, 5.0], 100)) == 0.0


def test_closing_trades_are_a_class_of_their_own() -> None:
    """Their rewards lie apart from those of held positions; that is no second mode."""
    rng = np.random.default_rng(1)
    shape = (512, 4)
    closed = rng.random(shape) < 0.3
    reward = np.where(closed, rng.normal(5, 0.5, shape), rng.normal(0, 0.5, shape))
    reward[:, 3] = 0.0  # a flat account
    closed[:, 3] = False
    made = rollout(reward, ends(*shape, 64), traded=closed, closed=closed)
    classes = event_classes(made)
    assert {name: len(values) for name, values in classes.items()} == {
        "held": int((~closed[:, :3]).sum()),
        "closed": int(closed.sum()),
    }
    assert reward_shape(made, 0.9)["reward/bimodal_gap"] == 0.0
    assert mode_gap(reward[:, :3].ravel()) > 5
    table = reward_histogram(made)
    assert sum(table["counts"]) == reward.size
    assert set(table["classes"]) == set(classes)


def test_reward_to_go_by_hand() -> None:
    assert reward_to_go(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_only_episodes_that_began_and_ended_within_the_rollout_count() -> None:
    done = np.zeros((10, 2), dtype=bool)
    done[[2, 5, 8], 0] = True
    done[4, 1] = True
    assert whole_episodes(done) == [(0, 3, 6), (0, 6, 9)]


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_independent_rewards_have_the_autocorrelation_gamma_and_alternating_ones_less(gamma: float) -> None:
    rng = np.random.default_rng(2)
    done = ends(4_000, 8, 200)
    independent = reward_shape(rollout(rng.normal(size=done.shape), done), gamma)
    assert independent["reward/rtg_autocorrelation"] == pytest.approx(gamma, abs=0.04)
    swing = np.where(np.arange(4_000)[:, None] % 2 == 0, 1.0, -1.0) + 0.1 * rng.normal(size=done.shape)
    alternating = reward_shape(rollout(swing, done), gamma)
    assert alternating["reward/rtg_autocorrelation"] < gamma - 0.1


def test_a_steady_reward_makes_a_slope_and_noise_of_a_short_horizon_makes_none() -> None:
    rng = np.random.default_rng(3)
    done = ends(2_048, 8, 100)
    steady = reward_shape(rollout(1.0 + 0.1 * rng.normal(size=done.shape), done), 0.99)
    assert steady["reward/rtg_spread"] > 0.9
    done = ends(20_000, 8, 100)
    flat = reward_shape(rollout(rng.normal(size=done.shape), done), 0.3)
    assert flat["reward/rtg_spread"] < 0.05


def test_the_curve_falls_to_the_last_reward() -> None:
    done = ends(1_000, 4, 50)
    curve = reward_to_go_curve(rollout(np.ones(done.shape), done), 0.9)
    assert curve is not None
    assert curve["bar"] == list(range(50))
    assert curve["mean"][-1] == pytest.approx(1.0)
    assert curve["mean"][0] == pytest.approx((1 - 0.9**50) / 0.1)
    assert curve["low"] == pytest.approx(curve["high"])
    assert reward_to_go_curve(rollout(np.ones((100, 2)), ends(100, 2, 50)), 0.9) is None


def test_correlations_tell_money_from_what_is_paid_for() -> None:
    rng = np.random.default_rng(4)
    done = ends(2_000, 4, 50)
    honest = rollout(rng.normal(size=done.shape), done)
    honest.weighted[..., SHARPE] = 0.1 * honest.raw[..., SHARPE]
    metrics = correlations(honest)
    assert metrics["reward/corr_total_gain"] > 0.99
    assert metrics["reward/corr_pnl_sharpe"] > 0.99
    flipped = Rollout(**{**vars(honest), "reward": -honest.reward})
    assert correlations(flipped)["reward/corr_total_gain"] < -0.99
    hacked = Rollout(**{**vars(honest), "reward": honest.reward + rng.normal(size=done.shape) * 50})
    assert abs(correlations(hacked)["reward/corr_total_gain"]) < 0.4
    moneyless = Rollout(**{**vars(honest), "equity": np.full(done.shape, np.nan)})
    assert set(correlations(moneyless)) == {"reward/corr_pnl_sharpe"}


def correlations(played: Rollout) -> dict[str, float]:
    """Of a rollout taken in by pieces shorter than its episodes: sums carry over."""
    ledger = EpisodeLedger.empty(played.done.shape[1])
    for first in range(0, len(played.done), 30):
        assert ledger.take_ended(10_000) is None
        ledger.take(played.between(first, first + 30))
    ended = ledger.take_ended(30)
    assert ended is not None
    assert len(ended) == played.done.sum()
    assert ledger.take_ended(1) is None
    return episode_correlations(ended)


def test_two_environments_at_the_same_bars_are_seen_whatever_their_size() -> None:
    rng = np.random.default_rng(6)
    moves = rng.normal(size=(400, 6))
    held = rng.random((400, 6)) < 0.6
    size = rng.choice([0.25, 0.5, 1.0], (400, 6))
    assert env_twins(moves * held * size) == 0
    moves[:, 5] = moves[:, 2]
    assert env_twins(moves * held * size) == pytest.approx(2 / 6)
    assert env_twins((moves * held)[:40]) is None  # too short


def test_what_the_data_cannot_say_is_left_out() -> None:
    done = ends(100, 2, 50)
    assert reward_shape(rollout(np.zeros((100, 2)), done), 0.9) == {}
    few = reward_shape(rollout(np.random.default_rng(0).normal(size=(100, 2)), done), 0.9)
    assert set(few) == {"reward/bimodal_gap", "diag/env_twins"}
    assert all(math.isfinite(value) for value in few.values())
