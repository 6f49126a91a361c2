"""From one iteration's arrays to the rows of `metrics.jsonl`: rollout quantities per tick, optimiser quantities beside
them.

Notation for shapes: T steps, N envs, A actions, C reward components, G gradient steps, M optimiser metrics. A *tick*
is 4,096 env steps. An iteration has one row per whole tick (at least one). The epochs of its update are distributed
over the same rows, so that a run of six long updates can still be diagnosed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.metrics import ACTIONS, COMPONENTS

TICK_STEPS = 4_096
NONFINITE, GRADIENT_STEPS = "diag/nonfinite", "diag/gradient_steps"
_PNL, _SHARPE = (COMPONENTS.index(name) for name in ("pnl", "sharpe"))
Array = NDArray[Any]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Rollout:
    """Data of one rollout, on the CPU. `equity` is NaN for tasks without money."""

    reward: Array  # (T, N) scaled for the learner
    clipped: Array  # (T, N) bool
    weighted: Array  # (T, N, C) components × weights
    raw: Array  # (T, N, C)
    bonus: Array  # (T, N) reward.action_bonus paid
    action: Array  # (T, N)
    valid_actions: Array  # (T, N)
    done: Array  # (T, N) bool
    equity: Array  # (T, N) share of the initial capital, after the step
    closed: Array  # (T, N) bool, a round trip closed in this step
    reset_step: Array  # (T, N) bool, no action: the step only began the next episode (NEXT_STEP tasks)

    def between(self, first: int, last: int) -> Rollout:
        """The steps [first, last)."""
        return Rollout(**{name: values[first:last] for name, values in vars(self).items()})


@dataclass
class EpisodeLedger:
    """Sums of the episodes still running, per env; carried from rollout to rollout and stored in checkpoints."""

    components: Array  # (N, C)
    total: Array  # (N,) weighted, before scaling
    learnt: Array  # (N,) scaled for the learner
    length: Array  # (N,)
    trades: Array  # (N,)
    ended: Array  # (M, 4): pnl, sharpe, learnt reward and equity won of the episodes that no correlation used yet
    _names: tuple[str, ...] = field(default=("components", "total", "learnt", "length", "trades"), repr=False)

    @classmethod
    def empty(cls, num_envs: int) -> EpisodeLedger:
        total, learnt, length, trades = np.zeros((4, num_envs))
        return cls(np.zeros((num_envs, len(COMPONENTS))), total, learnt, length, trades, np.zeros((0, 4)))

    def take(self, rollout: Rollout) -> list[dict[str, Any]]:
        """Add a rollout's steps and return the episodes that ended in it."""
        ended = []
        reward = rollout.weighted.sum(-1) + rollout.bonus  # (T, N)
        for env in range(reward.shape[1]):
            start = 0
            for end in (np.flatnonzero(rollout.done[:, env]) + 1).tolist():
                self._add(env, rollout, reward, start, end)
                ended.append(
                    {
                        "components": self.components[env].copy(),
                        "total": self.total[env],
                        "length": self.length[env],
                        "trades": self.trades[env],
                        "return": rollout.equity[end - 1, env] - 1,
                        "learnt": self.learnt[env],
                    }
                )
                for name in self._names:
                    getattr(self, name)[env] = 0
                start = end
            self._add(env, rollout, reward, start, reward.shape[0])
        pairs = [(*e["components"][[_PNL, _SHARPE]], e["learnt"], e["return"]) for e in ended]
        self.ended = np.concatenate([self.ended, np.array(pairs).reshape(-1, 4)])
        return ended

    def take_ended(self, least: int) -> Array | None:
        """(M, 4) of the episodes kept in `ended`, which is emptied; None, and nothing is emptied, before `least`."""
        if len(self.ended) < least:
            return None
        taken, self.ended = self.ended, np.zeros((0, 4))
        return taken

    def _add(self, env: int, rollout: Rollout, reward: Array, start: int, end: int) -> None:
        self.components[env] += rollout.weighted[start:end, env].sum(0)
        self.total[env] += reward[start:end, env].sum()
        self.learnt[env] += rollout.reward[start:end, env].sum()
        self.length[env] += (~rollout.reset_step[start:end, env]).sum()
        self.trades[env] += rollout.closed[start:end, env].sum()

    def state_dict(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in (*self._names, "ended")}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        for name in self._names:
            getattr(self, name)[:] = state[name]
        self.ended = np.array(state["ended"])


