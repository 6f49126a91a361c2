"""Plain tables as TOML text: what `p3kit show` prints, and what can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from p3kit.spec.keypath import KeyPath, written_path

COMMENT_COLUMN = 56
"""Where comments begin, when the line is short enough."""


def toml_value(value: Any) -> str:
    """A value on one line, as TOML writes it. Raises TypeError for what TOML cannot hold (None above all)."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        case float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, but TOML also wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case date():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping():
            inside = ", ".join(f"{written_path((key,))} = {toml_value(item)}" for key, item in value.items())
            return f"{{ {inside} }}" if inside else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def to_toml(tables: Mapping[str, Any], comment: Callable[[KeyPath], str] = lambda _: "") -> str:
    """Tables as a TOML document; `comment(path)` gives what stands behind the `#` of a value's line."""
    lines: list[str] = []
    _write_table(tables, (), comment, lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(
    table: Mapping[str, Any], path: KeyPath, comment: Callable[[KeyPath], str], lines: list[str]
) -> None:
    """Plain values first: in TOML, what follows a header belongs to it."""
    below = {key: value for key, value in table.items() if _is_own_section(value)}
    plain = {key: value for key, value in table.items() if key not in below}
    if path and (plain or not table):
        lines += ["", f"[{written_path(path)}]"]
    for key, value in plain.items():
        text = f"{written_path((key,))} = {toml_value(value)}"
        remark = comment((*path, key))
        lines.append(f"{text:<{COMMENT_COLUMN}}# {remark}" if remark else text)
    for key, value in below.items():
        _write_table(value, (*path, key), comment, lines)


def _is_own_section(value: Any) -> bool:
    return isinstance(value, Mapping)
