"""The troubleshooting table as markdown, for an issue, a chat or a lab book."""

from __future__ import annotations

from collections.abc import Sequence

from p3kit import escape
from p3kit.diagnose.diagnosis import merged_patch
from p3kit.diagnose.findings import AgentDiagnosis, format_number
from p3kit.diagnose.table import Group, grouped, heading_of, healthy_range, not_judged, time_of, unhealthy_values
from p3kit.symptoms import SYMPTOMS


def diagnoses_as_markdown(diagnoses: Sequence[AgentDiagnosis]) -> str:
    """A heading per agent and one table for all, then the patch, then what was not judged. Ends with a newline."""
    parts: list[str] = []
    for diagnosis in diagnoses:
        parts.append(f"## {escape.markdown(heading_of(diagnosis))}")
        if diagnosis.failure:
            parts.append(f"**{escape.markdown(diagnosis.failure)}**")
        if diagnosis.clean:
            parts.append(_clean_bill(diagnosis))
    if groups := grouped(diagnoses):
        parts.append(_findings(groups, len(diagnoses)))
    if patch := merged_patch(diagnoses):
        parts.append(f"Patch for the spec, from the likeliest cause of each row:\n\n```toml\n{_fenced(patch)}\n```")
    parts += [escape.markdown(line) for line in not_judged(diagnoses)]
    return "\n\n".join(parts) + "\n"


def catalogue_as_markdown() -> str:
    """Every row of the catalogue: the guide's words, the evidence, the possible automatic repairs, and departures from
    the guide."""
    lines = ["| row | the guide's words | section | severity | judged by | causes (* may be repaired) |"]
    lines.append("|---|---|---|---|---|---|")
    for row in SYMPTOMS.values():
        if row.severity == "gate":
            continue
        causes = ", ".join(
            cause.id + ("\\*" if row.automatic and cause.automatic and cause.changes else "") for cause in row.causes
        )
        where = row.evidence if row.judged else f"`p3kit check`: {row.evidence}"
        cells = (f"`{row.id}`", row.title, row.section, row.severity, where, causes or "–")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    departures = [f"- `{row.id}`: {row.departure}" for row in SYMPTOMS.values() if row.departure]
    return "\n".join([*lines, "", "Rows that depart from the guide:", "", *departures]) + "\n"


def _findings(groups: Sequence[Group], agents: int) -> str:
    lines = ["| | symptom | measured | since | causes, likeliest first | change |", "|---|---|---|---|---|---|"]
    for group in groups:
        finding = group.first
        causes = [
            f"{rank}. {escape.markdown(f'{finding.row.cause(found.id).meaning} ({found.evidence})')}"
            for rank, found in enumerate(finding.causes, 1)
        ]
        cells = [
            f"{group.number}. {finding.severity}",
            f"**{escape.markdown(finding.row.title)}** {escape.code(finding.symptom)}",
            escape.markdown(group.measured(agents)),
            time_of(finding),
            f"follows from {escape.code(finding.follows)}" if finding.follows else "<br>".join(causes),
            "" if finding.follows else "<br>".join(escape.code(str(change)) for change in finding.changes) or "none",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    shown = [group.first for group in groups]
    notes = [f"- `{f.symptom}` departs from the guide: {f.row.departure}" for f in shown if f.row.departure]
    return "\n".join(lines) + ("\n\n" + "\n".join(notes) if notes else "")


def _clean_bill(diagnosis: AgentDiagnosis) -> str:
    judged = sum(finding.state in ("ok", "raised") for finding in diagnosis.findings)
    lines = [f"No warning among {judged} judged rows.", ""]
    lines += ["| metric | lowest | highest | last | healthy |", "|---|---:|---:|---:|---|"]
    for seen in diagnosis.ranges:
        numbers = " | ".join(format_number(value) for value in (seen.low, seen.high, seen.last))
        lines.append(f"| {seen.metric} | {numbers} | {healthy_range(seen)} |")
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in unhealthy_values(diagnosis.ranges))])


def _fenced(lines: str) -> str:
    return "\n".join(map(escape.fenced, lines.splitlines()))
