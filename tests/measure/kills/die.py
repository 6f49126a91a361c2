"""Start the trainer of a run directory so that it dies at a place: SIGKILL, without output and without a flush.

    python -m tests.measure.kills.die PLACE NTH RUN_DIR     dies the NTH time it gets there
    python -m tests.measure.kills.die count 0 RUN_DIR       trains to the end and prints how often it got to each place

Places are functions that p3kit itself calls; what is patched is how they end, never what they do.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pathlib
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from p3kit.env import TradingEnv
from p3kit.rundir import rows
from p3kit.runtime import evaluation

visits: Counter[str] = Counter()
chosen, nth = "", 0


def reach(place: str, last_words: Callable[[], object] = lambda: None) -> None:
    """Count a visit; at the chosen one, do half of what was to be done and die."""
    visits[place] += 1
    if place == chosen and visits[place] == nth:
        last_words()
        os.kill(os.getpid(), signal.SIGKILL)


def before(place: str, function: Any) -> Any:
    @functools.wraps(function)
    def dying(*arguments: Any, **named: Any) -> Any:
        reach(place)
        return function(*arguments, **named)

    return dying


def kind_of(path: pathlib.Path) -> str:
    """Kind of a file, for the name of a place: a checkpoint, the status, the journal, metrics, a picture's numbers."""
    words = {".pt": "checkpoint", "status.json": "status", "events": "journal", "metrics": "metrics"}
    return next((word for part, word in words.items() if part in path.name), "file")


class HalfWritten(io.FileIO):
    """A temporary file whose writer dies in the middle of its content."""

    def write(self, content: Any) -> int:
        half = bytes(content)[: len(content) // 2]
        reach(f"half a {kind_of(pathlib.Path(str(self.name)))} written", lambda: os.write(self.fileno(), half))
        return super().write(content)


def arm() -> None:
    """Put the places of death into p3kit."""
    observed, opened, replaced, appended = (
        TradingEnv.observe,
        pathlib.Path.open,
        pathlib.Path.replace,
        rows.write_at_end,
    )

    def observe(self: TradingEnv, index: Any, account: Any) -> Any:
        if index.numel() > self.num_envs:  # a minibatch, not the accounts of a rollout
            reach("update")
        return observed(self, index, account)

    def open_(self: pathlib.Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "wb" and self.suffix == ".tmp":
            return HalfWritten(self, "w")
        return opened(self, mode, *rest, **named)

    def replace(self: pathlib.Path, target: Any) -> Any:
        reach(f"before the rename of a {kind_of(self)}")
        result = replaced(self, target)
        reach(f"after the rename of a {kind_of(self)}")
        return result

    def append(handle: Any, path: pathlib.Path, text: str) -> None:
        def half() -> None:
            handle.seek(0, os.SEEK_END)
            handle.write(text[: len(text) // 2].encode())

        reach(f"half a row of the {kind_of(path)} written", half)
        appended(handle, path, text)
        reach(f"after a row of the {kind_of(path)}")

    TradingEnv.step = before("rollout", TradingEnv.step)  # type: ignore[method-assign]
    TradingEnv.observe = observe  # type: ignore[method-assign]
    evaluation.play = before("evaluation", evaluation.play)
    pathlib.Path.open, pathlib.Path.replace = open_, replace  # type: ignore[method-assign, assignment]
    rows.write_at_end = append


def main() -> None:
    global chosen, nth
    chosen, nth, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    arm()
    trainer = str(pathlib.Path(folder) / "trainer.py")
    sys.argv = [trainer, "--run-dir", folder]
    if (pathlib.Path(folder) / "checkpoints" / "last.pt").exists():
        sys.argv.append("--resume")
    runpy.run_path(trainer, run_name="__main__")
    if chosen == "count":
        print(json.dumps(visits))


if __name__ == "__main__":
    main()
