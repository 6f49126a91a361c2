"""`--set KEY=VALUE`: the value is TOML, and text where it is none and the key takes text, since shells eat quotes."""

from __future__ import annotations

import re
import shlex
from datetime import date
from typing import Any, Literal, get_args, get_origin

import tomli

from p3kit.errors import Fault, SpecError
from p3kit.spec import field_types
from p3kit.spec.keypath import KeyPath, leaves, quoted, value_at_path, with_value, written_path
from p3kit.spec.models import Spec
from p3kit.spec.reading import read_toml

_LONGEST_PLACE = 200

_VALUE = re.compile(r"""(?<![\w"'])[^\[\]{},="'\s](?:[^\[\]{},="']*[^\[\]{},="'\s])?(?=\s*(?:[\[\]{},]|$))""")
"""A value without quotes within a list or an inline table; no key, which stands before a =."""


def override_place(override: str) -> str:
    """The place of a fault in an override: the line that the user typed."""
    where = f"--set {override}"
    return where if len(where) <= _LONGEST_PLACE else f"{where[: _LONGEST_PLACE - 1]}…"


def read_override(override: str, model: type[Spec]) -> dict[str, Any]:
    """Tables of `ppo.ent_coef=0.05`; `model` has the types of its keys. Raises SpecError."""
    key, equals, text = override.partition("=")
    tables = _try_toml(f"{key} = 0") if equals and key.strip() and "\n" not in override else None
    if tables is None or len(paths := list(leaves(tables))) != 1:
        raise SpecError([Fault(override_place(override), "expected KEY=VALUE", "for example --set ppo.ent_coef=0.05")])
    path = paths[0][0]
    if path[0] == "extends":
        what, hint = "extends can only stand in a file", "write it at the top of a spec"
        raise SpecError([Fault(override_place(override), what, hint)])
    kind, written = _kind_at(model, path), _try_toml(f"{key} = {text}")
    value = None if written is None else value_at_path(written, path)
    if kind is not None and not (_fits(kind, value) or text.strip() in field_types.literals(kind)):
        raise SpecError([_not_a_value(override, path, text.strip(), kind, is_toml=written is not None)])
    if written is None or (kind is not None and _is_text_only(kind) and isinstance(value, int | float | date)):
        return with_value({}, path, text.strip())
    return written


def _kind_at(model: type[Spec], path: KeyPath) -> Any | None:
    """The type of a key; None for an unknown key."""
    if path[0] == "agents":
        path = path[2:]
    kind: Any = model
    for depth, part in enumerate(path):
        kind = field_types.child(kind, part)
        if path[: depth + 1] in (("matrix", part), ("schedules", part), ("tune", "space", part)):
            return kind  # the rest of the path belongs to the key of the table
        if kind is None:
            break
    return None if kind is model else kind


def _cores(kind: Any) -> list[Any]:
    return [field_types.bare(member)[0] for member in field_types.alternatives(kind)]


def _fits(kind: Any, value: Any | None) -> bool:
    """False where a list or a table is needed and something else was given. None: the value is no TOML."""
    shapes = [list if get_origin(core) is tuple else dict if _is_table(core) else core for core in _cores(kind)]
    if value is None:
        return str in shapes or not {list, dict} & set(shapes)
    return not {list, dict} >= set(shapes) or isinstance(value, tuple(shapes))


def _is_table(core: Any) -> bool:
    return field_types.is_table(core) or get_origin(core) is dict


def _is_text_only(kind: Any) -> bool:
    return all(
        core is str or (get_origin(core) is Literal and all(isinstance(word, str) for word in get_args(core)))
        for core in _cores(kind)
    )


def _not_a_value(override: str, path: KeyPath, text: str, kind: Any, *, is_toml: bool) -> Fault:
    """The fault of a list or table that is none. The hint is the user's own line, in TOML and quoted for a shell."""
    what = f"{written_path(path)}: {'' if is_toml else 'not TOML; '}expected {field_types.in_words(kind)}"
    key = override.partition("=")[0].strip()
    if not re.search(r"[\[\]{},=\"']", text):
        text = ", ".join(text.split())
    inside = _VALUE.sub(_quoted_unless_toml, text)
    for line in (inside, f"[{inside}]") if len(inside) < _LONGEST_PLACE else ():
        found = _try_toml(f"{key} = {line}")
        value = value_at_path(found, path) if inside and found is not None else None
        if isinstance(value, list | dict) and _fits(kind, value):
            return Fault(override_place(override), what, f"write --set {shlex.quote(f'{key}={line}')}")
    hint = f"quote the whole for the shell, and text within it for TOML: --set {shlex.quote(override[:_LONGEST_PLACE])}"
    if is_toml and (keys := field_types.keys_of(kind)):
        hint = f"name a key of it: --set {key}.{keys[0]}=VALUE"
    return Fault(override_place(override), what, hint)


def _quoted_unless_toml(found: re.Match[str]) -> str:
    return found[0] if _try_toml(f"value = {found[0]}") is not None else quoted(found[0])


def _try_toml(text: str) -> dict[str, Any] | None:
    try:
        return read_toml(text)
    except (tomli.TOMLDecodeError, RecursionError):
        return None
