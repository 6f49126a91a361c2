"""Processes that draw pictures, started before there is anything to draw."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import LifoQueue
from typing import Any

from p3kit.launch.process import child_environment, describe_exit
from p3kit.rundir import RunDir
from p3kit.rundir.threads import available_cores

_WARM = 2
"""Processes that wait for the first run to end; more of them start when they are needed."""


class PicturesFailed(Exception):
    """Pictures could not be drawn; the reason in one line."""


class Artist:
    """One process of `p3kit.report.drawing`. One thread uses it at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock, self._ended = threading.Lock(), False

    def start(self) -> subprocess.Popen[str]:
        """Start the process where it does not run. Raises PicturesFailed after `end`."""
        with self._lock:
            return self._start()

    def _start(self) -> subprocess.Popen[str]:
        if self._ended:
            raise PicturesFailed("the launch has ended")
        if self._process is None or self._process.poll() is not None:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-m", "p3kit.report.drawing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=child_environment(1),
                start_new_session=True,  # Ctrl-C in the terminal is for the launcher
            )
        return self._process

    def draw(self, run: RunDir, agents: Sequence[str]) -> None:
        """Draw the pictures of some agents. Raises PicturesFailed where they cannot be drawn."""
        process: Any = self.start()
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([str(run.path), list(agents)]), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise PicturesFailed(lines[-1] if lines else describe_exit(code))
        if answer.strip():
            raise PicturesFailed(answer.strip())

    def end(self) -> None:
        """End the process at once, and start none any more. It holds nothing that could be lost."""
        with self._lock:
            self._ended = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Studio:
    """A process per core that draws. The agents of a run are divided among them, and so are runs that end together."""

    def __init__(self) -> None:
        self._artists = [Artist() for _ in range(available_cores())]
        self._idle: LifoQueue[Artist] = LifoQueue()
        for artist in self._artists:
            self._idle.put(artist)
        self._threads = ThreadPoolExecutor(max_workers=len(self._artists), thread_name_prefix="pictures")

    def warm_up(self) -> None:
        """Start some of the processes, so that their imports are over when the first run ends."""
        for artist in [self._idle.get() for _ in self._artists[:_WARM]]:
            with contextlib.suppress(PicturesFailed):
                artist.start()
            self._idle.put(artist)

    def draw(self, run: RunDir) -> list[Future[None]]:
        """Begin to draw the pictures of a run."""
        names, parts = run.agent_names(), len(self._artists)
        return [self._threads.submit(self._draw, run, names[i::parts]) for i in range(min(parts, len(names)))]

    def _draw(self, run: RunDir, agents: Sequence[str]) -> None:
        artist = self._idle.get()
        try:
            artist.draw(run, agents)
        finally:
            self._idle.put(artist)

    def end(self) -> None:
        """End all processes; what is not drawn stays undrawn."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for artist in self._artists:
            artist.end()
