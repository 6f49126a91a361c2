"""Engines: slots of this machine, or a Ray cluster that is up while a launch lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from p3kit.rundir.threads import available_cores

if TYPE_CHECKING:
    from p3kit.launch.cluster import Cluster, Needs
    from p3kit.launch.process import Start


class Engine(Protocol):
    """The part of an engine that plans and launches use."""

    @property
    def slots(self) -> int | None:
        """Runs that keep a cluster busy, for which stacks of agents are planned. None: as many as there are cores."""

    def room_for(self, runs: int, threads: int) -> tuple[int, Start]:
        """Return the number of runs to start at a time, for `runs` of `threads` each, and the function that starts
        one."""


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine."""

    jobs: int | None
    slots: int | None = None

    def room_for(self, runs: int, threads: int) -> tuple[int, Start]:
        from p3kit.launch.process import TrainerProcess

        return local_jobs(self.jobs, threads), TrainerProcess.start


@dataclass(frozen=True)
class RayEngine:
    """Tasks on a cluster. Ray queues the rest, so that a cluster that grows by demand gets the whole demand."""

    cluster: Cluster
    needs: Needs
    jobs: int | None
    report: Callable[[str], None]

    @property
    def slots(self) -> int:
        return self.cluster.slots(self.needs)

    def room_for(self, runs: int, threads: int) -> tuple[int, Start]:
        from p3kit.launch.cluster import pack

        needs = replace(self.needs, threads=threads)
        packing = pack(runs, self.cluster.cpus, self.cluster.gpus, needs, self.jobs)
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
        yield LocalEngine(jobs)
        return
    from p3kit.launch.cluster import needs_of, ray_cluster

    needs = needs_of(computes)
    with ray_cluster(available_cores()) as cluster:
        yield RayEngine(cluster, needs, jobs, report)


def local_jobs(jobs: int | None, threads: int) -> int:
    """Runs that train at a time on this machine: `jobs`, or as many as have a core per thread."""
    return jobs or max(1, available_cores() // threads)
