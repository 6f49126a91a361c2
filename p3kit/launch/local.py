"""Slots: `jobs` runs train at a time, until every run has ended or someone interrupts.

A run trains in a process of this machine, unless another `start` is given (`p3kit.launch.cluster` has Ray's).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from p3kit.errors import InputError, P3kitError
from p3kit.launch.display import Display, agent_views
from p3kit.launch.process import KILLED, WAITED, Pulse, Start, Trainer, TrainerProcess
from p3kit.rundir import RunDir
from p3kit.rundir.signals import handle_signals

if TYPE_CHECKING:
    from p3kit.launch.ancestors import Ancestry
    from p3kit.market import SymbolData
    from p3kit.plan import RunPlan
    from p3kit.spec import LoadedSpec

POLL_S = 0.1
"""Seconds between two looks at whether a process has ended."""

LOOK_S = 0.5
"""Seconds between two reads of the runs' status."""

HUNG_AFTER_S = 3600.0
"""Seconds without a heartbeat after which a trainer is taken for hung and ended. A heartbeat comes with every epoch."""

_MOST_NAMED = 10

LOG_LINES = 12
"""Lines of its log that are shown when a run fails."""

RunHook = Callable[[RunDir], None]


class Feed(Protocol):
    """Source of the next runs while runs train: a sweep. Called in the launching thread, between two polls."""

    def more(self) -> Sequence[RunDir]:
        """Return runs to train in a free slot. An empty list while no run is active ends the launch."""

    def look(self) -> None:
        """Check the active runs; called every half second."""

    def ended(self, run: RunDir, state: str, *, interrupted: bool) -> None:
        """A run has ended, or will not start; `interrupted`: everything was stopped."""


@dataclass(frozen=True)
class Outcome:
    """Result of a launch: every run with its state, and whether it was interrupted (Ctrl-C, SIGTERM)."""

    runs: tuple[RunDir, ...]
    states: Mapping[str, str]
    interrupted: bool

    @property
    def kept(self) -> list[RunDir]:
        """The runs whose directories were not deleted or renamed meanwhile."""
        return [run for run in self.runs if (run.path / "run.json").is_file()]

    @property
    def unfinished(self) -> list[RunDir]:
        """The runs that `p3kit resume` can continue."""
        return [run for run in self.kept if self.states[run.name] != "done"]

    @property
    def exit_code(self) -> int:
        """130 interrupted, 1 a run failed, 0 fine."""
        if self.interrupted:
            return 130
        return 1 if {"failed", "crashed"} & set(self.states.values()) else 0


def make_runs(
    plans: Sequence[RunPlan],
    loaded: LoadedSpec,
    market: Mapping[str, SymbolData],
    runs_root: Path,
    *,
    command: Sequence[str],
    extra: Mapping[str, Any] | None = None,
    ancestry: Ancestry | None = None,
) -> list[RunDir]:
    """A queued run directory per plan; if one cannot be made, those already made are removed again.

    `command` is the command line to be stored, `extra` is what else run.json shall hold, `ancestry` the weights that
    the agents start from.
    """
    runs: list[RunDir] = []
    try:
        for plan in plans:
            info = plan.run_json(_market_of(plan, loaded, market, ancestry), command)
            info |= {"spec_file": str(loaded.path), **(extra or {})}
            runs.append(RunDir.create(runs_root, info, loaded.source_text, plan.trainer))
            if ancestry is not None:
                ancestry.copy_to(runs[-1], plan)
    except BaseException:
        for run in runs:
            run.delete()
        raise
    return runs


def _market_of(
    plan: RunPlan, loaded: LoadedSpec, market: Mapping[str, SymbolData], ancestry: Ancestry | None
) -> Mapping[str, SymbolData]:
    """Return `market`, or load other bars if the run has its own window of a walk-forward or its own features."""
    spec = plan.market_spec
    if not plan.windows and spec.observation == loaded.spec.observation:
        return market
    from p3kit.market import load_market

    symbols = list(dict.fromkeys(agent.symbol for agent in plan.agents))
    return load_market(spec, symbols, recipes=ancestry.recipes if ancestry else None)


def requeue(runs: Sequence[RunDir]) -> None:
    """Queue stopped, failed or crashed runs again.

    Raises InputError, before any is touched, for a run that is done or still being trained.
    """
    refuse_active(runs)
    for run in runs:
        if run.status()["state"] == "done":
            remedy = f"p3kit resume {run.name} --total-timesteps N extends it to N env steps"
            raise InputError(run.name, "is done", f"there is nothing to resume; {remedy}")
    for run in runs:
        run.clear_stop()
        run.update_status(state="queued", message="", pid=os.getpid(), heartbeat=time.time())


