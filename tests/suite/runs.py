"""Training the runs of the suite: one forked process each, so that hooks and torch are paid for once and never leak."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from tests.suite.cases import Case
from tests.suite.hooks import HOOKS, Scene


@dataclass(frozen=True)
class Job:
    """One run to make."""

    case: Case
    seed: int
    guide_sizes: bool = False
    path: Path | None = None
    """Its run directory, once it is planned."""

    @property
    def name(self) -> str:
        return f"{self.case.name} seed {self.seed}" + (" guide's sizes" if self.guide_sizes else "")


def plan(job: Job, root: Path, trainer: Path | None) -> Job:
    """Make the run directory of a job; `suite.json` in it says what was injected, so that it can be judged later."""
    spec = job.case.resolved(job.seed, guide_sizes=job.guide_sizes, trainer=trainer)
    (run,) = plan_runs(spec)
    market = load_market(spec, spec.symbols)
    text = f"# tests/suite {job.name}: see run.json for the spec, suite.json for what was injected\n"
    directory = RunDir.create(root, run.run_json(market, ["tests.suite", job.case.name]), text, run.trainer)
    kept = {"case": job.case.name, "seed": job.seed, "guide_sizes": job.guide_sizes}
    (directory.path / "suite.json").write_text(json.dumps(kept), encoding="utf-8")
    return replace(job, path=directory.path)


def train(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, float]]:
    """Train planned jobs, `processes` at a time; each is handed out with its CPU seconds as it ends."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(jobs), {}
    while waiting or running:
        while waiting and len(running) < processes:
            job = waiting.pop(0)
            process = context.Process(target=_train_one, args=(job,))
            process.start()
            running[process.sentinel] = (process, job)
        for sentinel in multiprocessing.connection.wait(list(running)):
            process, job = running.pop(sentinel)
            process.join()
            assert job.path is not None
            spent = job.path / "cpu_seconds.txt"
            yield job, float(spent.read_text()) if spent.exists() else 0.0


def _train_one(job: Job) -> None:
    """In the child: hooks first, then the trainer's own main, with its output in log.txt."""
    assert job.path is not None
    started = time.process_time()
    directory = RunDir.open(job.path)
    torch.set_num_threads(1)
    with directory.log_file.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.argv = [str(directory.trainer_file), "--run-dir", str(directory.path)]
        with contextlib.suppress(SystemExit):
            try:
                module = load(directory.trainer_file)
                _inject(module, job, directory)
                module.main()
            except Exception:  # noqa: BLE001  (a hook that breaks the trainer must be read in its log, not lost)
                traceback.print_exc()
                directory.update_status(state="crashed", message="the suite's own hook failed, see log.txt")
    used = resource.getrusage(resource.RUSAGE_SELF)
    (directory.path / "cpu_seconds.txt").write_text(str(used.ru_utime + used.ru_stime))
    del started
    for checkpoint in directory.checkpoints():  # streams are kept, weights are not
        checkpoint.unlink()


def _inject(module: ModuleType, job: Job, directory: RunDir) -> None:
    agents = directory.info()["agents"]
    if job.case.inject is None:
        return
    scene = Scene(module, int(agents[0]["total_timesteps"]), len(agents), job.seed)
    numbers: dict[str, Any] = dict(job.case.inject)
    HOOKS[numbers.pop("hook")](scene, **numbers)


def load(path: Path) -> ModuleType:
    """A trainer's file as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
