"""Trainers are files of their own; what one copies from another stays a copy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import TRAINERS

MARK = re.compile(r"^# Copied from trainers/(\w+)\.py::(\w+)$", re.MULTILINE)
COPIES = [
    (path.stem, *match.groups()) for path in sorted(TRAINERS.glob("*.py")) for match in MARK.finditer(path.read_text())
]


def definition(file: Path, name: str) -> str:
    """The source of a top-level class or function, decorators and comments included."""
    source = file.read_text(encoding="utf-8")
    (node,) = (n for n in ast.parse(source).body if getattr(n, "name", None) == name)
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


@pytest.mark.parametrize(("copy", "original", "name"), COPIES)
def test_a_copy_is_a_copy(copy: str, original: str, name: str) -> None:
    assert definition(TRAINERS / f"{copy}.py", name) == definition(TRAINERS / f"{original}.py", name)


def test_there_are_copies_and_all_trainers_have_the_same_rooms() -> None:
    assert {name for _, _, name in COPIES} >= {"Args", "compute_gae", "masked_log_softmax"}
    rooms = ["arguments", "network", "rollout", "advantages", "loss", "training loop"]
    for path in TRAINERS.glob("*.py"):
        headings = re.findall(r"^# ── ([\w ]+?) ─+$", path.read_text(), re.MULTILINE)
        assert [heading for heading in headings if heading in rooms] == rooms, path.name
