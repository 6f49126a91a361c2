"""One judgement with all its numbers: the measured values, tick by tick, the rule, and the changes that would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p3kit.console import prose_width
from p3kit.diagnose.detectors import DETECTORS
from p3kit.diagnose.diagnosis import changes_for
from p3kit.diagnose.evidence import Evidence, Ticks
from p3kit.diagnose.findings import AgentDiagnosis, Finding, format_number, format_steps
from p3kit.errors import InputError
from p3kit.spec.nearest import nearest
from p3kit.spec.writing import patch_toml
from p3kit.symptoms import SYMPTOMS, Symptom

_BEFORE, _AFTER = 3, 6
"""Rows of the record shown before the onset, and from it on."""


@dataclass(frozen=True)
class CauseExplained:
    """A cause of the row: `rank` from 1 where the evidence supports it, 0 where it does not."""

    id: str
    meaning: str
    rank: int
    evidence: str
    patch: str
    automatic: bool


@dataclass(frozen=True)
class Explanation:
    """`record` has a line per tick around the onset: (env step, value per metric of `metrics`), NaN where none is."""

    finding: Finding
    run: str
    symbol: str
    progress: float | None
    rule: dict[str, Any]
    changed: tuple[str, ...]
    """Numbers of the rule that the spec or a file of rules changed."""
    metrics: tuple[str, ...]
    record: tuple[tuple[int, tuple[float, ...]], ...]
    causes: tuple[CauseExplained, ...]
    explains: tuple[str, ...]
    """Raised rows that follow from this one."""

    @property
    def row(self) -> Symptom:
        return self.finding.row

    def to_json(self) -> dict[str, Any]:
        return {
            **self.finding.to_json(),
            "run": self.run,
            "judged_by": self.row.evidence,
            "departure": self.row.departure,
            "rule": self.rule,
            "changed": list(self.changed),
            "automatic": self.row.automatic,
            "metrics": list(self.metrics),
            "record": [{"global_step": step, "values": list(values)} for step, values in self.record],
            "causes": [vars(cause) for cause in self.causes],
            "explains": list(self.explains),
        }


def pick(diagnoses: Sequence[AgentDiagnosis], wanted: str) -> Finding:
    """The row that `--explain` names: its number in the table, or a symptom's id. It is that of the first agent that
    raised it, else of the first agent. Raises InputError with the possible rows."""
    if wanted.isdigit():
        numbers = {number: symptom for one in diagnoses for symptom, number in one.numbers.items()}
        raised = {finding.symptom for one in diagnoses for finding in one.raised}
        known = [number for number in sorted(numbers) if numbers[number] in raised]
        have = ", ".join(map(str, known)) if known != list(range(1, len(known) + 1)) else f"1 to {len(known)}"
        if numbers.get(int(wanted)) not in raised:
            what = f"no such row: the table has rows {have}" if known else "no such row: nothing was raised"
            raise InputError(f"--explain {wanted}", what, "a symptom's id explains a silent row too")
        wanted = numbers[int(wanted)]
    of_symptom = [finding for diagnosis in diagnoses for finding in diagnosis.findings if finding.symptom == wanted]
    if not of_symptom:
        if wanted in SYMPTOMS:
            what = "is not judged on recorded metrics"
            raise InputError(f"--explain {wanted}", what, "probes: p3kit check SPEC; gates: the verdict of the run")
        near = nearest(wanted, list(DETECTORS))
        raise InputError(f"--explain {wanted}", "no such symptom", f'did you mean "{near}"?' if near else "")
    return next((finding for finding in of_symptom if finding.raised), of_symptom[0])


def explain(finding: Finding, diagnosis: AgentDiagnosis, evidence: Evidence) -> Explanation:
    """Gather what is behind one finding of `diagnosis`; `evidence` is that agent's record."""
    catalogue = DETECTORS[finding.symptom]
    row = catalogue.overridden(evidence)
    shown = ("warn", "critical", "patience", "minimum")
    metrics = tuple(metric for metric in row.needs if evidence.has(metric))
    step = finding.since_step
    return Explanation(
        finding=finding,
        run=diagnosis.run,
        symbol=diagnosis.symbol,
        progress=None if step is None else float(evidence.progress(step)),
        rule={name: getattr(row, name) for name in shown} | {"unit": row.unit},
        changed=tuple(name for name in shown if getattr(row, name) != getattr(catalogue, name)),
        metrics=metrics,
        record=_record(evidence, metrics, step),
        causes=_causes(finding, evidence, diagnosis),
        explains=tuple(other.symptom for other in diagnosis.raised if other.follows == finding.symptom),
    )


