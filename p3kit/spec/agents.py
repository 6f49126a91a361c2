"""One agent's view of a spec: `[agents.SYMBOL]` and a point of the matrix applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from p3kit.errors import Fault, SpecError
from p3kit.spec.keypath import merge, split_path, with_value
from p3kit.spec.models import Spec


def agent_tables(spec: Spec, symbol: str | None, point: Mapping[str, Any]) -> dict[str, Any]:
    """Plain tables of one agent's spec: neither `agents` nor `matrix` remains."""
    tables = merge(spec.model_dump(mode="json"), {"agents": {}, "matrix": {}})
    tables = {**tables, "agents": {}, "matrix": {}}
    if symbol is not None:
        tables = merge(tables, spec.agents.get(symbol, {}))
    for path, value in point.items():
        tables = with_value(tables, split_path(path), value)
    return tables


def agent_spec(spec: Spec, symbol: str, point: Mapping[str, Any]) -> Spec:
    """See `Spec.for_agent`."""
    from p3kit.spec.crosschecks import crosschecks
    from p3kit.spec.error_messages import problems_of

    tables = agent_tables(spec, symbol, point)
    model = type(spec)
    try:
        agent = model.model_validate(tables)
        problems = [found.problem for found in crosschecks(agent)]
    except ValidationError as error:
        problems = problems_of(error, model, tables)
    if problems:
        where = f"agent {symbol}" + "".join(f", {path} = {value}" for path, value in point.items())
        raise SpecError(Fault(where, problem.what, problem.hint) for problem in problems)
    return agent
