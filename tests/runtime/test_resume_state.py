"""Tests of an agent's state over a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p3kit.errors import CheckpointError
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.runtime.checkpoints import load_checkpoint, save_checkpoint
from p3kit.runtime.run import Run
from p3kit.spec import load_spec
from p3kit.spec.trainer_file import read_trainer
from tests.trainers.conftest import load_trainer


def open_run(folder: Path) -> Run[Any]:
    spec_file = folder / "s.toml"
    spec_file.write_text('name = "s"\nsymbols = ["AAPL"]\n')
    spec = load_spec(spec_file).spec
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    info = plan.run_json(load_market(spec, spec.symbols), ["test"])
    directory = RunDir.create(folder / "runs", info, spec_file.read_text(), plan.trainer)
    return Run(directory, load_trainer("ppo").Args, resume=False)


def open_agent(folder: Path) -> Any:
    return open_run(folder).agent


def test_an_agent_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    agent = open_agent(tmp_path)
    agent.finished(50_000)
    agent.state, agent._ended_early = "done", "a plateau"
    again = open_agent(tmp_path)
    again.load_state_dict(agent.state_dict())
    assert again.finished(50_000)
    assert again.state == "done"
    assert again.global_step == 50_000


def test_a_stopped_agent_goes_on(tmp_path: Path) -> None:
    agent = open_agent(tmp_path)
    agent.finished(50_000)
    agent.state = "stopped"
    again = open_agent(tmp_path)
    again.load_state_dict(agent.state_dict())
    assert not again.finished(50_000)


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    save_checkpoint(run.directory.checkpoint("last"), {"agent/AAPL/global_step": 5}, compress=True)
    with pytest.raises(CheckpointError, match=r"last\.pt: was written by another run or another version of p3kit"):
        Run(run.directory, run.args_type, resume=True)


def test_a_checkpoint_with_the_older_name_of_group_rules_is_read(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.save_checkpoint("last", {})
    state = load_checkpoint(run.directory.checkpoint("last"))
    older = {key.replace("run/group_rules", "run/council"): value for key, value in state.items()}
    assert older.keys() != state.keys()
    save_checkpoint(run.directory.checkpoint("last"), older, compress=True)
    assert Run(run.directory, run.args_type, resume=True).resumed == {}


def test_a_checkpoint_of_another_spec_is_refused_and_stays(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.save_checkpoint("last", {})
    Run(run.directory, run.args_type, resume=True)
    before = run.directory.checkpoint("last").read_bytes()
    (plan,) = run.directory.info()["agents"]
    plan["spec"]["ppo"]["hidden"] = [32]
    run.directory.update_info(agents=[plan])
    with pytest.raises(CheckpointError, match=r"last\.pt: was written by another run: .* or delete it"):
        Run(run.directory, run.args_type, resume=True)
    assert run.directory.checkpoint("last").read_bytes() == before


def test_generators_differ_by_purpose_seed_and_symbol(tmp_path: Path) -> None:
    agent = open_agent(tmp_path)
    draws = {agent.new_generator(purpose).initial_seed() for purpose in ("agent", "net", "other")}
    assert len(draws) == 3
