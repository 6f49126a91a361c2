"""`p3kit tune` with a very fast trainer: trials, pruning, scores, kept files, and the cost of a kill."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from p3kit.cli.tune import complete_sweep
from p3kit.report.comparison_data import compare_runs
from p3kit.report.comparison_page import render_comparison
from p3kit.report.export_data import find_export
from p3kit.report.export_page import record
from p3kit.rundir import RunDir, list_runs
from p3kit.spec import load_spec
from p3kit.tune import SweepDir
from p3kit.tune.display import LiveTrials
from p3kit.tune.search_space import Space
from p3kit.tune.trial import SeedMean, TrialView
from tests.command import invoke

ROOT = Path(__file__).parents[2]
HILL = ROOT / "tests" / "tune" / "hill.py"
SPEC = f"""
name = "hill"
trainer = "{HILL}"
symbols = ["AAPL"]
seeds = [1, 2]
evaluation.every = 100

[tune]
trials = 8
startup = 3
space.x = {{ low = 0.0, high = 1.0 }}
space.hidden = [[8], [16, 16]]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    return tmp_path


def write(text: str = SPEC, name: str = "hill.toml") -> str:
    Path(name).write_text(text)
    return name


def tune(*words: Any) -> Any:
    result = invoke("tune", *words, "--no-aim")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def told(result: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def journal(folder: Path, sweep: str = "tune-1") -> optuna.Study:
    """As Optuna's own tools open it."""
    storage = JournalStorage(JournalFileBackend(str(folder / "runs" / sweep / "journal.log")))
    return optuna.load_study(study_name=sweep, storage=storage)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


# --- a whole sweep ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One sweep of eight trials, one at a time."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("whole")
    os.chdir(folder)
    try:
        result = tune(write(), "--json", "--jobs", 1, "--output", "specs/best.toml")
        assert result.exit_code == 0, result.output
        yield SimpleNamespace(folder=folder, result=told(result), stderr=result.stderr)
    finally:
        os.chdir(here)


def test_the_first_trial_is_the_spec_and_the_winner_is_near_the_top(whole: SimpleNamespace) -> None:
    trials = whole.result["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 8
    assert trials[0]["values"] == {"ppo.x": 0.9, "ppo.hidden": [8]}
    assert whole.result["spec_trial"] == 0
    best = max(trials, key=lambda trial: trial["sharpe"])
    assert whole.result["best"] == best["trial"]
    assert abs(best["values"]["ppo.x"] - 0.3) < 0.15
    assert best["agents"]["AAPL.s2"] - best["agents"]["AAPL.s1"] == pytest.approx(0.1)
    assert best["sharpe"] == pytest.approx(sum(best["agents"].values()) / 2)
    assert whole.result["gain_over_spec"]["mean"] == pytest.approx(best["sharpe"] - trials[0]["sharpe"])


def test_optuna_opens_the_journal_and_finds_the_same(whole: SimpleNamespace) -> None:
    study = journal(whole.folder)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.value for trial in study.trials] == [trial["sharpe"] for trial in whole.result["trials"]]
    assert study.best_trial.number == whole.result["best"]
    assert all(max(trial.intermediate_values) == 1000 for trial in study.trials)
    assert study.trials[0].params == {"ppo.x": 0.9, "ppo.hidden": "[8]"}


def test_trials_are_ordinary_runs_that_can_be_repeated_and_compared(whole: SimpleNamespace) -> None:
    runs = list_runs(whole.folder / "runs")
    assert [run.info()["tune"]["trial"] for run in runs] == list(range(8))
    for run, trial in zip(runs, whole.result["trials"], strict=True):
        info = run.info()
        assert info["tune"]["sweep"] == "tune-1"
        assert info["tune"]["values"] == trial["values"]
        assert info["spec"]["ppo"]["x"] == trial["values"]["ppo.x"]
        assert run.agent_names() == ["AAPL.s1", "AAPL.s2"], "both seeds in one stack"
        repeated = load_spec(whole.folder / "hill.toml", info["command"][4::2])
        assert repeated.spec.ppo.x == trial["values"]["ppo.x"]
    page = render_comparison(compare_runs(whole.folder / "runs", ["run-1", "run-2"]))
    assert "`ppo.x`" in page


def test_the_winner_is_a_spec_with_what_speaks_against_it(whole: SimpleNamespace) -> None:
    winner = whole.folder / "runs" / "tune-1" / "winner.toml"
    best = whole.result["trials"][whole.result["best"]]
    for path in (winner, whole.folder / "specs" / "best.toml"):
        spec = load_spec(path).spec
        assert (spec.ppo.x, spec.seeds, spec.tune) == (best["values"]["ppo.x"], (1, 2), None)
    assert "# tuned: searched in { low = 0.0, high = 1.0, log = false }" in winner.read_text()
    validated = record(find_export(whole.folder / "runs", best["runs"][0]))
    assert validated["settings_tried"] == whole.result["settings_tried"] == 8
    assert validated["deflated_sharpe"] == pytest.approx(whole.result["deflated_sharpe"], abs=1e-4)
    assert 0.0 < validated["deflated_sharpe"] < 1.0
    assert validated["validation_sharpe_mean"] == pytest.approx(best["sharpe"], abs=1e-4)


def test_it_draws_what_it_found(whole: SimpleNamespace) -> None:
    assert set(whole.result["importance"]) == {"ppo.x", "ppo.hidden"}
    assert whole.result["importance"]["ppo.x"] > 0.8
    names = [Path(path).name for path in whole.result["pictures"]]
    assert names == ["history.png", "slices.png", "importance.png", "parallel.png"]
    for name in names:
        assert (whole.folder / "runs" / "tune-1" / name).read_bytes().startswith(b"\x89PNG")


def test_lines_tell_its_course(whole: SimpleNamespace) -> None:
    assert "hill · tune-1: 8 trials" in whole.stderr
    assert "trial 0 begins: x 0.9, hidden [8] (run-1)" in whole.stderr
    assert "trial 0 complete: mean Sharpe -0.44; best so far -0.44 (trial 0)" in whole.stderr
    assert f"next:      p3kit run {Path('runs/tune-1/winner.toml')}   p3kit compare run-1 run-" in whole.stderr


def test_a_finished_sweep_shows_its_table_and_searches_on(
    whole: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last of those that use `whole`: it adds a trial."""
    monkeypatch.chdir(whole.folder)
    again = tune("--resume", "latest")
    assert again.exit_code == 0, again.output
    headline, table = again.stdout.split("\n", 1)
    assert headline.startswith("Best of 8: trial ")
    assert headline.endswith("No agent is shown to beat buy-and-hold, all settings counted.")
    assert "hill: tune-1, 8 trials: 8 complete\n" in table
    assert "the spec's own" in again.stdout
    assert "expect less of it" in again.stdout
    assert "(deflated Sharpe ratio)" in again.stdout
    more = told(tune("--resume", "tune-1", "--trials", 9, "--json"))
    assert [trial["trial"] for trial in more["trials"]] == list(range(9))
    assert more["trials"][:8] == whole.result["trials"]


# --- pruning and failing ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_trial_that_lags_behind_is_stopped_and_labelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p3kit.launch.local.LOOK_S", 0.02)
    monkeypatch.setenv("HILL_PAUSE", "0.04")
    text = SPEC.replace("startup = 3", "startup = 2\nprune_after = 0.2").replace("trials = 8", "trials = 6")
    result = told(tune(write(text), "--json", "--jobs", 1, "--set", "ppo.x=0.3"))
    pruned = [trial for trial in result["trials"] if trial["state"] == "pruned"]
    assert pruned, result["trials"]
    median = sorted(trial["sharpe"] for trial in result["trials"] if trial["state"] == "complete")
    for trial in pruned:
        run = RunDir(folder / "runs" / trial["runs"][0])
        status = run.status()
        assert status["state"] == "stopped"
        assert status["message"] == f"pruned: {trial['message']}"
        assert "below the median" in trial["message"]
        (stop,) = run.read_events("stop")
        assert stop["message"] == status["message"]
        assert 200 <= run.read_metrics()[-1]["global_step"] < 1000
        assert trial["sharpe"] < median[-1]
    study = journal(folder)
    assert states(study).count("PRUNED") == len(pruned)
    assert all(trial.intermediate_values for trial in study.trials if trial.state.name == "PRUNED")
    assert result["settings_tried"] == 6, "a pruned trial was tried, too"


def test_a_crashed_trial_fails_alone(folder: Path) -> None:
    result = tune(write(), "--json", "--jobs", 2, "--trials", 4, "--set", "ppo.crash_above=0.85")
    assert result.exit_code == 0, result.output
    trials = told(result)["trials"]
    assert trials[0]["state"] == "failed"
    assert "was killed by SIGKILL" in trials[0]["message"]
    assert "trial 0 failed: run-1 crashed" in result.stderr
    assert "complete" in [trial["state"] for trial in trials]
    assert told(result)["gain_over_spec"] is None


@pytest.mark.slow
def test_a_deleted_or_renamed_run_directory_fails_its_trial_alone(folder: Path) -> None:
    """One trains, one has trained; the second trial of each is whole and wins."""
    process = start(write(), "--json", "--jobs", "1", "--trials", "4", "--set", "tune.prune=off")
    runs = folder / "runs"
    wait_until(reached("run-1", 300))
    (runs / "run-1").rename(folder / "renamed")  # trains
    wait_until(reached("run-3", 100))
    (runs / "run-2").rename(folder / "gone")  # has trained
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    result = json.loads(output)
    lost = [trial for trial in result["trials"] if "run-1: its directory was deleted or renamed" in trial["message"]]
    lost += [trial for trial in result["trials"] if "run-2: its directory was deleted or renamed" in trial["message"]]
    assert [trial["state"] for trial in lost] == ["failed", "failed"]
    assert "complete" in [trial["state"] for trial in result["trials"]]
    assert result["best"] not in [trial["trial"] for trial in lost]
    again = tune("--resume", "tune-1", "--json", "--trials", 5)
    assert again.exit_code == 0, again.output


def test_without_a_completed_trial_there_is_no_winner(folder: Path) -> None:
    result = tune(write(), "--trials", 1, "--set", "ppo.crash_above=0.85")
    assert result.exit_code == 1
    assert "no trial is complete, so there is no winner" in result.stdout
    assert not (folder / "runs" / "tune-1" / "winner.toml").exists()


def test_an_agent_that_never_trades_counts_as_nothing(folder: Path) -> None:
    (trial,) = told(tune(write(), "--json", "--trials", 1, "--set", "ppo.idle_above=0.85"))["trials"]
    assert (trial["state"], trial["sharpe"], trial["agents"]) == ("complete", 0.0, {"AAPL.s1": 0.0, "AAPL.s2": 0.0})


NO_SPACE = SPEC.replace("space.hidden = [[8], [16, 16]]\n", "").replace("space.x = { low = 0.0, high = 1.0 }\n", "")


def test_values_that_do_not_fit_the_bars_are_not_counted(folder: Path) -> None:
    result = tune(write(NO_SPACE + '"space"."env.window" = [24, 9000]\n'), "--json")
    assert [trial["state"] for trial in told(result)["trials"]] == ["complete"]
    assert "trial 1 does not fit, and is not counted: " in result.stderr
    assert len(list_runs(folder / "runs")) == 1


def test_sizes_that_do_not_fit_are_named_beforehand_and_not_counted(folder: Path) -> None:
    """env.sizes may not reach above env.max_position."""
    positions, sizes = "[0.3, 0.5, 1.0]", "[[0.1, 0.2, 0.3], [0.1, 0.2, 0.5], [0.1, 0.2, 0.9]]"
    space = f'space."env.max_position" = {positions}\nspace."env.sizes" = {sizes}\n'
    result = tune(write(NO_SPACE + space), "--json", "--set", "env.sizes=[0.1, 0.2, 0.3]")
    assert "note: tune.space: 3 of 9 settings do not fit; they are neither tried nor counted: with " in result.stderr
    assert [trial["state"] for trial in told(result)["trials"]] == ["complete"] * 6
    assert told(result)["wanted"] == 6


def test_a_space_without_a_setting_that_fits_is_refused(folder: Path) -> None:
    result = tune(write(NO_SPACE + 'space."env.max_position" = [0.1, 0.2]\n'))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tune.space: none of its 2 settings fits: with env.max_position = 0.1: " in result.stderr
    assert not (folder / "runs").exists()


def test_draws_that_do_not_fit_are_drawn_again(folder: Path) -> None:
    sizes = "[[0.1, 0.2, 0.9], [0.1, 0.2, 0.3]]"
    space = f'space."env.max_position" = {{ low = 0.3, high = 1.0 }}\nspace."env.sizes" = {sizes}\n'
    result = tune(write(NO_SPACE + space), "--json", "--trials", 6, "--set", "env.sizes=[0.1, 0.2, 0.3]")
    assert "note: tune.space: some settings do not fit" in result.stderr
    trials = told(result)["trials"]
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert len(trials) == 6
    assert all(trial["values"]["env.sizes"][-1] <= trial["values"]["env.max_position"] for trial in trials)
    assert max(trial["trial"] for trial in trials) > 5


def test_a_small_space_is_tried_whole_and_once(folder: Path) -> None:
    text = SPEC.replace("space.hidden = [[8], [16, 16]]", 'space.word = ["a", "b", "c"]').replace(
        "space.x = { low = 0.0, high = 1.0 }\n", ""
    )
    result = tune(write(text), "--json", "--set", "ppo.word=b")
    words = [trial["values"]["ppo.word"] for trial in told(result)["trials"]]
    assert words[0] == "b"
    assert sorted(words) == ["a", "b", "c"]
    assert "note: tune.space holds 3 settings that fit: each is tried once" in result.stderr


def test_a_repeated_draw_is_not_trained_again(folder: Path) -> None:
    text = SPEC.replace("trials = 8", "trials = 5").replace("space.hidden = [[8], [16, 16]]", 'space.word = ["a", "b"]')
    text = text.replace("space.x = { low = 0.0, high = 1.0 }", "space.steps = { low = 1, high = 3 }")
    result = told(tune(write(text), "--json", "--set", 'tune.sampler="random"'))
    values = [json.dumps(trial["values"], sort_keys=True) for trial in result["trials"]]
    assert len(values) == len(set(values)) == 5
    assert len(list_runs(folder / "runs")) == 5
    repeats = [trial for trial in journal(folder).trials if "same_as" in trial.user_attrs]
    assert len(journal(folder).trials) == 5 + len(repeats)


def test_the_spec_itself_may_lie_outside(folder: Path) -> None:
    result = tune(write(), "--json", "--trials", 2, "--set", "ppo.hidden=[4]")
    assert result.exit_code == 0, result.output
    assert "the spec's own ppo.hidden lies outside of tune.space: the unchanged spec is no trial" in result.stderr
    assert told(result)["spec_trial"] is None


# --- interruptions ----------------------------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "P3KIT_RUNS"}
    return subprocess.Popen(
        [sys.executable, "-m", "p3kit", "tune", *words, "--no-aim"],
        env={**environment, "PYTHONPATH": str(ROOT), "HILL_PAUSE": "0.15"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def reached(name: str, step: int) -> Callable[[], bool]:
    run = RunDir(Path("runs") / name)
    return lambda: (run.path / "run.json").exists() and any(row["global_step"] >= step for row in run.read_metrics())


FOUR = ("--jobs", "1", "--trials", "4", "--set", "tune.prune=off")


def go_on() -> dict[str, Any]:
    """Continue the sweep, and return its result."""
    result = tune("--resume", "tune-1", "--json", "--jobs", 1)
    assert result.exit_code == 0, result.output
    return told(result) | {"stderr": result.stderr}


@pytest.fixture
def uninterrupted(folder: Path) -> list[dict[str, Any]]:
    """Values and scores of the same sweep, left alone."""
    others = told(tune(write(name="other.toml"), "--json", "--runs", "elsewhere", *FOUR))
    return [{key: trial[key] for key in ("values", "sharpe")} for trial in others["trials"]]


def test_ctrl_c_loses_nothing(folder: Path, uninterrupted: list[dict[str, Any]]) -> None:
    process = start(write(), *FOUR)
    wait_until(reached("run-2", 300))
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "to go on:  p3kit tune --resume tune-1" in stderr
    assert "4 trials: 1 complete, 1 waiting" in stdout
    assert states(journal(folder)) == ["COMPLETE", "FAIL", "WAITING"]
    run = RunDir(folder / "runs" / "run-2")
    stopped_at = run.read_metrics()[-1]["global_step"]

    result = go_on()
    assert states(journal(folder)) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    (resumed,) = run.read_events("resume")
    assert resumed["global_step"] == stopped_at
    assert run.info()["tune"]["trial"] == 2, "the run belongs to the trial that was queued in place of the dead one"
    assert len(list_runs(folder / "runs")) == 4, "no run was started again"
    assert [{key: trial[key] for key in ("values", "sharpe")} for trial in result["trials"]] == uninterrupted


@pytest.mark.slow
def test_a_kill_fails_and_requeues_what_was_running(folder: Path, uninterrupted: list[dict[str, Any]]) -> None:
    process = start(write(), *FOUR)
    wait_until(reached("run-2", 300))
    process.kill()
    process.communicate()
    run = RunDir(folder / "runs" / "run-2")
    assert run.is_alive(), "the trainer outlives its sweep"
    assert states(journal(folder)) == ["COMPLETE", "RUNNING"]
    file = folder / "runs" / "tune-1" / "journal.log"
    with file.open("ab") as handle:
        handle.write(b'{"op_code":6,"wor')  # torn by the kill
    with contextlib.suppress(FileExistsError):  # the kill may have left it
        Path(f"{file}.lock").symlink_to(file)  # Optuna's lock, left behind

    result = go_on()
    assert "note: 17 bytes of a torn row were cut off the journal" in result["stderr"]
    assert "note: running when their process died, and queued again: trial 1" in result["stderr"]
    assert states(journal(folder)) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert journal(folder).trials[2].user_attrs["retry_of"] == 1
    assert len(run.read_events("resume")) <= 1  # none if it ended before the stop request
    assert len(list_runs(folder / "runs")) == 4
    assert [{key: trial[key] for key in ("values", "sharpe")} for trial in result["trials"]] == uninterrupted


@pytest.mark.slow
def test_a_trial_that_finished_after_the_kill_is_only_told(folder: Path) -> None:
    process = start(write(), *FOUR)
    wait_until(reached("run-2", 300))
    process.kill()
    process.communicate()
    run = RunDir(folder / "runs" / "run-2")
    wait_until(lambda: run.status()["state"] == "done" and not run.is_locked())
    result = go_on()
    assert run.read_events("resume") == []
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 4


def test_what_dies_again_and_again_is_given_up(folder: Path) -> None:
    from p3kit.tune.study import MOST_RETRIES, Study

    loaded = load_spec(write())
    sweep = SweepDir.create(folder / "runs", {}, "")
    for _ in range(MOST_RETRIES + 1):
        study = Study(sweep, loaded.spec.tune, loaded.spec)  # type: ignore[arg-type]
        asked = study.ask()
        assert asked is not None
        study.requeue_running()
    assert [record.state for record in study.records()] == ["failed"] * (MOST_RETRIES + 1)
    assert len({json.dumps(record.values) for record in study.records()}) == 1
    assert study.records()[-1].message == "its process was killed 4 times while it trained"
    assert [record.superseded for record in study.records()] == [True] * MOST_RETRIES + [False]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (
            SPEC.partition("[tune]")[0],
            (),
            "hill.toml:1:1: tune: missing; the sweep has no values to search; for example space",
        ),
        (SPEC + "[matrix]\nsteps = [1, 2]\n", (), "matrix: cannot be searched over; a trial is one setting"),
        (SPEC.replace("space.x", "space.y"), (), "tune.space: ppo.y: unknown key"),
        (SPEC.replace("high = 1.0", "high = 3.0"), (), "tune.space: ppo.x = 3.0: expected a number from 0 to 1"),
        (
            SPEC + "[agents.AAPL]\nppo = { x = 0.5 }\n",
            (),
            "tune.space: ppo.x: agents.AAPL.ppo.x wins over",
        ),
        (SPEC, ("--set", "tune.prune=hyperband"), 'tune.prune = "hyperband": expected "median" or "off"'),
        (
            SPEC.replace("[[8], [16, 16]]", "[[8], [8]]"),
            (),
            "tune.space: ppo.hidden: [8] is there twice; expected each one once",
        ),
        (SPEC.partition("space.x")[0] + "space = {}\n", (), "tune.space"),
        (SPEC, ("--output", "best.yaml"), "--output best.yaml: the winner is written as a spec; end it in .toml"),
        (SPEC, ("--resume", "latest"), "hill.toml: does not go with --resume"),
        (SPEC.replace('"AAPL"', '"AAPL", "AAPK"'), (), 'did you mean "AAPL"'),
    ],
)
def test_what_is_wrong_is_said_before_any_folder_is_made(
    folder: Path, text: str, words: tuple[str, ...], message: str
) -> None:
    result = tune(write(text), *words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert not (folder / "runs").exists()


def test_a_schedule_wins_over_a_value_so_it_cannot_be_searched(folder: Path) -> None:
    text = 'name = "a"\nsymbols = ["AAPL"]\nschedules.gamma = { kind = "linear", start = 0.9, end = 0.99 }\n'
    result = tune(write(text + "tune.space.gamma = { low = 0.9, high = 0.99 }\n"))
    assert result.exit_code == 2
    assert 'hill.toml:4:1: tune.space: ppo.gamma: schedules."ppo.gamma" wins over what would be tried' in result.stderr


def test_resume_refuses_what_is_not_the_same_sweep(folder: Path) -> None:
    assert "SPEC: is missing; p3kit tune specs/tune.toml" in tune().stderr
    assert (
        "--resume latest: no sweep of that name in runs; p3kit tune specs/tune.toml"
        in tune("--resume", "latest").stderr
    )
    assert tune(write(), "--trials", 1).exit_code == 0
    unknown = tune("--resume", "tune-2")
    assert (unknown.exit_code, unknown.stderr) == (
        2, '--resume tune-2: no sweep of that name in runs; did you mean "tune-1"?\n',
    )  # fmt: skip
    with SweepDir(folder / "runs" / "tune-1").owned():
        busy = tune("--resume", "1")
    assert (busy.exit_code, "another p3kit tune is at work on this sweep" in busy.stderr) == (2, True)
    write(SPEC.replace("seeds = [1, 2]", "seeds = [1]"))
    changed = tune("--resume", "1")
    assert changed.exit_code == 2
    assert "hill.toml:5:1: seeds is not what it was when tune-1 began: [1, 2]; put it back" in changed.stderr
    write()
    journal_file = folder / "runs" / "tune-1" / "journal.log"
    journal_file.write_text("not json\n" + journal_file.read_text())
    broken = tune("--resume", "1")
    assert broken.exit_code == 1
    assert "journal.log: cannot be read: JSONDecodeError" in broken.stderr


def test_a_changed_trainer_ends_a_sweep(folder: Path) -> None:
    own = folder / "own.py"
    own.write_text(HILL.read_text())
    assert tune(write(SPEC.replace(str(HILL), "own.py")), "--trials", 1).exit_code == 0
    own.write_text(HILL.read_text() + "\n# changed\n")
    result = tune("--resume", "latest", "--trials", 2)
    assert result.exit_code == 2
    assert "own.py: has changed since tune-1 began; put it back, or begin a new sweep" in result.stderr


def test_the_shell_completes_names_of_sweeps(folder: Path) -> None:
    context: Any = SimpleNamespace(params={})
    parameter: Any = None
    assert complete_sweep(context, parameter, "") == []
    for _ in range(2):
        SweepDir.create(folder / "runs", {}, "")
    assert [item.value for item in complete_sweep(context, parameter, "")] == ["latest", "tune-1", "tune-2"]
    assert [item.value for item in complete_sweep(context, parameter, "t")] == ["tune-1", "tune-2"]


def test_without_optuna_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    result = tune(write())
    assert result.exit_code == 2
    assert "pip install 'p3kit[tune]'" in result.stderr


# --- parts ------------------------------------------------------------------------------------------------------------


def test_choices_come_back_as_they_were_written(folder: Path) -> None:
    text = SPEC.replace(
        "space.hidden = [[8], [16, 16]]", 'space."env.stop" = ["off", 0.02]\nspace.hidden = [[8], [16, 16]]'
    )
    tuned = load_spec(write(text)).spec
    assert tuned.tune is not None
    space = Space(tuned.tune)
    params, outside = space.of_spec(tuned)
    assert (params, outside) == ({"ppo.x": 0.9, "env.stop": "off", "ppo.hidden": "[8]"}, [])
    assert space.to_spec(params) == {"ppo.x": 0.9, "env.stop": "off", "ppo.hidden": [8]}
    assert space.to_spec({"ppo.hidden": "[16, 16]"}) == {"ppo.hidden": [16, 16]}
    assert space.settings() is None
    (kinds,) = ({path: type(one).__name__ for path, one in space.distributions().items()},)
    assert kinds == {
        "ppo.x": "FloatDistribution",
        "env.stop": "CategoricalDistribution",
        "ppo.hidden": kinds["env.stop"],
    }


def test_the_seed_mean_goes_by_what_weights_are_chosen_by(folder: Path) -> None:
    plan = {"name": "A", "total_timesteps": 200, "spec": {"checkpoints": {"best_from": 0.6}}}
    run = RunDir.create(folder / "runs", {"name": "a", "trainer": "hill", "agents": [plan]}, "", HILL)
    for step, sharpe in ((100, 0.4), (150, 0.1), (200, 0.2)):
        metrics = {"eval/total_return": 0.0, "eval/sharpe_ratio": sharpe}
        run.append_metrics([{"agent": "A", "iteration": 1, "global_step": step, "time": 0.0, "metrics": metrics}])
    mean = SeedMean([run])
    mean.update()
    assert [mean.at(step) for step in (99, 100, 150, 200)] == [None, 0.4, 0.1, 0.2]


def test_the_seed_mean_is_of_the_best_so_far(folder: Path) -> None:
    info = {"name": "a", "trainer": "hill", "agents": [{"name": "A.s1"}, {"name": "A.s2"}]}
    run = RunDir.create(folder / "runs", info, "", HILL)
    run.update_status(state="running")
    mean = SeedMean([run])

    def evaluate(agent: str, step: int, sharpe: float | None) -> None:
        metrics = {"eval/total_return": 0.0, "eval/sharpe_ratio": sharpe}
        row = {"agent": agent, "iteration": 1, "global_step": step, "time": 0.0, "metrics": metrics}
        run.append_metrics([row])

    evaluate("A.s1", 100, 0.4)
    mean.update()
    assert (mean.reached, mean.at(100)) == (0, None)  # the other one has not started
    evaluate("A.s2", 100, None)
    evaluate("A.s1", 200, 0.1)
    mean.update()
    assert (mean.reached, mean.at(99), mean.at(100), mean.at(200)) == (100, None, 0.2, 0.2)
    evaluate("A.s2", 200, -0.2)  # its first trades: worse than none, but weights that trade are what is chosen
    mean.update()
    assert mean.at(200) == pytest.approx(0.1)
    run.cut_after({"A.s1": 100, "A.s2": 100})
    run.append_event("resume", global_step=100)
    evaluate("A.s1", 200, 0.9)
    run.update_status(state="done", agents={"A.s1": {"state": "done"}, "A.s2": {"state": "done"}})
    mean.update()
    assert mean.reached == float("inf")  # both ended, one of them early
    assert mean.at(float("inf")) == pytest.approx(0.45)


def test_the_live_table_fits_a_terminal() -> None:
    values = {"ppo.learning_rate": 0.000312345, "ppo.ent_coef": 0.01, "ppo.n_epochs": 10, "ppo.hidden": [64, 64]}
    trials = [
        TrialView(0, "complete", 1.0, 0.41, values),
        TrialView(1, "pruned", 0.4, -0.2, values),
        TrialView(2, "complete", 1.0, 0.62, values),
        TrialView(3, "running", 0.5, None, values),
    ]
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    with LiveTrials(console, "hill · tune-1", 2, 24, lambda _: trials) as display:
        display.show([])
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", console.file.getvalue())  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in drawn.splitlines()][-6:]
    assert lines[0].startswith("hill · tune-1 · 5 of 24 trials · 1 running, 1 pruned · 0:00 · about 0:00 left")
    assert lines[1].split() == ["trial", "state", "progress", "Sharpe", "values"]
    assert lines[2].split()[:2] == ["0", "complete"]
    assert lines[4].split()[:2] == ["2", "best"]
    assert "learning_rate 0.000312, ent_coef 0.01" in lines[4]
    assert max(map(len, lines)) <= 80
