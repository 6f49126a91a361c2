"""What is short for something else, written out: bare names of knobs, `interventions = "guide"`, the default of diagnose.mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli

from p3kit.spec.faults import Problem
from p3kit.spec.keypath import KeyPath, is_written, value_at_path, with_value
from p3kit.spec.models import Spec
from p3kit.spec.nearest import did_you_mean

PACKS = ("guide",)
"""Named packs of interventions: `interventions = "guide"`."""


def expand(tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, KeyPath], list[Problem]]:
    """The tables without abbreviations; keys that got another path (old → new); and what is wrong with them.

    Only shapes that are as they should be are touched: whatever else is there is left for the models to refuse.
    """
    expanded = dict(tables)
    renamed: dict[KeyPath, KeyPath] = {}
    problems: list[Problem] = []
    for path in _tables_keyed_by_paths(expanded):
        expanded = _with_full_paths(expanded, path, renamed, problems)
    expanded = _with_pack(expanded, renamed, problems)
    if expanded.get("intervention") and not is_written(expanded, ("diagnose", "mode")):
        if isinstance(expanded.get("diagnose", {}), Mapping):
            expanded = with_value(expanded, ("diagnose", "mode"), "act")
    return expanded, renamed, problems


def full_path(name: str) -> str:
    """A bare name means ppo.NAME, unless it is a key at the top of a spec."""
    return name if "." in name or name in Spec.model_fields else f"ppo.{name}"


def _tables_keyed_by_paths(tables: Mapping[str, Any]) -> list[KeyPath]:
    paths: list[KeyPath] = [("schedules",), ("matrix",), ("tune", "space")]
    agents = tables.get("agents")
    if isinstance(agents, Mapping):
        paths += [("agents", symbol, "schedules") for symbol in agents]
    return [path for path in paths if _mapping_at(tables, path) is not None]


def _mapping_at(tables: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any] | None:
    value = value_at_path(tables, path) if is_written(tables, path) else None
    return value if isinstance(value, Mapping) else None


def _with_full_paths(
    tables: dict[str, Any], path: KeyPath, renamed: dict[KeyPath, KeyPath], problems: list[Problem]
) -> dict[str, Any]:
    """`learning_rate = …` in [schedules] becomes `"ppo.learning_rate" = …`; so do dotted keys without quotes."""
    full: dict[str, Any] = {}
    for written, value in _flattened(_mapping_at(tables, path) or {}):
        name = full_path(".".join(written))
        if name in full:
            problems.append(Problem((*path, *written), f'"{name}" is there twice; once by its bare name'))
        elif written != (name,):
            renamed[(*path, *written)] = (*path, name)
        full[name] = value
    return with_value(tables, path, full)


def _flattened(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """`ppo.gae_lambda = […]` without quotes is a table in a table; a schedule or range is known by its own keys."""
    flat: list[tuple[tuple[str, ...], Any]] = []
    for key, value in table.items():
        is_path = isinstance(value, Mapping) and value and not ({"kind", "start", "end", "points", "low", "high"} & set(value))
        flat += _flattened(value, (*above, key)) if is_path else [((*above, key), value)]
    return flat


def _with_pack(
    tables: dict[str, Any], renamed: dict[KeyPath, KeyPath], problems: list[Problem]
) -> dict[str, Any]:
    """`interventions = "guide"`: the pack's interventions, then the user's own."""
    pack = tables.pop("interventions", "off")
    own = tables.get("intervention", [])
    if pack == "off" or not isinstance(own, list | tuple):
        return tables
    if pack not in PACKS:
        what = f'interventions = {pack!r}: expected "guide" or "off"'.replace("'", '"')
        problems.append(Problem(("interventions",), what + (did_you_mean(pack, PACKS) if isinstance(pack, str) else "")))
        return tables
    ready = read_pack(pack)
    for index in range(len(own)):
        renamed[("intervention", index)] = ("intervention", index + len(ready))
    for index in range(len(ready)):
        renamed.setdefault(("interventions",), ("intervention", index))
    return {**tables, "intervention": [*ready, *own]}


def read_pack(name: str) -> list[dict[str, Any]]:
    """The interventions of a named pack, as plain tables."""
    text = (Path(__file__).parent / "packs" / f"{name}.toml").read_text(encoding="utf-8")
    pack: list[dict[str, Any]] = tomli.loads(text)["intervention"]
    return pack
