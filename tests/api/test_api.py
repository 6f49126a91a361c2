"""`import p3kit` as a user's script or notebook does: the ten functions, their results, their errors."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

import p3kit
from tests.made_runs import make_run

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "launch" / "fake_trainer.py"
TEN = (
    "load_spec",
    "plan_runs",
    "run_spec",
    "list_runs",
    "open_run",
    "load_metrics",
    "load_policy",
    "evaluate_run",
    "diagnose_run",
    "compare_runs",
)
TRAINING = {"p3kit.__main__"}  # runs the command when it is imported


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "trial.toml"
    path.write_text(f'name = "trial"\ntrainer = "{FAKE_TRAINER}"\nsymbols = ["AAPL", "AMD"]\n')
    return path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of one experiment."""
    root = tmp_path / "runs"
    monkeypatch.setenv("P3KIT_RUNS", str(root))
    make_run(root, symbol="AAPL", seed=1, best_sharpe=0.6)
    make_run(root, symbol="AAPL", seed=2, best_sharpe=0.9, verdict="FAIL")
    return root


# ---------------------------------------------------------------------- names


def test_no_submodule_hides_a_function() -> None:
    """In a process of its own: every submodule is imported first, so one with the name of a function would win."""
    code = (
        "import importlib, pkgutil, p3kit\n"
        "for module in pkgutil.walk_packages(p3kit.__path__, 'p3kit.'):\n"
        f"    if module.name not in {TRAINING} and '_shipped' not in module.name:\n"
        "        importlib.import_module(module.name)\n"
        f"assert all(callable(getattr(p3kit, name)) for name in {TEN})\n"
        "from types import ModuleType\n"
        "assert not [name for name in p3kit.__all__ if isinstance(getattr(p3kit, name), ModuleType)]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_no_submodule_has_the_name_of_a_function() -> None:
    stems = {module.name.rsplit(".", 1)[-1] for module in pkgutil.walk_packages(p3kit.__path__, "p3kit.")}
    assert not stems & set(TEN)


@pytest.mark.parametrize("name", TEN)
def test_a_function_has_at_most_five_typed_arguments_and_a_whole_docstring(name: str) -> None:
    function = getattr(p3kit, name)
    parameters = inspect.signature(function).parameters
    by_name = [one for one in parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert 1 <= len(parameters) - len(by_name) <= 5
    assert len(by_name) <= 5
    assert set(function.__annotations__) == {*parameters, "return"}
    for part in ("Args:", "Returns:", "Raises:", "Example:", *(f"    {one}: " for one in parameters)):
        assert part in (function.__doc__ or ""), part


def test_every_public_name_is_listed_and_a_wrong_one_is_an_attribute_error() -> None:
    assert set(TEN) < set(p3kit.__all__)
    assert set(p3kit.__all__) <= set(dir(p3kit))
    with pytest.raises(AttributeError, match="no attribute 'load_specs'"):
        _ = p3kit.load_specs  # type: ignore[attr-defined]


def test_importing_p3kit_imports_nothing_else_and_run_directories_no_spec_language() -> None:
    code = (
        "import sys, p3kit\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "('p3kit', 'torch', 'numpy', 'pandas', 'click', 'rich', 'pydantic', 'matplotlib')))\n"
        "import p3kit.rundir\n"
        "print('p3kit.spec' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.splitlines() == ["['p3kit']", "False"]


def _processor_seconds(*arguments: str) -> float:
    """User and system time of a process, the best of five."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


def test_help_takes_less_than_a_tenth_of_a_second_of_processor_time() -> None:
    assert _processor_seconds("-m", "p3kit", "--help") - _processor_seconds("-c", "pass") < 0.1


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path: Path) -> None:
    """`py.typed` is there, and the lazy names have the types of their functions."""
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text("import p3kit\nreveal_type(p3kit.load_metrics)\np3kit.open_run(3)\n")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", str(script)],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert "def (runs: " in result.stdout
    assert 'Argument 1 to "open_run" has incompatible type "int"' in result.stdout


# ---------------------------------------------------------------------- reading runs


def test_open_run_reads_all_that_a_run_has(made: Path) -> None:
    run = p3kit.open_run("latest")
    assert (run.name, run.state, run.agents) == ("run-2", "done", ["AAPL"])
    assert run.info["name"] == "phase3"
    assert run.verdict.grade == "FAIL"
    assert run.verdicts["AAPL"].metric("total_return") == 0.11
    assert {event["kind"] for event in run.events} >= {"evaluation", "verdict"}
    assert run.metrics["global_step"].is_monotonic_increasing
    assert repr(run) == "<SavedRun run-2, done>"
    assert p3kit.open_run("1/AAPL").agent == "AAPL"
    assert p3kit.open_run(made / "run-1").name == "run-1"


def test_a_wrong_run_names_the_nearest(made: Path) -> None:
    with pytest.raises(p3kit.InputError, match='did you mean "run-2"') as error:
        p3kit.open_run("run-3")
    assert error.value.faults[0].where == "'run-3'"
    with pytest.raises(p3kit.P3kitError, match="no agent of that name"):
        p3kit.diagnose_run("run-1/MSFT")


def test_list_runs_filters_and_warns_of_damaged_runs(made: Path) -> None:
    assert [run.name for run in p3kit.list_runs()] == ["run-1", "run-2"]
    assert [run.name for run in p3kit.list_runs(grade="PASS")] == ["run-1"]
    assert p3kit.list_runs(name="other*") == []
    assert p3kit.list_runs().to_frame()["grades"].tolist() == [("PASS",), ("FAIL",)]
    with pytest.raises(p3kit.InputError, match="is no state of a run"):
        p3kit.list_runs(state="finished")
    (made / "run-1" / "run.json").write_text("{")
    with pytest.warns(p3kit.P3kitWarning, match=r"not listed: .*run-1/run\.json"):
        found = p3kit.list_runs()
    assert [run.name for run in found] == ["run-2"]
    assert len(found.damaged) == 1


def test_load_metrics_is_a_typed_frame(made: Path) -> None:
    frame = p3kit.load_metrics(["run-1", "run-2"], ["policy/entropy_norm", "eval/*"])
    assert list(frame.columns[:5]) == ["run", "agent", "iteration", "global_step", "time"]
    assert set(frame.columns[5:]) >= {"policy/entropy_norm", "eval/sharpe_ratio"}
    assert not [name for name in frame.columns[5:] if not name.startswith(("policy/entropy_norm", "eval/"))]
    assert frame["time"].dtype == "datetime64[ns, UTC]" or str(frame["time"].dtype).endswith("UTC]")
    assert frame.dtypes["global_step"] == "int64"
    assert frame.dtypes["eval/sharpe_ratio"] == "float64"
    for name in ("run-1", "run-2"):
        run = p3kit.open_run(name)
        best = frame[frame["run"] == name]["eval/sharpe_ratio"].max()
        assert best == run.summary.best_sharpe
        recorded = [row["metrics"]["policy/entropy_norm"] for row in run.directory.read_metrics()
                    if "policy/entropy_norm" in row["metrics"]]  # fmt: skip
        assert frame[frame["run"] == name]["policy/entropy_norm"].dropna().tolist() == recorded


def test_load_metrics_of_nothing_is_an_empty_frame_with_the_same_columns(made: Path) -> None:
    frame = p3kit.load_metrics([], ["eval/*"])
    assert (len(frame), list(frame.columns)) == (0, ["run", "agent", "iteration", "global_step", "time"])
    with pytest.raises(p3kit.InputError, match='did you mean "policy/entropy"'):
        p3kit.load_metrics("run-1", "policy/entrop")


def test_metrics_that_are_not_finite_are_kept(made: Path) -> None:
    run = p3kit.open_run("run-1")
    row = {"agent": "AAPL", "iteration": 99, "global_step": 10**6, "time": 0.0}
    run.directory.append_metrics([row | {"metrics": {"reward/max_abs": float("inf"), "reward/std": float("nan")}}])
    last = p3kit.load_metrics(run, "reward/*").iloc[-1]
    assert last["reward/max_abs"] == float("inf")
    assert pd.isna(last["reward/std"])


def test_diagnose_run_takes_rules_as_a_mapping_or_a_file(made: Path, tmp_path: Path) -> None:
    calm = {finding.symptom for finding in p3kit.diagnose_run("run-1")[0].raised}
    assert "train.clip" not in calm
    (diagnosis,) = p3kit.diagnose_run("run-1", {"train.clip": {"warn": 0.01}})
    assert "train.clip" in {finding.symptom for finding in diagnosis.raised}
    file = tmp_path / "rules.toml"
    file.write_text('[diagnose.rows."train.clip"]\nwarn = 0.01\n')
    assert p3kit.diagnose_run("run-1", file)[0].findings == diagnosis.findings


def test_compare_runs_takes_names_and_runs(made: Path) -> None:
    named = p3kit.compare_runs(["run-1", "run-2"])
    opened = p3kit.compare_runs(p3kit.list_runs())
    assert [group.members[0].agent.run for group in named.groups] == ["run-1", "run-2"]
    assert [len(group.members) for group in opened.groups] == [1, 1]
    assert named.contrasts[0].pairs[0].difference == opened.contrasts[0].pairs[0].difference
    with pytest.raises(p3kit.P3kitError):
        p3kit.compare_runs("run-1")


# ---------------------------------------------------------------------- specs and plans


def test_load_spec_takes_overrides_as_a_mapping_or_as_flags() -> None:
    by_mapping = p3kit.load_spec("specs/smoke.toml", {"ppo.gamma": 0.995, "symbols": ["AMD"]})
    by_flags = p3kit.load_spec("specs/smoke.toml", ["ppo.gamma=0.995", 'symbols=["AMD"]'])
    assert by_mapping.spec == by_flags.spec
    assert by_mapping.origins["ppo.gamma"] == "--set ppo.gamma=0.995"
    again = p3kit.load_spec(by_mapping, {"ppo.gamma": 0.9})
    assert (again.spec.ppo.gamma, again.spec.symbols) == (0.9, by_mapping.spec.symbols)
    with pytest.raises(p3kit.P3kitError, match=r"ppo\.gama"):
        p3kit.load_spec("specs/smoke.toml", {"ppo.gama": 0.995})
    with pytest.raises(p3kit.InputError, match="no such file"):
        p3kit.load_spec("specs/nowhere.toml")


def test_plan_runs_counts_the_work(spec: Path, tmp_path: Path) -> None:
    plan = p3kit.plan_runs(spec, 2, tmp_path / "runs")
    assert [[agent.symbol for agent in run.agents] for run in plan.runs] == [["AAPL"], ["AMD"]]
    assert (plan.jobs, plan.seconds) == (2, None)
    assert plan.notes[0] == "2 agents: 2 symbols × 1 seed"
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------- training


def test_run_spec_returns_runs_with_verdicts_and_metrics(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = p3kit.run_spec(spec, 2, tmp_path / "runs")
    assert [(run.name, run.state, run.verdict.grade) for run in runs] == [
        ("run-1", "done", "PASS"),
        ("run-2", "done", "PASS"),
    ]
    assert runs[1].metrics["global_step"].tolist() == list(range(100, 1001, 100))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "note: the sample is for testing" in shown.err
    assert "run-1/AAPL done 1,000/1,000" in shown.err
    assert runs[0].info["command"] == ["p3kit", "run", str(spec)]


def test_progress_goes_to_a_callback(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, float]] = []
    one = p3kit.load_spec(spec, {"symbols": ["AAPL"], "ppo.pause": 0.1})
    (run,) = p3kit.run_spec(
        one, 1, tmp_path / "runs", lambda agents: seen.extend((a.state, a.progress) for a in agents)
    )
    assert seen[-1] == ("done", 1.0)
    assert "running" in {state for state, _ in seen}
    assert capsys.readouterr() == ("", "")
    assert run.info["command"][-2:] == ["--set", "ppo.pause=0.1"]


def test_a_failed_run_is_returned_and_warned_of(spec: Path, tmp_path: Path) -> None:
    failing = p3kit.load_spec(spec, {"ppo.end": "raise", "ppo.at": 300, "symbols": ["AMD"]})
    with pytest.warns(p3kit.P3kitWarning, match="run-1 failed: the market caught fire"):
        (run,) = p3kit.run_spec(failing, 1, tmp_path / "runs", progress=False)
    assert (run.state, run.message) == ("failed", "the market caught fire")
    assert run.verdict.grade == ""


def test_an_error_of_a_callback_stops_the_trainers_with_checkpoints(spec: Path, tmp_path: Path) -> None:
    slow = p3kit.load_spec(spec, {"ppo.total_timesteps": 100_000, "ppo.pause": 0.05})

    def fail(agents: object) -> None:
        if p3kit.open_run("run-1", tmp_path / "runs").state == "running":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        p3kit.run_spec(slow, 1, tmp_path / "runs", fail)
    first, second = p3kit.list_runs(tmp_path / "runs")
    assert [run.state for run in (first, second)] == ["stopped", "stopped"]
    assert first.directory.checkpoint("last").exists()


NOTEBOOK_CELL = """
import sys, p3kit
try:
    p3kit.run_spec(p3kit.load_spec(sys.argv[1], {"ppo.pause": 0.1, "ppo.total_timesteps": 100_000}), 1)
except KeyboardInterrupt as stopped:
    print([run.state for run in stopped.runs])
    print(stopped)
print("the next cell")
"""


def test_ctrl_c_stops_with_checkpoints_and_raises_keyboard_interrupt(spec: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK_CELL, str(spec)], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(run.state == "running" for run in p3kit.list_runs(tmp_path / "runs")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert stdout.splitlines() == [
        "['stopped', 'stopped']",
        "every trainer wrote a checkpoint; p3kit resume run-1 run-2 continues",
        "the next cell",
    ]
    assert p3kit.open_run("run-1", tmp_path / "runs").directory.checkpoint("last").exists()


def test_run_spec_works_in_a_thread_that_is_not_the_main_one(spec: Path, tmp_path: Path) -> None:
    runs: list[p3kit.SavedRun] = []
    thread = threading.Thread(target=lambda: runs.extend(p3kit.run_spec(spec, 2, tmp_path / "runs", progress=False)))
    thread.start()
    thread.join(60)
    assert [run.state for run in runs] == ["done", "done"]


def test_no_function_exits_the_process() -> None:
    """Only commands call sys.exit; what is below them raises P3kitError."""
    below = [path for path in (ROOT / "p3kit" / "api").glob("*.py") if "sys.exit" in path.read_text(encoding="utf-8")]
    assert below == []


def test_nothing_is_warned_of_when_nothing_is_wrong(made: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p3kit.list_runs()
        p3kit.load_metrics("run-1")
        p3kit.diagnose_run("run-1")


def test_modules_of_the_api_can_be_imported_alone() -> None:
    for module in pkgutil.iter_modules([str(ROOT / "p3kit" / "api")]):
        importlib.import_module(f"p3kit.api.{module.name}")
