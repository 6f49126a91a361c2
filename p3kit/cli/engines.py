"""Where runs train: slots of this machine, or a Ray cluster that is up while a command lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from p3kit.cli.options import available_cores

if TYPE_CHECKING:
    from rich.console import Console

    from p3kit.launch.cluster import Cluster, Needs
    from p3kit.launch.process import Start


class Engine(Protocol):
    """What plans and launches ask of it."""

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
    console: Console

    @property
    def slots(self) -> int:
        return self.cluster.slots(self.needs, self.jobs)

    def room_for(self, runs: int) -> tuple[int, Start]:
        from p3kit.launch.cluster import pack

        packing = pack(runs, self.cluster.cpus, self.cluster.gpus, self.needs, self.jobs)
        nodes = f"{self.cluster.nodes} node{'s' if self.cluster.nodes != 1 else ''}"
        self._tell(f"Ray, {nodes}: {packing.words()}")
        return self.jobs or runs, self.cluster.start(packing, self._tell)

    def _tell(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def open_engine(
    name: str, jobs: int | None, computes: Iterable[Mapping[str, Any]], console: Console
) -> Iterator[Engine]:
    """The engine `local` or `ray`, for specs with these `[compute]` tables. Raises InputError where there is none."""
    if name == "local":
        yield LocalEngine(jobs or available_cores())
        return
    from p3kit.launch.cluster import needs_of, ray_cluster

    needs = needs_of(computes)
    with ray_cluster(available_cores()) as cluster:
        yield RayEngine(cluster, needs, jobs, console)
