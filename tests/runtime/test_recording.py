"""Ticks, episode sums and running scales against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from p3kit.metrics import COMPONENTS, METRICS
from p3kit.runtime.recording import (
    TICK_STEPS,
    EpisodeLedger,
    Rollout,
    histogram,
    tick_rows,
    value_map,
)
from p3kit.runtime.scaling import ObservationScaler, RewardScaler, RunningMoments, Shaping

CPU = torch.device("cpu")


def rollout_of(steps: int, envs: int, seed: int = 0, done_share: float = 0.02) -> Rollout:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(steps, envs, len(COMPONENTS)))
    weights = np.array([0.4, 0.15, 0.15, 0.05, 0.1, 0.05, 0.0])
    return Rollout(
        reward=rng.normal(size=(steps, envs)),
        clipped=rng.random((steps, envs)) < 0.1,
        weighted=raw * weights,
        raw=raw,
        bonus=np.zeros((steps, envs)),
        action=rng.integers(0, 7, (steps, envs)),
        valid_actions=rng.integers(1, 5, (steps, envs)),
        done=rng.random((steps, envs)) < done_share,
        equity=1 + 0.1 * rng.normal(size=(steps, envs)),
        closed=rng.random((steps, envs)) < 0.05,
        reset_step=np.zeros((steps, envs), dtype=bool),
    )


def plain_episodes(rollout: Rollout) -> list[float]:
    totals = []
    for env in range(rollout.reward.shape[1]):
        total = 0.0
        for t in range(rollout.reward.shape[0]):
            total += float(rollout.weighted[t, env].sum())
            if rollout.done[t, env]:
                totals.append(total)
                total = 0.0
    return totals


def test_episode_sums_carry_over_rollouts() -> None:
    whole = rollout_of(300, 4)
    ledger = EpisodeLedger.empty(4)
    cuts = [0, 70, 71, 200, 300]
    ended = [e for a, b in pairwise(cuts) for e in ledger.take(whole.between(a, b))]
    assert sorted(e["total"] for e in ended) == pytest.approx(sorted(plain_episodes(whole)))
    assert sum(e["length"] for e in ended) + ledger.length.sum() == 300 * 4
    assert all(e["components"].sum() == pytest.approx(e["total"]) for e in ended)


def test_rows_come_per_tick_and_share_out_the_epochs() -> None:
    rollout = rollout_of(2048, 8)
    gradient_steps = np.arange(2_560.0)
    update = {"policy/kl_divergence": gradient_steps, "policy/kl_max": gradient_steps}
    update["diag/nonfinite"] = gradient_steps == 3
    rows = tick_rows(rollout, EpisodeLedger.empty(8), update, 16_384, 32_768)
    assert [step for step, _ in rows] == [16_384 + TICK_STEPS * k for k in (1, 2, 3, 4)]
    assert rows[0][1]["policy/kl_divergence"] == pytest.approx(gradient_steps[:640].mean())
    assert rows[3][1]["policy/kl_max"] == 2_559
    assert [metrics["diag/nonfinite"] for _, metrics in rows] == [1, 0, 0, 0]
    assert rows[1][1]["policy/hold_share"] == pytest.approx((rollout.action[512:1024] == 0).mean())
    assert sum(rows[0][1][f"reward/share.{c}"] for c in COMPONENTS) == pytest.approx(1)
    assert set().union(*(metrics for _, metrics in rows)) <= set(METRICS)


def test_a_short_iteration_has_one_row_and_a_cut_update_leaves_gaps() -> None:
    rows = tick_rows(rollout_of(100, 2), EpisodeLedger.empty(2), {"policy/kl_max": np.array([])}, 0, 200)
    assert [step for step, _ in rows] == [200]
    assert "policy/kl_max" not in rows[0][1]


def test_tasks_without_money_have_no_success_rate() -> None:
    rollout = rollout_of(200, 2)
    rollout.equity[:] = np.nan
    ((_, metrics),) = tick_rows(rollout, EpisodeLedger.empty(2), {}, 0, 400)
    assert metrics["episode/episodes"] > 0
    assert "episode/episode_success_rate" not in metrics


def test_steps_that_only_begin_an_episode_count_nowhere() -> None:
    """A NEXT_STEP task: rows of an ended episode rest for a step, whose action and reward mean nothing."""
    rollout = rollout_of(TICK_STEPS, 2)
    reset_step = np.zeros_like(rollout.done)
    reset_step[1:] = rollout.done[:-1]
    told = tick_rows(replace(rollout, reset_step=reset_step), EpisodeLedger.empty(2), {}, 0, TICK_STEPS)[0][1]
    assert told["reward/mean"] == pytest.approx(rollout.reward[~reset_step].mean())
    assert told["policy/hold_share"] == pytest.approx((rollout.action[~reset_step] == 0).mean())
    lengths = []
    for env in range(2):
        ends = np.flatnonzero(rollout.done[:, env])
        lengths += [ends[0] + 1, *(np.diff(ends) - 1)]  # one step less than there are between two ends
    assert told["episode/episode_length_mean"] == pytest.approx(np.mean(lengths))
    everywhere = np.ones_like(rollout.done)
    assert (
        "reward/mean" not in tick_rows(replace(rollout, reset_step=everywhere), EpisodeLedger.empty(2), {}, 0, 9)[0][1]
    )


def test_running_moments_equal_those_of_all_rows() -> None:
    rows = torch.randn(1_000, 3, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 5
    moments = RunningMoments(3, CPU)
    for chunk in rows.split(137):
        moments.update(chunk)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.variance, rows.var(0, correction=0))
    assert moments.count == 1_000


def test_running_reward_scale_is_the_deviation_of_the_discounted_return() -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    done = torch.rand(400, 3, generator=generator) < 0.05
    scaler = RewardScaler("running", 2.0, 3, CPU)
    parts = [scaler(reward[a:b], done[a:b], 0.9) for a, b in ((0, 150), (150, 400))]
    sums = np.zeros((400, 3))
    for env in range(3):
        total = 0.0
        for t in range(400):
            total = 0.9 * total + float(reward[t, env])
            sums[t, env] = total
            if done[t, env]:
                total = 0.0
    assert float(parts[1][2]) == pytest.approx(sums.std(), rel=1e-6)
    assert scaler.steps == 1_200
    expected = (reward[150:] / parts[1][2]).clamp(-2, 2).float()
    torch.testing.assert_close(parts[1][0], expected)
    assert torch.equal(parts[1][1], (reward[150:] / parts[1][2]).abs() > 2)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_rewards_of_any_size_come_out_the_same(size: float) -> None:
    generator = torch.Generator().manual_seed(5)
    reward = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    never = torch.zeros(200, 2, dtype=torch.bool)
    usual = RewardScaler("running", None, 2, CPU)(reward, never, 0.9)[0]
    torch.testing.assert_close(RewardScaler("running", None, 2, CPU)(size * reward, never, 0.9)[0], usual)
    nothing = RewardScaler("running", None, 2, CPU)(0 * reward, never, 0.9)
    assert not nothing[0].any()


def test_an_edited_reward_has_a_scale_of_its_own() -> None:
    """Agent 1's reward is edited before the third rollout and becomes a thousandth; agent 0 does not change."""
    generator = torch.Generator().manual_seed(4)
    rollouts = [torch.randn(40, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    rollouts[2][..., 1] /= 1_000
    never = torch.zeros(40, 2, 2, dtype=torch.bool)
    edits = [0, 0]
    stack = RewardScaler("running", None, 2, CPU, 2, lambda: [Shaping(False, math.inf, count) for count in edits])
    untouched, fresh = RewardScaler("running", None, 2, CPU), RewardScaler("running", None, 2, CPU)
    for reward in rollouts[:2]:
        stack(reward, never, 0.9)
        untouched(reward[..., 0], never[..., 0], 0.9)
    saved = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in stack.state_dict().items()
    }
    edits[1] = 1
    scale = stack(rollouts[2], never, 0.9)[2]
    assert float(scale[0]) == pytest.approx(float(untouched(rollouts[2][..., 0], never[..., 0], 0.9)[2]))
    assert float(scale[1]) == pytest.approx(float(fresh(rollouts[2][..., 1], never[..., 1], 0.9)[2]))
    # going back to before the edit restores the old statistics, which do not describe the reward now
    stack.go_back(saved, 1, 1)
    again = stack(rollouts[2], never, 0.9)[2]
    assert float(again[1]) == pytest.approx(float(scale[1]))
    # a resumed scaler forgets nothing that it was resumed with
    resumed = RewardScaler("running", None, 2, CPU, 2, lambda: [Shaping(False, math.inf, count) for count in edits])
    resumed.load_state_dict(stack.state_dict())
    torch.testing.assert_close(resumed(rollouts[2], never, 0.9)[2], stack(rollouts[2], never, 0.9)[2])


def test_a_scale_that_begins_in_a_stack_is_the_one_it_would_be_alone() -> None:
    """Agent 1 begins a rollout later than agent 0; agent 2 never does, and its clip is its own."""
    generator = torch.Generator().manual_seed(3)
    rollouts = [torch.randn(40, 2, 3, generator=generator) * 50 for _ in range(3)]
    done = torch.rand(40, 2, 3, generator=generator) < 0.05
    began, clips = [1, 2, 9], (10.0, math.inf, 30.0)
    now = 0

    def in_force() -> list[Shaping]:
        return [Shaping(now >= b, c, 0) for b, c in zip(began, clips, strict=True)]

    stack = RewardScaler("none", None, 2, CPU, 3, in_force)
    alone = [
        RewardScaler("none", None, 2, CPU, None, lambda b=b, c=c: [Shaping(now >= b, c, 0)])  # type: ignore[misc]
        for b, c in zip(began, clips, strict=True)
    ]
    for now, reward in enumerate(rollouts):  # noqa: B007
        scaled, clipped, scale = stack(reward, done, 0.9)
        for k, scaler in enumerate(alone):
            own = scaler(reward[..., k], done[..., k], 0.9)
            torch.testing.assert_close(scaled[..., k], own[0])
            assert torch.equal(clipped[..., k], own[1])
            assert float(scale[k]) == pytest.approx(float(own[2]))
    assert (scale[:2] > 10).all()
    assert scale[2] == 1


def test_tanh_and_none() -> None:
    reward, done = torch.tensor([[0.5], [30.0]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.bool)
    assert RewardScaler("tanh", None, 1, CPU)(reward, done, 0.9)[0].flatten().tolist() == pytest.approx(
        [np.tanh(0.5), 1.0]
    )
    scaled, clipped, _ = RewardScaler("none", 10.0, 1, CPU)(reward, done, 0.9)
    assert scaled.flatten().tolist() == [0.5, 10.0]
    assert clipped.flatten().tolist() == [False, True]


def test_what_an_intervention_lets_begin_brings_down_what_is_large_and_leaves_the_rest() -> None:
    rows = torch.randn(512, 3, generator=torch.Generator().manual_seed(4)) * torch.tensor([1.0, 1e4, 0.01])
    rows[:, 2] += 300.0  # hardly moves, and is large all the same
    begun = ObservationScaler(3, running=False, clip=10.0, device=CPU, has_begun=lambda: True)
    begun.update(rows)
    scaled = begun(rows)
    assert torch.equal(scaled[:, 0], rows[:, 0])
    torch.testing.assert_close(scaled[:, 1:].mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled[:, 1:].std(0), torch.ones(2), atol=1e-2, rtol=0)
    backtest = ObservationScaler(3, running=False, clip=10.0, device=CPU)  # reads the checkpoint, no intervention
    assert torch.equal(backtest(rows), rows)
    backtest.load_state_dict(begun.state_dict())
    assert torch.equal(backtest(rows), scaled)


def test_observation_scaler_waits_for_statistics_and_then_standardises() -> None:
    scaler = ObservationScaler(2, running=True, clip=5.0, device=CPU)
    rows = torch.randn(5_000, 2) * torch.tensor([3.0, 0.5]) + 7
    assert torch.equal(scaler(rows), rows)
    scaler.update(rows)
    torch.testing.assert_close(scaler(rows).mean(0), torch.zeros(2), atol=0.01, rtol=0)
    assert scaler(rows * 1_000).max() == 5


def test_histogram_leaves_out_what_is_not_finite() -> None:
    table = histogram(np.array([0.0, 1.0, 2.0, np.nan, np.inf]), bins=2)
    assert sum(table["counts"]) == 3


def test_value_map_means_values_per_cell() -> None:
    bar, unrealised = np.array([0.0, 0.0, 10.0]), np.array([-0.1, -0.1, 0.1])
    table = value_map(bar, unrealised, np.array([1.0, 3.0, 5.0]), bins=2)
    cells = [cell for line in table["values"] for cell in line if cell is not None]
    assert cells == [2.0, 5.0]
