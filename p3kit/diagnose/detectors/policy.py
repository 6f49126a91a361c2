"""Detectors of `policy.*`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from p3kit.diagnose.detectors.opt import step_size_cause
from p3kit.diagnose.detectors.trade import LEAST_SHARPE, worth_trading
from p3kit.diagnose.evidence import Evidence, Span, breached, extended, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, early_share, indices, passed, raised, silent, too_early, within
from p3kit.symptoms import Severity


@detector("policy.loss", "policy/policy_loss")
def policy_loss(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1 lists it; it is shown and never judged."""
    loss = evidence.ticks("policy/policy_loss")
    low, high = format_number(float(np.min(loss.values))), format_number(float(np.max(loss.values)))
    return passed(evidence, row, f"between {low} and {high}: no sign of health at any level", float(loss.values[-1]))


@detector("policy.hold", "policy/hold_share", "policy/entropy_norm", warn=0.95, minimum=3, patience=3)
def all_hold(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.2 and 5.1: all HOLD. The guide's 99% and 0.1 nats come too late for a repair; we use 95% and 0.15
    of the largest entropy. Where no fixed rule earned its costs on validation, HOLD is right and this row stays
    silent."""
    hold, entropy = evidence.ticks("policy/hold_share"), evidence.ticks("policy/entropy_norm")
    span = _collapse(evidence, row)
    if span is None:
        return silent(evidence, row, hold, "highest HOLD share")
    rule = evidence.evaluations("eval/best_fixed_rule_return")
    if len(rule) and rule.values[-1] <= 0:
        return passed(evidence, row, "the policy holds, and HOLD is right: see policy.correct_inaction")
    severity: Severity = "critical" if worth_trading(evidence) else "information"
    share, norm = float(np.mean(within(hold, span))), float(np.mean(entropy.at(hold.steps)[indices(span)]))
    text = f"{share:.1%} of actions = HOLD, entropy {norm:.2f} of its maximum"
    if len(rule):
        text += f"; the best fixed rule made {rule.values[-1]:+.1%} on validation, so HOLD is not right"
    else:
        text += "; before the first evaluation it is unknown whether HOLD is right"
    causes = _causes_of_hold(evidence, int(hold.steps[span.first]))
    return raised(evidence, row, hold, span, share, text, severity=severity, causes=causes)


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


@detector("policy.frozen", "policy/kl_divergence", warn=5e-5, minimum=5, patience=5, gross=2)
def policy_frozen(evidence: Evidence, row: Row) -> Finding:
    """The policy does not change although there is entropy left to lose. A tenth of the threshold twice is enough while
    most of the entropy is left: healthy updates move by 1e-3, those of a rate of 1e-6 by 1e-8."""
    kl = evidence.ticks("policy/kl_divergence")
    own = evidence.ticks("diag/update_ratio.policy").at(kl.steps)
    ratio = np.fmin(evidence.ticks("diag/update_ratio").at(kl.steps), own)
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
    whose entropy is falling by now is late, not random. Information where no fixed rule earned more than its costs
    beyond luck: nothing draws a policy away from its start there."""
    entropy = evidence.ticks("policy/entropy_norm")
    progress = evidence.progress(entropy.steps)
    bonus = evidence.ticks("effective/ppo.ent_coef").at(entropy.steps)
    bonus = np.where(np.isfinite(bonus), bonus, float(evidence.setting("ppo.ent_coef") or 0.0))
    held_up = (entropy.values > _AT_THE_START) & (bonus > 2 * _GUIDES_LARGEST) & (progress > 0.15)
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
    strong = (coefficient or 0.0) > _GUIDES_LARGEST
    severity: Severity = "warning" if strong or worth_trading(evidence) else "information"
    causes = []
    if coefficient is not None:
        text = f"ent_coef {format_number(coefficient)}" + (", above the guide's 0.05" if strong else "")
        causes.append((3.0 if strong else 1.0, "ent_coef_high", text))
    kl = evidence.ticks("policy/kl_divergence")
    if len(kl) and float(np.median(kl.values)) < 5e-5:
        causes.append((2.0, "frozen", f"median KL {format_number(float(np.median(kl.values)))}"))
    signal = evidence.ticks("diag/advantage_signal")
    if len(signal) and float(np.median(signal.values[-5:])) <= 0:
        causes.append((2.5, "no_signal", f"advantage signal {format_number(float(np.median(signal.values[-5:])))}"))
    text = f"entropy still {value:.3f} of its maximum"
    return raised(evidence, row, entropy, span, value, text, severity=severity, causes=causes)


_AT_THE_START, _GUIDES_LARGEST = 0.99, 0.05
"""Share of the largest entropy that a fresh policy has, and the guide's largest ent_coef."""
_LEAVES_BY = 0.005
"""Share of the largest entropy; one held up by its bonus wanders by 0.002 over as many ticks."""


@detector("policy.early_entropy", "policy/entropy_norm", warn=0.25, minimum=3, patience=3)
def entropy_falls_early(evidence: Evidence, row: Row) -> Finding:
    """Guide 1.2: entropy → 0 quickly: at 60% of training already below the guide's final value (0.26 of its maximum;
    healthy runs were at 0.41 to 0.54). No finding if HOLD is right: committing to it early is no fault."""
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
    """Andrychowicz et al. 2020: start near uniform. The first record counts: a tick may hold several updates."""
    entropy = evidence.evaluations("policy/entropy_norm")
    value, bound = float(entropy.values[0]), row.warn * _least_entropy(evidence.setting("ppo.init_hold") or 0.0)
    if value >= bound or step_size_cause(evidence):
        return passed(evidence, row, f"entropy {value:.3f} of its maximum in the first record", value, bound)
    text = f"entropy {value:.2f} of its maximum in the first record"
    cause = [(1.0, "init_gain", f"init_gain {format_number(evidence.setting('ppo.init_gain'))}")]
    return raised(evidence, row, entropy, Span(0, 0, True), value, text, causes=cause)


def _least_entropy(hold: float) -> float:
    """Return the smallest entropy, as a share of its maximum, of policies with the logit `hold` for HOLD and 0 for one
    to six other valid actions."""
    shares = []
    for others in range(1, 7):
        total = math.exp(hold) + others
        shares.append((math.log(total) - math.exp(hold) * hold / total) / math.log(others + 1))
    return min(shares)


@detector("policy.greedy_worse", "eval/sampled_lead", warn=3.0, minimum=2, patience=2, unit="evaluations")
def greedy_is_worse(evidence: Evidence, row: Row) -> Finding:
    """Both rules are played on the same bars. Evaluations of one run share bars and draws, so their noise is shared,
    too: three standard errors, not two. Information where greedy earns the guide's Sharpe ratio all the same."""
    lead = evidence.evaluations("eval/sampled_lead")
    if (rule := evidence.setting("evaluation.action")) != "greedy":
        return passed(evidence, row, f"the agent acts by the rule {rule}")
    late = (lead.values > row.warn) & (evidence.progress(lead.steps) > 0.5)
    span = sustained(late, row.patience, lead.iterations)
    if span is None:
        return silent(evidence, row, lead, "highest lead of sampled", "standard errors")
    at = {
        name: evidence.evaluations(f"eval/{name}").at(lead.steps)[span.last]
        for rule in ("sampled", "greedy")
        for name in (f"{rule}_total_return", f"{rule}_hold_share")
    }
    text = (
        f"return {at['sampled_total_return']:+.1%} sampled, {at['greedy_total_return']:+.1%} greedy on the same bars; "
        f"HOLD on {at['sampled_hold_share']:.0%} and {at['greedy_hold_share']:.0%} of them"
    )
    cause = [(1.0, "one_action", f"greedy holds on {at['greedy_hold_share']:.0%} of the bars")]
    sharpe = evidence.evaluations("eval/greedy_sharpe_ratio").at(lead.steps)[indices(span)]
    earns = bool(np.nan_to_num(sharpe, nan=0.0).min() >= LEAST_SHARPE)  # n/a: it never traded
    severity: Severity = "information" if earns else "warning"
    return raised(evidence, row, lead, span, float(lead.values[span.last]), text, severity=severity, causes=cause)
