"""Detectors of `net.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.detectors.opt import step_size_cause
from p3kit.diagnose.evidence import Evidence, sustained
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import REGISTERED, Row, detector, passed, raised, silent, within
from p3kit.metrics import NETS
from p3kit.symptoms import Severity


@detector("net.still", "diag/still_share.policy", "diag/still_share.value", warn=0.0, critical=0.999)
def part_stands_still(evidence: Evidence, row: Row) -> Finding:
    """Adam moves every weight that has a gradient, so a part without any movement has none: exact."""
    nets = [net for net in NETS if evidence.has(f"diag/still_share.{net}")]
    table = {net: evidence.evaluations(f"diag/still_share.{net}") for net in nets}
    clock = table["policy"]
    shares = np.stack([table[net].at(clock.steps) for net in nets])
    others_move = np.nanmin(shares, axis=0) < row.critical  # not one finite step moves no part
    whole = sustained((np.nanmax(shares, axis=0) > row.critical) & others_move, row.patience)
    partly = sustained((np.nanmax(shares, axis=0) > row.warn) & others_move, 2)
    span = whole or partly
    if span is None:
        return passed(evidence, row, f"every tensor of {', '.join(nets)} moved", 0.0, row.warn)
    at = span.first
    net = nets[int(np.nanargmax(shares[:, at]))]
    value = float(np.nanmax(shares[:, at]))
    weightless = net == "value" and evidence.effective("ppo.vf_coef", int(clock.steps[at])) == 0
    no_weight = [(2.0, "no_weight", "vf_coef is 0")] if weightless else []
    causes = [*no_weight, (1.0, "no_gradient", f"{value:.0%} of the tensors of the {net} are as they were")]
    text = f"an update moved {'nothing' if value > row.critical else f'{1 - value:.0%} of the tensors'} of the {net}"
    severity: Severity = "critical" if whole is not None else "warning"
    return raised(evidence, row, clock, span, value, text, severity=severity, causes=causes, component=net)


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
    """Moalla et al. 2024: rank falls before PPO collapses. It also falls in every policy that becomes certain (45 to 20
    in healthy runs, 48 to 5 if staying out is right). So a warning has dormant units or too large steps beside it."""
    rank = evidence.ticks("diag/feature_rank")
    span = sustained(rank.values < row.warn * rank.values[0], rank.rows_for(row.patience, least=1), rank.iterations)
    if span is None:
        return silent(evidence, row, rank, "singular values behind 99% of the energy")
    value = float(np.min(within(rank, span)))
    causes = [*step_size_cause(evidence), (1.0, "plasticity", f"{rank.values[0]:.0f} at the start")]
    text = f"feature rank {value:.0f}, {rank.values[0]:.0f} at the start"
    dormant = evidence.ticks("diag/dormant_share").before(int(rank.steps[span.last]))
    severity: Severity = "warning"
    if len(causes) == 1 and np.max(dormant, initial=0.0) < 0.5 * REGISTERED["net.dormant"].warn:
        severity, text = "information", f"{text}; units and steps are healthy, as in a policy that commits itself"
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
