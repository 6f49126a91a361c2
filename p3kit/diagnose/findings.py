"""Findings of a detector: plain data, the same for the table, for JSON, for the weekly report and for interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from p3kit.spec.writing import patch_toml
from p3kit.symptoms import SYMPTOMS, Severity, Symptom, Value

State = Literal["raised", "ok", "not_enough_data", "no_evidence"]
"""raised: the symptom showed, now or earlier · ok: judged, no finding · not_enough_data: too early ·
no_evidence: the run did not record the metrics that the row needs."""

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "information", "gate")


@dataclass(frozen=True)
class CauseFound:
    """A cause that the evidence supports, with that evidence as text and its weight."""

    id: str
    evidence: str
    weight: float = 0.0


@dataclass(frozen=True)
class SpecChange:
    """One value of a patch: the run's value, and its replacement. `before` is None if the run does not record it."""

    path: str
    before: Value | None
    after: Value

    def __str__(self) -> str:
        return f"{self.path} {format_value(self.before)} → {format_value(self.after)}"


@dataclass(frozen=True)
class Finding:
    """The judgement of one symptom for one agent.

    `value` against `threshold` over `window`; `since_step` is the env step at which it began, `until_step` the step at
    which it ended (None: it still holds at the end of the record). `have` and `need` are set before the minimum of
    data. `seen` is the range of the judged metric in a silent row. `follows` names the raised symptom that explains
    this one.
    """

    symptom: str
    agent: str
    state: State
    severity: Severity
    evidence: str
    value: float | None = None
    threshold: float | None = None
    window: str = ""
    since_step: int | None = None
    until_step: int | None = None
    have: str = ""
    need: str = ""
    causes: tuple[CauseFound, ...] = ()
    component: str | None = None
    factor: float | None = None
    changes: tuple[SpecChange, ...] = ()
    patch: str = ""
    follows: str | None = None

    @property
    def row(self) -> Symptom:
        """The catalogue's entry."""
        return SYMPTOMS[self.symptom]

    @property
    def raised(self) -> bool:
        return self.state == "raised"

    @property
    def alarming(self) -> bool:
        """Raised as critical or warning, as against information."""
        return self.raised and self.severity in ("critical", "warning")

    @property
    def open(self) -> bool:
        """Raised and not over at the end of the record."""
        return self.raised and self.until_step is None

    def to_json(self) -> dict[str, Any]:
        return {
            "symptom": self.symptom,
            "title": self.row.title,
            "agent": self.agent,
            "state": self.state,
            "severity": self.severity,
            "evidence": self.evidence,
            "value": self.value,
            "threshold": self.threshold,
            "window": self.window,
            "since_step": self.since_step,
            "until_step": self.until_step,
            "have": self.have,
            "need": self.need,
            "causes": [{"id": cause.id, "evidence": cause.evidence} for cause in self.causes],
            "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in self.changes],
            "patch": self.patch,
            "follows": self.follows,
        }


@dataclass(frozen=True)
class Range:
    """Range of a metric over the whole record: smallest, largest and last finite value."""

    metric: str
    low: float
    high: float
    last: float


@dataclass(frozen=True)
class AgentDiagnosis:
    """All judgements of one agent, worst first."""

    run: str
    agent: str
    symbol: str
    several_symbols: bool
    global_step: int
    total_timesteps: int
    findings: tuple[Finding, ...]
    ranges: tuple[Range, ...]
    failure: str = ""
    """`crashed: …` or `failed: …` where the run ended badly; a run may end so before any row can be judged."""
    intervened: bool = False
    """Whether an intervention changed how it trained."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Symptom → number of its row, the same for all agents of the run; see `row_numbers`."""

    @property
    def raised(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.raised)

    @property
    def unjudged(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state in ("not_enough_data", "no_evidence"))

    @property
    def clean(self) -> bool:
        """No critical and no warning row, over all that could be judged."""
        return not any(finding.alarming for finding in self.findings)

    @property
    def patch(self) -> str:
        """One TOML fragment with the changes of every alarming root row; where two want one key, the worse row wins."""
        values: dict[str, Value] = {}
        for finding in self.findings:
            if finding.alarming and finding.follows is None:
                for change in finding.changes:
                    values.setdefault(change.path, change.after)
        return patch_toml(values, self.symbol if self.several_symbols else None)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "agent": self.agent,
            "intervened": self.intervened,
            "symbol": self.symbol,
            "global_step": self.global_step,
            "total_timesteps": self.total_timesteps,
            "failure": self.failure,
            "clean": self.clean,
            "findings": [finding.to_json() for finding in self.findings],
            "ranges": {r.metric: {"low": r.low, "high": r.high, "last": r.last} for r in self.ranges},
            "patch": self.patch,
        }


def row_numbers(diagnoses: Sequence[AgentDiagnosis]) -> dict[str, int]:
    """Symptom → number of its row, over all agents of a run: roots before consequences, then the worst, then those that
    began first. An agent's table, the run's and `--explain` share them."""
    best: dict[str, tuple[bool, int, int, int]] = {}
    catalogue = list(SYMPTOMS)
    for diagnosis in diagnoses:
        for found in diagnosis.raised:
            place = (found.follows is not None, SEVERITIES.index(found.severity), found.since_step or 0)
            key = (*place, catalogue.index(found.symptom))
            best[found.symptom] = min(key, best.get(found.symptom, key))
    return {symptom: number for number, symptom in enumerate(sorted(best, key=lambda name: best[name]), 1)}


def format_number(value: float | None) -> str:
    """At most three significant digits, no trailing zeros, thousands in full: 0.0123, 1.2, 15.3, 1,830, 1e-05, n/a."""
    if value is None or value != value:
        return "n/a"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "-∞"
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    if 1e3 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def format_missed(value: float, threshold: str) -> str:
    """As `format_number`, with more digits where so few read as the threshold itself: 0.2999 (needs > 0.3)."""
    shown = format_number(value)
    return f"{value:.6g}" if shown in threshold.split() else shown


def format_value(value: Value | None) -> str:
    """A spec value as a reader writes it: 3e-4, 0.05, 64, running; `unset` if the run does not record it."""
    if value is None:
        return "unset"
    return format_number(value) if isinstance(value, float) else str(value)


def format_steps(step: int | None) -> str:
    """Env steps for people: 512, 4.1k, 31k, 100k, 1.2M."""
    if step is None:
        return "n/a"
    for size, unit, digits in ((1_000_000, "M", 1), (10_000, "k", 0), (1_000, "k", 1)):
        if step >= size:
            divisor = 1_000_000 if unit == "M" else 1_000
            text = f"{step / divisor:.{digits}f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) + unit
    return str(step)


def rule_changes(before: Sequence[AgentDiagnosis], after: Sequence[AgentDiagnosis]) -> list[str]:
    """Lines about the rows that other rules raised, silenced or moved. Both have the same agents in the same order."""
    lines = []
    for old, new in zip(before, after, strict=True):
        earlier = {finding.symptom: finding.since_step for finding in old.raised}
        later = {finding.symptom: finding.since_step for finding in new.raised}
        for symptom in dict.fromkeys((*later, *earlier)):
            if symptom not in earlier:
                lines.append(f"{new.agent}: {symptom} raised since {format_steps(later[symptom])}")
            elif symptom not in later:
                lines.append(f"{new.agent}: {symptom} no longer raised")
            elif later[symptom] != earlier[symptom]:
                moved = f"{format_steps(earlier[symptom])} → {format_steps(later[symptom])}"
                lines.append(f"{new.agent}: {symptom} raised since {moved}")
    return lines
