"""Rows of the troubleshooting table, and their texts.

A row names the metrics it needs, the minimum of ticks before it may report, its threshold (`warn`, and `critical` if
there are two) and its patience in ticks. All of these except the minimum can be changed under `[diagnose.rows."ID"]`.
A *gross* breach, which never occurs in a healthy run, need not wait for the minimum: from `gross` ticks on a row may
raise, but is not called healthy before it has its minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p3kit.diagnose.calibration import calibrated_threshold
from p3kit.diagnose.evidence import Evidence, Floats, Span, Ticks, robust_jump
from p3kit.diagnose.findings import CauseFound, Finding, format_number
from p3kit.symptoms import SYMPTOMS, Severity


@dataclass(frozen=True)
class Row:
    """A detector with its numbers. `minimum` and `patience` count ticks, or evaluations where the row judges those."""

    symptom: str
    judge: Callable[[Evidence, Row], Finding]
    needs: tuple[str, ...]
    warn: float
    critical: float
    minimum: int
    patience: int
    unit: str
    gross: int
    at_once: bool = False
    """One evaluation is enough: the row is near exact."""

    def __call__(self, evidence: Evidence) -> Finding:
        """Judge the evidence; returns "no evidence" or "not enough data" if that is the case, never "ok"."""
        row = self.overridden(evidence)
        missing = [metric for metric in row.needs if not evidence.has(metric)]
        if missing and not all(_may_come(metric, evidence) for metric in missing):
            text = f"not recorded: {', '.join(missing)}" + why_missing(missing, evidence)
            return Finding(row.symptom, evidence.agent, "no_evidence", severity_of(row), text)
        have = min((row.amount(evidence, metric) for metric in row.needs), default=row.minimum)
        if have < row.gross:
            return too_early(evidence, row, str(have), f"{row.minimum} {row.unit}")
        finding = row.judge(evidence, row)
        if have < row.minimum and not finding.raised:
            return too_early(evidence, row, str(have), f"{row.minimum} {row.unit}")
        return row.weighed(evidence, finding)

    def weighed(self, evidence: Evidence, finding: Finding) -> Finding:
        """The finding, as information where it rests on too little training: a row that judges evaluations has to hold
        over a fifth of training, from its first evaluation to the last one."""
        if self.unit != "evaluations" or not finding.alarming or finding.window == "exact" or self.at_once:
            return finding
        first = finding.since_step or 0
        last = finding.until_step or int(evidence.evaluations(self.needs[0]).steps[-1])
        share = float(evidence.progress(last - first))
        if share >= LEAST_TRAINING:
            return finding
        text = f"{finding.evidence}; {share:.0%} of training is too little for a warning"
        return replace(finding, severity="information", evidence=text)

    def amount(self, evidence: Evidence, metric: str) -> int:
        """Amount of a metric, in the row's unit."""
        if self.unit == "evaluations" or metric.startswith("eval/"):
            return len(evidence.evaluations(metric))
        return evidence.ticks(metric).covered

    def overridden(self, evidence: Evidence) -> Row:
        """The row with the numbers that the run's spec, or a file of rules, gives it."""
        rows: Mapping[str, Mapping[str, Any]] = evidence.setting("diagnose.rows") or {}
        mine = rows.get(self.symptom) or {}
        numbers = {key: mine[key] for key in ("warn", "critical", "patience") if mine.get(key) is not None}
        return replace(self, **numbers) if numbers else self


def why_missing(metrics: Sequence[str], evidence: Evidence) -> str:
    """Reason in the spec for a metric that the run did not record; "" if there is none."""
    steps, bars = evidence.setting("ppo.n_steps"), evidence.setting("env.episode_bars")
    if any(metric.startswith("reward/rtg_") for metric in metrics) and steps and bars:
        return f"; it takes 20 whole episodes within a rollout: n_steps is {steps}, episode_bars {bars}"
    if any(metric.startswith("eval/hold") or metric == "eval/losers_held" for metric in metrics):
        return "; it takes 20 winners and 20 losers in one evaluation"
    if "eval/train_sharpe_ratio" in metrics or "eval/sharpe_ratio" in metrics:
        return "; the policy never traded in an evaluation"
    rule = evidence.setting("evaluation.action")
    if "eval/sampled_lead" in metrics and rule == "sharpened":
        return f"; the agent acts by the rule {rule}"
    if "diag/obs_drift" in metrics and evidence.setting("observation.normalize") != "running":
        return '; only observation.normalize = "running" has statistics that move'
    if "diag/dead_share" in metrics and evidence.setting("ppo.activation") not in (None, "relu"):
        return f"; {evidence.setting('ppo.activation')} units cannot die"
    if any(metric.startswith("diag/grad_") for metric in metrics):
        return "; the agents of this trainer share no encoder"
    if "diag/env_twins" in metrics:
        return "; no two environments held a position together for 30 steps of a rollout"
    return ""


