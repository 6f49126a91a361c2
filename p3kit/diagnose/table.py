"""The troubleshooting table for people: terminal, pipe or log, 80 columns or more, with or without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from p3kit.console import prose_width
from p3kit.diagnose.diagnosis import merged_patch
from p3kit.diagnose.findings import (
    SEVERITIES,
    AgentDiagnosis,
    Finding,
    Range,
    format_number,
    format_steps,
    row_numbers,
)
from p3kit.metrics import METRICS
from p3kit.symptoms import SYMPTOMS

_STYLES = {"critical": "bold red", "warning": "yellow", "information": "cyan", "gate": "dim"}
_WORDS = {"critical": "CRITICAL", "warning": "warning", "information": "info", "gate": "gate"}
_WIDE = 110
"""Columns from which causes get a column of their own."""


def print_diagnoses(diagnoses: Sequence[AgentDiagnosis], console: Console) -> None:
    """One heading per agent and one table for all: equal rows of several agents are one. Then one patch for all of
    them, as TOML that can be copied; then what was not judged."""
    for diagnosis in diagnoses:
        console.print(Text.assemble((f"{diagnosis.run} {diagnosis.agent}", "bold"), heading_of(diagnosis, named=False)))
        if diagnosis.failure:
            console.print(Text(diagnosis.failure, _STYLES["critical"]), soft_wrap=True)
        if diagnosis.clean:
            console.print(_clean_bill(diagnosis, short=len(diagnoses) > 3))
    groups = grouped(diagnoses)
    if groups:
        width = prose_width(console)
        console.print(_findings(groups, width, len(diagnoses)), width=width)
    if patch := merged_patch(diagnoses):
        console.print(Text("Patch for the spec, from the likeliest cause of each row:", "bold"))
        console.print(Text(patch), soft_wrap=True)
        console.print()
    if groups:
        departs = any(group.first.row.departure for group in groups)
        why = ", and the reason for a departure from the guide" if departs else ""
        console.print(Text(f"--explain N prints row N with all its numbers{why}.", "dim"))
    for line in not_judged(diagnoses):
        console.print(Text(line, "dim"))


@dataclass(frozen=True)
class Group:
    """One row of the table: a symptom that one agent or several raised."""

    number: int
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def first(self) -> Finding:
        """The finding that is shown."""
        return self.findings[0]

    def measured(self, agents: int) -> str:
        """Evidence of the finding that is shown, after the names of those of `agents` agents that raised the row."""
        if agents == 1:
            return measured(self.first)
        names = [finding.agent for finding in self.findings]
        if len(names) == 1:
            return f"{names[0]}: {measured(self.first)}"
        shown = ", ".join(names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")
        return f"{len(names)} of {agents} agents ({shown}); {names[0]}: {measured(self.first)}"


_MOST_NAMES = 3


def grouped(diagnoses: Sequence[AgentDiagnosis]) -> list[Group]:
    """The raised rows by number; equal rows of several agents together."""
    by_symptom: dict[str, list[Finding]] = {}
    for diagnosis in diagnoses:
        for finding in diagnosis.raised:
            by_symptom.setdefault(finding.symptom, []).append(finding)
    numbers = {symptom: number for one in diagnoses for symptom, number in one.numbers.items()} or row_numbers(
        diagnoses
    )
    groups = [Group(numbers[name], tuple(sorted(rows, key=_worst))) for name, rows in by_symptom.items()]
    return sorted(groups, key=lambda group: group.number)


def _worst(finding: Finding) -> tuple[bool, int, int]:
    return finding.follows is not None, SEVERITIES.index(finding.severity), finding.since_step or 0


def heading_of(diagnosis: AgentDiagnosis, *, named: bool = True) -> str:
    """`run-42 AAPL · 100k of 100k steps · 1 critical`."""
    counts = []
    for severity in ("critical", "warning", "information"):
        count = sum(finding.severity == severity for finding in diagnosis.raised)
        if count:
            counts.append(f"{count} {_WORDS[severity].lower()}")
    steps = f"{format_steps(diagnosis.global_step)} of {format_steps(diagnosis.total_timesteps)} steps"
    name = f"{diagnosis.run} {diagnosis.agent}" if named else ""
    changed = " · intervened" if diagnosis.intervened else ""
    return f"{name} · {steps} · {', '.join(counts) or 'nothing raised'}{changed}"


def _findings(groups: Sequence[Group], width: int, agents: int) -> Table:
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, show_lines=False, pad_edge=False, padding=(0, 1, 1, 0), expand=False)
    table.add_column("Symptom", width=30 if wide else 24)
    table.add_column("Measured", ratio=1)
    if wide:
        table.add_column("Since", width=14)
        table.add_column("Causes, likeliest first, and patch", ratio=1)
    else:
        table.columns[1].header = "Measured, causes, patch"
    for group in groups:
        finding = group.first
        cells = (Text(group.measured(agents)), Text(time_of(finding)), _causes(finding))
        if wide:
            table.add_row(_title(finding, group.number), *cells)
        else:
            table.add_row(_title(finding, group.number), Lines(*cells))
    return table


def _title(finding: Finding, number: int) -> Text:
    style = _STYLES[finding.severity]
    return Text.assemble(
        (f"{number} {_WORDS[finding.severity]}", style),
        "\n",
        (finding.row.title, "bold"),
        "\n",
        (finding.symptom, "dim"),
    )


def measured(finding: Finding) -> str:
    """The evidence with its threshold and window."""
    if finding.window == "exact":
        return finding.evidence
    return f"{finding.evidence} (threshold {format_number(finding.threshold)}, {finding.window})"


def time_of(finding: Finding) -> str:
    """Since when, and until when."""
    since = f"since {format_steps(finding.since_step)}"
    if finding.window == "exact":
        return f"at {format_steps(finding.since_step)}"
    return since + (", still" if finding.until_step is None else f", over at {format_steps(finding.until_step)}")


def _causes(finding: Finding) -> Text:
    text = Text()
    if finding.follows is not None:
        text.append(f"follows from {finding.follows}")
        return text
    for number, found in enumerate(finding.causes, 1):
        cause = finding.row.cause(found.id)
        text.append(f"{number}. {cause.meaning}" + (f" ({found.evidence})" if found.evidence else "") + "\n")
    for change in finding.changes:
        text.append(f"→ {change}\n", "green")
    if finding.causes and not finding.changes:
        text.append("→ no spec value fixes this\n", "dim")
    text.rstrip()
    return text


def _clean_bill(diagnosis: AgentDiagnosis, short: bool) -> RenderableType:
    judged = sum(finding.state in ("ok", "raised") for finding in diagnosis.findings)
    verdict = Text(f"No warning among {judged} judged rows.", "green")
    if short or not diagnosis.ranges:
        return verdict
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric")
    for column in ("lowest", "highest", "last"):
        table.add_column(column, justify="right")
    table.add_column("healthy", justify="right")
    for seen in diagnosis.ranges:
        table.add_row(seen.metric, *(format_number(v) for v in (seen.low, seen.high, seen.last)), healthy_range(seen))
    return Lines(verdict, table, *map(Text, unhealthy_values(diagnosis.ranges)))


def unhealthy_values(ranges: Sequence[Range]) -> list[str]:
    """A sentence on last values that are not healthy although no row warns; empty without one."""
    names = []
    for seen in ranges:
        low, high = METRICS[seen.metric].healthy or (None, None)
        if (low is not None and seen.last < low) or (high is not None and seen.last > high):
            names.append(seen.metric)
    if not names:
        return []
    return [f"Last value not healthy: {', '.join(names)}. A row warns only where chance is unlikely and it lasts."]


def healthy_range(seen: Range) -> str:
    """The glossary's healthy range as text, "" if it has none."""
    healthy = METRICS[seen.metric].healthy
    if healthy is None:
        return ""
    low, high = healthy
    if low is None:
        return f"up to {format_number(high)}"
    return f"from {format_number(low)}" if high is None else f"{format_number(low)} to {format_number(high)}"


def not_judged(diagnoses: Iterable[AgentDiagnosis]) -> list[str]:
    """Rows without a judgement, by reason; every row is listed."""
    early: dict[str, None] = {}
    missing: dict[str, None] = {}
    for diagnosis in diagnoses:
        for finding in diagnosis.unjudged:
            if finding.state == "not_enough_data":
                early[f"{finding.symptom} ({finding.have} of {finding.need})"] = None
            else:
                missing[f"{finding.symptom} ({finding.evidence})"] = None
    asked = [row.id for row in SYMPTOMS.values() if not row.judged and row.severity != "gate"]
    lines = []
    for words, rows in (
        ("not enough data", early),
        ("no evidence", missing),
        ("p3kit check SPEC answers", asked),
    ):
        if rows:
            lines.append(f"Not judged, {words}: {', '.join(rows)}.")
    return lines
