"""The shape of the rewards of one iteration: what the guide's reward-debugging protocol (section 2.4) looks at.

Notation for shapes: T steps, N envs, C reward components, S sampled rewards. Plain numpy on what the rollout brought to
the CPU anyway; a few milliseconds an iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.metrics import COMPONENTS
from p3kit.runtime.recording import Metrics, Rollout, histogram

Array = NDArray[Any]
SAMPLE = 2_000
LEAST_VALUES = 300
"""Rewards of one class below which two modes are chance."""
LEAST_EPISODES = 20
CORRELATED_EPISODES = 30
SMALLER_MODE = 0.05
VALLEY = 0.5
_COMPARED_ENVS = 64
_BOTH_HELD = 30
_TWINS_FROM = 0.3
_PNL, _COST = (COMPONENTS.index(name) for name in ("pnl", "cost"))


def reward_shape(rollout: Rollout, gamma: float) -> Metrics:
    """Metrics of one iteration's rewards. A metric without enough data (too few episodes, no spread) is left out."""
    metrics: Metrics = {}
    gaps = [mode_gap(values) for values in event_classes(rollout).values()]
    if gaps:
        metrics["reward/bimodal_gap"] = max(gaps)
    episodes = whole_episodes(rollout.done)
    if len(episodes) >= LEAST_EPISODES:
        to_go = [reward_to_go(rollout.reward[a:b, env], gamma) for env, a, b in episodes]
        spread = float(np.std(np.concatenate(to_go)))
        if spread > 0:
            _, mean, _, _ = _over_the_episode(to_go)
            metrics["reward/rtg_spread"] = float(np.std(mean)) / spread
            metrics["reward/rtg_autocorrelation"] = _lag_one([values for values in to_go if len(values) > 2])
    if (share := env_twins(rollout.raw[..., _PNL])) is not None:
        metrics["diag/env_twins"] = share
    return metrics


def episode_correlations(ended: Array) -> Metrics:
    """Rank correlations over episodes: of the P&L and Sharpe components, and of the reward and the equity won.

    `ended` (M, 4) as `EpisodeLedger.take_ended` hands it out. What does not vary has no correlation and is left out,
    and so is a task without money.
    """
    pnl, sharpe, learnt, gain = ended.T
    found = {"reward/corr_pnl_sharpe": _rank_correlation(pnl, sharpe)}
    found["reward/corr_total_gain"] = _rank_correlation(learnt, gain)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def env_twins(pnl: Array) -> float | None:
    """Share of environments whose P&L moves with that of another one, over the steps in which both held a position.

    pnl (T, N), 0 where nothing was held; the first 64 environments are compared. Rows at the same bars move together
    for any size. Others do not: each starts at its own random bar, and two rarely meet. Of each correlation the lower
    end of a four-sigma interval (Fisher's z) counts, because the largest of many is large by chance. None if no two
    environments held together for 30 steps.
    """
    direction = np.sign(pnl[:, :_COMPARED_ENVS]).astype(np.float64)  # sizes differ: one large position would decide
    held = np.abs(direction)
    both = held.T @ held  # (N, N) steps in which both held
    own, product = direction.T @ held, direction.T @ direction
    variance = both * both - own**2  # of env i over the steps it shares with env j
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (both * product - own * own.T) / np.sqrt(variance * variance.T)
    enough = (both >= _BOTH_HELD) & np.isfinite(correlation) & ~np.eye(len(both), dtype=bool)
    if not enough.any():
        return None
    certain = np.tanh(np.arctanh(correlation[enough].clip(-1, 1 - 1e-12)) - 4 / np.sqrt(both[enough] - 3))
    moves_with = np.zeros_like(enough)
    moves_with[enough] = certain > _TWINS_FROM
    return float(moves_with.any(1).mean())


def event_classes(rollout: Rollout) -> dict[str, Array]:
    """Rewards by what happened in the step, at most 2,000 of each, evenly spread: a position held, bought, or closed.

    A closing trade is a natural second mode, so modes are looked for within a class. Flat accounts at rest are left
    out: their rewards are all 0.
    """
    traded = rollout.raw[..., _COST] != 0
    classes = {
        "held": ~traded & (rollout.raw[..., _PNL] != 0),
        "bought or sold in part": traded & ~rollout.closed,
        "closed": rollout.closed,
    }
    return {name: _evenly(rollout.reward[rows]) for name, rows in classes.items() if rows.any()}


def reward_histogram(rollout: Rollout, bins: int = 50) -> dict[str, Any]:
    """{edges (bins + 1), counts (bins), classes: {event class: counts}} of the scaled rewards.
    A class shows its sample of at most 2,000 rewards.
    """
    whole = histogram(rollout.reward, bins)
    classes = event_classes(rollout)
    share = {name: np.histogram(values, bins=whole["edges"])[0].tolist() for name, values in classes.items()}
    return {**whole, "classes": share}


