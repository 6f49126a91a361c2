"""Pythons and systems: only the extra `aim` is held to Python 3.11 and 3.12, and Windows gets one sentence."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from p3kit.aim_mirror.store import require_aim
from p3kit.errors import NO_POSIX, InputError

PROJECT = tomli.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_only_the_extra_aim_has_an_upper_limit_of_python() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    limited = {
        extra: one
        for extra, packages in PROJECT["optional-dependencies"].items()
        for one in packages
        if "python_version" in one
    }
    assert limited == {"aim": "aim==3.29.1; python_version < '3.13'"}
    assert not any("python_version" in one for one in PROJECT["dependencies"])


def test_aim_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aim" else found(name))
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(InputError) as error:
        require_aim()
    assert str(error.value) == (
        "the Aim mirror: Aim 3.29.1, its last release, does not install on Python 3.13; "
        "use Python 3.11 or 3.12 for it; p3kit does all else without Aim"
    )
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    with pytest.raises(InputError, match=r"pip install 'p3kit\[aim\]'"):
        require_aim()


@pytest.mark.parametrize(
    "program",
    [
        "from p3kit.cli import main; main(['--help'])",
        "from p3kit.cli import main; main(['runs'])",
        "import p3kit; p3kit.list_runs()",
        "from p3kit.runtime import AgentRun",
    ],
)
def test_a_system_without_fcntl_is_refused_at_the_start(program: str) -> None:
    code = f"import sys; sys.modules['fcntl'] = None; {program}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith(NO_POSIX)
