"""`run`, `plan`, `runs`, `resume` and `stop` as a user gives them: as commands, with exit codes and two streams."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from p3kit.cli.options import complete_run
from p3kit.rundir import RunDir
from tests.command import invoke
from tests.made_runs import make_run

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "launch" / "fake_trainer.py"

SPEC = f"""
name = "trial"
trainer = "{FAKE_TRAINER}"
symbols = ["AAPL", "AMD"]
"""


@pytest.fixture
def spec(tmp_path):
    def write(text=SPEC):
        path = tmp_path / "trial.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def p3kit(tmp_path):
    """Runs a command in a process of its own; `.start` leaves it running."""

    def start(*arguments):
        environment = {key: value for key, value in os.environ.items() if key != "P3KIT_RUNS"}
        return subprocess.Popen(
            [sys.executable, "-m", "p3kit", *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(*arguments):
        process = start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        assert not re.search("^Traceback", stdout + stderr, re.MULTILINE), stderr
        return SimpleNamespace(code=process.returncode, stdout=stdout, stderr=stderr)

    run.start = start
    return run


@pytest.fixture
def runs_root(tmp_path):
    return tmp_path / "runs"


def wait_for_state(run, state, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not run.path.exists() or run.status()["state"] != state:
        assert time.monotonic() < deadline, run.status()
        time.sleep(0.05)


def test_run_prints_verdicts_on_stdout_and_progress_on_stderr(p3kit, spec, runs_root):
    result = p3kit("run", spec(), "--no-aim", "--jobs", 2)
    assert result.code == 0, result.stderr
    assert result.stdout.startswith("No agent is shown to beat buy-and-hold. Together +12 %, buy-and-hold +11 %")
    assert "trial: verdicts on the validation split\n" in result.stdout
    sentence = "Sharpe 0.41, no evidence of an edge over buy-and-hold (+0.05, 95 % CI -0.80 to 0.90)"
    assert f"run-2/AMD   PASS   {sentence}" in result.stdout
    assert "run-2/AMD       0.41 [-0.31, 1.20]     0.250      42" in result.stdout
    assert "run-1/AAPL    +0.123    +0.000      +0.110  -0.200    +0.020      -0.880" in result.stdout
    assert "2 agents: 2 PASS; 0 shown to beat buy-and-hold" in result.stdout
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 4
    assert "the sample is for testing" in notes[0]
    assert re.fullmatch(r"note: \d+ more notes: p3kit plan \S+", notes[3])
    assert "run-1/AAPL done 1,000/1,000" in result.stderr
    assert "next:  p3kit report --week 1   p3kit diagnose run-1" in result.stderr
    run = RunDir.open(runs_root / "run-1")
    assert run.info()["command"][:2] == ["p3kit", "run"]
    assert run.info()["data"]["AAPL"]["source"] == "sample"
    assert run.spec_text() == SPEC


def test_run_as_json_is_nothing_but_json(p3kit, spec):
    result = p3kit("run", spec(), "--no-aim", "--json", "--set", 'data.source="synthetic"', "--set", 'symbols=["AAPL"]')
    assert result.code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["interrupted"] is False
    assert [run["state"] for run in document["runs"]] == ["done"]
    (agent,) = document["agents"]
    assert (agent["agent"], agent["verdict"]["grade"], agent["synthetic"]) == ("AAPL", "PASS", True)


@pytest.mark.slow
def test_a_trainer_of_ones_own_by_a_relative_path(p3kit, tmp_path, runs_root):
    for folder in ("mine", "specs"):
        (tmp_path / folder).mkdir()
    knob = 'ratio: float = 0.5\n    """A knob of one\'s own."""\n    '
    source = FAKE_TRAINER.read_text()
    first_knob = re.search(r"class Args.*?\n    (?=\w+: )", source, re.DOTALL).end()
    (tmp_path / "mine" / "own.py").write_text(source[:first_knob] + knob + source[first_knob:])
    (tmp_path / "specs" / "own.toml").write_text('name = "own"\ntrainer = "../mine/own.py"\nsymbols = ["AAPL"]\n')
    ways = {"run-1": (), "run-2": ("--set", "trainer=mine/own.py")}  # relative to the spec, and to the current folder
    for name, more in ways.items():
        result = p3kit("run", "specs/own.toml", "--no-aim", "--set", "ppo.ratio=0.7", *more)
        assert result.code == 0, result.stderr
        info = RunDir(runs_root / name).info()
        assert (info["trainer"], info["spec"]["ppo"]["ratio"]) == ("own", 0.7)
    assert "1 run of the trainer own" in p3kit("plan", "specs/own.toml").stdout


