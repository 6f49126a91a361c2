"""A file name appears once in the tree, unless the two files play the same part in two packages."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from p3kit.diagnose import detectors
from p3kit.diagnose.detectors import DETECTORS
from p3kit.symptoms import SYMPTOMS

ROOT = Path(__file__).parents[1]
SAME_PART = {
    "display.py": "progress on the terminal, of runs and of a sweep",
    "loading.py": "files into one object: a spec, a policy",
    "table.py": "results as a table on the terminal: of probes, of a diagnosis",
    "validation.py": "checks of plain data before it is used: of a spec, of a run directory",
    "evidence.py": "evidence of the diagnosis: measured by a trainer, read by the detectors",
}
"""File names that two packages may share, each with the part that both files play."""
BY_PREFIX = (ROOT / "p3kit/symptoms", ROOT / "p3kit/diagnose/detectors")
"""Packages whose files are named by the prefix of a symptom id."""
COMMANDS = ROOT / "p3kit/cli"
"""The package whose files are named by a command."""


def source_files() -> list[Path]:
    folders = (ROOT / "p3kit", ROOT / "trainers", ROOT / "tests")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return [file for file in files if not file.name.startswith(("__", "test_")) and file.name != "conftest.py"]


def shared_names(files: list[Path]) -> dict[str, list[Path]]:
    """Names of several files, without commands and files that are named by a prefix."""
    found = defaultdict(list)
    for file in files:
        if file.parent not in (*BY_PREFIX, COMMANDS):
            found[file.name].append(file.relative_to(ROOT))
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def test_a_file_name_appears_once() -> None:
    assert {name: paths for name, paths in shared_names(source_files()).items() if name not in SAME_PART} == {}


def test_the_list_of_shared_names_is_current() -> None:
    assert set(shared_names(source_files())) == set(SAME_PART)


def test_a_second_file_of_one_name_is_found() -> None:
    twice = [ROOT / "p3kit/launch/process.py", ROOT / "p3kit/spec/process.py"]
    assert set(shared_names(twice)) == {"process.py"}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_a_symptom_is_filed_by_its_prefix(symptom: str) -> None:
    module = __import__(f"p3kit.symptoms.{symptom.partition('.')[0]}", fromlist=["ROWS"])
    assert symptom in {row.id for row in module.ROWS}


@pytest.mark.parametrize("symptom", DETECTORS)
def test_a_detector_is_filed_by_its_prefix(symptom: str) -> None:
    assert DETECTORS[symptom].judge.__module__ == f"{detectors.__name__}.{symptom.partition('.')[0]}"
