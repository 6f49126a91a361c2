"""Runs on a Ray cluster: the same results, and what is left of them when workers and nodes die. `tox -e ray`."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("ray", reason="the extra ray is not installed: tox -e ray runs these tests")

import ray
from ray.cluster_utils import Cluster as RayNodes

from p3kit.launch import compare_weights, make_runs
from p3kit.launch.cluster import RETRIES, Needs, pack, ray_cluster
from p3kit.rundir import RunDir, list_runs
from p3kit.rundir.threads import threads_of
from tests.launch.launching import launch, resume
from tests.launch.tiny_spec import tiny_spec

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
NEEDS = Needs(threads=1, gpu=False)
STORE = 80 * 2**20
PATIENCE_S = 300.0
"""Generous: starting Ray and a trainer takes seconds, and many of them on a machine that does other things."""


def wait_until(condition, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


# --- on a cluster of several nodes, all of them on this machine


@pytest.fixture(scope="module")
def nodes():
    """A head that trains nothing, and nothing else yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        nodes = RayNodes(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes):
    nodes.add_node(num_cpus=2, object_store_memory=STORE)
    nodes.wait_for_nodes()
    with ray_cluster(cores=1) as cluster:
        assert (cluster.cpus, cluster.gpus, cluster.nodes) == (2.0, 0, 2)
        yield cluster


class Driver:
    """Driver of `p3kit run --engine ray`, in this process."""

    def __init__(self, cluster, loaded, runs_root):
        self.cluster, self.loaded, self.root = cluster, loaded, runs_root
        self.console = Console(file=io.StringIO(), force_terminal=False, width=100)

    def _start(self, count):
        return self.cluster.start(pack(count, self.cluster.cpus, 0, NEEDS), self.console.print)

    def launch(self, *plans):
        start = self._start(len(plans))
        runs = make_runs(plans, self.loaded, {}, self.root, command=[])
        return launch(runs, jobs=len(plans), console=self.console, start=start)

    def resume(self, run):
        return resume([run], jobs=1, console=self.console, start=self._start(1))

    @property
    def said(self):
        return self.console.file.getvalue()


@pytest.fixture
def driver(cluster, loaded, tmp_path):
    return Driver(cluster, loaded, tmp_path / "runs")


def in_background(call):
    import threading

    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def finish():
        thread.join(timeout=PATIENCE_S)
        assert results, "it did not end"
        return results[0]

    return finish


def steps(run, agent="AAPL"):
    return [row["global_step"] for row in run.read_metrics(agent)]


WHOLE = list(range(100, 1001, 100))


def test_runs_end_well_and_the_sick_do_not_stop_them(driver, plan):
    outcome = driver.launch(plan("AAPL"), plan("AMD", end="raise", at=300), plan("BAC"))
    assert outcome.states == {"run-1": "done", "run-2": "failed", "run-3": "done"}
    assert outcome.exit_code == 1
    assert steps(outcome.runs[0]) == WHOLE
    assert outcome.runs[0].log_file.read_text() == "training AAPL with 1 thread\n"
    assert "run-2 failed: the market caught fire" in driver.said
    assert "| RuntimeError: the market caught fire" in driver.said


def test_a_trainer_that_is_killed_goes_on_from_its_checkpoint(driver, plan):
    outcome = driver.launch(plan("AAPL", end="kill", at=700))
    (run,) = outcome.runs
    assert outcome.states == {"run-1": "done"}
    assert steps(run) == WHOLE
    (event,) = run.read_events("resume")
    assert event["global_step"] == 500
    assert "run-1: its process was killed by SIGKILL" in driver.said
    assert any("submitted to Ray again" in note["text"] for note in run.read_events("note"))


def test_a_trainer_that_dies_before_every_checkpoint_is_given_up(driver, plan, tmp_path):
    trainer = tmp_path / "hopeless.py"
    trainer.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    outcome = driver.launch(type(plan())("AAPL", {"total_timesteps": 100}, trainer))
    assert outcome.states == {"run-1": "crashed"}
    (run,) = outcome.runs
    assert f"{RETRIES + 1} times in a row without getting further" in run.status()["message"]
    assert sum("submitted to Ray again" in note["text"] for note in run.read_events("note")) == RETRIES


def test_a_killed_worker_takes_no_run_with_it(driver, plan):
    finish = in_background(lambda: driver.launch(plan("AAPL", pause=0.5)))
    run = RunDir(driver.root / "run-1")
    wait_until(lambda: run.path.exists() and len(steps(run)) >= 3)
    os.kill(_parent(run.status()["pid"]), signal.SIGKILL)
    outcome = finish()
    assert outcome.states == {"run-1": "done"}
    assert steps(run) == WHOLE
    assert run.read_events("resume")
    assert "run-1: its Ray worker was lost (WorkerCrashedError); it continues from its last checkpoint" in driver.said


def _parent(pid):
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"ray::" in Path(f"/proc/{parent}/cmdline").read_bytes()
    return parent


def test_a_run_is_stopped_from_elsewhere_and_goes_on(driver, plan):
    finish = in_background(lambda: driver.launch(plan("AAPL", pause=0.3)))
    run = RunDir(driver.root / "run-1")
    wait_until(lambda: run.path.exists() and len(steps(run)) >= 2)
    run.request_stop()
    assert finish().states == {"run-1": "stopped"}
    assert run.checkpoint("last").exists()
    assert driver.resume(run).states == {"run-1": "done"}
    assert steps(run) == WHOLE


