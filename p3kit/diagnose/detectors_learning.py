"""Rows from the literature on how PPO fails: pure functions of recorded metrics.

The worst faults look healthy on the usual dials. A learning rate of 3e-2 shows in KL, clip fraction, explained variance
and gradient norm much as a healthy one does; it shows in the change of the weights, in dormant units and in rank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Span, Ticks, breached, extended, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number, format_steps
from p3kit.diagnose.registry import (
    DETECTORS,
    Row,
    detector,
    indices,
    passed,
    raised,
    silent,
    too_early,
    with_values,
    within,
)
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.symptoms import Severity

# ---------------------------------------------------------------------------------------------


@detector("opt.step_too_big", "diag/update_ratio", warn=0.03)
def step_too_big(evidence: Evidence, row: Row) -> Finding:
    """The earliest sign of a learning rate that ruins the net while KL, clip fraction and gradients look healthy."""
    ratio = evidence.ticks("diag/update_ratio", "max")
    span = sustained(ratio.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, ratio, "largest weight change per gradient step")
    value = float(np.max(within(ratio, span)))
    rate = evidence.effective("ppo.learning_rate", int(ratio.steps[span.first]))
    text = f"weights moved by {format_number(value)} of their norm per gradient step (root mean)"
    cause = [(1.0, "learning_rate", f"learning rate {format_number(rate)}")]
    return raised(evidence, row, ratio, span, value, text, causes=cause)


@detector("opt.lr_decayed", "effective/ppo.learning_rate", warn=0.05, minimum=2)
def learning_rate_decayed(evidence: Evidence, row: Row) -> Finding:
    """Exact: the learning rate in force against its own start."""
    rate = evidence.ticks("effective/ppo.learning_rate")
    early = evidence.progress(rate.steps) < 0.6
    decayed = rate.values < row.warn * rate.values[0]
    span = sustained(decayed & early, row.patience)
    if span is None:
        return silent(evidence, row, rate, "learning rate in force")
    span = extended(span, decayed)
    value = float(rate.values[span.last] / rate.values[0])
    text = f"learning rate {format_number(float(rate.values[span.last]))}, {value:.1%} of its start"
    reached = evidence.progress(int(rate.steps[span.first]))
    cause = [(1.0, "schedule", f"it got there at {reached:.0%} of training: let the schedule end with the run")]
    return raised(evidence, row, rate, span, value, text, causes=cause)


@detector("net.dormant", "diag/dormant_share", warn=0.5)
def dormant_units(evidence: Evidence, row: Row) -> Finding:
    """Sokar et al. 2023."""
    dormant = evidence.ticks("diag/dormant_share")
    span = sustained(dormant.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, dormant, "largest share")
    value = float(np.max(within(dormant, span)))
    causes = [*_step_size_cause(evidence), (1.0, "plasticity", f"{dormant.values[0]:.0%} at the start")]
    if span.first == 0 and len(causes) == 1:
        causes = [(1.0, "initial", f"{dormant.values[0]:.0%} from the start")]
    return raised(evidence, row, dormant, span, value, f"{value:.0%} of hidden units are dormant", causes=causes)


@detector("net.rank", "diag/feature_rank", warn=1 / 3, minimum=2, patience=2)
def feature_rank_collapsed(evidence: Evidence, row: Row) -> Finding:
    """Moalla et al. 2024: rank falls before PPO collapses. It also falls, over many ticks, in every policy that commits
    itself (45 to 20 in healthy runs, 48 to 5 where staying out is right): a warning is a fall within two ticks, or one
    with dormant units or too large steps beside it."""
    rank = evidence.ticks("diag/feature_rank")
    span = sustained(rank.values < row.warn * rank.values[0], rank.rows_for(row.patience, least=1), rank.iterations)
    if span is None:
        return silent(evidence, row, rank, "singular values behind 99% of the energy")
    value = float(np.min(within(rank, span)))
    causes = [*_step_size_cause(evidence), (1.0, "plasticity", f"{rank.values[0]:.0f} at the start")]
    text = f"feature rank {value:.0f}, {rank.values[0]:.0f} at the start"
    dormant = evidence.ticks("diag/dormant_share").before(int(rank.steps[span.last]))
    fell = trailing(rank.values, 3, lambda windows, axis: windows[:, -1] / windows[:, :2].max(axis))
    fast = bool(np.nanmin(np.append(fell, rank.values[1] / rank.values[0])) < row.warn)
    severity: Severity = "warning"
    if not fast and len(causes) == 1 and np.max(dormant, initial=0.0) < 0.5 * DETECTORS["net.dormant"].warn:
        severity, text = "information", f"{text}; it fell slowly, as in a policy that commits itself"
    threshold = float(row.warn * rank.values[0])
    return raised(evidence, row, rank, span, value, text, threshold, severity, causes)


def _step_size_cause(evidence: Evidence) -> list[tuple[float, str, str]]:
    ratio = evidence.ticks("diag/update_ratio", "max")
    if len(ratio) and np.max(ratio.values) > DETECTORS["opt.step_too_big"].warn:
        return [(2.0, "step_size", f"weights moved by {format_number(float(np.max(ratio.values)))} per gradient step")]
    return []


@detector("policy.frozen", "policy/kl_divergence", warn=5e-5, minimum=5, patience=5, gross=2)
def policy_frozen(evidence: Evidence, row: Row) -> Finding:
    """The policy stands still although there is entropy left to lose. A tenth of the threshold twice is enough while
    most of the entropy is left: healthy updates move by 1e-3, those of a rate of 1e-6 by 1e-8."""
    kl = evidence.ticks("policy/kl_divergence")
    ratio = evidence.ticks("diag/update_ratio").at(kl.steps)
    entropy = np.nan_to_num(evidence.ticks("policy/entropy_norm").at(kl.steps), nan=1.0)
    early = evidence.progress(kl.steps) < 0.8
    still = ((kl.values < row.warn) | (np.nan_to_num(ratio, nan=1.0) < 2e-4)) & (entropy > 0.05)
    gross = (kl.values < 0.1 * row.warn) & (entropy > 0.5)
    span = breached(still & early, row.patience, gross & early, 2, kl.iterations)
    if span is None:
        return silent(evidence, row, kl, "lowest mean KL")
    span = extended(span, still)
    value = float(np.mean(within(kl, span)))
    rate = evidence.effective("ppo.learning_rate", int(kl.steps[span.last]))
    advantage = evidence.ticks("diag/advantage_std")
    causes = []
    if rate is not None and rate < 3e-5:
        causes.append((3.0, "learning_rate", f"learning rate {format_number(float(rate))}"))
    if len(advantage) and advantage.values[-1] < 1e-6:
        causes.append((2.0, "no_advantage", f"advantages spread by {format_number(float(advantage.values[-1]))}"))
    if np.nanmax(ratio, initial=0.0) > 2e-3:
        causes.append(
            (
                1.5,
                "detached",
                f"weights move by {format_number(float(np.nanmax(ratio)))} per gradient step, the policy does not",
            )
        )
    return raised(evidence, row, kl, span, value, f"KL per update {format_number(value)}", causes=causes)


@detector("policy.uniform", "policy/entropy_norm", warn=0.965, minimum=3, patience=3)
def still_random(evidence: Evidence, row: Row) -> Finding:
    """Guide 1.2: random behaviour after 50k of 100k steps. Where the entropy bonus is over twice the guide's largest
    and the policy has not left the start at all, 15% of training are enough: two pieces of evidence agree. A policy
    whose entropy is falling by now is late, not random."""
    entropy = evidence.ticks("policy/entropy_norm")
    progress = evidence.progress(entropy.steps)
    bonus = evidence.ticks("effective/ppo.ent_coef").at(entropy.steps)
    bonus = np.where(np.isfinite(bonus), bonus, float(evidence.setting("ppo.ent_coef") or 0.0))
    held_up = (entropy.values > _AT_THE_START) & (bonus > _LARGE_BONUS) & (progress > 0.15)
    falling = entropy.values < np.roll(entropy.values, row.patience) - _LEAVES_BY
    falling[: row.patience] = False
    late = (entropy.values > row.warn) & (progress > 0.5) & ~falling
    span = sustained(late | held_up, row.patience, entropy.iterations)
    if span is None and not np.any(progress > 0.5):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "50% of training")
    if span is None:
        return silent(evidence, row, entropy, "share of the largest entropy")
    value = float(np.mean(within(entropy, span)))
    coefficient = evidence.effective("ppo.ent_coef", int(entropy.steps[span.last]))
    causes = []
    if coefficient is not None:
        strong = coefficient > 0.05
        text = f"ent_coef {format_number(coefficient)}" + (", above the guide's 0.05" if strong else "")
        causes.append((3.0 if strong else 1.0, "ent_coef_high", text))
    kl = evidence.ticks("policy/kl_divergence")
    if len(kl) and float(np.median(kl.values)) < 5e-5:
        causes.append((2.0, "frozen", f"median KL {format_number(float(np.median(kl.values)))}"))
    signal = evidence.ticks("diag/advantage_signal")
    if len(signal) and float(np.median(signal.values[-5:])) <= 0:
        causes.append((2.5, "no_signal", f"advantage signal {format_number(float(np.median(signal.values[-5:])))}"))
    return raised(evidence, row, entropy, span, value, f"entropy still {value:.3f} of its maximum", causes=causes)


_AT_THE_START, _LARGE_BONUS = 0.99, 0.1
"""Share of the largest entropy that a fresh policy has, and twice the guide's largest ent_coef."""
_LEAVES_BY = 0.005
"""Share of the largest entropy; one held up by its bonus wanders by 0.002 over as many ticks."""


