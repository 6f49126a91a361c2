"""Training the runs of the suite: one forked process each, so that hooks and torch are paid for once and never leak.

A finished run is never trained twice: `suite.json` in its directory describes it, and `cpu_seconds.txt` shows that it
ended. An interrupted call continues in the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.spec import Spec
from p3kit.spec.trainer_file import read_trainer
from tests.measure.suite.cases import Case, Sizes, Tables
from tests.measure.suite.hooks import HOOKS, Scene, broken_bars

NOTE, SPENT = "suite.json", "cpu_seconds.txt"


@dataclass(frozen=True)
class Job:
    """One run to make. `overlay` is a spec on top of the case's own; runs that differ in it are different runs."""

    case: Case
    seed: int
    sizes: Sizes = "short"
    overlay: Tables = field(default_factory=dict)
    path: Path | None = None
    """Its run directory, once it is planned."""

    @property
    def name(self) -> str:
        return f"{self.case.name} seed {self.seed} {self.sizes}"

    def spec(self, trainer: Path | None = None) -> Spec:
        return self.case.resolved(self.seed, self.sizes, trainer=trainer, overlay=self.overlay)


@dataclass(frozen=True)
class Kept:
    """A finished run in a work folder, and what it is a run of."""

    run: RunDir
    case: str
    seed: int
    sizes: Sizes
    print: str


def fingerprint(job: Job, trainer: Path | None) -> str:
    """Of all that decides a run but the package itself: the resolved spec, what is injected, and the code of that."""
    hook = None if job.case.inject is None else inspect.getsource(HOOKS[job.case.inject["hook"]])
    asked = [job.spec(trainer).model_dump(mode="json"), job.case.inject, hook]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def finished(root: Path) -> list[Kept]:
    """The runs in a work folder that were trained to their end, in the order in which they were planned."""
    found = []
    for note in sorted(root.glob(f"run-*/{NOTE}"), key=lambda path: int(path.parent.name.split("-")[1])):
        if (note.parent / SPENT).exists():
            kept = json.loads(note.read_text(encoding="utf-8"))
            found.append(Kept(RunDir.open(note.parent), kept["case"], kept["seed"], kept["sizes"], kept["print"]))
    return found


def plan(job: Job, root: Path, trainer: Path | None = None) -> Job:
    """Make the run directory of a job; `suite.json` in it names the injected fault, so that it can be judged later."""
    spec = job.spec(trainer)
    (run,) = plan_runs(spec, read_trainer(spec.trainer))
    market = load_market(spec, spec.symbols)
    numbers: dict[str, Any] = dict(job.case.inject or {})
    if numbers.pop("hook", "") == "break_columns":  # as a file with these columns would have it
        market = {name: broken_bars(bars, job.seed, **numbers) for name, bars in market.items()}
    text = f"# tests/measure/suite {job.name}: see run.json for the spec, suite.json for what was injected\n"
    directory = RunDir.create(root, run.run_json(market, ["tests.measure.suite", job.case.name]), text, run.trainer)
    kept = {"case": job.case.name, "seed": job.seed, "sizes": job.sizes, "print": fingerprint(job, trainer)}
    (directory.path / NOTE).write_text(json.dumps(kept), encoding="utf-8")
    return replace(job, path=directory.path)


def train(
    jobs: Iterable[Job], root: Path, processes: int, trainer: Path | None = None, until: float | None = None
) -> Iterator[tuple[Job, float]]:
    """Plan and train jobs, `processes` at a time; each is handed out with its CPU seconds as it ends.

    Jobs that `root` already holds are yielded first and not trained again. After `until` (`time.monotonic`) none
    is started.
    """
    import_what_all_need()
    context = multiprocessing.get_context("fork")
    known = {kept.print: kept.run.path for kept in finished(root)}
    waiting: list[Job] = []
    for job in jobs:
        path = known.get(fingerprint(job, trainer))
        if path is None:
            waiting.append(job)
        else:
            yield replace(job, path=path), cpu_seconds(path)
    running: dict[int, tuple[Any, Job]] = {}
    while waiting or running:
        if until is not None and time.monotonic() > until:
            waiting.clear()
        while waiting and len(running) < processes:
            job = plan(waiting.pop(0), root, trainer)
            process = context.Process(target=_train_one, args=(job,))
            process.start()
            running[process.sentinel] = (process, job)
        for sentinel in multiprocessing.connection.wait(list(running)):
            process, job = running.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            assert job.path is not None
            yield job, cpu_seconds(job.path)


def cpu_seconds(run: Path) -> float:
    """Of the process that trained a run; 0 where it was cut off."""
    spent = run / SPENT
    return float(spent.read_text()) if spent.exists() else 0.0


def import_what_all_need() -> None:
    """The first optimiser of a process imports a hundred modules: here once, and not in every child."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def _train_one(job: Job) -> None:
    """In the child: hooks first, then the trainer's own main, with its output in log.txt."""
    assert job.path is not None
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
    for checkpoint in directory.checkpoints():  # streams are kept, weights are not
        checkpoint.unlink()
    if directory.status()["state"] == "stopped":  # ended by a signal: not trained to its end
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    (directory.path / SPENT).write_text(str(used.ru_utime + used.ru_stime))


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
