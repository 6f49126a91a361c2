"""Extend runs: more env steps than were planned, from the last checkpoint on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p3kit.errors import InputError
from p3kit.launch.local import refuse_active
from p3kit.rundir import RunDir, ScheduleChoice, extend_info


@dataclass(frozen=True)
class Reached:
    """One agent at the last checkpoint."""

    name: str
    global_step: int
    stopped_early: str
    """The reason; "" where it did not."""
    can_go_on: bool


@dataclass(frozen=True)
class Extension:
    """One run, and the extension that its run.json is to hold."""

    run: RunDir
    agents: tuple[str, ...]
    """Agents that go on. The others have ended before the checkpoint."""
    from_step: int
    total_timesteps: int
    schedule: ScheduleChoice
    notes: tuple[str, ...]

    def record(self) -> None:
        """Write the extension. A run that is killed here is stopped, and `p3kit resume` continues it."""
        lock = self.run.lock()
        try:
            status = self.run.status()
            agents = status["agents"]
            for name in agents.keys() & set(self.agents):
                agents[name] = {**agents[name], "total_timesteps": self.total_timesteps, "state": "stopped"}
            message = f"to be extended to {self.total_timesteps:,} steps"
            self.run.update_status(state="stopped", message=message, agents=agents)
            info = self.run.info()
            changed = extend_info(info, self.agents, self.from_step, self.total_timesteps, self.schedule)
            plans = [plan for plan in info["agents"] if plan["name"] in self.agents]
            if any(plan["total_timesteps"] != self.total_timesteps for plan in plans):
                self.run.update_info(agents=changed["agents"], spec=changed["spec"])
        finally:
            os.close(lock)


def extend(runs: Sequence[RunDir], total_timesteps: int, schedule: ScheduleChoice) -> list[str]:
    """Record in each run that its agents train for `total_timesteps` env steps; returns notes for the user.

    Raises InputError, before any run is touched, for a run that is being trained, that has taken as many steps
    already, or whose agents have all ended before its last checkpoint.
    """
    refuse_active(runs)
    extensions = [plan_extension(run, total_timesteps, schedule) for run in runs]
    for extension in extensions:
        extension.record()
    return [note for extension in extensions for note in extension.notes]


def plan_extension(run: RunDir, total_timesteps: int, schedule: ScheduleChoice) -> Extension:
    """The extension of a run from its last checkpoint on."""
    reached = _read_checkpoint(run)
    going = [agent for agent in reached if agent.can_go_on]
    if not going:
        remedy = f'start a new run from its weights: [init] from = "{run.name}"'
        raise InputError(run.name, "cannot be extended: every agent has failed", remedy)
    done = going[0].global_step
    if total_timesteps <= done:
        what = f"{run.name} has taken {done:,} env steps already"
        raise InputError(f"--total-timesteps {total_timesteps}", what, f"give more than {done}")
    notes = tuple(_notes(run, reached, done, total_timesteps, schedule))
    return Extension(run, tuple(agent.name for agent in going), done, total_timesteps, schedule, notes)


def _notes(
    run: RunDir, reached: Sequence[Reached], done: int, total_timesteps: int, schedule: ScheduleChoice
) -> Iterator[str]:
    effect = "" if any(plan["spec"].get("schedules") for plan in run.info()["agents"]) else None
    if effect is not None:
        effect = ", schedules " + ("run over the new number of steps" if schedule == "stretch" else "stay as planned")
    yield f"{run.name} is extended from step {done:,} to step {total_timesteps:,}{effect or ''}"
    for agent in reached:
        where = f"{run.name}/{agent.name}"
        if agent.can_go_on and agent.stopped_early:
            yield f"{where} had stopped early ({agent.stopped_early}); the patience of early stopping starts again"
        elif not agent.can_go_on:
            why = agent.stopped_early or "failed"
            remedy = f'a new run can start from its weights: [init] from = "{where}"'
            yield f"{where} ended at step {agent.global_step:,} ({why}) and stays as it is; {remedy}"


def _read_checkpoint(run: RunDir) -> list[Reached]:
    """The agents at the last checkpoint. An agent that ended earlier than the others of its stack is not in it, or
    only keeps its place there."""
    from p3kit.runtime.checkpoints import load_checkpoint

    path = next((path for name in ("last", "init") if (path := run.checkpoint(name)).exists()), None)
    names = run.agent_names()
    if path is None:
        return [Reached(name, 0, "", can_go_on=True) for name in names]
    state = load_checkpoint(path)
    stack = str(state.get("trainer/agents", "\n".join(names))).split("\n")
    steps = {name: int(state[f"agent/{name}/global_step"]) for name in names}
    newest = max(steps[name] for name in stack)
    return [
        Reached(
            name,
            step,
            str(state.get(f"agent/{name}/ended_early", "")),
            can_go_on=name in stack and step == newest and not state.get(f"agent/{name}/fault"),
        )
        for name, step in steps.items()
    ]
