"""A promise: every field of a spec has an effect on the run.

The test walks every field that the models and the trainer's `Args` define. For each it trains twice, tiny, in this
process, once with another value, and compares what the two runs left behind. What a run merely repeats of its spec
(run.json's copy, `effective/` metrics, thresholds in sentences) does not count, nor does what a clock measured.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from p3kit.market import load_market
from p3kit.plan import RunPlan, plan_runs
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint
from p3kit.spec import Spec, resolve_spec
from p3kit.spec.field_types import alternatives, bare, fields_by_key, is_table, of_field
from p3kit.spec.keypath import split_path, with_value
from p3kit.spec.trainer_file import read_trainer
from tests.trainers.conftest import TRAINERS, load_trainer

EXCEPTIONS = {
    "name": "a label: reports and lists of runs group by it (tests/report/test_week.py)",
    "start_date": "a label: weekly reports count from it (tests/report/test_week.py)",
    "env.backend": "the plain reference must give the same numbers as the tensors (tests/env/test_scalar_env.py)",
    "compute.group": "it shows in the plan (tests/test_plan.py); agents come out the same in any stack",
    "diagnose.strict": "shows in a run whose trainer breaks the contract (tests/trainers/test_interventions.py)",
    "diagnose.budget": "its effect is tested check by check (tests/runtime/test_interventions.py)",
    "diagnose.rows": "thresholds of detectors (tests/diagnose); the live judgement is the same function",
    "intervention": "every field of a rule has a test of its own (tests/runtime/test_interventions.py)",
    "data.columns": "names of columns in the user's files (tests/market/test_shapes.py)",
    "data.adjust": "needs a file with an adjusted close (tests/market/test_shapes.py)",
    "data.walk_forward": "shapes the plan, together with the bars (tests/market/test_walk_forward.py)",
    "init": "needs an earlier run (tests/trainers/test_initial_weights.py)",
    "tune": "shapes a sweep, not a run (tests/tune/test_tune.py)",
}
"""Fields, or whole tables of them, that no run shows, and why."""

BASE: dict[str, Any] = {
    "name": "tiny",
    "symbols": ["AAPL"],
    "data": {"source": "synthetic", "synthetic": {"bars": 2_000}},
    "env": {"num_envs": 4, "episode_bars": 32},
    "ppo": {
        "total_timesteps": 192,
        "learning_rate": 3e-3,
        "n_steps": 16,
        "batch_size": 32,
        "n_epochs": 2,
        "hidden": [16],
        "target_kl": "off",
    },
    "evaluation": {"every": 192},
    "checkpoints": {"every": 192},
    "early_stop": {"min_progress": 1.0},
    "compute": {"device": "cpu"},
}

FALLING = "falling/{symbol}.csv"
"""Bars whose price falls a little every day: holding them all the time is the worst there is."""

DAYS = {
    "train": "1970-01-05..1970-10-15",
    "validation": "1970-10-16..1970-12-31",
    "test": "1971-01-01..1971-03-01",
}

OFTEN = {"evaluation.every": 64}
"""An evaluation after every update."""

PLATEAU = {
    **OFTEN,
    "ppo.total_timesteps": 256,
    "early_stop.min_progress": 0.0,
    "early_stop.patience": 1,
    "early_stop.plateau_steps": 0,
    "early_stop.min_delta": 1e6,
}
"""From the second evaluation on nothing is a gain, so that one ends the run."""

LOUD = {
    "id": "loud",
    "on": {"metric": "progress", "op": ">=", "value": 0.3},
    "do": [{"scale": "ppo.ent_coef", "by": 2.0, "max": 1.0}],
}
"""An intervention that always acts."""

MET: dict[str, Any] = {
    "baselines.supervised": {"default": 0.0},
    "criteria.minimum.validation_sharpe": -1e6,
    "criteria.minimum.explained_variance": -1e6,
    "criteria.minimum.entropy": [0.0, 3.0],
    "criteria.strong.validation_sharpe": -1e6,
    "criteria.strong.beats_supervised": -100.0,
    "criteria.strong.max_drawdown": 1.0,
    "criteria.strong.actions_used": 1,
}
"""Criteria that any policy meets."""

COMPRESSED = b"p3kit-checkpoint-"
"""Beginning of a checkpoint that is compressed."""
Part = Literal["plan", "data", "metrics", "events", "checkpoints", "state", "process"]


@dataclass(frozen=True)
class Change:
    """Other values of a field, each of which must show, and no two of them alike."""

    to: tuple[Any, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    """What else both runs have, for the field to matter."""
    shows_in: Part = "metrics"
    at: str = ""
    """The path that is set, where it is not the field itself."""
    may_fail: bool = False


def change(*to: Any, **rest: Any) -> Change:
    return Change(to, **rest)


def schedule(*tables: Mapping[str, Any]) -> Change:
    """The first table is what both runs have."""
    first, *others = ({"ppo.learning_rate": dict(table)} for table in tables)
    return Change(tuple(others), given={"schedules": first}, at="schedules")


LINE = {"start": 1e-2, "end": 1e-4}

CHANGES: dict[str, Change] = {
    # which runs there are
    "trainer": change("mine.py", shows_in="plan"),
    "symbols": change(["AAPL", "MSFT"], shows_in="plan"),
    "seeds": change([2], [1, 2], shows_in="plan"),
    "matrix": change({"ppo.gamma": [0.9, 0.99]}, shows_in="plan"),
    "agents": change({"AAPL": {"ppo": {"gamma": 0.5}}}),
    # bars
    "data.source": change("sample", "csv", given={"data.path": FALLING}),
    "data.path": change("rising/{symbol}.csv", given={"data.source": "csv", "data.path": FALLING}),
    "data.split.train": change("1970-01-05..1970-08-31", given={"data.split": DAYS}),
    "data.split.validation": change("1970-10-16..1970-11-30", given={"data.split": DAYS}),
    # the test split is kept out of training; what a run shows of it is which bars those are
    "data.split.test": change("1971-01-01..1971-02-10", given={"data.split": DAYS}, shows_in="data"),
    "data.embargo": change(0),
    "data.bars_per_year": change(500.0),
    "data.synthetic.bars": change(2_400),
    "data.synthetic.edge": change(0.0),
    "data.synthetic.volatility": change(0.01),
    "data.synthetic.span": change(24),
    "data.synthetic.regimes": change(False),
    "observation.normalize": change("running", "none"),
    "observation.features": change(["return_1"], ["return_1", "rsi_14"]),
    "observation.columns": change(["noise"], given={"data.source": "csv", "data.path": FALLING}),
    "observation.clip": change(0.5, given={"observation.normalize": "running"}),
    # account
    "env.num_envs": change(8),
    "env.window": change(8),
    # results are relative to the capital, so that only the accounts' money separates one sum from another
    "env.initial_capital": change(5_000.0, shows_in="state"),
    "env.sizes": change([0.1, 0.2, 0.3]),
    "env.max_position": change(0.4, given={"env.sizes": [0.1, 0.2, 0.3]}),
    "env.max_adds": change(0),
    "env.fill": change("close"),
    "env.commission_bps": change(0.0),
    "env.slippage_bps": change(0.0),
    "env.stop": change(0.002),
    "env.target": change(0.002),
    "env.max_hold": change(3),
    "env.episode_bars": change(20),
    # accounts that hold are ruined while training, but not in the calm bars of the validation split
    "env.ruin": change(0.95, given={"data.source": "csv", "data.path": "halting/{symbol}.csv"}),
    # reward
    "reward.formulas": change("guide"),
    "reward.scaling": change("tanh", "none"),
    "reward.clip": change(0.1, "off", given={"reward.clip": 0.5}),
    "reward.target_volatility": change(0.05),
    "reward.target_sharpe": change(0.0, given={"reward.formulas": "guide"}),
    "reward.action_bonus": change(0.1),
    **{f"reward.weights.{name}": change(2.0) for name in ("pnl", "cost", "time", "sharpe", "sizing", "hold")},
    # only a drawdown beyond 5 % counts
    "reward.weights.drawdown": change(2.0, given={"data.synthetic.volatility": 0.02}),
    # PPO
    "ppo.total_timesteps": change(200),
    "ppo.learning_rate": change(1e-3),
    "ppo.n_steps": change(32),
    "ppo.batch_size": change(64),
    "ppo.n_epochs": change(1),
    "ppo.gamma": change(0.5),
    "ppo.gae_lambda": change(0.5),
    "ppo.clip_range": change(0.01),
    "ppo.ent_coef": change(0.2),
    "ppo.vf_coef": change(0.1),
    "ppo.max_grad_norm": change(0.05),
    "ppo.target_kl": change(1e-6),
    "ppo.accumulation_steps": change(2),
    "ppo.hidden": change([8], [16, 16]),
    "ppo.activation": change("relu"),
    "ppo.dropout": change(0.3),
    "ppo.weight_decay": change(0.5),
    "ppo.value_loss": change("huber", "clipped"),
    "ppo.init_gain": change(1.0),
    "ppo.init_hold": change(2.0),
    # schedules: in all of them both ends count
    "schedules.*.constant.value": schedule({"kind": "constant", "value": 1e-2}, {"kind": "constant", "value": 1e-4}),
    **{
        f"schedules.*.{kind}.{end}": schedule({"kind": kind, **LINE}, {"kind": kind, **LINE, end: 1e-3})
        for kind in ("linear", "cosine", "exponential")
        for end in LINE
    },
    "schedules.*.piecewise.points": schedule(
        {"kind": "piecewise", "points": [[0.0, 1e-2], [1.0, 1e-4]]},
        {"kind": "piecewise", "points": [[0.0, 1e-2], [0.5, 1e-4]]},
    ),
    # live diagnosis: without a rule, watching and acting journal the symptoms alike
    "diagnose.mode": change("act", "off", given={"diagnose.mode": "watch", "intervention": [LOUD]}, shows_in="events"),
    # computing
    "compute.device": change("cuda", may_fail=True),  # a machine without CUDA refuses, and so leaves no metrics
    "compute.precision": change("bf16", "fp16"),
    "compute.compile": change("on", shows_in="process"),
    "compute.threads": change(2, given={"ppo.total_timesteps": 8}, shows_in="process"),
    # evaluation, checkpoints, stopping
    "evaluation.every": change(128),
    "evaluation.action": change("sampled", shows_in="events"),
    "checkpoints.every": change(128, shows_in="events"),
    "checkpoints.keep_best": change(1, given=OFTEN, shows_in="checkpoints"),
    "checkpoints.best_from": change(
        0.9, given=OFTEN | {"checkpoints.keep_best": 1, "seeds": [2]}, shows_in="checkpoints"
    ),
    "checkpoints.compress": change(True, shows_in="checkpoints"),
    "early_stop.min_progress": change(0.9, given=PLATEAU),
    "early_stop.patience": change(2, "off", given=PLATEAU),
    "early_stop.min_delta": change(
        0.0, given=PLATEAU | {"early_stop.patience": 3, "ppo.total_timesteps": 512, "symbols": ["BAC"]}
    ),
    "early_stop.plateau_steps": change(128, given=PLATEAU),
    "early_stop.stretch_sharpe": change(
        -1e6,
        given=OFTEN
        | {"early_stop.min_progress": 0.0, "early_stop.patience": "off", "early_stop.stretch_sharpe": "off"}
        | {"data.source": "csv", "data.path": FALLING, "env.commission_bps": 0.0, "env.slippage_bps": 0.0},
    ),
    # grades
    **{
        f"criteria.{path}": change(missed, given=MET, shows_in="events")
        for path, missed in (
            ("minimum.validation_sharpe", 1e6),
            ("minimum.explained_variance", 1.0),
            ("minimum.entropy", [4.0, 5.0]),
            ("strong.validation_sharpe", 1e6),
            ("strong.beats_supervised", 100.0),
            ("strong.max_drawdown", 1e-9),
            ("strong.actions_used", 7),
        )
    },
    "baselines.supervised": change({"AAPL": 1e3, "default": 0.0}, given=MET, shows_in="events"),
}


# --- the fields -------------------------------------------------------------------------------------------------------


def fields_of(kind: Any, path: str = "") -> Iterator[str]:
    """Every field below a type: `env.window`, `schedules.*.linear.start`. Exceptions are not walked further."""
    if path in EXCEPTIONS:
        yield path
        return
    cores = [bare(member)[0] for member in alternatives(kind)]
    tables = [core for core in cores if is_table(core)]
    found = [
        one
        for core in cores
        if get_origin(core) is dict or (get_origin(core) is tuple and get_args(core)[-1] is ...)
        for one in fields_of(get_args(core)[1 if get_origin(core) is dict else 0], f"{path}.*")
        if not one.endswith("*")
    ]
    for table in tables:
        above = [path] if path else []
        above += [table.__name__.lower()] if len(tables) > 1 else []
        for key, own in fields_by_key(table).items():
            if len(get_args(own.annotation)) == 1 and get_origin(own.annotation) is Literal:
                continue  # a tag: one word, nothing to choose
            found += fields_of(of_field(own), ".".join([*above, key]))
    yield from found or [path]


def spec_with(values: Mapping[str, Any]) -> Spec:
    tables = BASE
    for path, value in values.items():
        tables = with_value(tables, split_path(path), value)
    return resolve_spec(tables, "test")


FIELDS = list(fields_of(type(spec_with({}))))


# --- what a run leaves behind -----------------------------------------------------------------------------------------


class Trainings:
    """Trains specs in this process and returns what can be observed; equal specs train once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ppo = folder, load_trainer("ppo")
        self.compiled = 0
        self._known: dict[str, dict[Part, str]] = {}

    def observe(self, values: Mapping[str, Any], part: Part) -> dict[Part, str]:
        """Observable results of a run of BASE with `values`. A plan is not trained."""
        spec = spec_with(values)
        plans = plan_runs(spec, read_trainer(spec.trainer))
        if part == "plan":
            return {"plan": _text([_plan(plan) for plan in plans])}
        key = spec.model_dump_json()
        if key not in self._known:
            (plan,) = plans
            self._known[key] = self.train(plan)
        return self._known[key]

    def train(self, plan: RunPlan) -> dict[Part, str]:
        market = load_market(plan.spec, plan.spec.symbols)
        info = plan.run_json(market, ["test"])
        run = RunDir.create(self.folder / "runs", info, "", plan.trainer)
        self.compiled, sys.argv, ended = 0, ["ppo.py", "--run-dir", str(run.path)], 0
        try:
            self.ppo.main()
        except SystemExit as end:
            ended = int(end.code or 0)
        return {
            "plan": _text([_plan(plan)]),
            "data": _text(info["data"]),
            "metrics": _text(_metrics(run)),
            "events": _text([_event(event) for event in run.read_events()]),
            "checkpoints": _text({path.name: path.read_bytes().startswith(COMPRESSED) for path in run.checkpoints()}),
            "state": _text({path.name: _digest(load_checkpoint(path)) for path in run.checkpoints()}),
            "process": _text({"exit code": ended, "threads": torch.get_num_threads(), "compiled": self.compiled}),
        }


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)  # text, so that NaN equals NaN


