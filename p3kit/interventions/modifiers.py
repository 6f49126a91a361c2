"""Changes that live interventions make to a spec's numbers.

    effective value = schedule(t), or the live `set` that masks it, × the live scales, + the live adds, then clamped

Nothing is ever written into a schedule, which keeps its own clock beneath: where the last modifier of a key ends, its
value is exactly the scheduled one again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from p3kit.spec.actions import Add, Scale, Set
from p3kit.spec.conditions import MinimumData, Span
from p3kit.spec.expansion import full_path
from p3kit.spec.interventions import COMPONENT, Controller, Intervention

UNITS = ("updates", "gradient_steps", "env_steps", "episodes", "evals", "progress")


@dataclass(frozen=True)
class Clock:
    """Progress of an agent, in every unit that a spec may count in. It never runs backwards."""

    updates: int = 0
    gradient_steps: int = 0
    env_steps: int = 0
    episodes: int = 0
    evals: int = 0
    progress: float = 0.0

    def share(self, span: Span, begin: Clock) -> float:
        """Fraction of `span` that has passed since `begin`; at 1 and above it is over."""
        unit, length = unit_of(span)
        passed: float = getattr(self, unit) - getattr(begin, unit)
        return round(passed / length, 9)  # shares of training are no round numbers: 0.3 + 0.4 shall be 0.7

    def lacks(self, need: MinimumData) -> dict[str, float]:
        """Missing part of a minimum of data, by unit."""
        wanted = {unit: getattr(need, unit) or 0 for unit in UNITS}
        return {unit: count for unit, count in wanted.items() if getattr(self, unit) < count}

    def to_json(self) -> list[float]:
        return [getattr(self, unit) for unit in UNITS]

    @classmethod
    def from_json(cls, counts: Iterable[Any]) -> Clock:
        return cls(*counts)


def unit_of(span: Span) -> tuple[str, float]:
    """The one unit of a span, and how many of it."""
    return next((unit, count) for unit in UNITS if (count := getattr(span, unit)) is not None)


def in_words(span: Span) -> str:
    """`10,000 env steps`, `1 update`, `40% of training`."""
    return amount(*unit_of(span))


def amount(unit: str, count: float) -> str:
    """An amount with its unit, as text."""
    if unit == "progress":
        return f"{count:.0%} of training"
    words = unit.replace("_", " ")
    return f"{count:,} {words.removesuffix('s') if count == 1 else words}"


def over(span: Span) -> str:
    """`its 10,000 env steps are over`."""
    return f"its {in_words(span)} {'is' if unit_of(span)[1] == 1 else 'are'} over"


@dataclass(frozen=True)
class Modifier:
    """One live change of one key: which action of which rule, since when. `factor` is a controller's, which moves;
    `component` is the reward component that the evidence named, for a key that leaves it open."""

    rule: str
    action: int
    what: Set | Scale | Add | Controller
    begin: Clock
    factor: float = 1.0
    component: str = ""

    @property
    def key(self) -> str:
        return key_of(self.what).replace(COMPONENT, self.component)

    def strength(self, clock: Clock) -> float:
        """0 to 1: how much of the change is in force; a ramp starts from the value in force and arrives at its end."""
        ramp = getattr(self.what, "ramp", None)
        return 1.0 if ramp is None else min(max(clock.share(ramp, self.begin), 0.0), 1.0)

    def is_over(self, clock: Clock) -> bool:
        """Return True if the modifier has a span, and the span has passed."""
        until = getattr(self.what, "until", "permanent")
        return isinstance(until, Span) and clock.share(until, self.begin) >= 1

    @property
    def until_release(self) -> bool:
        return getattr(self.what, "until", "permanent") == "release"

    def to_json(self) -> list[Any]:
        return [self.rule, self.action, self.begin.to_json(), self.factor, self.component]

    @classmethod
    def from_json(cls, row: list[Any], rules: Iterable[Intervention]) -> Modifier:
        name, action, begin, factor, component = row
        rule = next(rule for rule in rules if rule.id == name)
        what: Any = rule.controller or rule.actions()[action]
        return cls(name, action, what, Clock.from_json(begin), factor, component)


def key_of(what: object) -> str:
    """The full spec path that an action or a controller moves, as it is written; "" for a verb that moves none."""
    match what:
        case Set(set=key) | Scale(scale=key) | Add(add=key) | Controller(key=key):
            return full_path(key)
    return ""


def effective(scheduled: float, modifiers: Iterable[Modifier], clock: Clock) -> float:
    """The current value of a key with these live modifiers.

    A bound limits a modifier and never reverses it. A modifier that raises a value never lowers it below the scheduled
    value (or the `set` that masks it), even if that value is above the bound. The same holds for lowering.
    """
    live = list(modifiers)
    base = scheduled
    for modifier in live:
        if isinstance(modifier.what, Set):
            strength = modifier.strength(clock)
            base = modifier.what.to if strength == 1 else base + (modifier.what.to - base) * strength
    value = base
    for modifier in live:
        if isinstance(modifier.what, Scale):
            value *= 1 + (modifier.what.by - 1) * modifier.strength(clock)
        elif isinstance(modifier.what, Controller):
            value *= modifier.factor
    for modifier in live:
        if isinstance(modifier.what, Add):
            value += modifier.what.by * modifier.strength(clock)
    for modifier in live:
        if not isinstance(modifier.what, Set):
            value = _clamped(value, base, modifier.what)
    return value


def _clamped(value: float, base: float, what: Scale | Add | Controller) -> float:
    low, high = what.min, what.max
    if isinstance(what, Controller):
        return min(max(value, what.min), what.max)
    upwards = what.by > (1 if isinstance(what, Scale) else 0)
    if high is not None:
        value = min(value, max(high, base) if upwards else high)
    if low is not None:
        value = max(value, low if upwards else min(low, base))
    return value
