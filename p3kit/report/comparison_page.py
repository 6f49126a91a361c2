"""`p3kit compare`: words for the data of `comparison_data.py`, as markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.edge import shown_of
from p3kit.escape import code
from p3kit.escape import markdown as safe
from p3kit.headline import Scored, agents_sentence
from p3kit.report.agent_data import AgentSummary
from p3kit.report.comparison_data import EXCESS, MEASURES, SHARPE, Comparison, Contrast, Group, Interval, Measure, Pair
from p3kit.report.comparison_picture import draw_comparison
from p3kit.report.learning_picture import band_words, draw_learning
from p3kit.report.markdown import count_of, interval, listed, ratio, render, table, write_page

_MOST_PAIRS = 20
_MOST_SENTENCES = 3


def write_comparison(comparison: Comparison, path: Path, templates: Path | None = None) -> Path:
    """Write the page to `path` and its pictures beside it. Hand-written parts of the page are kept."""
    equity, learning = path.with_suffix(".png"), path.with_name(f"{path.stem}-learning.png")
    pictures = {}
    if draw_learning(comparison, learning):
        pictures[learning.name] = band_words(comparison)
    if draw_comparison(comparison, equity):
        pictures[equity.name] = "Equity on the validation split."
    return write_page(render_comparison(comparison, pictures, templates), path)


def render_comparison(
    comparison: Comparison, pictures: Mapping[str, str] | None = None, templates: Path | None = None
) -> str:
    """The markdown of the page. `pictures`: paths relative to it, with their captions."""
    return render(
        "compare.md.j2",
        templates,
        comparison=comparison,
        headline=comparison_headline(comparison),
        title=" · ".join(safe(group.label) for group in comparison.groups),
        spec_table=_spec_table(comparison),
        results=_results(comparison.groups),
        contrasts=[
            {
                "label": safe(contrast.label),
                "against": safe(comparison.groups[0].label),
                "pairs": _pairs_table(comparison.groups[0], contrast),
                "lines": contrast_lines(contrast),
                "parity": contrast.parity,
                "parity_why": parity_words(contrast),
            }
            for contrast in comparison.contrasts
        ],
        pictures=pictures or {},
    )


def comparison_headline(comparison: Comparison) -> str:
    """The outcome in plain words: which group is shown to differ from the first, then who beats buy-and-hold."""
    first = comparison.groups[0].label
    words = [_contrast_headline(contrast, first) for contrast in comparison.contrasts[:_MOST_SENTENCES]]
    if (left := len(comparison.contrasts) - _MOST_SENTENCES) > 0:
        words.append(f"{left} more groups are compared below.")
    return " ".join([*words, agents_sentence(_scored_members(comparison))])


def _contrast_headline(contrast: Contrast, first: str) -> str:
    pair, mean, bounds = f"{contrast.label} and {first}", contrast.mean, contrast.interval
    if contrast.pairs and all(one.identical for one in contrast.pairs):
        return f"{pair} trade alike, bar for bar."
    if len(contrast.known) == 1:
        mean, bounds = contrast.known[0].difference, contrast.known[0].interval
    if mean is None:
        return f"{pair} cannot be compared."
    if bounds is None:
        return f"{pair} are not shown to differ: Sharpe ratio {mean:+z.2f}, without an interval."
    figures = f"Sharpe ratio {mean:+z.2f}, 95% interval {interval(bounds)}"
    if bounds[0] <= 0 <= bounds[1]:
        return f"{pair} are not shown to differ: {figures}."
    where = " on these dates" if len(contrast.known) == 1 else ""
    return f"{contrast.label} is shown to be {'better' if mean > 0 else 'worse'} than {first}{where}: {figures}."


def _scored_members(comparison: Comparison) -> list[Scored]:
    """Each graded agent once: it may be in several groups."""
    members = {member.label: member for group in comparison.groups for member in group.members}
    return [
        replace(member.agent.scored, name=name)
        for name, member in members.items()
        if member.agent.complete and member.agent.scores
    ]


# --- what differs ---


def _spec_table(comparison: Comparison) -> str:
    headings = ["Spec path", *(safe(group.label) for group in comparison.groups)]
    rows = [
        [
            code(d.path),
            *(f"{safe(v)} ({safe(o)})" for v, o in zip(d.values, d.origins, strict=True)),
        ]
        for d in comparison.differences
    ]
    return table(headings, rows) if rows else ""


# --- results ---


def _results(groups: Sequence[Group]) -> str:
    rows = [
        ["agents", *(str(len(group.members)) for group in groups)],
        ["grades", *(", ".join(f"{count} {safe(grade)}" for grade, count in group.grades.items()) for group in groups)],
        ["edge over buy-and-hold shown", *(_shown(group) for group in groups)],
    ]
    if any(member.agent.intervened for group in groups for member in group.members):
        counts = [(sum(member.agent.intervened for member in group.members), len(group.members)) for group in groups]
        rows.append(["intervened while training", *(f"{some} of {every}" for some, every in counts)])
    for measure in MEASURES:
        cells = [_cell(measure, group) for group in groups]
        if any(cell != "n/a" for cell in cells):
            rows.append([measure.heading, *cells])
    return table(["", *(safe(group.label) for group in groups)], rows)


def _shown(group: Group) -> str:
    return shown_of([member.agent.over_buy_and_hold for member in group.members if member.agent.complete])


def _cell(measure: Measure, group: Group) -> str:
    """One agent: its value, with the bootstrap interval where there is one. Several: mean ± standard deviation."""
    values = group.values(measure)
    if not values:
        return "n/a"
    if len(group.members) == 1:
        bounds = _bounds(measure, group.members[0].agent)
        return f"{values[0]:{measure.form}}" + (f" {interval(bounds)}" if bounds else "")
    missing = "" if len(values) == len(group.members) else f" ({len(values)} of {len(group.members)})"
    if len(values) == 1:
        return f"{values[0]:{measure.form}}{missing}"
    return f"{np.mean(values):{measure.form}} ± {np.std(values, ddof=1):{measure.form}}{missing}"


def _bounds(measure: Measure, agent: AgentSummary) -> Interval | None:
    """The interval of the excess is that of the label, which accounts for the choice of the weights."""
    if measure is EXCESS:
        bounds = (agent.over("buy_and_hold") or {}).get("interval")
        return (bounds[0], bounds[1]) if bounds else None
    return agent.scores.sharpe_interval if measure is SHARPE and agent.scores else None


# --- the difference ---


def _pairs_table(reference: Group, contrast: Contrast) -> str:
    shown = sorted(contrast.pairs, key=lambda pair: -abs(pair.difference or 0.0))[:_MOST_PAIRS]
    order = {id(pair): number for number, pair in enumerate(contrast.pairs)}
    shown.sort(key=lambda pair: order[id(pair)])
    rows = [
        [
            safe(pair.other.agent.name) + _mark(pair),
            ratio(SHARPE.of(pair.reference.agent)),
            ratio(SHARPE.of(pair.other.agent)),
            _difference(pair),
        ]
        for pair in shown
    ]
    return table(["Agent", safe(reference.label), safe(contrast.label), "Difference"], rows) if rows else ""


def _mark(pair: Pair) -> str:
    """Mark the agents of a pair that interventions changed."""
    who = [word for word, one in (("left", pair.reference), ("right", pair.other)) if one.agent.intervened]
    return f" (intervened: {' and '.join(who)})" if who else ""


def _difference(pair: Pair) -> str:
    if pair.identical:
        return "none: bar for bar the same"
    if pair.difference is None:
        return f"n/a ({pair.why_not or 'no Sharpe ratio'})"
    bounds = f" {interval(pair.interval)}" if pair.interval else f" ({pair.why_not})"
    return f"{pair.difference:+z.2f}{bounds}"


def contrast_lines(contrast: Contrast) -> list[str]:
    """Lines with the mean effect over the pairs, and its interval."""
    if not contrast.pairs:
        return ["No agent has a partner of equal symbol, seed and matrix point in the first group."]
    lines = []
    if len(contrast.pairs) > _MOST_PAIRS:
        lines.append(f"The {_MOST_PAIRS} largest differences of {len(contrast.pairs)} pairs are listed.")
    if len(contrast.known) == 1:
        bounds = contrast.known[0].interval
        if bounds is not None and not contrast.known[0].identical:
            word = "shown" if bounds[0] > 0 or bounds[1] < 0 else "not shown"
            lines.append(f"A difference is {word} on these dates; one pair gives no estimate of the effect of a seed.")
    elif contrast.mean is not None and contrast.interval is not None:
        word = "shown" if contrast.interval[0] > 0 or contrast.interval[1] < 0 else "not shown"
        lines.append(
            f"Mean difference over {count_of(len(contrast.known), 'pair')}: {contrast.mean:+z.2f}, 95% interval "
            f"{interval(contrast.interval)} (Student's t, as if pairs were independent): a difference is {word}."
        )
    if contrast.other_seed is not None:
        lines.append(
            f"Two seeds of one spec lie up to {contrast.other_seed:.2f} apart in 95% of the cases (standard deviation "
            f"over seeds {contrast.seed_spread:.2f})."
        )
    if contrast.speed_ratio is not None:
        lines.append(f"Speed: {contrast.speed_ratio:.2f} times the reference's env steps/s at the end of training.")
    return lines


def parity_words(contrast: Contrast) -> str:
    """The reasons behind the verdict on parity, in one or two sentences; empty where there is none."""
    seeds = "Train both with several seeds (`--set 'seeds=[1, 2, 3]'`) to learn what seeds alone do"
    match contrast.parity:
        case None:
            return ""
        case "differ" if contrast.nan_in:
            return f"{listed(contrast.nan_in)} met numbers that are not finite, the reference did not."
        case "differ":
            return "The interval of the mean difference leaves out 0: computing it this way changes the result."
        case "match" if all(pair.identical for pair in contrast.pairs):
            return "Every agent does the same, bar for bar."
        case "match":
            most = max(abs(bound) for bound in contrast.interval or (0.0,))
            within = f"its whole interval is within the effect of another seed; up to {most:.2f} cannot be ruled out"
            return f"The mean difference is compatible with 0, and {within}."
        case _ if contrast.other_seed is None:
            return f"No spread over seeds is known, so the difference has nothing to be measured by. {seeds}."
        case _:
            what = "the interval of the mean difference is wider than what another seed would do"
            return f"Neither is shown: {what}. Train more symbols or seeds."


# --- JSON ---


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs."""
    return {
        "by": comparison.by,
        "synthetic": comparison.synthetic,
        "groups": [_group_json(group) for group in comparison.groups],
        "differences": [
            {
                "path": d.path,
                "values": dict(zip(_labels(comparison), d.values, strict=True)),
                "origins": dict(zip(_labels(comparison), d.origins, strict=True)),
            }
            for d in comparison.differences
        ],
        "beside": list(comparison.beside),
        "contrasts": [_contrast_json(comparison.groups[0], contrast) for contrast in comparison.contrasts],
    }