def tick_rows(
    rollout: Rollout,
    ledger: EpisodeLedger,
    update: Mapping[str, Array],
    start_step: int,
    end_step: int,
) -> list[tuple[int, Metrics]]:
    """(global_step, metrics) per tick of one iteration.

    `update` maps metric names to one value per gradient step (G,), in order; names that end in `_max` are maximised,
    the others averaged. Gradient steps that were never taken (`target_kl` ended the update) simply leave fewer to
    share out.
    """
    steps = rollout.reward.shape[0]
    ticks = max(1, (end_step - start_step) // TICK_STEPS)
    edges = np.linspace(0, steps, ticks + 1).round().astype(int)
    shares = [np.array_split(values, ticks) for values in update.values()]
    rows = []
    for tick in range(ticks):
        part = rollout.between(edges[tick], edges[tick + 1])
        metrics = _rollout_metrics(part) | _episode_metrics(ledger.take(part))
        metrics |= update_metrics(update.keys(), [share[tick] for share in shares])
        step = end_step if tick == ticks - 1 else start_step + round((end_step - start_step) * edges[tick + 1] / steps)
        rows.append((step, metrics))
    return rows


def update_metrics(names: Any, shares: Sequence[Array]) -> Metrics:
    """Values per gradient step (G,) of each metric as one number: the largest of a `_max`, else the mean."""
    metrics: Metrics = {}
    for name, values in zip(names, shares, strict=True):
        if len(values) == 0:
            continue
        metrics[name] = float(values.max() if name.endswith("_max") else values.mean())
        metrics[GRADIENT_STEPS] = len(values)
    if NONFINITE in metrics:  # a count, not a mean
        metrics[NONFINITE] = float(shares[list(names).index(NONFINITE)].sum())
    return metrics


def _rollout_metrics(rollout: Rollout) -> Metrics:
    acted = ~rollout.reset_step
    if not acted.any():
        return {}
    reward, chosen, weighted = rollout.reward[acted], rollout.action[acted], rollout.weighted[acted]
    metrics: Metrics = {
        "reward/mean": float(reward.mean()),
        "reward/std": float(reward.std()),
        "reward/max_abs": float(np.abs(reward).max()),
        "reward/total": float(weighted.sum(-1).mean() + rollout.bonus[acted].mean()),
        "reward/clipped_share": float(rollout.clipped[acted].mean()),
        "reward/positive_share": float((reward > 0).mean()),
        "policy/hold_share": float((chosen == 0).mean()),
        "policy/valid_actions": float(rollout.valid_actions[acted].mean()),
    }
    magnitude = np.abs(weighted).mean(0)
    for i, name in enumerate(COMPONENTS):
        metrics[f"reward/{name}"] = float(weighted[:, i].mean())
        metrics[f"reward/raw.{name}"] = float(rollout.raw[acted][:, i].mean())
        if magnitude.sum() > 0:
            metrics[f"reward/share.{name}"] = float(magnitude[i] / magnitude.sum())
    beside_pnl = weighted.sum(-1) - weighted[:, _PNL] + rollout.bonus[acted]
    for i, action in enumerate(ACTIONS):
        taken = chosen == i
        metrics[f"policy/share.{action}"] = float(taken.mean())
        if taken.any():
            metrics[f"reward/beside_pnl.{action}"] = float(beside_pnl[taken].mean())
    return metrics


def _episode_metrics(ended: Sequence[Mapping[str, Any]]) -> Metrics:
    metrics: Metrics = {"episode/episodes": len(ended)}
    if not ended:
        return metrics
    totals = np.array([episode["total"] for episode in ended])
    returns = np.array([episode["return"] for episode in ended])
    metrics["episode/episode_reward_mean"] = float(totals.mean())
    metrics["episode/episode_reward_std"] = float(totals.std())
    metrics["episode/episode_length_mean"] = float(np.mean([episode["length"] for episode in ended]))
    metrics["episode/trades"] = float(np.mean([episode["trades"] for episode in ended]))
    if np.isfinite(returns).all():  # tasks without money have none
        metrics["episode/episode_success_rate"] = float((returns > 0).mean())
        metrics["episode/episode_return_mean"] = float(returns.mean())
    sums = np.abs(np.stack([episode["components"] for episode in ended])).mean(0)
    if sums.sum() > 0:
        metrics |= {f"reward/episode_share.{name}": float(sums[i] / sums.sum()) for i, name in enumerate(COMPONENTS)}
    return metrics


def histogram(values: Array, bins: int = 50) -> dict[str, list[float]]:
    """{edges (bins + 1), counts (bins)} of the finite values, for pictures and Aim's distributions."""
    counts, edges = np.histogram(values[np.isfinite(values)], bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def value_map(bar: Array, unrealised: Array, value: Array, bins: int = 24) -> dict[str, Any]:
    """Mean value over bar of the episode × unrealised return; None where no state fell. Inputs are flat, of one length.

    The outer half percent of unrealised returns on each side falls into the outermost cells, or a spike would squeeze
    all.
    """
    _, bar_edges = np.histogram(bar, bins=bins)
    low, high = np.quantile(unrealised, [0.005, 0.995])
    edges = np.linspace(min(low, -1e-6), max(high, 1e-6), bins + 1)
    unrealised = unrealised.clip(edges[0], edges[-1])
    total, _, _ = np.histogram2d(bar, unrealised, bins=(bar_edges, edges), weights=value)
    count, _, _ = np.histogram2d(bar, unrealised, bins=(bar_edges, edges))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return {
        "bars": bar_edges.tolist(),
        "unrealised": edges.tolist(),
        "values": [[None if np.isnan(v) else float(v) for v in line] for line in mean],
    }
