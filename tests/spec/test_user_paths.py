"""Paths as users write them: `~` in every path, and shipped specs by name in `extends`."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import p3kit
from p3kit.cli import main
from p3kit.cli.options import UserPath
from p3kit.errors import SpecError
from p3kit.spec import load_spec
from tests.command import invoke
from tests.made_runs import make_run

OWN = 'name = "x"\nsymbols = ["AAPL"]\n'
TRAINER = 'class Args:\n    total_timesteps: int = 10\n    """Env steps."""\n'
HEAD = "timestamp,open,high,low,close,volume\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def call(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_every_path_of_the_command_line_knows_the_home_folder() -> None:
    def paths(command: click.Command) -> list[click.ParamType]:
        context = click.Context(command)
        names = command.list_commands(context) if isinstance(command, click.Group) else []
        inside = [command.get_command(context, name) for name in names] if isinstance(command, click.Group) else []
        own = [one.type for one in command.params if isinstance(one.type, click.Path | click.File)]
        return [*own, *(kind for each in inside if each is not None for kind in paths(each))]

    found = paths(main)
    assert len(found) > 20
    assert {type(kind) for kind in found if not isinstance(kind, UserPath)} == set()


def test_a_spec_and_what_it_names_lie_at_home(home: Path) -> None:
    (home / "base.toml").write_text(OWN)
    (home / "t.py").write_text(TRAINER)
    (home / "x.toml").write_text('extends = "~/base.toml"\ntrainer = "~/t.py"\n')
    (home / "AAPL.csv").write_text(HEAD)
    call("validate", "~/x.toml")
    assert p3kit.load_spec("~/x.toml").spec.trainer == "~/t.py"
    shown = call("show", "~/x.toml", "--set", "data.source=csv", "--set", "data.path=~/{symbol}.csv")
    assert 'path = "~/{symbol}.csv"' in shown


def test_runs_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(home / "runs")
    assert "run-1" in call("runs", "--runs=~/runs")
    monkeypatch.setenv("P3KIT_RUNS", "~/runs")
    assert "run-1" in call("runs")
    assert [run.name for run in p3kit.list_runs()] == ["run-1"]
    assert p3kit.open_run("~/runs/run-1").name == "run-1"


def test_a_home_of_nobody_is_no_traceback(home: Path) -> None:
    (home / "x.toml").write_text(OWN + 'data = { source = "csv", path = "~nobody-here/{symbol}.csv" }\n')
    result = invoke("validate", "~/x.toml")
    assert result.exit_code == 2
    assert re.search(r"~nobody-here/AAPL\.csv: no such file", result.stderr)


@pytest.mark.parametrize("name", ["phase3.toml", "specs/phase3.toml"])
def test_extends_finds_the_shipped_spec_that_run_finds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "{name}"\nname = "own"\nsymbols = ["AMD"]\n')
    loaded = load_spec(path)
    assert loaded.spec.symbols == ("AMD",)
    assert any("phase3.toml" in origin for origin in loaded.origins.values())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("ppo.gamma = 0.5\n")
    assert load_spec(path).spec.ppo.gamma == 0.5, "the user's file comes first"


def test_an_own_file_that_goes_by_the_same_name_is_still_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "phase3.toml"
    path.write_text('extends = "phase3.toml"\n')
    with pytest.raises(SpecError, match="a circle"):
        load_spec(path)
