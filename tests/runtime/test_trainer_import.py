"""A trainer's file is imported without what trains: names of `p3kit.runtime` wait until they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from p3kit.errors import InputError
from p3kit.runtime.trainer_import import import_trainer, missing_names
from p3kit.spec import shipped_trainers
from tests.trainers.test_ppo_runs import plan_run


def trainer(folder: Path, text: str, name: str = "trainer.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "from p3kit.runtime import Gone\nvalue = 1",
        "from p3kit.runtime import Gone as G, part\nvalue = part('a', {'a/b': 1})['b']",
        "from p3kit.runtime import Gone\ndef train(run: Gone[int]) -> None: ...\nvalue = 1",
        "from p3kit.runtime import Gone\ndef train(run: Gone | None = None) -> None: ...\nvalue = 1",
        "from p3kit.runtime.anywhere import Gone\nvalue = 1",
        "from p3kit.runtime import *\nvalue = 1",
        "from p3kit.runtime import part as value_of\nvalue = value_of('a', {'a/b': 1})['b']",
    ],
)
def test_names_that_are_gone_matter_only_when_they_are_used(tmp_path: Path, text: str) -> None:
    assert import_trainer(trainer(tmp_path, text)).value == 1


def test_a_name_that_is_gone_is_named_where_it_is_used(tmp_path: Path) -> None:
    module = import_trainer(trainer(tmp_path, "from p3kit.runtime import Bodies\ndef use(): return Bodies(1)"))
    with pytest.raises(ImportError, match=r"p3kit\.runtime\.Bodies is not in this p3kit .*was removed"):
        module.use()
    with pytest.raises(InputError, match=r"imported: ImportError: p3kit\.runtime\.Bodies is not in this p3kit"):
        import_trainer(trainer(tmp_path, "from p3kit.runtime import Bodies\nclass Mine(Bodies): ...", "other.py"))


def test_each_file_has_a_module_of_its_own(tmp_path: Path) -> None:
    one, two = (trainer(tmp_path / name, f"name = {name!r}") for name in ("one", "two"))
    first, second = import_trainer(one), import_trainer(two)
    assert (first.name, second.name) == ("one", "two")
    assert import_trainer(one) is first
    one.write_text("name = 'changed'")
    assert import_trainer(one).name == "changed"
    assert not list(tmp_path.rglob("__pycache__"))


def test_missing_names_are_those_that_no_module_has(tmp_path: Path) -> None:
    text = "from p3kit.runtime import AgentRun, Bodies\nfrom p3kit.nowhere import A\nfrom p3kit import env\nimport math"
    assert missing_names(trainer(tmp_path, text)) == ["p3kit.runtime.Bodies", "p3kit.nowhere.A"]
    assert all(missing_names(path) == [] for path in shipped_trainers().values())


WITHOUT = """
import runpy, sys
sys.argv = sys.argv[1:]
try: runpy.run_path(sys.argv[0], run_name="__main__")
finally: print([name for name in ("pandas", "matplotlib", "aim", "torch._dynamo") if name in sys.modules])
"""


@pytest.mark.parametrize("path", shipped_trainers().values(), ids=lambda path: path.stem)
def test_a_trainer_starts_without_packages_that_it_may_not_need(path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(path), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_run_that_is_not_compiled_does_without_the_compiler(tmp_path: Path) -> None:
    run = plan_run(tmp_path)
    command = [sys.executable, "-c", WITHOUT, str(run.trainer_file), "--run-dir", str(run.path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert run.status()["state"] == "done"
