"""Tiny runs of a trainer within the test's own process, and what they left behind."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p3kit.launch.ancestors import Ancestry
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.runtime import Run, load_checkpoint, part
from p3kit.spec import resolve_spec
from p3kit.spec.keypath import split_path, with_value
from p3kit.spec.trainer_file import read_trainer

BASE: dict[str, Any] = {
    "name": "stack",
    "symbols": ["AAA", "BBB", "CCC"],
    "data": {"source": "synthetic", "synthetic": {"bars": 2_000}},
    "env": {"num_envs": 4, "episode_bars": 60},
    "ppo": {
        "total_timesteps": 1_000,  # a shorter last rollout, one env too many in it, a smaller last minibatch
        "n_steps": 75,
        "batch_size": 64,
        "n_epochs": 2,
        "hidden": [16, 8],
        "target_kl": "off",
    },
    "evaluation": {"every": 600},
    "checkpoints": {"every": 300, "keep_best": 20},
    "early_stop": {"min_progress": 1.0},
    "compute": {"device": "cpu"},
}


TRANSFORMER = {"d_model": 16, "heads": 2, "head_width": 16}
"""Sizes of `ppo_shared`, which has no `hidden`."""


def train(module: ModuleType, folder: Path, trainer: str, changes: dict[str, Any]) -> list[RunDir]:
    """Train BASE with `changes` in this process; the runs, in the order of the plan."""
    tables: Any = BASE | {"trainer": trainer}
    if Path(trainer).stem == "ppo_shared":
        tables["ppo"] = {name: value for name, value in BASE["ppo"].items() if name != "hidden"} | TRANSFORMER
    for path, value in changes.items():
        tables = with_value(tables, split_path(path), value)
    spec = resolve_spec(tables, "test")
    runs = []
    plans = plan_runs(spec, read_trainer(spec.trainer))
    ancestry = Ancestry.find([agent for plan in plans for agent in plan.agents], folder / "runs")
    market = load_market(spec, spec.symbols, recipes=ancestry.recipes)
    ancestry.check(plans, market)
    for plan in plans:
        run = RunDir.create(folder / "runs", plan.run_json(market, ["test"]), "", plan.trainer)
        ancestry.copy_to(run, plan)
        go_on(module, run)
        runs.append(run)
    return runs


def go_on(module: ModuleType, run: RunDir, *flags: str) -> RunDir:
    """Train a run in this process, to its end."""
    argv, sys.argv = sys.argv, ["trainer", "--run-dir", str(run.path), *flags]
    try:
        module.main()
    except SystemExit as end:
        assert end.code == 1  # noqa: PT017 - a failed run ends its process
    finally:
        sys.argv = argv
    return run


def killed_and_resumed(module: ModuleType, folder: Path, trainer: str, changes: dict[str, Any]) -> RunDir:
    """Train a run that is killed after its second checkpoint, where nothing of the third update is written."""

    class Killed(BaseException):
        pass

    saves: list[str] = []
    save = Run.save_checkpoint

    def save_and_die(self: Any, name: str, state: Any) -> None:
        save(self, name, state)
        saves.append(name)
        if saves.count("last") == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", save_and_die)
        patch.setattr(Run, "__exit__", lambda *_: None)
        with pytest.raises(Killed):
            train(module, folder, trainer, changes)
    return go_on(module, RunDir.open(next((folder / "runs").iterdir())), "--resume")


def final_weights(run: RunDir, agent: str, of: str = "net") -> dict[str, torch.Tensor]:
    """Of the last evaluation, which keeps the weights of every agent that traded."""
    among = agent if len(run.agent_names()) > 1 else None
    steps = [
        e["global_step"] for e in run.read_events("evaluation", agent=agent) if "eval/sharpe_ratio" in e["metrics"]
    ]
    return part(of, load_checkpoint(run.checkpoint(f"best-{max(steps):09d}", among)))


OF_ITS_OPTIMISER = ("realised/ppo.weight_decay", "realised/ppo.max_grad_norm")
"""Settings that only an optimiser of PyTorch shows: a stack has one of its own."""


def metrics_of(run: RunDir, agent: str) -> dict[tuple[int, str], float]:
    return {
        (row["global_step"], name): float(value)
        for row in run.read_metrics()
        if row["agent"] == agent
        for name, value in row["metrics"].items()
        if not name.startswith(("perf/", *OF_ITS_OPTIMISER))
    }
