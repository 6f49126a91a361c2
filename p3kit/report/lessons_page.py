"""`p3kit report --lessons`: the guide's five sections (7.3), every line computed.

Each line gives the number of cases, their spread, and their runs. Fewer than three cases are "insufficient data".
Failures are listed like successes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from p3kit.diagnose.findings import format_number
from p3kit.edge import family, family_sentence
from p3kit.escape import code
from p3kit.escape import markdown as safe
from p3kit.headline import Scored, headline
from p3kit.metrics import mean_interval, share_interval
from p3kit.report.lessons_data import ENOUGH, INCIDENTS, Attempt, AttemptHistory, KnobEffect, Repair
from p3kit.report.markdown import count_of, interval, listed, render, write_page
from p3kit.symptoms import SYMPTOMS

PHASE4_AGENTS = 143
"""Agents of the guide's Phase 4 (7.2)."""

_STEADY = 0.95
"""The guide's example of a training stability score (7.1)."""
_TOLD_APART = 0.2
"""A Sharpe difference worth finding, for the number of pairs that it takes."""
_MOST_LINKS = 6
_MOST_EFFECTS = 20
_ENVIRONMENT = ("num", "env", "mask", "obs", "data", "reward", "run", "repro")
"""Groups of symptoms about the environment, the data and the machine."""


@dataclass(frozen=True)
class Lesson:
    """One line: what was found, over how many cases of what, in which runs."""

    text: str
    n: int
    unit: str
    runs: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        return self.n >= ENOUGH

    def to_json(self) -> dict[str, Any]:
        fields = {"text": self.text, "n": self.n, "unit": self.unit, "enough": self.enough}
        return {**fields, "runs": list(self.runs)}


@dataclass(frozen=True)
class Lessons:
    """The guide's five sections."""

    worked: Sequence[Lesson]
    failed: Sequence[Lesson]
    hyperparameters: Sequence[Lesson]
    environment: Sequence[Lesson]
    recommendations: Sequence[Lesson]

    @property
    def sections(self) -> list[tuple[str, Sequence[Lesson]]]:
        """Title and lines of each, in the guide's order."""
        return [
            ("What worked well", self.worked),
            ("What didn't work", self.failed),
            ("Hyperparameter insights", self.hyperparameters),
            ("Environment issues discovered", self.environment),
            ("Recommendations for Phase 4", self.recommendations),
        ]


def draw_lessons(history: AttemptHistory) -> Lessons:
    """The lessons of all attempts."""
    return Lessons(
        worked=_worked(history),
        failed=_failed(history),
        hyperparameters=_hyperparameters(history),
        environment=_environment(history),
        recommendations=_recommendations(history),
    )


def write_lessons(history: AttemptHistory, path: Path, runs_root: Path, templates: Path | None = None) -> Path:
    """Write the page to `path`; runs are linked relative to it. Hand-written parts of the page are kept."""
    return write_page(render_lessons(history, path, runs_root, templates), path)


def render_lessons(history: AttemptHistory, path: Path, runs_root: Path, templates: Path | None = None) -> str:
    """The markdown of the page that will stand at `path`."""
    lessons = draw_lessons(history)
    to_runs = Path(os.path.relpath(runs_root, path.parent)).as_posix()
    return render(
        "lessons.md.j2",
        templates,
        history=history,
        headline=headline([_scored(attempt) for attempt in history.graded if attempt.agent.scores]),
        as_of=datetime.fromtimestamp(history.as_of, UTC),
        sections=[
            {"title": title, "lines": [_line(lesson, to_runs) for lesson in found]} for title, found in lessons.sections
        ],
        effects_looked_at=len(history.effects),
    )


def _scored(attempt: Attempt) -> Scored:
    """Its part of the headline. Runs may have different bars, so their returns are no account together."""
    window = f"{attempt.run} {attempt.agent.window}"
    return replace(attempt.agent.scored, name=f"{attempt.run}/{attempt.agent.name}", window=window)


