"""Specs that are wrong, one mistake each: the exact words a user gets, exit code 2, no traceback, nothing left behind.

The specs are in `wrong/`, the messages in `tests/golden/spec/`. A comment in each spec describes its fault.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import invoke

Golden = Callable[[str, str], None]
WRONG = Path(__file__).parent / "wrong"
SHIPPED = ", ".join(sorted(file.stem for file in (Path(__file__).parents[2] / "trainers").glob("*.py")))
# files that other ones extend
BASES = {"circle_b.toml"}


@pytest.fixture
def in_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WRONG)


@pytest.mark.parametrize("name", sorted(path.name for path in WRONG.glob("*.toml") if path.name not in BASES))
@pytest.mark.usefixtures("in_wrong")
def test_a_wrong_spec_is_refused_in_clear_words(name: str, golden: Golden) -> None:
    result = invoke("validate", name)
    assert result.exit_code == 2
    assert result.stdout == ""
    golden(f"spec/{name.removesuffix('.toml')}.txt", result.stderr)


def test_there_are_twenty_of_them() -> None:
    assert len(list(WRONG.glob("*.toml"))) >= 20


def refusal(path: Path, *arguments: str) -> str:
    result = invoke("validate", str(path), *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr.replace(str(path.parent), "…")


def test_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_text("#" * 10_000_000)
    assert refusal(path) == "…/big.toml: is 10.0 MB; a spec is at most 1 MB; is it the right file?\n"


@pytest.mark.parametrize(
    "line", ['trainer = "{}.py"', 'extends = "{}.toml"', 'data = {{ source = "csv", path = "{}.csv" }}']
)
def test_a_name_longer_than_any_file_has(line: str, tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text('name = "x"\nsymbols = ["AAPL"]\n' + line.format("a" * 300) + "\n")
    said = refusal(path)
    assert said.startswith("…/long.toml:3:")
    assert "no such file" in said


def test_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "x"\n# café\n'.encode("latin-1"))
    assert refusal(path) == "…/latin.toml:2:6: byte 0xe9 is not UTF-8; save the file as UTF-8\n"


def test_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.toml").touch()
    assert refusal(path) == "…/folder: is a directory; expected a spec file; in it: a.toml\n"


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "phase3.toml").touch()
    assert refusal(tmp_path / "phase.toml") == '…/phase.toml: no such file; did you mean "…/phase3.toml"?\n'


def test_a_spec_is_not_offered_as_the_file_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "own4.toml").write_text('extends = "own3.toml"\n', encoding="utf-8")
    assert refusal(tmp_path / "own4.toml") == '…/own4.toml:1:1: extends = "own3.toml": no such file\n'
    (tmp_path / "own2.toml").touch()
    assert refusal(tmp_path / "own4.toml").endswith('no such file; did you mean "…/own2.toml"?\n')


@pytest.mark.parametrize("suffix", [".yaml", ".YML", ".json"])
def test_a_form_for_other_programs(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text("name: x\n")
    said = refusal(path)
    assert said.startswith(f"…/x{suffix}: is no TOML; p3kit writes YAML and JSON for other programs, and does not read")
    assert said.endswith("p3kit export RUN --output NAME.toml\n")


def test_no_regular_file() -> None:
    assert refusal(Path("/dev/null")) == "…/null: is not a regular file\n"


def test_arrays_in_arrays_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 5000)
    assert refusal(path) == "…/deep.toml: TOML inline arrays/tables are nested more than the allowed 400 levels\n"


def test_data_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\nsymbols = ["A", "B"]\ndata = { source = "csv", path = "bars/{symbol}.csv" }\n')
    message = refusal(path)
    assert message.startswith("…/own.toml:3:26: data.path: ")
    assert message.endswith("bars/A.csv (and 1 more): no such file; data.path is relative to the spec file\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.ent_coeff=0.1", 'ppo.ent_coeff = 0.1: unknown key; did you mean "ent_coef"?'),
        ("ppo.gamma=2", "ppo.gamma = 2: expected a number from 0 to 1"),
        ("ppo.gamma", "expected KEY=VALUE; for example --set ppo.ent_coef=0.05"),
        ("ppo.gamma=[1", 'ppo.gamma = "[1": expected a number from 0 to 1'),
        ("trainer=ddpg", f'trainer: no trainer "ddpg"; shipped are {SHIPPED}, or give the path of your own .py file'),
        ("extends=a.toml", "extends can only stand in a file; write it at the top of a spec"),
    ],
)
def test_overrides_are_checked_alike(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "right.toml"
    path.write_text('name = "right"\nsymbols = ["AAPL"]\n')
    assert refusal(path, "--set", override) == f"--set {override}: {message}\n"


def test_a_file_that_is_something_else_altogether(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("".join(f"key_{number} = {number}\n" for number in range(2_000)))
    lines = refusal(path).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "…/other.toml:1:1: 1,952 more faults; this does not look like a spec of p3kit"


@pytest.mark.usefixtures("in_wrong")
def test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    for path in sorted(WRONG.glob("*.toml")):
        result = invoke("run", path.name, "--runs", str(tmp_path / "runs"))
        assert result.exit_code == 2, path.name
        assert result.stdout == ""
    assert not (tmp_path / "runs").exists()
