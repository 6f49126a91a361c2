"""Trials as runs: fed to `launch.train`, judged while they train, reported to the study at their end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from p3kit.errors import InputError, P3kitError
from p3kit.launch import make_runs, requeue
from p3kit.market import load_market, walk_windows
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.spec import LoadedSpec, load_spec
from p3kit.spec.trainer_file import read_trainer
from p3kit.spec.writing import toml_value
from p3kit.tune.study import Study
from p3kit.tune.sweep_folder import SweepDir
from p3kit.tune.trial import ActiveTrial, SeedMean, TrialView, describe

if TYPE_CHECKING:
    import optuna

    from p3kit.launch.display import AgentView
    from p3kit.market import SymbolData


MOST_UNFIT = 20
"""Trials in a row that do not fit the bars: then the search ends."""


class Messages(Protocol):
    """Receiver of messages: the display."""

    def print(self, text: str) -> None:
        """Something that must not be missed."""

    def note(self, text: str) -> None:
        """The usual course of things; a live table shows it by itself."""


class Sweep:
    """A feed of `launch.train`: draws settings, makes their runs, prunes, records scores. See `p3kit.launch.Feed`."""

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
        """Notes for the user before the sweep starts."""
        self.messages: Messages | None = None
        self.trials: list[ActiveTrial] = []
        self._rung = int(loaded.spec.evaluation.every)
        self._total = int(loaded.spec.ppo.total_timesteps)

    @property
    def synthetic(self) -> bool:
        return any(bars.synthetic for bars in self.market.values())

    @property
    def running(self) -> list[ActiveTrial]:
        return [trial for trial in self.trials if trial.state == "running"]

    def _print(self, text: str) -> None:
        if self.messages is not None:
            self.messages.print(text)

    def _note(self, text: str) -> None:
        if self.messages is not None:
            self.messages.note(text)

    # ------------------------------------------------------------------ the feed

    def more(self) -> Sequence[RunDir]:
        """The runs of the next trial. One whose values do not fit the bars is not counted; the next one is drawn."""
        unfit = 0
        while unfit < MOST_UNFIT and (asked := self.study.ask()) is not None:
            values = self.study.space.to_spec(asked.params)
            try:
                runs = self._adopt(asked) or self._make(asked, values)
            except InputError as error:
                self.study.unfit(asked, str(error))
                self._print(f"trial {asked.number} does not fit, and is not counted: {error}")
                unfit += 1
                continue
            trial = ActiveTrial(asked, values, runs, SeedMean(runs))
            self.trials.append(trial)
            self._note(f"trial {trial.number} begins: {describe(values)} ({', '.join(run.name for run in runs)})")
            todo = [run for run in runs if run.status()["state"] != "done"]
            trial.ended = {run.name: "done" for run in runs if run not in todo}
            if todo:
                return todo
            self._settle(trial)  # its trainers outlived the process that would have reported it
        return ()

    def look(self) -> None:
        """Report the running trials' means at every rung they have passed, and end those that lag behind."""
        for trial in self.running:
            if not self._update(trial):
                continue
            undecided = not (trial.pruned or trial.failed) and trial.mean.reached < self._total
            if self._report(trial) and undecided and self.study.should_prune(trial.asked):
                self._prune(trial)

    def ended(self, run: RunDir, state: str, *, interrupted: bool) -> None:
        trial = next(trial for trial in reversed(self.trials) if run in trial.runs)
        trial.ended[run.name] = state
        if state == "stopped" and (trial.pruned or trial.failed):
            run.update_status(message=f"pruned: {trial.pruned}" if trial.pruned else f"with its trial: {trial.failed}")
        if state in ("failed", "crashed") and not (interrupted or trial.pruned or trial.failed):
            self._fail(trial, f"{run.name} {state}: {gone(run) or run.status()['message']}")
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
        if any(path.startswith(("env.", "observation.")) for path in values):  # a longer window needs more warm-up bars
            market = load_market(loaded.spec, loaded.spec.symbols)
        command = ["p3kit", "run", str(self.loaded.path), *(word for one in own for word in ("--set", one))]
        about = {"sweep": self.folder.name, "trial": asked.number, "values": dict(values)}
        plans = plan_runs(loaded.spec, read_trainer(loaded.spec.trainer), windows=walk_windows(loaded.spec, market))
        runs = make_runs(plans, loaded, market, self.runs_root, command=command, extra={"tune": about})
        asked.set_user_attr("runs", [run.name for run in runs])
        return runs

    # ------------------------------------------------------------------ judging

    def _report(self, trial: ActiveTrial) -> bool:
        """Report every rung passed since to the study. A rung is a multiple of `evaluation.every`. Each trial reports
        its values at that step, so that trials with other evaluation steps can be compared."""
        reported = False
        while (step := (trial.reported + 1) * self._rung) <= min(trial.mean.reached, self._total):
            trial.reported += 1
            value = trial.mean.at(step)
            if value is not None:
                trial.asked.report(value, step)
                trial.value, reported = value, True
        return reported

    def _update(self, trial: ActiveTrial) -> bool:
        """Read what is new. A trial whose run directory was deleted or renamed fails; the others go on."""
        try:
            trial.mean.update()
        except (OSError, P3kitError) as error:
            lost = next(filter(None, map(gone, trial.runs)), str(error))
            self._fail(trial, lost)
        return not trial.failed

    def _fail(self, trial: ActiveTrial, reason: str) -> None:
        """Mark a trial that will have no value, and end its other runs."""
        if not trial.failed:
            trial.failed = reason
            self._end_runs(trial, f"trial {trial.number} has no value any more: {reason}")

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
            if run.name not in trial.ended and not gone(run):
                run.request_stop(reason)

    def _settle(self, trial: ActiveTrial) -> None:
        """Record the result of a trial whose runs have all ended."""
        if self._update(trial):
            self._report(trial)
        unfinished = [name for name, state in trial.ended.items() if state != "done"]
        sharpes = {} if unfinished or trial.failed else _final_sharpes(trial.runs)
        if silent := [name for name, sharpe in sharpes.items() if sharpe is None]:
            trial.failed = f"{', '.join(silent)}: no verdict"
        elif unfinished and not (trial.pruned or trial.failed):
            trial.failed = f"{', '.join(unfinished)} was stopped by request"
        if trial.failed:
            trial.state = "failed"
            self.study.failed(trial.asked, trial.failed)
            self._print(f"trial {trial.number} failed: {trial.failed}")
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


def gone(run: RunDir) -> str:
    """A sentence for a run whose directory was deleted or renamed, else ""."""
    return "" if (run.path / "run.json").is_file() else f"{run.name}: its directory was deleted or renamed"


def _final_sharpes(runs: Sequence[RunDir]) -> dict[str, float | None]:
    """Agent → Sharpe ratio of the weights that its verdict chose, 0 where it never traded; None without a verdict."""
    found: dict[str, float | None] = {}
    for run in runs:
        agents = run.status()["agents"]
        for name in run.agent_names():
            verdict = agents.get(name, {}).get("verdict")
            found[name] = None if verdict is None else verdict["metrics"].get("eval/sharpe_ratio") or 0.0
    return found
