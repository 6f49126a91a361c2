"""Detectors of `gen.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, sustained
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import Row, detector, raised, silent, with_values
from p3kit.symptoms import Severity


@detector(
    "gen.gap", "eval/train_sharpe_ratio", "eval/sharpe_ratio", warn=1.5, minimum=2, patience=2, unit="evaluations"
)
def poor_generalisation(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1: validation far below training, both by the same action rule and in windows that start flat, twice in
    a row after 30% of training: a policy earns unevenly when it starts to earn. Where the evaluation carries a
    confidence interval, the gap must be more than three standard errors: a short validation split is noisy by itself.
    And what the market itself did worse there is no fault of the policy. A policy whose returns correlate with the
    market's by ρ has ρ times the market's Sharpe ratio from it, so ρ times buy-and-hold's gap is taken off; ρ is
    √exposure where it was not recorded, as of a policy that holds the market at random times."""
    validation = evidence.evaluations("eval/sharpe_ratio")
    windowed = evidence.evaluations("eval/windowed_sharpe_ratio").at(validation.steps)  # not in older runs
    validation = with_values(validation, np.where(np.isfinite(windowed), windowed, validation.values))
    training = evidence.evaluations("eval/train_sharpe_ratio").at(validation.steps)
    error = evidence.sharpe_errors(validation.steps)
    held = evidence.evaluations("eval/train_buy_and_hold_sharpe").at(validation.steps)
    market = held - evidence.evaluations("eval/buy_and_hold_sharpe").at(validation.steps)
    exposure = np.nan_to_num(evidence.evaluations("eval/exposure").at(validation.steps), nan=1.0)
    follows = evidence.evaluations("eval/market_correlation").at(validation.steps)
    follows = np.where(np.isfinite(follows), follows, np.sqrt(exposure.clip(0.0, 1.0))).clip(0.0, 1.0)
    gap = training - validation.values - follows * np.maximum(np.nan_to_num(market), 0.0)
    late = evidence.progress(validation.steps) > 0.3
    condition = (gap > row.warn) & (validation.values < 0.4 * training) & (gap > 3 * error) & late
    span = sustained(condition, row.patience)
    if span is None:
        return silent(evidence, row, with_values(validation, gap), "largest gap in Sharpe")
    last = span.last
    text = f"Sharpe {training[last]:.2f} in training, {validation.values[last]:.2f} in validation"
    text += ", both in windows that start flat" if np.isfinite(windowed[last]) else ""
    growth = float(gap[last] - gap[0])
    causes = [
        (growth, "overfit", f"the gap went from {gap[0]:.2f} to {gap[last]:.2f}"),
        (float(gap[0]) - row.warn, "shift", f"the gap was {gap[0]:.2f} at the first evaluation"),
    ]
    from_the_start = growth < causes[1][0] and (gap[last] < 2 * row.warn or gap[last] < 4 * error[last])
    severity: Severity = "information" if from_the_start else "warning"  # no training made it, and chance may have
    return raised(evidence, row, validation, span, float(gap[last]), text, severity=severity, causes=causes)
