"""The results of the suite as JSON, as markdown, and in the page that promises them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.measure.suite.admission import Admission, admit
from tests.measure.suite.cases import HERE, Case, load_cases
from tests.measure.suite.scoring import Alarm, Outcome, Score, accepted, delay, false_alarms, summarise, unexplained

RESULTS = {"scored": HERE / "results" / "scored.json", "calibration": HERE / "results" / "calibration.json"}
"""Committed results: on the reported seeds, and on the seeds that were used to choose thresholds."""
REPAIR = HERE / "results" / "repair"
"""What `--repair` measured: `.md` and a picture beside it, `.png`."""
PAGE = HERE.parents[2] / "docs" / "diagnosis.md"
PICTURE = PAGE.parent / "images" / "repair.png"
BEGIN, END = "<!-- suite -->", "<!-- end of suite -->"

Totals = Mapping[str, Any]
Cases = Mapping[str, Case]


@dataclass(frozen=True)
class How:
    """Provenance of results. `trained_at` are the commits of the runs, `commit` is the one that judged them."""

    command: str
    commit: str | None
    trained_at: list[str]
    versions: dict[str, Any]
    machine: str
    seeds: list[int]
    data: str = "SYNTHETIC, but for C14"

    def __str__(self) -> str:
        made = ", ".join(short(commit) for commit in self.trained_at)
        seeds = f"{self.seeds[0]} to {self.seeds[-1]}" if len(self.seeds) > 1 else str(*self.seeds)
        return (
            f"`{self.command}`; runs of commit {made}, judged by {short(self.commit)}; seeds {seeds}; {self.machine}; "
            f"data {self.data}."
        )


def short(commit: str | None) -> str:
    """The first digits of a commit, with git's mark for uncommitted changes."""
    if commit is None:
        return "unknown"
    number, changed, _ = commit.partition("+")
    return number[:9] + ("+changes" if changed else "")


# --- JSON -------------------------------------------------------------------------------------------------------------


def as_document(outcomes: Sequence[Outcome], cases: Cases, how: How) -> str:
    """For programs: how it was made, the totals, the admission of every fault, every run with every alarm (one a
    line)."""
    admissions = admit(outcomes, cases)
    head = {
        "how": asdict(how),
        "totals": summarise(_admitted(outcomes, cases, admissions), cases),
        "totals_of_all_injected": summarise(outcomes, cases),
        "admission": {name: _admission_json(found) for name, found in admissions.items()},
    }
    runs = ",\n".join("  " + json.dumps(outcome.to_json()) for outcome in outcomes)
    return json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + runs + "\n ]\n}\n"