def _evenly(values: Array) -> Array:
    if len(values) <= SAMPLE:
        return values
    sample: Array = values[np.linspace(0, len(values) - 1, SAMPLE).astype(int)]
    return sample


def mode_gap(values: Array) -> float:
    """Distance of two modes in pooled standard deviations; 0 where there is only one.

    The values (300 or more) are split where the variance within the halves is smallest (Otsu 1979). The split counts as
    two modes under two conditions. The smaller half has more than 5 % of the values. The middle fifth between the
    centres has fewer than half as many as an equal stretch around the emptier centre. A flat or bell-shaped
    distribution is one mode.
    """
    x = np.sort(values.astype(np.float64))
    count = len(x)
    if count < LEAST_VALUES or x[0] == x[-1]:
        return 0.0
    left = np.arange(1, count)
    sums, squares = np.cumsum(x), np.cumsum(x**2)
    mean_left, mean_right = sums[:-1] / left, (sums[-1] - sums[:-1]) / (count - left)
    within = squares[-1] - left * mean_left**2 - (count - left) * mean_right**2
    within[np.diff(x) == 0] = np.inf  # equal values stay together
    cut = int(np.argmin(within))
    smaller = min(cut + 1, count - cut - 1) / count
    low, high = float(mean_left[cut]), float(mean_right[cut])
    width = (high - low) / 5

    def around(centre: float) -> int:
        return int(np.count_nonzero(np.abs(x - centre) <= width / 2))

    emptier = min(around(low), around(high))
    if smaller <= SMALLER_MODE or around((low + high) / 2) >= VALLEY * emptier:
        return 0.0
    pooled = float(np.sqrt(max(within[cut], 0.0) / count))
    return (high - low) / max(pooled, 1e-12 * (high - low))


def whole_episodes(done: Array) -> list[tuple[int, int, int]]:
    """(env, first step, last step + 1) of the episodes that began and ended within the rollout; done (T, N)."""
    found = []
    for env in range(done.shape[1]):
        ends = np.flatnonzero(done[:, env]) + 1
        found += [(env, int(a), int(b)) for a, b in pairwise(ends)]
    return found


def reward_to_go(reward: Array, gamma: float) -> Array:
    """Discounted sum of the rewards from each step to the end of its episode, (steps,)."""
    sums = np.empty(len(reward))
    running = 0.0
    for step in range(len(reward) - 1, -1, -1):
        running = reward[step] + gamma * running
        sums[step] = running
    return sums


def reward_to_go_curve(rollout: Rollout, gamma: float) -> Mapping[str, Any] | None:
    """{bar, mean, low, high (10 and 90 %), episodes} of the reward-to-go over the bars of an episode; None where fewer
    than 20 episodes lie within the rollout."""
    episodes = whole_episodes(rollout.done)
    if len(episodes) < LEAST_EPISODES:
        return None
    to_go = [reward_to_go(rollout.reward[a:b, env], gamma) for env, a, b in episodes]
    bar, mean, low, high = _over_the_episode(to_go)
    curve = {"bar": bar, "mean": mean, "low": low, "high": high}
    return {name: values.tolist() for name, values in curve.items()} | {"episodes": len(episodes), "gamma": gamma}


def _over_the_episode(to_go: list[Array]) -> tuple[Array, Array, Array, Array]:
    """Bars that at least half of the episodes reached, and the mean and 10 and 90 % of the reward-to-go there."""
    longest = int(np.median([len(values) for values in to_go]))
    table = np.full((len(to_go), longest), np.nan)
    for row, values in enumerate(to_go):
        table[row, : min(len(values), longest)] = values[:longest]
    low, high = np.nanquantile(table, [0.1, 0.9], axis=0)
    return np.arange(longest), np.nanmean(table, axis=0), low, high


def _lag_one(series: list[Array]) -> float:
    """Lag-1 autocorrelation within the episodes, about the mean of all."""
    if not series:
        return 0.0
    mean = np.concatenate(series).mean()
    square = sum(float(((values - mean) ** 2).sum()) for values in series)
    product = sum(float(((values[1:] - mean) * (values[:-1] - mean)).sum()) for values in series)
    return product / square if square > 0 else 0.0


def _rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation; ties get their mean rank. NaN where one does not vary."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if not np.isfinite([a, b]).all() or ranks_a.std() == 0 or ranks_b.std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Array = (last - (counts - 1) / 2)[inverse]
    return mean_rank
