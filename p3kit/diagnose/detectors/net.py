"""Detectors of `net.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.detectors.opt import step_size_cause
from p3kit.diagnose.evidence import Evidence, sustained, trailing
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import REGISTERED, Row, detector, raised, silent, within
from p3kit.symptoms import Severity


@detector("net.dormant", "diag/dormant_share", warn=0.5)
def dormant_units(evidence: Evidence, row: Row) -> Finding:
    """Sokar et al. 2023."""
    dormant = evidence.ticks("diag/dormant_share")
    span = sustained(dormant.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, dormant, "largest share")
    value = float(np.max(within(dormant, span)))
    causes = [*step_size_cause(evidence), (1.0, "plasticity", f"{dormant.values[0]:.0%} at the start")]
    if span.first == 0 and len(causes) == 1:
        causes = [(1.0, "initial", f"{dormant.values[0]:.0%} from the start")]
    return raised(evidence, row, dormant, span, value, f"{value:.0%} of hidden units are dormant", causes=causes)


@detector("net.rank", "diag/feature_rank", warn=1 / 3, minimum=2, patience=2)
def feature_rank_collapsed(evidence: Evidence, row: Row) -> Finding:
    """Moalla et al. 2024: rank falls before PPO collapses. It also falls, over many ticks, in every policy that commits
    itself (45 to 20 in healthy runs, 48 to 5 where staying out is right): a warning is a fall within two ticks, or one
    with dormant units or too large steps beside it."""
    rank = evidence.ticks("diag/feature_rank")
    span = sustained(rank.values < row.warn * rank.values[0], rank.rows_for(row.patience, least=1), rank.iterations)
    if span is None:
        return silent(evidence, row, rank, "singular values behind 99% of the energy")
    value = float(np.min(within(rank, span)))
    causes = [*step_size_cause(evidence), (1.0, "plasticity", f"{rank.values[0]:.0f} at the start")]
    text = f"feature rank {value:.0f}, {rank.values[0]:.0f} at the start"
    dormant = evidence.ticks("diag/dormant_share").before(int(rank.steps[span.last]))
    fell = trailing(rank.values, 3, lambda windows, axis: windows[:, -1] / windows[:, :2].max(axis))
    fast = bool(np.nanmin(np.append(fell, rank.values[1] / rank.values[0])) < row.warn)
    severity: Severity = "warning"
    if not fast and len(causes) == 1 and np.max(dormant, initial=0.0) < 0.5 * REGISTERED["net.dormant"].warn:
        severity, text = "information", f"{text}; it fell slowly, as in a policy that commits itself"
    threshold = float(row.warn * rank.values[0])
    return raised(evidence, row, rank, span, value, text, threshold, severity, causes)


@detector("net.dead_relu", "diag/dead_share", warn=0.5)
def dead_units(evidence: Evidence, row: Row) -> Finding:
    """Units below 0 on every sampled state: no gradient will ever reach them."""
    dead = evidence.ticks("diag/dead_share")
    span = sustained(dead.values > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, dead, "largest share")
    value = float(np.max(within(dead, span)))
    causes = [*step_size_cause(evidence), (1.0, "initial", f"{dead.values[0]:.0%} in the first tick")]
    return raised(evidence, row, dead, span, value, f"{value:.0%} of hidden units are dead", causes=causes)
