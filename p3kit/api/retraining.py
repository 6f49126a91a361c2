"""Train a run again with the bars of today: the same spec with its splits moved on, from old or from new weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.api.saved_run import RunLike, open_run
from p3kit.api.specs import Overrides, as_flags
from p3kit.api.training import Launch, RunOptions, TrainedRuns, train_new
from p3kit.errors import InputError
from p3kit.launch.progress import Progress
from p3kit.market.splits import SPLITS
from p3kit.rundir import RunDir, first_plan, folder_of_runs

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.plan import RunPlan
    from p3kit.spec import LoadedSpec, Spec

Days = dict[str, list[str]]
"""Split → its first and last day."""


@dataclass(frozen=True)
class Retraining:
    """The plan of a retraining. Nothing has been written."""

    run: RunDir
    loaded: LoadedSpec
    """The spec with its splits moved on, and `[init]` unless it starts from new weights."""
    days_passed: int
    """Calendar days between the last bar of the run and the last bar of today."""
    before: Mapping[str, Days]
    """Symbol → days of its splits in the run."""
    after: Mapping[str, Days]
    """Symbol → days of its splits now."""
    looks: Mapping[str, int]
    """Agent of the run → looks at its test split, which count for the new one where both have bars in common."""

    @property
    def is_from_scratch(self) -> bool:
        return self.loaded.spec.init is None

    def notes(self) -> list[str]:
        """Sentences on where the bars of each split were before."""
        split = self.loaded.spec.data.split
        how = f"moved on by {self.days_passed} days" if isinstance(split.train, str) else "the same shares of more bars"
        start = "new weights" if self.is_from_scratch else f"the weights of {self.run.name}"
        notes = [f"{self.run.name} is trained again from {start}; splits: {how}"]
        for symbol, after in self.after.items():
            notes += _moves(symbol, self.before[symbol], after)
        if not self.is_from_scratch:
            notes += [note for symbol in self.after for note in self._chosen_on(symbol)]
        counted = {name: looks for name, looks in self.looks.items() if looks}
        if counted:
            told = ", ".join(f"{name} {looks}" for name, looks in counted.items())
            notes.append(f"uses of the old test split, which the new one shares in part, are carried over: {told}")
        return notes

    def _chosen_on(self, symbol: str) -> list[str]:
        """A note where the new validation split has bars that the old weights were chosen on."""
        common = _common(self.after[symbol]["validation"], self.before[symbol]["validation"])
        if common is None:
            return []
        chosen = f"{symbol}: the weights of {self.run.name} were chosen on {_span(common)}"
        return [f"{chosen}, which is in the new validation split too: its first results are a little too good"]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `p3kit retrain --dry-run --json` prints them and run.json holds them."""
        return {
            "run": self.run.name,
            "scratch": self.is_from_scratch,
            "days_passed": self.days_passed,
            "before": dict(self.before),
            "after": dict(self.after),
            "looks": dict(self.looks),
        }


def plan_retraining(
    run: RunLike, *, scratch: bool = False, overrides: Overrides = (), runs_root: str | Path | None = None
) -> Retraining:
    """Plan a retraining of a run: see `retrain_run`. Raises what that raises, and writes nothing."""
    from p3kit.market import load_market

    saved = open_run(run, runs_root)
    if saved.agent is not None:
        raise InputError(f"{saved.name}/{saved.agent}", "names one agent; a run is trained again as a whole",
                         f'use "{saved.name}"')  # fmt: skip
    directory, info = saved.directory, saved.info
    _refuse(directory, info)
    flags = as_flags(overrides)
    tables = _tables(directory, info, scratch, folder_of_runs(runs_root))
    passed = _days_passed(info, _spec_of(tables, directory, flags))
    split = tables["data"]["split"]
    if isinstance(split["train"], str):
        tables["data"]["split"] = {name: _moved(days, passed) for name, days in split.items()}
    spec = _spec_of(tables, directory, flags)
    market = load_market(spec, spec.symbols)
    symbols = list(dict.fromkeys(agent["symbol"] for agent in info["agents"]))
    before = {symbol: {name: list(days) for name, days in _split_days(info, symbol).items()} for symbol in symbols}
    after = {symbol: _days_of(market[symbol]) for symbol in symbols}
    for symbol in symbols:
        _refuse_trained_test(directory, symbol, before[symbol], after[symbol])
    looks = {agent["name"]: _looks(directory, agent, before, after) for agent in info["agents"]}
    return Retraining(directory, _loaded(spec, directory, flags), passed, before, after, looks)