def refuse_active(runs: Iterable[RunDir]) -> None:
    """Raise InputError for a run that is queued or being trained."""
    for run in runs:
        run.mark_crashed()
        state = run.status()["state"]
        if state in ("queued", "running"):
            raise InputError(run.name, f"is {state}", f"p3kit stop {run.name} ends it first")


def leave_out(runs: Iterable[RunDir]) -> None:
    """Mark the runs that are still queued as stopped: the launch that queued them has ended."""
    for run in runs:
        with contextlib.suppress(OSError, P3kitError):  # one directory that is gone stops none of the others
            if run.status()["state"] == "queued" and not run.is_locked():
                run.update_status(state="stopped", message=WAITED)


def train(
    runs: Sequence[RunDir],
    *,
    jobs: int,
    display: Display,
    on_end: RunHook | None = None,
    feed: Feed | None = None,
    start: Start = TrainerProcess.start,
) -> Outcome:
    """Train queued runs, and those that `feed` adds to them, `jobs` at a time."""
    with Interrupts() as interrupts:
        slots = _Slots(runs, jobs, display, interrupts, on_end, feed, start)
        try:
            slots.work()
        except BaseException:  # a fault of p3kit or of a caller's callback: no trainer is left behind
            slots.abandon()
            raise
    return Outcome(tuple(slots.runs), slots.states, interrupts.count > 0)


def launch_title(runs: Sequence[RunDir]) -> str:
    """Names of the experiments, with a label where their data are synthetic."""
    infos = [run.info() for run in runs]
    synthetic = any(bars["synthetic"] for info in infos for bars in info["data"].values())
    return " and ".join(sorted({info["name"] for info in infos})) + (" (synthetic data)" if synthetic else "")


