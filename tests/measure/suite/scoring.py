"""Recall, precision, causes, delay, false alarms and harm, from runs judged as they would have been live."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.diagnose import TICK, Evidence, Finding, gather_run, judge
from p3kit.diagnose.diagnosis import Rules
from p3kit.rundir import RunDir
from p3kit.symptoms import SYMPTOMS
from tests.measure.suite.cases import Case, Sizes
from tests.measure.suite.suite_runs import cpu_seconds

Cases = Mapping[str, Case]


@dataclass(frozen=True)
class Alarm:
    """A row that was raised at some iteration: when first, how bad, with which causes, and whether another row
    explained it."""

    symptom: str
    severity: str
    at_step: int
    """Env steps recorded when it was first raised: when a user could have known."""
    causes: tuple[str, ...]
    follows: str | None
    gradient_steps: int = 0
    """Taken by then, from the beginning of training."""


@dataclass(frozen=True)
class Outcome:
    """Result of one run. Steps are env steps of an agent."""

    case: str
    seed: int
    sizes: Sizes
    alarms: tuple[Alarm, ...]
    """Of all agents, the first of each symptom."""
    total_timesteps: int
    state: str
    score: float | None
    """Sharpe ratio of the last evaluation, by the unmodified spec, the mean over agents; None for a policy that never
    traded."""
    cpu_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Outcome:
        alarms = tuple(Alarm(**{**alarm, "causes": tuple(alarm["causes"])}) for alarm in told["alarms"])
        return cls(**{**told, "alarms": alarms})


def judge_live(run: RunDir, case: Case, seed: int, sizes: Sizes, rules: Rules | None = None) -> Outcome:
    """Judge a recorded run after every iteration on what was recorded by then, as a watcher would have."""
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
    return Outcome(
        case=case.name,
        seed=seed,
        sizes=sizes,
        alarms=tuple(sorted(first.values(), key=lambda alarm: (alarm.at_step, alarm.symptom))),
        total_timesteps=evidences[0].total_timesteps,
        state=str(run.status()["state"]),
        score=float(np.mean(last)) if last else None,
        cpu_seconds=cpu_seconds(run.path),
    )


def _alarms(evidence: Evidence) -> Iterable[Alarm]:
    """The rows of one agent, each when it was first raised. A row that was raised and is not any more still counts: a
    user would have seen it."""
    found: dict[str, Alarm] = {}
    ended_in = evidence.last_step + (_rollout(evidence) if evidence.failure else 0)  # what failed left no record
    for step in [*_ends_of_iterations(evidence), math.inf]:
        for finding in judge(_until(evidence, step)):
            known = found.get(finding.symptom)
            if not finding.raised:
                continue
            if _worse(finding, known):
                causes = tuple(cause.id for cause in finding.causes)
                at = int(min(step, ended_in))
                taken = int(evidence.ticks("diag/gradient_steps", "sum").before(at).sum())
                found[finding.symptom] = Alarm(finding.symptom, finding.severity, at, causes, finding.follows, taken)
            elif known is not None:  # a root that showed later explains it from then on
                found[finding.symptom] = replace(known, follows=finding.follows)
    return found.values()


def _rollout(evidence: Evidence) -> int:
    """Env steps of one iteration."""
    return int(evidence.setting("ppo.n_steps") or TICK) * int(evidence.setting("env.num_envs") or 1)


def _worse(finding: Finding, known: Alarm | None) -> bool:
    """Return True if a raised row is new, or an alarm where it was information before."""
    return known is None or (finding.alarming and known.severity == "information")


def _ends_of_iterations(evidence: Evidence) -> list[int]:
    """The step at which each iteration was written. Its rows may have earlier steps, but they were not readable
    then."""
    ends: dict[int, int] = {}
    for series in evidence.series.values():
        for iteration, step in zip(series.iterations.tolist(), series.steps.tolist(), strict=True):
            ends[iteration] = max(step, ends.get(iteration, 0))
    return sorted(set(ends.values()))


@dataclass(frozen=True)
class _Cut:
    """A series up to a step."""

    steps: NDArray[Any]
    values: NDArray[Any]
    iterations: NDArray[Any]


def _until(evidence: Evidence, step: float) -> Evidence:
    """The record just after `step` was written; at infinity with the final output of the run."""
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


def delay(outcome: Outcome, case: Case) -> float:
    """Share of the step budget between the onset and the first accepted row; infinite where none was raised."""
    alarms = accepted(outcome, case)
    return alarms[0].at_step / outcome.total_timesteps - case.onset if alarms else math.inf


def summarise(outcomes: Sequence[Outcome], cases: Cases) -> dict[str, Any]:
    """Every figure of the suite over some outcomes. The guide's sizes are a figure of their own; a fault that was
    missed counts in the median delay as one that is never found."""
    controls = [outcome for outcome in outcomes if cases[outcome.case].kind == "control"]
    every = [outcome for outcome in outcomes if cases[outcome.case].kind == "fault"]
    faults = [outcome for outcome in every if outcome.sizes != "guide"]
    roots = [(cases[o.case], o, alarm) for o in faults for alarm in unexplained(o)]
    first = [(cases[o.case], alarms[0]) for o in faults if (alarms := accepted(o, cases[o.case]))]
    middle = median(delay(outcome, cases[outcome.case]) for outcome in faults) if faults else math.inf

    def recall(wanted: Callable[[Case], bool], among: Sequence[Outcome] = faults) -> dict[str, Any]:
        chosen = [bool(accepted(o, cases[o.case])) for o in among if wanted(cases[o.case])]
        return Score(sum(chosen), len(chosen)).to_json()

    return {
        "recall": recall(lambda case: True),
        "recall_listed": recall(lambda case: case.listed),
        "recall_not_listed": recall(lambda case: not case.listed),
        "recall_harmful": recall(lambda case: case.harm == "harmful"),
        "recall_contract": recall(lambda case: case.harm == "contract"),
        "recall_full": recall(lambda case: case.strength == "full"),
        "recall_weaker": recall(lambda case: case.strength != "full"),
        "recall_guide_sizes": recall(lambda case: True, [outcome for outcome in every if outcome.sizes == "guide"]),
        "precision": Score(sum(alarm in accepted(o, case) for case, o, alarm in roots), len(roots)).to_json(),
        "cause_top_1": Score(sum(_names(case, alarm, 1) for case, alarm in first), len(first)).to_json(),
        "cause_top_3": Score(sum(_names(case, alarm, 3) for case, alarm in first), len(first)).to_json(),
        "median_delay": middle if math.isfinite(middle) else None,
        "controls_alarmed": Score(sum(bool(false_alarms(o, cases[o.case])) for o in controls), len(controls)).to_json(),
        "cpu_seconds": sum(outcome.cpu_seconds for outcome in outcomes),
    }


def _names(case: Case, alarm: Alarm, places: int) -> bool:
    """Return True if a row names an accepted cause among its first ones."""
    return any(cause in case.causes for cause in alarm.causes[:places])


def false_alarms(outcome: Outcome, case: Case) -> list[Alarm]:
    """The warnings of a healthy run."""
    return [
        alarm
        for alarm in outcome.alarms
        if alarm.severity in ("warning", "critical") and alarm.symptom not in case.allowed
    ]
