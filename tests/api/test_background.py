"""Pictures and the Aim mirror beside a training: a failure is one line, and stops nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import p3kit.aim_mirror
from p3kit.api.background import Background
from p3kit.report import run_pictures
from p3kit.rundir import RunDir
from tests.made_runs import make_run

Make = Callable[[bool], tuple[Background, Any]]


@pytest.fixture
def background_work(tmp_path: Path) -> Make:
    """Background work of a folder of runs, and what it prints."""
    console = Console(file=io.StringIO(), width=100)

    def make(mirror: bool) -> tuple[Background, Any]:
        return Background(tmp_path / "runs", console, mirror=mirror, aim_repo=None), console.file

    return make


def test_a_failing_mirror_is_said_once_and_stops_nothing(
    background_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            raise OSError("the repository is on fire")

    monkeypatch.setattr(p3kit.aim_mirror, "Mirror", Broken)
    background, printed = background_work(True)
    with background:
        pass
    assert printed.getvalue() == (
        "warning: the Aim mirror ended, training goes on (OSError: the repository is on fire); p3kit sync tries again\n"
    )


def test_the_mirror_follows_until_training_ends_and_says_a_problem_once(
    background_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Troubled:
        def __init__(self, *_: object) -> None:
            pass

        def follow(self, stop: Event) -> Iterator[SimpleNamespace]:
            for _ in range(3):
                yield SimpleNamespace(problems=("run-1: torn",))
            stop.wait()
            yield SimpleNamespace(problems=("run-2: gone",))

    monkeypatch.setattr(p3kit.aim_mirror, "Mirror", Troubled)
    background, printed = background_work(True)
    with background:
        pass
    assert printed.getvalue() == (
        "warning: not mirrored into Aim: run-1: torn\nwarning: not mirrored into Aim: run-2: gone\n"
    )


def test_pictures_that_fail_are_said(background_work: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def draw(run: RunDir) -> None:
        if run.name == "run-1":
            raise ValueError("no histogram")

    monkeypatch.setattr(run_pictures, "draw_run", draw)
    background, printed = background_work(False)
    with background:
        for seed in (1, 2):
            background.draw(make_run(tmp_path / "runs", seed=seed))
    assert printed.getvalue() == "warning: no pictures of run-1 (ValueError: no histogram)\n"
