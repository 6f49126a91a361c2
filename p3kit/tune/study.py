"""An Optuna study of one sweep: the next values, pruning, importance.

The journal is Optuna's own (`JournalStorage`), so that its tools open it. It has no heartbeat: a trial that was running
when its process died would stay so for ever. But one process at a time owns a sweep, by a lock on its folder. A trial
that is still running when a process takes over is dead: it is failed and queued again with the same values.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.errors import P3kitError
from p3kit.rundir.rows import cut_torn_row, locked
from p3kit.spec.models import Spec, Tune
from p3kit.spec.search_fit import misfit
from p3kit.tune.search_space import Space
from p3kit.tune.sweep_folder import SweepDir

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MOST_RETRIES = 3
"""A trial that died so often with its process is not queued again: it may be what kills it."""
_MOST_DRAWS = 20
"""Draws in a row that only repeat a setting: then the space is used up."""
_MOST_UNFIT = 500
"""Draws in a row that do not fit, or repeat a setting."""
_ENOUGH_FOR_IMPORTANCE = 4
_STALE_LOCK_S = 1.0


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the journal has it. `state`: waiting, running, complete, pruned or failed."""

    number: int
    state: str
    value: float | None
    """Mean validation Sharpe ratio over its agents; of a pruned trial, as far as it came."""
    values: Mapping[str, Any]
    """What was tried, by spec path."""
    runs: tuple[str, ...]
    agents: Mapping[str, float]
    """Sharpe ratio by agent, where the trial is complete; 0 for one that never traded."""
    message: str
    seconds: float | None
    superseded: bool
    """It died with its process and was queued again, repeated another trial's values, or its own values do not fit: it
    does not count."""

    was_tried: bool
    """Its values need no second trial: they count, or do not fit."""

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.number,
            "state": self.state,
            "sharpe": self.value,
            "values": dict(self.values),
            "runs": list(self.runs),
            "agents": dict(self.agents),
            "message": self.message,
            "seconds": self.seconds,
        }


