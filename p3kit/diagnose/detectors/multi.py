"""Detectors of `multi.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import TICK, Evidence, Floats, Span, Ticks, sustained
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, indices, passed, raised, too_early, within


@detector("multi.interference", "diag/grad_cosine", "diag/grad_share", warn=-0.2, minimum=3, patience=3)
def agents_disturb_each_other(evidence: Evidence, row: Row) -> Finding:
    """Either the agents pull the shared encoder apart (cosine), or one of them pulls it alone (share)."""
    cosine, share = evidence.ticks("diag/grad_cosine"), evidence.ticks("diag/grad_share")
    agents = max(len(evidence.setting("symbols") or ()), len(evidence.peers) + 1)
    most = max(_ALONE, min(_NEARLY_ALL, 3 / agents))
    patience = share.rows_for(row.patience, least=2)
    pulled = sustained(share.values > most, patience, share.iterations)
    apart = sustained(cosine.values < row.warn, patience, cosine.iterations)
    if pulled is None and apart is None:
        text = f"mean cosine with the others down to {np.min(cosine.values):.2f}, share of the gradient up to "
        return passed(evidence, row, f"{text}{np.max(share.values):.0%}", float(cosine.values[-1]), row.warn)
    causes = []
    if pulled is not None:
        value = float(np.max(within(share, pulled)))
        causes.append((2.0, "scale", f"its gradient is {value:.0%} of all {agents} agents' in the encoder"))
    if apart is not None:
        value = float(np.min(within(cosine, apart)))
        causes.append((1.0, "conflict", f"mean cosine of its gradient with the others' {value:+.2f}"))
    if pulled is not None:
        text = f"this agent makes {np.max(within(share, pulled)):.0%} of the encoder's gradient"
        return raised(
            evidence, row, share, pulled, float(np.max(within(share, pulled))), text, threshold=most, causes=causes
        )
    assert apart is not None  # noqa: S101  (one of the two was found)
    text = f"its gradient on the encoder points against the others' (cosine {np.min(within(cosine, apart)):+.2f})"
    return raised(evidence, row, cosine, apart, float(np.min(within(cosine, apart))), text, causes=causes)


_ALONE, _NEARLY_ALL = 0.6, 0.9
"""Share of the encoder's gradient that one agent may have: three equal shares, within these bounds."""
_COMPARED = {
    "policy/entropy_norm": 0.1,
    "policy/kl_divergence": 0.02,
    "value/explained_variance": 0.3,
    "value/return_std": 1.0,
    "grad/grad_norm": 1.0,
    "reward/std": 0.5,
    "diag/update_ratio": 0.005,
}
"""Metrics compared between agents, and the spread below which a difference is not worth a word."""
_SIZES = ("value/return_std", "reward/std")
_LEAST_AGENTS = 5


@detector("multi.outlier_agent", warn=6.0, minimum=3, patience=3)
def unlike_the_others(evidence: Evidence, row: Row) -> Finding:
    """Compare with the other agents at the same fraction of training. A symptom in one agent points to its data or its
    reward, a symptom in all of them to a hyperparameter."""
    agents = len(evidence.peers) + 1
    if agents < _LEAST_AGENTS:
        return too_early(
            evidence, row, f"{agents} agent{'s' if agents > 1 else ''}", f"{_LEAST_AGENTS} agents in this run"
        )
    worst: tuple[float, str, Ticks, Span, Floats] | None = None
    sizes: list[str] = []
    highest = 0.0
    for metric, floor in _COMPARED.items():
        own = evidence.ticks(metric)
        if len(own) < row.minimum:
            continue
        others = np.stack([_at_progress(peer, metric, evidence.progress(own.steps)) for peer in evidence.peers])
        known = np.isfinite(others).sum(0) >= _LEAST_AGENTS - 1
        if not known.any():
            continue
        centre = np.nanmedian(np.where(known, others, 0.0), axis=0)
        spread = 1.4826 * np.nanmedian(np.abs(np.where(known, others, 0.0) - centre), axis=0)
        z = np.where(known, np.abs(own.values - centre) / np.maximum(spread, floor / 2), 0.0)
        highest = max(highest, float(z.max()))
        span = sustained(z > row.warn, own.rows_for(row.patience), own.iterations)
        if span is None:
            continue
        sizes += [metric] if metric in _SIZES else []
        if worst is None or z[indices(span)].max() > worst[0]:
            worst = (float(z[indices(span)].max()), metric, own, span, centre)
    if worst is None:
        text = f"at most {format_number(highest)} robust standard deviations from {agents - 1} other agents"
        return passed(evidence, row, text, highest, row.warn)
    value, metric, own, span, centre = worst
    at = span.last
    text = f"{metric} {format_number(float(own.values[at]))}"
    text += f", the median of {agents - 1} others {format_number(float(centre[at]))}"
    causes = [(1.0, "learning", "see the other rows of this agent")]
    if sizes:
        causes.append((2.0, "data", f"its rewards are of another size: {', '.join(sizes)}"))
    return raised(evidence, row, own, span, value, text, causes=causes)


def _at_progress(peer: Evidence, metric: str, progress: Floats) -> Floats:
    """A peer's metric at shares of training, NaN where it has not got there or records nothing."""
    ticks = peer.ticks(metric)
    steps = np.round(progress * peer.total_timesteps).astype(np.int64)
    return np.where(steps <= peer.last_step + TICK, ticks.at(steps), np.nan)
