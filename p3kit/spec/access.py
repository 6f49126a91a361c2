"""Reaching into a spec by dotted path."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from p3kit.spec.models import Spec


def get_path(spec: Spec, dotted: str) -> Any:
    """The value at `reward.weights.cost`. Raises KeyError."""
    value: Any = spec
    for part in dotted.split("."):
        if isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, part)
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise KeyError(dotted)
    return value
