"""One run as it was known at one moment: its rows, events and state up to then."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.diagnose.diagnosis import gather_evidence
from p3kit.diagnose.evidence import Evidence
from p3kit.rundir import RunDir, Series, concerns


class RunHistory:
    """One run as it was known at `moment` (unix seconds): its rows, events and state up to then."""

    def __init__(self, run: RunDir, info: dict[str, Any], moment: float) -> None:
        self.run, self.info, self.moment = run, info, moment
        rows, events = run.read_metrics(), run.read_events()
        self.all_times = [float(info["created"]), *(float(row["time"]) for row in (*rows, *events))]
        self.rows = [row for row in rows if row["time"] <= moment]
        self.events = [event for event in events if event["time"] <= moment]
        self.begun = float(info["created"]) <= moment

    @property
    def last_time(self) -> float:
        return max(time for time in self.all_times if time <= self.moment)

    def state(self, agent: str) -> tuple[str, str]:
        """(state, message) of an agent. `status.json` has only the present state; the journal has the past."""
        status = self.run.status()
        if float(status.get("heartbeat") or 0.0) <= self.moment:
            entry = (status.get("agents") or {}).get(agent) or {}
            state = str(status["state"])
            if state == "running" and entry.get("state") in ("done", "stopped"):
                state = str(entry["state"])
            return state, str(status.get("message") or "")
        for event in reversed(self.events):
            if event["kind"] == "verdict" and event["agent"] == agent:
                return "done", ""
            if event["kind"] == "crash":
                return "crashed", str(event.get("message") or "")
            if event["kind"] == "resume":
                break
        return ("running", "") if self.rows else ("queued", "")

    def series(self, agent: str) -> dict[str, Series]:
        """The metrics of an agent up to the moment; the form of `RunDir.series`."""
        columns: dict[str, list[tuple[int, float, int]]] = {}
        for row in self.rows:
            if row["agent"] == agent:
                for metric, value in row["metrics"].items():
                    columns.setdefault(metric, []).append((row["global_step"], value, row["iteration"]))
        arrays = {metric: list(zip(*points, strict=True)) for metric, points in columns.items()}
        return {
            metric: Series(np.array(steps, np.int64), np.array(values, np.float64), np.array(iterations, np.int64))
            for metric, (steps, values, iterations) in arrays.items()
        }

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """The record of every agent, as the diagnosis takes it."""
        found = {}
        for plan in self.info["agents"]:
            state, message = self.state(plan["name"])
            status = {"state": state, "message": message}
            found[plan["name"]] = gather_evidence(self.series(plan["name"]), plan, self.info, status, self.events)
        return found

    def since_extension(self, agent: str, kind: str) -> list[dict[str, Any]]:
        """The events of one kind that concern an agent, from its last extension on."""
        events = [event for event in self.events if concerns(event, agent)]
        begin = max((number for number, event in enumerate(events) if event["kind"] == "extension"), default=0)
        return [event for event in events[begin:] if event["kind"] == kind]

    def of(self, agent: str, kind: str) -> list[dict[str, Any]]:
        """The events of one kind that concern an agent."""
        return [event for event in self.events if event["kind"] == kind and concerns(event, agent)]


def command_line(info: Mapping[str, Any]) -> str:
    """The command of `run.json` for a shell, as somebody else would repeat it: without the path of p3kit and --runs."""
    program, *words = info.get("command") or ["p3kit", "run"]
    kept, skip = [], False
    for word in words:
        if skip or word.startswith("--runs="):
            skip = False
        elif word == "--runs":
            skip = True
        else:
            kept.append(word)
    return shlex.join([Path(program).name, *kept])
