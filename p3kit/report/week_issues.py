"""Issues of the weekly report: symptoms per agent, information rows that all agents share, interventions, crashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p3kit.diagnose.findings import Finding, format_number, format_steps
from p3kit.diagnose.journal import back_to
from p3kit.escape import markdown as safe
from p3kit.report.agent_data import AgentSummary, Outcome
from p3kit.report.markdown import count_of
from p3kit.report.week_data import ENDED_BADLY, Experiment
from p3kit.symptoms import SYMPTOMS

_MOST_LISTED = 20
_MOST_NAMED = 8


def issues(experiment: Experiment) -> list[str]:
    """One line per agent and root symptom, worst first, or per symptom where that would be a long list; then other
    interventions, and what ended badly."""
    found = [(agent, finding) for agent in experiment.agents for finding in agent.alarms]
    found.sort(key=lambda pair: (pair[1].severity != "critical", pair[0].name))
    describe = _by_symptom if len(found) > _MOST_LISTED else _by_agent
    lines = describe(found)
    lines += _common_information(experiment)
    for agent in experiment.agents:
        shown = {finding.symptom for finding in agent.alarms}
        for symptom in dict.fromkeys(outcome.symptom for outcome in agent.outcomes):
            if symptom not in shown:
                lines.append(f"{safe(agent.name)}: {symptom_title(symptom)} → {_repairs(agent, symptom)}")
    for agent in experiment.with_state(*ENDED_BADLY):
        said = safe(agent.message) or "no message"
        lines.append(f"{safe(agent.name)}: {agent.state} at {format_steps(agent.global_step)} ({said})")
    if len(lines) > _MOST_LISTED:
        rest = len(lines) - _MOST_LISTED
        lines = [*lines[:_MOST_LISTED], f"… and {rest} more: `p3kit diagnose RUN` shows them"]
    return lines


def _common_information(experiment: Experiment) -> list[str]:
    """`10 of 10 agents: entropy …`: a line per information row that all agents share."""
    started = [agent for agent in experiment.agents if agent.ranges]
    rows: dict[str, list[tuple[AgentSummary, Finding]]] = {}
    for agent in started:
        for finding in agent.findings:
            if finding.severity == "information" and finding.state == "raised" and finding.follows is None:
                rows.setdefault(finding.symptom, []).append((agent, finding))
    shared = [row for row in rows.values() if len(row) == len(started)]
    if len(started) == 1:
        return [line for row in shared for line in _by_agent(row)]
    return [
        f"{len(row)} of {len(started)} agents: {row[0][1].row.title}; {safe(row[0][0].name)} {_issue(*row[0])}"
        for row in shared
    ]


def _by_agent(found: Sequence[tuple[AgentSummary, Finding]]) -> list[str]:
    return [f"{safe(agent.name)}: {finding.row.title}, {_issue(agent, finding)}" for agent, finding in found]


def _by_symptom(found: Sequence[tuple[AgentSummary, Finding]]) -> list[str]:
    """A line per symptom: how many agents have it and which, and the first of them in full; the commonest first."""
    groups: dict[str, list[tuple[AgentSummary, Finding]]] = {}
    for agent, finding in found:
        groups.setdefault(finding.symptom, []).append((agent, finding))
    lines = []
    for group in sorted(groups.values(), key=len, reverse=True):
        names = [safe(agent.name) for agent, _ in group]
        which = ", ".join(names[:_MOST_NAMED])
        which += f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        still = sum(finding.open for _, finding in group)
        (first, finding), title = group[0], group[0][1].row.title
        counted = f"{title}: {count_of(len(group), 'agent')} ({which}), still open in {still}"
        lines.append(f"{counted}. {names[0]} {_issue(first, finding)}")
    return lines


def _issue(agent: AgentSummary, finding: Finding) -> str:
    since = f"since {format_steps(finding.since_step)}"
    if finding.until_step is not None:
        since = f"from {format_steps(finding.since_step)} to {format_steps(finding.until_step)}"
    elif finding.window == "exact":
        since = f"at {format_steps(finding.since_step)}"
    line = f"{since} ({safe(finding.evidence)})"
    if any(outcome.symptom == finding.symptom for outcome in agent.outcomes):
        return f"{line} → {_repairs(agent, finding.symptom)}"
    held_back = agent.suppressed.get(finding.symptom, 0)
    held = f"; an intervention was held back {count_of(held_back, 'time')}" if held_back else ""
    if finding.changes:
        changes = ", ".join(f"{change}" for change in finding.changes)
        return f"{line} → nothing changed yet{held}; proposed: {changes}"
    return f"{line} → no spec value fixes this{held}" if finding.alarming else line


def symptom_title(symptom: str) -> str:
    """The guide's words for a symptom; a trigger on a metric has none, but the intervention's name."""
    return SYMPTOMS[symptom].title if symptom in SYMPTOMS else safe(symptom)


def _repairs(agent: AgentSummary, symptom: str) -> str:
    return "; ".join(_outcome(outcome) for outcome in agent.outcomes if outcome.symptom == symptom)


def _outcome(outcome: Outcome) -> str:
    """`ppo.ent_coef 0.01 → 0.05 at 31k, recovered (verified at 45k)`"""
    turns = f" in {outcome.turns} turns" if outcome.turns > 1 else ""
    done = [f"{safe(key)} {_value(v[0])} → {_value(v[1])}{turns}" for key, v in outcome.keys.items()]
    if outcome.rolled_back_to:
        done.insert(0, safe(back_to(outcome.rolled_back_to)))
    done += map(safe, outcome.did)
    line = f"{', '.join(done) or 'nothing moved'} {'from' if turns else 'at'} {format_steps(outcome.global_step)}"
    if turns:
        return f"{line} on"
    ends = {True: "recovered", False: "not recovered", None: "outcome not known"}[outcome.recovered]
    when = f" ({outcome.word} at {format_steps(outcome.ended)})" if outcome.ended is not None else ""
    return f"{line}, {ends}{when}"


def _value(value: Any) -> str:
    return format_number(value) if isinstance(value, float) else safe(value)