def _labels(comparison: Comparison) -> list[str]:
    return [group.label for group in comparison.groups]


def _group_json(group: Group) -> dict[str, Any]:
    measures = {}
    for measure in MEASURES:
        values = group.values(measure)
        if values:
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            measures[measure.metric] = {"mean": float(np.mean(values)), "std": spread, "n": len(values)}
    return {
        "label": group.label,
        "grades": group.grades,
        "measures": measures,
        "agents": [
            {
                "run": member.agent.run,
                "agent": member.agent.name,
                "state": member.agent.state,
                "grade": member.agent.grade,
                "labels": list(member.agent.labels),
                "intervened": member.agent.intervened,
                "over_buy_and_hold": member.agent.over_buy_and_hold,
                "metrics": dict(member.agent.scores.metrics) if member.agent.scores else None,
                "sharpe_interval": member.agent.scores.sharpe_interval if member.agent.scores else None,
                "excess_interval": member.agent.scores.excess_interval if member.agent.scores else None,
            }
            for member in group.members
        ],
    }


def _contrast_json(reference: Group, contrast: Contrast) -> dict[str, Any]:
    return {
        "reference": reference.label,
        "group": contrast.label,
        "mean": contrast.mean,
        "interval": contrast.interval,
        "seed_spread": contrast.seed_spread,
        "speed_ratio": contrast.speed_ratio,
        "parity": contrast.parity,
        "parity_why": parity_words(contrast),
        "pairs": [
            {
                "reference": pair.reference.label,
                "other": pair.other.label,
                "difference": pair.difference,
                "interval": pair.interval,
                "identical": pair.identical,
                "why_not": pair.why_not,
            }
            for pair in contrast.pairs
        ],
    }
