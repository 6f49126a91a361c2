"""Every day: completion, filters, quiet and verbose, colours and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from p3kit.cli import COMMANDS, main
from p3kit.rundir import RunDir
from tests.command import invoke
from tests.made_runs import SPEC, TRAINER


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs of two experiments, in four states."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    rows = [
        ("phase3", "AAPL", "done", "PASS"),
        ("phase3", "AMD", "failed", None),
        ("phase3-hourly", "AAPL", "done", "FAIL"),
        ("tune", "XOM", "stopped", None),
    ]
    for name, symbol, state, grade in rows:
        agent = {"name": f"{symbol}.s1", "symbol": symbol, "seed": 1, "spec": SPEC, "total_timesteps": 1_000}
        info = {"name": name, "trainer": "ppo", "created": time.time(), "spec": SPEC, "data": {}, "agents": [agent]}
        run = RunDir.create(tmp_path / "runs", info, "", TRAINER)
        told = {"state": state} | ({"verdict": {"grade": grade}} if grade else {})
        run.write_status({"state": state, "agents": {f"{symbol}.s1": told}})
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["run-1", "run-2", "run-3", "run-4"]),
        (["--name", "phase3"], ["run-1", "run-2"]),
        (["--name", "phase3*"], ["run-1", "run-2", "run-3"]),
        (["--state", "failed", "--state", "stopped"], ["run-2", "run-4"]),
        (["--symbol", "AAPL"], ["run-1", "run-3"]),
        (["--grade", "pass"], ["run-1"]),
        (["--last", "2"], ["run-3", "run-4"]),
        (["--symbol", "AAPL", "--last", "1"], ["run-3"]),
        (["--symbol", "NVDA"], []),
    ],
)
@pytest.mark.usefixtures("runs")
def test_filters_narrow_the_list(words: list[str], found: list[str]) -> None:
    assert [line["run"] for line in json.loads(invoke("runs", "--json", *words).stdout)] == found
    told = invoke("runs", *words)
    assert [line.split()[0] for line in told.stdout.splitlines() if line.startswith("run-")][: len(found)] == found
    if not found:
        assert told.stderr == "none of 4 runs in runs fits; p3kit runs lists all\n"


# ---------------------------------------------------------------------- completion


@pytest.fixture
def press_tab(runs: Path) -> Callable[[str], list[str]]:
    """Completions of a line that the shell gets for Tab: words, without their kind."""
    (runs / "specs").mkdir()
    for name in ("mine.toml", "specs/phase3.toml", "specs/own.toml"):
        (runs / name).write_text('name = "x"\nsymbols = ["AAPL"]\n')

    def press(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_P3KIT_COMPLETE": "bash_complete"}
        result = CliRunner(env=words).invoke(main, prog_name="p3kit", catch_exceptions=False)
        assert result.stderr == ""
        return [row.split(",", 1)[1] for row in result.stdout.splitlines()]

    return press


def test_tab_completes_commands_specs_runs_agents_and_trainers(press_tab: Callable[[str], list[str]]) -> None:
    assert press_tab("p3kit re") == ["resume", "retrain", "report"]
    assert press_tab("p3kit run m") == ["mine.toml"]
    specs = press_tab("p3kit validate specs/p")
    assert specs[:1] == ["specs/phase3.toml"]
    assert "specs/phase4.toml" in specs  # shipped, and not in this folder
    assert press_tab("p3kit diagnose ") == ["latest", "run-1", "run-2", "run-3", "run-4"]
    assert press_tab("p3kit diagnose run-2/") == ["run-2/AMD.s1"]
    assert press_tab("p3kit show run-4") == ["run-4"]
    assert press_tab("p3kit eject ppo_s") == ["ppo_shared", "ppo_stacked"]
    assert press_tab("p3kit runs --state f") == ["failed"]
    assert press_tab("p3kit run mine.toml --j") == ["--jobs", "--json"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_P3KIT_COMPLETE" in result.stdout
    assert json.loads(invoke("completion", shell, "--json").stdout)["shell"] == shell


def test_bash_takes_the_script(tmp_path: Path) -> None:
    script = tmp_path / "p3kit.bash"
    script.write_text(invoke("completion", "bash").stdout)
    told = subprocess.run(["bash", "-c", f"source {script} && complete -p p3kit"], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert "_p3kit_completion" in told.stdout


# ---------------------------------------------------------------------- loud and quiet


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet_verbose_and_speak_json(name: str) -> None:
    groups = {"data": ("data", "describe"), "paper": ("paper", "trade")}
    text = invoke(*groups.get(name, (name,)), "--help").output
    assert "-q, --quiet" in text
    assert "-v, --verbose" in text
    assert "--json" in text or name == "schema"  # which is JSON anyway


@pytest.mark.parametrize("words", [("-q", "init"), ("init", "-q"), ("init", "--quiet")])
def test_quiet_leaves_the_result(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*words)
    assert (result.stdout, result.stderr) == ("wrote experiment.toml\nwrote p3kit.schema.json\n", "")
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "is there already" in refused.stderr


def test_verbose_says_what_a_report_of_a_fault_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fine = invoke("-v", "init")
    assert fine.stderr.splitlines()[-1].startswith("p3kit 0.")
    assert ", Python 3." in fine.stderr
    refused = invoke("init", "-v")
    assert "Traceback" in refused.stderr
    assert "starter.py" in refused.stderr
    assert "experiment.toml: is there already" in refused.stderr
    assert "Traceback" not in invoke("init").stderr


@pytest.mark.usefixtures("runs")
def test_a_pipe_gets_whole_lines_without_colours() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "p3kit", "runs"],
        capture_output=True, text=True, env=os.environ | {"COLUMNS": "40", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert told.returncode == 0
    assert "\x1b" not in told.stdout
