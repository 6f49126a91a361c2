"""Tests of the text in this repository: plain English, as CONTRIBUTING.md asks for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("p3kit", "trainers", "tests")
QUESTION_WORDS = {"what", "whether", "how", "where", "why", "who", "when", "which"}
"""First words that make a docstring a riddle. PEP 257: it starts with a verb in the imperative, or with a noun."""


def docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, docstring) for a module and all its classes and functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{file.relative_to(ROOT)}:{getattr(node, 'name', 'module')}", text


def starts_with_a_question_word(text: str) -> bool:
    return text.split()[0].strip("`*_.,:").lower() in QUESTION_WORDS


def test_the_check_finds_a_question_word() -> None:
    assert starts_with_a_question_word("What a largest drawdown has cost in all.")
    assert not starts_with_a_question_word("Cumulative penalty for the maximum drawdown.")


def test_docstrings_start_with_a_verb_or_a_noun() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    found = [place for file in files for place, text in docstrings(file) if starts_with_a_question_word(text)]
    assert not found, f"start these docstrings with a verb or a noun: {found}"
