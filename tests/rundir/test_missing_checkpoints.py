"""Checkpoints that somebody deleted: the message reports them, and separates them from weights never chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.errors import InputError
from p3kit.rundir import RunDir, find_checkpoint, missing_checkpoint_notes


def run_with(root: Path, *, evaluated: bool = True, sharpe: float | None = 0.5) -> RunDir:
    info = {"name": "x", "trainer": "ppo", "agents": [{"name": "AAPL", "symbol": "AAPL", "total_timesteps": 100}]}
    run = RunDir.create(root, info, "", Path(__file__))
    run.append_event("checkpoint", agent="AAPL", global_step=0, file="init.pt")
    if evaluated:
        metrics = {} if sharpe is None else {"eval/sharpe_ratio": sharpe}
        run.append_event("evaluation", agent="AAPL", global_step=50, metrics=metrics)
        run.append_event("checkpoint", agent="AAPL", global_step=50, file="last.pt")
    return run


def message(run: RunDir, wanted: str) -> str:
    with pytest.raises(InputError) as error:
        find_checkpoint(run, "AAPL", wanted)
    return str(error.value)


def test_deleted_and_never_chosen_are_told_apart(tmp_path: Path) -> None:
    deleted = message(run_with(tmp_path), "best")
    assert deleted == (
        "run-1/AAPL: its best weights, checkpoints/best-000000050.pt, were deleted or moved; run-1 has none"
    )
    assert "it never traded in an evaluation" in message(run_with(tmp_path, sharpe=None), "best")
    assert "it was not evaluated so far" in message(run_with(tmp_path, evaluated=False), "best")


def test_a_file_that_was_written_once(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    assert message(run, "last") == "--checkpoint last: last.pt was deleted or moved; run-1 has none"
    assert message(run, "best-7") == "--checkpoint best-7: no such checkpoint; run-1 has none"
    run.checkpoint("init").touch()
    assert "--checkpoint takes one of its checkpoints: init" in message(run, "best")


def test_a_resume_without_its_newest_checkpoint_says_where_it_begins(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    assert missing_checkpoint_notes(run) == [
        "run-1: checkpoints/last.pt was deleted or moved; it trains again from the beginning"
    ]
    run.checkpoint("init").touch()
    assert missing_checkpoint_notes(run)[0].endswith("it trains again from init.pt, before its first step")
    run.checkpoint("last").touch()
    assert missing_checkpoint_notes(run) == []
    assert missing_checkpoint_notes(run_with(tmp_path, evaluated=False)) == []
