"""Detectors of `train.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Span, Ticks, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import (
    Row,
    detector,
    detrended,
    indices,
    lag_one,
    passed,
    raised,
    silent,
    with_values,
    within,
)
from p3kit.metrics import NETS
from p3kit.symptoms import Severity


@detector("train.clip", "policy/clip_fraction", warn=0.4, minimum=2, patience=2)
def clip_fraction_high(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1 requires 0.1-0.3; healthy runs clip 0.00-0.10, so only the upper side is a warning."""
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
    """Guide 5.1: "reward variance high". A variance needs a unit, so the changes from tick to tick are measured in
    their own sampling error. They must change direction, because a rising curve changes, too."""
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


@detector("train.growth", "value/value_loss", "value/return_std", warn=3.0, minimum=8, patience=1)
def grows_slowly(evidence: Evidence, row: Row) -> Finding:
    """Growth without a jump: the level of three ticks against the lowest such level so far, on a series that has risen
    ever since by the test of Mann (1945) and Kendall. A loss is counted in variances of the returns and a gradient in
    their deviations, so that a louder market is no growth."""
    found: list[tuple[float, str, Ticks, Span, Floats]] = []
    highest = 0.0
    for metric, limit in _GROWING.items():
        clock = evidence.ticks(metric)
        values = _in_units_of_returns(evidence, metric, clock)
        growth = _risen(values)
        if not np.isfinite(growth).any():
            continue
        highest = max(highest, float(np.nanmax(growth)) / limit)
        span = sustained(np.nan_to_num(growth) > limit * row.warn / _USUAL, row.patience)
        if span is not None:
            found.append((float(np.nanmax(growth[indices(span)])) / limit, metric, clock, span, growth))
    if not found:
        return passed(evidence, row, f"largest growth {highest * _USUAL:.2f} times its lowest level", highest, row.warn)
    _, metric, clock, span, growth = max(found, key=lambda one: one[0])
    value = float(np.nanmax(growth[indices(span)]))
    text = f"{metric} has risen to {value:.1f} times its lowest level, tick by tick"
    part = metric.rpartition(".")[2] if "." in metric else metric.partition("/")[0]
    rate = format_number(evidence.effective("ppo.learning_rate"))
    causes = [(1.0, _GROWTH_CAUSES[metric.partition("/")[0]], f"{metric} grows; learning rate {rate}")]
    return raised(evidence, row, clock, span, value, text, causes=causes, component=part)


_USUAL = 3.0
_GROWING = {
    "value/value_loss": 3.0,
    "value/return_std": 4.0,
    "grad/grad_norm": 10.0,  # the ten agents of specs/phase3.toml reach 6 while they learn
    **{f"diag/weight_norm.{net}": 1.5 for net in NETS},
}
"""Factors that healthy runs stay below."""
_GROWTH_CAUSES = {"value": "value", "grad": "gradient", "diag": "weights"}
_SURE = 3.0
"""Standard deviations of Kendall's statistic."""


def _in_units_of_returns(evidence: Evidence, metric: str, clock: Ticks) -> Floats:
    power = {"value/value_loss": 2, "grad/grad_norm": 1}.get(metric, 0)
    spread = np.maximum(np.nan_to_num(evidence.ticks("value/return_std").at(clock.steps), nan=1.0), 1e-6)
    scaled: Floats = clock.values / spread**power
    return scaled


def _risen(values: Floats) -> Floats:
    """Level of the last three ticks over the lowest level so far (n,); NaN where the rise since then may be chance."""
    level = trailing(values, 3, np.median)
    growth = np.full(len(values), np.nan)
    for i in range(_LEAST_RISE + 2, len(values)):
        lowest = int(np.nanargmin(level[: i + 1]))
        since = values[max(lowest - 2, 0) : i + 1]
        if len(since) >= _LEAST_RISE and level[lowest] > 0 and _kendall_z(since) > _SURE:
            growth[i] = level[i] / level[lowest]
    return growth


_LEAST_RISE = 8


def _kendall_z(values: Floats) -> float:
    """Mann's statistic of a rise in its own standard deviations."""
    n = len(values)
    later, earlier = np.tril_indices(n, k=-1)
    rises = float(np.sign(values[later] - values[earlier]).sum())
    return rises / float(np.sqrt(n * (n - 1) * (2 * n + 5) / 18))
