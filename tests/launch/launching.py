"""Training without the public API: queued runs, with progress on a console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from p3kit.launch import Outcome, requeue, train
from p3kit.launch.display import make_display
from p3kit.launch.local import launch_title
from p3kit.rundir import RunDir


def launch(runs: Sequence[RunDir], *, jobs: int, console: Console, **options: Any) -> Outcome:
    """Train queued runs, `jobs` at a time. `options` are those of `train`."""
    with make_display(console, launch_title(runs)) as display:
        return train(runs, jobs=jobs, display=display, **options)


def resume(runs: Sequence[RunDir], *, jobs: int, console: Console, **options: Any) -> Outcome:
    """Continue runs from their last checkpoints, or from the beginning where there is none."""
    requeue(runs)
    return launch(runs, jobs=jobs, console=console, **options)
