"""Tests of the cost estimate from the beginning of a run, against trainers whose pace and sizes are known."""

import io
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from p3kit.errors import P3kitError
from p3kit.launch import calibrate as calibration
from p3kit.launch import make_runs
from p3kit.launch.display import make_display
from p3kit.rundir import RunDir
from tests.launch.launching import launch

STEPS = 100

TRAINER = textwrap.dedent(
    """
    # Sleeps as long as a trainer of this pace would work, and leaves files of the sizes that it would leave.
    import os, signal, sys, time
    from pathlib import Path
    from p3kit.rundir import RunDir

    run = RunDir.open(Path(sys.argv[sys.argv.index("--run-dir") + 1]))
    fake = run.info()["spec"]["ppo"]
    warm = Path(fake["cache"]).exists()
    (agent,) = run.agent_names()
    total, step, iteration = fake["total_timesteps"], 0, 0

    signal.signal(signal.SIGTERM, lambda *_: None)  # the file `stop` is looked for

    def report(state):
        agents = {agent: {"state": state, "global_step": step, "total_timesteps": total}}
        status = {"state": state, "pid": os.getpid(), "heartbeat": time.time(), "message": "", "agents": agents}
        run.write_status(status)

    time.sleep(fake["startup_s"])
    report("running")
    while step < total and not run.stop_requested():
        iteration += 1
        step += 100
        work = fake["iteration_s"] + (fake["compile_s"] if iteration == 1 and not warm else 0.0)
        time.sleep(work)
        Path(fake["cache"]).touch()
        metrics = {"perf/rollout_s": work / 4, "perf/update_s": work * 3 / 4, "perf/memory_mb": 100.0 + iteration}
        row = {"agent": agent, "iteration": iteration, "global_step": step, "time": time.time(), "metrics": metrics}
        run.append_metrics([row])
        time.sleep(fake["evaluation_s"])
        if fake["fails"]:
            raise SystemExit("no such luck")
        run.write_histogram("actions", agent, step, {"labels": ["x" * 3000], "counts": [1]})
        if len(list((run.path / "checkpoints").glob("best-*"))) < 3:
            run.checkpoint(f"best-{step:09d}").write_bytes(bytes(50_000))
        run.checkpoint("last").write_bytes(bytes(200_000))
        report("running")
    time.sleep(fake["ending_s"])
    report("done" if step >= total else "stopped")
    """
)


