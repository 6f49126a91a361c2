"""SIGKILL at random moments: the next call finishes what the killed one began, to the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p3kit.paper.account_journal import FILE
from tests.paper.scripted import called, files_of, made_bars, start_of

KILLS = 12
ROOT = Path(__file__).parents[2]


def started(folder: Path) -> subprocess.Popen[str]:
    """A process that has just started to take bars in."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.paper.scripted", str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
def test_a_killed_account_is_finished_to_the_same_bytes(tmp_path) -> None:
    bars = made_bars()
    called(tmp_path / "whole", bars, start=start_of(bars))
    whole = files_of(tmp_path / "whole")
    rng, lengths = random.Random(24), set()
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        process, wanted = started(folder), rng.randrange(len(whole[FILE]))
        while process.poll() is None and size_of(folder / FILE) < wanted:
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.004)
        process.kill()
        process.wait(timeout=60)
        lengths.add(size_of(folder / FILE))
        called(folder, bars, start=start_of(bars))
        assert files_of(folder) == whole, f"kill {number}, planned at {wanted} bytes"
    assert len(lengths) > KILLS / 2, "the kills came at different moments"
