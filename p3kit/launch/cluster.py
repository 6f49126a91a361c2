"""Runs on a Ray cluster: each is a task that starts the same trainer process as on this machine, and watches it.

Driver, task and trainer share only the run directory, so `runs/` must be on a file system that every node can read. A
task that was lost with its worker or its node is submitted again, and the trainer continues from its last checkpoint.
Nothing else differs from local slots: same files, same results, same `p3kit stop` and `p3kit resume`.

Ray core only; Ray is imported inside functions only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.errors import InputError, MissingExtra, P3kitError, P3kitWarning
from p3kit.launch.deadlines import ends_within
from p3kit.launch.process import WAITED, Start, TrainerProcess
from p3kit.rundir import RunDir
from p3kit.rundir.processes import host

RETRIES = 3
"""Attempts in a row that may come to grief without getting further than those before; then the run is crashed."""

FORMER_ENDS_WITHIN_S = 300.0
"""A trainer whose worker died finishes its update and writes a checkpoint before the next attempt may begin. A shared
file system takes its time, too, to give up the lock of a node that is gone."""

ANSWERS_WITHIN_S = 5.0
RESULT_WITHIN_S = 60.0
SHUTDOWN_WITHIN_S = 60.0
"""How long the head of a cluster may take to accept a connection."""

SHOWS_WITHIN_S = 10.0
"""How long a node waits for a run directory that another node has just made."""

_SHARE = 10_000
"""Ray counts shares of a CPU or GPU in ten-thousandths, and rounds to the nearest: 18 × 0.0556 does not fit."""

_OBJECT_STORE_BYTES = 80 * 2**20  # the least Ray takes is 75 MiB; no object of ours goes through it

_ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one switch that makes a node call itself 127.0.0.1 and bind there
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else Ray gives its workers, and so the trainers, a priority of 15 below all others
    "RAY_kill_child_processes_on_worker_exit": "0",  # the parent-death signal lets trainers write a checkpoint
}
"""For a cluster of our own, which has no other user. Ray requires its token, too, as with any cluster it starts."""


# --- how runs share the cluster ---


@dataclass(frozen=True)
class Needs:
    """Resources that one run of an experiment needs on a node."""

    threads: int
    gpu: bool
    """Whether it takes a GPU where there is one."""


def needs_of(computes: Iterable[Mapping[str, Any]]) -> Needs:
    """From the `[compute]` tables of some specs. Raises InputError for a GPU by number, which Ray gives out itself."""
    threads, gpu = 1, False
    for compute in computes:
        device = str(compute["device"])
        if device.startswith("cuda:"):
            what = f'"{device}" names one GPU of a machine; Ray gives GPUs out by itself'
            raise InputError("compute.device", what, 'use "cuda" or "auto"')
        gpu = gpu or device != "cpu"
        threads = max(threads, 1 if compute["threads"] == "auto" else int(compute["threads"]))
    return Needs(threads, gpu)


@dataclass(frozen=True)
class Packing:
    """Number of runs that a cluster takes at a time. Fractions are of one CPU and one GPU, per run."""

    runs: int
    cpus: float
    gpus: int
    cpu_share: float
    gpu_share: float
    per_gpu: int
    """Runs that share one GPU; 0 where none is used."""
    at_a_time: int

    def words(self) -> str:
        """`8 GPUs × 18 runs = 144 ≥ 143: 0.0555 GPU and 0.44 CPU each`."""
        asked = f"{self.cpu_share:g} CPU each"
        if not self.per_gpu:
            return f"{self.at_a_time} of {self.runs} runs at a time on {self.cpus:g} CPUs, {asked}"
        room = self.gpus * self.per_gpu
        fits = f"≥ {self.runs}" if room >= self.runs else f"< {self.runs}, so {self.at_a_time} at a time"
        return f"{self.gpus} GPUs × {self.per_gpu} runs = {room} {fits}: {self.gpu_share:g} GPU and {asked}"


def pack(runs: int, cpus: float, gpus: int, needs: Needs, jobs: int | None = None) -> Packing:
    """Every GPU takes ⌈runs / GPUs⌉ runs, so that all train at a time; without GPUs a run takes a CPU per thread.

    `jobs`: largest number of runs at a time. On GPUs the CPUs are divided, too: a run that waits for its GPU needs
    little of one. Shares are rounded down, or the last run would not fit. Raises InputError where no run has room.
    """
    wanted = min(runs, jobs or runs)
    if needs.gpu and gpus:
        per_gpu = math.ceil(wanted / gpus)
        cpu_share = min(float(needs.threads), _rounded_down(cpus / (gpus * per_gpu)))
        at_a_time = min(wanted, gpus * per_gpu)
        return Packing(runs, cpus, gpus, cpu_share, _rounded_down(1 / per_gpu), per_gpu, at_a_time)
    if cpus < needs.threads:
        what = f"{needs.threads} threads a run, but the cluster has {cpus:g} CPUs"
        raise InputError("compute.threads", what, "use fewer, or add nodes; a resume works with --engine local")
    at_a_time = min(wanted, int(cpus // needs.threads))
    return Packing(runs, cpus, 0, float(needs.threads), 0.0, 0, at_a_time)


def _rounded_down(share: float) -> float:
    """To a share that Ray can count. Above one it gives out whole CPUs only."""
    return float(math.floor(share)) if share >= 1 else max(1, math.floor(share * _SHARE)) / _SHARE


def local_gpus() -> int:
    """GPUs of this machine that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


