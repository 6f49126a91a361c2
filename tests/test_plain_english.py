"""Tests of the text in this repository: the rules for plain English in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("p3kit", "trainers", "tests")
QUESTION_WORDS = {"what", "whether", "how", "where", "why", "who", "when", "which"}
"""First words that make a docstring a riddle. PEP 257: it starts with a verb in the imperative, or with a noun."""

DIALECT = {
    r"begun": "started",
    r"anew": "again, from scratch, reset",
    r"mend(s|ed|ing)?": "fix, correct, repair",
    r"(tells?|told)": "print, return, report, distinguish",
    r"(knows?|knew)": "read, have, contain",
    r"(says?|said)": "state, print, name",
    r"(asks?|asked)": "request, require, call, check",
    r"(wants|wanted)": "need, require",
    r"hears": "read, receive",
    r"speaks?": "use, show",
    r"sees": "read, observe, use, contain",
    r"(sick|hurts?)": "degraded, faulty, lowers the score",
    r"council": "group rule",
    r"leash": "parent-death signal",
    r"as (it|they) stands?": "unchanged",
    r"in words": "as text",
    r"nothing but": "only",
    r"one's own": "your own",
    r"is worth": "is, scores",
    r"without a word": "silently",
    r"go(es)? by": "use, follow",
    r"stands? still": "does not change",
    r"for good": "permanently",
    r"a look": "a check, a use of the test split",
    r"of use": "useful",
    r"comes? to light": "appears",
    r"hand(s|ed)? (it |them )?back": "return",
}
"""Forms of the old dialect, and plain words for them."""

TEXT = re.compile(rf"\b({'|'.join(DIALECT)})\b", re.IGNORECASE)
EXEMPT = re.compile(
    r"CHANGELOG\.md|tests/golden/|tests/test_plain_english\.py|p3kit/market/sample/PROVENANCE\.md|docs/examples/(week|lessons)"
)
NOT_YET: tuple[str, ...] = ()
"""Beginnings of paths that are still to be rewritten."""


def docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, docstring) for a module and all its classes and functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{file.relative_to(ROOT)}:{getattr(node, 'name', 'module')}", text


def starts_with_a_question_word(text: str) -> bool:
    return text.split()[0].strip("`*_.,:").lower() in QUESTION_WORDS


def texts(name: str, content: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text): comments and strings of Python, comments of TOML, all of Markdown.

    Strings without a space are keys and identifiers, and are left out.
    """
    if name.endswith(".py"):
        kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
        tokens = tokenize.generate_tokens(io.StringIO(content).readline)
        yield from ((token.start[0], token.string) for token in tokens if token.type in kinds and " " in token.string)
    elif name.endswith(".toml"):
        lines = enumerate(content.splitlines(), 1)
        yield from ((number, line.partition("#")[2]) for number, line in lines if "#" in line)
    else:
        for match in re.finditer(r"[^\n]+(\n[^\n]+)*", content):
            yield content.count("\n", 0, match.start()) + 1, match[0]


def _plain(text: str) -> str:
    """Return a text without names in backticks and without expressions of f-strings and Jinja templates."""
    if re.match(r"[rbu]*f[\"']", text, re.IGNORECASE):
        text = re.sub(r"\{[^{}\n]*\}", "…", text)
    return re.sub(r"`[\w.]+`|\{[{%][^{}\n]*[}%]\}", "…", text)


def dialect(name: str, content: str) -> list[str]:
    """Return `file:line: form` for each form of the dialect, phrases across line ends included."""
    found = []
    for line, raw in texts(name, content):
        text = _plain(raw)
        for match in TEXT.finditer(re.sub(r"\s", " ", text)):
            found.append(f"{name}:{line + text.count(chr(10), 0, match.start())}: {match[0]!r}")
    return found


def tracked() -> list[str]:
    """Return the Python, Markdown, template and TOML files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.j2", "*.toml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if not EXEMPT.match(name)]


def test_the_check_finds_a_question_word() -> None:
    assert starts_with_a_question_word("What a largest drawdown has cost in all.")
    assert not starts_with_a_question_word("Cumulative penalty for the maximum drawdown.")


def test_docstrings_start_with_a_verb_or_a_noun() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    found = [place for file in files for place, text in docstrings(file) if starts_with_a_question_word(text)]
    assert not found, f"start these docstrings with a verb or a noun: {found}"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.py", 'x = 1\n"""The scale\nends for good."""\n', ["a.py:3: 'for good'"]),
        ("a.py", "x = 1  # the spec stands\n# still\n", []),  # two comments are two texts
        ("a.py", 'row["leash"] = council  # a key and a name are no text\n', []),
        ("a.py", '"""Return `told` as text."""', []),
        ("a.py", 'print(f"{told} of {asked}")', []),
        ("a.py", 'raise ValueError(f"{where}: the run stands still")', ["a.py:1: 'stands still'"]),
        ("a.md", "One.\n\nThe run stands\nstill.\n", ["a.md:3: 'stands still'"]),
        ("a.toml", 'name = "council"  # a number of use\n', ["a.toml:1: 'of use'"]),
    ],
)
def test_the_check_finds_dialect_in_text_only(name: str, content: str, found: list[str]) -> None:
    assert [place.replace("\n", " ") for place in dialect(name, content)] == found


def test_no_dialect_in_docstrings_comments_messages_and_pages() -> None:
    names = [name for name in tracked() if not name.startswith(NOT_YET)]
    found = [place for name in names for place in dialect(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "rewrite these in plain English, DIALECT has plain words:\n" + "\n".join(found)
