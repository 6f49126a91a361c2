"""docs/architecture.md names only what exists: files, packages, modules, commands, and names of the runtime."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest

from p3kit import runtime
from p3kit.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted({name for span in re.findall(r"`([^`]+)`", PAGE) for name in re.split(r", | · ", span)})
TOOLS = {"lint-imports": "import-linter's command", "tox": "runs the tests", "ruff": "checks style"}


def exists(name: str) -> bool:
    """True if a name in backticks is a path, a module, a command, a tool, or public in the runtime or a trainer."""
    if "*" in name:
        return any((ROOT / "p3kit").rglob(name))
    if "/" in name or name.endswith((".py", ".toml", ".md")):
        return (ROOT / name).exists() or (ROOT / "p3kit" / name).exists()
    if name.startswith("p3kit "):
        return is_command(name.split()[1:])
    if (ROOT / "p3kit" / name).is_dir() or (ROOT / "p3kit" / f"{name}.py").is_file():
        return True
    if name in TOOLS:
        return shutil.which(name) is not None
    owners = (runtime.AgentRun, runtime.StackRun, runtime.Run)
    return name in runtime.__all__ or any(hasattr(owner, name) for owner in owners) or is_of_a_trainer(name)


def is_command(words: list[str]) -> bool:
    command: click.Command = main
    for word in words:
        if word.startswith("-"):
            return any(word in option.opts for option in command.params)
        inside = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if inside is None:
            return False
        command = inside
    return True


def is_of_a_trainer(name: str) -> bool:
    text = (ROOT / "trainers" / "ppo.py").read_text(encoding="utf-8")
    return re.search(rf"^(def|class) {re.escape(name)}\b", text, re.MULTILINE) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_exists(name: str) -> None:
    assert exists(name), f"docs/architecture.md: `{name}` is no file, module, command or name of p3kit.runtime"


@pytest.mark.parametrize("name", ["should_stop", "p3kit fly", "p3kit sync --redo", "p3kit/nowhere.py", "*_song.py"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert not exists(name)
