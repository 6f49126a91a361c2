"""The guide's six common issues (5.1) and four warning signs (3.2): pure functions of recorded metrics.

Thresholds are calibrated so that healthy runs stay silent. The guide's own, taken literally, raise five or six alarms
on every healthy run: explained variance is below 0 at the first update of all of them, and is bounded by the noise of
the market after that. Where a row departs from the guide it says so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p3kit.diagnose.evidence import TICK, Evidence, Floats, Span, Ticks, breached, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import (
    Row,
    detector,
    detrended,
    early_share,
    indices,
    jump_from_before,
    lag_one,
    nothing_recorded,
    or_one,
    passed,
    raised,
    raised_at,
    silent,
    step_of,
    with_values,
    within,
)
from p3kit.metrics import COMPONENTS

# -----------------------------------------------------------


@detector("run.slow", "perf/steps_per_second", warn=100.0, minimum=2, patience=2)
def slow_training(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1: below 100 steps a second. The causes come from where the seconds go."""
    speed = evidence.ticks("perf/steps_per_second")
    span = sustained(speed.values < row.warn, speed.rows_for(row.patience, least=1))
    if span is None:
        return silent(evidence, row, speed, "lowest")
    slow = speed.values[indices(span)]
    seconds = {
        cause: float(np.sum(evidence.ticks(f"perf/{part}_s", "sum").values))
        for cause, part in (("update_bound", "update"), ("env_bound", "rollout"), ("evaluation_bound", "evaluation"))
    }
    total = sum(seconds.values())
    causes = [
        (part / total, cause, f"{part / total:.0%} of the recorded seconds") for cause, part in seconds.items() if part
    ]
    evidence_text = f"{format_number(float(np.median(slow)))} steps/s, expected at least {format_number(row.warn)}"
    return raised(evidence, row, speed, span, float(np.median(slow)), evidence_text, causes=causes)