def _may_come(metric: str, evidence: Evidence) -> bool:
    """Return True if a missing metric may still come."""
    if metric.startswith("eval/"):
        return not evidence.has("eval/total_return")
    if metric.startswith(("reward/episode", "reward/corr_")) or (
        metric.startswith("episode/") and metric != "episode/episodes"
    ):
        return evidence.has("episode/episodes") or evidence.last_step == 0
    return evidence.last_step == 0


_TRADING_PREFIXES = ("data", "gen", "perf", "phase", "trade")
_TRADING_ROWS = (
    "policy.greedy_worse",
    "env.duplicate",
    "mask.tight",
    "policy.correct_inaction",
    "policy.hold",
    "reward.bimodal",
    "reward.corr",
    "reward.dead",
    "reward.hack",
    "reward.one_sign",
    "reward.share",
    "reward.tail",
)


def about_trading(symptom: str) -> bool:
    """True for a row that judges trades, bars, the reward's seven components or the guide's course of a trading run.

    The reward of another task is part of that task: one sign and rare large values are no faults there.
    """
    return symptom.partition(".")[0] in _TRADING_PREFIXES or symptom in _TRADING_ROWS


REGISTERED: dict[str, Row] = {}
"""Detectors by symptom id, as `detector` registered them."""


def detector(
    symptom: str,
    *needs: str,
    warn: float = 0.0,
    critical: float = np.inf,
    minimum: int = 1,
    patience: int = 1,
    unit: str = "ticks",
    gross: int | None = None,
    at_once: bool = False,
) -> Callable[[Callable[[Evidence, Row], Finding]], Callable[[Evidence, Row], Finding]]:
    def register(judge: Callable[[Evidence, Row], Finding]) -> Callable[[Evidence, Row], Finding]:
        early = minimum if gross is None else gross
        threshold = calibrated_threshold(symptom, warn)
        REGISTERED[symptom] = Row(symptom, judge, needs, threshold, critical, minimum, patience, unit, early, at_once)
        return judge

    return register


# --- texts of a row ---


def raised(
    evidence: Evidence,
    row: Row,
    clock: Ticks,
    span: Span,
    value: float,
    text: str,
    threshold: float | None = None,
    severity: Severity | None = None,
    causes: Sequence[tuple[float, str, str]] = (),
    component: str | None = None,
    factor: float | None = None,
) -> Finding:
    """A raised row. `causes` are (weight of the evidence, cause id of the catalogue, evidence as text), in any
    order."""
    ranked = sorted(causes, key=lambda cause: -cause[0])
    for _, name, _ in ranked:
        SYMPTOMS[row.symptom].cause(name)  # a cause is in the catalogue, or this is a fault of ours
    count = span.last - span.first + 1
    return Finding(
        row.symptom,
        evidence.agent,
        "raised",
        severity or severity_of(row),
        text,
        value,
        row.warn if threshold is None else threshold,
        f"{count} {row.unit if count > 1 else row.unit.removesuffix('s')}",
        int(clock.steps[span.first]),
        None if span.open else int(clock.steps[min(span.last + 1, len(clock) - 1)]),
        causes=tuple(CauseFound(name, why, weight) for weight, name, why in ranked if weight > 0),
        component=component,
        factor=factor,
    )


def raised_at(
    evidence: Evidence, row: Row, step: int, text: str, value: float, causes: Sequence[tuple[float, str, str]]
) -> Finding:
    """An exact row that an event raised: it has a step and no end."""
    clock = Ticks(np.array([step]), np.array([value]), np.array([0]))
    return replace(raised(evidence, row, clock, Span(0, 0, True), value, text, 0.0, causes=causes), window="exact")


