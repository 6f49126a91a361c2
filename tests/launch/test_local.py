"""The launcher over real processes: slots, failures, interrupts, resume."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from p3kit.errors import InputError
from p3kit.launch.local import Interrupts
from p3kit.rundir import RunDir, list_runs, processes
from tests.launch.launching import resume

ROOT = Path(__file__).parents[2]


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def steps(run, agent="AAPL"):
    return [row["global_step"] for row in run.read_metrics(agent)]


def test_every_plan_becomes_a_run_that_ends_well(start, plan, console):
    ended = []
    outcome = start(plan("AAPL"), plan("AMD"), plan("BAC"), on_end=lambda run: ended.append(run.name))
    assert outcome.exit_code == 0
    assert outcome.states == {"run-1": "done", "run-2": "done", "run-3": "done"}
    assert sorted(ended) == ["run-1", "run-2", "run-3"]
    assert steps(outcome.runs[0]) == list(range(100, 1001, 100))
    assert outcome.runs[0].info()["command"] == ["p3kit"]
    assert "run-3/BAC done 1,000/1,000 · 1,234 steps/s · Sharpe 0.41" in console.file.getvalue()


def test_a_failure_after_the_end_leaves_the_result(start, plan, console):
    def fail(run):
        raise InputError("disk", "is full", "free some space")

    outcome = start(plan("AAPL"), on_end=fail)
    assert (outcome.states, outcome.exit_code) == ({"run-1": "done"}, 0)
    assert "run-1 is done, but its pictures were not drawn: disk: is full" in console.file.getvalue()


def test_a_trainer_gets_its_own_copy_one_thread_and_a_session(start, plan):
    run = start(plan()).runs[0]
    assert run.trainer_file.read_text() == (Path(__file__).parent / "fake_trainer.py").read_text()
    assert run.log_file.read_text() == "training AAPL with 1 thread\n"
    assert not run.is_alive()


def test_no_more_trainers_run_at_a_time_than_jobs(start, plan, tmp_path):
    most = 0
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, sum(run.status()["state"] == "running" for run in list_runs(tmp_path / "runs")))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start(*[plan(f"A{n}", pause=0.02) for n in range(5)], jobs=2)
    done.set()
    watcher.join()
    assert most == 2


def test_one_degraded_run_never_stops_the_others(start, plan, console):
    outcome = start(
        plan("A", end="raise", at=300), plan("B", end="exit", at=300), plan("C", end="kill", at=300), plan("D")
    )
    assert outcome.states == {"run-1": "failed", "run-2": "crashed", "run-3": "crashed", "run-4": "done"}
    assert outcome.exit_code == 1
    assert [run.name for run in outcome.unfinished] == ["run-1", "run-2", "run-3"]
    said = console.file.getvalue()
    assert "run-1 failed: the market caught fire" in said
    assert "| RuntimeError: the market caught fire" in said
    assert "run-2 crashed: its process ended with exit code 3" in said
    assert "| about to vanish" in said
    assert "run-3 crashed: its process was killed by SIGKILL (often the system, out of memory)" in said
    (crash,) = outcome.runs[1].read_events("crash")
    assert crash["exit_code"] == 3


def test_children_of_a_crashed_trainer_are_ended(start, plan, tmp_path):
    outcome = start(plan(end="exit", at=300))
    leader = outcome.runs[0].status()["pid"]
    members = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _group(entry) == leader and processes.process_start(int(entry.name))
    ]
    assert members == []


def _group(entry):
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[2])
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_a_trainer_that_cannot_begin_fails_alone(start, plan, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    bad = type(plan())("AAPL", {"total_timesteps": 100}, broken)
    outcome = start(bad, plan("AMD"))
    assert outcome.states == {"run-1": "crashed", "run-2": "done"}
    assert outcome.runs[0].status()["message"] == "its process ended with exit code 1 before its first step"


def test_if_one_directory_cannot_be_made_none_is_left(start, plan, tmp_path):
    with pytest.raises(FileNotFoundError):
        start(plan(), type(plan())("AMD", {"total_timesteps": 100}, tmp_path / "nowhere.py"))
    assert list_runs(tmp_path / "runs") == []


def test_a_crashed_run_resumes_from_its_checkpoint(start, plan, console):
    (run,) = start(plan(end="kill", at=700)).runs
    assert steps(run)[-1] == 700
    outcome = resume([run], jobs=1, console=console)
    assert outcome.states == {"run-1": "done"}
    assert steps(run) == list(range(100, 1001, 100))
    (event,) = run.read_events("resume")
    assert (event["global_step"], event["rows_dropped"]) == (500, 2)


def test_a_run_that_crashed_before_its_first_checkpoint_begins_again(start, plan, console):
    (run,) = start(plan(end="kill", at=300)).runs
    info = run.info()
    info["spec"]["ppo"]["end"] = "well"
    (run.path / "run.json").write_text(json.dumps(info))
    outcome = resume([run], jobs=1, console=console)
    assert outcome.states == {"run-1": "done"}
    assert steps(run) == list(range(100, 1001, 100))


def test_a_run_that_is_done_is_not_resumed(start, plan, console):
    (run,) = start(plan()).runs
    with pytest.raises(InputError, match="run-1: is done; there is nothing to resume"):
        resume([run], jobs=1, console=console)


def test_a_run_that_another_process_trains_is_left_alone(start, plan, console):
    """Two `p3kit resume` at once: both find it crashed, one gets it, the other must not change its status."""
    (run,) = start(plan(end="kill", at=700)).runs
    lock = run.lock()
    outcome = resume([run], jobs=1, console=console)
    os.close(lock)
    assert (outcome.states, outcome.exit_code) == ({"run-1": "failed"}, 1)
    assert "run-1: is being trained by another process; p3kit stop run-1 ends it" in console.file.getvalue()
    assert run.status()["state"] == "queued"  # as the other process, about to begin, would find it


def test_a_run_in_training_is_not_resumed_and_stops_when_asked(start, plan, tmp_path, console):
    outcomes = []
    trainer = threading.Thread(
        target=lambda: outcomes.append(start(plan(total_timesteps=100_000, pause=0.02), plan("B"), jobs=1))
    )
    trainer.start()
    run, waiting = RunDir(tmp_path / "runs" / "run-1"), RunDir(tmp_path / "runs" / "run-2")
    wait_until(lambda: waiting.path.exists() and run.status()["state"] == "running")
    with pytest.raises(InputError, match="run-1: is running; p3kit stop run-1 ends it first"):
        resume([run], jobs=1, console=console)
    waiting.request_stop()
    run.request_stop()
    trainer.join(timeout=20)
    assert outcomes[0].states == {"run-1": "stopped", "run-2": "stopped"}
    assert outcomes[0].exit_code == 0
    assert waiting.status()["message"] == "while it waited for its turn"
    assert resume([waiting], jobs=1, console=console).states == {"run-2": "done"}


LAUNCHER = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from types import SimpleNamespace
    from rich.console import Console
    from conftest import FakePlan
    from p3kit.launch import make_runs
    from tests.launch.launching import launch

    loaded = SimpleNamespace(path=Path("x.toml"), source_text="", spec=SimpleNamespace(name="fake", observation=None))
    knobs = {{"total_timesteps": 100_000, "pause": 0.05, "end": {end!r}, "at": 200}}
    plans = [FakePlan(name, knobs) for name in ("A", "B", "C")]
    runs = make_runs(plans, loaded, {{}}, Path({runs!r}), command=[])
    outcome = launch(runs, jobs=2, console=Console(stderr=True))
    print(sorted(outcome.states.items()), outcome.interrupted)
    sys.exit(outcome.exit_code)
"""


