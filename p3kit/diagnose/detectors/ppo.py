"""Detectors of `ppo.*`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p3kit.diagnose.evidence import Evidence, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, indices, raised, silent, with_values, within


@detector("ppo.ratio_ne_1", "policy/ratio_error", warn=1e-3)
def ratio_not_one(evidence: Evidence, row: Row) -> Finding:
    """Exact but for rounding: before the first gradient step old and new policy are the same."""
    error = evidence.ticks("policy/ratio_error", "max")
    limit = max(row.warn, 2e-2) if evidence.reduced_precision else row.warn
    span = sustained(error.values > limit, row.patience)
    if span is None:
        return replace(silent(evidence, row, error, "largest error"), threshold=limit)
    value = float(np.max(within(error, span)))
    cause = [(1.0, "stored_log_prob", "rollout and update see different policies")]
    text = f"mean |ratio − 1| of the first minibatch {format_number(value)}"
    return raised(evidence, row, error, span, value, text, threshold=limit, causes=cause)


@detector("ppo.adv_std", "diag/advantage_std", warn=1e-6)
def advantages_equal(evidence: Evidence, row: Row) -> Finding:
    """A reward that is the same everywhere teaches nothing."""
    spread = evidence.ticks("diag/advantage_std")
    span = sustained(spread.values < row.warn, row.patience)
    reward, mean = evidence.ticks("reward/std"), evidence.ticks("reward/mean")
    alike = (reward.values < 1e-9) & (np.abs(mean.at(reward.steps)) > 1e-9)  # 0 everywhere is an account at rest
    if evidence.task:  # a task may pay every step alike, and teach by when an episode ends
        lengths = evidence.ticks("episode/episode_length_mean")
        alike &= bool(len(lengths) > 1 and np.ptp(lengths.values) < 1e-9)
    constant = sustained(alike, row.patience)
    if span is None and constant is None:
        return silent(evidence, row, spread, "smallest spread")
    if span is not None:
        value, text = float(np.min(within(spread, span))), "advantages are all equal"
        return raised(
            evidence, row, spread, span, value, text, causes=[(1.0, "constant_reward", "no advantage varies")]
        )
    assert constant is not None  # noqa: S101  (one of the two was found)
    paid = format_number(float(mean.at(reward.steps)[constant.last]))
    cause = [(1.0, "constant_reward", f"every step paid {paid}")]
    return raised(evidence, row, reward, constant, 0.0, "rewards are all equal and not 0", causes=cause)


@detector("ppo.adv_signal", "diag/advantage_signal", "policy/kl_divergence", warn=0.03, minimum=5, gross=3)
def updates_ignore_advantages(evidence: Evidence, row: Row) -> Finding:
    """An update makes actions with a positive advantage likelier: healthy updates show 0.07 to 0.4. One value has a
    sampling error of 0.02 on 2,048 rows, so five ticks are taken together while the policy moves; three are enough
    below half the threshold. In the second half of training, where healthy policies have settled and show 0.04, only a
    level below 0 counts."""
    signal = evidence.ticks("diag/advantage_signal")
    moving = (evidence.ticks("policy/kl_divergence").at(signal.steps) > _MOVES) & (
        np.nan_to_num(evidence.ticks("policy/entropy_norm").at(signal.steps), nan=1.0) > _UNDECIDED
    )
    level = trailing(signal.values, signal.rows_for(5, least=3), np.mean)
    of_three = trailing(signal.values, 3, np.mean)
    early = evidence.progress(signal.steps) <= 0.5
    low = np.where(early, (level < row.warn) | (of_three < 0.5 * row.warn), level < 0)
    span = sustained(low & moving, row.patience)
    if span is None:
        return silent(evidence, row, with_values(signal, level), "lowest advantage signal over five ticks")
    value = float(np.nanmin(np.fmin(level, of_three)[indices(span)]))
    said = f"advantage and change of log-probability correlate by {value:+.3f}"
    cause = (1.0, "sign", said) if value < -0.03 else (1.0, "misaligned", said)
    return raised(evidence, row, signal, span, value, f"advantage signal {value:.3f}", causes=[cause])


_MOVES, _UNDECIDED = 5e-4, 0.2
"""KL of an update and entropy (of its maximum) below which a policy has hardly anything left to change."""