def silent(evidence: Evidence, row: Row, ticks: Ticks, what: str, unit: str = "") -> Finding:
    """A silent row, with the range that was seen."""
    finite = ticks.values[np.isfinite(ticks.values)]
    if not len(finite):
        return too_early(evidence, row, f"{len(ticks)} {row.unit}", f"more than {row.minimum}")
    low, high = format_number(float(finite.min())), format_number(float(finite.max()))
    value = high if what.startswith(("highest", "largest", "most", "deepest")) else f"{low} to {high}"
    value = low if what.startswith(("lowest", "smallest", "fewest")) else value
    return passed(evidence, row, f"{what} {value}" + (f" {unit}" if unit else ""), float(finite[-1]), row.warn)


def passed(
    evidence: Evidence, row: Row, text: str, value: float | None = None, threshold: float | None = None
) -> Finding:
    return Finding(row.symptom, evidence.agent, "ok", severity_of(row), text, value, threshold)


def too_early(evidence: Evidence, row: Row, have: str, need: str) -> Finding:
    """Finding of a row before its minimum of data; never "ok"."""
    text = f"not enough data ({have} of {need})"
    return Finding(row.symptom, evidence.agent, "not_enough_data", severity_of(row), text, have=have, need=need)


def nothing_recorded(evidence: Evidence, row: Row, *metrics: str) -> Finding:
    """For rows that can also use the last output of a run that recorded nothing: there is neither."""
    if evidence.last_step == 0:
        return too_early(
            evidence, row, "0", f"{row.minimum} {row.unit if row.minimum != 1 else row.unit.removesuffix('s')}"
        )
    return Finding(row.symptom, evidence.agent, "no_evidence", severity_of(row), f"not recorded: {', '.join(metrics)}")


def severity_of(row: Row) -> Severity:
    return SYMPTOMS[row.symptom].severity


# --- small arithmetic ---

LEAST_TRAINING = 0.2
"""Fraction of training that evaluations have to span for a warning."""

GROSS_FACTOR = 5.0
"""Times a threshold beyond which one tick is enough: scales that are wrong are wrong by orders of magnitude."""


def indices(span: Span) -> slice:
    return slice(span.first, span.last + 1)


def within(ticks: Ticks, span: Span) -> Floats:
    return ticks.values[indices(span)]


def with_values(ticks: Ticks, values: Floats) -> Ticks:
    return replace(ticks, values=values)


def or_one(scale: Floats) -> Floats:
    """A scale that was not recorded is 1."""
    return np.where(np.isfinite(scale), scale, 1.0)


def early_share(evidence: Evidence, component: str) -> float:
    """Mean share of a component in the first three ticks, 0 where it was not recorded."""
    for kind in ("episode_share", "share"):
        share = evidence.ticks(f"reward/{kind}.{component}")
        if len(share):
            return float(np.mean(share.values[:3]))
    return 0.0


def detrended(values: Floats) -> Floats:
    """Each row of (…, n) without its mean and its slope."""
    time = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    slope = values @ time / (time @ time)
    return np.asarray(values - values.mean(-1, keepdims=True) - slope[..., None] * time)


def lag_one(values: Floats) -> Floats:
    """Lag-1 autocorrelation of each row of (…, n); 0 for a constant."""
    centred = values - values.mean(-1, keepdims=True)
    square = np.square(centred).sum(-1)
    product = (centred[..., 1:] * centred[..., :-1]).sum(-1)
    correlation: Floats = np.divide(product, square, out=np.zeros(square.shape), where=square > 0)
    return correlation


def jump_from_before(values: Floats, noise: Floats) -> Floats:
    """`robust_jump`, with the past held still while a jump lasts, so that the second tick is measured as the first
    was."""
    jump = robust_jump(values, noise)
    for i in range(1, len(values)):
        if jump[i - 1] > 8:
            past = values[max(0, i - 11) : i - 1]
            spread = 1.4826 * np.median(np.abs(past - np.median(past))) + noise[i]
            if len(past) >= 5 and spread > 0:
                jump[i] = max(jump[i], (values[i] - np.median(past)) / spread)
    return jump
