"""Finds what one trainer copies from another and compares it line by line, as `utils/check_copies.py` of
huggingface/transformers does.

A comment marks a copy of a whole class, function or constant, or of one section of a function:

    # Copied from trainers/ppo.py::compute_gae
    # Copied from trainers/ppo_stacked.py::train section 3

A section begins at its numbered comment (`# 3. Rewards: …`) and ends at the next one, or at the end of the block. The
mark of a section stands below its numbered comment. Lines of a copy that must differ stand between two comments. The
first one gives the reason, and the number of lines that they replace:

    # differs: the encoder is shared (2 lines)
    # end
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import islice
from pathlib import Path

MARK = re.compile(r"^ *# Copied from (?P<file>trainers/\w+\.py)::(?P<name>\w+)(?: section (?P<section>\d+))?$")
DIFFERS = re.compile(r"^ *# differs: .*\S \((\d+) lines?\)$")
LOOKS_LIKE_A_MARK = re.compile(r"^ *# *(copied from|differs|end$)", re.IGNORECASE)
END = re.compile(r"^ *# end$")
NUMBERED = re.compile(r"^( *)# (\d+)\. ")


class BadMark(Exception):
    """A mark that does not read as one, or that points at nothing."""


@dataclass
class Source:
    """One trainer: its lines, and where its definitions stand."""

    name: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def definitions(self) -> dict[str, range]:
        """Line numbers from 0 of each top-level class, function and constant, with decorators and docstrings."""
        found, body = {}, ast.parse(self.text).body
        for node in body:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            end = node.end_lineno or first
            while end < len(self.lines) and re.match(r" +#", self.lines[end]):  # the tree does not hold comments
                end += 1
            for name in _names(node):
                found[name] = range(first - 1, end)
        return found

    def section(self, function: str, number: int) -> range:
        """Line numbers of a section, without empty lines at its end."""
        within = self.definitions[function]
        starts = [i for i in within if NUMBERED.match(self.lines[i])]
        (start,) = (i for i in starts if int(NUMBERED.match(self.lines[i])[2]) == number)  # type: ignore[index]
        indent = len(NUMBERED.match(self.lines[start])[1])  # type: ignore[index]
        end = next((i for i in starts if i > start), within.stop)
        end = next((i for i in range(start, end) if self.lines[i].strip() and _indent(self.lines[i]) < indent), end)
        while not self.lines[end - 1].strip():
            end -= 1
        return range(start, end)


@dataclass(frozen=True)
class Copy:
    """One copy: the mark, its lines in the copying file, and those of the original."""

    file: str
    original: str
    name: str
    section: int | None
    mark: int
    lines: range
    there: range

    def __str__(self) -> str:
        section = "" if self.section is None else f" section {self.section}"
        return f"{self.file}:{self.mark + 1}: {self.original}::{self.name}{section}"


def copies(sources: dict[str, Source]) -> Iterator[Copy]:
    """Every copy among `sources`, by file name. Raises BadMark for a mark that points at nothing."""
    for source in sources.values():
        for i, line in enumerate(source.lines):
            if LOOKS_LIKE_A_MARK.match(line) and not (MARK.match(line) or DIFFERS.match(line) or END.match(line)):
                raise BadMark(f"{source.name}:{i + 1}: {line.strip()}")
            if match := MARK.match(line):
                yield _copy(sources, source, i, match)


def _copy(sources: dict[str, Source], source: Source, mark: int, match: re.Match[str]) -> Copy:
    name, section = match["name"], match["section"] and int(match["section"])
    try:
        original = sources[match["file"]]
        if section is None:
            here = next(own for own in source.definitions.values() if own.start == mark + 1)
            return Copy(source.name, original.name, name, None, mark, here, original.definitions[name])
        function = next(own for own, lines in source.definitions.items() if mark in lines)
        here, there = source.section(function, int(section)), original.section(name, int(section))
    except (KeyError, StopIteration, ValueError) as error:
        raise BadMark(f"{source.name}:{mark + 1}: {match[0].strip()} points at nothing") from error
    if mark != here.start + 1:
        raise BadMark(f"{source.name}:{mark + 1}: the mark of section {section} stands below its numbered comment")
    return Copy(source.name, original.name, name, int(section), mark, here, there)


def compared(copy: Copy, here: list[str], there: list[str]) -> list[tuple[int, int]]:
    """Pairs of line numbers (copy, original) that have to be equal. Empty lines, and marks of the original, are passed
    over. Raises BadMark where lines are left over."""
    rest = iter([j for j in copy.there if there[j].strip() and not LOOKS_LIKE_A_MARK.match(there[j])])
    pairs, block = [], 0
    for i in copy.lines:
        if match := DIFFERS.match(here[i]):
            if block:
                raise BadMark(f"{copy}: line {block} has no # end")
            block = i + 1
            if len(list(islice(rest, int(match[1])))) < int(match[1]):
                raise BadMark(f"{copy}: line {block} replaces lines that the original does not have")
        elif END.match(here[i]):
            if not block:
                raise BadMark(f"{copy}: line {i + 1}: # end without # differs")
            block = 0
        elif here[i].strip() and not block and not MARK.match(here[i]):
            if (j := next(rest, None)) is None:
                raise BadMark(f"{copy}: line {i + 1}: the original has no such line")
            pairs.append((i, j))
    if block:
        raise BadMark(f"{copy}: line {block} has no # end")
    if left := list(rest):
        raise BadMark(f"{copy}: the original goes on: line {left[0] + 1} of {copy.original}")
    return pairs


def faults(copy: Copy, here: list[str], there: list[str]) -> list[str]:
    """Every line of a copy that is not the original's, as one sentence each."""
    try:
        return [
            f"{copy}: line {i + 1} is {here[i].strip()!r}, line {j + 1} of {copy.original} is {there[j].strip()!r}"
            for i, j in compared(copy, here, there)
            if here[i] != there[j]
        ]
    except BadMark as bad:
        return [str(bad)]


def equal_lines(here: Source, there: Source) -> set[int]:
    """Line numbers in `here` that a diff of both files matches with a line of `there`: of classes, functions and
    constants, without empty lines and marks."""
    matcher = SequenceMatcher(None, here.lines, there.lines, autojunk=False)
    equal = {i for block in matcher.get_matching_blocks() for i in range(block.a, block.a + block.size)}
    defined = {i for lines in here.definitions.values() for i in lines}
    return {i for i in equal & defined if here.lines[i].strip() and not LOOKS_LIKE_A_MARK.match(here.lines[i])}


def read_trainers(folder: Path) -> dict[str, Source]:
    names = {path: f"trainers/{path.name}" for path in sorted(folder.glob("*.py"))}
    return {name: Source(name, path.read_text(encoding="utf-8")) for path, name in names.items()}


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name] if (name := getattr(node, "name", None)) else []


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
