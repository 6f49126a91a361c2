"""Detectors of `value.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Span, Ticks, breached, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, indices, raised, silent, with_values


@detector("value.mean", "value/value_mean", "value/return_mean", "value/return_std", warn=1.0, minimum=8, patience=5)
def value_mean_off(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1: the value mean should follow the episode returns."""
    value = evidence.ticks("value/value_mean")
    target = evidence.ticks("value/return_mean").at(value.steps)
    std = evidence.ticks("value/return_std").at(value.steps)
    if evidence.task:  # a solved task has one return; its level, and how far it has moved, set the scale
        std = np.maximum(np.maximum.accumulate(np.nan_to_num(std)), 0.01 * np.abs(target))
    bias = np.divide(np.abs(value.values - target), std, out=np.zeros(len(std)), where=std > 0)
    bias[: value.rows_for(row.minimum) - value.rows_for(row.patience) + 1] = 0.0  # the head starts at 0
    span = sustained(bias > row.warn, value.rows_for(row.patience), value.iterations)
    if span is None:
        return silent(evidence, row, with_values(value, bias), "largest bias", "standard deviations of the returns")
    last = span.last
    text = f"value mean {format_number(float(value.values[last]))}, return mean {format_number(float(target[last]))}"
    cause = [(1.0, "bias", f"{bias[last]:.1f} standard deviations apart")]
    return raised(evidence, row, value, span, float(bias[last]), text, causes=cause)


@detector("value.fail", "value/explained_variance", warn=0.08, minimum=6, patience=2, gross=4)
def value_function_collapse(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2: explained variance below 0. The noise of the market limits it, so it is compared with a ridge
    regression on the same batch. If it is below -0.5 for three ticks after the first, the value head is worse than a
    constant and does not recover.

    The returns of a flat policy hardly vary within a rollout. There a value head that follows their level has not
    failed. If the targets come mostly from the value head itself, explained variance shows nothing. So the check
    requires that a discount or an end of episodes anchors the targets."""
    explained = evidence.ticks("value/explained_variance")
    reference = evidence.ticks("diag/ev_reference").at(explained.steps)
    width = explained.rows_for(5)
    best = trailing(explained.values, width, np.max)
    enough = np.arange(len(explained)) >= max(width, explained.rows_for(row.minimum) - 1)  # never counts the first row
    beaten = trailing(np.nan_to_num(reference - explained.values, nan=-np.inf), width, np.median) > 0.1
    beaten &= (
        trailing(np.nan_to_num(reference, nan=-np.inf), width, np.median) > row.warn
    )  # there is something to learn
    follows = _explained_with_levels(evidence, explained, width) > row.warn
    hold = trailing(evidence.ticks("policy/hold_share").at(explained.steps), width, np.mean)
    judged = enough & ~(follows | (hold > _MOSTLY_HOLD))
    low = judged & (best < row.warn)
    held = explained.rows_for(row.patience, least=1)
    best_yet = np.maximum.accumulate(np.append(-np.inf, explained.values[1:]))
    useless = (np.arange(len(explained)) >= 3) & ~follows & (best_yet < -0.5)
    span = breached(low & (beaten | (best < -0.5)), held, useless, 1, explained.iterations)
    if span is None and (adrift := _unanchored(evidence, row, explained)) is not None:
        return adrift
    if span is None:
        if np.all(np.isnan(reference)) and np.any(low):
            text = "explained variance is low; without diag/ev_reference an unpredictable market is possible, too"
            return Finding(row.symptom, evidence.agent, "no_evidence", "warning", text)
        return silent(evidence, row, explained, "explained variance")
    value = float(explained.values[span.last])
    text = f"explained variance {value:.2f}"
    if np.isfinite(reference[span.last]):
        text += f", a linear fit on the same batch reaches {reference[span.last]:.2f}"
    return raised(
        evidence, row, explained, span, value, text, causes=_causes_of_value_failure(evidence, span, explained)
    )


_MOSTLY_HOLD = 0.85
_ANCHORED_BY = 0.2
"""Share of training by which a discount or an end has to have fixed the level of the value."""


def _unanchored(evidence: Evidence, row: Row, explained: Ticks) -> Finding | None:
    """Without an end, and with a discount that reaches further than any account has played, every target depends on the
    value's own estimate. Bellman's equation then holds for any level of the value (Puterman 1994, chapter 8: without a
    discount the value of an endless process is defined up to a constant). Episodes on bars end by truncation, which
    bootstraps the value, so they anchor nothing without a discount."""
    gamma, accounts = evidence.effective("ppo.gamma"), evidence.setting("env.num_envs")
    episodes = evidence.ticks("episode/episodes", "sum")
    if gamma is None or not accounts or len(episodes) == 0:
        return None
    played = explained.steps / int(accounts)
    reach = np.inf if gamma >= 1 else 1 / (1 - gamma)
    never_ended = np.nan_to_num(np.cumsum(episodes.at(explained.steps))) == 0
    late = evidence.progress(explained.steps) >= _ANCHORED_BY
    only_truncated = gamma >= 1 and not evidence.task
    span = sustained(late & (only_truncated | (never_ended & (played < reach))), row.patience)
    if span is None:
        return None
    enough = 1 - 1 / float(played[span.last])
    ends = "every end of an episode bootstraps the value" if only_truncated else "no episode ended"
    text = (
        f"{ends} in the {played[span.last]:,.0f} bars that each account played, and gamma {gamma:g} reaches beyond "
        "them: nothing anchors the value"
    )
    cause = (3.0, "unanchored", "every target is the value head's own guess of what follows")
    return raised(evidence, row, explained, span, float(gamma), text, enough, causes=[cause])


def _explained_with_levels(evidence: Evidence, explained: Ticks, width: int) -> Floats:
    """Explained variance over the last `width` rows taken together, so that the levels of the rollouts count too: one
    minus (mean squared error) / (variance within and between rollouts). (rows,); NaN where it is not known."""
    mean = evidence.ticks("value/return_mean").at(explained.steps)
    bias = evidence.ticks("value/value_mean").at(explained.steps) - mean
    within_rollout = np.square(evidence.ticks("value/return_std").at(explained.steps))
    error = trailing((1 - explained.values) * within_rollout + np.square(bias), width, np.mean)
    total = trailing(within_rollout, width, np.mean) + trailing(mean, width, np.var)
    share: Floats = 1 - np.divide(error, total, out=np.full(len(explained), np.nan), where=total > 0)
    return share


def _causes_of_value_failure(evidence: Evidence, span: Span, clock: Ticks) -> list[tuple[float, str, str]]:
    causes = []
    std = evidence.ticks("value/return_std").at(clock.steps)[indices(span)]
    if np.any(np.isfinite(std)):
        level = float(np.nanmedian(std))
        if level > 50 or level < 0.01:
            causes.append((3.0, "reward_scale", f"returns have a standard deviation of {format_number(level)}"))
        mean = evidence.ticks("value/return_mean").at(clock.steps)[indices(span)]
        drift = float(np.nanmax(mean) - np.nanmin(mean))
        if level > 0 and drift > level:
            causes.append(
                (2.0, "non_stationary", f"the mean return moved by {drift / level:.1f} of its own deviations")
            )
    weight = evidence.effective("ppo.vf_coef", int(clock.steps[span.first]))
    if weight is not None:
        word = "too little to learn from" if weight < 0.25 else "the guide's first lever"
        causes.append((2.5 if weight < 0.25 else 1.0, "vf_coef_low", f"vf_coef is {format_number(weight)}, {word}"))
    return causes