def _plan(plan: RunPlan) -> list[Any]:
    return [plan.trainer.name, [[agent.name, agent.symbol, agent.seed, dict(agent.point)] for agent in plan.agents]]


def _metrics(run: RunDir) -> list[Any]:
    return [
        [row["iteration"], row["global_step"], {k: v for k, v in row["metrics"].items() if not _is_noise(k)}]
        for row in run.read_metrics()
    ]


def _is_noise(metric: str) -> bool:
    """A clock's or the spec's own numbers."""
    return metric.startswith(("perf/", "effective/"))


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without its time and without the sentences that repeat the spec."""
    kept = {key: value for key, value in event.items() if key not in ("seq", "time", "reason", "ended_early")}
    if "reasons" in kept:
        kept["reasons"] = [[reason["set"], reason["criterion"], reason["met"]] for reason in kept["reasons"]]
        del kept["supervised_return"]
    return kept


def _digest(state: Mapping[str, Any]) -> str:
    """A fingerprint of a checkpoint without what a clock measured, and without checksums of rows with their time."""
    found = sha256()
    for key, value in sorted(state.items()):
        if "/latest/" not in key and not key.startswith("run/records/"):
            found.update(key.encode())
            found.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return found.hexdigest()


def _write_bars(path: Path, drift: float, until: int = 2_000) -> None:
    """2,000 days of a price that moves by `drift` a day for `until` days, give or take a tenth of that."""
    noise = np.random.default_rng(1).standard_normal(2_000)
    close = 1e4 * np.exp(drift * np.arange(2_000).clip(max=until) + abs(drift) / 10 * noise)
    days = np.datetime64("2010-01-01") + np.arange(2_000)
    path.parent.mkdir()
    rows = zip(days, close, noise, strict=True)
    path.write_text("date,close,noise\n" + "".join(f"{day},{price:.6f},{value:.6f}\n" for day, price, value in rows))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Trainings in a folder of their own; what a trainer sets in its process is put back afterwards."""
    folder = tmp_path_factory.mktemp("fields")
    shutil.copy(TRAINERS / "ppo.py", folder / "mine.py")
    _write_bars(folder / "falling" / "AAPL.csv", -1e-3)
    _write_bars(folder / "halting" / "AAPL.csv", -5e-3, until=1_300)
    _write_bars(folder / "rising" / "AAPL.csv", 1e-3)
    made = Trainings(folder)

    def compile_nothing(function: Any, mode: str | None = None) -> Any:
        made.compiled += 1  # the compiler itself would take a minute
        return function

    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(torch, "compile", compile_nothing)
        patch.setattr(os, "fsync", lambda _: None)  # there is no power cut here
        patch.setattr("p3kit.rundir.directory.provenance", dict)
        yield made
    for name, handler in handlers.items():
        signal.signal(name, handler)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


