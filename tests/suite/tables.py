"""The results of the suite as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.suite.cases import Case
from tests.suite.scoring import Alarm, Outcome, Score, accepted, summarise, unexplained

_TOLD = {
    "recall": "symptom recall",
    "recall_listed": "… on the published list",
    "recall_not_listed": "… beyond it",
    "recall_harmful": "… of harmful faults",
    "recall_contract": "… of broken contracts",
    "precision": "precision of root rows",
    "cause_top_1": "cause, first place",
    "cause_top_3": "cause, first three",
    "controls_alarmed": "healthy runs with a warning",
}


def as_markdown(outcomes: Sequence[Outcome], cases: Mapping[str, Case], how: str) -> str:
    """Totals with Wilson intervals, a row per fault, a row per control. `how` says command, commit, seeds, machine."""
    totals = summarise(outcomes, cases)
    lines = [how, "", "| | measured [95 % Wilson interval] |", "|---|---|"]
    for key, words in _TOLD.items():
        score = totals[key]
        lines.append(f"| {words} | {Score(score['hits'], score['of'])} |")
    delay = totals["median_delay"]
    lines.append(f"| median delay after onset, share of the budget | {'n/a' if delay is None else f'{delay:.0%}'} |")
    lines.append(f"| CPU seconds | {totals['cpu_seconds']:,.0f} over {len(outcomes)} runs |")
    lines += ["", *_faults(outcomes, cases), "", *_controls(outcomes, cases)]
    return "\n".join(lines) + "\n"


def _faults(outcomes: Sequence[Outcome], cases: Mapping[str, Case]) -> list[str]:
    lines = [
        "| fault | class | found | first accepted row, at | cause first | other root rows | guide's sizes |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases.values():
        own = [o for o in outcomes if o.case == case.name and not o.guide_sizes]
        large = [o for o in outcomes if o.case == case.name and o.guide_sizes]
        if case.kind != "fault" or not own + large:
            continue
        answers = [accepted(o, case) for o in own]
        hits = sum(map(bool, answers))
        firsts = [(o, found[0]) for o, found in zip(own, answers, strict=True) if found]
        others = {a.symptom for o in own for a in unexplained(o) if a.symptom not in case.symptoms}
        right = sum(bool(a.causes) and a.causes[0] in case.causes for _, a in firsts)
        cells = [
            f"{case.name} {case.title}",
            case.harm,
            f"{hits}/{len(own)}",
            ", ".join(dict.fromkeys(_when(o, alarm) for o, alarm in firsts)) or "–",
            f"{right}/{len(firsts)}" if firsts else "–",
            ", ".join(sorted(others)) or "–",
            f"{sum(bool(accepted(o, case)) for o in large)}/{len(large)}" if large else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _when(outcome: Outcome, alarm: Alarm) -> str:
    return f"{alarm.symptom} {alarm.at_step / outcome.total_timesteps:.0%}"


def _controls(outcomes: Sequence[Outcome], cases: Mapping[str, Case]) -> list[str]:
    lines = ["| control | runs | with a warning | rows raised |", "|---|---|---|---|"]
    for case in cases.values():
        own = [o for o in outcomes if o.case == case.name]
        if case.kind != "control" or not own:
            continue
        alarms = [[a for a in o.alarms if a.severity != "information" and a.symptom not in case.allowed] for o in own]
        raised: dict[str, int] = {}
        for found in alarms:
            for alarm in found:
                raised[alarm.symptom] = raised.get(alarm.symptom, 0) + 1
        said = ", ".join(f"{symptom} ×{count}" for symptom, count in raised.items()) or "–"
        lines.append(f"| {case.name} {case.title} | {len(own)} | {sum(map(bool, alarms))} | {said} |")
    return lines


def as_document(outcomes: Sequence[Outcome], cases: Mapping[str, Case], how: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs: how it was made, the totals, every run with every alarm."""
    return {"how": dict(how), "totals": summarise(outcomes, cases), "runs": [o.to_json() for o in outcomes]}
