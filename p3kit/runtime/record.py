"""What a run has recorded of one agent so far, in memory: what live decisions are judged on, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from p3kit.diagnose import Evidence
from p3kit.diagnose.evidence import Recorded
from p3kit.rundir import Series
from p3kit.runtime.recording import GRADIENT_STEPS, taken_in

READ_BY_DETECTORS = ("evaluation", "intervention", "nonfinite", "oom")
"""Kinds of events that a diagnosis reads."""

Stretch = tuple[int, int]
"""(from, to] in env steps."""

_NOTHING = Series(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))


class _Opened(Mapping[str, Recorded]):
    """Recorded series and, where the open update has shown something, a row of it at its end. A row is made when it is
    asked for: of a hundred metrics a rule inside an update reads two or three, after each gradient step."""

    def __init__(self, recorded: Mapping[str, Recorded], step: int, opened: Mapping[str, float]) -> None:
        self._recorded, self._step, self._opened = recorded, step, opened
        self._made: dict[str, Series] = {}

    def __getitem__(self, name: str) -> Recorded:
        if name not in self._opened:
            return self._recorded[name]
        if name not in self._made:
            old = self._recorded.get(name, _NOTHING)
            number = int(old.iterations[-1]) + 1 if len(old.iterations) else 1
            self._made[name] = Series(
                np.concatenate((old.steps, (self._step,))),
                np.concatenate((old.values, (self._opened[name],))),
                np.concatenate((old.iterations, (number,))),
            )
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._recorded, **self._opened})

    def __len__(self) -> int:
        return len(self._recorded.keys() | self._opened.keys())


class Record:
    """Columns of recorded numbers and the events beside them, as `p3kit diagnose` would read them from the files."""

    def __init__(self, agent: str, spec: Mapping[str, Any], total_timesteps: int, device: str = "cpu") -> None:
        self.agent, self.spec, self.total_timesteps, self.device = agent, spec, total_timesteps, device
        self._columns: dict[str, tuple[list[int], list[float], list[int]]] = {}
        self._events: list[Mapping[str, Any]] = []
        self._steps: dict[str, list[float]] = {}
        self._so_far: dict[str, float] = {}
        self._before: Evidence | None = None

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

    def last(self, metric: str, count: int = 1) -> list[float]:
        """The last `count` values of a metric, oldest first; fewer where there are fewer. Inside an update these are
        the values of its gradient steps, for what a gradient step has."""
        if metric in self._steps:
            return self._steps[metric][-count:]
        return self._columns[metric][1][-count:] if metric in self._columns else []

    # --- inside an update: what its gradient steps have shown so far ------------------------------------------------

    def open_update(self, known: Mapping[str, float]) -> None:
        """An update begins; `known` is what its rollout shows already."""
        self._steps = {name: [value] for name, value in known.items()}
        self._so_far = dict(known)
        self._before = None

    @property
    def open_steps(self) -> dict[str, list[float]]:
        """What the gradient steps of the open update have shown so far; empty while none is open."""
        return self._steps

    def take_step(self, values: Mapping[str, float]) -> None:
        """One gradient step of the open update was taken."""
        for name, value in values.items():
            own = self._steps.setdefault(name, [])
            own.append(value)
            self._so_far[name] = taken_in(name, self._so_far.get(name, 0.0), value, len(own))

    def close_update(self) -> None:
        """The update is over: its rows are recorded."""
        self._steps, self._so_far, self._before = {}, {}, None

    def evidence_inside(self, step: int, without: Sequence[Stretch] = (), after: int = -1) -> Evidence:
        """The record for the detectors as if the open update had ended here, at env step `step`; only what is newer
        than env step `after`."""
        if after >= 0:
            before = self.evidence(without, after)
        else:  # the same for all gradient steps of an update
            before = self._before = self._before or self.evidence(without)
        if step <= after:
            return before
        steps_taken = max((len(values) for values in self._steps.values()), default=0)
        opened = self._so_far | ({GRADIENT_STEPS: float(steps_taken)} if steps_taken else {})
        return replace(before, series=_Opened(before.series, step, opened))

    def evidence(self, without: Sequence[Stretch] = (), after: int = -1) -> Evidence:
        """The record for the detectors, but for the stretches that rollbacks have undone; only what is newer than
        env step `after`."""

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
        )