def test_a_quiet_run_says_nothing_but_its_verdicts(p3kit, spec):
    result = p3kit("run", spec(), "--no-aim", "--quiet", "--set", 'symbols=["AMD"]')
    assert (result.code, result.stderr) == (0, "")
    assert "run-1/AMD" in result.stdout


def test_a_run_that_fails_gives_exit_code_1_and_shows_its_log(p3kit, spec):
    result = p3kit(
        "run", spec(), "--no-aim", "--set", 'ppo.end="raise"', "--set", "ppo.at=300", "--set", 'symbols=["AMD"]'
    )
    assert result.code == 1
    assert result.stdout.endswith("run-1/AMD failed: the market caught fire\n")
    assert "resume uses the run's own copy of the trainer (" in result.stderr
    assert "fake_trainer.py is fixed, p3kit run uses it" in result.stderr
    assert "  | RuntimeError: the market caught fire" in result.stderr
    assert "to go on:  p3kit resume run-1\n" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPEC.replace("symbols", "symbolls"), "symbolls"),
        (SPEC + "[ppo]\nclip_coef = 0.2\n", "clip_coef"),
        (SPEC.replace("AMD", "GOOG"), "GOOG"),
        (SPEC + '[data]\nsource = "csv"\npath = "nowhere/{symbol}.csv"\n', "nowhere/AAPL.csv"),
        (SPEC + "[env]\nepisode_bars = 100000\n", "bars"),
        (SPEC + "[ppo\n", "trial.toml:5"),
    ],
)
def test_what_is_wrong_is_said_before_any_directory_is_made(spec, runs_root, text, message, monkeypatch):
    monkeypatch.chdir(runs_root.parent)
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    result = invoke("run", spec(text), "--no-aim")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert not runs_root.exists()