def test_a_deaf_trainer_is_killed_wherever_it_is(driver, plan):
    finish = in_background(lambda: driver.launch(plan("AAPL", end="deaf", at=200)))
    run = RunDir(driver.root / "run-1")
    wait_until(lambda: run.path.exists() and len(steps(run)) >= 2)
    run.request_stop(at_once=True)
    assert finish().states == {"run-1": "crashed"}
    assert not run.is_locked()


def test_a_node_that_does_not_see_the_runs_says_so(tmp_path, monkeypatch):
    from p3kit.launch import cluster

    monkeypatch.setattr(cluster, "SHOWS_WITHIN_S", 0.0)
    state, message, lost = cluster.train_on_node(str(tmp_path / "run-99"), False)
    assert (state, lost) == ("failed", False)
    assert "--runs must lie on a file system that all nodes share" in message


def test_143_shares_fit_into_8_gpus_and_145_do_not(nodes, cluster):
    """A placement group takes resources as tasks do, without a process for each."""
    node = nodes.add_node(num_cpus=64, num_gpus=8, object_store_memory=STORE)
    nodes.wait_for_nodes()
    packing = pack(143, cpus=64, gpus=8, needs=Needs(1, True))
    bundle = {"GPU": packing.gpu_share, "CPU": packing.cpu_share}
    try:
        for count, fits in ((144, True), (145, False)):
            group = ray.util.placement_group([bundle] * count)
            assert group.wait(timeout_seconds=10 if fits else 3) is fits, count
            ray.util.remove_placement_group(group)
    finally:
        nodes.remove_node(node)


def test_a_killed_node_takes_no_run_with_it(driver, nodes, plan):
    """The node that trains is killed; another one goes on. Comes last: it leaves the cluster with another node.

    Ray kills what its workers have started when a node dies, so all that is left is the last checkpoint.
    """
    finish = in_background(lambda: driver.launch(plan("AAPL", pause=2.0)))
    run = RunDir(driver.root / "run-1")
    wait_until(lambda: run.checkpoint("last").exists())
    doomed = next(node for node in nodes.list_all_nodes() if node is not nodes.head_node)
    nodes.remove_node(doomed, allow_graceful=False)
    nodes.add_node(num_cpus=2, object_store_memory=STORE)
    assert finish().states == {"run-1": "done"}
    assert steps(run) == WHOLE
    assert run.read_events("resume")


# --- on a cluster of its own, as a user has it


def p3kit(*arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "P3KIT_RUNS")}
    return subprocess.Popen(
        [sys.executable, "-m", "p3kit", *map(str, arguments)],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_both_engines_give_the_same_bits(tmp_path, trainer):
    (tmp_path / "tiny.toml").write_text(tiny_spec(trainer))
    for engine in ("local", "ray"):
        process = p3kit("run", "tiny.toml", "--engine", engine, "--jobs", 1, "--no-aim", cwd=tmp_path)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    runs = list_runs(tmp_path / "runs")
    for here, there in zip(runs[: len(runs) // 2], runs[len(runs) // 2 :], strict=True):
        assert threads_of(here.info()) == threads_of(there.info())
        same, told = compare_weights(here, there)
        assert same, told
        assert _numbers(here) == _numbers(there)
        verdicts = [[agent["verdict"] for agent in run.status()["agents"].values()] for run in (here, there)]
        assert verdicts[0] == verdicts[1]


def _numbers(run):
    """All records, without values from a clock."""
    return [
        (row["global_step"], {k: repr(v) for k, v in row["metrics"].items() if not k.startswith("perf/")})
        for row in run.read_metrics()
    ]


def test_ctrl_c_loses_nothing_and_no_port_is_open_to_others(tmp_path):
    fake = Path(__file__).parent / "fake_trainer.py"
    (tmp_path / "trial.toml").write_text(f'name = "trial"\ntrainer = "{fake}"\nsymbols = ["AAPL", "AMD"]\n')
    slow = ["--set", "ppo.total_timesteps=1000", "--set", "ppo.pause=1.0", "--jobs", 1]
    process = p3kit("run", "trial.toml", "--engine", "ray", "--no-aim", *slow, cwd=tmp_path)
    first, second = RunDir(tmp_path / "runs" / "run-1"), RunDir(tmp_path / "runs" / "run-2")
    wait_until(lambda: first.path.exists() and len(steps(first)) >= 2)
    assert _listening(process.pid) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert (first.status()["state"], second.status()["state"]) == ("stopped", "stopped")
    assert "to go on:  p3kit resume run-1 run-2" in errors
    fast = first.info() | {"spec": first.info()["spec"] | {"ppo": first.info()["spec"]["ppo"] | {"pause": 0.01}}}
    (first.path / "run.json").write_text(json.dumps(fast))
    process = p3kit("resume", "run-1", "--engine", "local", "--no-aim", cwd=tmp_path)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert steps(first) == WHOLE


def _listening(pid):
    """Addresses that the process and its descendants listen on."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    open_to = {c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert open_to, "Ray listens nowhere?"
    return open_to


def test_no_cluster_at_ray_address(tmp_path):
    fake = Path(__file__).parent / "fake_trainer.py"
    (tmp_path / "trial.toml").write_text(f'name = "trial"\ntrainer = "{fake}"\nsymbols = ["AAPL"]\n')
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "p3kit", "run", "trial.toml", "--engine", "ray"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 2, result.stderr
    assert re.search(r"^RAY_ADDRESS=127.0.0.1:1: .*ray status", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()
