"""Backtests of a run's checkpoints. The policy lives in the run's own trainer.py, so that script shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p3kit.errors import DataError, Fault, InputError, P3kitError
from p3kit.launch.older_runs import evaluating_trainer
from p3kit.launch.process import run_trainer
from p3kit.metrics import deflated_choice
from p3kit.rundir import BACKTEST_RESULT, RunDir, find_checkpoint, list_runs

Result = dict[str, Any]
"""Output of `Agent.report_backtest`: checkpoint, global_step, split, metrics, baselines, intervals, curves."""


def backtest(
    run: RunDir, agent: str, checkpoint: str, *, split: str, final: bool, mode: str, outside: Sequence[str] = ()
) -> Result:
    """Walk one split with the policy of one checkpoint, in a process of its own.

    `outside` are the trainer's options `--bars`, `--from-day` and `--to-day` for the split `outside`.
    `mode` is "continuous" or "windows". `checkpoint` is "best" (the weights that validation chose), "last", or the name
    of a file below checkpoints/. Raises InputError where there is no such checkpoint, P3kitError with the message of
    the trainer where it cannot load its policy.
    """
    return _shown(run, agent, checkpoint, split, ["--mode", mode, *(["--final"] if final else []), *outside])


def replay(run: RunDir, agent: str, checkpoint: str, *, split: str, episodes: int = 2) -> list[Result]:
    """Windows of a split bar by bar, played by the policy of one checkpoint, from the best paid to the worst paid.

    `checkpoint` and errors are those of `backtest`; one dict per episode, as `p3kit.runtime.replay` makes it, with the
    checkpoint and its step.
    """
    shown = _shown(run, agent, checkpoint, split, ["--episodes", str(episodes)])
    return [{**episode, **{k: v for k, v in shown.items() if k != "episodes"}} for episode in shown["episodes"]]


def _shown(run: RunDir, agent: str, checkpoint: str, split: str, more: list[str]) -> Result:
    """Output of the run's own trainer for one checkpoint."""
    name = find_checkpoint(run, agent, checkpoint)
    flags = ["--evaluate", name, "--agent", agent, "--split", split, *more]
    result = run_trainer(run, flags, evaluating_trainer(run))
    lines = [line for line in result.stdout.splitlines() if line.startswith(BACKTEST_RESULT)]
    if result.returncode or not lines:
        said = result.stderr.strip().splitlines()
        if result.returncode == InputError.exit_code and said:  # bars that are no bars, with all their faults
            raise DataError.collected(Fault(f"{run.name}/{agent}", f"cannot be evaluated: {line}") for line in said)
        why = said[-1] if said else f"its trainer ended with exit code {result.returncode} and without output"
        hint = f"it was made by {run.made_by()}" if run.is_older else "see load_policy in its trainer.py"
        raise P3kitError(f"{run.name}/{agent}", f"cannot be evaluated: {why}", hint)
    found: Result = json.loads(lines[-1].removeprefix(BACKTEST_RESULT))
    return found | {"run": run.name, "agent": agent}


def deflated_sharpe(runs_root: Path, run: RunDir, result: Result) -> dict[str, float] | None:
    """{value, trials}: the probability that the true Sharpe ratio of a backtest is above 0, corrected for the number of
    policies tried on these bars. None if nothing was chosen (the training split) or traded.

    Tries are all evaluations of the symbol that the experiment's runs in the folder have journalled on that split.
    """
    sharpe, shape = result["metrics"].get("eval/sharpe_ratio"), result["returns"]
    if sharpe is None or shape is None or result["split"] in ("train", "outside"):
        return None
    kind = "final_evaluation" if result["split"] == "test" else "evaluation"
    symbol = _symbols(run.info())[result["agent"]]
    tried = [
        float(event["metrics"]["eval/sharpe_ratio"])
        for info, events in _journals(runs_root, run.info()["name"])
        for event in events
        if event["kind"] == kind and _symbols(info).get(event["agent"]) == symbol
        if event.get("metrics", {}).get("eval/sharpe_ratio") is not None
    ] or [sharpe]
    return {"value": deflated_choice(sharpe, shape, tried), "trials": len(tried)}


def count_final_looks(runs_root: Path, run: RunDir, agent: str) -> tuple[int, int]:
    """Number of looks at the test split so far: by this agent, and by all runs of its experiment in the folder."""
    everyone = [event for _, events in _journals(runs_root, run.info()["name"]) for event in events]
    made = [event for event in everyone if "carried_from" not in event]  # a carried-over use stands twice
    return _looks(run.read_events(agent=agent)), _looks(made)


def _journals(runs_root: Path, experiment: str) -> list[tuple[Result, list[Result]]]:
    """(run.json, events) of every run of an experiment in the folder."""
    found = []
    for run in list_runs(runs_root):
        try:
            if run.info()["name"] == experiment:
                found.append((run.info(), run.read_events()))
        except P3kitError:  # `p3kit runs` names a damaged run; it does not count here
            continue
    return found


def _symbols(info: Result) -> dict[str, str]:
    """Agent → the symbol it trades."""
    return {agent["name"]: agent["symbol"] for agent in info["agents"]}


def _looks(events: list[Result]) -> int:
    return sum(event["kind"] == "final_evaluation" and "look" in event for event in events)