def test_training_without_torch_says_what_to_install(spec, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    result = invoke("run", spec())
    assert result.exit_code == 2
    assert "pip install 'p3kit[train]'" in result.output


def test_ctrl_c_then_resume(p3kit, spec, runs_root):
    slow = ["--set", "ppo.total_timesteps=3000", "--set", "ppo.pause=0.1", "--jobs", 1]
    process = p3kit.start("run", spec(), "--no-aim", *slow)
    first, second = RunDir(runs_root / "run-1"), RunDir(runs_root / "run-2")
    wait_for_state(first, "running")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run-2/AMD stopped: while it waited for its turn" in stdout
    assert "to go on:  p3kit resume run-1 run-2" in stderr
    assert [run.status()["state"] for run in (first, second)] == ["stopped", "stopped"]

    result = p3kit("resume", "1", "latest", "--no-aim")
    assert result.code == 0, result.stderr
    assert "2 agents: 2 PASS" in result.stdout
    assert [row["global_step"] for row in first.read_metrics()] == list(range(100, 3001, 100))

    again = p3kit("resume", "run-1", "--no-aim")
    assert again.code == 2
    assert again.stderr.startswith("run-1: is done; there is nothing to resume; p3kit resume run-1 --total-timesteps N")


def test_stop_from_another_terminal(p3kit, spec, runs_root):
    process = p3kit.start("run", spec(), "--no-aim", "--set", "ppo.pause=0.1", "--set", "ppo.total_timesteps=100000")
    run = RunDir(runs_root / "run-1")
    wait_for_state(run, "running")
    wait_for_state(RunDir(runs_root / "run-2"), "running")
    result = p3kit("stop", "run-1", "2")
    assert (result.code, result.stdout) == (0, "run-1: stop requested\nrun-2: stop requested\n")
    process.communicate(timeout=30)
    assert process.returncode == 0
    refused = p3kit("stop", "run-1")
    assert (refused.code, refused.stderr) == (
        2,
        "run-1: is stopped; only a queued or running run can be stopped\n",
    )


# ---------------------------------------------------------------------- in this process, on directories made by hand


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two runs: one done with two agents, one whose process is gone."""
    trainer = tmp_path / "ppo.py"
    trainer.touch()
    root = tmp_path / "runs"
    monkeypatch.setenv("P3KIT_RUNS", str(root))
    info = {"name": "phase3", "trainer": "ppo", "created": time.time() - 7200}
    done = RunDir.create(root, {**info, "agents": [{"name": "AAPL"}, {"name": "AMD"}]}, "", trainer)
    for step, sharpe in ((100, 0.2), (200, 0.7), (300, float("nan"))):
        done.append_event("evaluation", "AMD", step, metrics={"eval/sharpe_ratio": sharpe})
    agents = {
        name: {"state": "done", "verdict": {"grade": grade}} for name, grade in (("AAPL", "FAIL"), ("AMD", "PASS"))
    }
    done.write_status({"state": "done", "agents": agents})
    gone = RunDir.create(root, {**info, "agents": [{"name": "BAC", "total_timesteps": 1000}]}, "", trainer)
    gone.write_status({"state": "running", "pid": 999_999_999, "agents": {"BAC": {"global_step": 250}}})
    return root


def test_runs_lists_what_there_is(made):
    result = invoke("runs")
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "run    name    state    done  agents    best Sharpe  verdict         age",
        "run-1  phase3  done     100%  2 agents         0.70  1 PASS, 1 FAIL  2 h",
        "run-2  phase3  crashed   25%  BAC                 –  –               2 h",
        "run-2 crashed: its process is gone",
    ]
    assert result.stderr == "run-2 crashed: its process is gone; p3kit resume run-2 continues it\n"
    (_, crashed) = json.loads(invoke("runs", "--json").stdout)
    assert (crashed["run"], crashed["state"], crashed["progress"]) == ("run-2", "crashed", 0.25)


def test_runs_without_runs_says_how_to_start(tmp_path):
    result = invoke("runs", "--runs", tmp_path / "none")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "p3kit run specs/smoke.toml" in result.stderr


def test_a_damaged_run_is_named_and_does_not_hide_the_others(made):
    (made / "run-2" / "run.json").write_text('{"agents": [')
    result = invoke("runs")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith("run-1  phase3  done")
    assert len(result.stdout.splitlines()) == 2
    assert "not listed: " in result.stderr
    assert "run-2/run.json: is not valid JSON" in result.stderr


def test_what_the_system_refuses_is_one_line(tmp_path):
    make_run(tmp_path / "runs")
    result = invoke("report", "--lessons", "--output", "/proc/x", "--runs", tmp_path / "runs")
    assert result.exit_code == 1
    one_line = r"/proc/x[^\n]*: [A-Z][^\n]*; free some space or fix the folder's permissions\n"
    assert re.fullmatch(one_line, result.stderr)


def test_a_run_goes_on_or_ends_as_a_whole(made):
    for command in ("resume", "stop"):
        result = invoke(command, "run-1/AMD")
        assert result.exit_code == 2
        assert 'names one agent; this takes whole runs; use "run-1"' in result.stderr


def test_a_wrong_name_gets_the_nearest(made):
    result = invoke("resume", "run-5")
    assert result.exit_code == 2
    assert 'did you mean "run-2"?' in result.stderr
    assert "'runs/none': no run of that name in " in invoke("stop", "runs/none").stderr


def test_the_shell_completes_names_of_runs(made):
    def words(incomplete):
        return [item.value for item in complete_run(SimpleNamespace(params={}), None, incomplete)]

    assert words("") == ["latest", "run-1", "run-2"]
    assert words("run-1/A") == ["run-1/AAPL", "run-1/AMD"]
    assert words("x") == []


@pytest.mark.parametrize("command", ["run", "plan", "runs", "resume", "stop"])
def test_help_has_examples(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"  p3kit {command}" in result.output.split("Examples:")[1]


# ---------------------------------------------------------------------- plan


def plan(*arguments):
    return invoke("plan", *arguments)


def test_plan_counts_the_work(tmp_path):
    spec = tmp_path / "two.toml"
    spec.write_text('name = "two"\nsymbols = ["AAPL", "AMD"]\nseeds = [1, 2]\n')
    result = plan(spec, "--runs", tmp_path / "runs", "--jobs", 2)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[:7] == [
        "two: 4 runs of the trainer ppo, 2 at a time, 1 thread each",
        "run  agent    env steps  iterations  gradient steps  buffer",
        "  1  AAPL.s1    100,000           7          15,630  2.6 MB",
        "  2  AAPL.s2    100,000           7          15,630  2.6 MB",
        "  3  AMD.s1     100,000           7          15,630  2.6 MB",
        "  4  AMD.s2     100,000           7          15,630  2.6 MB",
        "     all        400,000          28          62,520",
    ]
    assert (
        lines[7]
        == "time: unknown until a run of this trainer and these sizes has finished here; --calibrate trains a beginning"
    )
    assert not (tmp_path / "runs").exists()


def test_plan_tells_the_time_only_from_runs_that_are_comparable(tmp_path, spec, monkeypatch):
    from p3kit.plan import plan_runs
    from p3kit.spec import load_spec, read_trainer

    root = tmp_path / "runs"
    text = 'name = "one"\nsymbols = ["AAPL"]\n'
    (plan_of_one,) = plan_runs(load_spec(spec(text)).spec, read_trainer("ppo"))
    info = {"name": "one", "trainer": "ppo", "agents": [agent.to_json() for agent in plan_of_one.agents]}
    run = RunDir.create(root, info, "", plan_of_one.trainer)
    for number, (step, when) in enumerate(((20_000, 50.0), (100_000, 90.0)), 1):  # 2,000 steps a second
        row = {"agent": "AAPL", "iteration": number, "global_step": step, "time": when, "metrics": {}}
        run.append_metrics([row])
    run.write_status({"state": "done", "agents": {}})
    same = plan(spec(text), "--runs", root)
    assert "time: about 0:50 with 1 at a time (2,000 steps/s a run, as measured in run-1)" in same.stdout
    more = plan(spec(text), "--runs", root, "--set", "seeds=[1,2,3]", "--jobs", 2, "--json")
    assert json.loads(more.stdout)["time"] == {"seconds": 100.0, "steps_per_second": 2000.0, "measured_in": ["run-1"]}
    assert "time: unknown" in plan(spec(text), "--runs", root, "--set", "ppo.batch_size=256").stdout
    assert "time: unknown" in plan(spec(text), "--runs", root, "--set", "compute.threads=2").stdout


def test_plan_counts_start_and_end_and_prefers_runs_of_the_same_length(tmp_path, spec):
    """A run of 100,000 steps at 2,000 a second that took 7 seconds more, and a shorter one that was not compiled."""
    from p3kit.plan import plan_runs
    from p3kit.spec import load_spec, read_trainer

    root, text = tmp_path / "runs", 'name = "one"\nsymbols = ["AAPL"]\n'
    for total, rate in ((100_000, 2_000), (50_000, 500)):
        loaded = load_spec(spec(text), [f"ppo.total_timesteps={total}"])
        (one,) = plan_runs(loaded.spec, read_trainer("ppo"))
        info = {"name": "one", "trainer": "ppo", "created": 1_000.0}
        run = RunDir.create(root, info | {"agents": [agent.to_json() for agent in one.agents]}, "", one.trainer)
        for number, step in enumerate((20_000, total), 1):
            metrics = {"perf/rollout_s": 1.0, "perf/update_s": 20_000 / rate - 1.0}
            row = {"agent": "AAPL", "iteration": number, "global_step": step, "time": 1_004.0 + step / rate}
            run.append_metrics([row | {"metrics": metrics}])
        run.write_status({"state": "done", "heartbeat": 1_007.0 + total / rate, "agents": {}})
    for total, seconds in ((100_000, 57.0), (50_000, 107.0), (200_000, None)):
        planned = plan(spec(text), "--runs", root, "--set", f"ppo.total_timesteps={total}", "--json")
        found = json.loads(planned.stdout)["time"]
        if total == 200_000:
            assert found["measured_in"] == ["run-1", "run-2"]
        else:
            assert found["seconds"] == pytest.approx(seconds)
