"""Further rows of the guide (1.2, 2.2-2.4, 3.1, 6.1, 6.2): pure functions of recorded metrics.

The guide's words stay as labels. Its numbers are read with their units: an entropy of 1.5 nats is impossible with four
valid actions (ln 4 is 1.39), healthy clip fractions are 0.00-0.10 and not 0.1-0.3, a phase is a share of training.
"""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import (
    Evidence,
    Floats,
    Span,
    breached,
    median_before,
    median_so_far,
    robust_jump,
    sustained,
    trailing,
)
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import (
    Row,
    detector,
    early_share,
    indices,
    or_one,
    passed,
    raised,
    silent,
    too_early,
    with_values,
    within,
)
from p3kit.metrics import COMPONENTS
from p3kit.symptoms import Severity

# --------------------------------------------------------------------------------------------


@detector("reward.share", "reward/episode_share.pnl", warn=0.5, critical=0.7, minimum=3, patience=3, gross=2)
def component_dominates(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: PnL should be 40-50%. Under the sound formulas it carries 75-95%, which is what a reward that means
    money looks like; another component must not carry more than half, nor grow by 0.15 beyond a quarter while
    training."""
    pnl = evidence.ticks("reward/episode_share.pnl")
    acting = np.nan_to_num(evidence.ticks("policy/hold_share").at(pnl.steps)) <= 0.95
    found: list[tuple[float, str, Span, Floats, bool]] = []
    highest = 0.0
    for component in COMPONENTS[1:]:
        share = evidence.ticks(f"reward/episode_share.{component}").at(pnl.steps)
        if not np.any(np.isfinite(share)):
            continue
        highest = max(highest, float(np.nanmax(share)))
        start = float(np.nanmean(share[:3]))
        gross = (share > row.critical) & acting
        level = breached((share > row.warn) & acting, row.patience, gross, 2, pnl.iterations)
        drift = sustained((share > start + 0.15) & (share > 0.25) & acting, row.patience, pnl.iterations)
        span = level or drift
        if span is not None:
            found.append((float(np.max(share[indices(span)])), component, span, share, start > row.warn))
    if not found:
        text = f"largest share of a component other than pnl {highest:.2f}"
        return passed(evidence, row, text, highest, row.warn)
    value, component, span, share, from_the_start = max(found, key=lambda item: item[0])
    start = float(np.nanmean(share[:3]))
    severity: Severity = "critical" if value > row.critical else "warning"
    beside = float(pnl.values[indices(span)][np.argmax(share[indices(span)])])
    text = f"{component} carries {value:.0%} of the episode reward, pnl {beside:.0%}"
    causes = [
        (2.0 if from_the_start else 0.0, "weights", f"{start:.0%} already in the first ticks"),
        (1.0, "component_drift", f"from {start:.0%} in the first ticks to {value:.0%}"),
    ]
    if from_the_start:
        causes.pop()
    threshold = row.warn if value > row.warn else start + 0.15
    # the weight at which this component would carry a quarter, all else equal
    factor = min(0.33, (1 - value) / (3 * value)) if value > 0 else None
    return raised(evidence, row, pnl, span, value, text, threshold, severity, causes, component, factor)


@detector("reward.dead", "reward/raw.pnl", minimum=3)
def component_always_zero(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: bug or design? A component with weight 0 is off by design and not counted."""
    dead = []
    for component in COMPONENTS:
        raw, share = evidence.ticks(f"reward/raw.{component}"), evidence.ticks(f"reward/share.{component}")
        weight = evidence.effective(f"reward.weights.{component}")
        if len(raw) and weight and not np.any(np.abs(raw.values) > 1e-12) and not np.any(np.abs(share.values) > 1e-12):
            dead.append(component)
    if not dead:
        return passed(evidence, row, "every weighted component paid or charged something")
    trades = evidence.ticks("episode/trades")
    traded = bool(len(trades) and np.any(trades.values > 0))
    cause = (1.0, "never_fired", "trades were closed") if traded else (1.0, "no_trades", "no trade was closed")
    clock = evidence.ticks("reward/raw.pnl")
    text = f"always zero: {', '.join(dead)}"
    return raised(evidence, row, clock, Span(0, len(clock) - 1, True), float(len(dead)), text, causes=[cause])


@detector("reward.one_sign", "reward/positive_share", "reward/mean", "reward/std", warn=0.999, minimum=2, patience=2)
def one_sign(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: all positive or all negative. Mostly zero (a flat account) is neither."""
    positive = evidence.ticks("reward/positive_share")
    mean = evidence.ticks("reward/mean").at(positive.steps)
    std = evidence.ticks("reward/std").at(positive.steps)
    all_positive = (positive.values > row.warn) & (std > 0)
    all_negative = (positive.values < 1 - row.warn) & (std > 0) & (mean < -0.1 * std)
    span = sustained(all_positive | all_negative, row.patience)
    if span is None:
        return silent(evidence, row, positive, "share of positive rewards")
    value = float(positive.values[span.last])
    size, spread = np.abs(mean[indices(span)]), std[indices(span)]
    offset = float(np.mean(size[spread > 0] / spread[spread > 0]))
    weights = {component: evidence.effective(f"reward.weights.{component}") or 0.0 for component in COMPONENTS}
    penalties = float(sum(weights.values()) - weights["pnl"])
    causes = [
        (2.0 if offset > 3 else 0.5, "offset", f"the mean is {format_number(offset)} standard deviations from 0"),
        (
            1.0 if value < 0.5 else 0.0,
            "penalties",
            f"other weights sum to {penalties:.2f}, pnl to {weights['pnl']:.2f}",
        ),
    ]
    return raised(evidence, row, positive, span, value, f"{value:.1%} of rewards are positive", causes=causes)


@detector("reward.tail", "reward/max_abs", "reward/std", warn=40.0, critical=1000.0)
def long_tail(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4 and 3.2. Single steps against the usual spread; a quiet tick (a mostly flat account) is measured
    against the spread of the whole run so far."""
    largest = evidence.ticks("reward/max_abs", "max")
    scale = or_one(evidence.ticks("reward/scale").at(largest.steps))
    std = evidence.ticks("reward/std").at(largest.steps) * scale
    usual = np.fmax(std, median_so_far(std))
    ratio = np.divide(largest.values * scale, usual, out=np.zeros(len(usual)), where=usual > 0)
    extreme = largest.values > row.critical
    span = sustained((ratio > row.warn) | extreme, row.patience)
    if span is None:
        return silent(evidence, row, with_values(largest, ratio), "largest |reward|", "standard deviations")
    at = span.first + int(np.argmax(ratio[indices(span)]))
    severity: Severity = "critical" if np.any(extreme[indices(span)]) else "warning"
    text = f"largest |reward| {format_number(float(largest.values[at]))}, {ratio[at]:.0f} standard deviations"
    cause = [(1.0, "outlier", f'reward.scaling is "{evidence.setting("reward.scaling")}"')]
    return raised(evidence, row, largest, span, float(ratio[at]), text, severity=severity, causes=cause)


@detector("reward.corr", "reward/corr_total_gain", "reward/corr_pnl_sharpe", warn=0.3, patience=2)
def reward_means_money(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: PnL and Sharpe should correlate, and the whole reward with the equity won. Thirty episodes give a
    correlation a standard error of 0.18: that of P&L and Sharpe, which is 0.1 to 0.8 in healthy runs, has to lie two of
    them below 0.2, for twice as long, and the reward as a whole has to show it: with a trade an episode the Sharpe
    component alone may point anywhere."""
    total = evidence.ticks("reward/corr_total_gain")
    sharpe = evidence.ticks("reward/corr_pnl_sharpe").at(total.steps)
    apart, odd = total.values < row.warn, (sharpe < _ODD_SHARPE) & (total.values < _MEANS_MONEY)
    gross = total.values < row.warn - 2.5 * _RANK_ERROR
    span = breached(apart, row.patience, gross) or sustained(odd, 2 * row.patience)
    if span is None:
        return silent(evidence, row, total, "smallest correlation of reward and equity won")
    value = float(total.values[span.last])
    text = f"reward and equity won correlate with {value:+.2f}, pnl and sharpe with {float(sharpe[span.last]):+.2f}"
    causes = [
        (2.0 if np.any(apart[indices(span)]) else 0.0, "proxy", f"reward and equity won: {value:+.2f} over episodes"),
        (1.0 if np.any(odd[indices(span)]) else 0.0, "sharpe", f"pnl and sharpe: {float(sharpe[span.last]):+.2f}"),
    ]
    return raised(evidence, row, total, span, value, text, causes=causes)


_RANK_ERROR = 0.18
"""Standard error of a rank correlation over thirty episodes: one value so far below is enough."""
_ODD_SHARPE = 0.2 - 2 * _RANK_ERROR
_MEANS_MONEY = 0.8
"""Correlation of reward and equity won above which the reward pays for money, whatever its parts do."""


@detector("reward.bimodal", "reward/bimodal_gap", warn=3.0, patience=2)
def two_modes(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: a bimodal reward hints at hacking. Judged within steps of one kind (held, bought, closed): that a
    closing trade pays otherwise than a held position is no second mode."""
    gap = evidence.ticks("reward/bimodal_gap")
    span = sustained(gap.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, gap, "widest gap between two modes", "standard deviations")
    value = float(np.max(within(gap, span)))
    text = f"two modes {value:.1f} standard deviations apart among steps of one kind"
    cause = [(1.0, "second_mode", "see the reward picture of the run: its classes are drawn apart")]
    return raised(evidence, row, gap, span, value, text, causes=cause)


@detector("reward.rtg_flat", "reward/rtg_spread", "value/explained_variance", warn=0.05, patience=2)
def flat_reward_to_go(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: a flat reward-to-go, where the value function has learnt nothing either."""
    spread = evidence.ticks("reward/rtg_spread")
    explained = evidence.ticks("value/explained_variance").at(spread.steps)
    span = sustained((spread.values < row.warn) & (explained < 0.1), row.patience)
    if span is None:
        return silent(evidence, row, spread, "smallest spread of the reward-to-go over the episode")
    value = float(np.min(within(spread, span)))
    std = evidence.ticks("reward/std").at(spread.steps)[span.last]
    gamma = evidence.effective("ppo.gamma") or 1.0
    bars = float(evidence.setting("env.episode_bars") or 1)
    horizon = 1 / max(1 - gamma, 1e-9)
    text = f"over the episode it varies by {value:.1%} of its spread; explained variance {explained[span.last]:.2f}"
    causes = [
        (2.0 if std < 1e-6 else 0.0, "constant", f"standard deviation of the reward {format_number(float(std))}"),
        (1.0 if horizon < bars / 3 else 0.0, "gamma_low", f"the horizon is {horizon:.0f} bars, the episode {bars:.0f}"),
    ]
    return raised(evidence, row, spread, span, value, text, causes=causes)


@detector("reward.rtg_erratic", "reward/rtg_autocorrelation", patience=2)
def erratic_reward_to_go(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4. Of independent rewards the reward-to-go has an autocorrelation of gamma; below that they alternate.
    The guide's remedy, a larger gamma, would add variance: gae_lambda comes first."""
    follows = evidence.ticks("reward/rtg_autocorrelation")
    gamma = evidence.effective("ppo.gamma") or 1.0
    span = sustained(follows.values < gamma - 0.1, row.patience)
    if span is None:
        return silent(evidence, row, follows, "smallest autocorrelation of the reward-to-go")
    value = float(np.min(within(follows, span)))
    text = f"lag-1 autocorrelation {value:.2f}, gamma {gamma:g}"
    cause = [(1.0, "noise", f"independent rewards would give {gamma:g}")]
    return raised(evidence, row, follows, span, value, text, gamma - 0.1, causes=cause)


@detector(
    "trade.too_many", "eval/trades_per_bar", "eval/total_return", warn=0.31, minimum=2, patience=2, unit="evaluations"
)
def trades_too_much(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2 and 6.2: more than 1,000 trades a year of hourly bars, read as buys plus sells: 0.31 round trips a bar.
    A warning only where the churn does not pay."""
    trades = evidence.evaluations("eval/trades_per_bar")
    span = sustained(trades.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, trades, "most round trips per bar")
    total = evidence.evaluations("eval/total_return").at(trades.steps)[span.last]
    cost = evidence.evaluations("eval/cost_paid").at(trades.steps)[span.last]
    severity: Severity = "warning" if total <= 0 else "information"
    value = float(trades.values[span.last])
    text = f"{value:.2f} round trips per validation bar; total return {total:+.1%}, costs {cost:.1%} of the capital"
    share, time = early_share(evidence, "cost"), evidence.ticks("reward/episode_share.time")
    farms = bool(len(time) and time.values[-1] > early_share(evidence, "time") + 0.1)
    causes = [(1.0, "cost_weak", f"cost carried {share:.0%} of the reward in the first ticks")]
    if farms:
        causes.append((2.0, "scalping", f"the share of the time component rose to {time.values[-1]:.0%}"))
    return raised(evidence, row, trades, span, value, text, severity=severity, causes=causes)


@detector("trade.never", "eval/total_trades", warn=0.0, minimum=2, patience=2, unit="evaluations")
def never_trades(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2. Information where no fixed rule earned clearly more than its costs: the best of several rules, chosen
    after the fact, is above 0 by luck alone."""
    trades = evidence.evaluations("eval/total_trades")
    late = evidence.progress(trades.steps) > 0.2
    if np.count_nonzero(late) < row.patience:
        return too_early(
            evidence, row, str(np.count_nonzero(late)), f"{row.patience} evaluations after 20% of training"
        )
    span = sustained((trades.values <= row.warn) & late, row.patience)
    if span is None:
        return silent(evidence, row, trades, "fewest round trips")
    rule = evidence.evaluations("eval/best_fixed_rule_return")
    severity: Severity = "information" if len(rule) and rule.values[-1] < _WORTH_TRADING else "warning"
    cause = [(1.0, "cost_strong", f"cost weight {format_number(evidence.effective('reward.weights.cost'))}")]
    text = f"no round trip in {span.last - span.first + 1} evaluations"
    return raised(evidence, row, trades, span, 0.0, text, severity=severity, causes=cause)


_WORTH_TRADING = 0.10
"""Total return of the best fixed rule on validation; half a year at 25 % volatility has a standard error of 0.18."""


@detector("trade.drawdown", "eval/max_drawdown", warn=0.30, minimum=2, patience=2, unit="evaluations")
def deep_drawdown(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2 and 6.2. Information where buy-and-hold fell as far in the same evaluation: that is the market."""
    drawdown = evidence.evaluations("eval/max_drawdown")
    span = sustained(drawdown.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, drawdown, "deepest drawdown")
    value = float(np.max(within(drawdown, span)))
    text = f"validation drawdown {value:.1%}"
    market = [event.get("baselines", {}).get("buy_and_hold", {}) for event in evidence.events_of("evaluation")]
    falls = [float(rule["max_drawdown"]) for rule in market if rule.get("max_drawdown") is not None]
    severity: Severity = "warning"
    if falls:
        text += f", buy-and-hold's {falls[-1]:.1%}"
        severity = "information" if falls[-1] >= value else "warning"
    weight = format_number(evidence.effective("reward.weights.drawdown"))
    cause = [(1.0, "drawdown_weak", f"drawdown weight {weight}")]
    return raised(evidence, row, drawdown, span, value, text, severity=severity, causes=cause)


ENTROPY_CORRIDOR = ((0.0, 0.2, 0.5, 1.0), (0.5, 0.5, 0.25, 0.1), (1.0, 1.0, 0.95, 0.8))
"""Share of training, lower and upper bound of policy/entropy_norm."""


@detector("phase.entropy", "policy/entropy_norm", minimum=3, patience=3)
def entropy_path(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1: 1.5, 1.0, 0.8, 0.5 nats over the four phases, as shares of ln 7 and of training, with room either
    side."""
    entropy = evidence.ticks("policy/entropy_norm")
    progress = evidence.progress(entropy.steps)
    low, high = (np.interp(progress, ENTROPY_CORRIDOR[0], bound) for bound in ENTROPY_CORRIDOR[1:])
    below, above = entropy.values < low, entropy.values > high
    span = sustained(below | above, row.patience, entropy.iterations)
    if span is None:
        return silent(evidence, row, entropy, "share of the largest entropy")
    value, last = float(entropy.values[span.last]), span.last
    side = "below" if below[last] else "above"
    bound = float(low[last] if below[last] else high[last])
    text = f"entropy {value:.2f} of its maximum at {progress[last]:.0%} of training"
    cause = [(1.0, side, f"expected {low[last]:.2f} to {high[last]:.2f} here")]
    return raised(evidence, row, entropy, span, value, text, threshold=bound, causes=cause)


@detector("phase.ev", "value/explained_variance", "diag/ev_reference", warn=0.1, minimum=5)
def explained_variance_path(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1 and 6.1: above 0.5, then 0.7. What a linear fit reaches on the same batch takes the place of the
    number."""
    explained = evidence.ticks("value/explained_variance")
    reference = evidence.ticks("diag/ev_reference").at(explained.steps)
    late = evidence.progress(explained.steps) > 0.4
    if not np.any(late):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "40% of training")
    width = explained.rows_for(5)
    lag = trailing(reference, width, np.median) - trailing(explained.values, width, np.median)
    span = sustained((lag > row.warn) & late, row.patience, explained.iterations)
    if span is None:
        return silent(evidence, row, explained, "explained variance")
    last = span.last
    text = f"explained variance {explained.values[last]:.2f}, a linear fit reaches {reference[last]:.2f}"
    cause = [(1.0, "value_learning", f"{lag[last]:.2f} below the fit over five ticks")]
    return raised(evidence, row, explained, span, float(lag[last]), text, causes=cause)


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


@detector("opt.grad", "grad/grad_norm", warn=10.0, critical=100.0, minimum=1, patience=1)
def gradient_explodes(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1: norm below 1, clipped below 20%. Neither holds in healthy runs with max_grad_norm 0.5; an explosion
    is a norm above 100, or a jump of ten robust deviations that is also five times its past."""
    norm = evidence.ticks("grad/grad_norm")
    largest = evidence.ticks("grad/grad_norm_max", "max") if evidence.has("grad/grad_norm_max") else norm
    huge = sustained(largest.values > row.critical, 1)
    past = median_before(norm.values, 10)
    jump = robust_jump(norm.values, 0.02 * np.abs(norm.values))
    leap = sustained((jump > row.warn) & (norm.values > 5 * past), row.patience)
    clock, span = (largest, huge) if huge is not None else (norm, leap)
    if span is None:
        return silent(evidence, row, norm, "highest mean norm")
    value = float(np.max(within(clock, span)))
    text = f"gradient norm {format_number(value)} before clipping"
    if huge is None:
        text += f", {format_number(value / float(past[span.first]))} times its past"
    cause = [(1.0, "explosion", f"learning rate {format_number(evidence.effective('ppo.learning_rate'))}")]
    severity: Severity = "critical" if huge is not None else "warning"
    return raised(evidence, row, clock, span, value, text, row.critical if huge else None, severity, cause)


@detector("value.mean", "value/value_mean", "value/return_mean", "value/return_std", warn=1.0, minimum=8, patience=5)
def value_mean_off(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1: the value mean should follow the episode returns."""
    value = evidence.ticks("value/value_mean")
    target = evidence.ticks("value/return_mean").at(value.steps)
    std = evidence.ticks("value/return_std").at(value.steps)
    bias = np.divide(np.abs(value.values - target), std, out=np.zeros(len(std)), where=std > 0)
    bias[: value.rows_for(row.minimum) - value.rows_for(row.patience) + 1] = 0.0  # the head starts at 0
    span = sustained(bias > row.warn, value.rows_for(row.patience), value.iterations)
    if span is None:
        return silent(evidence, row, with_values(value, bias), "largest bias", "standard deviations of the returns")
    last = span.last
    text = f"value mean {format_number(float(value.values[last]))}, return mean {format_number(float(target[last]))}"
    cause = [(1.0, "bias", f"{bias[last]:.1f} standard deviations apart")]
    return raised(evidence, row, value, span, float(bias[last]), text, causes=cause)


@detector("perf.no_progress", "eval/total_return", warn=0.3, minimum=2, unit="evaluations")
def no_progress(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.2 and 3.3: Sharpe above 0.3. By 60% of training; a warning only where it is neither better than
    buy-and-hold nor than staying flat, and some fixed rule did make money."""
    total = evidence.evaluations("eval/total_return")
    late = np.flatnonzero(evidence.progress(total.steps) >= 0.6)
    if not len(late):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "60% of training")
    sharpe = np.nan_to_num(evidence.evaluations("eval/sharpe_ratio").at(total.steps), nan=0.0)  # n/a: it never traded
    best = np.maximum.accumulate(sharpe)
    span = sustained((best < row.warn) & (evidence.progress(total.steps) >= 0.6), row.patience)
    if span is None or not span.open:
        return passed(evidence, row, f"best validation Sharpe {best[-1]:.2f}", float(best[-1]), row.warn)
    excess = evidence.evaluations("eval/sharpe_excess")
    rule = evidence.evaluations("eval/best_fixed_rule_return")
    worse = total.values[-1] <= 0 and not (len(excess) and excess.values[-1] > 0)
    nothing_to_find = len(rule) > 0 and rule.values[-1] <= 0
    severity: Severity = "warning" if worse and not nothing_to_find else "information"
    text = f"best validation Sharpe so far {best[-1]:.2f}; total return of the last evaluation {total.values[-1]:+.1%}"
    if len(rule):
        text += f", the best fixed rule made {rule.values[-1]:+.1%}"
    cause = [(1.0, "no_signal", "no fixed rule made money either" if nothing_to_find else "learning looks normal")]
    return raised(evidence, row, total, span, float(best[-1]), text, severity=severity, causes=cause)


@detector(
    "trade.exit_early",
    "eval/holding_winners",
    "eval/holding_losers",
    warn=0.5,
    minimum=2,
    patience=2,
    unit="evaluations",
)
def exits_winners_early(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2. Median holding times over training and validation bars, at least twenty round trips of each kind."""
    winners = evidence.evaluations("eval/holding_winners")
    losers = evidence.evaluations("eval/holding_losers").at(winners.steps)
    ratio = winners.values / np.maximum(losers, 1.0)
    span = sustained(ratio < row.warn, row.patience)
    if span is None:
        return silent(evidence, row, with_values(winners, ratio), "smallest ratio of holding times, winners to losers")
    last = span.last
    text = f"winners are held {winners.values[last]:.0f} bars, losers {losers[last]:.0f} (medians)"
    weight = evidence.effective("reward.weights.time")
    causes = [(1.0, "time_high", f"the time component has a weight of {format_number(weight)}")]
    if isinstance(target := evidence.setting("env.target"), (int, float)):
        causes.append((2.0, "stop_or_target", f"env.target is {format_number(float(target))}"))
    return raised(evidence, row, winners, span, float(ratio[last]), text, causes=causes)


@detector("trade.hold_losers", "eval/losers_held", warn=0.9, minimum=2, patience=2, unit="evaluations")
def holds_losers(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2: a tenth of the losers is held until the rules end them, and not the policy."""
    held = evidence.evaluations("eval/losers_held")
    winners = evidence.evaluations("eval/holding_winners").at(held.steps)
    losers = evidence.evaluations("eval/holding_losers").at(held.steps)
    longer = np.nan_to_num(losers) > 1.5 * np.nan_to_num(winners, nan=np.inf)  # who holds all for long is no such case
    span = sustained((held.values > row.warn) & longer, row.patience)
    if span is None:
        return silent(evidence, row, held, "largest share of the limit")
    value = float(np.max(within(held, span)))
    limit = evidence.setting("env.max_hold")
    limit = evidence.setting("env.episode_bars") if limit in (None, "off") else limit
    text = f"one loser in ten is held for {value:.0%} of the {limit} bars that the rules allow"
    causes = [(1.0, "time_low", f"time weight {format_number(evidence.effective('reward.weights.time'))}")]
    if evidence.setting("env.stop") == "off":
        causes.append((1.5, "no_stop", 'env.stop is "off"'))
    return raised(evidence, row, held, span, value, text, causes=causes)


KEPT = 0.5
"""Share of its best validation Sharpe ratio that a run may fall to: healthy runs kept 0.57 at the least."""


@detector("phase.reward", "eval/sharpe_ratio", warn=1.0, minimum=4, unit="evaluations")
def score_falls(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1: the reward plateaus at the end. The last 40% of training by Sen's slope with its rank interval (Sen
    1968), which asks nothing of the noise and draws no random numbers. Four evaluations fall by chance in one healthy
    run of twenty-four, and a policy that still learns gives a third of its best back and wins it again; so half of
    what the run had must be gone."""
    sharpe = evidence.evaluations("eval/sharpe_ratio")
    late = evidence.progress(sharpe.steps) >= 0.6
    count = int(np.count_nonzero(late))
    if count < row.minimum:
        return too_early(evidence, row, f"{count}", f"{row.minimum} evaluations in the last 40% of training")
    first = int(np.argmax(late))
    time, values = evidence.progress(sharpe.steps)[late] / 0.4, sharpe.values[late]
    slope, high = sen_slope(time, values)
    fall = -slope * float(time[-1] - time[0])
    best = float(sharpe.values.max())
    if high >= 0 or fall < row.warn or best <= 0 or values[-1] > KEPT * best:
        text = f"validation Sharpe moved by {-fall:+.2f} over the last 40% of training"
        return passed(evidence, row, text, -fall, -row.warn)
    text = (
        f"validation Sharpe fell by {fall:.2f} over the last 40% of training, from {values[0]:.2f} to "
        f"{values[-1]:.2f}; its best was {best:.2f}"
    )
    train = evidence.evaluations("eval/train_sharpe_ratio").at(sharpe.steps)[late]
    reward = evidence.ticks("episode/episode_reward_mean").at(sharpe.steps)[late]
    causes = []
    if np.isfinite(train).all():
        move, high_train = sen_slope(time, train)
        overfit = move >= 0
        evidence_text = f"training Sharpe went from {train[0]:.2f} to {train[-1]:.2f}"
        causes.append((2.0 if overfit else 0.0, "overfit", evidence_text))
        causes.append((1.5 if high_train < 0 else 0.0, "unstable", evidence_text))
    if np.isfinite(reward).all() and sen_slope(time, reward)[0] > 0:
        said = f"the mean episode reward went from {format_number(reward[0])} to {format_number(reward[-1])}"
        causes.append((1.0, "proxy", said))
    span = Span(first, len(sharpe) - 1, True)
    return raised(evidence, row, sharpe, span, fall, text, causes=causes)


def sen_slope(time: Floats, values: Floats) -> tuple[float, float]:
    """Median of all pairwise slopes, and the upper end of its 95% interval by Kendall's ranks. Both (n,), n of 4 or
    more."""
    i, j = np.triu_indices(len(values), k=1)
    slopes = np.sort((values[j] - values[i]) / (time[j] - time[i]))
    n = len(values)
    half = 1.96 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    upper = min(int(np.ceil((len(slopes) + half) / 2)), len(slopes) - 1)
    return float(np.median(slopes)), float(slopes[upper])


@detector("policy.loss", "policy/policy_loss")
def policy_loss(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1 asks for it; it is told and never judged."""
    loss = evidence.ticks("policy/policy_loss")
    low, high = format_number(float(np.min(loss.values))), format_number(float(np.max(loss.values)))
    return passed(
        evidence, row, f"between {low} and {high}: no sign of health, whatever it does", float(loss.values[-1])
    )
