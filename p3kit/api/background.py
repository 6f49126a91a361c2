"""Work beside a training, in the launching process: pictures of runs that ended, and the mirror in Aim.

Both work in the background and neither can stop the training: a failure is one line on stderr.
"""

from __future__ import annotations

import importlib.util
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from p3kit.api.artist import PicturesFailed, Studio
from p3kit.console import Console as OwnConsole
from p3kit.errors import P3kitError
from p3kit.launch.deadlines import abandoned
from p3kit.rundir import RunDir, intact_runs
from p3kit.rundir.directory import ACTIVE_STATES

if TYPE_CHECKING:
    from p3kit.aim_mirror import Mirror


PICTURES_WITHIN_S = 600.0
"""Seconds for the pictures of one run, after the training."""
QUIET_S = 6.0
"""Seconds in which the trainers start. Imports of matplotlib and Aim, and Aim's first look at a repository, would slow
them down."""
_POLL_S = 0.2


class Background:
    """A context around a launch. It exits when the last pictures are drawn and the mirror is up to date.

    Neither is waited for without end: one that hangs is left alone, with a warning.
    """

    def __init__(self, runs_root: Path, console: Console, *, mirror: bool, aim_repo: Path | None) -> None:
        self._runs_root, self._aim_repo = runs_root, aim_repo
        self._console = OwnConsole(stderr=True) if console.quiet else console  # warnings are for the quiet, too
        self._studio = Studio()
        self._warm_up = threading.Timer(QUIET_S, self._studio.warm_up)
        self._pictures: list[tuple[RunDir, Future[None]]] = []
        self._stop_mirror, self._news = threading.Event(), threading.Event()
        self._mirror_ended = threading.Event()  # Ctrl-C during Thread.join makes is_alive() False (CPython 3.11)
        self._mirror = threading.Thread(target=self._follow, name="aim mirror", daemon=True) if mirror else None
        self._followed: Mirror | None = None

    def __enter__(self) -> Background:
        self._warm_up.daemon = True
        self._warm_up.start()
        if self._mirror is not None:
            self._mirror.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait_for_pictures()
            self._wait_for_mirror()
        except KeyboardInterrupt:
            self._warn("pictures and the Aim mirror are not up to date; p3kit sync brings the mirror there")
            self._abandon()
        finally:
            self._warm_up.cancel()
            self._studio.end()

    def _wait_for_pictures(self) -> None:
        reported: set[str] = set()
        for run, picture in self._pictures:
            try:
                failure = picture.exception(timeout=PICTURES_WITHIN_S)
            except TimeoutError:
                self._warn(
                    f"no pictures of {run.name}: not drawn within {PICTURES_WITHIN_S:.0f} s; p3kit ui draws them"
                )
                return self._abandon()
            if failure is not None:
                reason = str(failure) if isinstance(failure, PicturesFailed) else _in_short(failure)
                if run.name not in reported:
                    self._warn(f"no pictures of {run.name} ({reason})")
                reported.add(run.name)
        return None

    def _wait_for_mirror(self) -> None:
        self._stop_mirror.set()
        self._news.set()
        while self._mirror is not None and not self._mirror_ended.wait(_POLL_S):
            if self._followed is not None and self._followed.hangs:
                self._warn(
                    "the Aim mirror hangs, as it does on a full disk; it was left alone, and all runs are saved. "
                    "Free some space, then: p3kit sync"
                )
                return self._abandon()
        return None

    def _abandon(self) -> None:
        """Note the mirror if it is still at work, and end the processes that draw."""
        if self._mirror is not None and not self._mirror_ended.is_set():
            abandoned.append(self._mirror.name)
        self._studio.end()

    def draw(self, run: RunDir) -> None:
        """Draw the pictures of a run that ended, and mirror it, while others train."""
        try:
            self._pictures += [(run, future) for future in self._studio.draw(run)]
        except (OSError, P3kitError) as error:  # the directory was deleted
            self._warn(f"no pictures of {run.name} ({_in_short(error)})")
        self._news.set()

    def _follow(self) -> None:
        reported: set[str] = set()
        self._stop_mirror.wait(QUIET_S)
        try:
            from p3kit.aim_mirror import Mirror

            self._followed = Mirror(self._runs_root, self._aim_repo)
            for result in self._followed.follow(self._stop_mirror, news=self._news):
                for problem in result.problems:
                    if problem not in reported:
                        self._warn(f"not mirrored into Aim: {problem}")
                    reported.add(problem)
        except Exception as error:  # noqa: BLE001  no error of Aim may stop the training
            self._warn(f"the Aim mirror ended, training continues ({_in_short(error)}); p3kit sync tries again")
        finally:
            self._mirror_ended.set()

    def _warn(self, text: str) -> None:
        wrap = not self._console.is_terminal  # a log gets whole lines
        self._console.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=wrap)


def aim_is_installed() -> bool:
    """Return True where the mirror can work, without importing Aim."""
    return importlib.util.find_spec("aim") is not None


def draw_missing(runs_root: Path) -> None:
    """Draw the pictures of runs that ended without any, as those of a trainer that was started alone."""
    for run in intact_runs(runs_root)[0]:
        if run.status()["state"] not in ACTIVE_STATES and not any(run.plots.glob("*.png")) and run.histograms():
            _draw(run)


def _draw(run: RunDir) -> None:
    from p3kit.report.run_pictures import draw_run

    draw_run(run)


def _in_short(error: BaseException) -> str:
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