def retrain_run(
    run: RunLike,
    *,
    scratch: bool = False,
    overrides: Overrides = (),
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: RunOptions | None = None,
) -> TrainedRuns:
    """Train a run again: the same spec with the bars of today and the splits moved on.

    Splits that are shares move by themselves. Splits that are days move by the time that passed: by the calendar days
    between the last bar of the run and the last bar of today (of several symbols the smallest number). The training
    starts from the chosen weights of the run, as `[init]` does; agents that share an encoder start from the last ones.

    Args:
        run: `run-42`, `latest`, the path of a run directory, or what `open_run` returned.
        scratch: Start from new weights.
        overrides: Values that replace those of the spec, as `load_spec` takes them.
        runs_root, progress, options: See `run_spec`.

    Returns:
        One run. Its run.json has `retrain`: the days of the splits before and after.

    Raises:
        InputError: The run still trains, there are no new bars, or the new test split would hold bars that the run was
            trained on.
        SpecError, DataError: The spec or its bars have faults.
        Interrupted: See `run_spec`.
    """
    plan = plan_retraining(run, scratch=scratch, overrides=overrides, runs_root=runs_root)
    launch = Launch(1, folder_of_runs(runs_root), progress, options or RunOptions())
    for note in plan.notes():
        launch.print(f"note: {note}")

    def carry_over(runs: Sequence[RunDir]) -> None:
        for made in runs:
            _carry_looks(plan, made)

    return train_new(
        plan.loaded,
        launch,
        choose=lambda plans: _same_agents(plan.run, plans),
        extra={"retrain": plan.to_json()},
        on_made=carry_over,
    )


# --- the spec ---------------------------------------------------------------------------------------------------------


def _refuse(run: RunDir, info: Mapping[str, Any]) -> None:
    run.mark_crashed()
    state = run.status()["state"]
    if state in ("queued", "running"):
        raise InputError(run.name, f"is {state}", f"wait for its end, or p3kit stop {run.name}")
    if info.get("env_id") or not info.get("data"):
        raise InputError(run.name, "trains on a task of its own, not on bars", "only runs on bars can be trained again")


def _tables(run: RunDir, info: Mapping[str, Any], scratch: bool, root: Path) -> dict[str, Any]:
    """The spec of the run as plain tables, its paths seen from here, without extensions, with `[init]`."""
    from p3kit.spec import read_trainer
    from p3kit.spec.paths import beside
    from p3kit.spec.shipped import looks_like_a_file

    tables: dict[str, Any] = json.loads(json.dumps(info["spec"]))
    tables["ppo"]["total_timesteps"] = first_plan(info["agents"][0])["total_timesteps"]
    if path := tables["data"].get("path"):
        tables["data"]["path"] = beside(run.paths_from(), path)
    if looks_like_a_file(tables["trainer"]):
        tables["trainer"] = beside(run.paths_from(), tables["trainer"])
    tables.pop("init", None)
    if not scratch:
        shares = read_trainer(tables["trainer"]).agents not in ("one", "stack") and len(info["agents"]) > 1
        name = run.name if (root / run.name).resolve() == run.path.resolve() else os.fspath(run.path)
        tables["init"] = {"from": name, "checkpoint": "last" if shares else "best"}
    return tables


def _spec_of(tables: Mapping[str, Any], run: RunDir, flags: Sequence[str]) -> Spec:
    from p3kit.spec.loading import spec_from_flags

    return spec_from_flags(tables, {}, flags, where=f"{run.name}: its spec")


def _loaded(spec: Spec, run: RunDir, flags: Sequence[str]) -> LoadedSpec:
    from p3kit.spec import LoadedSpec
    from p3kit.spec.loading import stored_origins
    from p3kit.spec.writing import to_toml

    tables = spec.model_dump(mode="json")
    origins = stored_origins(tables, run.trainer_file, run.spec_text(), flags)
    given = {"data.split", "init"}
    moved = {path: f"p3kit retrain {run.name}" for path in origins if any(path.startswith(f"{one}.") for one in given)}
    return LoadedSpec(spec, origins | moved, to_toml(tables), run.path / "spec.toml", tuple(flags))


def _same_agents(run: RunDir, plans: list[RunPlan]) -> list[RunPlan]:
    """The one plan with the agents of a run, by symbol, seed and point of the matrix."""

    def key(symbol: str, seed: int, point: Mapping[str, Any]) -> str:
        return json.dumps([symbol, seed, dict(point)], sort_keys=True, default=str)

    wanted = {key(agent["symbol"], agent["seed"], agent.get("point") or {}) for agent in run.info()["agents"]}
    agents = [agent for plan in plans for agent in plan.agents if key(agent.symbol, agent.seed, agent.point) in wanted]
    if not agents:
        raise InputError(run.name, "the spec has none of its agents any more", "leave symbols and seeds as they are")
    return [replace(plans[0], agents=tuple(agents))]


