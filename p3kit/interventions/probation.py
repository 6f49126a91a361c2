"""Probation of actions: the run's own evaluations before and after, and the snapshot that returns if they fell.

Actions that follow while one is on probation share its snapshot, and the time starts again. An agent's evaluation is
worse only if its Sharpe ratio fell by more than the 95 % noise of both evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from p3kit.interventions.modifiers import Clock

MOST, LEAST, SHARE = 8, 3, 0.2
"""Updates of a probation: this share of those planned, within these bounds, and as many as a rollback threw away."""
_Z = 1.96


def snapshot_name(step: int) -> str:
    """The name of the checkpoint that is written before an action."""
    return f"before-{step:09d}"


@dataclass(frozen=True)
class Probation:
    """The actions of one agent that are on probation."""

    step: int
    """Env steps at the snapshot."""
    since: int
    """Updates at the newest action."""
    updates: int
    """Updates after which the evaluations are compared."""
    rules: list[str]
    """Ids of the rules that acted since the snapshot, the first one first."""
    undone: list[list[int]] = field(default_factory=list)
    """Stretches that rollbacks had undone before the snapshot."""
    reward_edits: int = 0
    of_group: bool = False
    """True if the first action was that of a group: its agents are compared together."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any] | None) -> Probation | None:
        """Restore what `to_json` gave."""
        return None if fields is None else cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    def joined(self, rule: str, clock: Clock, updates: int) -> Probation:
        """This probation after another action."""
        rules = list(dict.fromkeys([*self.rules, rule]))
        return replace(self, since=clock.updates, updates=max(self.updates, updates), rules=rules)

    def is_due(self, clock: Clock) -> bool:
        """True once its updates have passed."""
        return clock.updates - self.since >= self.updates

    def begins(self, clock: Clock) -> bool:
        """True while the snapshot and the first evaluation are due."""
        return clock.env_steps == self.step


def probation_updates(clock: Clock, total_timesteps: int, thrown_away: int) -> int:
    """Updates of a probation; `thrown_away` are the env steps that a rollback undoes."""
    length = max(clock.env_steps / max(clock.updates, 1), 1)
    planned = total_timesteps / length
    return max(LEAST, min(MOST, round(SHARE * planned))) + round(thrown_away / length)


@dataclass(frozen=True)
class Scored:
    """The Sharpe ratio of an evaluation and its standard error."""

    sharpe: float
    error: float | None

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Scored:
        """A policy that never traded has a Sharpe ratio of 0 without error."""
        sharpe, interval = event["metrics"].get("eval/sharpe_ratio"), event.get("sharpe_interval")
        if sharpe is None:
            return cls(0.0, 0.0)
        return cls(float(sharpe), (interval[1] - interval[0]) / (2 * _Z) if interval else None)

    @property
    def low(self) -> float | None:
        """The lower end of its 95 % interval."""
        return None if self.error is None else self.sharpe - _Z * self.error


def fall(before: Sequence[Scored], after: Sequence[Scored]) -> tuple[float, float, float] | None:
    """Mean Sharpe ratio of some agents before and after, and the 95 % noise of the difference; None without it."""
    errors = [one.error for one in (*before, *after)]
    if not errors or None in errors:
        return None
    noise = _Z * math.sqrt(sum(error**2 for error in errors if error)) / len(before)
    return _mean(before), _mean(after), noise


def _mean(scores: Sequence[Scored]) -> float:
    return sum(one.sharpe for one in scores) / len(scores)


def earns(event: Mapping[str, Any], best: Scored) -> bool:
    """True if an evaluation is above HOLD and buy-and-hold by its noise, and not below the best one by its noise."""
    own, hold = Scored.of_event(event), event["metrics"].get("eval/buy_and_hold_sharpe") or 0.0
    if own.error is None or own.low is None:
        return False
    return own.low > max(0.0, hold) and own.sharpe > best.sharpe - _Z * own.error


def newest(events: Iterable[Mapping[str, Any]], first: int, last: int) -> Scored | None:
    """The newest evaluation between two env steps, both included."""
    found = [event for event in events if first <= int(event.get("global_step") or 0) <= last]
    return Scored.of_event(found[-1]) if found else None
