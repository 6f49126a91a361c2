"""The record of one agent in memory: the only input of live decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from p3kit.diagnose import Evidence
from p3kit.rundir import Series

READ_BY_DETECTORS = ("evaluation", "intervention", "nonfinite", "oom")
"""Kinds of events that a diagnosis reads."""

Stretch = tuple[int, int]
"""(from, to] in env steps."""


class Record:
    """Columns of metrics and the events, as `p3kit diagnose` reads them from the files."""

    def __init__(
        self, agent: str, spec: Mapping[str, Any], total_timesteps: int, device: str = "cpu", task: str = ""
    ) -> None:
        """`task` is the Gymnasium or EnvPool task that the agent trains on; "" for bars."""
        self.agent, self.spec, self.total_timesteps, self.device = agent, spec, total_timesteps, device
        self.task = task
        self._columns: dict[str, tuple[list[int], list[float], list[int]]] = {}
        self._events: list[Mapping[str, Any]] = []

    def take(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows as `RunDir.append_metrics` takes them."""
        for row in rows:
            for name, value in row["metrics"].items():
                if value is not None:
                    steps, values, iterations = self._columns.setdefault(name, ([], [], []))
                    steps.append(row["global_step"])
                    values.append(float(value))
                    iterations.append(row["iteration"])

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Add an event, if a diagnosis reads its kind."""
        if event["kind"] in READ_BY_DETECTORS:
            self._events.append(event)

    def evaluations(self) -> list[Mapping[str, Any]]:
        """The events of the evaluations, oldest first."""
        return [event for event in self._events if event["kind"] == "evaluation"]

    def last(self, metric: str, count: int = 1) -> list[float]:
        """The last `count` values of a metric, oldest first; fewer if there are fewer."""
        return self._columns[metric][1][-count:] if metric in self._columns else []

    def evidence(self, without: Sequence[Stretch] = (), after: int = -1) -> Evidence:
        """The record for the detectors, without the stretches that rollbacks have undone and without rows up to env
        step `after`."""

        def is_kept(step: int) -> bool:
            return step > after and not any(first < step <= last for first, last in without)

        series = {}
        for name, (steps, values, iterations) in self._columns.items():
            kept = np.array([is_kept(step) for step in steps]) if without or after >= 0 else slice(None)
            series[name] = Series(
                np.asarray(steps, np.int64)[kept],
                np.asarray(values, np.float64)[kept],
                np.asarray(iterations, np.int64)[kept],
            )
        return Evidence(
            agent=self.agent,
            series=series,
            spec=self.spec,
            total_timesteps=self.total_timesteps,
            events=[event for event in self._events if is_kept(int(event.get("global_step") or 0))],
            device=self.device,
            task=self.task,
        )
