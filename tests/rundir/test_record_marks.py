"""Marks of the files of rows in a checkpoint: a resume notices any rows that a power cut deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3kit.errors import P3kitError
from p3kit.rundir import RunDir
from p3kit.rundir.record_marks import RECORDS, RecordMarks, lost_rows


def made(folder: Path, count: int = 5) -> RunDir:
    info = {"name": "x", "trainer": "ppo", "agents": [{"name": "A", "symbol": "A", "total_timesteps": 100}]}
    run = RunDir.create(folder / "runs", info, "", Path(__file__))
    add(run, count)
    return run


def add(run: RunDir, count: int, begin: int = 0) -> None:
    for step in range(begin, begin + count):
        row = {"agent": "A", "iteration": step, "global_step": step, "time": 0.0, "metrics": {"policy/entropy": 1.0}}
        run.append_metrics([row])
        run.append_event("note", agent="A", global_step=step, text="a note")


def test_rows_that_come_later_change_nothing(tmp_path: Path) -> None:
    run, marks = made(tmp_path), RecordMarks(tmp_path / "runs" / "run-1")
    first = marks.take()
    add(run, 3, begin=5)
    assert lost_rows(run.path, first) == ""
    assert marks.take() == RecordMarks(run.path).take(), "one read at a time gives what reading all gives"
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"torn')
    assert lost_rows(run.path, marks.take()) == ""
    run.cut_after({"A": 4})
    assert lost_rows(run.path, first) == ""


def test_a_run_without_rows(tmp_path: Path) -> None:
    run = made(tmp_path, count=0)
    marks = RecordMarks(run.path).take()
    assert marks == dict.fromkeys(RECORDS, "0 00000000")
    assert lost_rows(run.path, marks) == ""
    assert not (run.path / "metrics.jsonl").exists()


HARM = ["cut", "flip", "zero"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(RECORDS),
    where=st.floats(0, 1, exclude_max=True),
    harm=st.sampled_from(["cut", "flip", "zero"]),
)
def test_harm_at_any_byte_is_found(
    name: str, where: float, harm: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = made(tmp_path_factory.mktemp("run"))
    marks = RecordMarks(run.path).take()
    path = run.path / name
    content = path.read_bytes()
    at = int(where * len(content))
    if harm == "cut":
        path.write_bytes(content[:at])
        add(run, 5, begin=50)  # as long as it was, with other rows
        assert "rows were lost" in lost_rows(run.path, marks)
    else:
        changed = bytes([content[at] ^ 1]) if harm == "flip" else b"\0"
        path.write_bytes(content[:at] + changed + content[at + 1 :])
        assert lost_rows(run.path, marks).startswith(f"{name} is not what it was")
    path.unlink()
    assert "has 0 bytes" in lost_rows(run.path, marks)


def test_rows_lost_while_a_run_trains_are_no_mark(tmp_path: Path) -> None:
    run, marks = made(tmp_path), RecordMarks(tmp_path / "runs" / "run-1")
    marks.take()
    (run.path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(P3kitError, match=r"metrics\.jsonl: had [\d,]+ bytes, and has 0: rows were lost"):
        marks.take()
