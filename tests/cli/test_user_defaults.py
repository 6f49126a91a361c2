"""Defaults of options from `p3kit.toml`, pyproject.toml and the user's file: order, origin, faults, safety."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import invoke
from tests.made_runs import make_run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with a folder inside, which is the current one."""
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "inside")
    return tmp_path / "project"


def shown() -> Any:
    return json.loads(invoke("show", "--json").stdout)


def write_user(project: Path, text: str) -> None:
    folder = project.parent / "config" / "p3kit"
    folder.mkdir(parents=True)
    (folder / "p3kit.toml").write_text(text)


def test_without_files_the_built_in_values_hold(project: Path) -> None:
    assert shown() == {
        "runs": {"value": "runs", "origin": "default"},
        "jobs": {"value": None, "origin": "default"},
        "aim": {"value": True, "origin": "default"},
    }


@pytest.mark.parametrize(("file", "head"), [("p3kit.toml", ""), ("pyproject.toml", "[tool.p3kit]\n")])
def test_the_project_wins_over_the_user(project: Path, file: str, head: str) -> None:
    write_user(project, "jobs = 7\naim = false\n")
    (project / file).write_text(f"{head}runs = 'old/runs'\njobs = 3\n")
    found = shown()
    assert found["jobs"]["value"] == 3
    assert found["jobs"]["origin"].startswith(f"{project / file}:{2 + bool(head)}:")
    assert found["aim"]["value"] is False
    assert found["runs"]["value"] == str(project / "old" / "runs")
    make_run(project / "old" / "runs")
    assert "run-1" in invoke("runs").stdout


def test_help_prints_the_defaults_of_the_files(project: Path) -> None:
    (project / "p3kit.toml").write_text("runs = 'inside/kept'\njobs = 3\naim = false\n")
    text = " ".join(invoke("run", "--help").stdout.split())
    for default in ("[default: 3; x>=1]", "[env var: P3KIT_RUNS; default: kept]", "[default: no-aim]"):
        assert default in text
    assert "default: kept]" in invoke("paper", "status", "--help").stdout + invoke("paper", "trade", "--help").stdout


def test_options_and_the_environment_win(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "p3kit.toml").write_text("runs = 'a'\n")
    for name in ("a", "b", "c"):
        make_run(project / name, name=f"from-{name}")
    assert "from-a" in invoke("runs").stdout
    monkeypatch.setenv("P3KIT_RUNS", str(project / "b"))
    assert "from-b" in invoke("runs").stdout
    assert "from-c" in invoke("runs", "--runs", str(project / "c")).stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job = 2", 'p3kit.toml:1:1: job: is no default; did you mean "jobs"?'),
        ("device = 'cuda'", "values of a spec stand in the spec"),
        ("jobs = 0", "expected a whole number of at least 1"),
        ("jobs = true", "expected a whole number of at least 1"),
        ("aim = 'no'", "expected true or false"),
        ("runs = 3", "expected a folder"),
        ("runs = '/tmp/elsewhere'", "is outside the project"),
        ("runs = '../elsewhere'", "is outside the project"),
        ("runs = '~/elsewhere'", "is outside the project"),
        ("runs = ", "not TOML"),
    ],
)
def test_a_fault_names_its_place_and_remedy(project: Path, text: str, said: str) -> None:
    (project / "p3kit.toml").write_text(text)
    result = invoke("runs")
    assert result.exit_code == 2
    assert said in result.stderr
    assert str(project / "p3kit.toml") in result.stderr
    assert invoke("runs", "--help").exit_code == 0


def test_a_link_does_not_lead_out_of_the_project(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to(tmp_path)
    (project / "p3kit.toml").write_text("runs = 'link/elsewhere'\n")
    assert "is outside the project" in invoke("runs").stderr


def test_a_relative_folder_of_the_user_is_refused(project: Path) -> None:
    write_user(project, "runs = 'runs'\n")
    assert "expected an absolute path" in invoke("runs").stderr


def test_a_command_inside_a_group_takes_them_too(project: Path) -> None:
    (project / "p3kit.toml").write_text("runs = 'kept'\n")
    result = invoke("paper", "run-1", "--account", "x", "--bars", "x.csv")
    assert "kept" in result.stderr
