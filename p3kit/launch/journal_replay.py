"""A run again, with the interventions of its journal in place of judgement: equal weights prove the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p3kit.errors import InputError
from p3kit.launch.ancestors import Ancestry
from p3kit.plan import RunPlan
from p3kit.rundir import RunDir, first_plan, is_extended
from p3kit.rundir.threads import threads_of
from p3kit.spec.interventions import NOTHING_INSIDE_AN_UPDATE


@dataclass(frozen=True)
class Replay:
    """Input of a replay: the plan of the run, and its journal."""

    original: RunDir
    plan: RunPlan
    journal: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """As the new run's run.json has it."""
        return {"run": self.original.name, "journal": list(self.journal)}

    def check_start(self, ancestry: Ancestry) -> None:
        """Raise InputError where an agent would start from other weights than in the original."""
        for then, now in zip(self.original.info()["agents"], self.plan.agents, strict=True):
            if (entry := then.get("init")) and ancestry.hash_of(now) != entry["sha256"]:
                what = f"started {now.name} from {entry['from']}, whose weights are others now"
                raise InputError(f"--replay {self.original.name}", what, "bring back the run that it started from")

    def plan_json(self) -> dict[str, Any]:
        """The fields of run.json that hold the plan, with the extensions of the original."""
        info = self.original.info()
        return {"spec": info["spec"], "agents": info["agents"]} if is_extended(info) else {}


def plan_replay(plans: Sequence[RunPlan], original: RunDir) -> Replay:
    """Plan `original` again: its agents from the plans of a spec, in its own stack and with its own threads.

    Raises InputError if it is still being trained, if its journal has decisions inside an update, if the spec has no
    such run, and if the spec has changed since.
    """
    info = original.info()
    if original.status()["state"] in ("queued", "running"):
        raise InputError(f"--replay {original.name}", "is not over", f"p3kit stop {original.name} ends it")
    journal = original.read_events("intervention")
    if inside := next((event for event in journal if _is_inside_an_update(event)), None):
        what = f'has decisions of intervention "{inside["id"]}" inside an update, which {NOTHING_INSIDE_AN_UPDATE}'
        raise InputError(f"--replay {original.name}", what, "replay it with the version of p3kit that trained it")
    names = original.agent_names()
    agents = {agent.name: agent for plan in plans for agent in plan.agents}
    if not agents.keys() >= set(names):
        has = "; ".join(", ".join(agent.name for agent in plan.agents) for plan in plans[:3])
        what = f"trained {', '.join(names[:3])}{' …' if len(names) > 3 else ''}, which is no run of this spec"
        raise InputError(f"--replay {original.name}", what, f"its runs train {has}")
    own = tuple(agents[name] for name in names)
    for then, now in zip(map(first_plan, info["agents"]), own, strict=True):
        if differences := list(_differences(then["spec"], now.spec.model_dump(mode="json"))):
            what = f"had another spec: {', '.join(differences[:3])}{' …' if len(differences) > 3 else ''}"
            raise InputError(f"--replay {original.name}", what, f"{original.path / 'spec.toml'} is the spec it had")
    plan = next(plan for plan in plans if own[0] in plan.agents)
    return Replay(original, replace(plan, agents=own, threads=threads_of(info)), journal)


def _is_inside_an_update(event: Mapping[str, Any]) -> bool:
    return event.get("check") == "minibatch" or any("early_stop_update" in did for did in event.get("did") or ())


def _differences(then: Any, now: Any, place: str = "") -> list[str]:
    """Paths at which two specs differ, as `ppo.gamma 0.9 → 0.99`."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*then, *now])
        return [one for key in keys for one in _differences(then.get(key), now.get(key), f"{place}.{key}".strip("."))]
    if then == now:
        return []
    short = isinstance(then, int | float | str) and isinstance(now, int | float | str)
    return [f"{place} {then} → {now}" if short else place]


def weights_hash(checkpoint: Path) -> str:
    """SHA-256 of all that a trainer keeps in a checkpoint: weights, optimiser, normalisers, environment."""
    from p3kit.runtime.checkpoints import load_checkpoint, part, state_hash

    return state_hash(part("trainer", load_checkpoint(checkpoint)))


def compare_weights(original: RunDir, again: RunDir) -> tuple[bool, str]:
    """Compare the final weights of two runs; return the result and a line of text."""
    first, second = (weights_hash(run.checkpoint("last")) for run in (original, again))
    if first == second:
        return True, f"{again.name} repeats {original.name}: the same weights, SHA-256 {first[:16]}"
    return False, f"{again.name} does not repeat {original.name}: its weights differ ({second[:16]}, not {first[:16]})"