def _record(evidence: Evidence, metrics: Sequence[str], since: int | None) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """By the first metric's clock: three rows before the onset and six from it on; the last nine of a silent row."""
    if not metrics:
        return ()
    columns = [_ticks(evidence, metric) for metric in metrics]
    steps = columns[0].steps
    onset = len(steps) - _AFTER if since is None else int((steps < since).sum())
    chosen = steps[max(0, onset - _BEFORE) : onset + _AFTER]
    values = [column.at(chosen) for column in columns]
    return tuple((int(step), tuple(float(v[i]) for v in values)) for i, step in enumerate(chosen))


def _ticks(evidence: Evidence, metric: str) -> Ticks:
    return evidence.evaluations(metric) if metric.startswith("eval/") else evidence.ticks(metric)


def _causes(finding: Finding, evidence: Evidence, diagnosis: AgentDiagnosis) -> tuple[CauseExplained, ...]:
    found = {cause.id: (rank, cause.evidence) for rank, cause in enumerate(finding.causes, 1)}
    ordered = sorted(finding.row.causes, key=lambda cause: found.get(cause.id, (len(found) + 1, ""))[0])
    symbol = diagnosis.symbol if diagnosis.several_symbols else None
    explained = []
    for cause in ordered:
        rank, why = found.get(cause.id, (0, ""))
        values = {change.path: change.after for change in changes_for(finding, cause.id, evidence)}
        automatic = finding.row.automatic and cause.automatic and bool(values)
        patch = patch_toml(values, symbol) if rank else ""
        explained.append(CauseExplained(cause.id, cause.meaning, rank, why, patch, automatic))
    return tuple(explained)


# --- for people -------------------------------------------------------------------------------------------------------


def print_explanation(explanation: Explanation, console: Console) -> None:
    """The whole story, 80 columns or more."""
    finding, row = explanation.finding, explanation.row
    section = "" if row.section == "-" else f" (guide {row.section})"
    console.print(Text(f"{finding.symptom} · {explanation.run} {finding.agent}", "bold"))
    console.print(Text(f"{row.title}{section}"))
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in _story(explanation):
        table.add_row(name, Text(text))
    console.print(table, width=prose_width(console))
    if explanation.record:
        console.print(_record_table(explanation))
    for cause in explanation.causes:
        if cause.rank:
            console.print(Text(f"{cause.rank}. {cause.meaning} ({cause.evidence})"))
            console.print(Text(_indented(cause.patch) if cause.patch else "   no spec value fixes this", "green"))
    if finding.raised and (against := [cause.meaning for cause in explanation.causes if not cause.rank]):
        console.print(Text("No evidence for: " + "; ".join(against) + ".", "dim"))


def _story(explanation: Explanation) -> list[tuple[str, str]]:
    finding, row = explanation.finding, explanation.row
    states = {"ok": "judged, no finding", "not_enough_data": "too early", "no_evidence": "cannot be judged"}
    lines = [("state", states.get(finding.state, f"raised, {finding.severity}")), ("judged by", row.evidence)]
    rule = [f"warn {format_number(explanation.rule['warn'])}"]
    if explanation.rule["critical"] != float("inf"):
        rule.append(f"critical {format_number(explanation.rule['critical'])}")
    for word, number in (("patience", explanation.rule["patience"]), ("at least", explanation.rule["minimum"])):
        unit = explanation.rule["unit"] if number != 1 else explanation.rule["unit"].removesuffix("s")
        rule.append(f"{word} {number} {unit}")
    changed = f"; changed: {', '.join(explanation.changed)}" if explanation.changed else ""
    lines += [("rule", ", ".join(rule) + changed), ("measured", finding.evidence)]
    if finding.raised:
        bound = "" if finding.window == "exact" else f", threshold {format_number(finding.threshold)}"
        lines[-1] = ("measured", f"{finding.evidence} (value {format_number(finding.value)}{bound}, {finding.window})")
        end = "still at the end" if finding.until_step is None else f"over at {format_steps(finding.until_step)}"
        lines.append(
            ("since", f"{format_steps(finding.since_step)} steps, {explanation.progress:.0%} of training; {end}")
        )
        repair = [cause.id for cause in explanation.causes if cause.automatic]
        allowed = f'for {", ".join(repair)}, by an [[intervention]] on = "{finding.symptom}"' if repair else "no"
        lines.append(("automatic repair", allowed))
    if finding.follows:
        lines.append(("follows from", finding.follows))
    if explanation.explains:
        lines.append(("explains", ", ".join(explanation.explains)))
    if row.departure:
        lines.append(("not as the guide", row.departure))
    return lines


def _record_table(explanation: Explanation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("env step", justify="right")
    for metric in explanation.metrics:
        table.add_column(metric, justify="right")
    since = explanation.finding.since_step
    for step, values in explanation.record:
        inside = explanation.finding.raised and since is not None and step >= since
        table.add_row(format_steps(step), *(format_number(value) for value in values), style="bold" if inside else "")
    return table


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" if line else "" for line in text.splitlines())
