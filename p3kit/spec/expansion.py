"""Expansion of short forms: bare names of knobs, packs of interventions, diagnose.mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p3kit.spec.error_messages import Problem
from p3kit.spec.keypath import KeyPath, is_written, value_at_path, with_value
from p3kit.spec.models import Spec
from p3kit.spec.nearest import did_you_mean
from p3kit.spec.reading import read_toml
from p3kit.spec.writing import toml_value

OWN_KEYS = {"kind", "start", "end", "points", "low", "high"}
"""Keys of a schedule or a search range: a table with one of these is no part of a path."""

PACKS = ("guide", "repair")
"""Named packs of interventions, `interventions = "guide"`: the guide's fixes, and the pack with most repairs."""


@dataclass
class Expansion:
    """Tables without abbreviations."""

    tables: dict[str, Any]
    came_from: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """What stands at another path than the user wrote: new path → written path."""
    problems: list[Problem] = field(default_factory=list)


def expand(tables: Mapping[str, Any]) -> Expansion:
    """Write out what is short for something else.

    Only correct shapes are changed: the models refuse all others.
    """
    expansion = Expansion(dict(tables))
    for path in _tables_keyed_by_paths(expansion.tables):
        _write_full_paths(expansion, path)
    _add_pack(expansion)
    diagnose = expansion.tables.get("diagnose", {})
    if expansion.tables.get("intervention") and isinstance(diagnose, Mapping) and "mode" not in diagnose:
        expansion.tables = with_value(expansion.tables, ("diagnose", "mode"), "act")
    return expansion


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


def _write_full_paths(expansion: Expansion, path: KeyPath) -> None:
    """`learning_rate = …` in [schedules] becomes `"ppo.learning_rate" = …`; so do dotted keys without quotes."""
    full: dict[str, Any] = {}
    for written, value in _flattened(_mapping_at(expansion.tables, path) or {}):
        name = full_path(".".join(written))
        if name in full:
            what = f'"{name}" is there twice, once by its bare name'
            expansion.problems.append(Problem((*path, *written), what, "keep one of them"))
            continue
        if written != (name,):
            expansion.came_from[(*path, name)] = (*path, *written)
        full[name] = value
    expansion.tables = with_value(expansion.tables, path, full)


def _flattened(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """`ppo.gae_lambda = […]` without quotes is a table in a table; a schedule or range is known by its own keys."""
    flat: list[tuple[tuple[str, ...], Any]] = []
    for key, value in table.items():
        is_path = isinstance(value, Mapping) and value and not OWN_KEYS & set(value)
        flat += _flattened(value, (*above, key)) if is_path else [((*above, key), value)]
    return flat


def _add_pack(expansion: Expansion) -> None:
    """`interventions = "repair"`: the pack's interventions, then the user's own."""
    pack = expansion.tables.pop("interventions", "off")
    own = expansion.tables.get("intervention", [])
    if pack == "off" or not isinstance(own, list | tuple):
        return
    if pack not in PACKS:
        given = f" = {toml_value(pack)}" if isinstance(pack, str) else ""
        what = f'interventions{given}: expected {", ".join(map(toml_value, PACKS))} or "off"'
        near = did_you_mean(pack, PACKS).removeprefix("; ") if isinstance(pack, str) else ""
        expansion.problems.append(Problem(("interventions",), what, near))
        return
    ready = read_pack(pack)
    expansion.tables["intervention"] = [*ready, *own]
    for index in range(len(ready) + len(own)):
        written = ("intervention", index - len(ready)) if index >= len(ready) else ("interventions",)
        expansion.came_from[("intervention", index)] = written


def read_pack(name: str) -> list[dict[str, Any]]:
    """The interventions of a named pack, as plain tables."""
    text = (Path(__file__).parent / "packs" / f"{name}.toml").read_text(encoding="utf-8")
    pack: list[dict[str, Any]] = read_toml(text)["intervention"]
    return pack
