"""trainers/ppo.py as a process: the same numbers every time, killed or not, and in every number format."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint
from p3kit.spec import load_spec
from p3kit.spec.trainer_file import read_trainer

from .tiny_runs import go_on

TRAINER = Path(__file__).parents[2] / "trainers" / "ppo.py"
TINY = """
name = "tiny"
symbols = ["TINY"]
[data]
source = "synthetic"
synthetic = { bars = 2_000 }
[env]
num_envs = 4
episode_bars = 60
[ppo]
total_timesteps = 1_500
n_steps = 64
batch_size = 64
n_epochs = 3
[evaluation]
every = 300
[checkpoints]
every = 300
[early_stop]
min_progress = 1.0
[schedules]
ent_coef = { kind = "linear", start = 0.05, end = 0.001 }
"""


def plan_run(folder: Path, overrides: tuple[str, ...] = (), text: str = TINY) -> RunDir:
    spec_file = folder / "spec.toml"
    spec_file.write_text(text)
    spec = load_spec(spec_file, overrides).spec
    (plan,) = plan_runs(spec, read_trainer(spec.trainer))
    return RunDir.create(folder / "runs", plan.run_json(load_market(spec, spec.symbols), ["test"]), text, plan.trainer)


def start(run: RunDir, *flags: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    log = (run.path / "log.txt").open("ab")
    command = [sys.executable, str(run.path / "trainer.py"), "--run-dir", str(run.path), *flags]
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def train(run: RunDir, *flags: str) -> RunDir:
    process = start(run, *flags)
    assert process.wait(timeout=120) == 0, (run.path / "log.txt").read_text()
    return run


def rows_of(run: RunDir) -> list[dict[str, Any]]:
    """All rows without what a clock measured; NaN as a word, so that rows compare."""
    rows = []
    for row in run.read_metrics():
        metrics = {k: v for k, v in row["metrics"].items() if not k.startswith("perf/")}
        metrics = {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in metrics.items()}
        rows.append({"step": row["global_step"], "iteration": row["iteration"], "metrics": metrics})
    return rows


def weights_of(run: RunDir) -> dict[str, torch.Tensor]:
    state = load_checkpoint(run.checkpoint("last"))
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def assert_equal_runs(a: RunDir, b: RunDir) -> None:
    assert rows_of(a) == rows_of(b)
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, equal_nan=True)
    verdicts = [run.read_events("verdict")[-1] for run in (a, b)]
    assert [v["grade"] for v in verdicts[:1]] == [v["grade"] for v in verdicts[1:]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(plan_run(tmp_path_factory.mktemp("undisturbed")))


def test_a_run_takes_exactly_its_steps_and_ends_with_a_verdict(undisturbed: RunDir) -> None:
    status = undisturbed.status()
    assert status["state"] == "done"
    assert status["agents"]["TINY"]["global_step"] == 1_500
    assert status["agents"]["TINY"]["verdict"]["grade"] in ("FAIL", "PASS", "STRONG", "STRETCH")
    assert rows_of(undisturbed)[-1]["step"] == 1_500
    kinds = {event["kind"] for event in undisturbed.read_events()}
    assert {"evaluation", "checkpoint", "verdict"} <= kinds
    assert {h.kind for h in undisturbed.histograms()} == {
        "reward",
        "actions",
        "gradients",
        "value_map",
        "equity",
        "returns",
    }
    best = list(undisturbed.checkpoint("last").parent.glob("best-*.pt"))
    assert 1 <= len(best) <= 3


@pytest.mark.parametrize(("share", "keep"), [("0.8", 1), pytest.param("1.0", 2, marks=pytest.mark.slow)])
def test_weights_are_chosen_among_late_ones_where_the_spec_asks(
    ppo: ModuleType, tmp_path: Path, share: str, keep: int
) -> None:
    changes = ("seeds=[2]", f"checkpoints.best_from={share}", f"checkpoints.keep_best={keep}")
    run = go_on(ppo, plan_run(tmp_path, changes))
    sharpes = {e["global_step"]: e["metrics"]["eval/sharpe_ratio"] for e in run.read_events("evaluation")}
    late = {step: sharpe for step, sharpe in sharpes.items() if step >= float(share) * 1_500}
    early = sorted(sharpes.keys() - late.keys(), key=lambda step: -sharpes[step])
    assert sharpes[early[0]] > max(late.values()), "this seed is no test: its best weights are late anyway"
    chosen = max(late, key=lambda step: late[step])
    assert run.status()["agents"]["TINY"]["verdict"]["chosen_step"] == chosen
    kept = [*sorted(late, key=lambda step: -late[step]), *early][:keep]  # an early one only where late ones are few
    assert {path.stem for path in run.checkpoints() if "best" in path.stem} == {f"best-{step:09d}" for step in kept}


def test_the_first_ratio_is_one_and_schedules_are_in_force(undisturbed: RunDir) -> None:
    series = undisturbed.series("TINY")
    assert series["policy/ratio_error"].values.max() < 1e-5
    entropy = series["effective/ppo.ent_coef"].values
    assert entropy[0] == 0.05
    assert (entropy[1:] < entropy[:-1]).all()
    assert series["diag/mask_violations"].values.max() == 0


def test_same_seed_same_metrics(undisturbed: RunDir, tmp_path: Path) -> None:
    assert_equal_runs(undisturbed, train(plan_run(tmp_path)))


@pytest.mark.slow
def test_another_seed_gives_other_metrics(undisturbed: RunDir, tmp_path: Path) -> None:
    assert rows_of(undisturbed) != rows_of(train(plan_run(tmp_path, ("seeds=[2]",))))


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("steps", [700, *(pytest.param(step, marks=pytest.mark.slow) for step in (200, 1_200))])
def test_killed_and_resumed_ends_as_if_never_killed(undisturbed: RunDir, tmp_path: Path, steps: int) -> None:
    run = plan_run(tmp_path)
    process = start(run)
    wait_for(lambda: run.read_metrics() and run.read_metrics()[-1]["global_step"] >= steps)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run.status()["state"] == "running"  # it could not write its end
    train(run, "--resume")
    assert_equal_runs(undisturbed, run)
    assert run.read_events("resume")[0]["rows_dropped"] >= 0


@pytest.mark.slow
def test_killed_between_its_verdict_and_its_end_it_has_one_verdict(undisturbed: RunDir, tmp_path: Path) -> None:
    run = train(plan_run(tmp_path))
    run.update_status(state="crashed")  # as if the last word had not been written
    train(run, "--resume")
    assert_equal_runs(undisturbed, run)
    assert len(run.read_events("verdict")) == 1


def test_sigterm_writes_a_checkpoint_and_resume_goes_on(undisturbed: RunDir, tmp_path: Path) -> None:
    run = plan_run(tmp_path)
    process = start(run)
    wait_for(lambda: run.read_metrics())
    process.terminate()
    assert process.wait(timeout=60) == 0
    assert run.status()["state"] == "stopped"
    assert not run.read_events("verdict")
    train(run, "--resume")
    assert_equal_runs(undisturbed, run)


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_mixed_precision_on_the_cpu(ppo: ModuleType, tmp_path: Path, precision: str) -> None:
    run = go_on(ppo, plan_run(tmp_path, (f'compute.precision="{precision}"', "ppo.total_timesteps=600")))
    series = run.series("TINY")
    assert series["policy/ratio_error"].values.max() < 2e-2
    assert series["diag/nonfinite"].values.sum() == 0
    assert ("diag/amp_scale" in series) == (precision == "fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_cuda(tmp_path: Path, precision: str) -> None:
    """The same run on a CUDA device, in every number format; its checkpoint resumes there."""
    overrides = ('compute.device="cuda"', f'compute.precision="{precision}"')
    run = train(plan_run(tmp_path, overrides))
    series = run.series("TINY")
    assert run.status()["agents"]["TINY"]["global_step"] == 1_500
    assert series["policy/ratio_error"].values.max() < (1e-5 if precision == "fp32" else 2e-2)
    assert series["diag/nonfinite"].values.sum() == 0
    assert any(
        value.is_cuda for value in load_checkpoint(run.checkpoint("last"), "cuda").values() if torch.is_tensor(value)
    )


@pytest.mark.slow
def test_where_compiling_fails_the_run_goes_on_and_says_so(undisturbed: RunDir, tmp_path: Path) -> None:
    run = plan_run(tmp_path, ('compute.compile="on"',))
    process = start(run, environment={"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})
    assert process.wait(timeout=120) == 0, (run.path / "log.txt").read_text()
    assert_equal_runs(undisturbed, run)
    assert (run.path / "log.txt").read_text().startswith("not compiled, slower but the same: ")
    (note,) = [event for event in run.read_events("note") if "compute.compile" in event["text"]]
    assert "not compiled" in note["text"]


def test_dropout_keeps_the_first_ratio_at_one(ppo: ModuleType, tmp_path: Path) -> None:
    run = go_on(ppo, plan_run(tmp_path, ("ppo.dropout=0.2", "ppo.total_timesteps=600")))
    assert run.series("TINY")["policy/ratio_error"].values.max() < 1e-5


@pytest.mark.slow
def test_a_linear_policy_trains(ppo: ModuleType, tmp_path: Path) -> None:
    run = go_on(ppo, plan_run(tmp_path, ("ppo.hidden=[]", "ppo.total_timesteps=300", "evaluation.every=300")))
    series = run.series("TINY")
    assert "value/explained_variance" in series
    assert "diag/feature_rank" not in series  # there is no hidden layer to judge


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_rows_lost_in_a_power_cut_are_refused_by_name(undisturbed: RunDir, tmp_path: Path, name: str) -> None:
    run = RunDir(Path(shutil.copytree(undisturbed.path, tmp_path / "run-1")))
    rows = (run.path / name).read_bytes().splitlines(keepends=True)
    (run.path / name).write_bytes(b"".join(rows[:2]))
    run.update_status(state="crashed")
    assert start(run, "--resume").wait(timeout=60) == 1
    assert f"{name} has {len(b''.join(rows[:2])):,} bytes, and had " in run.log_file.read_text()
    assert (run.path / name).read_bytes() == b"".join(rows[:2]), "nothing was written over"


def test_the_rows_after_the_last_checkpoint_are_marked_when_a_run_ends(undisturbed: RunDir, tmp_path: Path) -> None:
    """The verdict is such a row: an extension of the run rests on it."""
    run = RunDir(Path(shutil.copytree(undisturbed.path, tmp_path / "run-1")))
    *rows, last = (run.path / "events.jsonl").read_bytes().splitlines(keepends=True)
    assert b"verdict" in last
    (run.path / "events.jsonl").write_bytes(b"".join(rows))
    run.update_status(state="crashed")
    assert start(run, "--resume").wait(timeout=60) == 1
    assert "rows were lost" in run.log_file.read_text()


@pytest.mark.slow
def test_a_torn_checkpoint_is_the_runs_own_word_and_resume_begins_again(undisturbed: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run-1")
    shutil.copytree(undisturbed.path, run.path)
    run.checkpoint("last").write_bytes(b"torn")
    assert start(run, "--resume").wait(timeout=60) == 1
    status = run.status()
    assert status["state"] == "failed"
    assert status["message"].endswith("delete it: p3kit resume then begins at init.pt, the first checkpoint")
    assert status["agents"]["TINY"]["global_step"] == 1_500
    run.checkpoint("last").unlink()
    train(run, "--resume")
    assert_equal_runs(undisturbed, run)


def test_an_update_without_one_finite_step_fails_and_says_so(tmp_path: Path) -> None:
    run = plan_run(tmp_path)
    trainer = run.trainer_file.read_text()
    assert trainer.count('"vf_coef": args.vf_coef') == 1
    run.trainer_file.write_text(
        trainer.replace('"vf_coef": args.vf_coef', '"vf_coef": float("inf")')
    )  # every loss is infinite
    process = start(run)
    assert process.wait(timeout=120) == 1
    status = run.status()
    assert status["state"] == "failed"
    assert "none of the 12 gradient steps of this update was finite" in status["message"]
    assert "Traceback" not in (run.path / "log.txt").read_text()
    (event,) = run.read_events("nonfinite")
    assert (event["thrown_away"], event["first"]) == (12, 0)
    assert run.series("TINY")["diag/nonfinite"].values.tolist() == [12]


def test_the_script_alone_is_a_command() -> None:
    out = subprocess.run([sys.executable, str(TRAINER), "--help"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0
    assert "--learning-rate" in out.stdout
    assert "--env-id" in out.stdout
    bad = subprocess.run([sys.executable, str(TRAINER), "--gamma", "7"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert "gamma" in bad.stderr
    assert "Traceback" not in bad.stderr
