"""One trainer process: its start, its stop, and the meaning of its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from p3kit.errors import P3kitError
from p3kit.rundir import RunDir
from p3kit.rundir.signals import LAUNCHED
from p3kit.rundir.threads import available_cores, threads_of

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_FINAL_STATES = ("done", "failed", "stopped")


class Trainer(Protocol):
    """One run being trained, on any machine."""

    @property
    def run(self) -> RunDir: ...

    def has_started(self) -> bool:
        """True if its process was started; it may wait for room on a cluster first."""

    def ended(self) -> bool:
        """True if it ended and will not be retried."""

    def request_end(self) -> None:
        """Request the end: the trainer finishes its update and writes a checkpoint. Idempotent."""

    def kill(self, why: str = "") -> None:
        """Kill the process and its children; what came after the last checkpoint is lost. `why` is the message."""

    def settle(self) -> str:
        """Make the run's status final after it ended, and return its state."""


class Pulse:
    """Time since the last heartbeat of a run, by the monotonic clock: a changed system clock does not count."""

    def __init__(self) -> None:
        self._heartbeat: object = None
        self._heard = time.monotonic()

    def silent_s(self, status: Mapping[str, Any]) -> float:
        """Seconds since its status last changed. Must be called repeatedly."""
        if status.get("heartbeat") != self._heartbeat:
            self._heartbeat, self._heard = status.get("heartbeat"), time.monotonic()
        return time.monotonic() - self._heard


WAITED = "while it waited for its turn"
KILLED = "it was killed at your second signal; what came after the last checkpoint is lost"
"""Messages of a run that was stopped before its start, and of one that the user killed."""

Start = Callable[[RunDir], Trainer]
"""Begins to train a run. Raises P3kitError where that cannot be done."""


class TrainerProcess:
    """The process that trains one run.

    It has its own session, so that Ctrl-C in the terminal reaches only the launcher, which then stops every trainer
    with a checkpoint. It holds the lock of its run, so that no other process trains the run even if the launcher is
    killed.
    """

    def __init__(self, run: RunDir, process: subprocess.Popen[bytes]) -> None:
        self.run = run
        self._process = process
        self._end_requested = False
        self._why_killed = ""

    @classmethod
    def start(cls, run: RunDir, *, wait_s: float = 1.0, end_with_parent: bool = False) -> TrainerProcess:
        """Start the run's own copy of its trainer; from the last checkpoint if there is one, else from the beginning.

        `wait_s`: how long to wait for a former trainer of the run to end; `end_with_parent`: it ends when this process
        dies. Raises P3kitError when the run is still being trained after that or the process cannot be started.
        """
        lock = run.lock(wait_s)
        try:
            run.sweep()
            resume = run.checkpoint("last").exists() or run.checkpoint("init").exists()
            if not resume:
                run.cut_after(dict.fromkeys(run.agent_names(), -1))  # what a first attempt recorded before it crashed
            command = [sys.executable, str(run.trainer_file.resolve()), "--run-dir", str(run.path)]
            if end_with_parent:  # -P: nothing beside the script may be taken for a module of Python's own
                command = [sys.executable, "-P", str(_PARENT_DEATH), str(os.getpid()), *command]
            with run.log_file.open("ab") as log:
                process = subprocess.Popen(
                    [*command, "--resume"] if resume else command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment_of(run),
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as error:
            raise P3kitError(
                run.name, f"its trainer cannot be started ({error})", f"p3kit resume {run.name}"
            ) from error
        finally:
            os.close(lock)  # the trainer holds it now
        return cls(run, process)

    @property
    def exit_code(self) -> int | None:
        """Of the process, negative for a signal; None while it runs."""
        return self._process.poll()

    def has_started(self) -> bool:
        """It was, or there would be no such object."""
        return True

    def ended(self) -> bool:
        """Return True if the process is gone, and end any children left over."""
        if self._process.poll() is None:
            return False
        self._signal_group(signal.SIGKILL)
        return True

    def request_end(self) -> None:
        """Send SIGTERM: the trainer finishes its update, writes a checkpoint and ends. Idempotent."""
        if not self._end_requested:
            self._end_requested = True
            self._process.terminate()

    def kill(self, why: str = "") -> None:
        """End the process and its children at once; what came after the last checkpoint is lost. `why` becomes the
        run's message."""
        self._why_killed = why
        self._signal_group(signal.SIGKILL)

    def settle(self) -> str:
        """Make the run's status final after the process ended, and return its state.

        A state that the trainer wrote is kept. Otherwise the run crashed, or was stopped before it began.
        """
        status = self.run.status()
        if status["state"] in _FINAL_STATES:
            return str(status["state"])
        has_started = status["state"] == "running"
        code = self._process.returncode
        if self._end_requested and not has_started and code == -signal.SIGTERM:
            self.run.update_status(state="stopped", message="before its first step")
            return "stopped"
        message = self._why_killed or describe_exit(code) + ("" if has_started else " before its first step")
        self.run.update_status(state="crashed", message=message)
        self.run.append_event("crash", message=message, exit_code=code)
        return "crashed"

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no process of the group is left
            os.killpg(self._process.pid, number)


CHILD_WITHIN_S = 2 * 3600.0
"""Seconds for a trainer that evaluates or probes; a training is watched by its heartbeat instead."""


def run_trainer(run: RunDir, flags: Sequence[str], trainer: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a trainer on a run with further flags, wait for its end, and keep what it prints.

    Default: the run's own copy of its trainer. One that does not end in time is killed, and the result reports it.
    """
    command = [sys.executable, str((trainer or run.trainer_file).resolve()), "--run-dir", str(run.path), *flags]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment_of(run),
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=CHILD_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        message = f"{run.trainer_file}: did not end within {CHILD_WITHIN_S / 3600:.0f} hours and was killed"
        return subprocess.CompletedProcess(command, -signal.SIGKILL, "", message)


def describe_exit(code: int) -> str:
    """An exit code as text."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    guess = " (often the system, out of memory)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{guess}"


_OUTPUT = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
"""A trainer's output goes to a log file, so the terminal does not matter."""


def environment_of(run: RunDir) -> dict[str, str]:
    """The environment of a run's trainer, with its threads. Threads that share a core do not wait in loops."""
    threads = threads_of(run.info())
    waiting = {} if threads <= available_cores() else {"OMP_WAIT_POLICY": "PASSIVE"}
    return child_environment(threads) | waiting


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a process of ours: its threads, and this p3kit even where it is not installed."""
    numbers = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"OMP_DYNAMIC": "false"}
    environment = dict(os.environ) | numbers | _OUTPUT | {LAUNCHED: "1"}
    package_root = Path(__file__).resolve().parents[2]
    if package_root not in {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}:
        known = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{package_root}{os.pathsep}{known}" if known else str(package_root)
    return environment
