"""Checks that need more than one table of a spec. Each is a function from a Spec to what it finds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from p3kit.metrics import COMPONENTS
from p3kit.spec import field_types
from p3kit.spec.actions import Add, Freeze, Scale, Set
from p3kit.spec.agents import agent_tables
from p3kit.spec.error_messages import Problem, problems_of
from p3kit.spec.expansion import full_path
from p3kit.spec.interventions import COMPONENT, Controller, Intervention
from p3kit.spec.keypath import KeyPath, is_written, merge, split_path, with_value, written_path
from p3kit.spec.models import PER_AGENT, SAMPLE_SYMBOLS, SearchRange, Spec
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.schedules import extremes
from p3kit.spec.writing import toml_value

MAX_ROLLOUT = 2**28
"""Rows of a rollout: more need tens of gigabytes, and are a mistake."""

MAX_POINTS = 10_000
"""A larger number of combinations is a mistake."""


@dataclass(frozen=True)
class Found:
    """A problem, and the places it was concluded from: where one of them is faulty itself, the conclusion is void."""

    problem: Problem
    drawn_from: tuple[KeyPath, ...] = ()

    def depends_on(self, faulty: Sequence[KeyPath]) -> bool:
        """Return True if the problem rests on a place that is faulty, lies in one, or holds one."""
        places = (self.problem.path, *self.drawn_from)
        return any(place[: len(bad)] == bad or bad[: len(place)] == place for place in places for bad in faulty)


def crosschecks(spec: Spec) -> Iterator[Found]:
    """Everything wrong with a spec whose tables are each right in themselves."""
    base = list(_base_checks(spec))
    yield from base
    said = {found.problem.what for found in base}
    yield from _agents(spec, said)
    yield from _matrix(spec, said)
    yield from _tune(spec)


def _base_checks(spec: Spec) -> Iterator[Found]:
    """Return the faults that do not depend on single agents."""
    yield from _sample_symbols(spec)
    yield from _data_files(spec)
    yield from _rollout_fits(spec)
    yield from _own_columns(spec)
    yield from _minibatch_fits(spec)
    yield from _schedules(spec)
    yield from _interventions(spec)
    yield from _baselines(spec)
    yield from _catalogue_rows(spec)


# --- data -------------------------------------------------------------------------------------------------------------


def _sample_symbols(spec: Spec) -> Iterator[Found]:
    if spec.data.source != "sample":
        return
    for index, symbol in enumerate(spec.symbols):
        if symbol not in SAMPLE_SYMBOLS:
            hint = did_you_mean(symbol, SAMPLE_SYMBOLS).removeprefix("; ") or f"it has {', '.join(SAMPLE_SYMBOLS)}"
            problem = Problem(("symbols", index), f'symbols[{index}] = "{symbol}": not in the shipped sample', hint)
            yield Found(problem, (("data", "source"),))


def _own_columns(spec: Spec) -> Iterator[Found]:
    if spec.observation.columns and spec.data.source not in ("csv", "parquet"):
        what = f'observation.columns: source = "{spec.data.source}" has no columns of yours'
        hint = 'set data.source = "csv" or "parquet", or remove them'
        yield Found(Problem(("observation", "columns"), what, hint), (("data", "source"),))


def _data_files(spec: Spec) -> Iterator[Found]:
    data, place, drawn_from = spec.data, ("data", "path"), (("data", "source"), ("symbols",))
    if data.source not in ("csv", "parquet"):
        return
    if data.path is None:
        what = f'data.path: missing; source = "{data.source}" needs the file of each symbol'
        yield Found(Problem(place, what, f'for example path = "data/{{symbol}}.{data.source}"'), drawn_from)
    elif unknown := [name for name in re.findall(r"\{\{|\{[^}]*\}?", data.path) if name not in ("{symbol}", "{{")]:
        hint = "expected {symbol}; braces of a folder are written {{ and }}"
        yield Found(Problem(place, f"data.path: unknown placeholder {unknown[0]}", hint), drawn_from)


# --- sizes ------------------------------------------------------------------------------------------------------------


def _rollout_fits(spec: Spec) -> Iterator[Found]:
    steps, envs = getattr(spec.ppo, "n_steps", None), spec.env.num_envs
    if isinstance(steps, int) and steps * envs > MAX_ROLLOUT:
        what = f"ppo.n_steps = {steps}: n_steps × num_envs is {steps * envs:,}; expected at most {MAX_ROLLOUT:,}"
        place = _first_written(spec, ("ppo", "n_steps"), ("env", "num_envs"))
        yield Found(Problem(place, what, "lower one of the two"), (("ppo", "n_steps"), ("env", "num_envs")))


def _minibatch_fits(spec: Spec) -> Iterator[Found]:
    batch, steps, envs = getattr(spec.ppo, "batch_size", None), getattr(spec.ppo, "n_steps", None), spec.env.num_envs
    if isinstance(batch, int) and isinstance(steps, int) and batch > steps * envs:
        rollout = f"n_steps × num_envs = {steps} × {envs} = {steps * envs}"
        what = f"ppo.batch_size = {batch}: larger than the rollout of {rollout}"
        hint = "lower it, or raise ppo.n_steps"
        keys = (("ppo", "batch_size"), ("ppo", "n_steps"), ("env", "num_envs"))
        yield Found(Problem(_first_written(spec, *keys), what, hint), keys)


def _first_written(spec: Spec, *keys: tuple[str, str]) -> KeyPath:
    """The first of the keys that the spec sets itself, so that a message about several names a line of it."""
    return next((key for key in keys if key[1] in getattr(spec, key[0]).model_fields_set), keys[0])


# --- paths named in a spec --------------------------------------------------------------------------------------------


def _not_live(spec: Spec, path: str) -> tuple[str, str] | None:
    """Reason why the number at `path` cannot move while a run trains (words that follow its name, hint), or None."""
    model = type(spec)
    live = sorted(field_types.live_paths(model))
    if path in live:
        return None
    known = {".".join(key) for key in field_types.key_paths(model)}
    if path not in known:
        return ": unknown key", did_you_mean(path, live, f"; these can move: {_briefly(live)}").removeprefix("; ")
    return _why_fixed(model, path), f"these can move: {_briefly(live)}"


def _why_fixed(model: type[Spec], path: str) -> str:
    kind: Any = model
    for part in split_path(path):
        kind = field_types.child(kind, part)
    cores = [field_types.bare(member)[0] for member in field_types.alternatives(kind)]
    if float in cores:
        return " is read once, at the start of a run, so it cannot move"
    return " is a size, so it cannot move" if int in cores else " is no number, so it cannot move"


def _briefly(live: list[str]) -> str:
    """The seven weights as one word."""
    return ", ".join(dict.fromkeys(re.sub(r"^reward\.weights\..*", "reward.weights.*", path) for path in live))


_BY_THE_DOZEN = {"agents", "intervention", "matrix", "schedules", "tune"}
"""Tables whose keys name other keys, so that their own keys have no fixed list."""


def _refused(spec: Spec, path: str, value: Any, *, alone: bool = False) -> str:
    """Return `expected …` if `path` cannot have this value, else "". `alone`: for any other values of its table,
    because a search changes those too (`search_fit`)."""
    key = split_path(path)
    # The tables left out are as many as the calls of this: with them, a spec of 150 rules took half a minute.
    tables = with_value(spec.model_dump(mode="json", exclude=_BY_THE_DOZEN - {str(key[0])}), key, value)
    try:
        type(spec).model_validate(tables)
    except ValidationError as error:
        problems = problems_of(error, type(spec), tables)
        if alone:
            problems = [problem for problem in problems if problem.path[: len(key)] == key]
        for problem in problems:
            return problem.what.partition(": ")[2] + (f"; {problem.hint}" if problem.hint else "")
    return ""


# --- schedules --------------------------------------------------------------------------------------------------------


def _schedules(spec: Spec) -> Iterator[Found]:
    for path, schedule in spec.schedules.items():
        place: KeyPath = ("schedules", path)
        if problem := _not_live(spec, path):
            yield Found(Problem(place, f"schedules: {path}{problem[0]}", problem[1]))
            continue
        for value in extremes(schedule):
            if refused := _refused(spec, path, value):
                yield Found(Problem(place, f"schedules: {path} reaches {value:g}: {refused}"), (split_path(path),))
                break


# --- interventions ----------------------------------------------------------------------------------------------------


def _interventions(spec: Spec) -> Iterator[Found]:
    set_by: dict[str, str] = {}
    ids: set[str] = set()
    for index, rule in enumerate(spec.intervention):
        place: KeyPath = ("intervention", index)
        if rule.id in ids:
            yield Found(Problem((*place, "id"), f'intervention id = "{rule.id}": there twice'))
        ids.add(rule.id)
        for at, written, values in _moved_keys(rule):
            for key in [written.replace(COMPONENT, name) for name in COMPONENTS] if COMPONENT in written else [written]:
                yield from _moved_key(spec, (*place, *at), rule, key, values)
        for number, action in enumerate(rule.actions()):
            if isinstance(action, Set):
                first = set_by.setdefault(full_path(action.set), rule.id)
                if first != rule.id or number != _first_set(rule, action.set):
                    what = f'intervention "{rule.id}": {full_path(action.set)} is already set by "{first}"'
                    yield Found(Problem((*place, "do", number), what, "two live values for one key; use scale"))


def nothing_to_freeze(spec: Spec) -> Iterator[Problem]:
    """Message for a rule that freezes a shared part of a trainer without one."""
    for index, rule in enumerate(spec.intervention):
        for number, action in enumerate(rule.actions()):
            if isinstance(action, Freeze) and action.freeze == "encoder":
                what = (
                    f'intervention "{rule.id}": freeze = "encoder": the trainer "{spec.trainer}" has no shared encoder'
                )
                yield Problem(("intervention", index, "do", number, "freeze"), what, 'trainer = "ppo_shared" has one')


def _first_set(rule: Intervention, key: str) -> int:
    path, actions = full_path(key), enumerate(rule.actions())
    return next(n for n, action in actions if isinstance(action, Set) and full_path(action.set) == path)


def _moved_keys(rule: Intervention) -> Iterator[tuple[KeyPath, str, list[float | None]]]:
    """Targets of a rule: place inside it, key, and the values that the key could be given."""
    if isinstance(rule.controller, Controller):
        yield ("controller", "key"), rule.controller.key, [rule.controller.min, rule.controller.max]
    for number, action in enumerate(rule.actions()):
        match action:
            case Set(set=key, to=value):
                yield ("do", number, "set"), key, [value]
            case Scale(scale=key, min=low, max=high):
                yield ("do", number, "scale"), key, [low, high]
            case Add(add=key, min=low, max=high):
                yield ("do", number, "add"), key, [low, high]


def _moved_key(spec: Spec, place: KeyPath, rule: Intervention, key: str, values: list[float | None]) -> Iterator[Found]:
    path = full_path(key)
    problem = _not_live(spec, path)
    if rule.retries_smaller_minibatches():
        values = [int(value) if value is not None and value.is_integer() else value for value in values]
    elif problem:
        yield Found(Problem(place, f'intervention "{rule.id}": {path}{problem[0]}', problem[1]))
        return
    for value in values:
        if value is not None and (refused := _refused(spec, path, value)):
            what = f'intervention "{rule.id}": {path} = {value:g}: {refused}'
            yield Found(Problem(place, what), (split_path(path),))


# --- tables keyed by symbol or symptom --------------------------------------------------------------------------------


def _baselines(spec: Spec) -> Iterator[Found]:
    for symbol in spec.baselines.supervised:
        if symbol != "default" and symbol not in spec.symbols:
            place = ("baselines", "supervised", symbol)
            yield Found(_not_a_symbol(spec, place, symbol, ["default"]), (("symbols",),))


def _catalogue_rows(spec: Spec) -> Iterator[Found]:
    if not spec.diagnose.rows:
        return
    from p3kit.symptoms import SYMPTOMS

    for row in spec.diagnose.rows:
        if row not in SYMPTOMS:
            near = did_you_mean(row, SYMPTOMS, "; see docs/diagnosis.md").removeprefix("; ")
            yield Found(Problem(("diagnose", "rows", row), f'diagnose.rows: unknown symptom "{row}"', near))


def _not_a_symbol(spec: Spec, place: KeyPath, symbol: str, others: list[str]) -> Problem:
    known = [*spec.symbols, *others]
    hint = did_you_mean(symbol, known).removeprefix("; ") or f"symbols are {', '.join(spec.symbols[:12])}"
    return Problem(place, f"{written_path(place)}: not one of the symbols", hint)


# --- agents, matrix, search -------------------------------------------------------------------------------------------


def _agents(spec: Spec, said: set[str]) -> Iterator[Found]:
    for symbol, tables in spec.agents.items():
        place: KeyPath = ("agents", symbol)
        if symbol not in spec.symbols:
            yield Found(_not_a_symbol(spec, place, symbol, []), (("symbols",),))
        strange = [table for table in tables if table not in PER_AGENT]
        for table in strange:
            yield Found(_not_per_agent((*place, table), table))
        own = {table: value for table, value in tables.items() if table not in strange}
        yield from _overlay(spec, place, merge(agent_tables(spec, None, {}), own), own, said)


def _not_per_agent(place: KeyPath, table: str) -> Problem:
    known = table in Spec.model_fields
    hint = f"these can: {', '.join(PER_AGENT)}" if known else did_you_mean(table, PER_AGENT).removeprefix("; ")
    return Problem(place, f"{written_path(place)}: {'cannot differ by agent' if known else 'unknown table'}", hint)


def _overlay(
    spec: Spec, place: KeyPath, whole: dict[str, Any], own: Mapping[str, Any], said: set[str]
) -> Iterator[Found]:
    """Return the faults of one agent's spec that were not `said` of the base."""
    model = type(spec)
    try:
        problems = [found.problem for found in crosschecks(model.model_validate(whole))]
    except ValidationError as error:
        problems = problems_of(error, model, whole)
    for problem in problems:
        if problem.what in said:
            continue
        path = problem.path if is_written(own, problem.path) else problem.path[:-1]
        yield Found(Problem((*place, *path), f"{written_path(place)}: {problem.what}", problem.hint), (problem.path,))


