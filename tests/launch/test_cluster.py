"""Tests of runs that share a cluster, and of the errors without one. Ray itself: test_ray.py."""

import importlib.util
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from p3kit.errors import InputError
from p3kit.launch.cluster import Needs, needs_of, pack
from p3kit.rundir import RunDir
from tests.command import invoke

PARENT_DEATH = Path(__file__).parents[2] / "p3kit" / "launch" / "parent_death.py"
SMALL = Needs(threads=1, gpu=True)


def test_eight_gpus_hold_the_guides_143_agents():
    packing = pack(143, cpus=64, gpus=8, needs=SMALL)
    assert (packing.per_gpu, packing.at_a_time) == (18, 143)
    assert packing.words() == "8 GPUs × 18 runs = 144 ≥ 143: 0.0555 GPU and 0.4444 CPU each"


@pytest.mark.parametrize("runs", [1, 2, 3, 7, 18, 19, 143, 1000])
@pytest.mark.parametrize("gpus", [1, 3, 8, 64])
def test_shares_as_ray_counts_them_fit_into_every_gpu(runs, gpus):
    """Ray keeps shares in ten-thousandths; runs beyond the first GPU's must find room on the others."""
    packing = pack(runs, cpus=16, gpus=gpus, needs=SMALL)
    assert round(packing.gpu_share * 10_000) * packing.per_gpu <= 10_000
    assert round(packing.cpu_share * 10_000) * packing.at_a_time <= 16 * 10_000 or packing.cpu_share == 1.0
    assert packing.per_gpu * gpus >= runs


def test_fewer_at_a_time_get_larger_shares():
    packing = pack(143, cpus=16, gpus=8, needs=SMALL, jobs=16)
    assert (packing.per_gpu, packing.gpu_share, packing.at_a_time) == (2, 0.5, 16)
    assert packing.words() == "8 GPUs × 2 runs = 16 < 143, so 16 at a time: 0.5 GPU and 1 CPU each"


def test_without_gpus_a_run_takes_its_threads():
    assert pack(143, cpus=32, gpus=0, needs=Needs(4, True)).words() == "8 of 143 runs at a time on 32 CPUs, 4 CPU each"
    assert pack(3, cpus=32, gpus=8, needs=Needs(1, False)).gpu_share == 0.0
    with pytest.raises(InputError, match=r"compute.threads: 8 threads a run, but the cluster has 2 CPUs"):
        pack(1, cpus=2, gpus=0, needs=Needs(8, False))


def test_needs_are_those_of_the_specs():
    assert needs_of([{"device": "cpu", "threads": "auto"}]) == Needs(1, False)
    assert needs_of([{"device": "cpu", "threads": 2}, {"device": "auto", "threads": "auto"}]) == Needs(2, True)
    with pytest.raises(InputError, match=r'compute.device: "cuda:1" names one GPU .* use "cuda" or "auto"'):
        needs_of([{"device": "cuda:1", "threads": "auto"}])


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    spec = tmp_path / "trial.toml"
    spec.write_text(f'name = "trial"\ntrainer = "{Path(__file__).parent / "fake_trainer.py"}"\nsymbols = ["AAPL"]\n')
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    result = invoke("run", spec, "--engine", "ray", "--runs", tmp_path / "runs")
    assert result.exit_code == 2
    assert result.output == (
        "--engine ray: needs the package 'ray', which is not installed; pip install 'p3kit[ray]'\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is a feature of Linux")
def test_a_process_gets_sigterm_when_its_parent_is_killed(tmp_path):
    child = "import signal, time, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True)"
    source = f"""
        import os, subprocess, sys, time
        command = [sys.executable, "-P", {str(PARENT_DEATH)!r}, str(os.getpid()), sys.executable, "-c"]
        child = subprocess.Popen([*command, {child + "; time.sleep(60)"!r}], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(60)
    """
    starter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True)
    lines = [starter.stdout.readline().strip(), starter.stdout.readline().strip()]
    pid = int(next(line for line in lines if line.isdigit()))
    assert "up" in lines
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it outlived its starter"
        time.sleep(0.02)


def test_a_wrong_parent_starts_nothing():
    command = [sys.executable, "-P", PARENT_DEATH, "1", sys.executable, "-c", "print(1)"]
    result = subprocess.run(command, capture_output=True)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"the worker that started this trainer is gone" in result.stderr


def test_a_request_to_end_at_once_is_one_to_end_as_well(tmp_path):
    run = RunDir(tmp_path / "run-1")
    run.path.mkdir()
    run.write_status({"state": "queued"})
    run.request_stop()
    assert run.stop_requested()
    assert not run.stop_at_once()
    run.request_stop(at_once=True)
    assert run.stop_requested()
    assert run.stop_at_once()
    run.clear_stop()
    assert not run.stop_requested()
    assert not run.stop_at_once()
