"""Detectors of `train.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, detrended, indices, lag_one, raised, silent, with_values, within
from p3kit.symptoms import Severity


@detector("train.clip", "policy/clip_fraction", warn=0.4, minimum=2, patience=2)
def clip_fraction_high(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1 asks 0.1-0.3; healthy runs clip 0.00-0.10, so only the upper side is a warning."""
    clipped = evidence.ticks("policy/clip_fraction")
    span = sustained(clipped.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, clipped, "highest clip fraction")
    value = float(np.max(within(clipped, span)))
    cause = [(1.0, "step_size", f"learning rate {format_number(evidence.effective('ppo.learning_rate'))}")]
    return raised(evidence, row, clipped, span, value, f"{value:.0%} of ratios were clipped", causes=cause)


@detector("train.kl", "policy/kl_divergence", warn=0.05, critical=0.5, minimum=1, patience=2)
def kl_high(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1: below 0.02 (and 1.3: stop at 0.015, which is a stop inside the update). A mean above 0.05 twice, or
    one minibatch above 0.5."""
    mean, largest = evidence.ticks("policy/kl_divergence"), evidence.ticks("policy/kl_max", "max")
    burst = sustained(largest.values > row.critical, 1)
    span = sustained(mean.values > row.warn, row.patience)
    clock, found = (largest, burst) if burst is not None else (mean, span)
    if found is None:
        return silent(evidence, row, mean, "highest mean KL")
    value = float(np.max(within(clock, found)))
    text = f"KL of one minibatch {format_number(value)}" if burst else f"mean KL {format_number(value)}"
    rate, epochs = evidence.effective("ppo.learning_rate") or 0.0, evidence.setting("ppo.n_epochs") or 0
    causes = [
        (float(rate) / 3e-4, "learning_rate", f"learning rate {format_number(float(rate))}"),
        (float(epochs) / 10, "epochs", f"{epochs} epochs on the same rollout"),
    ]
    severity: Severity = "critical" if burst else "warning"
    threshold = row.critical if burst else row.warn
    return raised(evidence, row, clock, found, value, text, threshold, severity, causes)


@detector(
    "train.unstable",
    "episode/episode_reward_mean",
    "episode/episode_reward_std",
    "episode/episodes",
    warn=3.0,
    minimum=10,
    patience=2,
)
def unstable_training(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1: "reward variance high". A variance means nothing without a unit, so the swings from tick to tick are
    measured in their own sampling error; and they must go to and fro, for a rising curve moves too."""
    reward = evidence.ticks("episode/episode_reward_mean")
    std = evidence.ticks("episode/episode_reward_std").at(reward.steps)
    episodes = evidence.ticks("episode/episodes", "sum").at(reward.steps)
    error = np.square(std) / np.maximum(episodes, 1)
    swing = np.full(len(reward), np.nan)
    pooled = np.sqrt(error[1:] + error[:-1])
    swing[1:] = np.divide(np.diff(reward.values), pooled, out=np.full(len(pooled), np.nan), where=pooled > 0)
    level = trailing(swing, 10, _root_mean_square)
    to_and_fro = trailing(reward.values, 10, lambda windows, axis: lag_one(detrended(windows)))
    span = sustained((level > row.warn) & (to_and_fro < 0), row.patience, reward.iterations)
    if span is None:
        return silent(evidence, row, with_values(reward, level), "largest swing", "sampling errors")
    value = float(np.max(level[indices(span)]))
    text = f"the mean episode reward swings by {format_number(value)} sampling errors from tick to tick, to and fro"
    kl = evidence.ticks("policy/kl_divergence")
    high_kl = float(np.max(kl.values)) if len(kl) else 0.0
    causes = [(2.0 if high_kl > 0.02 else 0.5, "step_size", f"KL reached {format_number(high_kl)}")]
    if evidence.setting("reward.scaling") == "none":
        causes.append((1.5, "reward_scale", 'reward.scaling is "none"'))
    causes.append((1.0, "noise", f"KL stayed below {format_number(max(high_kl, 0.001))}"))
    return raised(evidence, row, reward, span, value, text, causes=causes)


def _root_mean_square(windows: Floats, axis: int) -> Floats:
    """Of the finite values; NaN where there are none (no episode ended)."""
    finite = np.isfinite(windows)
    count = finite.sum(axis)
    total = np.square(windows, out=np.zeros(windows.shape), where=finite).sum(axis)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return np.sqrt(mean)
