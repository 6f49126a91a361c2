"""Recall, precision, causes, delay and false alarms, from runs judged as they would have been live."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from p3kit.diagnose import TICK, Evidence, Finding, gather_run, judge
from p3kit.diagnose.diagnosis import Rules
from p3kit.rundir import RunDir
from p3kit.symptoms import SYMPTOMS
from tests.suite.cases import Case


@dataclass(frozen=True)
class Alarm:
    """A row that was raised at some tick: when first, how bad, with which causes, and whether another row explained
    it."""

    symptom: str
    severity: str
    at_step: int
    """Env steps recorded when it was first raised: when a user could have known."""
    causes: tuple[str, ...]
    follows: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of one run. Steps are env steps of an agent."""

    case: str
    seed: int
    guide_sizes: bool
    alarms: tuple[Alarm, ...]
    """Of all agents, the first of each symptom."""
    total_timesteps: int
    state: str
    score: float | None
    """Sharpe ratio of the last evaluation, by the unmodified spec; None for a policy that never traded."""
    cpu_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_live(run: RunDir, case: Case, seed: int, guide_sizes: bool, rules: Rules | None = None) -> Outcome:
    """Judge a recorded run after every tick on what was recorded by then, as a watcher would have."""
    # runs of the suite share their spec and differ in what was injected: they are no twins
    evidences = [replace(evidence, twins=None) for evidence in gather_run(run, rules=rules)]
    first: dict[str, Alarm] = {}
    for evidence in evidences:
        for alarm in _alarms(evidence):
            known = first.get(alarm.symptom)
            if known is None or alarm.at_step < known.at_step:
                first[alarm.symptom] = alarm
    scores = [evidence.evaluations("eval/sharpe_ratio") for evidence in evidences]
    last = [float(score.values[-1]) for score in scores if len(score)]
    spent = run.path / "cpu_seconds.txt"
    return Outcome(
        case=case.name,
        seed=seed,
        guide_sizes=guide_sizes,
        alarms=tuple(sorted(first.values(), key=lambda alarm: (alarm.at_step, alarm.symptom))),
        total_timesteps=evidences[0].total_timesteps,
        state=str(run.status()["state"]),
        score=float(np.mean(last)) if last else None,
        cpu_seconds=float(spent.read_text()) if spent.exists() else 0.0,
    )


def _alarms(evidence: Evidence) -> Iterable[Alarm]:
    """The rows of one agent, each when it was first raised. A row that was raised and is not any more still counts: a
    user would have seen it."""
    found: dict[str, Alarm] = {}
    ended_in = evidence.last_step + (TICK if evidence.failure else 0)  # the iteration that failed left no record
    steps = sorted({int(step) for series in evidence.series.values() for step in series.steps})
    for step in [*_every_tick(steps), math.inf]:
        for finding in judge(_until(evidence, step)):
            known = found.get(finding.symptom)
            if not finding.raised:
                continue
            if _worse(finding, known):
                causes = tuple(cause.id for cause in finding.causes)
                at = int(min(step, ended_in))
                found[finding.symptom] = Alarm(finding.symptom, finding.severity, at, causes, finding.follows)
            elif known is not None:  # a root that showed later explains it from then on
                found[finding.symptom] = replace(known, follows=finding.follows)
    return found.values()


def _worse(finding: Finding, known: Alarm | None) -> bool:
    """Whether a raised row is new, or an alarm where it was information before."""
    return known is None or (finding.alarming and known.severity == "information")