def _matrix(spec: Spec, said: set[str]) -> Iterator[Found]:
    faulty = False
    for path, values in spec.matrix.items():
        place: KeyPath = ("matrix", path)
        if problem := _not_a_setting(spec, path):
            yield Found(Problem(place, f"matrix: {path}: {problem[0]}", problem[1]))
            faulty = True
            continue
        for index, value in enumerate(values):
            if refused := _refused(spec, path, value):
                yield Found(Problem((*place, index), f"matrix: {path} = {toml_value(value)}: {refused}"))
                faulty = True
    if not faulty:
        yield from _combinations(spec, said)


def _combinations(spec: Spec, said: set[str]) -> Iterator[Found]:
    """Values that are right one by one may not go together: a batch larger than a rollout."""
    number = math.prod(len(values) for values in spec.matrix.values())
    if number > MAX_POINTS:
        yield Found(Problem(("matrix",), f"matrix: {number:,} combinations; expected at most {MAX_POINTS:,}"))
        return
    said = set(said)
    for point in spec.points() if spec.matrix else ():
        agent = type(spec).model_validate(agent_tables(spec, None, point))
        for found in crosschecks(agent):
            if found.problem.what not in said:
                said.add(found.problem.what)
                written = ", ".join(f"{path} = {toml_value(value)}" for path, value in point.items())
                yield Found(Problem(("matrix",), f"matrix: with {written}: {found.problem.what}", found.problem.hint))


