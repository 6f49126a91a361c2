"""Settings of a search whose values do not go together, such as a minibatch that is larger than its rollout."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from p3kit.spec.crosschecks import crosschecks
from p3kit.spec.error_messages import problems_of
from p3kit.spec.keypath import split_path, with_value
from p3kit.spec.models import SearchRange, Spec
from p3kit.spec.writing import toml_value

MOST_SETTINGS = 2_000
"""Settings that are checked before a search begins; of a larger space, this number drawn at random."""


@dataclass(frozen=True)
class Unfit:
    """Settings of `tune.space` that do not fit."""

    number: int
    total: int
    is_exact: bool
    """All settings of the space were checked."""
    example: str

    def note(self) -> str:
        """One sentence, to be printed before the search begins."""
        which = f"{self.number:,} of {self.total:,} settings do" if self.is_exact else "some settings do"
        return f"tune.space: {which} not fit; they are neither tried nor counted: with {self.example}"


def misfit(spec: Spec, values: Mapping[str, Any]) -> str:
    """The reason why the values of a setting do not go together; empty if they do."""
    tables: dict[str, Any] = spec.model_dump(mode="json", exclude={"tune"})
    for path, value in values.items():
        tables = with_value(tables, split_path(path), value)
    try:
        found = next(crosschecks(type(spec).model_validate(tables)), None)
    except ValidationError as error:
        return problems_of(error, type(spec), tables)[0].what
    return found.problem.what if found is not None else ""


def unfit_settings(spec: Spec) -> Unfit | None:
    """The settings of `tune.space` that do not fit; None where all that were checked do."""
    if spec.tune is None:
        return None
    columns = {path: _values(space) for path, space in spec.tune.space.items()}
    is_whole = all(is_every for _, is_every in columns.values())
    total = math.prod(len(values) for values, _ in columns.values())
    if total <= MOST_SETTINGS:
        combinations = list(itertools.product(*(values for values, _ in columns.values())))
    else:
        draw = random.Random(0)
        combinations = [tuple(draw.choice(values) for values, _ in columns.values()) for _ in range(MOST_SETTINGS)]
    settings = [dict(zip(columns, values, strict=True)) for values in combinations]
    reasons = [(setting, reason) for setting in settings if (reason := misfit(spec, setting))]
    if not reasons:
        return None
    setting, reason = reasons[0]
    written = ", ".join(f"{path} = {toml_value(value)}" for path, value in setting.items())
    return Unfit(len(reasons), total, is_whole and total <= MOST_SETTINGS, f"{written}: {reason}")


def _values(space: SearchRange | Sequence[Any]) -> tuple[list[Any], bool]:
    """Values of one key, and whether these are all: the choices, or the ends of a range."""
    if not isinstance(space, SearchRange):
        return list(space), True
    low, high = space.low, space.high
    if isinstance(low, int) and isinstance(high, int) and high - low < 64:
        return list(range(low, high + 1)), True
    return [low, high], False
