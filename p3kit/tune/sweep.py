"""Trials as runs: what `launch.train` is fed with, judged while it trains, and told to the study when it ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from p3kit.errors import Fault, InputError, P3kitError, SpecError
from p3kit.launch import make_runs, requeue
from p3kit.market import load_market, walk_windows
from p3kit.plan import describe_data, plan_runs, provenance
from p3kit.rundir import RunDir, choice_rank
from p3kit.spec import LoadedSpec, load_spec
from p3kit.spec.keypath import is_written, leaves, written_path
from p3kit.spec.models import Tune
from p3kit.spec.shipped import find_trainer
from p3kit.spec.writing import toml_value
from p3kit.tune.study import Study, SweepDir

if TYPE_CHECKING:
    import optuna

    from p3kit.launch.display import AgentView
    from p3kit.market import SymbolData

ORPHANS_END_WITHIN_S = 300.0
"""Trainers whose p3kit was killed train on; asked to end, they finish an update and write a checkpoint first."""

_NOT_COMPARED = ("trainer", "data.path", "tune.trials")
"""What may look different when a sweep goes on: paths seen from another folder, and how far to go."""


_Agent = tuple[str, str]
"""Run and name."""


class Teller(Protocol):
    """Who is told what happens: the display."""

    def say(self, text: str) -> None:
        """Something that must not be missed."""

    def note(self, text: str) -> None:
        """The usual course of things; a live table shows it by itself."""


class SeedMean:
    """The mean over a trial's agents of the best validation Sharpe ratio so far, read from the metrics of its runs.

    That is what the trial is worth if it ends there, since an agent's weights are chosen by validation. An agent whose
    evaluations hold no trade counts as 0.
    """

    def __init__(self, runs: Sequence[RunDir]) -> None:
        self.runs = runs
        self._offsets: dict[str, tuple[int, int]] = {}  # run → (resumes, bytes read)
        self._evaluations: dict[_Agent, list[tuple[int, float]]] = {}  # steps and Sharpe ratios, in order
        plans = {(run.name, plan["name"]): plan for run in runs for plan in run.info()["agents"]}
        self._plans: dict[_Agent, Any] = plans
        self._steps: dict[_Agent, float] = dict.fromkeys(self._plans, 0.0)

    def update(self) -> None:
        """Reads what is new. A resume rewrites the metrics, so they are read from their beginning then."""
        for run in self.runs:
            resumes = len(run.read_events("resume"))
            known, offset = self._offsets.get(run.name, (resumes, 0))
            rows, end = run.tail_metrics(offset if known == resumes else 0)
            if known != resumes:
                self._evaluations = {key: value for key, value in self._evaluations.items() if key[0] != run.name}
            self._offsets[run.name] = (resumes, end)
            for row in rows:
                key = (run.name, row["agent"])
                self._steps[key] = max(self._steps[key], row["global_step"])
                if "eval/total_return" in row["metrics"]:
                    sharpe = row["metrics"].get("eval/sharpe_ratio", -math.inf)
                    self._evaluations.setdefault(key, []).append((row["global_step"], sharpe))
            status = run.status()
            for agent, told in status["agents"].items():
                if "done" in (status["state"], told.get("state")) and (run.name, agent) in self._steps:
                    self._steps[run.name, agent] = math.inf  # ended early by its rules: it keeps what it has

    @property
    def reached(self) -> float:
        """Env steps that every agent has taken; inf once all are done."""
        return min(self._steps.values())

    def at(self, step: float) -> float | None:
        """The mean as it stood after `step` env steps; None where an agent had not been evaluated by then."""
        best = []
        for key in self._steps:
            known = [seen for seen in self._evaluations.get(key, ()) if seen[0] <= step]
            if not known:
                return None
            _, highest = max(choice_rank(self._plans[key], *seen) for seen in known)
            best.append(highest if math.isfinite(highest) else 0.0)
        return sum(best) / len(best)


@dataclass
class ActiveTrial:
    """A trial of this session."""

    asked: optuna.Trial
    values: Mapping[str, Any]
    runs: list[RunDir]
    mean: SeedMean
    ended: dict[str, str] = field(default_factory=dict)
    """Run → how it ended."""
    reported: int = 0
    """Rungs that the study was told of."""
    pruned: str = ""
    failed: str = ""
    """Why it will have no value."""
    value: float | None = None
    state: str = "running"

    @property
    def number(self) -> int:
        return int(self.asked.number)

    @property
    def all_ended(self) -> bool:
        return len(self.ended) == len(self.runs)


@dataclass(frozen=True)
class TrialView:
    """A trial of this session as it stands."""

    number: int
    state: str
    progress: float
    value: float | None
    """Mean Sharpe ratio so far."""
    values: Mapping[str, Any]


class Sweep:
    """A feed of `launch.train`: asks for settings, makes their runs, prunes, tells. See `p3kit.launch.Feed`."""

    def __init__(
        self,
        folder: SweepDir,
        loaded: LoadedSpec,
        overrides: Sequence[str],
        study: Study,
        runs_root: Path,
        market: Mapping[str, SymbolData],
    ) -> None:
        self.folder, self.loaded, self.study, self.runs_root, self.market = folder, loaded, study, runs_root, market
        self.overrides = [one for one in overrides if not one.startswith("tune.")]
        self.notes: list[str] = []
        """What its user should know before it begins."""
        self.teller: Teller | None = None
        self.trials: list[ActiveTrial] = []
        self._rung = int(loaded.spec.evaluation.every)
        self._total = int(loaded.spec.ppo.total_timesteps)

    @property
    def synthetic(self) -> bool:
        return any(bars.synthetic for bars in self.market.values())

    @property
    def running(self) -> list[ActiveTrial]:
        return [trial for trial in self.trials if trial.state == "running"]

    def _say(self, text: str) -> None:
        if self.teller is not None:
            self.teller.say(text)

    def _note(self, text: str) -> None:
        if self.teller is not None:
            self.teller.note(text)

    # ------------------------------------------------------------------ the feed

    def more(self) -> Sequence[RunDir]:
        """The runs of the next trial. One whose values do not go together fails, and the next one is asked for."""
        while (asked := self.study.ask()) is not None:
            values = self.study.space.to_spec(asked.params)
            try:
                runs = self._adopt(asked) or self._make(asked, values)
            except InputError as error:
                self.study.failed(asked, str(error))
                self._say(f"trial {asked.number} failed: {error}")
                continue
            trial = ActiveTrial(asked, values, runs, SeedMean(runs))
            self.trials.append(trial)
            self._note(f"trial {trial.number} begins: {describe(values)} ({', '.join(run.name for run in runs)})")
            todo = [run for run in runs if run.status()["state"] != "done"]
            trial.ended = {run.name: "done" for run in runs if run not in todo}
            if todo:
                return todo
            self._settle(trial)  # its trainers outlived the process that would have told
        return ()

    def look(self) -> None:
        """Reports the running trials' means at every rung they have passed, and ends those that lag behind."""
        for trial in self.running:
            trial.mean.update()
            undecided = not (trial.pruned or trial.failed) and trial.mean.reached < self._total
            if self._report(trial) and undecided and self.study.should_prune(trial.asked):
                self._prune(trial)

    def ended(self, run: RunDir, state: str, *, interrupted: bool) -> None:
        trial = next(trial for trial in reversed(self.trials) if run in trial.runs)
        trial.ended[run.name] = state
        if state == "stopped" and (trial.pruned or trial.failed):
            run.update_status(message=f"pruned: {trial.pruned}" if trial.pruned else f"with its trial: {trial.failed}")
        if state in ("failed", "crashed") and not (interrupted or trial.pruned or trial.failed):
            trial.failed = f"{run.name} {state}: {run.status()['message']}"
            self._end_runs(trial, f"trial {trial.number} has no value any more: {trial.failed}")
        if trial.all_ended and not interrupted:
            self._settle(trial)

    def close(self) -> list[int]:
        """After the last run has ended: trials that were interrupted are queued again. Returns their numbers."""
        for trial in self.running:
            if trial.pruned or trial.failed or set(trial.ended.values()) == {"done"}:
                self._settle(trial)
        again = self.study.requeue_running()
        for trial in self.running:
            trial.state = "queued"
        return [record.number for record in again]

    # ------------------------------------------------------------------ beginning

    def _adopt(self, asked: optuna.Trial) -> list[RunDir]:
        """The runs that a dead trial left to the one that was queued in its place; [] where they are not all there."""
        runs = [RunDir(self.runs_root / name) for name in asked.user_attrs.get("runs", ())]
        if not all((run.path / "run.json").is_file() for run in runs):
            return []
        todo = [run for run in runs if run.status()["state"] != "done"]
        requeue(todo)
        for run in runs:
            run.update_info(tune={**run.info()["tune"], "trial": asked.number})
        return runs

    def _make(self, asked: optuna.Trial, values: Mapping[str, Any]) -> list[RunDir]:
        """Ordinary runs, whose command line repeats them one by one.

        Planned for one slot: a trial's agents fill as few stacks as they can, and trials train side by side.
        """
        own = [*self.overrides, *(f"{path}={toml_value(value)}" for path, value in values.items())]
        loaded = load_spec(self.loaded.path, own)
        market = self.market
        if any(path.startswith("env.") for path in values):  # a longer window needs more bars to warm up
            market = load_market(loaded.spec, loaded.spec.symbols)
        command = ["p3kit", "run", str(self.loaded.path), *(word for one in own for word in ("--set", one))]
        told = {"sweep": self.folder.name, "trial": asked.number, "values": dict(values)}
        plans = plan_runs(loaded.spec, jobs=1, windows=walk_windows(loaded.spec, market))
        runs = make_runs(plans, loaded, market, self.runs_root, command=command, extra={"tune": told})
        asked.set_user_attr("runs", [run.name for run in runs])
        return runs

    # ------------------------------------------------------------------ judging

    def _report(self, trial: ActiveTrial) -> bool:
        """Tells the study of every rung passed since. A rung is a multiple of `evaluation.every`; what counts there is
        what was known by then, so that trials whose evaluations fall on other steps can be compared."""
        told = False
        while (step := (trial.reported + 1) * self._rung) <= min(trial.mean.reached, self._total):
            trial.reported += 1
            value = trial.mean.at(step)
            if value is not None:
                trial.asked.report(value, step)
                trial.value, told = value, True
        return told

    def _prune(self, trial: ActiveTrial) -> None:
        step = trial.reported * self._rung
        median, number = self.study.median_at(step)
        trial.pruned = (
            f"trial {trial.number} at {step:,} steps: mean Sharpe {trial.value:z.2f}, "
            f"below the median {median:z.2f} of {number} completed trials"
        )
        self._end_runs(trial, f"pruned: {trial.pruned}")

    def _end_runs(self, trial: ActiveTrial, reason: str) -> None:
        for run in trial.runs:
            if run.name not in trial.ended:
                run.request_stop(reason)

    def _settle(self, trial: ActiveTrial) -> None:
        """Tells the study how a trial ended whose runs have all ended."""
        trial.mean.update()
        self._report(trial)
        unfinished = [name for name, state in trial.ended.items() if state != "done"]
        sharpes = {} if unfinished else _final_sharpes(trial.runs)
        if silent := [name for name, sharpe in sharpes.items() if sharpe is None]:
            trial.failed = f"{', '.join(silent)}: no verdict"
        elif unfinished and not (trial.pruned or trial.failed):
            trial.failed = f"{', '.join(unfinished)} was asked to stop"
        if trial.failed:
            trial.state = "failed"
            self.study.failed(trial.asked, trial.failed)
            self._say(f"trial {trial.number} failed: {trial.failed}")
        elif unfinished:
            trial.state = "pruned"
            self.study.pruned(trial.asked, trial.pruned)
            self._note(f"pruned: {trial.pruned}")
        else:
            trial.state = "complete"
            trial.value = self.study.complete(trial.asked, {name: sharpe or 0.0 for name, sharpe in sharpes.items()})
            self._note(f"trial {trial.number} complete: mean Sharpe {trial.value:z.2f}; {self._best()}")

    def _best(self) -> str:
        done = [record for record in self.study.records() if record.state == "complete"]
        best = max(done, key=lambda record: record.value or -math.inf)
        return f"best so far {best.value:z.2f} (trial {best.number})"

    # ------------------------------------------------------------------ seeing

    def views(self, agents: Sequence[AgentView]) -> list[TrialView]:
        """The trials of this session in the order they began. `agents`: every agent of their runs."""
        by_run: dict[str, list[float]] = {}
        for agent in agents:
            by_run.setdefault(agent.label.partition("/")[0], []).append(agent.progress)
        views = []
        for trial in self.trials:
            progress = [share for run in trial.runs for share in by_run.get(run.name, [0.0])]
            state = "stopping" if trial.state == "running" and (trial.pruned or trial.failed) else trial.state
            value = trial.value if trial.value is not None else trial.mean.at(math.inf)
            views.append(TrialView(trial.number, state, sum(progress) / len(progress), value, trial.values))
        return views


