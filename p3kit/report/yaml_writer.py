"""Plain tables as YAML that versions 1.1 and 1.2 read alike."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAKEN = ("y", "n")
"""Booleans of YAML 1.1 that PyYAML does not quote. It quotes the other ones itself."""


def to_yaml(tables: Mapping[str, Any]) -> str:
    """Return YAML with text in double quotes, unless it is a plain word, and lists of plain values on one line."""
    return str(yaml.dump(dict(tables), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf))


def _text(dumper: Any, text: str) -> Any:
    is_word = _PLAIN_WORD.fullmatch(text) and text.lower() not in _TAKEN
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_word else '"')


def _list(dumper: Any, items: list[Any] | tuple[Any, ...]) -> Any:
    is_flat = not any(isinstance(item, Mapping | list | tuple) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_flat)


def _table(dumper: Any, table: Mapping[str, Any]) -> Any:
    return dumper.represent_mapping("tag:yaml.org,2002:map", table, flow_style=not table)


_Dumper: Any = type("_Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)
_Dumper.add_representer(dict, _table)
