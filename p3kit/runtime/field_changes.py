"""A field of a rollout beside the numbers that it should have: where it departs, and by which change.

Notation for shapes: T steps, N envs, B compared rows of the flat table (T·N), C columns of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MISMATCH, CHANGE = "mismatch/", "change/"
STORED, LEARNT = "stored.", "learnt."
_DERIVED = ("next value", "final value", "paid", "returns", "advantage", "value loss", "log_prob")
MOST_STEPS = 8
"""Largest shift that is recognised, in steps."""
_MOSTLY = 0.9


def is_exact(name: str) -> bool:
    """True for a field that no second environment is needed for: one departing environment is enough."""
    return name.startswith((STORED, LEARNT)) or name in _DERIVED


@dataclass(frozen=True)
class Field:
    """A field and what it should be."""

    name: str
    seen: Tensor
    """(T, N), (T, N, C), or (B,), (B, C) with `rows`."""
    table: Tensor
    """(T, N) or (T, N, C): the right numbers."""
    error: float
    """Relative difference that rounding explains."""
    near: Tensor | float = 0.0
    """Absolute difference that rounding explains."""
    rows: Tensor | None = None
    """(B,) rows of the flat table that were compared."""
    columns: tuple[str, ...] = ()
    """Names of the C columns, where each counts by itself."""
    swapped: Tensor | None = None
    """(T, N) another field whose numbers this one may hold."""
    inner: Callable[[], Sequence[Field]] | None = None
    """Fields that the relation consists of; the first one with a change that explains the departure is named."""

    @property
    def expected(self) -> Tensor:
        """The right numbers, shaped as `seen`."""
        return self.table if self.rows is None else self.table.flatten(0, 1)[self.rows]

    def departs(self) -> Tensor:
        """Elements of `seen` that differ by more than rounding; numbers that are not finite do not."""
        seen, expected = self.seen, self.expected
        if not seen.is_floating_point():
            return seen != expected
        distance = (seen - expected).abs()
        return distance > self.near + self.error * (1 + expected.abs())

    def shares(self) -> Iterator[tuple[str, Tensor]]:
        """(name, fraction of the environments with a departing row), 0-d; one pair per column where they are named."""
        if self.seen.device.type == "cpu" and torch.equal(self.seen, self.expected):  # nobody waits for a CPU
            names = [f"{self.name}.{column}" for column in self.columns] or [self.name]
            yield from ((name, torch.zeros((), dtype=torch.float64)) for name in names)
            return
        departs = self.departs()
        if departs.dim() > (2 if self.rows is None else 1) and not self.columns:
            departs = departs.any(-1)
        if self.rows is None:
            envs = departs.any(0)
        else:
            shape = (self.table.shape[1], *departs.shape[1:])
            envs = torch.zeros(shape, dtype=torch.bool, device=departs.device)
            place = (self.rows % self.table.shape[1],)
            envs = envs.index_put(place, departs, accumulate=True)
        share = envs.double().mean(0)
        if self.columns:
            yield from ((f"{self.name}.{name}", share[i]) for i, name in enumerate(self.columns))
        else:
            yield self.name, share

    def column(self, name: str) -> Field:
        """The field of one column, for a name that `shares` gave."""
        if not self.columns:
            return self
        i = self.columns.index(name.removeprefix(f"{self.name}."))
        return replace(self, name=name, seen=self.seen[..., i], table=self.table[..., i], columns=())


def changes_of(fields: Sequence[Field], shares: Mapping[str, float], earlier: Mapping[str, Tensor]) -> dict[str, float]:
    """The changes of the fields that depart by `shares`. `earlier` holds tables of the iteration before, by field."""
    found: dict[str, float] = {}
    for field in fields:
        names = [f"{field.name}.{column}" for column in field.columns] or [field.name]
        for name in (name for name in names if shares.get(name)):
            found |= _change(field.column(name), earlier.get(name))
    return found


def _change(field: Field, earlier: Tensor | None) -> dict[str, float]:
    """The change that explains the rows of the departing environments: `FIELD.shift` in steps, `FIELD.factor`,
    `FIELD.stale`, `FIELD.swapped` or `FIELD.mixed`; empty where none does."""
    if field.inner is not None:
        return next((change for one in field.inner() if (change := _change(one, earlier))), {})
    if field.table.dim() > 2:
        return {}
    num_envs = field.table.shape[1]
    rows = torch.arange(field.table.numel(), device=field.table.device) if field.rows is None else field.rows
    departs = field.departs().flatten()
    chosen = torch.isin(rows % num_envs, rows[departs] % num_envs)
    seen, rows, departs = field.seen.flatten()[chosen], rows[chosen], departs[chosen]
    if not len(seen):
        return {}
    for kind, value, guess in _guesses(field, seen, rows, earlier):
        fits = ~Field("", seen, guess, field.error, field.near).departs()
        if _share(fits) > _MOSTLY and _share(fits[departs]) > _MOSTLY:
            return {f"{field.name}.{kind}": value}
    numbers = (table.double().round(decimals=5) for table in (seen, field.table))
    return {f"{field.name}.mixed": 1.0} if _share(torch.isin(*numbers)) > _MOSTLY else {}


def _share(of: Tensor) -> float:
    return float(of.double().mean())


def _guesses(field: Field, seen: Tensor, rows: Tensor, earlier: Tensor | None) -> Iterable[tuple[str, float, Tensor]]:
    """(kind, value, numbers of these rows under that change)."""
    steps, num_envs = field.table.shape
    flat, t, env = field.table.flatten(), rows // num_envs, rows % num_envs
    for k in (sign * size for size in range(1, MOST_STEPS + 1) for sign in (1, -1)):
        yield "shift", float(k), flat[(t - k) % steps * num_envs + env]
    if field.swapped is not None:
        yield "swapped", 1.0, field.swapped.flatten()[rows]
    if seen.is_floating_point():
        large = flat[rows].abs() >= flat[rows].abs().median()
        factor = (seen[large].double() / flat[rows][large].double()).nanmedian()
        yield "factor", float(factor), (flat[rows].double() * factor).to(seen.dtype)
    if earlier is not None and earlier.shape == field.table.shape:
        yield "stale", 1.0, earlier.flatten()[rows]