@detector("policy.early_entropy", "policy/entropy_norm", warn=0.25, minimum=3, patience=3)
def entropy_falls_early(evidence: Evidence, row: Row) -> Finding:
    """Guide 1.2: entropy → 0 quickly: at 60% of training already below where the guide wants it at the end (0.26 of its
    maximum; healthy runs were at 0.41 to 0.54). Silent where HOLD is right: committing to it early is no fault."""
    entropy = evidence.ticks("policy/entropy_norm")
    early = evidence.progress(entropy.steps) < 0.6
    span = sustained((entropy.values < row.warn) & early, row.patience, entropy.iterations)
    rule = evidence.evaluations("eval/best_fixed_rule_return")
    if span is not None and len(rule) and rule.values[-1] <= 0:
        return passed(evidence, row, "low, and no fixed rule made money on validation: little is left to explore")
    if span is None:
        return silent(evidence, row, entropy, "share of the largest entropy")
    span = extended(span, entropy.values < row.warn)
    value = float(np.mean(within(entropy, span)))
    onset = int(entropy.steps[span.first])
    causes = [(1.0, "ent_coef_low", f"ent_coef {format_number(evidence.effective('ppo.ent_coef', onset))}")]
    kl = evidence.ticks("policy/kl_divergence").before(onset)
    if len(kl) and np.max(kl) > 0.03:
        causes.append((2.0, "step_size", f"KL had reached {format_number(float(np.max(kl)))}"))
    text = f"entropy {value:.2f} of its maximum at {evidence.progress(onset):.0%} of training"
    return raised(evidence, row, entropy, span, value, text, causes=causes)