def _not_a_setting(spec: Spec, path: str) -> tuple[str, str] | None:
    """Reason why `path` cannot differ between agents (what, hint), or None."""
    settings = [".".join(key) for key in field_types.key_paths(type(spec)) if key[0] in PER_AGENT and len(key) > 1]
    if path in settings:
        return None
    if split_path(path)[0] in Spec.model_fields and split_path(path)[0] not in PER_AGENT:
        return "cannot differ by agent", f"these tables can: {', '.join(PER_AGENT)}"
    return "unknown key", did_you_mean(path, settings).removeprefix("; ")


def _tune(spec: Spec) -> Iterator[Found]:
    for path, space in (spec.tune.space if spec.tune else {}).items():
        place: KeyPath = ("tune", "space", path)
        if problem := _not_a_setting(spec, path):
            yield Found(Problem(place, f"tune.space: {path}: {problem[0]}", problem[1]))
            continue
        if (elsewhere := _set_elsewhere(spec, path)) is not None:
            what = f"tune.space: {path}: {written_path(elsewhere)} wins over what would be tried"
            yield Found(Problem(place, what, "take it out of one of the two"), (elsewhere,))
        items = [] if isinstance(space, SearchRange) else list(space)
        if twice := [item for index, item in enumerate(items) if item in items[:index]]:
            yield Found(
                Problem(place, f"tune.space: {path}: {toml_value(twice[0])} is there twice; expected each one once")
            )
        for value in [space.low, space.high] if isinstance(space, SearchRange) else space:
            if refused := _refused(spec, path, value, alone=True):
                yield Found(Problem(place, f"tune.space: {path} = {toml_value(value)}: {refused}"))


def _set_elsewhere(spec: Spec, path: str) -> KeyPath | None:
    """Place where a spec sets `path` in a way that overrides the plain value."""
    if path in spec.schedules:
        return ("schedules", path)
    if path in spec.matrix:
        return ("matrix", path)
    own = [symbol for symbol, tables in spec.agents.items() if is_written(tables, split_path(path))]
    return ("agents", own[0], *split_path(path)) if own else None
