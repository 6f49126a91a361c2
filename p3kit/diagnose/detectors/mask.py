"""Detectors of `mask.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, sustained
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import Row, detector, nothing_recorded, passed, raised, raised_at, silent, within


@detector("mask.violation", warn=0.0)
def masked_action_selected(evidence: Evidence, row: Row) -> Finding:
    """Guide 5.1. Exact: the environment refuses a masked action and ends the run, unless it counts them. A run may end
    so in its first rollout, before it has recorded anything."""
    if "masked action" in evidence.failure:
        cause = [(1.0, "mask_not_applied", "the environment refused it")]
        return raised_at(evidence, row, evidence.last_step, evidence.failure, 1.0, cause)
    if not evidence.has("policy/valid_actions"):
        return nothing_recorded(evidence, row, "policy/valid_actions")
    violations = evidence.ticks("diag/mask_violations", "sum")
    span = sustained(violations.values > row.warn, row.patience)
    if span is None:
        return passed(evidence, row, "no masked action was selected")
    count = float(np.sum(violations.values))
    cause = [(1.0, "mask_not_applied", "the policy was not given the mask of its own state")]
    return raised(evidence, row, violations, span, count, f"{count:,.0f} masked actions were selected", causes=cause)


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
