"""Detectors of `perf.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.detectors.trade import LEAST_SHARPE, drawn_actions_earn, worth_trading
from p3kit.diagnose.evidence import Evidence, sustained
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import Row, detector, passed, raised, too_early
from p3kit.symptoms import Severity


@detector("perf.no_progress", "eval/total_return", warn=LEAST_SHARPE, minimum=2, unit="evaluations")
def no_progress(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.2 and 3.3: Sharpe above 0.3. By 60% of training; a warning only where it is neither better than
    buy-and-hold nor than staying flat, beyond the noise of the validation bars, and some fixed rule did make money."""
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
    worse = total.values[-1] <= 0 and not (len(excess) and excess.values[-1] > 0) and _surely_worse(evidence)
    nothing_to_find = not worth_trading(evidence)
    severity: Severity = "warning" if worse and not nothing_to_find else "information"
    text = f"best validation Sharpe so far {best[-1]:.2f}; total return of the last evaluation {total.values[-1]:+.1%}"
    if len(rule):
        text += f", the best fixed rule made {rule.values[-1]:+.1%}"
    causes = [(1.0, "no_signal", "no fixed rule made money beyond luck")]
    if not nothing_to_find:
        causes = [(1.0, "not_learning", "a fixed rule made money beyond luck")]
    causes += drawn_actions_earn(evidence)
    return raised(evidence, row, total, span, float(best[-1]), text, severity=severity, causes=causes)


def _surely_worse(evidence: Evidence) -> bool:
    """True if the 95% interval of the Sharpe ratio, or of its excess over buy-and-hold, lies below 0 in the last
    evaluation; also where none was recorded, or where the policy never traded."""
    events = [event for event in evidence.events_of("evaluation") if event.get("split", "validation") == "validation"]
    intervals = [events[-1].get(name) for name in ("sharpe_interval", "excess_interval")] if events else []
    highs = [float(interval[1]) for interval in intervals if interval and interval[1] is not None]
    return not highs or min(highs) < 0
