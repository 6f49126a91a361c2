"""`note`, `rm` and `runs --tag`: what a user keeps with runs, and how runs are removed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p3kit.rundir import RunDir, read_note
from tests.command import invoke
from tests.made_runs import make_run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs of one experiment, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        make_run(tmp_path / "runs", seed=seed, agent_name=f"AAPL.s{seed}", symbols=["AAPL"])
    return tmp_path / "runs"


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name.startswith("run-"))


def test_a_note_and_tags_stand_in_runs_and_show(root: Path) -> None:
    assert invoke("note", "run-1", "run-2", "--tag", "good", "--tag", "base", "-m", "first\nsecond").exit_code == 0
    listed = json.loads(invoke("runs", "--tag", "good", "--tag", "base", "--json").stdout)
    assert [(run["run"], run["tags"], run["note"]) for run in listed] == [
        (name, ["base", "good"], "first\nsecond") for name in ("run-1", "run-2")
    ]
    table = invoke("runs").stdout
    assert "base, good" in table
    assert "run-1 note: first second" in table
    shown = invoke("show", "run-1").stdout
    assert shown.startswith("# tags: base, good\n# note: first\n# note: second\n")
    (root.parent / "again.toml").write_text(shown)
    assert invoke("validate", "again.toml").exit_code == 0
    assert json.loads(invoke("show", "run-1", "--json").stdout)["tags"] == ["base", "good"]


def test_latest_names_the_other_runs_of_its_command(root: Path) -> None:
    RunDir(root / "run-1").update_info(command=["p3kit", "run", "x.toml"])
    note = "note: latest is run-3; the same command also started run-2\n"
    assert invoke("note", "latest", "--tag", "b").stderr == note
    assert invoke("diagnose", "latest", "--json", "--runs", "runs").stderr == note
    assert invoke("--quiet", "note", "latest", "--tag", "c").stderr == ""
    assert invoke("note", "run-3", "--tag", "d").stderr == ""


def test_an_edit_changes_only_what_it_names(root: Path) -> None:
    invoke("note", "phase3", "--tag", "a", "--tag", "b", "-m", "text")
    invoke("note", "phase3", "--untag", "a", "--untag", "absent")
    notes = [read_note(RunDir(root / name)) for name in names(root)]
    assert {(note.text, note.tags) for note in notes} == {("text", ("b",))}
    assert "no note and no tags" in invoke("note", "run-1", "-m", "", "--untag", "b").stdout


@pytest.mark.parametrize("tag", ["two words", "", "a,b", "run-2", "x" * 41, "line\nbreak", "\x1b[31m"])
def test_a_tag_that_is_no_word_changes_nothing(root: Path, tag: str) -> None:
    result = invoke("note", "run-1", "--tag", "fine", "--tag", tag)
    assert result.exit_code == 2
    assert not (root / "run-1" / "note.json").exists()


def test_concurrent_edits_are_all_kept(root: Path) -> None:
    code = "import sys; from p3kit.api.keeping import note_runs\n"
    code += "for n in range(20): note_runs('run-1', add_tags=[f'{sys.argv[1]}{n}'], runs_root='runs')"
    writers = [subprocess.Popen([sys.executable, "-c", code, word], cwd=root.parent) for word in "abc"]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    assert len(read_note(RunDir(root / "run-1")).tags) == 60


def test_a_damaged_note_hides_no_run(root: Path) -> None:
    (root / "run-1" / "note.json").write_text('{"note": 3}')
    result = invoke("runs")
    assert result.exit_code == 0
    assert "run-1 note: cannot be read" in result.stdout
    assert invoke("note", "run-1", "--tag", "a").exit_code == 1


def test_rm_names_sizes_and_keeps_all_without_an_answer(root: Path) -> None:
    result = invoke("rm", "run-1")
    assert (result.exit_code, names(root)) == (2, ["run-1", "run-2", "run-3"])
    assert "run-1: experiment phase3, done, 1 agent, " in result.stderr
    assert "kB" in result.stderr
    assert "add --yes" in result.stderr


def test_rm_asks_on_a_terminal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p3kit.cli.keep.can_answer", lambda: True)
    refused = invoke("rm", "phase3", answer="n\n")
    assert (refused.exit_code, names(root)) == (1, ["run-1", "run-2", "run-3"])
    assert "Delete these 3 runs?" in refused.stderr
    assert invoke("rm", "run-3", answer="y\n").exit_code == 0
    assert names(root) == ["run-1", "run-2"]


def test_a_number_is_not_used_twice(root: Path) -> None:
    assert invoke("rm", "3", "run-2", "--yes").exit_code == 0
    assert "was removed" in invoke("show", "run-3").stderr
    assert make_run(root, seed=4, agent_name="AAPL.s4", symbols=["AAPL"]).name == "run-4"
    assert invoke("rm", "phase3", "--yes").exit_code == 0
    assert sorted(path.name for path in root.iterdir() if path.name != ".made") == ["removed.jsonl"]
    assert make_run(root, seed=5, agent_name="AAPL.s5", symbols=["AAPL"]).name == "run-5"


def test_a_run_that_trains_is_not_removed(root: Path) -> None:
    RunDir(root / "run-2").update_status(state="running", pid=1)
    result = invoke("rm", "phase3", "--yes")
    assert (result.exit_code, names(root)) == (2, ["run-1", "run-2", "run-3"])
    assert "run-2: is running; end it first: p3kit stop run-2" in result.stderr


def test_a_locked_run_is_not_removed_whatever_its_status_says(root: Path) -> None:
    import os

    descriptor = RunDir(root / "run-2").lock()
    try:
        assert invoke("rm", "run-2", "--yes").exit_code == 2
    finally:
        os.close(descriptor)
    assert "run-2" in names(root)


def test_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (root / "run-2").rename(elsewhere)
    (root / "run-2").symlink_to(elsewhere)
    assert invoke("rm", "run-2", "--yes").exit_code == 2
    assert (elsewhere / "run.json").exists()


def test_a_damaged_run_can_be_removed(root: Path) -> None:
    (root / "run-2" / "run.json").write_text("{")
    result = invoke("rm", "run-2", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "damaged" in result.stderr
    assert names(root) == ["run-1", "run-3"]


def test_what_was_made_from_a_run_is_named(root: Path) -> None:
    later, repeated = RunDir(root / "run-2"), RunDir(root / "run-3")
    plans = [{**plan, "init": {"from": "run-1/AAPL.s1"}} for plan in later.info()["agents"]]
    later.update_info(agents=plans)
    repeated.update_info(replay={"run": "run-1", "journal": []}, tune={"sweep": "tune-4", "trial": 1})
    assert json.loads(invoke("rm", "run-1", "--yes", "--json").stdout)["dependants"] == [
        "run-2 starts from the weights of run-1, and keeps its copy",
        "run-3 repeats run-1",
    ]
    assert "run-3 is a trial of the sweep tune-4" in invoke("rm", "run-3", "--yes").stderr
