"""Files that the public project is seen by: they agree with the package."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import yaml

import p3kit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))


def steps(job: str) -> str:
    return "\n".join(step.get("run", "") for step in WORKFLOW["jobs"][job]["steps"])


def test_the_version_has_one_source() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "p3kit/__init__.py"}
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == p3kit.__version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_newest_release_of_the_changelog_is_dated_and_is_this_version() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0] == "Unreleased"
    releases = [head.partition(" - ") for head in heads[1:]]
    assert releases[0][0] == p3kit.__version__
    days = [date.fromisoformat(day) for _, _, day in releases]
    assert days == sorted(days, reverse=True)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["date-released"] == days[0]


def test_the_workflow_tests_every_python_that_is_promised() -> None:
    promised = {word.rsplit(" ", 1)[1] for word in PROJECT["project"]["classifiers"] if " :: 3." in word}
    assert promised <= set(WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"])


def test_the_workflow_calls_environments_that_exist() -> None:
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for job in ("lint", "docs"):
        (name,) = re.findall(r"tox -e (\w+)", steps(job))
        assert f"[testenv:{name}]" in tox
    assert "pytest" in steps("tests")


def test_issue_forms_are_whole() -> None:
    for name in ("bug", "wish"):
        form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        assert len({part["id"] for part in form["body"]}) == len(form["body"])
