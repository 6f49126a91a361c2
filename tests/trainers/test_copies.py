"""Trainers are files of their own; what one copies from another stays a copy."""

from __future__ import annotations

import re

import pytest

from .conftest import TRAINERS
from .copies import NUMBERED, BadMark, Copy, Source, compared, copies, equal_lines, faults, read_trainers

SOURCES = read_trainers(TRAINERS)
PPO, STACKED, SHARED = (f"trainers/{name}.py" for name in ("ppo", "ppo_stacked", "ppo_shared"))
COPIES = list(copies(SOURCES))
COMPARED = {}
for one in COPIES:
    COMPARED.setdefault(one.file, set()).update(
        i for i, _ in compared(one, SOURCES[one.file].lines, SOURCES[one.original].lines)
    )


@pytest.mark.parametrize("copy", COPIES, ids=str)
def test_a_copy_is_a_copy(copy: Copy) -> None:
    assert not faults(copy, SOURCES[copy.file].lines, SOURCES[copy.original].lines)


def test_every_numbered_section_of_the_shared_loop_is_compared() -> None:
    numbers = {int(match[2]) for line in SOURCES[SHARED].lines if (match := NUMBERED.match(line))}
    marked = {copy.section for copy in COPIES if (copy.file, copy.original) == (SHARED, STACKED)} - {None}
    assert marked == numbers
    assert len(numbers) >= 6


@pytest.mark.parametrize(("file", "original"), [(SHARED, STACKED), (STACKED, PPO), (SHARED, PPO)])
def test_lines_that_are_equal_are_compared(file: str, original: str, capsys: pytest.CaptureFixture[str]) -> None:
    equal = equal_lines(SOURCES[file], SOURCES[original])
    seen = equal & COMPARED[file]
    text = f"{file} and {original}: {len(seen)} of {len(equal)} equal lines are compared ({len(seen) / len(equal):.0%})"
    with capsys.disabled():
        print(f"\n{text}")
    assert len(seen) >= 0.85 * len(equal)


@pytest.mark.parametrize("copy", COPIES, ids=str)
def test_changing_any_compared_line_in_one_file_is_found(copy: Copy) -> None:
    here, there = SOURCES[copy.file].lines, SOURCES[copy.original].lines
    for i, j in compared(copy, here, there):
        for lines, number in ((here, i), (there, j)):
            kept = lines[number]
            lines[number] = kept + " changed"
            assert faults(copy, here, there), f"{copy}: a change of {kept!r} was not found"
            lines[number] = kept


@pytest.mark.parametrize(("file", "most"), [(PPO, 435), (STACKED, 800), (SHARED, 950)])
def test_a_trainer_can_be_read_at_one_sitting(file: str, most: int) -> None:
    assert len(SOURCES[file].lines) <= most


def test_all_trainers_have_the_same_rooms() -> None:
    rooms = ["arguments", "network", "rollout", "advantages", "loss", "training loop"]
    for path in TRAINERS.glob("*.py"):
        headings = re.findall(r"^# ── ([\w ]+?) ─+$", path.read_text(), re.MULTILINE)
        assert [heading for heading in headings if heading in rooms] == rooms, path.name


# --- the comparison itself --------------------------------------------------------------------------------------------

ORIGINAL = """\
LIMIT = 3

def train():
    # 1. First.
    a = 1
    b = 2
    # 2. Second.
    c = 3
"""
COPY = """\
# Copied from trainers/one.py::LIMIT
LIMIT = 3

def learn():
    # 1. First.
    # Copied from trainers/one.py::train section 1
    # differs: another number (1 line)
    a = 7
    a += 1
    # end
    b = 2
    # 2. Second.
    # Copied from trainers/one.py::train section 2
    c = 3
"""


def faults_of(original: str, copy: str) -> list[str]:
    sources = {name: Source(name, text) for name, text in (("trainers/one.py", original), ("trainers/two.py", copy))}
    try:
        found = list(copies(sources))
    except BadMark as bad:
        return [str(bad)]
    return [fault for each in found for fault in faults(each, sources[each.file].lines, sources[each.original].lines)]


def test_a_good_copy_has_no_faults() -> None:
    assert faults_of(ORIGINAL, COPY) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("    b = 2\n", "    b = 4\n"), "line 11 is 'b = 4', line 6 of trainers/one.py is 'b = 2'"),
        (("    b = 2\n", ""), "goes on: line 6"),
        (("    b = 2\n", "    b = 2\n    more = 1\n"), "the original has no such line"),
        (("(1 line)", "(2 lines)"), "the original has no such line"),
        (("(1 line)", "(9 lines)"), "replaces lines that the original does not have"),
        (("    # end\n", ""), "has no # end"),
        ((" another number (1 line)", ""), "# differs:"),
        (("LIMIT\n", "LIMITS\n"), "points at nothing"),
        (("section 2", "section 3"), "points at nothing"),
        (("# Copied from trainers/one.py::LIMIT", "# copied from one.py"), "# copied from one.py"),
    ],
)
def test_a_bad_copy_is_named_with_its_place(change: tuple[str, str], fault: str) -> None:
    assert change[0] in COPY
    (found, *_) = faults_of(ORIGINAL, COPY.replace(*change))
    assert fault in found
    assert "trainers/two.py" in found


@pytest.mark.parametrize(
    ("old", "new"), [("a = 1\n", "a = 1\n    extra = 1\n"), ("    b = 2\n", ""), ("= 3\n\n", "= 4\n\n")]
)
def test_a_line_that_comes_or_goes_in_the_original_is_found(old: str, new: str) -> None:
    assert faults_of(ORIGINAL.replace(old, new, 1), COPY)
