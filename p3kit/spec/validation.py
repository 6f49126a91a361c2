"""Plain tables against the models and the checks across tables: a Spec, or everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, create_model

from p3kit.errors import SpecError
from p3kit.spec import field_types
from p3kit.spec.crosschecks import crosschecks, nothing_to_freeze
from p3kit.spec.error_messages import Problem, problems_of
from p3kit.spec.keypath import KeyPath, is_written, without, written_path
from p3kit.spec.knobs import knobs_model, read_agents, read_knobs
from p3kit.spec.models import Knobs, Spec
from p3kit.spec.shipped import find_trainer

MAX_ROUNDS = 8
"""Leaving out one fault may bring up another, at most as often as tables are nested."""


class AnyKnobs(Knobs):
    """Stands in for `[ppo]` while the trainer is unknown: the rest of the spec can still be checked."""

    model_config = ConfigDict(extra="allow")


def check(tables: Mapping[str, Any], trainer_file: str | Path | None = None) -> tuple[Spec | None, list[Problem]]:
    """The spec, and all that is wrong with it. None when the models refuse it."""
    problems = symbols_in_parts(tables)
    for problem in problems:
        tables = without(tables, problem.path[:-1])
    model, shares, faults = model_of(tables, trainer_file)
    tables = field_types.with_whole_numbers(model, tables)
    problems += faults
    spec, refused = _validate(model, tables)
    problems += refused
    sound = spec or _sound_part(model, tables, refused)
    if sound is not None:
        faulty = [problem.path for problem in problems]
        problems += [found.problem for found in crosschecks(sound) if not found.depends_on(faulty)]
        problems += [] if shares else nothing_to_freeze(sound)
    return spec, problems


def model_of(tables: Mapping[str, Any], trainer_file: str | Path | None) -> tuple[type[Spec], bool, list[Problem]]:
    """The model of a spec with the knobs of its trainer, whether its agents share something, and the trainer's faults.

    A faulty trainer has any knobs.
    """
    try:
        file = Path(trainer_file) if trainer_file else find_trainer(_trainer_name(tables))
        return spec_model(knobs_model(read_knobs(file))), read_agents(file) == "all", []
    except SpecError as error:
        faults = [_trainer_problem(fault.where, fault.what, fault.hint) for fault in error.faults]
        return spec_model(AnyKnobs), True, faults


_BY_SYMBOL: tuple[KeyPath, ...] = (("agents",), ("baselines", "supervised"))
"""Tables whose keys are symbols."""


def symbols_in_parts(tables: Mapping[str, Any]) -> list[Problem]:
    """Symbols with a dot that are keys without quotes: `[agents.BRK.B]` is a table B within a table BRK."""
    symbols = tables.get("symbols")
    dotted = [one for one in symbols if isinstance(one, str) and "." in one] if isinstance(symbols, list) else []
    problems = []
    for table in _BY_SYMBOL:
        for symbol in dotted:
            path = (*table, *symbol.split("."))
            if all(path) and is_written(tables, path):
                hint = f"put the symbol in quotes: {written_path((*table, symbol))}"
                problems.append(Problem(path, f"{'.'.join(map(str, path))}: the dot of {symbol} parts the key", hint))
    return problems


@lru_cache(maxsize=64)
def spec_model(knobs: type[Knobs]) -> type[Spec]:
    """The model of a spec whose `[ppo]` has these knobs. Equal knobs give the same class, so specs compare."""
    fields: dict[str, Any] = {"ppo": (knobs, Field(knobs(), description=Spec.model_fields["ppo"].description))}
    return create_model("Spec", __base__=Spec, __doc__=Spec.__doc__, **fields)


def _trainer_name(tables: Mapping[str, Any]) -> str:
    name = tables.get("trainer", Spec.model_fields["trainer"].default)
    return name if isinstance(name, str) and name else Spec.model_fields["trainer"].default


def _trainer_problem(where: str, what: str, hint: str) -> Problem:
    """A fault inside the trainer's file names that file; it is reported where the spec names the trainer."""
    return Problem(("trainer",), f"trainer: {what}" if where == "trainer" else f"trainer: {where}: {what}", hint)


def _validate(model: type[Spec], tables: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    try:
        return model.model_validate(dict(tables)), []
    except ValidationError as error:
        return None, problems_of(error, model, tables)


def _sound_part(model: type[Spec], tables: Mapping[str, Any], refused: list[Problem]) -> Spec | None:
    """The spec with defaults in place of refused values, so that checks across tables can still run."""
    sound = dict(tables)
    if any(not problem.path for problem in refused):
        return None  # too much is wrong
    for _ in range(MAX_ROUNDS):
        for problem in refused:
            # a missing key is corrected by leaving out its table
            path = problem.path if is_written(sound, problem.path) else problem.path[:-1]
            sound = without(sound, path) if path else sound
        spec, refused = _validate(model, {"name": "unnamed", "symbols": ["UNKNOWN"], **sound})
        if spec is not None:
            return spec
    return None