def _line(lesson: Lesson, to_runs: str) -> str:
    """The lesson with its n and links; "insufficient data" for fewer than three cases."""
    links = [f"[{safe(run)}]({to_runs}/{quote(run)})" for run in lesson.runs[:_MOST_LINKS]]
    if len(lesson.runs) > _MOST_LINKS:
        links.append(f"and {len(lesson.runs) - _MOST_LINKS} more")
    where = f"; {', '.join(links)}" if links else ""
    verdict = "" if lesson.enough else "**Insufficient data**: "
    return f"{verdict}{lesson.text} (n = {count_of(lesson.n, lesson.unit)}{where})"


def lessons_json(history: AttemptHistory, path: Path) -> dict[str, Any]:
    """The lessons for programs."""
    sections = draw_lessons(history).sections
    return {
        "report": path.as_posix(),
        "experiments": history.experiments,
        "synthetic": history.synthetic,
        "attempts": len(history.attempts),
        "sections": {title: [lesson.to_json() for lesson in found] for title, found in sections},
    }


# --- what worked, what did not ---


def _worked(history: AttemptHistory) -> list[Lesson]:
    graded, begun = history.graded, history.begun
    lessons = []
    if passed := [attempt for attempt in graded if attempt.agent.passed]:
        lessons.append(_share("pass the minimum criteria on the validation split", passed, graded))
    if shown := [attempt for attempt in graded if attempt.agent.over_buy_and_hold == "shown"]:
        lessons.append(_share("have a shown edge over buy-and-hold", shown, graded))
    if gains := _gains_over_supervised(graded):
        bounds = mean_interval(np.array([gain for _, gain in gains]))
        if bounds is None or bounds[0] > 0:
            text = f"total return lies {_mean_of([gain for _, gain in gains], '+.1%')} above the supervised model's"
            lessons.append(_lesson(text, [attempt for attempt, _ in gains], "agent"))
    if sound := [attempt for attempt in begun if attempt.sound]:
        lessons.append(_share("were trained without a crash or a symptom left unrepaired", sound, begun))
    for repair in history.repairs:
        if repair.recovered * 2 > repair.known:
            lessons.append(_repair_lesson(repair))
    if resumed := [attempt for attempt in begun if attempt.resumed]:
        ended = [attempt for attempt in resumed if attempt.agent.complete]
        lessons.append(_share("of those that were resumed came to their end", ended, resumed))
    return lessons


def _failed(history: AttemptHistory) -> list[Lesson]:
    graded, begun = history.graded, history.begun
    lessons = []
    if failed := [attempt for attempt in graded if not attempt.agent.passed]:
        lessons.append(_share(f"fail{_unmet(failed)}", failed, graded))
    if unshown := [attempt for attempt in graded if attempt.agent.over_buy_and_hold == "not shown"]:
        excess = _known(unshown, "eval/sharpe_excess")
        beside = f"; Sharpe ratio minus buy-and-hold's {_mean_of(excess, '+z.2f')}" if excess else ""
        lessons.append(_share(f"have no shown edge over buy-and-hold{beside}", unshown, graded))
    if unjudged := [attempt for attempt in graded if attempt.agent.over_buy_and_hold == "not judged"]:
        lessons.append(_share("have an edge not judged: they traded too little, or keep no returns", unjudged, graded))
    idle = [attempt for attempt in graded if {"constant", "never traded"} & set(attempt.agent.labels)]
    if idle:
        lessons.append(_share("do what a constant rule does (all HOLD, or buy-and-hold)", idle, graded))
    gaps = [(a, gap) for a in graded if (gap := _gap(a)) is not None]
    if gaps and (bounds := mean_interval(np.array([gap for _, gap in gaps]))) is not None and bounds[0] > 0:
        far = _mean_of([gap for _, gap in gaps], "+z.2f")
        text = f"the Sharpe ratio on the training split is {far} above validation's"
        lessons.append(_lesson(text, [attempt for attempt, _ in gaps], "agent"))
    for symptom, attempts in history.with_symptoms().items():
        unrepaired = [a for a in attempts if any(f.symptom == symptom for f in a.agent.unrepaired)]
        if unrepaired and symptom.split(".")[0] not in _ENVIRONMENT:
            lessons.append(_share(f"ended with {_title(symptom)} unrepaired", unrepaired, begun))
    for repair in history.repairs:
        if repair.recovered * 2 <= repair.known:
            lessons.append(_repair_lesson(repair))
    if bad := [attempt for attempt in history.attempts if attempt.agent.state in ("crashed", "failed")]:
        messages = listed(list(dict.fromkeys(a.agent.message or "no message" for a in bad)), most=3)
        lessons.append(_share(f"ended badly ({messages})", bad, history.attempts))
    if not history.repairs:
        text = "no intervention fired, so nothing was learnt about any"
        lessons.append(_lesson(text, begun, "agent", links=False))
    return lessons