# --- the cluster ---


@dataclass(frozen=True)
class Cluster:
    """A cluster that can be used, with its size from Ray."""

    cpus: float
    gpus: int
    nodes: int

    def slots(self, needs: Needs) -> int:
        """Runs that keep it busy: one per GPU, or as many as have a CPU per thread."""
        return self.gpus if needs.gpu and self.gpus else max(1, int(self.cpus // needs.threads))

    def start(self, packing: Packing, tell: Callable[[str], None]) -> Start:
        """Return a function that starts one run of `packing`; it calls `tell` for lost attempts."""
        import ray

        task = ray.remote(num_cpus=packing.cpu_share, num_gpus=packing.gpu_share, max_retries=0)(train_on_node)
        return lambda run: RayTrainer(run, lambda retry: task.remote(str(run.path.resolve()), retry), tell)


@contextlib.contextmanager
def ray_cluster(cores: int) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS; else one of our own on this machine, with `cores` CPUs and bound to 127.0.0.1.

    Raises MissingExtra without Ray, InputError where nothing answers at RAY_ADDRESS or the system is not Linux.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("ray", "ray", "--engine ray")
    if sys.platform != "linux":
        raise InputError("--engine ray", f"needs Linux, this is {sys.platform}", "--engine local trains on it")
    address = os.environ.get("RAY_ADDRESS")
    with _environment({} if address else _ON_LOOPBACK):
        import ray

        _refuse_silent(address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                own: dict[str, Any] = {
                    "num_cpus": cores,
                    "num_gpus": local_gpus(),
                    "object_store_memory": _OBJECT_STORE_BYTES,
                }
                ray.init(address="local", include_dashboard=False, **own, **quiet)
        except (ConnectionError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise InputError(f"RAY_ADDRESS={address}", said, "`ray status` shows whether a cluster is up") from error
        try:
            found = ray.cluster_resources()
            nodes = len([node for node in ray.nodes() if node["Alive"]])
            yield Cluster(found.get("CPU", 0.0), int(found.get("GPU", 0)), nodes)
        finally:
            if not ends_within(SHUTDOWN_WITHIN_S, "ray", ray.shutdown):
                what = f"Ray did not shut down within {SHUTDOWN_WITHIN_S:.0f} s and was left alone; all runs are saved"
                warnings.warn(f"{what}. `ray stop` ends what is left of it", P3kitWarning, stacklevel=3)


def _refuse_silent(address: str | None) -> None:
    """Open a connection to a cluster's HOST:PORT first: Ray itself tries for minutes."""
    where, _, port = (address or "").rpartition(":")
    if not where or not port.isdigit() or "//" in where:
        return  # "auto", or an address of another kind, for Ray to understand
    try:
        socket.create_connection((where, int(port)), timeout=ANSWERS_WITHIN_S).close()
    except OSError as error:
        said = f"no cluster answers there ({error})"
        raise InputError(f"RAY_ADDRESS={address}", said, "`ray status` shows whether one is up") from error


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the user has not set, for as long as this is entered: Ray's processes inherit them."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


# --- one run: the driver's side ---


class RayTrainer:
    """A run on the cluster, through one task after another until a task completes it."""

    def __init__(self, run: RunDir, submit: Callable[[bool], Any], tell: Callable[[str], None]) -> None:
        """`submit` submits the task, True for a further attempt. Raises P3kitError when the run is trained already."""
        os.close(run.lock())
        self.run = run
        self._submit, self._tell = submit, tell
        self._task = submit(False)
        self._asked, self._killed, self._begun = False, False, False
        self._state = ""
        self._lost = 0  # attempts in a row that got no further
        self._reached = -1

    def has_started(self) -> bool:
        """True if a worker took it: the status names that worker then."""
        if not self._begun:
            status = self.run.status()
            self._begun = (status.get("pid"), status.get("host")) != (os.getpid(), host())
        return self._begun

    def ended(self) -> bool:
        import ray

        if not ray.wait([self._task], timeout=0)[0]:
            return False
        try:
            self._state, message, lost = ray.get(self._task, timeout=RESULT_WITHIN_S)
        except ray.exceptions.TaskCancelledError:  # it still waited for room
            self._finish("stopped", WAITED)
            return True
        except ray.exceptions.RayTaskError as error:  # a fault of the node's installation, or of ours
            last_line = (str(error).strip().splitlines() or ["it printed nothing"])[-1]
            self._finish("failed", f"in its Ray worker: {last_line}")
            return True
        except ray.exceptions.RayError as error:
            return self._lose(f"its Ray worker was lost ({type(error).__name__})")
        if lost:
            return self._lose(message)
        if self._state == "failed":
            self._finish("failed", message)
        return True

    def request_end(self) -> None:
        """Through the file `stop`, which task and trainer look for: Ray's own cancel does not reach a task that runs,
        but takes one back that waits for room."""
        import ray

        if not self._asked:
            self._asked = True
            self.run.request_stop()
            if not self.has_started():
                ray.cancel(self._task, force=False)

    def kill(self, why: str = "") -> None:
        """The task kills its trainer. A second cancel kills the task, and the parent-death signal ends the trainer."""
        import ray

        if self._killed:
            ray.cancel(self._task, force=True)
        if why and not self._killed:
            self.run.append_event("note", text=why)
        self._asked = self._killed = True
        self.run.request_stop(at_once=True)

    def settle(self) -> str:
        """The task has done so, unless it was lost."""
        return self._state

    def _lose(self, why: str) -> bool:
        """Handle an attempt that failed without a message of the trainer: start another one, or end."""
        status = self.run.status()
        if status["state"] == "done":  # the trainer had finished, its worker could not report it
            self._state = "done"
            return True
        reached = max((int(agent.get("global_step") or 0) for agent in status["agents"].values()), default=0)
        self._lost = 1 if reached > self._reached else self._lost + 1
        self._reached = max(self._reached, reached)
        if self._asked or self.run.stop_requested() or self._lost > RETRIES:
            times = f", {self._lost} times in a row without getting further" if self._lost > RETRIES else ""
            self._finish("crashed", f"{why}{times}")
            return True
        self._tell(f"{self.run.name}: {why}; it continues from its last checkpoint")
        self.run.append_event("note", text=f"{why}: submitted to Ray again")
        self.run.update_status(state="queued", message="", pid=os.getpid(), heartbeat=time.time())
        self._begun = False
        self._task = self._submit(True)
        return False

    def _finish(self, state: str, message: str) -> None:
        """Make the status final if the trainer did not."""
        known = str(self.run.status()["state"])
        if known in ("done", "failed", "stopped"):
            self._state = known
            return
        self._state = state
        self.run.update_status(state=state, message=message)
        if state == "crashed":
            self.run.append_event("crash", message=message)


# --- one run: the worker's side ---

_WORKER_POLL_S = 0.25


def train_on_node(path: str, retry: bool) -> tuple[str, str, bool]:
    """The Ray task. Returns the state the run ended in, its message, and whether a signal ended the trainer unasked: a
    node that goes down, or a system short of memory.

    Faults are returned, not raised: Ray would have to pickle them.
    """
    run = RunDir(Path(path))
    try:
        _await_directory(run)
        if run.stop_requested():
            run.update_status(state="stopped", message=WAITED)
            return "stopped", "", False
        os.close(run.lock(FORMER_ENDS_WITHIN_S if retry else 1.0))  # a former trainer may still write its checkpoint
        if run.status()["state"] == "done":
            return "done", "", False
        run.update_status(state="queued", message="", pid=os.getpid(), heartbeat=time.time())
        trainer = TrainerProcess.start(run, end_with_parent=True)
    except P3kitError as error:
        return "failed", str(error), False
    while not trainer.ended():
        if run.stop_at_once():
            trainer.kill()
        elif run.stop_requested():
            trainer.request_end()
        time.sleep(_WORKER_POLL_S)
    state = trainer.settle()
    ended_from_outside = state == "stopped" or (state == "crashed" and (trainer.exit_code or 0) < 0)
    message = str(run.status()["message"]) or "a signal ended its trainer"
    return state, message, ended_from_outside and not run.stop_requested()


def _await_directory(run: RunDir) -> None:
    """Raise P3kitError where this node does not see the run directory."""
    deadline = time.monotonic() + SHOWS_WITHIN_S
    while not (run.path / "run.json").is_file():
        if time.monotonic() > deadline:
            remedy = "--runs must lie on a file system that all nodes share"
            raise P3kitError(str(run.path), f"is not there on the node {host()}", remedy)
        time.sleep(0.2)
