"""Engines: slots of this machine, or a Ray cluster that is up while a launch lasts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from p3kit.launch.cluster import Cluster, Needs
    from p3kit.launch.process import Start


class Engine(Protocol):
    """The part of an engine that plans and launches use."""

    @property
    def slots(self) -> int:
        """Runs that keep it busy, for which stacks of agents are planned."""

    def room_for(self, runs: int) -> tuple[int, Start]:
        """For an experiment of so many runs: how many to begin at a time, and what begins one."""


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine."""

    slots: int

    def room_for(self, runs: int) -> tuple[int, Start]:
        from p3kit.launch.process import TrainerProcess

        return self.slots, TrainerProcess.start


@dataclass(frozen=True)
class RayEngine:
    """Tasks on a cluster. Ray queues what has no room yet, so that a cluster that grows by demand sees the demand."""

    cluster: Cluster
    needs: Needs
    jobs: int | None
    report: Callable[[str], None]

    @property
    def slots(self) -> int:
        return self.cluster.slots(self.needs, self.jobs)

    def room_for(self, runs: int) -> tuple[int, Start]:
        from p3kit.launch.cluster import pack

        packing = pack(runs, self.cluster.cpus, self.cluster.gpus, self.needs, self.jobs)
        nodes = f"{self.cluster.nodes} node{'s' if self.cluster.nodes != 1 else ''}"
        self.report(f"Ray, {nodes}: {packing.words()}")
        return self.jobs or runs, self.cluster.start(packing, self.report)


@contextlib.contextmanager
def open_engine(
    name: str, jobs: int | None, computes: Iterable[Mapping[str, Any]], report: Callable[[str], None]
) -> Iterator[Engine]:
    """Open the engine `local` or `ray` for specs with these `[compute]` tables.

    `report` takes a line about the cluster. Raises InputError where the engine is not available.
    """
    if name == "local":
        yield LocalEngine(jobs or available_cores())
        return
    from p3kit.launch.cluster import needs_of, ray_cluster

    needs = needs_of(computes)
    with ray_cluster(available_cores()) as cluster:
        yield RayEngine(cluster, needs, jobs, report)


def available_cores() -> int:
    """Number of cores this process may use: a container's or taskset's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