@pytest.fixture
def launcher(tmp_path):
    started = []

    def start(end="well"):
        source = textwrap.dedent(LAUNCHER).format(
            tests=str(Path(__file__).parent), runs=str(tmp_path / "runs"), end=end
        )
        process = subprocess.Popen(
            [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        runs = [RunDir(tmp_path / "runs" / f"run-{n}") for n in (1, 2, 3)]
        wait_until(lambda: runs[2].path.exists() and len(steps(runs[0], "A")) > 1 and len(steps(runs[1], "B")) > 1)
        return process, runs

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_checkpoints_every_run(launcher, number):
    process, runs = launcher()
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert output == "[('run-1', 'stopped'), ('run-2', 'stopped'), ('run-3', 'stopped')] True\n"
    assert "stopping run-1, run-2: each finishes its update and writes a checkpoint" in errors
    assert all(run.checkpoint("last").exists() for run in runs[:2])
    assert steps(runs[2], "C") == []


def test_a_second_interrupt_kills_trainers_that_do_not_end(launcher):
    process, runs = launcher(end="deaf")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert [run.status()["state"] for run in runs] == ["crashed", "crashed", "stopped"]
    assert not any(run.is_alive() for run in runs)


@pytest.mark.parametrize(
    ("signals", "kills"),
    [
        ([signal.SIGTERM, signal.SIGHUP], False),  # a shutdown sends both
        ([signal.SIGHUP, signal.SIGHUP], False),  # from the kernel and from the shell
        ([signal.SIGTERM, signal.SIGINT], False),
        ([signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], True),
    ],
    ids=["shutdown", "closed terminal", "two kinds", "two Ctrl-C", "two kills"],
)
def test_only_a_repeated_signal_kills(signals, kills, monkeypatch):
    monkeypatch.setattr(Interrupts, "_REPEATED_AFTER_S", 0.05)
    with Interrupts() as interrupts:
        for number in signals:
            signal.raise_signal(number)
            signal.raise_signal(number)  # at once, as `timeout` does: to the process and to its group
            time.sleep(0.06)
        assert (interrupts.count > 1) is kills


def test_trainers_outlive_a_launcher_that_is_killed(launcher):
    process, runs = launcher()
    process.kill()
    process.communicate()
    seen = len(steps(runs[0], "A"))
    wait_until(lambda: len(steps(runs[0], "A")) > seen)
    assert runs[0].is_alive()
    assert not runs[0].mark_crashed()
    assert runs[2].mark_crashed()  # it waited for its turn, which never comes
    for run in runs[:2]:
        run.request_stop()
        wait_until(lambda run=run: run.status()["state"] == "stopped")
    wait_until(lambda: not any(Path(f"/proc/{run.status()['pid']}").exists() for run in runs[:2]))


def test_a_launcher_loads_nothing_heavy(tmp_path: Path) -> None:
    """The import of torch alone takes longer than everything else that a launcher does before its trainers start."""
    hill = Path(__file__).parents[1] / "tune" / "hill.py"
    spec = tmp_path / "hill.toml"
    spec.write_text(f'name = "hill"\ntrainer = "{hill}"\nsymbols = ["AAPL"]\nppo.x = 0.3\n')
    code = (
        "import sys, p3kit; p3kit.run_spec(sys.argv[1], runs_root=sys.argv[2]); "
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'scipy', 'aim') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spec), str(tmp_path / "runs")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
