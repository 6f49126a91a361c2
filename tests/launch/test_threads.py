"""Threads and stacks of a run: the same for any number of jobs, recorded, and used again by a resume."""

import json
import os
from pathlib import Path

import pytest
import torch

import p3kit
from p3kit.api.training import resume_runs
from p3kit.errors import P3kitError
from p3kit.launch import compare_weights
from p3kit.launch.process import environment_of
from p3kit.rundir import RunDir, list_runs
from p3kit.rundir.threads import available_cores, check_threads, threads_of
from tests.command import invoke
from tests.launch.tiny_spec import tiny_spec


@pytest.fixture
def run_of(tmp_path):
    """A run directory with these fields in its run.json."""

    def make(**fields):
        info = {"name": "tiny", "agents": [{"name": "AAPL"}], "spec": {"compute": {"threads": "auto"}}, **fields}
        return RunDir.create(tmp_path / "runs", info, "", Path(__file__).parent / "fake_trainer.py")

    return make


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_runs_and_threads_of_a_plan_do_not_depend_on_jobs(tmp_path, trainer):
    (tmp_path / "tiny.toml").write_text(tiny_spec(trainer))
    plans = [p3kit.plan_runs(tmp_path / "tiny.toml", jobs, tmp_path / "runs") for jobs in (None, 1, 2, 7)]
    grouped = [[([agent.name for agent in run.agents], run.threads) for run in plan.runs] for plan in plans]
    assert all(groups == grouped[0] for groups in grouped)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ppo_stacked", "ppo_shared"])
def test_any_number_of_jobs_gives_the_same_bits(tmp_path, trainer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny_spec(trainer))
    for jobs in ("1", "2"):
        result = invoke("run", "tiny.toml", "--jobs", jobs, "--no-aim", "--runs", f"jobs-{jobs}")
        assert result.exit_code == 0, result.output
    for one, two in zip(list_runs(Path("jobs-1")), list_runs(Path("jobs-2")), strict=True):
        assert one.agent_names() == two.agent_names()
        assert threads_of(one.info()) == threads_of(two.info())
        same, told = compare_weights(one, two)
        assert same, told


class Stop(Exception):
    """Ends a launch."""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot take cores from a process")
def test_a_resume_on_one_core_gives_the_bits_of_two_threads(tmp_path, capfd):
    def stop_early(views):
        if any(view.global_step for view in views):
            raise Stop

    text = tiny_spec("ppo_shared").replace("total_timesteps = 512", "total_timesteps = 1536")
    (tmp_path / "tiny.toml").write_text(text + "compute.threads = 2\n")
    with pytest.raises(Stop):
        p3kit.run_spec(tmp_path / "tiny.toml", 1, tmp_path / "halves", progress=stop_early)
    (stopped,) = list_runs(tmp_path / "halves")
    assert stopped.status()["state"] == "stopped"
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        (halves,) = resume_runs("latest", 1, tmp_path / "halves")
    finally:
        os.sched_setaffinity(0, cores)
    assert halves.directory.read_events("resume")
    assert "run-1 uses 2 threads, as planned, on 1 cores" in capfd.readouterr().err
    (whole,) = p3kit.run_spec(tmp_path / "tiny.toml", 1, tmp_path / "whole", progress=False)
    same, told = compare_weights(whole.directory, halves.directory)
    assert same, told


@pytest.mark.slow
def test_a_run_trains_and_goes_on_with_the_recorded_threads(tmp_path, monkeypatch):
    """The number of the plan, for any number that this process may use by then."""
    monkeypatch.chdir(tmp_path)
    source = (Path(__file__).parents[2] / "trainers" / "ppo.py").read_text()
    start = "    env = run.make_env()\n"
    assert start in source
    Path("mine.py").write_text(source.replace(start, "    print('threads', torch.get_num_threads())\n" + start))
    Path("tiny.toml").write_text(tiny_spec("ppo").replace('"ppo"', '"./mine.py"') + "compute.threads = 3\n")
    result = invoke("run", "tiny.toml", "--no-aim")
    assert result.exit_code == 0, result.output
    run = list_runs(Path("runs"))[0]
    run.update_info(spec={**run.info()["spec"], "compute": {**run.info()["spec"]["compute"], "threads": "auto"}})
    result = invoke("resume", run.name, "--total-timesteps", "1024", "--no-aim")
    assert result.exit_code == 0, result.output
    assert run.log_file.read_text().count("threads 3") == 2


@pytest.mark.parametrize(
    ("fields", "threads"), [({"threads": 2}, 2), ({}, 1), ({"spec": {"compute": {"threads": 3}}}, 3)]
)
def test_a_trainer_gets_the_recorded_threads(run_of, fields, threads):
    """Runs of an older p3kit recorded none."""
    assert environment_of(run_of(**fields))["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("threads", [0, -1, 10_000, "2", 1.5])
def test_a_run_with_an_impossible_number_of_threads_is_damaged(run_of, threads):
    run = run_of()
    (run.path / "run.json").write_text(json.dumps(run.info() | {"threads": threads}))
    with pytest.raises(P3kitError, match="threads is"):
        run.info()


def test_a_resume_with_fewer_threads_is_refused_with_the_command_that_works(run_of, monkeypatch):
    run = run_of(threads=2)
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    assert available_cores() == 1
    result = invoke("resume", run.name, "--runs", run.path.parent)
    assert result.exit_code == 2
    assert result.output == (
        "run-1: trains with 2 threads, and OMP_THREAD_LIMIT=1 allows fewer, which changes its weights; "
        "env -u OMP_THREAD_LIMIT p3kit resume run-1\n"
    )


def test_threads_that_share_a_core_do_not_wait_in_loops(run_of):
    """Such loops would take the core from the thread that is waited for."""
    cores = available_cores()
    policies = [environment_of(run_of(threads=threads)).get("OMP_WAIT_POLICY") for threads in (cores, cores + 1)]
    assert policies == [os.environ.get("OMP_WAIT_POLICY"), "PASSIVE"]


def test_a_resume_on_fewer_cores_keeps_its_threads_and_prints_a_note(run_of):
    more = available_cores() + 1
    assert check_threads(run_of(threads=available_cores())) == ""
    assert check_threads(run_of(threads=more)).startswith(f"run-2 uses {more} threads, as planned, on")


def test_sums_over_two_threads_may_differ_in_bits():
    """The reason why threads are recorded. Where this fails, they no longer have to be."""
    before = torch.get_num_threads()
    numbers = torch.randn(10_000_000, generator=torch.Generator().manual_seed(1))
    try:
        sums = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sums.append(numbers.sum().item())
    finally:
        torch.set_num_threads(before)
    assert sums[0] == pytest.approx(sums[1], abs=1)
    assert sums[0] != sums[1] or os.cpu_count() == 1
