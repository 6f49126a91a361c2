"""Extensions of a training: the segments of an agent's training, and the plan of a run with one more of them.

An agent's entry in run.json keeps every extension: `{"from_step", "from_total", "total_timesteps", "schedule"}`. All
that depends on the number of steps (the last, shortened rollout, schedules, the share of training done) is counted
by the segment in force. So a training from scratch with the same extensions takes the same steps.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ScheduleChoice = Literal["keep", "stretch"]
"""keep: schedules have reached their end value and keep it. stretch: they run over the new number of steps."""


@dataclass(frozen=True)
class Segment:
    """A part of an agent's training, from env step `first` on."""

    first: int
    total_timesteps: int
    """Env steps at which training is to end."""
    schedule_steps: int
    """Env steps over which schedules run."""


class Segments:
    """The segments of an agent's training, in order."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Segments:
        """Read the segments of an agent from its entry in run.json."""
        extensions = plan.get("extensions") or ()
        total = steps = int(extensions[0]["from_total"] if extensions else plan["total_timesteps"])
        segments = [Segment(0, total, steps)]
        for extension in extensions:
            total = int(extension["total_timesteps"])
            steps = total if extension["schedule"] == "stretch" else steps
            segments.append(Segment(int(extension["from_step"]), total, steps))
        return cls(segments)

    def starting(self, global_step: int) -> Segment:
        """The segment of the iteration that begins at a step."""
        return [one for one in self._segments if one.first <= global_step][-1]

    def reaching(self, global_step: int) -> Segment:
        """The segment of the iteration that ended at a step."""
        return ([one for one in self._segments if one.first < global_step] or self._segments[:1])[-1]

    def extended_at(self, global_step: int) -> bool:
        """True where an extension begins at a step."""
        return any(one.first == global_step for one in self._segments[1:])


def total_at(plan: Mapping[str, Any], global_step: int) -> int:
    """Env steps that an agent was to train for when it reached `global_step`."""
    return Segments.of(plan).reaching(global_step).total_timesteps if "total_timesteps" in plan else 0


def is_extended(info: Mapping[str, Any]) -> bool:
    """True for the run.json of a run that was extended."""
    return any(plan.get("extensions") for plan in info["agents"])


def first_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's entry in run.json as it was before any extension."""
    if not plan.get("extensions"):
        return dict(plan)
    return _with_total(plan, int(plan["extensions"][0]["from_total"]), [])


def extension_label(plan: Mapping[str, Any]) -> str:
    """`extended from 10,000 to 20,000 steps`; "" for an agent that was not extended."""
    extensions = plan.get("extensions")
    if not extensions:
        return ""
    return f"extended from {int(extensions[0]['from_total']):,} to {int(plan['total_timesteps']):,} steps"


def extended_origins(plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The origin of the values that an extension has set, by spec path."""
    totals = {plan["total_timesteps"] for plan in plans if plan.get("extensions")}
    return {"ppo.total_timesteps": f"p3kit resume --total-timesteps {max(totals)}"} if totals else {}


def extend_info(
    info: Mapping[str, Any], agents: Collection[str], from_step: int, total_timesteps: int, schedule: ScheduleChoice
) -> dict[str, Any]:
    """run.json with an extension of `agents` from `from_step` on. An extension from the same step is replaced: nothing
    was trained in it."""
    plans = [
        _extended(plan, from_step, total_timesteps, schedule) if plan["name"] in agents else plan
        for plan in info["agents"]
    ]
    return {**info, "agents": plans, "spec": _spec_with_total(info["spec"], total_timesteps)}


def _extended(plan: Mapping[str, Any], from_step: int, total: int, schedule: ScheduleChoice) -> dict[str, Any]:
    earlier = list(plan.get("extensions") or ())
    last_total = int(plan["total_timesteps"])
    while earlier and int(earlier[-1]["from_step"]) >= from_step:
        last_total = int(earlier.pop()["from_total"])
    one = {"from_step": from_step, "from_total": last_total, "total_timesteps": total, "schedule": schedule}
    return _with_total(plan, total, [*earlier, one])


def _with_total(plan: Mapping[str, Any], total: int, extensions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    changed = {**plan, "total_timesteps": total, "spec": _spec_with_total(plan["spec"], total)}
    changed.pop("extensions", None)
    return {**changed, "extensions": list(extensions)} if extensions else changed


def _spec_with_total(spec: Mapping[str, Any], total: int) -> dict[str, Any]:
    changed = copy.deepcopy(dict(spec))
    changed["ppo"] = {**changed.get("ppo", {}), "total_timesteps": total}
    return changed
