"""The JSON Schema of a spec: completion, hover texts and red lines in editors (`#:schema ./p3kit.schema.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p3kit.spec.checking import spec_model
from p3kit.spec.expansion import PACKS
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.loading import VALIDATED
from p3kit.spec.models import PER_AGENT
from p3kit.spec.shipped import find_trainer

DIALECT = "http://json-schema.org/draft-07/schema#"
"""What taplo (Even Better TOML) reads."""


def json_schema(trainer: str = "ppo", spec_dir: str | Path = ".") -> dict[str, Any]:
    """What a user may write, with the knobs of `trainer`. Raises SpecError when there is no such trainer."""
    model = spec_model(knobs_model(read_knobs(find_trainer(trainer, spec_dir))))
    schema = model.model_json_schema(by_alias=True)
    schema["$schema"] = DIALECT
    schema["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "A spec (or several) that this one starts from, relative to this file: tables merge, lists and "
        "scalars replace.",
    }
    schema["properties"][VALIDATED] = {
        "type": "object",
        "description": "How the values of this file did, written by p3kit export. For readers only.",
    }
    schema["properties"]["interventions"] = {
        "enum": [*PACKS, "off"],
        "description": "A named pack of interventions, ahead of the spec's own.",
    }
    schema["properties"]["agents"]["additionalProperties"] = _per_agent(schema)
    schema.pop("required", None)  # a file that another one extends need not be whole
    tidy: dict[str, Any] = _tidy(schema)
    return {"title": "p3kit experiment spec", **tidy}


def schema_text(trainer: str = "ppo", spec_dir: str | Path = ".") -> str:
    """The schema as committed in specs/p3kit.schema.json."""
    return json.dumps(json_schema(trainer, spec_dir), indent=2, ensure_ascii=False) + "\n"


def _per_agent(schema: dict[str, Any]) -> dict[str, Any]:
    """`[agents.X]` has some of the top-level tables."""
    tables = {table: schema["properties"][table] for table in PER_AGENT}
    return {"type": "object", "properties": tables, "additionalProperties": False}


def _tidy(node: Any) -> Any:
    """Without what TOML has not (null, as a value or a default) and without titles that only repeat the key."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if not _is_noise(key, value)}
    choices = tidy.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        del tidy["anyOf"]
        tidy = {**(rest[0] if len(rest) == 1 else {"anyOf": rest}), **tidy}
    return tidy


def _is_noise(key: str, value: Any) -> bool:
    return (key == "default" and value is None) or (key == "title" and isinstance(value, str))
