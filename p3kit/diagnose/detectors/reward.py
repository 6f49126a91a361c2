"""Detectors of `reward.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import TICK, Evidence, Floats, Span, Ticks, breached, median_so_far, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import (
    GROSS_FACTOR,
    Row,
    detector,
    indices,
    jump_from_before,
    or_one,
    passed,
    raised,
    silent,
    with_values,
    within,
)
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.symptoms import Severity


@detector("reward.share", "reward/episode_share.pnl", warn=0.5, critical=0.7, minimum=3, patience=3, gross=2)
def component_dominates(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.4: PnL should be 40-50%. Under the sound formulas it carries 75-95%, as it should. So another component
    must not carry more than half, nor grow by 0.15 beyond a quarter during training, nor pnl less than a fifth."""
    pnl = evidence.ticks("reward/episode_share.pnl")
    acting = np.nan_to_num(evidence.ticks("policy/hold_share").at(pnl.steps)) <= 0.95
    found: list[tuple[float, str, Span, Floats, bool]] = []
    highest = 0.0
    for component in COMPONENTS[1:]:
        share = evidence.ticks(f"reward/episode_share.{component}").at(pnl.steps)
        if not np.any(np.isfinite(share)):
            continue
        highest = max(highest, float(np.nanmax(share)))
        start = float(np.nanmean(share[:2]))
        gross = (share > row.critical) & acting
        gross[:2] |= (start > row.warn) & acting[:2]  # a policy learns to avoid what costs it most
        level = breached((share > row.warn) & acting, row.patience, gross, 2, pnl.iterations)
        drift = sustained((share > start + 0.15) & (share > 0.25) & acting, row.patience, pnl.iterations)
        span = level or drift
        if span is not None:
            found.append((float(np.max(share[indices(span)])), component, span, share, start > row.warn))
    tiny = breached((pnl.values < _LEAST_PNL) & acting, row.patience, (pnl.values < _LEAST_PNL / 2) & acting, 2)
    if not found and tiny is not None and evidence.effective("reward.weights.pnl"):  # 0 is off by design
        return _pnl_is_tiny(evidence, row, pnl, tiny)
    if not found:
        text = f"largest share of a component other than pnl {highest:.2f}"
        return passed(evidence, row, text, highest, row.warn)
    value, component, span, share, from_the_start = max(found, key=lambda item: item[0])
    start = float(np.nanmean(share[:2]))
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


_LEAST_PNL = 0.2
"""Share of pnl below which profit counts too little, whatever else is large: half of the guide's least. The lowest of
240 healthy runs was 0.30 over three ticks, and no other component began above 0.28."""


def _pnl_is_tiny(evidence: Evidence, row: Row, pnl: Ticks, span: Span) -> Finding:
    share = float(np.mean(pnl.values[indices(span)]))
    text = f"pnl carries {share:.1%} of the episode reward"
    causes = [(1.0, "pnl_weight", f"weight {format_number(evidence.effective('reward.weights.pnl'))}")]
    factor = 2 * (1 - share) / (3 * max(share, 1e-3))  # pnl would carry 40%, all else equal
    return raised(evidence, row, pnl, span, share, text, _LEAST_PNL, None, causes, "pnl", factor)


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
    """Guide 2.4: PnL and Sharpe should correlate, and the whole reward with the equity won. Over thirty episodes a
    correlation has a standard error of 0.18. In healthy runs that of P&L and Sharpe is 0.1 to 0.8. It must be two
    standard errors below 0.2, for twice as long, and the whole reward must show the fault, too: with one trade an
    episode the Sharpe component alone is mostly noise."""
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
"""Correlation of reward and equity won above which the reward pays for money, with any parts."""


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
    gross = (std.values > GROSS_FACTOR * row.warn) | (faint & (reward < _FAINTEST / GROSS_FACTOR) & ~holding)
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
        text = f"{value:.0%} of rewards are cut by reward.clip: large and larger rewards look the same to the learner"
        clip = evidence.setting("reward.clip")
        is_tight = isinstance(clip, (int, float)) and clip < _TIGHT
        cause = (1.0, "clip" if is_tight else "too_large", f"reward.clip is {clip}, {scaling}")
        return raised(evidence, row, cut, span, value, text, threshold=_MOST_CLIPPED, causes=[cause])
    return silent(evidence, row, std, "standard deviation of the returns")


_FAINTEST = 1e-3
"""Standard deviation of the scaled rewards; those of an account that trades are 0.1 to 1."""
_TIGHT = 5.0
"""Of reward.clip, in units of scaled rewards: a smaller one cuts ordinary rewards."""
_MOST_CLIPPED = 0.10
"""Share of rewards that may be cut; healthy runs cut next to none."""


@detector(
    "reward.hack", "episode/episode_reward_mean", "episode/episode_return_mean", warn=-0.3, minimum=10, patience=2
)
def reward_without_money(evidence: Evidence, row: Row) -> Finding:
    """Reward up, account down: over ten ticks they move against each other by rank, and both ends of the window differ
    by more than twice their sampling error, so that two flat and noisy curves give no finding."""
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
    """The action that is paid most beside profit, as text; None if there is none."""
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
