"""The checkpoint of an agent: chosen by validation, or named as commands take it (`best`, `last`, a file)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from p3kit.errors import InputError
from p3kit.rundir.directory import RunDir
from p3kit.rundir.extensions import total_at

Event = TypeVar("Event", bound=Mapping[str, Any])


def choice_rank(plan: Mapping[str, Any], global_step: int, sharpe: float) -> tuple[bool, float]:
    """Sort key for choosing an agent's weights, largest first: true if they had the fraction of training in
    `checkpoints.best_from`, then their validation Sharpe ratio. `plan` is the agent's entry in run.json."""
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
    hint = f"{run.name} has {have}" if have == "none" else f"--checkpoint takes one of its checkpoints: {have}"
    if wanted == "best":
        raise InputError(f"{run.name}/{agent}", _why_no_best(run, agent, run.checkpoint(name).name), hint)
    what = f"{name}.pt was deleted or moved" if _was_written(run, f"{name}.pt") else "no such checkpoint"
    raise InputError(f"--checkpoint {wanted}", what, f"{run.name} has {have}")


def missing_checkpoint_notes(run: RunDir) -> list[str]:
    """Sentences for a run that continues although its newest checkpoint was deleted or moved."""
    if run.checkpoint("last").exists() or not _was_written(run, "last.pt"):
        return []
    has_init = run.checkpoint("init").exists()
    begin = "init.pt, before its first step" if has_init else "the beginning"
    return [f"{run.name}: checkpoints/last.pt was deleted or moved; it trains again from {begin}"]


def _why_no_best(run: RunDir, agent: str, file: str) -> str:
    evaluations = run.read_events("evaluation", agent=agent)
    if _chosen_step(run, agent):
        return f"its best weights, checkpoints/{file}, were deleted or moved"
    if evaluations:
        return "no weights were chosen yet: it never traded in an evaluation"
    return "no weights were chosen yet: it was not evaluated so far"


def _was_written(run: RunDir, file: str) -> bool:
    return any(event.get("file") == file for event in run.read_events("checkpoint"))


def _chosen_step(run: RunDir, agent: str) -> int:
    """Env steps of the weights that validation chose; 0 where there are none."""
    verdict = (run.status().get("agents") or {}).get(agent, {}).get("verdict") or {}
    if (chosen := verdict.get("chosen_step")) is not None:
        return int(chosen)
    plan = next(plan for plan in run.info()["agents"] if plan["name"] == agent)
    best = chosen_evaluation(plan, run.read_events("evaluation", agent=agent))
    return 0 if best is None else int(best["global_step"])
