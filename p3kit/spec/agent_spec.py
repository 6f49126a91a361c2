"""The spec of one agent of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from p3kit.errors import Fault, SpecError
from p3kit.spec.agents import agent_tables
from p3kit.spec.crosschecks import crosschecks
from p3kit.spec.error_messages import problems_of
from p3kit.spec.models import Spec


def agent_spec(spec: Spec, symbol: str, point: Mapping[str, Any] | None = None) -> Spec:
    """The spec of one agent: `[agents.SYMBOL]` and then the matrix point applied; neither table remains.

    Raises SpecError if the combination is invalid (a batch larger than the rollout, for example).
    """
    point = point or {}
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
