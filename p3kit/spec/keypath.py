"""Paths of keys: tuples inside p3kit, `reward.weights.cost` in specs and messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]
"""("intervention", 0, "do", 1, "by"): keys of tables and indices of lists, from the top of the spec."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def quoted(text: str) -> str:
    """Text in TOML form. JSON's escapes are valid in TOML, but TOML also requires an escape for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def written_path(path: KeyPath) -> str:
    """As a user writes it: `reward.weights.cost`, `intervention[0].id`, `schedules."reward.weights.cost".end`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else quoted(part))
    return text


def split_path(dotted: str) -> KeyPath:
    """`reward.weights.cost` as a tuple. Spec paths named in a spec hold no quoted parts."""
    return tuple(dotted.split("."))


def value_at_path(tables: Any, path: KeyPath) -> Any:
    """The value at `path` of plain tables. Raises KeyError when there is none."""
    for depth, part in enumerate(path):
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            raise KeyError(written_path(path[: depth + 1])) from None
    return tables


def is_written(tables: Any, path: KeyPath) -> bool:
    """Return True if plain tables hold something at `path`."""
    try:
        value_at_path(tables, path)
    except KeyError:
        return False
    return True


def with_value(tables: Mapping[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of `tables` with `value` at `path`; tables on the way are made where there are none."""
    key, *rest = path
    inner = tables.get(str(key))
    return {
        **tables,
        str(key): with_value(inner if isinstance(inner, Mapping) else {}, tuple(rest), value) if rest else value,
    }


def without(tables: Any, path: KeyPath) -> Any:
    """A copy of plain tables without the value at `path`; an item of a list takes its list along."""
    key, *rest = path
    if not isinstance(tables, Mapping) or key not in tables:
        return tables
    if not rest or not isinstance(tables[key], Mapping):
        return {name: value for name, value in tables.items() if name != key}
    return {**tables, key: without(tables[key], tuple(rest))}


def leaves(tables: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value that is no table, with its path. A list is one value, unless it is a list of tables."""
    items = list(tables.items()) if isinstance(tables, Mapping) else []
    if isinstance(tables, list | tuple) and tables and all(isinstance(item, Mapping) for item in tables):
        items = list(enumerate(tables))
    if items or (isinstance(tables, Mapping) and not path):
        for key, value in items:
            yield from leaves(value, (*path, key))
    else:
        yield path, tables


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: tables merge, lists and scalars replace, and so does a schedule of another kind."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and _same_kind(below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _same_kind(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """A linear schedule's `start` means nothing to a piecewise one."""
    return "kind" not in value or value["kind"] == below.get("kind")