def _share(what: str, those: Sequence[Attempt], all_of: Sequence[Attempt]) -> Lesson:
    """`7 of 10 agents (70%, 95% interval 40% to 89%) pass …`"""
    low, high = share_interval(len(those), len(all_of))
    share = (
        f"{len(those)} of {len(all_of)} agents ({len(those) / len(all_of):.0%}, 95% interval {low:.0%} to {high:.0%})"
    )
    return Lesson(f"{share} {what}", len(all_of), "agent", _runs(those))


def _lesson(text: str, attempts: Sequence[Attempt], unit: str, *, links: bool = True) -> Lesson:
    return Lesson(text, len(attempts), unit, _runs(attempts) if links else ())


def _repair_lesson(repair: Repair) -> Lesson:
    named = f"intervention on {_title(repair.symptom)}" if repair.symptom in SYMPTOMS else safe(repair.symptom)
    moved = ", ".join(map(code, repair.keys))
    back = "going back" if any(outcome.rolled_back_to for _, outcome in repair.outcomes) else ""
    moving = f"moving {moved}" if repair.keys not in ((), ("rollback",)) else ""
    done = " and ".join(part for part in (moving, back) if part)
    what = f" {done}" if done else f" ({listed(repair.did)})" if repair.did else ""
    text = f"{named}{what}: fired {count_of(len(repair.outcomes), 'time')}"
    if repair.interval is None:
        text += ", outcome not known"
    else:
        low, high = repair.interval
        text += f", {repair.recovered} of {repair.known} recovered (95% interval {low:.0%} to {high:.0%})"
    return Lesson(text, len(repair.outcomes), "firing", tuple(repair.runs))


def _gains_over_supervised(graded: Sequence[Attempt]) -> list[tuple[Attempt, float]]:
    gains = []
    for attempt in graded:
        earlier, total = attempt.agent.supervised_return, attempt.metric("eval/total_return")
        if earlier is not None and total is not None:
            gains.append((attempt, total - earlier))
    return gains


def _gap(attempt: Attempt) -> float | None:
    train, sharpe = attempt.metric("eval/train_sharpe_ratio"), attempt.sharpe
    return None if train is None or sharpe is None else train - sharpe


