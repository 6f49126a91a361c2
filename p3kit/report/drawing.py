"""Draw pictures of runs in a process of its own: `python -m p3kit.report.drawing`.

Each line of stdin is a request in JSON, [path of a run directory, names of agents]. Each line of stdout answers one:
the reason why it failed, or nothing. The process has loaded matplotlib before the first request, and ends with its
input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from p3kit.report.figure import load_matplotlib
from p3kit.report.run_pictures import draw_run
from p3kit.rundir import RunDir


def main() -> None:
    """Draw what is requested, until the input ends."""
    os.nice(15)  # runs that still train come first: threads of a trainer wait for each other at each kernel
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may come between the answers
    load_matplotlib()
    for request in sys.stdin:
        path, agents = json.loads(request)
        print(failure_of(Path(path), agents), file=answers, flush=True)


def failure_of(path: Path, agents: Sequence[str]) -> str:
    """Draw the pictures of some agents of a run; the reason in one line if that fails, else ""."""
    try:
        draw_run(RunDir.open(path), agents)
    except Exception as error:  # noqa: BLE001  for any error, one line is enough for the launcher
        return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return ""


if __name__ == "__main__":
    main()
