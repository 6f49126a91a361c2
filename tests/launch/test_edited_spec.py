"""A spec file that was edited after a run: the note before a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.launch.edited_spec import edited_spec_note
from p3kit.launch.local import make_runs
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.spec import load_spec, read_trainer

SPEC = """
name = "trial"
symbols = ["AAPL"]
extends = "base.toml"

[ppo]
gamma = 0.99
"""
BASE = "[ppo]\nent_coef = 0.01\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A queued run of `specs/trial.toml`, planned in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "trial.toml").write_text(SPEC)
    (tmp_path / "specs" / "base.toml").write_text(BASE)
    loaded = load_spec("specs/trial.toml", ["ppo.n_epochs=3"])
    plans = plan_runs(loaded.spec, read_trainer(loaded.spec.trainer), 1)
    command = ["p3kit", "run", "specs/trial.toml", "--set", "ppo.n_epochs=3"]
    [made] = make_runs(plans, loaded, {}, tmp_path / "runs", command=command)
    return made


def edit(name: str, old: str, new: str) -> None:
    path = Path("specs", name)
    path.write_text(path.read_text().replace(old, new))


def test_an_unchanged_file_gives_no_note(run: RunDir) -> None:
    assert edited_spec_note(run) == ""
    edit("trial.toml", "gamma = 0.99", "gamma = 0.990  # a comment")
    assert edited_spec_note(run) == ""


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("trial.toml", "0.99", "0.95", "ppo.gamma 0.99 → 0.95"),
        ("trial.toml", "gamma = 0.99", "", "ppo.gamma"),
        ("trial.toml", "gamma = 0.99", "gamma = 0.99\nclip_range = 0.3", "ppo.clip_range 0.2 → 0.3"),
        ("trial.toml", '["AAPL"]', '["AAPL", "AMD"]', 'symbols ["AAPL"] → ["AAPL", "AMD"]'),
        ("base.toml", "0.01", "0.05", "ppo.ent_coef 0.01 → 0.05"),
        ("trial.toml", "gamma = 0.99", "gamma = 2.0", "has a fault now"),
    ],
)
def test_an_edit_is_named(run: RunDir, name: str, old: str, new: str, said: str) -> None:
    edit(name, old, new)
    note = edited_spec_note(run)
    if said == "ppo.gamma":  # back to the default, which may be the same
        assert said in note or load_spec("specs/trial.toml").spec.ppo.gamma == 0.99  # type: ignore[attr-defined]
        return
    assert said in note
    assert "run-1 continues with the spec that it recorded" in note
    if "fault" not in said:
        assert note.endswith("p3kit run specs/trial.toml --set ppo.n_epochs=3")


def test_the_file_is_found_from_another_folder(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("trial.toml", "0.99", "0.95")
    monkeypatch.chdir(run.path)
    assert "ppo.gamma 0.99 → 0.95" in edited_spec_note(RunDir(Path()))


def test_a_value_of_the_command_line_is_no_edit(run: RunDir) -> None:
    edit("trial.toml", "gamma = 0.99", "gamma = 0.99\nn_epochs = 7")
    assert edited_spec_note(run) == ""


def test_a_file_that_is_gone_gives_no_note(run: RunDir) -> None:
    Path("specs/trial.toml").unlink()
    assert edited_spec_note(run) == ""