@dataclass(frozen=True)
class Plan:
    agent: str
    fake: dict
    trainer: Path
    windows: tuple = ()
    market_spec = SimpleNamespace(observation=None)

    @property
    def agents(self):
        spec = SimpleNamespace(
            ppo=SimpleNamespace(total_timesteps=self.fake["total_timesteps"]),
            checkpoints=SimpleNamespace(keep_best=3),
            evaluation=SimpleNamespace(every=STEPS),
        )
        return (SimpleNamespace(name=self.agent, spec=spec, iterations=self.fake["total_timesteps"] // STEPS),)

    def run_json(self, market, command):
        spec = {
            "compute": {"threads": "auto"},
            "ppo": self.fake,
            "evaluation": {"every": STEPS},
            "checkpoints": {"every": STEPS},
        }
        return {
            "name": "fake",
            "trainer": "sleeper",
            "spec": spec,
            "agents": [{"name": self.agent, "symbol": self.agent, "seed": 1, "spec": spec}],
            "data": {},
            "command": list(command),
            "created": time.time(),
        }


@pytest.fixture
def plans(tmp_path):
    trainer = tmp_path / "sleeper.py"
    trainer.write_text(TRAINER)

    def make(count, total=2_000, **fake):
        pace = {"startup_s": 0.1, "iteration_s": 0.2, "evaluation_s": 0.1, "compile_s": 0.0, "ending_s": 0.2}
        fake = {"total_timesteps": total, "cache": str(tmp_path / "cache"), "fails": False, **pace, **fake}
        return [Plan(f"A{n}", fake, trainer) for n in range(count)]

    return make


LOADED = SimpleNamespace(path=Path("x.toml"), source_text="", spec=SimpleNamespace(observation=None))


def cost_of(plans, jobs):
    console = Console(file=io.StringIO(), width=100)
    with make_display(console, "calibrating") as display:
        return calibration.calibrate(plans, LOADED, {}, jobs=jobs, display=display)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_SECONDS", 1.5)


@pytest.mark.slow
def test_time_and_disk_come_within_a_quarter_of_the_truth(plans, quick, tmp_path):
    cost = cost_of(plans(4), jobs=2)
    begun = time.monotonic()
    console = Console(file=io.StringIO(), width=100)
    outcome = launch(make_runs(plans(4), LOADED, {}, tmp_path / "runs", command=[]), jobs=2, console=console)
    took = time.monotonic() - begun
    assert set(outcome.states.values()) == {"done"}
    assert cost.seconds == pytest.approx(took, rel=0.25)
    assert cost.disk_bytes == pytest.approx(sum(run.disk_usage().total for run in outcome.runs), rel=0.25)


@pytest.mark.slow
def test_compiling_is_paid_once_and_not_in_every_run(plans, quick, tmp_path):
    """The first of ten runs compiles, and calibration has filled the compiler's cache by then."""
    assert not (tmp_path / "cache").exists()
    cold = cost_of(plans(10, compile_s=6.0), jobs=1)
    warm = cost_of(plans(10, compile_s=6.0), jobs=1)
    assert cold.seconds == pytest.approx(warm.seconds, rel=0.25)  # 60 s would be paid in ten runs


def test_a_plan_shorter_than_its_calibration_is_told_as_it_was(plans, quick):
    cost = cost_of(plans(1, total=300), jobs=2)
    assert cost.iterations == 3
    assert cost.measured_s >= 3 * 0.3
    assert cost.measured_s <= cost.seconds < cost.measured_s + 5.0  # its end came after its last record


def test_slots_take_the_next_plan_when_they_are_free(plans):
    """Three runs of 10 s, of which 1 s is paid once each, on two slots: 20 s."""
    beginning = calibration.Beginning(0.5, 0.25, 0.009, 0.25, 0.0, 0.0, 0.0, 0.0)
    three = plans(3, total=1_000)
    assert calibration.whole_seconds(three, [beginning], jobs=2) == pytest.approx(20.0)
    assert calibration.whole_seconds(three, [beginning], jobs=4) == pytest.approx(10.0)


def test_only_the_best_checkpoints_are_kept(plans):
    """1,000 steps are 10 evaluations, but three checkpoints; the rest grows with the steps or is there once."""
    beginning = calibration.Beginning(0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 1_000.0, 500.0)
    (plan,) = plans(1, total=1_000)
    assert calibration.run_bytes(plan, [beginning]) == 500 + 2 * 1_000 + 3 * 1_000
    (short,) = plans(1, total=200)
    assert calibration.run_bytes(short, [beginning]) == 500 + 2 * 200 + 2 * 1_000


def test_memory_counts_every_trainer_that_runs_at_a_time(plans, quick):
    one, two = cost_of(plans(2, total=300), jobs=1), cost_of(plans(2, total=300), jobs=2)
    assert two.memory_bytes - one.memory_bytes == pytest.approx(103 * 2**20, rel=0.1)


def test_a_run_that_fails_is_said(plans, quick):
    with pytest.raises(P3kitError, match=r"A0: crashed while its beginning was timed: .*; p3kit check SPEC looks for"):
        cost_of(plans(1, fails=True), jobs=1)


def test_what_a_run_takes_on_disk(tmp_path):
    run = RunDir(tmp_path / "run-1")
    for folder in ("checkpoints", "histograms"):
        (run.path / folder).mkdir(parents=True)
    (run.path / "metrics.jsonl").write_bytes(bytes(5_000))
    (run.path / "histograms" / "actions-A-000000100.json").write_bytes(bytes(100))
    (run.path / "checkpoints" / "best-000000100.pt").write_bytes(bytes(9_000))
    (run.path / "checkpoints" / "last.pt").write_bytes(bytes(20_000))
    usage = run.disk_usage()
    assert 5_100 <= usage.growing <= 5_100 + 3 * 4_096
    assert (usage.best_checkpoint_count, usage.best_checkpoints >= 9_000) == (1, True)
    assert usage.rest >= 20_000
    assert usage.total == usage.growing + usage.best_checkpoints + usage.rest