def _unmet(failed: Sequence[Attempt]) -> str:
    """`: validation_sharpe 3, entropy 1`: which criteria kept how many from passing."""
    counts: dict[str, int] = {}
    for attempt in failed:
        for reason in attempt.agent.failed_reasons:
            counts[str(reason["criterion"])] = counts.get(str(reason["criterion"]), 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"; unmet criteria: {', '.join(f'{safe(name)} {count}' for name, count in ordered)}" if ordered else ""


# --- hyperparameters ---


def _hyperparameters(history: AttemptHistory) -> list[Lesson]:
    effects = sorted(history.effects, key=lambda e: (not e.shown, not e.enough, -abs(e.mean)))
    lessons = [_effect_lesson(effect) for effect in effects[:_MOST_EFFECTS]]
    if rest := effects[_MOST_EFFECTS:]:
        pairs = sum(len(effect.differences) for effect in rest)
        lessons.append(Lesson(f"{len(rest)} more effects, none larger than these, are left out", pairs, "pair"))
    if history.entangled:
        names = ", ".join(map(code, history.entangled[:12]))
        more = f" and {len(history.entangled) - 12} more" if len(history.entangled) > 12 else ""
        text = f"{names}{more} varied, but never alone: their effects cannot be separated"
        lessons.append(Lesson(text, 0, "pair"))
    if history.seed_spread is not None:
        pairs = _pairs_needed(history.seed_spread)
        text = (
            f"the seed alone moves the Sharpe ratio by {history.seed_spread:.2f} (standard deviation); to detect a "
            f"difference of {_TOLD_APART} takes about {pairs} pairs of agents (power 80%)"
        )
        lessons.append(Lesson(text, len(history.seed_differences), "seed pair"))
    if not history.varied:
        text = "no knob was varied: nothing is known about any but the values used"
        lessons.append(Lesson(text, len(history.traded), "agent"))
    return lessons


def _effect_lesson(effect: KnobEffect) -> Lesson:
    change = f"{code(effect.path)} {safe(effect.before)} → {safe(effect.after)}"
    return Lesson(f"{change}: {_effect_words(effect)}", len(effect.differences), "pair", effect.runs)


def _effect_words(effect: KnobEffect) -> str:
    if len(effect.differences) == 1:
        return f"Sharpe {effect.mean:+z.2f} in the one pair that differs in nothing else"
    deviation = np.std(effect.differences, ddof=1)
    word = "shown" if effect.shown else "no effect shown"
    spread = f"standard deviation {deviation:.2f}, 95% interval {interval(effect.interval)}"
    return f"Sharpe {effect.mean:+z.2f} ({spread}): {word}"


def _pairs_needed(seed_spread: float) -> int:
    """Pairs that a paired test at 5% needs to find `_TOLD_APART` with power 80%, by the normal approximation."""
    return max(2, math.ceil((1.96 + 0.84) ** 2 * 2 * seed_spread**2 / _TOLD_APART**2))


# --- environment ---


def _environment(history: AttemptHistory) -> list[Lesson]:
    begun, lessons = history.begun, []
    for symptom, attempts in history.with_symptoms().items():
        if symptom.split(".")[0] in _ENVIRONMENT:
            worst = next(f for f in attempts[0].agent.alarms if f.symptom == symptom)
            what = f"showed {_title(symptom)} (`{symptom}`; for instance {safe(worst.evidence)})"
            lessons.append(_share(what, attempts, begun))
    for kind, words in INCIDENTS.items():
        if met := [attempt for attempt in history.attempts if attempt.incidents.get(kind)]:
            lessons.append(_share(f"met this: {words}", met, history.attempts))
    if begun and not lessons:
        groups = ", ".join(_ENVIRONMENT)
        text = f"no alarming row of the groups {groups}, no failed allocation, no torn file"
        lessons.append(_lesson(text, begun, "agent", links=False))
    return lessons


# --- Phase 4 ---


def _recommendations(history: AttemptHistory) -> list[Lesson]:
    graded, begun = history.graded, history.begun
    lessons = []
    if graded:
        lessons.append(_advice_on_scale(graded))
    for effect in history.effects:
        if effect.shown:
            better, other = (effect.after, effect.before) if effect.mean > 0 else (effect.before, effect.after)
            text = f"set {code(f'{effect.path} = {better}')}, not {safe(other)}; from {safe(effect.before)} to "
            text += f"{safe(effect.after)}: {_effect_words(effect)}"
            lessons.append(Lesson(text, len(effect.differences), "pair", effect.runs))
    if history.effects and not any(effect.shown for effect in history.effects):
        pairs = sum(len(effect.differences) for effect in history.effects)
        lessons.append(Lesson("keep the values of the spec: no varied knob has a shown effect", pairs, "pair"))
    lessons += [_advice_on(repair) for repair in history.repairs if repair.known >= ENOUGH]
    if begun:
        sound = [attempt for attempt in begun if attempt.sound]
        score = len(sound) / len(begun)
        advice = "at or above" if score >= _STEADY else "fix what is listed above first; it is below"
        what = f"were trained soundly: training stability score {score:.2f}, {advice} the guide's {_STEADY}"
        lessons.append(_share(what, sound, begun))
    if costs := _core_seconds(history):
        hours = np.array([seconds for _, seconds in costs]) * PHASE4_AGENTS / 3_600
        spread = f", {format_number(hours.min())} to {format_number(hours.max())} by agent" if len(hours) > 1 else ""
        text = f"plan about {format_number(hours.mean())} core-hours for {PHASE4_AGENTS} agents{spread}"
        those = [attempt for attempt, _ in costs]
        lessons.append(_lesson(f"{text}, at these budgets and this machine's pace", those, "agent", links=False))
    if history.seed_spread is not None:
        pairs = _pairs_needed(history.seed_spread)
        text = f"compare settings over {pairs} pairs of agents (symbols × seeds) or more"
        less = f"with fewer, the effect of seeds hides a difference of {_TOLD_APART} Sharpe"
        lessons.append(Lesson(f"{text}; {less}", len(history.seed_differences), "seed pair"))
    elif graded:
        text = "the spread over seeds is unknown, so no setting can be judged: train with `seeds = [1, 2, 3]`"
        lessons.append(Lesson(text, 0, "seed pair"))
    return lessons


def _advice_on_scale(graded: Sequence[Attempt]) -> Lesson:
    """Scale only for agents that hold as a family, over buy-and-hold and at equal exposure."""
    members = [attempt.agent.member for attempt in graded if attempt.agent.member is not None]
    families = [family(members, yardstick) for yardstick in ("buy_and_hold", "equal_exposure")]
    both = set(families[0].hold) & set(families[1].hold)
    advice = f"scale with {listed(sorted(both))}" if both else "do not scale for an edge"
    words = " ".join(safe(family_sentence(found)) for found in families)
    shown = [attempt for attempt in graded if attempt.agent.over_buy_and_hold == "shown"]
    return Lesson(f"{advice}: {words}", len(graded), "agent", _runs(shown))


def _advice_on(repair: Repair) -> Lesson:
    """Advice on an intervention with enough known outcomes."""
    low, high = repair.interval or (0.0, 1.0)
    word = "keep" if low > 0.5 else "drop or change" if high < 0.5 else "go on watching"
    lesson = _repair_lesson(repair)
    return Lesson(f"{word} the {lesson.text}", lesson.n, lesson.unit, lesson.runs)


def _core_seconds(history: AttemptHistory) -> list[tuple[Attempt, float]]:
    """Seconds of one process that each finished agent took: its steps at its own pace, shared with those in its run."""
    costs = []
    for attempt in history.graded:
        speed = attempt.agent.ranges.get("perf/steps_per_second")
        together = sum(other.run == attempt.run for other in history.attempts)
        if speed is not None and speed.last > 0:
            costs.append((attempt, attempt.agent.total_timesteps / (speed.last * together)))
    return costs


# --- words ---


def _title(symptom: str) -> str:
    return f'"{SYMPTOMS[symptom].title}"' if symptom in SYMPTOMS else code(symptom)


def _mean_of(values: Sequence[float], form: str) -> str:
    """`0.31 ± 0.12`"""
    spread = f" ± {np.std(values, ddof=1):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"


def _known(attempts: Iterable[Attempt], metric: str) -> list[float]:
    return [value for attempt in attempts if (value := attempt.metric(metric)) is not None]


def _runs(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(attempt.run for attempt in attempts))
