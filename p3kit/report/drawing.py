"""Draw the pictures of a run in a process of its own: `python -m p3kit.report.drawing RUN_DIRECTORY`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from p3kit.report.run_pictures import draw_run
from p3kit.rundir import RunDir


def main() -> None:
    """Draw. A failure is one line on stderr, and exit code 1."""
    os.nice(5)  # runs that still train come first
    try:
        draw_run(RunDir.open(Path(sys.argv[1])))
    except Exception as error:  # noqa: BLE001  for any error, one line is enough for the launcher
        first = str(error).splitlines()[:1]
        sys.exit(": ".join([type(error).__name__, *first]))


if __name__ == "__main__":
    main()
