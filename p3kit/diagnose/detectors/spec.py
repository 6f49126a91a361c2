"""Detectors of `spec.*`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Span, Ticks, sustained
from p3kit.diagnose.findings import Finding, format_number, format_steps
from p3kit.diagnose.registry import LEAST_TRAINING, Row, detector, nothing_recorded, passed, raised

_PREFIX = "realised/"
_BOUNDS = ("ppo.target_kl",)
"""Settings that bound a number from above: a smaller one is no difference."""
_ESTIMATED = ("ppo.clip_range",)
"""Settings of which an update gives an estimate and no exact value: a difference has to last a fifth of training."""
_CAUSES = {
    "ppo.learning_rate": "optimiser",
    "ppo.weight_decay": "optimiser",
    "ppo.max_grad_norm": "optimiser",
    "ppo.gamma": "targets",
    "ppo.gae_lambda": "targets",
    "ppo.vf_coef": "loss",
    "ppo.ent_coef": "loss",
    "ppo.clip_range": "loss",
}
"""Part of the training that uses a setting; reward weights belong to the reward, the others are counts."""


@dataclass(frozen=True)
class _Difference:
    """A setting whose value in the record differs from the spec's, from its first to its last tick."""

    path: str
    realised: Ticks
    asked: Floats
    span: Span

    @property
    def size(self) -> float:
        """Difference at its first tick, as a fraction of the larger of the two values."""
        at = self.span.first
        seen, asked = float(self.realised.values[at]), float(self.asked[at])
        return abs(seen - asked) / max(abs(seen), abs(asked), 1e-12)

    @property
    def text(self) -> str:
        at = self.span.first
        seen, asked = float(self.realised.values[at]), float(self.asked[at])
        return f"{self.path} is {format_number(asked)}, and the record shows {format_number(seen)}"


@detector("spec.no_effect", warn=0.02)
def setting_without_effect(evidence: Evidence, row: Row) -> Finding:
    """Compare the settings of the spec, after schedules and interventions, with those that an update realised. The
    relation is exact, so one update is enough."""
    paths = [name.removeprefix(_PREFIX) for name in evidence.series if name.startswith(_PREFIX)]
    if evidence.task:  # a task pays its own reward, whatever the weights of the components
        paths = [path for path in paths if not path.startswith("reward.")]
    same = _same_as_another_seed(evidence, row)
    if not paths and same is None:
        return nothing_recorded(evidence, row, "realised/…")
    found = [one for path in sorted(paths) if (one := _difference(evidence, row, path)) is not None]
    if found:
        first = min(found, key=lambda one: (one.realised.steps[one.span.first], -one.size))
        causes = [(1.0 + one.size, _cause(one.path), one.text) for one in [first, *found]]
        causes[0] = (3.0, *causes[0][1:])
        unique = list({name: (weight, name, why) for weight, name, why in reversed(causes)}.values())
        text = "; ".join([first.text, *(one.text for one in found if one is not first)][:_MOST_SHOWN])
        return raised(evidence, row, first.realised, first.span, first.size, text, causes=unique, component=first.path)
    if same is not None:
        return same
    return passed(evidence, row, f"{len(paths)} settings show in the record as the spec sets them")


_MOST_SHOWN = 3


def _difference(evidence: Evidence, row: Row, path: str) -> _Difference | None:
    realised = evidence.evaluations(_PREFIX + path)
    asked = _asked(evidence, path, realised.steps)
    if asked is None or not len(realised):
        return None
    error = row.warn * np.maximum(np.abs(asked), np.abs(realised.values)) + 1e-8
    above = realised.values - asked > error
    apart = above if path in _BOUNDS else above | (asked - realised.values > error)
    patience = _rows_of_a_fifth(evidence, realised) if path in _ESTIMATED else row.patience
    span = sustained(apart & np.isfinite(asked), patience)
    return None if span is None else _Difference(path, realised, asked, span)


def _rows_of_a_fifth(evidence: Evidence, ticks: Ticks) -> int:
    """Rows of the record in a fifth of training, at least three."""
    each = float(np.median(np.diff(ticks.steps, prepend=0)))
    return max(3, int(np.ceil(LEAST_TRAINING * evidence.total_timesteps / max(each, 1.0))))


def _asked(evidence: Evidence, path: str, steps: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats | None:
    """The value in force at each step; None where it is a word such as "off"."""
    plain = evidence.setting(path)
    if not isinstance(plain, (int, float)) or isinstance(plain, bool):
        return None
    moved = evidence.evaluations(f"effective/{path}")
    in_force: Floats = moved.at(steps) if len(moved) else np.full(len(steps), float(plain))
    return np.where(np.isfinite(in_force), in_force, float(plain))


def _cause(path: str) -> str:
    return "reward" if path.startswith("reward.") else _CAUSES.get(path, "count")


_ALIKE = ("policy/entropy", "value/value_loss", "reward/mean")
"""Numbers that two seeds share by chance never."""


def _same_as_another_seed(evidence: Evidence, row: Row) -> Finding | None:
    """Two agents of one symbol and two seeds that have the same numbers did not use their seeds."""
    own = evidence.spec.get("seeds"), evidence.spec.get("symbols")
    for peer in evidence.peers:
        other = peer.spec.get("seeds"), peer.spec.get("symbols")
        if own[0] == other[0] or own[1] != other[1] or None in (*own, *other):
            continue
        pairs = [(evidence.ticks(name), peer.ticks(name)) for name in _ALIKE]
        if all(len(a) and len(b) and a.values[0] == b.values[0] for a, b in pairs):
            clock = pairs[0][0]
            text = f"the same numbers as {peer.agent} at {format_steps(int(clock.steps[0]))}, under another seed"
            cause = [(1.0, "seed", f"{', '.join(_ALIKE)} are equal to the last bit")]
            return raised(evidence, row, clock, Span(0, len(clock) - 1, True), 0.0, text, causes=cause)
    return None
