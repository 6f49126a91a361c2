"""Detectors of `trade.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, early_share, indices, raised, silent, too_early, with_values, within
from p3kit.symptoms import Severity


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
    """Guide 2.2. Information where no fixed rule earned more than its costs beyond luck, or where the policy trades as
    soon as its actions are drawn: early in training the most probable action of a policy that trades can be HOLD."""
    trades = evidence.evaluations("eval/total_trades")
    late = evidence.progress(trades.steps) > 0.2
    if np.count_nonzero(late) < row.patience:
        return too_early(
            evidence, row, str(np.count_nonzero(late)), f"{row.patience} evaluations after 20% of training"
        )
    span = sustained((trades.values <= row.warn) & late, row.patience)
    if span is None:
        return silent(evidence, row, trades, "fewest round trips")
    causes = [(1.0, "cost_strong", f"cost weight {format_number(evidence.effective('reward.weights.cost'))}")]
    text = f"no round trip in {span.last - span.first + 1} evaluations"
    held = float(np.max(evidence.evaluations("eval/sampled_hold_share").at(trades.steps)[indices(span)]))
    if held < _HOLDS:
        text += f"; sampled actions hold on {held:.0%} of the bars"
        causes.append((2.0, "one_action", "its own actions trade once they are drawn"))
    severity: Severity = "information" if held < _HOLDS or not worth_trading(evidence) else "warning"
    return raised(evidence, row, trades, span, 0.0, text, severity=severity, causes=causes)


_HOLDS = 0.95
"""Share of HOLD from which a policy does not trade."""
_LEAST_RETURN, _SURE = 0.10, 3.0
"""Total return on validation where only that is known, and standard errors of a Sharpe ratio above 0."""
LEAST_SHARPE = 0.3
"""Sharpe ratio below which a policy makes no progress (guide 6.2)."""


def drawn_actions_earn(evidence: Evidence) -> list[tuple[float, str, str]]:
    """The cause that the rule greedy hides what the policy has learnt, where the newest evaluation shows it."""
    lead, earned = (evidence.evaluations(f"eval/{name}") for name in ("sampled_lead", "sampled_total_return"))
    if evidence.setting("evaluation.action") != "greedy" or not len(lead) or not len(earned):
        return []
    if lead.values[-1] <= _SURE or earned.values[-1] <= 0:
        return []
    why = (
        f"sampled actions earned {earned.values[-1]:+.1%} on the same bars, {lead.values[-1]:.1f} standard errors more"
    )
    return [(2.0, "one_action", why)]


def worth_trading(evidence: Evidence) -> bool:
    """True if a fixed rule earned more than its costs beyond luck: the rule that training chose has, in the newest
    evaluation, a Sharpe ratio of three standard errors, 1/√years each (Lo 2002). The best of several rules, chosen
    after the fact, is above 0 by luck alone."""
    best = evidence.evaluations("eval/best_fixed_rule_return")
    if len(best) and best.values[-1] < _LEAST_RETURN:
        return False
    rules = [event for event in evidence.events_of("evaluation") if event.get("fixed_rule")]
    if not rules:
        return True
    sharpe = rules[-1]["fixed_rule"].get("sharpe_ratio")
    bars = sum(float(part.get("bars") or 0) for part in (rules[-1].get("regimes") or {}).values())
    years = float(rules[-1].get("years") or bars / 252)
    return sharpe is not None and float(sharpe) * years**0.5 > _SURE


@detector("trade.drawdown", "eval/max_drawdown", warn=0.30, minimum=2, patience=2, unit="evaluations")
def deep_drawdown(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.2 and 6.2. Information where buy-and-hold fell nearly as far in the same evaluation: that is the market,
    and the deepest fall of one path is a matter of chance."""
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
        severity = "information" if _DEEPER * falls[-1] >= value else "warning"
    weight = format_number(evidence.effective("reward.weights.drawdown"))
    cause = [(1.0, "drawdown_weak", f"drawdown weight {weight}")]
    return raised(evidence, row, drawdown, span, value, text, severity=severity, causes=cause)


_DEEPER = 1.5
"""Times buy-and-hold's drawdown from which the fall is the policy's own."""


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