# --- days -------------------------------------------------------------------------------------------------------------


def _split_days(info: Mapping[str, Any], symbol: str) -> Mapping[str, Sequence[str]]:
    stored: Mapping[str, Any] = info["data"][symbol]
    if "split_days" not in stored:
        what = "was made by an older p3kit, which did not record the days of its splits"
        raise InputError(str(info["run"]), what, "train its spec again with p3kit run")
    days: Mapping[str, Sequence[str]] = stored["split_days"]
    return days


def _days_of(bars: SymbolData) -> Days:
    return {name: [str(bars.timestamps[first])[:19], str(bars.timestamps[last - 1])[:19]]
            for name, (first, last) in bars.splits.items()}  # fmt: skip


def _days_passed(info: Mapping[str, Any], spec: Spec) -> int:
    """Calendar days between the last bar then and now, of all symbols the fewest. Raises InputError for none."""
    from p3kit.market import load_market
    from p3kit.spec.models import Split

    shares = Split(train=0.7, validation=0.15, test=0.15)  # only to read the bars: days may lie outside of them by now
    market = load_market(spec.model_copy(update={"data": spec.data.model_copy(update={"split": shares})}), spec.symbols)
    passed = {}
    for agent in info["agents"]:
        symbol = agent["symbol"]
        then = date.fromisoformat(str(info["data"][symbol]["last"])[:10])
        now = date.fromisoformat(str(market[symbol].timestamps[-1])[:10])
        passed[symbol] = (now - then).days
        if now <= then:
            what = f"has no bars of {symbol} after {then}, the last day of {info['run']}"
            source = spec.data.path if spec.data.path and spec.data.source in ("csv", "parquet") else spec.data.source
            hint = "add new bars to the file, or name another: --set data.path=…"
            raise InputError(f"data.source: {source}", what, hint)
    return min(passed.values())


def _moved(days: str, passed: int) -> str:
    from p3kit.spec.models import parse_range

    return "..".join(str(day + timedelta(days=passed)) for day in parse_range(days))


def _refuse_trained_test(run: RunDir, symbol: str, before: Days, after: Days) -> None:
    if after["test"][0] <= before["train"][1]:
        what = f"the new test split of {symbol} begins on {after['test'][0][:10]}, and {run.name} was trained on bars "
        what += f"until {before['train'][1][:10]}"
        raise InputError(run.name, what, "give more new bars, or set the days: --set data.split.test=…")


def _moves(symbol: str, before: Days, after: Days) -> list[str]:
    """The days of each split then and now, and which of its bars had another part then."""
    lines = []
    for name in SPLITS:
        line = f"{symbol} {name}: {_span(before[name])} → {_span(after[name])}"
        shared = [(other, days) for other in SPLITS if other != name and (days := _common(after[name], before[other]))]
        line += "".join(f"; {_span(days)} was {other}" for other, days in shared)
        lines.append(line)
    return lines


def _common(one: Sequence[str], other: Sequence[str]) -> list[str] | None:
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return [first, last] if first <= last else None


def _span(days: Sequence[str]) -> str:
    return f"{days[0][:10]}..{days[1][:10]}"


# --- looks at the test split ------------------------------------------------------------------------------------------


def _looks(run: RunDir, agent: Mapping[str, Any], before: Mapping[str, Days], after: Mapping[str, Days]) -> int:
    """Looks at the old test split that concern the new one: all, if both have bars in common, else none."""
    if not _common(before[agent["symbol"]]["test"], after[agent["symbol"]]["test"]):
        return 0
    return len(_look_events(run, agent["name"]))


def _look_events(run: RunDir, agent: str) -> list[dict[str, Any]]:
    return [event for event in run.read_events("final_evaluation", agent) if "look" in event]


def _carry_looks(plan: Retraining, made: RunDir) -> None:
    """Journal the looks at bars of the new test split that the old run has made."""
    old = {(agent["symbol"], agent["seed"], str(agent.get("point"))): agent for agent in plan.run.info()["agents"]}
    for agent in made.info()["agents"]:
        earlier = old.get((agent["symbol"], agent["seed"], str(agent.get("point"))))
        if earlier is None or not plan.looks.get(earlier["name"]):
            continue
        for event in _look_events(plan.run, earlier["name"]):
            made.append_event(
                "final_evaluation", agent["name"], look=event["look"],
                carried_from=event.get("carried_from", plan.run.name),
            )  # fmt: skip