def _final_sharpes(runs: Sequence[RunDir]) -> dict[str, float | None]:
    """Agent → Sharpe ratio of the weights that its verdict chose, 0 where it never traded; None without a verdict."""
    found: dict[str, float | None] = {}
    for run in runs:
        agents = run.status()["agents"]
        for name in run.agent_names():
            verdict = agents.get(name, {}).get("verdict")
            found[name] = None if verdict is None else verdict["metrics"].get("eval/sharpe_ratio") or 0.0
    return found


def describe(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.00031, batch_size 64`"""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {in_short(value)}" for path, value in values.items())


def in_short(value: Any) -> str:
    """Three digits of a number."""
    return f"{value:.3g}" if isinstance(value, float) else toml_value(value).strip('"')


# --- beginning and going on -------------------------------------------------------------------------------------------


def check_spec(loaded: LoadedSpec) -> Tune:
    """The [tune] table of a spec that can be searched. Raises SpecError."""
    spec = loaded.spec
    if spec.tune is None:
        hint = 'for example space = { "ppo.learning_rate" = { low = 1e-4, high = 1e-3, log = true } } under [tune]'
        raise SpecError([Fault(f"{loaded.path}:1:1", "tune: missing; nothing says what to search", hint)])
    if spec.matrix:
        origin = loaded.origins.get(f"matrix.{written_path((next(iter(spec.matrix)),))}", str(loaded.path))
        hint = "a trial is one setting; move what is to be searched to [tune] space"
        raise SpecError([Fault(origin, "matrix: cannot be searched over", hint)])
    if not is_written(spec.model_dump(mode="json"), ("ppo", "total_timesteps")):
        raise SpecError([Fault(str(loaded.path), f'trainer = "{spec.trainer}": has no total_timesteps to count by')])
    return spec.tune


@contextlib.contextmanager
def begin(loaded: LoadedSpec, overrides: Sequence[str], runs_root: Path, command: Sequence[str]) -> Iterator[Sweep]:
    """A new sweep, owned while this is entered. All checks come before its folder is made."""
    tune = check_spec(loaded)
    market = load_market(loaded.spec, loaded.spec.symbols)
    plan_runs(loaded.spec, windows=walk_windows(loaded.spec, market))
    info = {
        "name": loaded.spec.name,
        "spec_file": str(loaded.path),
        "overrides": list(overrides),
        "spec": loaded.spec.model_dump(mode="json"),
        "trainer_sha256": _digest(loaded),
        "data": _fingerprints(market),
        "command": list(command),
        **provenance(),
    }
    folder = SweepDir.create(runs_root, info, loaded.source_text)
    with folder.owned():
        study = Study(folder, tune, loaded.spec.ppo.total_timesteps)
        sweep = Sweep(folder, loaded, overrides, study, runs_root, market)
        if outside := study.enqueue_first(loaded.spec):
            what = f"the spec's own {', '.join(outside)} lies outside of tune.space"
            sweep.notes.append(f"{what}: the spec as it stands is no trial")
        if study.wanted() < tune.trials:
            sweep.notes.append(f"tune.space holds {study.wanted()} settings: each is tried once")
        yield sweep


@contextlib.contextmanager
def go_on(runs_root: Path, reference: str, trials: int | None) -> Iterator[Sweep]:
    """A sweep where it was left, owned while this is entered, with `trials` in all where that is given.

    Raises InputError where the spec, the trainer or the bars are no longer what they were: what was learnt would not
    hold for them.
    """
    folder = SweepDir.find(runs_root, reference)
    with folder.owned():
        info = folder.info()
        spec_file = Path(info["spec_file"])
        if not spec_file.is_absolute():
            spec_file = Path(os.path.relpath(runs_root / str(info["paths_from"]) / spec_file))
        more = [f"tune.trials={trials}"] if trials is not None else []
        loaded = load_spec(spec_file, [*info["overrides"], *more])
        _refuse_changed(folder, info, loaded)
        tune = check_spec(loaded)
        market = load_market(loaded.spec, loaded.spec.symbols)
        bars = _fingerprints(market)
        if changed := [symbol for symbol in bars if info["data"].get(symbol) != bars[symbol]]:
            what = f"the bars of {', '.join(changed)} have changed since it began"
            raise InputError(folder.name, what, "begin a new one")
        study = Study(folder, tune, loaded.spec.ppo.total_timesteps)
        sweep = Sweep(folder, loaded, info["overrides"], study, runs_root, market)
        if study.torn:
            sweep.notes.append(f"{study.torn} bytes of a torn row were cut off the journal")
        if not study.records():  # killed before its first trial was queued
            study.enqueue_first(loaded.spec)
        _end_orphans(runs_root, [record.runs for record in study.records() if record.state == "running"])
        if dead := [str(record.number) for record in study.requeue_running()]:
            sweep.notes.append(f"running when their process died, and queued again: trial {', '.join(dead)}")
        yield sweep


def _refuse_changed(folder: SweepDir, info: Mapping[str, Any], loaded: LoadedSpec) -> None:
    then = {written_path(path): value for path, value in leaves(info["spec"])}
    now = {written_path(path): value for path, value in leaves(loaded.spec.model_dump(mode="json"))}
    paths = [path for path in dict.fromkeys([*then, *now]) if path not in _NOT_COMPARED]
    differing = [path for path in paths if _text(then.get(path)) != _text(now.get(path))]
    hint = "put it back, or begin a new sweep"
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        first = differing[0]
        what = f"{first} is not what it was when {folder.name} began: {_text(then.get(first))}{more}"
        raise InputError(loaded.origins.get(first, str(loaded.path)), what, hint)
    if info["trainer_sha256"] != _digest(loaded):
        raise InputError(str(find_trainer(loaded.spec.trainer)), f"has changed since {folder.name} began", hint)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _digest(loaded: LoadedSpec) -> str:
    return hashlib.sha256(find_trainer(loaded.spec.trainer).read_bytes()).hexdigest()


def _fingerprints(market: Mapping[str, SymbolData]) -> dict[str, str]:
    return {symbol: str(describe_data(bars)["fingerprint"]) for symbol, bars in market.items()}


def _end_orphans(runs_root: Path, runs_of: Sequence[Sequence[str]]) -> None:
    """Asks trainers that outlived the process of their sweep to write a checkpoint and end, and waits for it."""
    runs = [RunDir(runs_root / name) for names in runs_of for name in names]
    alive = [run for run in runs if (run.path / "run.json").is_file() and run.is_locked()]
    for run in alive:
        run.request_stop("its sweep goes on in another process")
    deadline = time.monotonic() + ORPHANS_END_WITHIN_S
    while alive := [run for run in alive if run.is_locked()]:
        if time.monotonic() > deadline:
            names = ", ".join(run.name for run in alive)
            raise P3kitError(names, "still trains, though it was asked to stop", "try again when it has ended")
        time.sleep(0.1)
