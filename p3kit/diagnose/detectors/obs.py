"""Detectors of `obs.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Span, breached, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import GROSS_FACTOR, Row, detector, raised, silent, too_early, with_values, within
from p3kit.symptoms import Severity


@detector("obs.scale", "diag/obs_max_abs", warn=50.0, minimum=1, patience=2)
def observations_out_of_scale(evidence: Evidence, row: Row) -> Finding:
    """Guide 2.3. A rare outlier that is clipped does no harm and is information."""
    largest, cut = evidence.ticks("diag/obs_max_abs", "max"), evidence.ticks("diag/obs_clipped_share")
    clip = evidence.setting("observation.clip")
    clipped = isinstance(clip, (int, float)) and clip < row.warn
    often = sustained(cut.values > 0.02, cut.rows_for(row.patience, least=1)) if len(cut) else None
    gross = largest.values > (np.inf if clipped else GROSS_FACTOR * row.warn)
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
    is_raw = evidence.setting("observation.normalize") == "none"
    is_tight = often is not None and isinstance(clip, (int, float)) and clip < _TIGHT
    causes = [
        (2.0 if is_tight else 0.0, "clip", f"observation.clip is {clip}"),
        (1.0 if is_raw else 0.0, "not_normalised", 'observation.normalize is "none"'),
        (0.0 if is_raw or is_tight else 1.0, "outliers", "although normalised"),
    ]
    threshold = 0.02 if often is not None else row.warn
    return raised(evidence, row, clock, found or Span(0, 0, True), value, text, threshold, severity, causes)


_TIGHT = 3.0
"""Standard deviations: a smaller `observation.clip` cuts ordinary values, not outliers."""


@detector("obs.drift", "diag/obs_drift", warn=4.0, minimum=5, patience=2)
def observations_drift(evidence: Evidence, row: Row) -> Finding:
    """Distance of the newest rows from all before, in standard deviations. Update k gives them a weight of 1/k, so it
    is k times the move of the mean. The move itself falls by 1/k, and depends more on the age of a run than on its
    inputs. A policy that changes moves its own account by two or three."""
    drift = evidence.ticks("diag/obs_drift")
    distance = drift.values * drift.iterations
    late = evidence.progress(drift.steps) > 0.3
    if not np.any(late):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "30% of training")
    span = sustained((distance > row.warn) & late, row.patience)
    if span is None:
        return silent(evidence, row, with_values(drift, distance), "largest distance", "standard deviations")
    value = float(np.max(distance[span.first : span.last + 1]))
    cause = [(1.0, "running", f'observation.normalize is "{evidence.setting("observation.normalize")}"')]
    text = f"an observation value lies {value:.1f} standard deviations from its running mean"
    return raised(evidence, row, drift, span, value, text, causes=cause)
