"""A symptom, its causes, and the changes of spec values that fix them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "information", "gate"]
"""critical: the run is lost or its numbers are invalid · warning · information · gate: a criterion, judged by the verdict."""

Value = float | int | str
"""A value that a patch writes into a spec."""


@dataclass(frozen=True)
class Change:
    """One edit of a spec value: either `to` a value, or scaled `by` a factor and kept within [at_least, at_most].

    `path` may hold `{component}`, the reward component that the evidence names. `usual` is the guide's value, from which
    the catalogue's example is computed; a finding computes from the value that the run really used.
    """

    path: str
    to: Value | None = None
    by: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    usual: float = 0.0

    def applied(self, current: float | int | None) -> Value | None:
        """The value after the change; None where the change would do nothing (the bound is already reached)."""
        if self.by is None:
            return self.to if self.to != current else None
        start = self.usual if current is None else current
        after = start * self.by
        if self.at_most is not None:
            after = min(after, max(self.at_most, start) if self.by > 1 else self.at_most)
        if self.at_least is not None:
            after = max(after, min(self.at_least, start) if self.by < 1 else self.at_least)
        if isinstance(start, int):
            return round(after) if round(after) != start else None
        after = float(f"{after:.3g}")
        return after if after != start else None


@dataclass(frozen=True)
class Cause:
    """One explanation of a symptom. `changes` is empty if a spec cannot fix it."""

    id: str
    meaning: str
    changes: tuple[Change, ...] = ()
    automatic: bool = True
    """Whether an intervention may act on this cause by itself."""


@dataclass(frozen=True)
class Symptom:
    """One row of the troubleshooting table.

    `title` has the guide's words, `evidence` the measured value and its threshold. `automatic` allows an automatic
    repair. `judged` is true if recorded metrics are judged for it: `p3kit check` answers the `probe.` rows before
    training, and each verdict answers the gates.
    """

    id: str
    title: str
    section: str
    severity: Severity
    evidence: str
    causes: tuple[Cause, ...] = ()
    automatic: bool = False
    judged: bool = False
    departure: str = ""
    """Departure of the row from the guide, with the reason. Empty if the row follows the guide."""

    def cause(self, cause_id: str) -> Cause:
        """The cause of that name; KeyError when the catalogue has none."""
        for cause in self.causes:
            if cause.id == cause_id:
                return cause
        raise KeyError(f"{self.id} has no cause {cause_id!r}")
