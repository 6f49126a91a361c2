"""Detectors of `opt.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Ticks, extended, median_before, robust_jump, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import REGISTERED, Row, detector, raised, silent, with_values, within
from p3kit.metrics import NETS
from p3kit.symptoms import Severity


@detector("opt.grad", "grad/grad_norm", warn=10.0, critical=100.0, minimum=1, patience=1)
def gradient_explodes(evidence: Evidence, row: Row) -> Finding:
    """Guide 6.1: norm below 1, clipped below 20%. Neither holds in healthy runs with max_grad_norm 0.5; an explosion
    is a norm above 100, or a jump of ten robust deviations that is also five times its past.

    The gradient of the squared value error grows with the error, and so with the spread of the returns. Other tasks
    than bars do not scale their returns, so there the norm is divided by that spread."""
    norm = _per_return(evidence, evidence.ticks("grad/grad_norm"))
    largest = norm
    if evidence.has("grad/grad_norm_max"):
        largest = _per_return(evidence, evidence.ticks("grad/grad_norm_max", "max"))
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


def _per_return(evidence: Evidence, norm: Ticks) -> Ticks:
    """Gradient norms over the largest spread of the returns so far, where that is above 1."""
    spread = evidence.ticks("value/return_std")
    if not evidence.task or not len(spread):
        return norm
    own = np.searchsorted(spread.iterations, norm.iterations)  # recorded at the end of its iteration, after the ticks
    largest = np.maximum.accumulate(spread.values[np.minimum(own, len(spread) - 1)])
    return with_values(norm, norm.values / np.maximum(largest, 1.0))


@detector("opt.step_too_big", "diag/update_ratio", warn=0.03)
def step_too_big(evidence: Evidence, row: Row) -> Finding:
    """The earliest sign of a learning rate that ruins the net while KL, clip fraction and gradients look healthy. Each
    net is judged for itself as well: half of the weights can hide the other half."""
    ratio, part = evidence.ticks("diag/update_ratio", "max"), "weights"
    span = sustained(ratio.values > row.warn, row.patience)
    for net in NETS if span is None else ():
        own = evidence.ticks(f"diag/update_ratio.{net}", "max")
        if (found := sustained(own.values > _OF_ONE_NET * row.warn, row.patience)) is not None:
            ratio, part, span = own, f"weights of the {net}", found
    if span is None:
        return silent(evidence, row, ratio, "largest weight change per gradient step")
    value = float(np.max(within(ratio, span)))
    rate = evidence.effective("ppo.learning_rate", int(ratio.steps[span.first]))
    text = f"{part} moved by {format_number(value)} of their norm per gradient step (root mean)"
    cause = [(1.0, "learning_rate", f"learning rate {format_number(rate)}")]
    return raised(evidence, row, ratio, span, value, text, causes=cause)


_OF_ONE_NET = 1.5
"""A net's own threshold, in those of the whole: small nets move more."""


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


def step_size_cause(evidence: Evidence) -> list[tuple[float, str, str]]:
    ratio = evidence.ticks("diag/update_ratio", "max")
    if len(ratio) and np.max(ratio.values) > REGISTERED["opt.step_too_big"].warn:
        return [(2.0, "step_size", f"weights moved by {format_number(float(np.max(ratio.values)))} per gradient step")]
    return []
