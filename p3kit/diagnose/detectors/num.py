"""Detectors of `num.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import TICK, Evidence, step_of
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, nothing_recorded, passed, raised_at

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
