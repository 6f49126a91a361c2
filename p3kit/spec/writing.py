"""Plain tables as TOML: `p3kit show`, exported specs, patches, starters. No other file writes TOML.

tomli-w writes no comments, and tomlkit builds a document to be edited; `to_toml` puts the origin of each value behind
it, in one column. Numbers from 10,000 on have underscores, lists and rules of `[[intervention]]` stand on one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import tomli

from p3kit.spec.keypath import KeyPath, leaves, quoted, with_value, written_path
from p3kit.spec.reading import read_toml

COMMENT_COLUMN = 54
"""Where comments begin (after two blanks), when the line is short enough."""


def toml_value(value: Any) -> str:
    """A value on one line, as TOML writes it. Raises TypeError for what TOML cannot hold (None above all)."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:_}" if value.is_integer() and 1e4 <= abs(value) < 1e15 else repr(value)
        case str():
            return quoted(value)
        case date():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping():
            inside = ", ".join(f"{written_path((key,))} = {toml_value(item)}" for key, item in value.items())
            return f"{{ {inside} }}" if inside else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def toml_text(text: str) -> str:
    """Text of a flag as a TOML value: as it is where TOML reads it as a value, in quotes otherwise."""
    try:
        return text if "\n" not in text and list(read_toml(f"value = {text}")) == ["value"] else quoted(text)
    except (tomli.TOMLDecodeError, RecursionError):
        return quoted(text)


def to_toml(tables: Mapping[str, Any], comment: Callable[[KeyPath], str] = lambda _: "") -> str:
    """Tables as a TOML document; `comment(path)` gives what stands behind the `#` of a value's line."""
    lines: list[str] = []
    _write_table(tables, (), comment, lines)
    return "\n".join(lines).strip() + "\n"


def patch_toml(values: Mapping[str, Any], agent_symbol: str | None = None) -> str:
    """Spec values by dotted path as a fragment to copy; under `[agents.SYMBOL]` when a symbol is given.

    >>> print(patch_toml({"ppo.ent_coef": 0.05, "ppo.learning_rate": 1e-4}))
    [ppo]
    ent_coef = 0.05
    learning_rate = 0.0001
    """
    above = () if agent_symbol is None else ("agents", agent_symbol)
    tables: dict[str, Any] = {}
    for dotted, value in values.items():
        path = next(path for path, _ in leaves(read_toml(f"{dotted} = 0")))  # schedules."ppo.learning_rate".start
        tables = with_value(tables, (*above, *path), value)
    return to_toml(tables).rstrip()


def _write_table(table: Mapping[str, Any], path: KeyPath, comment: Callable[[KeyPath], str], lines: list[str]) -> None:
    """Plain values first: in TOML, what follows a header belongs to it."""
    sections = {key: value for key, value in table.items() if isinstance(value, Mapping) or _is_list_of_tables(value)}
    plain = {key: value for key, value in table.items() if key not in sections}
    if path and (plain or not table):
        lines += ["", f"[{written_path(path)}]"]
    _write_values(plain, path, comment, lines)
    for key, value in sections.items():
        if isinstance(value, Mapping):
            _write_table(value, (*path, key), comment, lines)
        for index, item in enumerate(value if _is_list_of_tables(value) else ()):
            lines += ["", f"[[{written_path((*path, key))}]]"]
            _write_values(item, (*path, key, index), comment, lines)


def _write_values(table: Mapping[str, Any], path: KeyPath, comment: Callable[[KeyPath], str], lines: list[str]) -> None:
    for key, value in table.items():
        text = f"{written_path((key,))} = {toml_value(value)}"
        place = (*path, key)
        remark = comment(place) or comment(next(below for below, _ in leaves(value, place)))
        lines.append(f"{text:<{COMMENT_COLUMN}}  # {remark}" if remark else text)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)
