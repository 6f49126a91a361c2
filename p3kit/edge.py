"""The label "shown to beat buy-and-hold": candidates, one agent's judgement, families of agents, and their words.

The weights are the best of several evaluations on the bars that they are judged on. So every evaluation is a candidate,
and the test is one of the maximum over all of them (White 2000, Hansen 2005). Reports, lessons, portfolio, tuning and
walk-forward take their numbers and sentences from here. docs/evaluation.md has the measured error rates.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from p3kit.significance import (
    DRAWS,
    LEAST_BARS,
    LEVEL,
    TAIL,
    Estimate,
    Floats,
    Interval,
    Sums,
    annual,
    block_length,
    estimate,
    near_block,
    unit_bars,
)

YARDSTICKS = {
    "buy_and_hold": "buy-and-hold",
    "equal_exposure": "buy-and-hold at equal exposure",
    "fixed_rule": "the best fixed rule",
}
"""Yardsticks of a policy, and their names in a sentence."""
SERIES = ("policy", "timing", "buy_and_hold", "fixed_rule")
"""Returns of an evaluation. `timing` is the policy minus buy-and-hold at the same average exposure."""
LEAST_TRADES = 10
"""Closed trades: fewer are an anecdote."""
LEAST_SWITCHES = 20
"""Changes between in the market and out of it: with fewer, a market that turns once decides the result."""
FALSE_SHOWN = 0.022
"""Largest rate of false "shown" in any null of docs/evaluation.md, rounded up."""


@dataclass(frozen=True)
class Candidate:
    """The returns of one evaluation and of its yardsticks on the same bars."""

    global_step: int
    span: str
    """First and last bar; candidates are comparable where they have the same."""
    bars: int
    bars_per_year: float
    trades: int
    switches: int
    rule: str
    """The fixed rule."""
    series: Mapping[str, Sums]
    """By the names of `SERIES`, one column each."""

    @classmethod
    def of(cls, returns: Mapping[str, Floats], **facts: Any) -> Candidate:
        """Add up the bar returns (T,) of the `SERIES`."""
        series = {name: Sums.of(returns[name]) for name in SERIES}
        return cls(bars=len(returns["policy"]), series=series, **facts)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data. Series are packed: float64, zlib, base64."""
        facts = {key: value for key, value in vars(self).items() if key != "series"}
        grouped = self.bars > len(self.series["policy"].bars)
        packed = {
            name: [_pack(one.sums), *([_pack(one.squares)] if grouped else [])] for name, one in self.series.items()
        }
        return {**facts, "series": packed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Read what `to_json` returned. Raises ValueError or KeyError for anything else."""
        bars = unit_bars(int(data["bars"]))
        series = {}
        for name in SERIES:
            columns = [_unpack(text, len(bars)) for text in data["series"][name]]
            series[name] = Sums(bars, columns[0], columns[1] if len(columns) > 1 else columns[0] ** 2)
        facts = {key: data[key] for key in cls.__dataclass_fields__ if key != "series"}
        return cls(series=series, **facts)


def _pack(column: Floats) -> str:
    return base64.b64encode(zlib.compress(column.astype("<f8").tobytes(), 9)).decode("ascii")


def _unpack(text: str, units: int) -> Floats:
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text), 8 * units + 8)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    column = np.frombuffer(unpacked, dtype="<f8").astype(np.float64)
    if len(column) != units or not np.isfinite(column).all():
        raise ValueError(f"{len(column)} returns: expected {units} finite ones")
    return column[:, None]


def _against(candidates: Sequence[Candidate], yardstick: str, block: float | None = None) -> Estimate:
    """The candidates' excess over one yardstick."""
    if yardstick == "equal_exposure":
        return estimate(Sums.beside([one.series["timing"] for one in candidates]), None, block)
    own = Sums.beside([one.series["policy"] for one in candidates])
    return estimate(own, Sums.beside([one.series[yardstick] for one in candidates]), block)


def why_not_judged(chosen: Candidate) -> str:
    """The reason why a policy gets no label; empty where it gets one."""
    if not chosen.trades:
        return "it closed no trade" if chosen.switches else "it never traded"
    if chosen.trades < LEAST_TRADES:
        return f"{chosen.trades} closed trade{'s' * (chosen.trades != 1)}, {LEAST_TRADES} are needed"
    if chosen.switches < LEAST_SWITCHES:
        return f"{chosen.switches} switches between in and out, {LEAST_SWITCHES} are needed"
    if not chosen.series["policy"].enough[0]:
        return f"too few independent bars, {LEAST_BARS} with a return are needed"
    return ""


def judge(
    candidates: Sequence[Candidate], chosen: int, tries: float = 1.0, yardsticks: Iterable[str] = YARDSTICKS
) -> dict[str, Any]:
    """Compare the chosen candidate with every yardstick, as the best of all candidates.

    `tries`: planned evaluations over those that were made. An early stop looks at the results, so the evaluations that
    it left out count as well, as alike as the others.

    {candidates, tries, bars, trades, switches, rule, why_not, over: {yardstick: {excess, interval, p, shown}}}.
    `excess` is a difference of annual Sharpe ratios; at equal exposure it is the annual Sharpe ratio of the difference
    in returns.
    """
    one = candidates[chosen]
    same = _comparable(candidates, one)
    place = next(i for i, other in enumerate(same) if other is one)
    why_not = why_not_judged(one)
    facts = {"bars": one.bars, "trades": one.trades, "switches": one.switches, "rule": one.rule, "why_not": why_not}
    over = {name: _compare(_against(same, name), place, tries, one.bars_per_year, not why_not) for name in yardsticks}
    return {"candidates": len(same), "tries": tries, **facts, "over": over}


def _comparable(candidates: Sequence[Candidate], chosen: Candidate) -> list[Candidate]:
    """Those on the same bars that could have been judged had they been chosen."""
    bars = _bars_of(chosen)
    return [one for one in candidates if one is chosen or (_bars_of(one) == bars and not why_not_judged(one))]


def _compare(found: Estimate, k: int, tries: float, bars_per_year: float, judged: bool) -> dict[str, Any]:
    p = found.p_value(k, tries) if judged else None
    interval = annual(found.interval(k, tries=tries), bars_per_year) if judged else None
    return {
        "excess": float(found.value[k]) * math.sqrt(bars_per_year),
        "interval": interval and list(interval),
        "p": None if p is None else round(p, 6),
        "shown": p is not None and p <= TAIL,
    }


# --- two agents -------------------------------------------------------------------------------------------------------

_MOST_RIVALS = 12
"""Evaluations of one agent in a comparison of two: the time and memory grow with their product."""


def difference_interval(ours: Member, theirs: Member, level: float = LEVEL) -> Interval | None:
    """Confidence interval of the annual Sharpe ratio of our chosen weights minus that of theirs, on the same bars.

    The weights of an agent are the best of its evaluations, and an agent with more of them would look better by luck.
    So the interval holds for all pairs of evaluations at once. Of many evaluations `_MOST_RIVALS` are taken, at even
    distances, and those left out count by Bonferroni's bound. None where the bars differ, or too few have a return.
    """
    own, other = _rivals(ours), _rivals(theirs)
    if not (own and other) or own.bars != other.bars:
        return None
    at = np.arange(own.series.count * other.series.count)
    found = estimate(own.series.only(at // other.series.count), other.series.only(at % other.series.count))
    pair = own.place * other.series.count + other.place
    return annual(found.interval(pair, level, own.tries * other.tries), own.bars_per_year)


class _Rivals(NamedTuple):
    """The chosen evaluation of an agent among others on its bars."""

    series: Sums
    place: int
    """Column of the chosen one."""
    tries: float
    """Planned evaluations over those in `series`."""
    bars: tuple[str, int]
    bars_per_year: float


def _rivals(agent: Member) -> _Rivals | None:
    """None where no evaluation was chosen, or it has too few returns."""
    if (chosen := agent.chosen) is None:
        return None
    bars = _bars_of(chosen)
    same = [one for one in agent.candidates if _bars_of(one) == bars and one.series["policy"].enough[0]]
    place = next((at for at, one in enumerate(same) if one is chosen), None)
    if place is None:
        return None
    kept = sorted({place, *np.linspace(0, len(same) - 1, min(len(same), _MOST_RIVALS)).astype(int).tolist()})
    series = Sums.beside([same[at].series["policy"] for at in kept])
    tries = agent.tries * len(same) / len(kept)
    return _Rivals(series, kept.index(place), tries, bars, chosen.bars_per_year)


def _bars_of(candidate: Candidate) -> tuple[str, int]:
    return candidate.span, candidate.bars


# --- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One agent of a family."""

    name: str
    judged: Mapping[str, Any] | None
    """Result of `judge`; None for an agent of an older p3kit."""
    read: Callable[[], Sequence[Candidate]] = tuple
    """Reads its candidates."""
    chosen_step: int | None = None
    tries: float = 1.0
    """Planned evaluations over those that were made."""

    @cached_property
    def chosen(self) -> Candidate | None:
        """The candidate whose weights were chosen."""
        return next((one for one in self.candidates if one.global_step == self.chosen_step), None)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every evaluation."""
        return list(self.read())


@dataclass(frozen=True)
class Family:
    """All agents that a report is about, compared with one yardstick."""

    yardstick: str
    agents: int
    judged: int
    shown: Sequence[str]
    by_luck: float
    """Agents without an edge that would be shown all the same, at the measured rate."""
    any_p: float | None
    """Chance that the best of all agents looks as good where none has an edge; None where none is judged."""
    hold: Sequence[str]
    """The agents that hold by Benjamini and Hochberg: at most one in twenty of them is false, on average."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "shown": list(self.shown), "hold": list(self.hold)}


def among(member: Member, rivals: Sequence[Member]) -> Member:
    """The member, judged as the best of its own evaluations and of all those of its rivals, such as the trials of a
    sweep. It is not judged where any of them keeps no returns."""
    everyone = [member, *rivals]
    if member.judged is None or member.chosen is None or any(not one.candidates for one in everyone):
        return replace(member, judged=None)
    candidates = [candidate for one in everyone for candidate in one.candidates]  # its own come first
    tries = sum(one.tries * len(one.candidates) for one in everyone) / len(candidates)
    judged = judge(candidates, next(i for i, one in enumerate(candidates) if one is member.chosen), tries)
    return replace(member, judged=judged, read=lambda: candidates, tries=tries)


def family(members: Sequence[Member], yardstick: str = "buy_and_hold") -> Family:
    """The agents together: how many are shown, how many luck alone would show, and which hold as a family."""
    judged = [(one, one.judged["over"][yardstick]) for one in members if one.judged and not one.judged["why_not"]]
    held = benjamini_hochberg([over["p"] for _, over in judged])
    return Family(
        yardstick=yardstick,
        agents=len(members),
        judged=len(judged),
        shown=[one.name for one, over in judged if over["shown"]],
        by_luck=FALSE_SHOWN * len(judged),
        any_p=_any_p([one for one, _ in judged], yardstick),
        hold=[one.name for (one, _), holds in zip(judged, held, strict=True) if holds],
    )


def benjamini_hochberg(p_values: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Mark the hypotheses that are rejected at a false discovery rate of `rate`."""
    order = np.argsort(p_values, kind="stable")
    bound = rate * np.arange(1, len(order) + 1) / max(len(order), 1)
    below = np.flatnonzero(np.asarray(p_values, dtype=np.float64)[order] <= bound)
    rejected = np.zeros(len(order), bool)
    rejected[order[: below[-1] + 1 if len(below) else 0]] = True
    return [bool(one) for one in rejected]


def _any_p(members: Sequence[Member], yardstick: str) -> float | None:
    """Agents on the same bars are drawn with common blocks, so that what moves all symbols counts once. Groups on
    different bars are combined by Bonferroni's bound."""
    groups: dict[tuple[str, int], list[tuple[Member, Candidate]]] = {}
    for one in members:
        if one.chosen is not None:
            groups.setdefault((one.chosen.span, one.chosen.bars), []).append((one, one.chosen))
    if not groups:
        return None
    return min(1.0, len(groups) * min(_any_on_same_bars(group, yardstick) for group in groups.values()))


def _any_on_same_bars(group: Sequence[tuple[Member, Candidate]], yardstick: str) -> float:
    block = near_block(float(np.median([_typical_block(chosen, yardstick) for _, chosen in group])))
    highest, best = np.full(DRAWS, -np.inf), -np.inf
    for one, chosen in group:
        same = _comparable(one.candidates, chosen)
        found = _against(same, yardstick, block)
        highest = np.maximum(highest, found.draws.max(axis=1))
        best = max(best, float(found.ratio[next(i for i, other in enumerate(same) if other is chosen)]))
    tries = max(float((one.judged or {}).get("tries", 1.0)) for one, _ in group)
    return round(min(1.0, tries * (int((highest >= best).sum()) + 1) / (DRAWS + 1)), 6)


def _typical_block(chosen: Candidate, yardstick: str) -> float:
    first, second = chosen.series["timing" if yardstick == "equal_exposure" else "policy"].influence
    return float(block_length(first + second)[0])


# --- words ------------------------------------------------------------------------------------------------------------


def label(judged: Mapping[str, Any] | None, yardstick: str = "buy_and_hold") -> str:
    """`shown`, `not shown`, or `not judged`: an older run, or too little to judge by."""
    if not judged or judged["why_not"]:
        return "not judged"
    return "shown" if judged["over"][yardstick]["shown"] else "not shown"


def shown_of(labels: Sequence[str]) -> str:
    """`1 of 6 (4 not judged)`: the labels `shown` among those that are judged. `not judged` if none is."""
    left = labels.count("not judged")
    if left == len(labels):
        return "not judged"
    return f"{labels.count('shown')} of {len(labels) - left}" + (f" ({left} not judged)" if left else "")


def sentence(grade: str, sharpe: float | None, judged: Mapping[str, Any] | None) -> str:
    """One plain sentence about an agent: what it earned, and what that shows.

    `Sharpe 2.14, no evidence of an edge over buy-and-hold (+0.31, 95 % CI -1.20 to 1.70)`
    """
    return "never traded: nothing to judge" if sharpe is None else f"Sharpe {sharpe:z.2f}, {evidence(grade, judged)}"


def evidence(grade: str, judged: Mapping[str, Any] | None) -> str:
    """Describe what the returns show about an agent with this grade; see `sentence`."""
    if not judged:
        return "edge not judged: the run keeps no returns to judge by"
    if judged["why_not"]:
        return f"edge not judged: {judged['why_not']}"
    over, rule = judged["over"], f"the best fixed rule ({judged['rule']})"
    held, names = over["buy_and_hold"], {"equal_exposure": "buy-and-hold at equal exposure", "fixed_rule": rule}
    beaten = [names[name] for name in names if over[name]["shown"]]
    if not held["shown"]:
        others = f"; beats {' and '.join(beaten)}" if beaten else ""
        return f"no evidence of an edge over buy-and-hold {_figures(held)}{others}"
    text = " and ".join([f"beats buy-and-hold {_figures(held)}", *beaten])
    if not over["equal_exposure"]["shown"]:
        text += "; not shown at equal exposure: holding less may explain it"
    if grade == "FAIL":
        text += "; FAIL because it misses the criteria, which do not look at buy-and-hold"
    return text


def bound(value: float) -> str:
    """A bound of an interval with two decimals, or with the first digit that is not 0: it never reads as 0."""
    text = f"{value:z.2f}"
    return text if float(text) or not value else f"{value:.1g}"


def _figures(over: Mapping[str, Any]) -> str:
    bounds = over["interval"]
    return f"({over['excess']:+z.2f}" + (f", 95 % CI {bound(bounds[0])} to {bound(bounds[1])})" if bounds else ")")


def family_sentence(found: Family) -> str:
    """`2 of 10 agents are shown to beat buy-and-hold; luck alone shows about 0.2. …`"""
    name = YARDSTICKS[found.yardstick]
    if not found.judged:
        return f"No agent of {found.agents} can be judged against {name}."
    left = f" ({found.agents - found.judged} not judged)" if found.judged < found.agents else ""
    agents = "agent is" if found.judged == 1 else "agents are"
    text = (
        f"{len(found.shown)} of {found.judged} {agents} shown to beat {name}{left}; "
        f"luck alone shows about {found.by_luck:.1f}."
    )
    if found.any_p is None or found.judged == 1:
        return text
    some = "Some agent beats it" if found.any_p <= 0.05 else "No sign that any agent beats it"
    names = ", ".join(found.hold) if found.hold else "none"
    return f"{text} {some} (p = {found.any_p:.3f}). All tested at once, these beat it: {names} (Benjamini-Hochberg)."
