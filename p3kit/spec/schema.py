"""The JSON Schema of a spec: completion, hover texts and red lines in editors (`#:schema ./p3kit.schema.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p3kit.spec.expansion import PACKS
from p3kit.spec.knobs import knobs_model, read_knobs
from p3kit.spec.loading import VALIDATED
from p3kit.spec.models import PER_AGENT
from p3kit.spec.shipped import find_trainer, shipped_trainers
from p3kit.spec.validation import spec_model

DIALECT = "http://json-schema.org/draft-07/schema#"
"""What taplo (Even Better TOML) reads."""


def json_schema(trainer: str | None = None, spec_dir: str | Path = ".") -> dict[str, Any]:
    """JSON Schema of a spec: with the knobs of `trainer`, or, for None, with those of every shipped one.

    Raises SpecError when there is no such trainer.
    """
    schema = _with_knobs_of(find_trainer(trainer or "ppo", spec_dir))
    if trainer is None:
        _add_knobs_of_the_others(schema)
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


def schema_text(trainer: str | None = None, spec_dir: str | Path = ".") -> str:
    """The schema as committed in specs/p3kit.schema.json."""
    return json.dumps(json_schema(trainer, spec_dir), indent=2, ensure_ascii=False) + "\n"


def _with_knobs_of(trainer_file: Path) -> dict[str, Any]:
    return spec_model(knobs_model(read_knobs(trainer_file))).model_json_schema(by_alias=True)


def _add_knobs_of_the_others(schema: dict[str, Any]) -> None:
    """One file for the specs of all shipped trainers: an editor must not underline a knob that the spec's trainer has.

    The description of a knob names its trainer. `p3kit validate` reports a spec that sets a knob of another trainer.
    """
    knobs = schema["$defs"]["Knobs"]["properties"]
    trainers = {name: _with_knobs_of(file) for name, file in shipped_trainers().items()}
    for name, other in trainers.items():
        for knob, described in other["$defs"]["Knobs"]["properties"].items():
            owners = [one for one, its in trainers.items() if knob in its["$defs"]["Knobs"]["properties"]]
            text = described["description"]
            if len(owners) < len(trainers):
                text += f" ({', '.join(owners)} only)"
            knobs[knob] = {**described, "description": text} if knob not in knobs or name == "ppo" else knobs[knob]


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
