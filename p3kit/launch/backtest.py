"""Backtests of a run's checkpoints. The policy lives in the run's own trainer.py, so that script shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p3kit.errors import InputError, P3kitError
from p3kit.launch.process import run_trainer
from p3kit.rundir import BACKTEST_RESULT, RunDir, list_runs

Result = dict[str, Any]
"""What `Agent.report_backtest` prints: checkpoint, global_step, split, metrics, baselines, intervals, curves."""


def backtest(run: RunDir, agent: str, checkpoint: str, *, split: str, final: bool) -> Result:
    """Walk one split with the policy of one checkpoint, in a process of its own.

    `checkpoint` is "best" (the weights that validation chose), "last", or the name of a file below checkpoints/. Raises
    InputError where there is no such checkpoint, P3kitError with the trainer's word where it cannot show its policy.
    """
    return _shown(run, agent, checkpoint, split, ["--final"] if final else [])


def replay(run: RunDir, agent: str, checkpoint: str, *, split: str, episodes: int = 2) -> list[Result]:
    """Windows of a split bar by bar, played by the policy of one checkpoint, from the best paid to the worst paid.

    `checkpoint` and errors are those of `backtest`; one dict per episode, as `p3kit.runtime.replay` makes it, with the
    checkpoint and its step.
    """
    shown = _shown(run, agent, checkpoint, split, ["--episodes", str(episodes)])
    return [{**episode, **{k: v for k, v in shown.items() if k != "episodes"}} for episode in shown["episodes"]]


def _shown(run: RunDir, agent: str, checkpoint: str, split: str, more: list[str]) -> Result:
    """What the run's own trainer prints of one checkpoint."""
    name = _checkpoint_name(run, agent, checkpoint)
    result = run_trainer(run, ["--evaluate", name, "--agent", agent, "--split", split, *more])
    lines = [line for line in result.stdout.splitlines() if line.startswith(BACKTEST_RESULT)]
    if result.returncode or not lines:
        said = result.stderr.strip().splitlines()
        why = said[-1] if said else f"its trainer ended with exit code {result.returncode} and said nothing"
        raise P3kitError(
            f"{run.name}/{agent}", f"cannot be evaluated: {why}", "see the trainer's lines for run.backtest"
        )
    found: Result = json.loads(lines[-1].removeprefix(BACKTEST_RESULT))
    return found | {"run": run.name, "agent": agent}


def _checkpoint_name(run: RunDir, agent: str, wanted: str) -> str:
    """The file's name without its ending. Raises InputError, naming what there is."""
    among = agent if len(run.agent_names()) > 1 else None
    name = wanted.removesuffix(".pt")
    if wanted == "best":
        chosen = ((run.status().get("agents") or {}).get(agent, {}).get("verdict") or {}).get("chosen_step")
        if chosen is None:
            events = [e for e in run.read_events("evaluation", agent=agent) if "eval/sharpe_ratio" in e["metrics"]]
            best = max(events, key=lambda e: float(e["metrics"]["eval/sharpe_ratio"]), default=None)
            chosen = None if best is None else best["global_step"]
        name = run.checkpoint(f"best-{chosen or 0:09d}", agent=among).stem
    if run.checkpoint(name).exists():
        return run.checkpoint(name).stem
    have = ", ".join(path.stem for path in run.checkpoints()) or "none"
    if wanted == "best":
        raise InputError(f"{run.name}/{agent}", "no weights were chosen yet: it never traded in an evaluation",
                         f"--checkpoint takes one of its checkpoints: {have}")  # fmt: skip
    raise InputError(f"--checkpoint {wanted}", "no such checkpoint", f"{run.name} has {have}")


def count_final_looks(runs_root: Path, run: RunDir, agent: str) -> tuple[int, int]:
    """How often the test split was looked at so far: by this agent, and by all runs of its experiment in the folder."""
    experiment = run.info()["name"]
    own = _looks(run, agent)
    others = 0
    for other in list_runs(runs_root):
        try:
            if other.info()["name"] == experiment:
                others += _looks(other)
        except P3kitError:  # a damaged run is named by `p3kit runs`; it has no say here
            continue
    return own, others


def _looks(run: RunDir, agent: str | None = None) -> int:
    return sum("look" in event for event in run.read_events("final_evaluation", agent=agent))
