"""The search space of a sweep: conversion between spec values and Optuna's distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p3kit.spec.keypath import is_written, split_path, value_at_path
from p3kit.spec.models import SearchRange, Spec, Tune
from p3kit.spec.writing import toml_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Space:
    """Search space: Optuna's distributions, and the conversion between its values and the spec's."""

    def __init__(self, tune: Tune) -> None:
        self.ranges = tune.space

    @property
    def paths(self) -> list[str]:
        return list(self.ranges)

    def distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for path, one in self.ranges.items():
            if not isinstance(one, SearchRange):
                found[path] = CategoricalDistribution([_as_choice(item) for item in one])
            elif isinstance(one.low, int) and isinstance(one.high, int):
                found[path] = IntDistribution(one.low, one.high, log=one.log)
            else:
                found[path] = FloatDistribution(float(one.low), float(one.high), log=one.log)
        return found

    def to_spec(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's values as the spec has them: a list that was chosen is a list again."""
        values = {}
        for path in self.paths:
            if path in params:
                one, value = self.ranges[path], params[path]
                items = [] if isinstance(one, SearchRange) else one
                values[path] = next((_plain(item) for item in items if _same(_as_choice(item), value)), value)
        return values

    def of_spec(self, spec: Spec) -> tuple[dict[str, Any], list[str]]:
        """The spec's own values as Optuna takes them, and the paths whose value lies outside of what is searched."""
        tables = spec.model_dump(mode="json")
        params, outside = {}, []
        for path, one in self.ranges.items():
            if not is_written(tables, split_path(path)):
                outside.append(path)
                continue
            value = value_at_path(tables, split_path(path))
            if isinstance(one, SearchRange):
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                inside = is_number and one.low <= value <= one.high
            else:
                inside = any(_same(_as_choice(item), _as_choice(value)) for item in one)
            params[path] = _as_choice(value)
            outside += [] if inside else [path]
        return params, outside

    def settings(self) -> list[dict[str, Any]] | None:
        """Every setting there is, as Optuna takes them; None where there is no end of them."""
        columns = []
        for one in self.ranges.values():
            if not isinstance(one, SearchRange):
                columns.append([_as_choice(item) for item in dict.fromkeys(one)])
            elif isinstance(one.low, int) and isinstance(one.high, int):
                columns.append(list(range(one.low, one.high + 1)))
            else:
                return None
        if math.prod(map(len, columns)) > 10_000:
            return None
        return [dict(zip(self.ranges, values, strict=True)) for values in itertools.product(*columns)]


def _plain(item: Any) -> Any:
    return list(item) if isinstance(item, tuple) else item


def _as_choice(item: Any) -> Any:
    """A choice as Optuna can keep it: a list as its TOML text."""
    return toml_value(item) if isinstance(item, list | tuple) else item


def _same(one: Any, other: Any) -> bool:
    """1 and true are two choices."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
