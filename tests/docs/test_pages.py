"""Pages written by hand: their commands work, their links lead somewhere, the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import tomli

from p3kit.cli import COMMANDS, main
from p3kit.spec import resolve_spec, shipped_specs
from tests.documented import ROOT, Step, commands, execute, steps

PAGES = sorted((ROOT / "docs").glob("*.md"))
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "trainers/README.md")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutorial.md", "from-sb3.md", "retrain.md", "use.md"])
def test_a_reader_can_do_what_the_page_says(name: str, tmp_path: Path) -> None:
    """Every command in order, in one empty folder, where a block with a file's name above it is that file."""
    for step in steps((ROOT / "docs" / name).read_text(encoding="utf-8")):
        _do(step, tmp_path)


def _do(step: Step, folder: Path) -> None:
    if step.kind in ("toml", "python", "json") and step.marker:
        (folder / step.marker).write_text(step.text, encoding="utf-8")
    elif step.kind == "sh":
        result = execute(step.text, folder)
        assert result.returncode == 0, f"{step.text}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, step.text


@pytest.mark.parametrize("page", [*PAGES, *TOP], ids=lambda path: path.name)
def test_every_p3kit_command_of_a_page_is_spelt_right(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and options of all pages, whether something runs them or not: they are parsed as when they are typed."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    monkeypatch.setattr("p3kit.cli.options.SpecFile.convert", lambda self, value, param, ctx: Path(value))
    for command in commands(page.read_text(encoding="utf-8")):
        for part in re.split(r"&&|\|", command):
            words = [word for word in shlex.split(part) if word not in (">", ">>")]
            if words[:1] == ["p3kit"]:
                _parse(words[1:])


def _parse(words: list[str]) -> None:
    context = click.Context(main, info_name="p3kit", help_option_names=["-h", "--help"])  # click keeps the first it saw
    name, command, rest = main.resolve_command(context, words)
    assert name in COMMANDS
    assert command is not None
    arguments = [word for word in rest if not word.endswith((".bashrc", ".zshrc", ".fish"))]
    command.make_context(name, list(arguments), parent=context)


def test_every_line_of_a_spec_that_replaces_a_line_of_python_is_right() -> None:
    """The right-hand column of docs/from-sb3.md: each `key = value` alone in a spec, and the defaults are defaults."""
    bare = {"name": "x", "symbols": ["AAPL"]}
    rows = re.findall(r"^\|.*\|(.*)\|$", (ROOT / "docs" / "from-sb3.md").read_text(encoding="utf-8"), re.M)
    checked = 0
    for cell in rows:
        for code in re.findall(r"`([a-z_.]+ = [^`]+)`", cell):
            if "..." not in code and not code.startswith("on = "):  # a part of a line, or of an intervention
                spec = resolve_spec({**bare, **tomli.loads(code)}, code)
                if cell.split(code)[1].startswith("`, the default"):
                    assert spec == resolve_spec(bare, "bare"), cell
                checked += 1
    assert checked >= 15


@pytest.mark.parametrize("page", [*PAGES, *TOP], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target) and target != "changelog.md":  # which is CHANGELOG.md, on the site
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_every_shipped_spec_begins_with_the_schema_line() -> None:
    for spec in shipped_specs():
        assert spec.read_text(encoding="utf-8").startswith("#:schema ./p3kit.schema.json\n"), spec.name


def test_pre_commit_finds_a_wrong_spec(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import validate_specs

    assert validate_specs.main() == 0
    wrong = ROOT / "tests" / "spec" / "wrong" / "typo_in_key.toml"
    monkeypatch.setattr(validate_specs, "shipped_specs", lambda: [wrong])
    assert validate_specs.main() == 1
    assert 'did you mean "clip_range"?' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: tox -e docs")
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="https?://[^"]+\.(js|css|woff2?)"', home)
    assert (tmp_path / "errors" / "index.html").exists()
    assert (tmp_path / "trainers" / "index.html").exists()