# --- the promise ------------------------------------------------------------------------------------------------------


def test_equal_specs_leave_equal_runs(trainings: Trainings) -> None:
    """Without this, a difference would mean nothing."""
    (plan,) = plan_runs(spec_with(OFTEN), read_trainer(spec_with(OFTEN).trainer))
    assert trainings.train(plan) == trainings.train(plan)


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in EXCEPTIONS])
def test_a_field_shows(trainings: Trainings, name: str) -> None:
    assert name in CHANGES, f"{name} is a new field: give it an entry in CHANGES, or a reason in EXCEPTIONS"
    one = CHANGES[name]
    runs = [trainings.observe(one.given, one.shows_in)]
    runs += [trainings.observe({**one.given, one.at or name: value}, one.shows_in) for value in one.to]
    shown = [run[one.shows_in] for run in runs]
    for index, text in enumerate(shown):
        assert text not in shown[:index], f"{name}: value {index} of {one} gives the same {one.shows_in} as another"
    if not one.may_fail:
        ends = [json.loads(run["process"])["exit code"] for run in runs if "process" in run]
        assert not any(ends), f"{name}: a run of {one} failed, which shows nothing"


def test_kinds_of_schedules_with_equal_ends_differ(trainings: Trainings) -> None:
    tables = [{"kind": kind, **LINE} for kind in ("linear", "cosine", "exponential")]
    runs = [trainings.observe({"schedules": {"ppo.learning_rate": table}}, "metrics")["metrics"] for table in tables]
    assert len(set(runs)) == len(tables)


def test_no_entry_outlives_its_field() -> None:
    assert CHANGES.keys() | EXCEPTIONS.keys() == set(FIELDS)
    assert not CHANGES.keys() & EXCEPTIONS.keys()