def _every_tick(steps: Sequence[int]) -> list[int]:
    """The last recorded step of every tick."""
    last: dict[int, int] = {}
    for step in steps:
        last[(step + TICK - 1) // TICK] = step
    return list(last.values())


@dataclass(frozen=True)
class _Cut:
    """A series up to a step."""

    steps: Any
    values: Any
    iterations: Any


def _until(evidence: Evidence, step: float) -> Evidence:
    """The record as it was when `step` had just been written; at infinity with all that the run said at its end."""
    if math.isinf(step):
        return evidence
    series = {}
    for name, one in evidence.series.items():
        kept = int(np.searchsorted(one.steps, step, side="right"))
        if kept:
            series[name] = _Cut(one.steps[:kept], one.values[:kept], one.iterations[:kept])
    events = [
        event for event in evidence.events if (event.get("global_step") or 0) <= step and event.get("kind") != "oom"
    ]
    return replace(evidence, series=series, events=events, failure="", peers=[_until(p, step) for p in evidence.peers])


# --- scores -----------------------------------------------------------------------------------------------------------


def accepted(outcome: Outcome, case: Case) -> list[Alarm]:
    """The alarms that answer a fault: an accepted row after the onset, at the severity the catalogue gives it."""
    onset = case.onset * outcome.total_timesteps
    return [
        alarm
        for alarm in outcome.alarms
        if alarm.symptom in case.symptoms
        and alarm.at_step >= onset
        and (alarm.severity != "information" or SYMPTOMS[alarm.symptom].severity == "information")
    ]


def unexplained(outcome: Outcome) -> list[Alarm]:
    """Root rows at warning or critical: what a user has to look at. Rows that follow from another count with it."""
    return [alarm for alarm in outcome.alarms if alarm.severity in ("warning", "critical") and alarm.follows is None]


@dataclass(frozen=True)
class Score:
    """A share with its Wilson interval."""

    hits: int
    of: int

    @property
    def share(self) -> float | None:
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson(self.hits, self.of) if self.of else None

    def to_json(self) -> dict[str, Any]:
        return {"hits": self.hits, "of": self.of, "share": self.share, "interval": self.interval}

    def __str__(self) -> str:
        if self.interval is None:
            return "n/a"
        low, high = self.interval
        return f"{self.hits}/{self.of} = {self.hits / self.of:.0%} [{low:.0%}, {high:.0%}]"


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which stays inside 0 and 1 and is honest for few trials."""
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarise(outcomes: Sequence[Outcome], cases: Mapping[str, Case]) -> dict[str, Any]:
    """Every figure of the suite over some outcomes."""
    faults = [outcome for outcome in outcomes if cases[outcome.case].kind == "fault"]
    controls = [outcome for outcome in outcomes if cases[outcome.case].kind == "control"]
    found = [(outcome, accepted(outcome, cases[outcome.case])) for outcome in faults]
    roots = [(outcome, unexplained(outcome)) for outcome in faults]
    right = sum(alarm.symptom in cases[o.case].symptoms for o, alarms in roots for alarm in alarms)
    first = [(cases[o.case], alarms) for o, alarms in found if alarms]
    delays = [
        (alarms[0].at_step - cases[o.case].onset * o.total_timesteps) / o.total_timesteps
        for o, alarms in found
        if alarms
    ]
    alarmed = [o for o in controls if _false_alarms(o, cases[o.case])]
    return {
        "recall": Score(sum(bool(alarms) for _, alarms in found), len(found)).to_json(),
        "recall_listed": _recall(found, cases, lambda case: case.listed),
        "recall_not_listed": _recall(found, cases, lambda case: not case.listed),
        "recall_harmful": _recall(found, cases, lambda case: case.harm == "harmful"),
        "recall_contract": _recall(found, cases, lambda case: case.harm == "contract"),
        "precision": Score(right, sum(len(alarms) for _, alarms in roots)).to_json(),
        "cause_top_1": Score(sum(_cause_within(case, alarms, 1) for case, alarms in first), len(first)).to_json(),
        "cause_top_3": Score(sum(_cause_within(case, alarms, 3) for case, alarms in first), len(first)).to_json(),
        "median_delay": median(delays) if delays else None,
        "controls_alarmed": Score(len(alarmed), len(controls)).to_json(),
        "cpu_seconds": sum(outcome.cpu_seconds for outcome in outcomes),
    }


def _recall(found: Sequence[tuple[Outcome, list[Alarm]]], cases: Mapping[str, Case], wanted: Any) -> dict[str, Any]:
    chosen = [alarms for outcome, alarms in found if wanted(cases[outcome.case])]
    return Score(sum(map(bool, chosen)), len(chosen)).to_json()


def _cause_within(case: Case, alarms: Sequence[Alarm], places: int) -> bool:
    """Whether the first accepted row names an accepted cause among its first ones."""
    return any(cause in case.causes for cause in alarms[0].causes[:places])


def _false_alarms(outcome: Outcome, case: Case) -> list[Alarm]:
    return [
        alarm
        for alarm in outcome.alarms
        if alarm.severity in ("warning", "critical") and alarm.symptom not in case.allowed
    ]


def stored_runs(root: Path, cases: Mapping[str, Case]) -> list[tuple[RunDir, Case, int, bool]]:
    """The runs of an earlier call, with their cases."""
    import json

    runs = []
    for note in sorted(root.glob("run-*/suite.json"), key=lambda path: int(path.parent.name.split("-")[1])):
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["case"] in cases:
            runs.append((RunDir.open(note.parent), cases[kept["case"]], kept["seed"], kept["guide_sizes"]))
    return runs