@detector("run.oom")
def out_of_memory(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1. Exact: the trainer records every refused allocation as an event."""
    events = evidence.events_of("oom")
    if not events:
        return passed(evidence, row, "no allocation was refused")
    first = events[0]
    said = str(first.get("message") or "an allocation was refused")
    times = f" ({len(events)} times)" if len(events) > 1 else ""
    memory = first.get("memory_mb")
    size = f"peak memory {float(memory):,.0f} MB" if memory is not None else "the message does not say which allocation"
    in_rollout = "rollout" in said
    causes = [
        (
            2.0 if in_rollout else 0.5,
            "rollout",
            "refused in the rollout" if in_rollout else "the next largest user of memory",
        ),
        (1.0, "minibatch", size),
    ]
    step = step_of(first) or evidence.last_step
    return raised_at(evidence, row, step, f"out of memory{times}: {said}", float(len(events)), causes)


@detector("policy.hold", "policy/hold_share", "policy/entropy_norm", warn=0.95, minimum=3, patience=3)
def all_hold(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2 and 5.1: all HOLD. The guide's 99% and 0.1 nats come too late to mend anything; we ask 95% and 0.15
    of the largest entropy. Where no fixed rule earned its costs on validation, HOLD is right and this row stays
    silent."""
    hold, entropy = evidence.ticks("policy/hold_share"), evidence.ticks("policy/entropy_norm")
    span = _collapse(evidence, row)
    if span is None:
        return silent(evidence, row, hold, "highest HOLD share")
    rule = evidence.evaluations("eval/best_fixed_rule_return")
    if len(rule) and rule.values[-1] <= 0:
        return passed(evidence, row, "the policy holds, and HOLD is right: see policy.correct_inaction")
    share, norm = float(np.mean(within(hold, span))), float(np.mean(entropy.at(hold.steps)[indices(span)]))
    text = f"{share:.1%} of actions = HOLD, entropy {norm:.2f} of its maximum"
    if len(rule):
        text += f"; the best fixed rule made {rule.values[-1]:+.1%} on validation, so HOLD is not right"
    else:
        text += "; whether HOLD is right cannot be told before the first evaluation"
    causes = _causes_of_hold(evidence, int(hold.steps[span.first]))
    return raised(evidence, row, hold, span, share, text, causes=causes)


def _collapse(evidence: Evidence, row: Row) -> Span | None:
    """Ticks with (nearly) all HOLD and (nearly) no entropy, from an onset before 80% of training."""
    hold, entropy = evidence.ticks("policy/hold_share"), evidence.ticks("policy/entropy_norm")
    span = sustained((hold.values > row.warn) & (entropy.at(hold.steps) < 0.15), row.patience, hold.iterations)
    if span is None or evidence.progress(int(hold.steps[span.first])) >= 0.8:
        return None
    return span


def _causes_of_hold(evidence: Evidence, onset: int) -> list[tuple[float, str, str]]:
    causes = []
    valid = evidence.ticks("policy/valid_actions")
    if len(valid) and float(np.mean(valid.values[-3:])) < 1.5:
        causes.append((3.0, "mask_tight", f"only {np.mean(valid.values[-3:]):.2f} valid actions on average"))
    penalties = sum(early_share(evidence, component) for component in ("cost", "drawdown", "sizing", "hold"))
    if penalties > 0.5:
        causes.append((2.0, "penalty_dominates", f"penalties were {penalties:.0%} of the reward in the first ticks"))
    coefficient = evidence.effective("ppo.ent_coef", onset)
    if coefficient is not None:
        weak = coefficient < 0.005
        word = "below the guide's 0.01" if weak else "the usual first lever"
        causes.append((2.5 if weak else 1.0, "ent_coef_low", f"ent_coef was {format_number(coefficient)}, {word}"))
    return causes


@detector(
    "policy.correct_inaction", "policy/hold_share", "policy/entropy_norm", "eval/best_fixed_rule_return", warn=0.95
)
def correct_inaction(evidence: Evidence, row: Row) -> Finding:
    """The other side of all_hold: it holds because nothing else pays at these costs. No entropy or cost change is
    due."""
    hold, rule = evidence.ticks("policy/hold_share"), evidence.evaluations("eval/best_fixed_rule_return")
    best = float(rule.values[-1])
    span = _collapse(evidence, replace(row, patience=3))
    if span is None:
        return silent(evidence, row, hold, "highest HOLD share")
    if best > 0:
        return passed(evidence, row, f"the best fixed rule made {best:+.1%} on validation")
    text = f"{np.mean(within(hold, span)):.1%} HOLD; the best fixed rule made {best:+.1%} on validation after costs"
    cause = [(1.0, "no_edge", "neither buy-and-hold nor any other fixed rule earned its costs")]
    return raised(evidence, row, hold, span, best, text, threshold=0.0, causes=cause)


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


@detector(
    "gen.gap", "eval/train_sharpe_ratio", "eval/sharpe_ratio", warn=1.5, minimum=2, patience=2, unit="evaluations"
)
def poor_generalisation(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1: validation far below training, both with the deterministic policy, twice in a row after 30% of
    training: a policy that has just begun to earn does so unevenly. Where the evaluation carries a confidence interval,
    the gap must be more than three standard errors: a short validation split is noisy by itself. And what the market
    itself did worse there is no fault of the policy: over buy-and-hold the gap must be as wide."""
    validation = evidence.evaluations("eval/sharpe_ratio")
    training = evidence.evaluations("eval/train_sharpe_ratio").at(validation.steps)
    error = np.zeros(len(validation))
    for event in evidence.events_of("evaluation"):
        interval = event.get("sharpe_interval")
        if event.get("split", "validation") == "validation" and interval and interval[1] is not None:
            error[validation.steps == step_of(event)] = (float(interval[1]) - float(interval[0])) / (2 * 1.96)
    held = evidence.evaluations("eval/train_buy_and_hold_sharpe").at(validation.steps)
    market = held - evidence.evaluations("eval/buy_and_hold_sharpe").at(validation.steps)
    gap = training - validation.values - np.maximum(np.nan_to_num(market), 0.0)
    late = evidence.progress(validation.steps) > 0.3
    condition = (gap > row.warn) & (validation.values < 0.4 * training) & (gap > 3 * error) & late
    span = sustained(condition, row.patience)
    if span is None:
        return silent(evidence, row, with_values(validation, gap), "largest gap in Sharpe")
    last = span.last
    text = f"Sharpe {training[last]:.2f} in training, {validation.values[last]:.2f} in validation"
    growth = float(gap[last] - gap[0])
    causes = [
        (growth, "overfit", f"the gap went from {gap[0]:.2f} to {gap[last]:.2f}"),
        (float(gap[0]) - row.warn, "shift", f"the gap was {gap[0]:.2f} at the first evaluation"),
    ]
    return raised(evidence, row, validation, span, float(gap[last]), text, causes=causes)


@detector("mask.violation", warn=0.0)
def masked_action_selected(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1. Exact: the environment refuses a masked action and ends the run, unless it counts them. A run may end
    so in its first rollout, before it has recorded anything."""
    if "masked action" in evidence.failure:
        cause = [(1.0, "mask_not_applied", "the environment refused it")]
        return raised_at(evidence, row, evidence.last_step, evidence.failure, 1.0, cause)
    if not evidence.has("policy/valid_actions"):
        return nothing_recorded(evidence, row, "policy/valid_actions")
    violations = evidence.ticks("diag/mask_violations", "sum")
    span = sustained(violations.values > row.warn, row.patience)
    if span is None:
        return passed(evidence, row, "no masked action was selected")
    count = float(np.sum(violations.values))
    cause = [(1.0, "mask_not_applied", "the policy was not given the mask of its own state")]
    return raised(evidence, row, violations, span, count, f"{count:,.0f} masked actions were selected", causes=cause)


_LOSSES = ("policy/policy_loss", "value/value_loss", "reward/mean", "policy/entropy")


@detector("num.nan")
def nan_losses(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2. Exact; the first number that was not finite decides the cause."""
    first: dict[str, int] = {}
    for metric in _LOSSES:
        if metric in evidence.series:
            series = evidence.series[metric]
            broken = np.flatnonzero(~np.isfinite(np.asarray(series.values, np.float64)))
            if len(broken):
                first[metric] = int(series.steps[broken[0]])
    skipped = evidence.ticks("diag/nonfinite", "sum")
    count = float(np.sum(skipped.values))
    if count > 0:
        first["diag/nonfinite"] = int(skipped.steps[np.flatnonzero(skipped.values > 0)[0]])
    for event in evidence.events_of("nonfinite")[:1]:
        first.setdefault("diag/nonfinite", step_of(event))
        count = max(count, float(event.get("thrown_away") or 0))
    if "finite" in evidence.failure and not first:
        first["the environment"] = evidence.last_step
    if not first and not any(metric in evidence.series for metric in _LOSSES):
        return nothing_recorded(evidence, row, *_LOSSES[:2])
    if not first:
        return passed(evidence, row, "every loss, gradient and reward was finite")
    since = min(first.values())
    names = ", ".join(name for name, step in first.items() if step == since and name != "diag/nonfinite")
    text = f"not finite: {names or 'gradients'}"
    if count:
        text += f"; {count:,.0f} gradient steps were not applied"
    if "finite" in evidence.failure:
        text += f"; the run ended with: {evidence.failure}"
    return raised_at(evidence, row, since, text, count or float(len(first)), _causes_of_nan(evidence, since))


def _causes_of_nan(evidence: Evidence, since: int) -> list[tuple[float, str, str]]:
    causes = [(0.5, "numerics", "no explosion was recorded before it")]
    for kind in ("observation", "reward"):
        if "finite" in evidence.failure and kind in evidence.failure:
            causes.append((4.0, kind, evidence.failure))
    if (largest := evidence.series.get("diag/obs_max_abs")) is not None:
        seen = np.asarray(largest.values, np.float64)[np.asarray(largest.steps) <= since + TICK]
        if len(seen) and not np.isfinite(seen).all():
            causes.append((3.8, "observation", "the largest |observation| of the batch was not finite"))
    norm = evidence.ticks("grad/grad_norm_max", "max").before(since)
    if len(norm) and np.max(norm) > 100:
        causes.append((3.0, "explosion", f"the gradient norm had reached {format_number(float(np.max(norm)))}"))
    outlier = evidence.ticks("reward/max_abs", "max").before(since)
    if len(outlier) and np.max(outlier) > 1000:
        causes.append((3.5, "outlier", f"|reward| had reached {format_number(float(np.max(outlier)))}"))
    return causes


@detector("reward.explode", "reward/total", warn=8.0, minimum=6, patience=2)
def exploding_rewards(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2: mean reward 0.5 → 15. A jump of the raw reward against its own past, beyond its sampling error, that
    stays. Where the account gains as much as the reward does, it is a strategy and only information."""
    raw = evidence.ticks("reward/total")
    scale = or_one(evidence.ticks("reward/scale").at(raw.steps))
    noise = np.nan_to_num(evidence.ticks("reward/std").at(raw.steps)) * scale / np.sqrt(TICK)
    jump = jump_from_before(raw.values, noise)
    metric, span = raw, sustained(jump > row.warn, row.patience)
    scaled = evidence.ticks("reward/mean")
    broken_scale = span is None and len(scaled) >= row.minimum
    if broken_scale:
        seen_noise = np.nan_to_num(evidence.ticks("reward/std").at(scaled.steps)) / np.sqrt(TICK)
        jump = jump_from_before(scaled.values, seen_noise)
        metric, span = scaled, sustained(jump > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, with_values(metric, jump), "largest jump", "robust standard deviations")
    before = float(np.median(metric.values[max(0, span.first - 10) : span.first]))
    after = float(np.mean(metric.values[indices(span)]))
    name = "the scaled mean reward" if broken_scale else "the mean reward"
    text = f"{name} went from {format_number(before)} to {format_number(after)}"
    value = float(np.nanmax(jump[indices(span)]))
    if broken_scale:
        causes = [(1.0, "scale", "the raw reward did not move with it")]
        return raised(evidence, row, metric, span, value, text, causes=causes)
    pnl = evidence.ticks("reward/pnl").at(raw.steps)
    gain = float(np.mean(pnl[indices(span)]) - np.median(pnl[max(0, span.first - 10) : span.first]))
    if gain >= 0.5 * (after - before):
        causes = [(1.0, "legitimate", f"the pnl component carries {gain / (after - before):.0%} of the rise")]
        return raised(evidence, row, metric, span, value, text, severity="information", causes=causes)
    component, rise = _largest_rise(evidence, span, raw)
    causes = [(1.0, "hack", f"{component} rose by {format_number(rise)} a step, pnl by {format_number(gain)}")]
    return raised(evidence, row, metric, span, value, text, causes=causes, component=component)


def _largest_rise(evidence: Evidence, span: Span, clock: Ticks) -> tuple[str, float]:
    """The component other than pnl whose weighted mean rose most within `span`."""
    rises = {}
    for component in COMPONENTS[1:]:
        weighted = evidence.ticks(f"reward/{component}").at(clock.steps)
        past = weighted[max(0, span.first - 10) : span.first]
        rises[component] = float(np.mean(weighted[indices(span)]) - np.median(past)) if len(past) else np.nan
    finite = {component: rise for component, rise in rises.items() if np.isfinite(rise)}
    if not finite:
        return "time", np.nan
    best = max(finite, key=lambda component: finite[component])
    return best, finite[best]


@detector("value.fail", "value/explained_variance", warn=0.08, minimum=6, patience=2, gross=4)
def value_function_collapse(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2: explained variance below 0. Its ceiling is set by the noise of the market, so it is judged beside a
    ridge regression on the same batch; below -0.5 for three ticks after the first, the value head is worse than a
    constant and does not mend. A policy
    that goes flat leaves returns that hardly vary within a rollout: a value head that follows their level has not
    failed, and one has little to say where nearly all is HOLD. Explained variance cannot see targets that are the
    head's own guesses: that is told by what would anchor them, a discount or an end."""
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
            text = "explained variance is low, and only diag/ev_reference could tell that from an unpredictable market"
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
    """Without an end, and with a discount that reaches further than an account has ever played, every target rests on
    the value's own guess of what follows: Bellman's equation then holds for any level of it (Puterman 1994, chapter 8:
    without a discount the value of an endless process is known up to a constant)."""
    gamma, accounts = evidence.effective("ppo.gamma"), evidence.setting("env.num_envs")
    episodes = evidence.ticks("episode/episodes", "sum")
    if gamma is None or not accounts or len(episodes) == 0:
        return None
    played = explained.steps / int(accounts)
    reach = np.inf if gamma >= 1 else 1 / (1 - gamma)
    never_ended = np.nan_to_num(np.cumsum(episodes.at(explained.steps))) == 0
    late = evidence.progress(explained.steps) >= _ANCHORED_BY
    span = sustained(late & never_ended & (played < reach), row.patience)
    if span is None:
        return None
    enough = 1 - 1 / float(played[span.last])
    text = (
        f"no episode ended in the {played[span.last]:,.0f} bars that each account played, and gamma {gamma:g} reaches "
        "beyond them: nothing anchors the value"
    )
    cause = (3.0, "unanchored", "every target is the value head's own guess of what follows")
    return raised(evidence, row, explained, span, float(gamma), text, enough, causes=[cause])


def _explained_with_levels(evidence: Evidence, explained: Ticks, width: int) -> Floats:
    """Explained variance over the last `width` rows taken together, so that the levels of the rollouts count too: one
    minus (mean squared error) / (variance within and between rollouts). (rows,); NaN where it cannot be told."""
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
