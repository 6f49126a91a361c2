"""Extensions: a run trains for more env steps than were planned, and ends as if it had been planned so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p3kit.errors import InputError
from p3kit.launch import compare_weights, extend
from p3kit.rundir import RunDir, find_checkpoint
from p3kit.runtime import load_checkpoint

from .tiny_runs import go_on, metrics_of, train

pytestmark = pytest.mark.slow

NETS: dict[str, dict[str, Any]] = {
    "ppo": {"symbols": ["AAA"]},
    "ppo_stacked": {},
    "ppo_shared": {"ppo.patch": 2, "ppo.layers": 1, "env.window": 4, "ppo.surgery": "pcgrad"},
}
SMALL = {"evaluation.every": 300, "symbols": ["AAA", "BBB", "CCC"]}
SCHEDULES = {
    "schedules": {
        "ppo.learning_rate": {"kind": "linear", "start": 1e-3, "end": 1e-4},
        "reward.weights.cost": {"kind": "linear", "start": 0.0, "end": 0.5},
    }
}
STOPS_EARLY = {"early_stop": {"patience": 1, "min_progress": 0.5, "min_delta": 100.0, "plateau_steps": 0}}


def begin(trainers: Callable[[str], ModuleType], folder: Path, trainer: str, changes: dict[str, Any]) -> RunDir:
    (run,) = train(trainers(trainer), folder, trainer, SMALL | NETS[trainer] | SCHEDULES | changes)
    return run


def from_scratch(module: ModuleType, run: RunDir, folder: Path) -> RunDir:
    """A run that trains from its beginning what an extended run has trained."""
    again = RunDir.create(folder / "again", run.info(), "", run.trainer_file)
    return go_on(module, again)


def assert_equal_runs(run: RunDir, expected: RunDir) -> None:
    assert compare_weights(expected, run)[0]
    for agent in expected.agent_names():
        assert metrics_of(run, agent) == pytest.approx(metrics_of(expected, agent), rel=0, abs=0, nan_ok=True)
        evaluations = [
            [(event["global_step"], event["metrics"]) for event in one.read_events("evaluation", agent)]
            for one in (run, expected)
        ]
        assert evaluations[0] == evaluations[1]
        chosen = [one.checkpoint(find_checkpoint(one, agent, "best")) for one in (run, expected)]
        assert chosen[0].name == chosen[1].name
        states = [load_checkpoint(path) for path in chosen]
        assert all(
            torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key]
            for key, value in states[0].items()
            if not key.endswith("/card")  # names the number of steps at that moment
        )


@pytest.mark.parametrize("schedule", ["keep", "stretch"])
@pytest.mark.parametrize("trainer", NETS)
def test_an_extended_run_ends_as_one_that_was_planned_so(
    trainers: Callable[[str], ModuleType], tmp_path: Path, trainer: str, schedule: Any
) -> None:
    """The first total is no multiple of a rollout, and the extension is extended once more."""
    run = begin(trainers, tmp_path, trainer, {"checkpoints.best_from": 0.5, "checkpoints.keep_best": 1})
    for total in (1_450, 2_100):
        extend([run], total, schedule)
        go_on(trainers(trainer), run, "--resume")
        assert run.status()["state"] == "done"
        assert {agent["global_step"] for agent in run.status()["agents"].values()} == {total}
    assert_equal_runs(run, from_scratch(trainers(trainer), run, tmp_path))
    agents = run.agent_names()
    events = [
        (event["agent"], event["global_step"], event["total_timesteps"]) for event in run.read_events("extension")
    ]
    assert events == [(agent, at, total) for at, total in ((1_000, 1_450), (1_450, 2_100)) for agent in agents]
    label = "extended from 1,000 to 2,100 steps"
    assert all(label in run.read_events("verdict", agent)[-1]["labels"] for agent in agents)


def rates(run: RunDir) -> dict[int, float]:
    found = metrics_of(run, run.agent_names()[0])
    return {step: value for (step, name), value in found.items() if name == "effective/ppo.learning_rate"}


@pytest.mark.parametrize(("schedule", "first", "last"), [("keep", 1e-4, 1e-4), ("stretch", 0.55e-3, 0.145e-3)])
def test_schedules_keep_their_end_or_run_over_the_new_number_of_steps(
    trainers: Callable[[str], ModuleType], tmp_path: Path, schedule: Any, first: float, last: float
) -> None:
    run = begin(trainers, tmp_path, "ppo", {})
    planned = rates(run)
    extend([run], 2_000, schedule)
    found = rates(go_on(trainers("ppo"), run, "--resume"))
    assert {step: found[step] for step in planned} == planned
    assert found[min(step for step in found if step > 1_000)] == pytest.approx(first)
    assert found[2_000] == pytest.approx(last, rel=0.01)


@pytest.mark.parametrize("trainer", NETS)
def test_a_run_that_stopped_early_goes_on_where_it_stopped(
    trainers: Callable[[str], ModuleType], tmp_path: Path, trainer: str
) -> None:
    run = begin(trainers, tmp_path, trainer, STOPS_EARLY)
    stopped = {agent["global_step"] for agent in run.status()["agents"].values()}
    assert stopped == {600}
    (about, *others) = extend([run], 1_500, "keep")
    assert "from step 600 to step 1,500" in about
    assert all("had stopped early" in note for note in others)
    assert len(others) == len(run.agent_names())
    go_on(trainers(trainer), run, "--resume")
    assert {agent["global_step"] for agent in run.status()["agents"].values()} == {900}  # and stops early again
    assert_equal_runs(run, from_scratch(trainers(trainer), run, tmp_path))


@pytest.mark.parametrize("trainer", ["ppo_stacked", "ppo_shared"])
def test_an_agent_that_ended_before_the_others_stays_as_it_is(
    trainers: Callable[[str], ModuleType], tmp_path: Path, trainer: str
) -> None:
    run = begin(trainers, tmp_path, trainer, {"agents": {"BBB": STOPS_EARLY}})
    assert run.status()["agents"]["BBB"]["global_step"] == 600
    assert any("run-1/BBB ended at step 600" in note for note in extend([run], 1_400, "keep"))
    go_on(trainers(trainer), run, "--resume")
    steps = {name: (agent["global_step"], agent["total_timesteps"]) for name, agent in run.status()["agents"].items()}
    assert steps == {"AAA": (1_400, 1_400), "BBB": (600, 1_000), "CCC": (1_400, 1_400)}
    assert run.read_events("verdict", "BBB")[-1]["ended_early"]
    assert_equal_runs(run, from_scratch(trainers(trainer), run, tmp_path))


@pytest.mark.parametrize("trainer", NETS)
def test_an_extension_that_is_interrupted_goes_on_to_the_same_bits(
    trainers: Callable[[str], ModuleType], tmp_path: Path, trainer: str
) -> None:
    whole = begin(trainers, tmp_path, trainer, {})
    parts = RunDir(Path(shutil.copytree(whole.path, tmp_path / "parts" / "run-1")))
    for run in (whole, parts):
        extend([run], 2_000, "stretch")
    go_on(trainers(trainer), whole, "--resume")
    for _ in range(6):
        parts.request_stop()  # every process does one iteration, writes a checkpoint and ends
        go_on(trainers(trainer), parts, "--resume")
    parts.clear_stop()
    go_on(trainers(trainer), parts, "--resume")
    assert_equal_runs(parts, whole)
    assert len(parts.read_events("extension")) == len(whole.read_events("extension"))


def test_an_extension_is_refused_before_anything_changes(trainers: Callable[[str], ModuleType], tmp_path: Path) -> None:
    run = begin(trainers, tmp_path, "ppo", {})
    before = (run.info(), run.status())
    with pytest.raises(InputError, match="has taken 1,000 env steps already; give more than 1000"):
        extend([run], 1_000, "keep")
    run.update_status(state="queued", heartbeat=9e12)
    with pytest.raises(InputError, match="p3kit stop"):
        extend([run], 2_000, "keep")
    run.write_status(before[1])
    assert (run.info(), run.status()) == before


def test_a_run_that_crashed_is_extended_from_its_last_checkpoint(
    trainers: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    run = begin(trainers, tmp_path, "ppo", {"checkpoints.every": 600})
    run.checkpoint("last").unlink()  # all that is left of it is its first checkpoint
    run.update_status(state="crashed")
    extend([run], 1_300, "keep")
    go_on(trainers("ppo"), run, "--resume")
    assert run.status()["agents"]["AAA"]["global_step"] == 1_300
    assert_equal_runs(run, from_scratch(trainers("ppo"), run, tmp_path))
