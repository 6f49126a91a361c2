"""Plain tables of one agent: `[agents.SYMBOL]` and a point of the matrix applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