class _Slots:
    """The runs that wait, those that train, and those that have ended."""

    def __init__(
        self,
        runs: Sequence[RunDir],
        jobs: int,
        display: Display,
        interrupts: Interrupts,
        on_end: RunHook | None,
        feed: Feed | None,
        start: Start,
    ) -> None:
        self.jobs, self.display, self.interrupts, self.on_end, self.feed = jobs, display, interrupts, on_end, feed
        self.start = start
        self.waiting: deque[RunDir] = deque()
        self.active: list[Trainer] = []
        self.states: dict[str, str] = {}  # of the runs that have ended
        self._infos: dict[RunDir, dict[str, Any]] = {}
        self._statuses: dict[RunDir, dict[str, Any]] = {}
        self._pulses: dict[RunDir, Pulse] = {}
        self._hung: set[RunDir] = set()
        self._take_in(runs)

    @property
    def runs(self) -> list[RunDir]:
        """All runs, in the order they came."""
        return list(self._infos)

    def work(self) -> None:
        """Train all runs; returns when each has ended or, after an interrupt, has written its checkpoint."""
        heard, next_look = 0, 0.0
        while self.waiting or self.active or (not heard and self._any_waits()):
            if self.interrupts.count > heard:
                heard = self.interrupts.count
                self._interrupt(heard)
            for trainer in [trainer for trainer in self.active if trainer.ended()]:
                self.active.remove(trainer)
                with self._others_go_on(trainer.run):
                    self._end(trainer.run, trainer.settle())
            while not heard and len(self.active) < self.jobs and self._any_waits():
                run = self.waiting.popleft()
                with self._others_go_on(run):
                    self._begin(run)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_S
                self._look()
            self.interrupts.wait(POLL_S)
        self._look()

    def _take_in(self, runs: Sequence[RunDir]) -> None:
        for run in runs:
            with self._others_go_on(run):
                info, self._statuses[run] = run.info(), run.status()
                self._infos[run] = info
                self.waiting.append(run)

    def _any_waits(self) -> bool:
        """Return True if a run waits for a slot; if none does, the feed is queried for more."""
        if not self.waiting and self.feed is not None:
            self._take_in(self.feed.more())
        return bool(self.waiting)

    def _look(self) -> None:
        if self.feed is not None:
            self.feed.look()
        for trainer in self.active:
            status = trainer.run.status()
            if trainer.run.name not in self.states:  # not marked as crashed before
                with self._others_go_on(trainer.run):
                    self._watch(trainer, status)
            silent = status["state"] == "queued" and trainer.has_started()
            self._statuses[trainer.run] = {**status, "state": "starting"} if silent else status
        now = time.time()
        views = [agent_views(run, info, self._statuses[run], now) for run, info in self._infos.items()]
        self.display.show([agent for run_views in views for agent in run_views])

    def _watch(self, trainer: Trainer, status: Mapping[str, Any]) -> None:
        """Watch one trainer: a hanging one must not keep its slot, nor fill the disk with output."""
        trainer.run.trim_log()
        if not trainer.has_started():  # it waits for room on the cluster
            return
        silent_s = self._pulses.setdefault(trainer.run, Pulse()).silent_s(status)
        if silent_s > HUNG_AFTER_S and trainer.run not in self._hung:
            self._hung.add(trainer.run)
            trainer.kill(f"it gave no sign of life for {HUNG_AFTER_S / 60:.0f} min, so it was ended")

    def request_end_of_all(self) -> None:
        for trainer in self.active:
            trainer.request_end()

    def abandon(self) -> None:
        """Stop every run: trainers end with a checkpoint, queued runs do not begin. Returns when all have ended."""
        self.feed, interrupts = None, self.interrupts.count
        while self.waiting:
            self._leave_out(self.waiting.popleft())
        self.request_end_of_all()
        while self.active:
            if self.interrupts.count > interrupts:
                interrupts = self.interrupts.count
                for trainer in self.active:
                    trainer.kill(KILLED)
            for trainer in [trainer for trainer in self.active if trainer.ended()]:
                self.active.remove(trainer)
                with self._others_go_on(trainer.run):
                    self._note_end(trainer.run, trainer.settle())
            self.interrupts.wait(POLL_S)

    @contextlib.contextmanager
    def _others_go_on(self, run: RunDir) -> Iterator[None]:
        """A run whose directory was deleted or renamed, or cannot be written, is marked; the others go on."""
        try:
            yield
        except (OSError, P3kitError) as error:
            if self.states.get(run.name) == "crashed":  # printed before
                return
            gone = not run.path.is_dir()
            message = f"its directory {run.path} was deleted or renamed" if gone else str(error)
            self.display.print(f"{run.name} crashed: {message}; the other runs go on")
            self.states[run.name] = "crashed"
            self._statuses[run] = {"state": "crashed", "message": message, "agents": {}}
            if self.feed is not None:
                self.feed.ended(run, "crashed", interrupted=self.interrupts.count > 0)

    def _begin(self, run: RunDir) -> None:
        if not run.path.is_dir():
            raise FileNotFoundError(run.path)
        if run.stop_requested():
            self._leave_out(run)
            return
        try:
            self.active.append(self.start(run))
        except P3kitError as error:  # one run that cannot start does not stop the others
            if run.is_locked():  # another process trains it and updates its status
                self.display.print(str(error))
                self._note_end(run, "failed")
                return
            run.update_status(state="failed", message=str(error))
            self._end(run, "failed")

    def _end(self, run: RunDir, state: str) -> None:
        self._note_end(run, state)
        if state in ("failed", "crashed"):
            lines = [f"{run.name} {state}: {self._statuses[run]['message']}"]
            tail = run.log_tail(LOG_LINES)
            lines += [f"  the last lines of {run.log_file}:", *(f"  | {line}" for line in tail)] if tail else []
            self.display.print("\n".join(lines))
        if self.on_end is not None:
            try:
                self.on_end(run)
            except (OSError, P3kitError) as error:  # a failed picture does not change the result of a training
                self.display.print(f"{run.name} is {state}, but its pictures were not drawn: {error}")

    def _leave_out(self, run: RunDir) -> None:
        with self._others_go_on(run):
            run.update_status(state="stopped", message=WAITED)
            self._note_end(run, "stopped")

    def _note_end(self, run: RunDir, state: str) -> None:
        self.states[run.name] = state
        if self.feed is not None:
            self.feed.ended(run, state, interrupted=self.interrupts.count > 0)
        self._statuses[run] = run.status()

    def _interrupt(self, count: int) -> None:
        while self.waiting:
            self._leave_out(self.waiting.popleft())
        if count == 1:
            self.request_end_of_all()
            if self.active:
                names = [trainer.run.name for trainer in self.active]
                shown = ", ".join(names[:_MOST_NAMED]) + (" …" if len(names) > _MOST_NAMED else "")
                self.display.print(
                    f"stopping {shown}: each finishes its update and writes a checkpoint (again: kill at once)"
                )
        else:
            for trainer in self.active:
                trainer.kill(KILLED)


class Interrupts:
    """Counts Ctrl-C, SIGTERM and a closed terminal while it is entered, in place of the exceptions they would raise.

    The first signal of any kind counts. A later one counts if it repeats an earlier Ctrl-C or SIGTERM by hand: shells
    and service managers send SIGTERM with SIGHUP, or one signal to a process and to its group.
    Outside the main thread, where no handler can be set, it counts nothing. A signal that is ignored (nohup) stays so.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _REPEATED_AFTER_S = 0.25
    """Seconds between two equal signals that two commands sent."""

    def __init__(self) -> None:
        self.count = 0
        self._received: dict[int, float] = {}
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._former = handle_signals(self._SIGNALS, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        """Sleeps, but wakes within a moment of an interrupt."""
        seen, deadline = self.count, time.monotonic() + seconds
        while self.count == seen and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        earlier = self._received.setdefault(number, now)
        repeated = number != signal.SIGHUP and now - earlier > self._REPEATED_AFTER_S
        if not self.count or repeated:
            self.count += 1
            self._received[number] = now
