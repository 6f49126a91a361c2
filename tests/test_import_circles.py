"""No circle among the files of p3kit: imports inside functions and under TYPE_CHECKING count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules(root: Path, package: str) -> dict[str, Path]:
    """Files of a package by module name; a package's own name is that of its `__init__.py`."""
    files = sorted((root / package).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file: Path, module: str) -> Iterator[str]:
    """Every name that a file imports, at any place in the file."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """For each module, the modules of the package that it imports."""
    known = modules(root, package)

    def module_of(name: str) -> str | None:
        return name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None

    found = {module: {module_of(name) for name in imported(file, module)} for module, file in known.items()}
    return {module: {one for one in names if one not in (None, module)} for module, names in found.items()}  # type: ignore[misc]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan 1972, "Depth-first search and linear graph algorithms")."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            place = stack.index(module)
            group, stack[place:] = sorted(stack[place:]), []
            found.extend([group] if len(group) > 1 else [])

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(found)


def test_no_circle_among_the_files_of_p3kit() -> None:
    assert circles(import_graph(ROOT, "p3kit")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import toy.a",
        "from toy import a",
        "from toy.a import x",
        "from . import a",
        "from .a import x",
        "def f():\n    from toy.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.a import x",
        "try:\n    import toy.a\nexcept ImportError:\n    pass",
    ],
)
def test_a_circle_is_found_however_it_is_written(tmp_path: Path, line: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("")
    (tmp_path / "toy" / "a.py").write_text("from toy.c import x")
    (tmp_path / "toy" / "b.py").write_text(line)
    (tmp_path / "toy" / "c.py").write_text("from toy import b\nx = 1")
    assert circles(import_graph(tmp_path, "toy")) == [["toy.a", "toy.b", "toy.c"]]
    (tmp_path / "toy" / "b.py").write_text("import json")
    assert circles(import_graph(tmp_path, "toy")) == []
