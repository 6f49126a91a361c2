"""Pictures and the Aim mirror beside a training: a failure is one line, and stops nothing."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

import p3kit.aim_mirror
from p3kit.api import artist
from p3kit.api import background as background_module
from p3kit.api.background import Background
from tests.report.test_pictures import with_histograms

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
        "warning: the Aim mirror ended, training continues (OSError: the repository is on fire); "
        "p3kit sync tries again\n"
    )


def test_the_mirror_follows_until_training_ends_and_says_a_problem_once(
    background_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Troubled:
        def __init__(self, *_: object) -> None:
            pass

        def follow(self, stop: Event, news: Event) -> Iterator[SimpleNamespace]:
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


def test_pictures_are_drawn_and_those_that_fail_are_said(background_work: Make, tmp_path: Path) -> None:
    background, printed = background_work(False)
    runs = [with_histograms(tmp_path / "runs", seed=seed) for seed in (1, 2)]
    runs[0].plots.rmdir()
    runs[0].plots.write_text("in the way")
    with background:
        for run in runs:
            background.draw(run)
    assert list(runs[1].plots.glob("*.png"))
    assert re.fullmatch(r"warning: no pictures of run-1 \(FileExistsError: .*plots'\)\n", printed.getvalue()), printed


def test_an_interrupt_ends_the_processes_that_draw(
    background_work: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After Ctrl-C while pictures are drawn the prompt returns, and no process is left."""
    before = psutil.Process().children()
    background, printed = background_work(False)

    def interrupted() -> None:
        while psutil.Process().children() == before:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(background, "_wait_for_pictures", interrupted)
    with background:
        background.draw(with_histograms(tmp_path / "runs"))
    assert "pictures and the Aim mirror are not up to date" in printed.getvalue()
    for _ in range(600):
        if psutil.Process().children() == before:
            break
        time.sleep(0.05)
    assert psutil.Process().children() == before


def test_pictures_wait_for_no_import(background_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that draw are there before a run ends, and the pictures of one run are divided among them."""
    monkeypatch.setattr(background_module, "QUIET_S", 0.0)
    monkeypatch.setattr(artist, "available_cores", lambda: 2)
    before = psutil.Process().children()
    background, printed = background_work(False)
    run = with_histograms(tmp_path / "runs")
    with background:
        while len(psutil.Process().children()) < len(before) + 2:
            time.sleep(0.01)
        waiting = psutil.Process().children()
        background.draw(run)
        while not list(run.plots.glob("*.png")):
            time.sleep(0.01)
        assert psutil.Process().children() == waiting
    assert psutil.Process().children() == before
    assert printed.getvalue() == ""


def test_a_process_that_died_is_said_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, one = with_histograms(tmp_path / "runs"), artist.Artist()
    process = one.start()
    process.kill()
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(one, "start", lambda: process)  # it dies after the look whether it runs
        with pytest.raises(artist.PicturesFailed, match="killed"):
            one.draw(run, run.agent_names())
    one.draw(run, run.agent_names())
    one.end()
    assert list(run.plots.glob("*.png"))
