"""Tests go through public names: none imports a name of p3kit that begins with an underscore."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def private_imports(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "p3kit":
            names = [alias.name for alias in node.names]
            found += [f"{node.module}.{name}" for name in names if name.startswith("_") and not name.startswith("__")]
    return found


def test_tests_import_no_private_names() -> None:
    sources = {file.relative_to(TESTS): file.read_text(encoding="utf-8") for file in TESTS.rglob("*.py")}
    assert {file: private for file, source in sources.items() if (private := private_imports(source))} == {}


def test_a_private_import_is_found() -> None:
    assert private_imports("from p3kit.plan import plan_runs, _stacks") == ["p3kit.plan._stacks"]