class Study:
    """The journal of an owned sweep, opened: draw settings, report means, record scores.

    The remains of a kill (a torn last row, Optuna's lock) are cleared first. Raises P3kitError if the journal is
    damaged otherwise.
    """

    def __init__(self, folder: SweepDir, tune: Tune, spec: Spec) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.tune, self.space, self._spec = folder, tune, Space(tune), spec
        self.torn = _mend(folder.journal)
        self._distributions = self.space.distributions()
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if tune.prune == "median":
            warm_up = math.ceil(tune.prune_after * spec.ppo.total_timesteps)
            pruner = optuna.pruners.MedianPruner(n_startup_trials=tune.startup, n_warmup_steps=warm_up)
        try:
            storage = _storage(folder.journal)
            names = optuna.get_all_study_names(storage)
            self._study = optuna.create_study(
                storage=storage,
                study_name=names[0] if names else folder.name,  # the folder may have been renamed
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
        except (ValueError, KeyError, AssertionError) as error:
            what = f"cannot be read: {type(error).__name__}: {error}"
            raise P3kitError(
                str(folder.journal), what, "restore it, or begin a new sweep; its runs are whole"
            ) from None

    # ------------------------------------------------------------------ what there is

    def records(self) -> list[TrialRecord]:
        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        return [self._record(trial, trial.number in retried) for trial in trials]

    def _record(self, trial: FrozenTrial, retried: bool) -> TrialRecord:
        attributes = trial.user_attrs
        state = {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
        begun, ended = trial.datetime_start, trial.datetime_complete
        superseded = retried or "same_as" in attributes or "unfit" in attributes
        message = str(attributes.get("message", ""))
        if state == "failed" and not (message or superseded):
            message = f"its process was killed {int(attributes.get('retries', 0)) + 1} times while it trained"
        return TrialRecord(
            number=trial.number,
            state=state,
            value=trial.value if state in ("complete", "pruned") else None,
            values=self.space.to_spec(trial.params or trial.system_attrs.get("fixed_params", {})),
            runs=tuple(attributes.get("runs", ())),
            agents=attributes.get("agents", {}),
            message=message,
            seconds=(ended - begun).total_seconds() if begun and ended else None,
            superseded=superseded,
            was_tried=not superseded or "unfit" in attributes,
        )

    def importance(self) -> dict[str, float]:
        """Fraction of each path in the difference between good and medium settings (PED-ANOVA, Watanabe et al. 2023),
        the largest first; empty for fewer than four completed trials."""
        import optuna

        done = [record for record in self.records() if record.state == "complete"]
        if len(done) < _ENOUGH_FOR_IMPORTANCE:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # docs/tuning.md explains that the measure is rough
            return dict(optuna.importance.get_param_importances(self._study))

    # ------------------------------------------------------------------ propose

    def enqueue_first(self, spec: Spec) -> list[str]:
        """Queue the unchanged spec, and every setting if there are no more than trials. Return the paths whose value in
        the spec is outside the space; if there are any, the spec itself is no trial."""
        params, outside = self.space.of_spec(spec)
        settings = list(self._settings) if self._settings is not None else None
        if settings is not None and len(settings) <= self.tune.trials:
            random.Random(self.tune.seed).shuffle(settings)
            settings.sort(key=lambda one: one != params)  # stable: the spec's own first
        else:
            settings = [] if outside else [params]
        for one in settings:
            self._study.enqueue_trial(one)
        return outside

    def wanted(self) -> int:
        """Trials in all: the number in the spec, but no more than there are settings that fit."""
        return self.tune.trials if self._settings is None else min(self.tune.trials, len(self._settings))

    @cached_property
    def _settings(self) -> list[dict[str, Any]] | None:
        """Every setting whose values go together, as Optuna takes them; None where there is no end of them."""
        settings = self.space.settings()
        return None if settings is None else [one for one in settings if not self._misfit(one)]

    def _misfit(self, params: Mapping[str, Any]) -> str:
        return misfit(self._spec, self.space.to_spec(params))

    def ask(self) -> optuna.Trial | None:
        """The next trial, requeued ones first; None if there are enough, or if no new setting is left.

        A draw depends only on the seed, the trial's place in the sweep and the trials before it. So an interrupted
        sweep continues as it would have. A draw that repeats an earlier setting, or whose values do not fit, is
        recorded as failed and does not count; the next draw is random.
        """

        repeats = twins = 0
        while twins < _MOST_DRAWS and repeats < _MOST_UNFIT:
            records = self.records()
            queued = any(record.state == "waiting" for record in records)
            number = sum(not record.superseded for record in records)
            if not queued and number >= self.wanted():
                return None
            self._study.sampler = self._sampler(number, repeats)
            trial = self._study.ask(self._distributions)
            twin = None if queued else self._twin(trial, records)
            if twin is not None:
                trial.set_user_attr("same_as", twin)
                self.failed(trial, f"the values of trial {twin} again")
                twins += 1
            elif reason := self._misfit(trial.params):
                self.unfit(trial, reason)
            else:
                return trial
            repeats += 1
        return None

    def _sampler(self, number: int, repeats: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = int(np.random.SeedSequence([self.tune.seed, number, repeats]).generate_state(1)[0])
        if repeats or self.tune.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.tune.startup)

    def _twin(self, trial: optuna.Trial, records: Sequence[TrialRecord]) -> int | None:
        values = self.space.to_spec(trial.params)
        return next((one.number for one in records if one.was_tried and one.values == values), None)

    # ------------------------------------------------------------------ record

    def should_prune(self, trial: optuna.Trial) -> bool:
        return trial.should_prune()

    def median_at(self, step: int) -> tuple[float, int]:
        """The median of what completed trials had reported for `step`, and how many had."""
        import optuna

        done = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        known = [one.intermediate_values[step] for one in done if step in one.intermediate_values]
        return (float(np.median(known)), len(known)) if known else (math.nan, 0)

    def complete(self, trial: optuna.Trial, agents: Mapping[str, float]) -> float:
        """Record the mean over the agents, and return it."""
        value = float(np.mean(list(agents.values())))
        trial.set_user_attr("agents", dict(agents))
        self._study.tell(trial, value)
        return value

    def pruned(self, trial: optuna.Trial, message: str) -> None:
        """Its value is the last one that was reported."""
        import optuna

        trial.set_user_attr("message", message)
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def unfit(self, trial: optuna.Trial, message: str) -> None:
        """End a trial whose values do not go together, or do not fit the bars. It does not count."""
        trial.set_user_attr("unfit", True)
        self.failed(trial, message)

    def failed(self, trial: optuna.Trial, message: str) -> None:
        import optuna

        trial.set_user_attr("message", message)
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def requeue_running(self) -> list[TrialRecord]:
        """Fail every trial that the journal calls running, and queue it again with its values and its runs, so that
        what they have trained is not lost. Returns those trials.

        The new one is queued before the old one is failed: a kill in between loses nothing either.
        """
        import optuna

        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
        for trial in running:
            earlier = trial.user_attrs
            retries = int(earlier.get("retries", 0)) + 1
            if trial.number not in retried and retries <= MOST_RETRIES:
                attributes = {"retry_of": trial.number, "retries": retries, "runs": earlier.get("runs", [])}
                self._study.enqueue_trial(dict(trial.params), user_attrs=attributes)
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return [self._record(trial, retried=True) for trial in running]


def _storage(journal: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def _mend(journal: Path) -> int:
    """Cut a torn last row, which the next one would be written behind, and remove a lock whose owner was killed.
    Returns the bytes cut."""
    lock = Path(f"{journal}.lock")
    if lock.is_symlink():
        time.sleep(_STALE_LOCK_S)  # a living owner (a dashboard that writes) holds it for milliseconds
        lock.unlink(missing_ok=True)
    if not journal.exists():
        return 0
    with locked(journal) as handle:
        return cut_torn_row(handle)