def read_document(path: Path) -> tuple[list[Outcome], How]:
    """Read a document that `as_document` wrote."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return [Outcome.from_json(run) for run in told["runs"]], How(**told["how"])


def _admission_json(found: Admission) -> dict[str, Any]:
    known = bool(found.healthy)
    return {
        "verdict": found.verdict,
        "healthy": found.healthy,
        "sick": found.sick,
        "effect": round(found.effect, 2) if known and len(found.healthy) > 1 else None,
        "p": found.p if len(found.healthy) > 1 else None,
    }


def _admitted(outcomes: Sequence[Outcome], cases: Cases, admissions: Mapping[str, Admission]) -> list[Outcome]:
    """Without the faults that do no harm: they are none."""
    return [
        o for o in outcomes if cases[o.case].kind != "fault" or o.case not in admissions or admissions[o.case].admitted
    ]


# --- markdown ---------------------------------------------------------------------------------------------------------

_TOLD = (
    ("recall", "symptom recall", 0.92),
    ("recall_listed", "… on the published list (F)", None),
    ("recall_not_listed", "… beyond it (X)", None),
    ("recall_full", "… at full strength", None),
    ("recall_weaker", "… at medium and mild strength", None),
    ("recall_harmful", "… of faults listed as harmful", None),
    ("recall_contract", "… of broken contracts", None),
    ("recall_guide_sizes", "… at the guide's sizes (8 × 2048, six updates)", None),
    ("precision", "precision of root rows", 0.75),
    ("cause_top_1", "cause, first place", 0.65),
    ("cause_top_3", "cause, first three", 0.85),
)
_MOST_ALARMED, _LONGEST = 0.03, 0.10
_ENOUGH_FAULTS, _ENOUGH_CONTROLS = 100, 130
"""Runs below which a target is neither met nor missed."""


def as_markdown(outcomes: Sequence[Outcome], cases: Cases, how: How) -> str:
    """Totals with Wilson intervals against their targets, a row per fault and strength, a row per control, and every
    miss and every false alarm by name."""
    admissions = admit(outcomes, cases)
    counted = _admitted(outcomes, cases, admissions)
    parts = [
        [str(how)],
        _totals(summarise(counted, cases), summarise(outcomes, cases), len(outcomes)),
        _faults(outcomes, cases, admissions),
        _controls(outcomes, cases),
        _misses(counted, cases),
        _false_alarms(outcomes, cases),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _totals(totals: Totals, of_all: Totals, runs: int) -> list[str]:
    lines = [
        "| | measured [95 % Wilson interval] | target | | with the faults that do no harm |",
        "|---|---|---|---|---|",
    ]
    for key, words, target in _TOLD:
        score, loose = totals[key], of_all[key]
        if score["of"]:
            wanted = "" if target is None else f"≥ {target:.0%}"
            met = "" if target is None else _met(score["share"] >= target, totals["recall"]["of"], _ENOUGH_FAULTS)
            lines.append(f"| {words} | {_score(score)} | {wanted} | {met} | {_score(loose)} |")
    alarmed = totals["controls_alarmed"]
    if alarmed["of"]:
        met = _met(alarmed["share"] <= _MOST_ALARMED, alarmed["of"], _ENOUGH_CONTROLS)
        lines.append(f"| healthy runs with a warning | {_score(alarmed)} | ≤ {_MOST_ALARMED:.0%} | {met} | |")
    if totals["recall"]["of"]:
        late, loose = totals["median_delay"], of_all["median_delay"]
        met = _met(late is not None and late <= _LONGEST, totals["recall"]["of"], _ENOUGH_FAULTS)
        said, other = ("never" if one is None else f"{one:.1%}" for one in (late, loose))
        lines.append(f"| median delay after onset, share of the budget | {said} | ≤ {_LONGEST:.0%} | {met} | {other} |")
    lines.append(f"| CPU seconds | {of_all['cpu_seconds']:,.0f} over {runs} runs | | | |")
    return lines


def _met(met: bool, runs: int, enough: int) -> str:
    if runs < enough:
        return f"not shown: {runs} of {enough} runs"
    return "met" if met else "**missed**"


def _score(score: Mapping[str, Any]) -> str:
    return str(Score(score["hits"], score["of"]))


def _faults(outcomes: Sequence[Outcome], cases: Cases, admissions: Mapping[str, Admission]) -> list[str]:
    lines = [
        "| fault | effect: Sharpe healthy → degraded | found | first accepted row, median delay | cause first "
        "| other root rows | guide's sizes |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases.values():
        own = [o for o in outcomes if o.case == case.name and o.sizes != "guide"]
        large = [o for o in outcomes if o.case == case.name and o.sizes == "guide"]
        if case.kind != "fault" or not own + large:
            continue
        firsts = [(o, found[0]) for o in own if (found := accepted(o, case))]
        right = sum(bool(alarm.causes) and alarm.causes[0] in case.causes for _, alarm in firsts)
        others = Counter(a.symptom for o in own for a in unexplained(o) if a.symptom not in case.symptoms)
        cells = [
            f"{case.name} {case.title}",
            _harm(admissions.get(case.name)),
            str(Score(len(firsts), len(own))) if own else "",
            _when(case, firsts),
            f"{right}/{len(firsts)}" if firsts else "–",
            ", ".join(f"{symptom} ×{count}" for symptom, count in sorted(others.items())) or "–",
            f"{sum(bool(accepted(o, case)) for o in large)}/{len(large)}" if large else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines if len(lines) > 2 else []


def _harm(found: Admission | None) -> str:
    if found is None or found.verdict == "unknown":
        return "not known"
    if found.verdict == "lost":
        return "lost: the run does not reach its end"
    words = {"contract": "breaks a contract", "no harm": "**no harm**: not counted"}.get(found.verdict, found.verdict)
    if len(found.healthy) < 2:
        return words
    healthy, sick = (sum(scores) / len(scores) for scores in (found.healthy, found.sick))
    return f"{words}: {healthy:.1f} → {sick:.1f}, p {found.p:.2g}"


def _when(case: Case, firsts: Sequence[tuple[Outcome, Alarm]]) -> str:
    if not firsts:
        return "–"
    rows = ", ".join(f"`{row}`" for row in dict.fromkeys(alarm.symptom for _, alarm in firsts))
    return f"{rows} {median(delay(outcome, case) for outcome, _ in firsts):.0%}"


def _controls(outcomes: Sequence[Outcome], cases: Cases) -> list[str]:
    lines = ["| healthy runs | runs | with a warning | rows raised |", "|---|---|---|---|"]
    for case in cases.values():
        own = [o for o in outcomes if o.case == case.name]
        if case.kind != "control" or not own:
            continue
        alarms = [false_alarms(o, case) for o in own]
        raised = Counter(alarm.symptom for found in alarms for alarm in found)
        said = ", ".join(f"{symptom} ×{count}" for symptom, count in sorted(raised.items())) or "–"
        lines.append(f"| {case.name} {case.title} | {len(own)} | {sum(map(bool, alarms))} | {said} |")
    return lines if len(lines) > 2 else []


def _misses(outcomes: Sequence[Outcome], cases: Cases) -> list[str]:
    lines = []
    for o in outcomes:
        if cases[o.case].kind == "fault" and not accepted(o, cases[o.case]):
            raised = ", ".join(f"`{alarm.symptom}`" for alarm in unexplained(o)) or "nothing"
            score = "n/a" if o.score is None else f"{o.score:.1f}"
            lines.append(f"- {o.case}, seed {o.seed}, {o.sizes}: raised {raised}; Sharpe {score}")
    return ["Missed:", "", *lines] if lines else []


def _false_alarms(outcomes: Sequence[Outcome], cases: Cases) -> list[str]:
    lines = [
        f"- {o.case}, seed {o.seed}, {o.sizes}: `{alarm.symptom}` at {alarm.at_step / o.total_timesteps:.0%}"
        for o in outcomes
        if cases[o.case].kind == "control"
        for alarm in false_alarms(o, cases[o.case])
    ]
    return ["False alarms:", "", *lines] if lines else []


# --- the page ---------------------------------------------------------------------------------------------------------


def page_section() -> str:
    """Section of docs/diagnosis.md between its marks, from the committed results alone."""
    cases = load_cases()
    parts = []
    for name, path in RESULTS.items():
        outcomes, how = read_document(path)
        if name == "scored":
            parts += [_left_out(outcomes, cases), as_markdown(outcomes, cases, how)]
        else:
            totals = summarise(_admitted(outcomes, cases, admit(outcomes, cases)), cases)
            parts.append(
                "On the seeds that were used to choose thresholds, the same code has: "
                f"recall {_score(totals['recall'])}, precision {_score(totals['precision'])}, "
                f"cause in the first place {_score(totals['cause_top_1'])}, "
                f"healthy runs with a warning {_score(totals['controls_alarmed'])} ({how})\n"
            )
    return "\n".join(part for part in [*parts, _repair_section()] if part)


def _repair_section() -> str:
    """Section with the newest results of `--repair`, and its picture."""
    if not REPAIR.with_suffix(".md").exists():
        return ""
    lines = ["### Repair", "", REPAIR.with_suffix(".md").read_text(encoding="utf-8")]
    if REPAIR.with_suffix(".png").exists():
        lines += [
            "![Validation Sharpe ratio over training of three runs of one seed: healthy, degraded, repaired]"
            f"({PICTURE.relative_to(PAGE.parent)})",
            "",
        ]
    return "\n".join(lines)


def _left_out(outcomes: Sequence[Outcome], cases: Cases) -> str:
    """Text on the part of the full tier that was not run."""
    seen = {outcome.case for outcome in outcomes}
    faults = [name for name, case in cases.items() if case.kind == "fault" and name not in seen]
    large = any(outcome.sizes == "guide" for outcome in outcomes)
    said = [f"{len(faults)} of {sum(c.kind == 'fault' for c in cases.values())} faults and strengths"] if faults else []
    said += [] if large else ["the guide's sizes"]
    return f"**Not run yet on these seeds:** {', '.join(said)}. The same command continues with them.\n" if said else ""


def write_page() -> None:
    """Put the section where it belongs, and the picture of a repair beside the other pictures."""
    if REPAIR.with_suffix(".png").exists():
        PICTURE.write_bytes(REPAIR.with_suffix(".png").read_bytes())
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{page_section()}\n{END}{after}", encoding="utf-8")
