"""The checkpoint of an agent: chosen by validation, or named as commands take it (`best`, `last`, a file)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from p3kit.errors import InputError
from p3kit.rundir.directory import RunDir
from p3kit.rundir.extensions import total_at

Event = TypeVar("Event", bound=Mapping[str, Any])


def choice_rank(plan: Mapping[str, Any], global_step: int, sharpe: float) -> tuple[bool, float]:
    """What an agent's weights are chosen by, the largest first: whether they had the share of training that
    `checkpoints.best_from` asks for, and their validation Sharpe ratio. `plan` is the agent's entry in run.json."""
    share = (plan.get("spec", {}).get("checkpoints") or {}).get("best_from", 0.0)
    return global_step >= share * total_at(plan, global_step), sharpe


def chosen_evaluation(plan: Mapping[str, Any], evaluations: Iterable[Event]) -> Event | None:
    """The evaluation whose weights are chosen by `choice_rank`; None where no policy traded in any."""
    traded = [event for event in evaluations if event["metrics"].get("eval/sharpe_ratio") is not None]

    def rank(event: Event) -> tuple[bool, float]:
        return choice_rank(plan, event["global_step"], float(event["metrics"]["eval/sharpe_ratio"]))

    return max(traded, key=rank, default=None)


def find_checkpoint(run: RunDir, agent: str, wanted: str) -> str:
    """Return the name of a checkpoint file without its ending.

    `wanted` is `best` (the weights that validation chose), `last`, or the name of a file. Raises InputError that names
    the checkpoints of the run.
    """
    among = agent if len(run.agent_names()) > 1 else None
    name = wanted.removesuffix(".pt")
    if wanted == "best":
        name = run.checkpoint(f"best-{_chosen_step(run, agent):09d}", agent=among).stem
    if run.checkpoint(name).exists():
        return run.checkpoint(name).stem
    have = ", ".join(path.stem for path in run.checkpoints()) or "none"
    if wanted == "best":
        raise InputError(f"{run.name}/{agent}", "no weights were chosen yet: it never traded in an evaluation",
                         f"--checkpoint takes one of its checkpoints: {have}")  # fmt: skip
    raise InputError(f"--checkpoint {wanted}", "no such checkpoint", f"{run.name} has {have}")


def _chosen_step(run: RunDir, agent: str) -> int:
    """Env steps of the weights that validation chose; 0 where there are none."""
    verdict = (run.status().get("agents") or {}).get(agent, {}).get("verdict") or {}
    if (chosen := verdict.get("chosen_step")) is not None:
        return int(chosen)
    plan = next(plan for plan in run.info()["agents"] if plan["name"] == agent)
    best = chosen_evaluation(plan, run.read_events("evaluation", agent=agent))
    return 0 if best is None else int(best["global_step"])