@detector("policy.init_scale", "policy/entropy_norm", warn=0.9)
def initial_policy(evidence: Evidence, row: Row) -> Finding:
    """Andrychowicz et al. 2020: start near uniform."""
    entropy = evidence.ticks("policy/entropy_norm")
    value = float(entropy.values[0])
    if value >= row.warn or _step_size_cause(evidence):
        return passed(evidence, row, f"entropy {value:.3f} of its maximum in the first tick", value, row.warn)
    text = f"entropy {value:.2f} of its maximum in the first tick"
    cause = [(1.0, "init_gain", f"init_gain {format_number(evidence.setting('ppo.init_gain'))}")]
    return raised(evidence, row, entropy, Span(0, 0, True), value, text, causes=cause)


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


@detector("reward.scale", "value/return_std", warn=50.0, minimum=2, patience=2, gross=1)
def returns_badly_scaled(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.3: returns far from 1, or rewards that only reward.clip keeps small. A flat account has no returns, which
    is not a matter of scale."""
    std = evidence.ticks("value/return_std")
    scaling = f'reward.scaling is "{evidence.setting("reward.scaling")}"'
    holding = np.nan_to_num(evidence.ticks("policy/hold_share").at(std.steps)) > 0.95
    reward = evidence.ticks("reward/std").at(std.steps)
    faint = (reward < _FAINTEST) & (reward > 0)  # the value head's own noise can hide it in the returns at first
    large, small = std.values > row.warn, ((std.values < 0.01) | faint) & ~holding
    gross = (std.values > _GROSSLY * row.warn) | (faint & (reward < _FAINTEST / _GROSSLY) & ~holding)
    span = breached(large | small, std.rows_for(row.patience, least=1), gross)
    if span is not None:
        value = float(np.median(within(std, span)))
        cause = (1.0, "too_large" if value > row.warn else "too_small", scaling)
        text = f"returns have a standard deviation of {format_number(value)}"
        threshold = row.warn if value > row.warn else 0.01
        if 0.01 < value <= row.warn:
            value, threshold = float(np.median(reward[indices(span)])), _FAINTEST
            text = f"rewards have a standard deviation of {format_number(value)}"
        return raised(evidence, row, std, span, value, text, threshold=threshold, causes=[cause])
    cut = evidence.ticks("reward/clipped_share")
    span = sustained(cut.values > _MOST_CLIPPED, row.patience)
    if span is not None:
        value = float(np.median(within(cut, span)))
        text = f"{value:.0%} of rewards are cut by reward.clip: the learner cannot tell large from larger"
        cause = (1.0, "too_large", scaling)
        return raised(evidence, row, cut, span, value, text, threshold=_MOST_CLIPPED, causes=[cause])
    return silent(evidence, row, std, "standard deviation of the returns")


_GROSSLY = 5.0
"""Times a threshold beyond which one tick is enough: scales that are wrong are wrong by orders of magnitude."""
_FAINTEST = 1e-3
"""Standard deviation of the rewards as the learner sees them; those of an account that trades are 0.1 to 1."""
_MOST_CLIPPED = 0.10
"""Share of rewards that may be cut; healthy runs cut next to none."""


@detector("obs.scale", "diag/obs_max_abs", warn=50.0, minimum=1, patience=2)
def observations_out_of_scale(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.3. A rare outlier that is clipped does no harm and is information."""
    largest, cut = evidence.ticks("diag/obs_max_abs", "max"), evidence.ticks("diag/obs_clipped_share")
    clip = evidence.setting("observation.clip")
    clipped = isinstance(clip, (int, float)) and clip < row.warn
    often = sustained(cut.values > 0.02, cut.rows_for(row.patience, least=1)) if len(cut) else None
    gross = largest.values > (np.inf if clipped else _GROSSLY * row.warn)
    span = breached(largest.values > row.warn, largest.rows_for(row.patience, least=1), gross)
    if often is None and span is None:
        return silent(evidence, row, largest, "largest |observation|")
    clock, found = (cut, often) if often is not None else (largest, span)
    severity: Severity = "warning" if often is not None or not clipped else "information"
    value = float(np.max(within(clock, found or Span(0, 0, True))))
    text = (
        f"{value:.1%} of observation values were clipped" if often else f"largest |observation| {format_number(value)}"
    )
    if severity == "information":
        text += f", clipped at {format_number(float(clip))}"
    raw = evidence.setting("observation.normalize") == "none"
    cause = (
        (1.0, "not_normalised", 'observation.normalize is "none"') if raw else (1.0, "outliers", "although normalised")
    )
    threshold = 0.02 if often is not None else row.warn
    return raised(evidence, row, clock, found or Span(0, 0, True), value, text, threshold, severity, [cause])


@detector("env.no_end", "episode/episodes")
def episodes_never_end(evidence: Evidence, row: Row) -> Finding:
    """No episode in twice the time that all accounts need for one."""
    bars, accounts = evidence.setting("env.episode_bars"), evidence.setting("env.num_envs")
    if not bars or not accounts:
        return Finding(
            row.symptom, evidence.agent, "no_evidence", "critical", "the spec does not say how long episodes last"
        )
    episodes = evidence.ticks("episode/episodes", "sum")
    need = 2 * int(bars) * int(accounts)
    if evidence.last_step < need:
        return too_early(evidence, row, f"{format_steps(evidence.last_step)} steps", f"{format_steps(need)}")
    ended = np.cumsum(episodes.values)
    silent_since = np.where(episodes.values > 0, episodes.steps, 0)
    quiet = episodes.steps - np.maximum.accumulate(silent_since)
    span = sustained(quiet >= need, row.patience)
    if span is None:
        return passed(evidence, row, f"{ended[-1]:,.0f} episodes ended", float(ended[-1]), 0.0)
    cause = [(1.0, "truncation_missing", f"episodes should last {bars} bars")]
    text = f"no episode ended in {format_steps(int(np.max(quiet)))} steps"
    return raised(evidence, row, episodes, span, float(np.max(quiet)), text, threshold=float(need), causes=cause)


@detector("data.leak", "eval/sharpe_ratio", warn=8.0, minimum=1, patience=2, unit="evaluations")
def too_good(evidence: Evidence, row: Row) -> Finding:
    """A feature that moves with bars it cannot have seen, or a Sharpe ratio that no honest feature pays."""
    foresight = evidence.evaluations("eval/feature_foresight")
    if len(foresight) and float(foresight.values[-1]) > FORESIGHT:
        value = float(foresight.values[-1])
        events = [event for event in evidence.events_of("evaluation") if event.get("foresight")]
        name = events[-1]["foresight"] if events else "a feature"
        text = f"{name} correlates with a coming return by {value:.2f} on the training bars"
        cause = [(1.0, "future_feature", f"{name}: an honest feature stays below {FORESIGHT:g}")]
        always = Span(0, len(foresight) - 1, True)
        return raised(evidence, row, foresight, always, value, text, threshold=FORESIGHT, causes=cause)
    sharpe = evidence.evaluations("eval/sharpe_ratio")
    span = sustained(sharpe.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, sharpe, "highest validation Sharpe")
    value = float(np.max(within(sharpe, span)))
    cause = [(1.0, "future_feature", "no honest feature pays this well on bars it has not seen")]
    return raised(evidence, row, sharpe, span, value, f"validation Sharpe {value:.1f}", causes=cause)


FORESIGHT = 0.4
"""|Correlation| of a feature with a coming return: clear synthetic edges reach 0.2, real markets far less."""


@detector("mask.tight", "policy/valid_actions", warn=1.5)
def mask_too_tight(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2: action masking too restrictive. A mean over 4,096 masks needs no second tick."""
    valid = evidence.ticks("policy/valid_actions")
    span = sustained(valid.values < row.warn, row.patience)
    if span is None:
        return silent(evidence, row, valid, "valid actions on average")
    value = float(np.mean(within(valid, span)))
    cause = [(1.0, "mask_rules", "the mask leaves little but HOLD")]
    return raised(evidence, row, valid, span, value, f"{value:.2f} valid actions on average", causes=cause)


@detector("net.dead_relu", "diag/dead_share", warn=0.5)
def dead_units(evidence: Evidence, row: Row) -> Finding:
    """Units below 0 on every sampled state: no gradient will ever reach them."""
    dead = evidence.ticks("diag/dead_share")
    span = sustained(dead.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, dead, "largest share")
    value = float(np.max(within(dead, span)))
    causes = [*_step_size_cause(evidence), (1.0, "initial", f"{dead.values[0]:.0%} in the first tick")]
    return raised(evidence, row, dead, span, value, f"{value:.0%} of hidden units are dead", causes=causes)


@detector("value.bootstrap", "diag/gae_error", warn=1e-3)
def bootstraps_wrongly(evidence: Evidence, row: Row) -> Finding:
    """Exact, twice: returns against their own recursion, and what truncated episodes bootstrap from."""
    error, wrong = evidence.ticks("diag/gae_error", "max"), evidence.ticks("diag/wrong_bootstraps")
    limit = max(row.warn, 2e-2) if evidence.reduced_precision else row.warn
    span = sustained(error.values > limit, row.patience)
    if span is not None:
        value = float(np.max(within(error, span)))
        text = f"returns miss r + γ((1 − λ) V′ + λ R′) by up to {format_number(value)} of their standard deviation"
        cause = [(1.0, "next_value", "recomputed from the same rollout, rewards and values")]
        return raised(evidence, row, error, span, value, text, threshold=limit, causes=cause)
    span = sustained(wrong.values > _WRONG_BOOTSTRAPS, 1)
    if span is None:
        return silent(evidence, row, error, "largest error of the returns", "standard deviations")
    value = float(np.max(within(wrong, span)))
    text = f"{value:.0%} of the truncated steps bootstrap nothing, or the value of the episode that came after"
    cause = [(1.0, "truncation", "a window that ends is no ruin: the value of its final observation follows")]
    return raised(evidence, row, wrong, span, value, text, threshold=_WRONG_BOOTSTRAPS, causes=cause)


_WRONG_BOOTSTRAPS = 0.1


@detector(
    "reward.hack", "episode/episode_reward_mean", "episode/episode_return_mean", warn=-0.3, minimum=10, patience=2
)
def reward_without_money(evidence: Evidence, row: Row) -> Finding:
    """Reward up, account down: over ten ticks they move against each other by rank, and both ends of the window differ
    by more than twice their sampling error, so that two flat and noisy curves say nothing."""
    reward = evidence.ticks("episode/episode_reward_mean")
    gained = evidence.ticks("episode/episode_return_mean").at(reward.steps)
    error = _sampling_error(evidence, reward)
    width = max(reward.rows_for(10), 5)
    third = max(width // 3, 1)

    def climbs(windows: Floats, axis: int) -> Floats:
        rise: Floats = windows[:, -third:].mean(axis) - windows[:, :third].mean(axis)
        return rise

    noise = 2 * trailing(error, width, np.mean) * np.sqrt(2 / third)
    money_noise = 2 * trailing(gained, width, lambda windows, axis: np.diff(windows).std(axis)) / np.sqrt(third)
    apart = (trailing(reward.values, width, climbs) > noise) & (trailing(gained, width, climbs) < -money_noise)
    against = np.full(len(reward), np.nan)
    for last in np.flatnonzero(apart):
        window = slice(last + 1 - width, last + 1)
        against[last] = rank_correlation(reward.values[window], gained[window])
    span = sustained(
        np.nan_to_num(against, nan=1.0) < row.warn, reward.rows_for(row.patience, least=1), reward.iterations
    )
    if span is None:
        seen = rank_correlation(reward.values, gained)
        return passed(
            evidence, row, f"reward and return correlate by rank with {seen:+.2f} over the run", seen, row.warn
        )
    start = max(0, span.first - width + 1)
    text = (
        f"the mean episode reward went from {format_number(float(reward.values[start]))} to "
        f"{format_number(float(reward.values[span.last]))} while the account's return went from "
        f"{gained[start]:+.1%} to {gained[span.last]:+.1%}"
    )
    component, grew = _grown_share(evidence, int(reward.steps[start]), int(reward.steps[span.last]))
    causes = [(2.0 if grew > 0.05 else 0.5, "component_drift", f"the share of {component} grew by {grew:.0%}")]
    if (paid := _paid_action(evidence)) is not None:
        causes.append((1.0, "action_pays", paid))
    value = float(np.nanmin(against[span.first : span.last + 1]))
    return raised(evidence, row, reward, span, value, text, causes=causes, component=component)


def _sampling_error(evidence: Evidence, clock: Ticks) -> Floats:
    """Standard error of the mean episode reward of each tick."""
    std = evidence.ticks("episode/episode_reward_std").at(clock.steps)
    episodes = evidence.ticks("episode/episodes", "sum").at(clock.steps)
    return np.nan_to_num(std / np.sqrt(np.maximum(episodes, 1.0)))


def _grown_share(evidence: Evidence, first: int, last: int) -> tuple[str, float]:
    """The component other than pnl whose share of the episode reward grew most between two steps, and by how much."""
    grown = {}
    for component in COMPONENTS[1:]:
        share = evidence.ticks(f"reward/episode_share.{component}")
        before, after = share.at(np.array([first, last]))
        grown[component] = float(after - before) if np.isfinite([before, after]).all() else 0.0
    best = max(grown, key=lambda name: grown[name])
    return best, grown[best]


def _paid_action(evidence: Evidence) -> str | None:
    """The action that is paid most beside profit, in words; None where none is."""
    paid = {}
    for action in ACTIONS[1:]:
        beside = evidence.ticks(f"reward/beside_pnl.{action}")
        if len(beside):
            paid[action] = float(np.mean(beside.values[-3:]))
    best = max(paid, key=lambda name: paid[name], default=None)
    if best is None or paid[best] <= 0:
        return None
    return f"{best} earns {format_number(paid[best])} a step beside its profit"


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's, ties in order of place; 0 where one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


@detector("obs.drift", "diag/obs_drift", warn=0.5, minimum=5)
def observations_drift(evidence: Evidence, row: Row) -> Finding:
    """Running statistics settle as the count grows; where they do not, the policy's inputs change under it."""
    drift = evidence.ticks("diag/obs_drift")
    width = drift.rows_for(5)
    moved = trailing(drift.values, width, np.sum)
    late = evidence.progress(drift.steps) > 0.3
    if not np.any(late):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "30% of training")
    span = sustained((moved > row.warn) & late, row.patience)
    if span is None:
        return silent(evidence, row, with_values(drift, moved), "largest move in five ticks", "standard deviations")
    value = float(np.max(moved[span.first : span.last + 1]))
    cause = [(1.0, "running", f'observation.normalize is "{evidence.setting("observation.normalize")}"')]
    text = f"a mean of the observation statistics moved by {value:.2f} standard deviations within five ticks"
    return raised(evidence, row, drift, span, value, text, causes=cause)


@detector("env.duplicate", "diag/env_twins", warn=0.3, minimum=3, patience=3)
def environments_are_copies(evidence: Evidence, row: Row) -> Finding:
    """Rows that stand at the same bars earn alike whenever both hold something. Two may meet by chance for an episode,
    not a third of all for three ticks."""
    twins = evidence.ticks("diag/env_twins")
    span = sustained(twins.values > row.warn, twins.rows_for(row.patience), twins.iterations)
    if span is None:
        return silent(evidence, row, twins, "largest share of environments that move with another")
    value = float(np.max(within(twins, span)))
    cause = [(1.0, "shared_seed", f"{evidence.setting('env.num_envs')} environments, fewer paths")]
    text = f"the P&L of {value:.0%} of the environments moves with that of another one"
    return raised(evidence, row, twins, span, value, text, causes=cause)


@detector("env.stale_obs", "diag/obs_agreement", warn=0.5, minimum=2, patience=3, gross=1)
def observations_are_not_of_their_row(evidence: Evidence, row: Row) -> Finding:
    """The newest bar that a row observes is the one that its account was just marked at. So it is from the first tick
    on, or it is not: one tick is enough before any agreed. Later a policy that hardly holds leaves few and small
    positions to compare, so a loss of agreement has to be far deeper, and to last."""
    agreement = evidence.ticks("diag/obs_agreement")
    size = np.abs(agreement.values)  # near −1 the observation is right and the P&L turned, which is for reward.corr
    agreed = np.maximum.accumulate(size) > _AGREED
    span = breached((size < 0.4 * row.warn) & agreed, row.patience, (size < row.warn) & ~agreed)
    if span is None:
        return silent(evidence, row, agreement, "smallest correlation of observed and earned return")
    value = float(np.mean(within(agreement, span)))
    cause = [(1.0, "shuffled", f"correlation {value:+.2f} where the same number stands on both sides")]
    text = f"the return a row observes and the one it earned correlate with {value:+.2f} only"
    return raised(evidence, row, agreement, span, value, text, causes=cause)


_AGREED = 0.8
"""What agreement looks like; healthy runs begin at 0.98."""
