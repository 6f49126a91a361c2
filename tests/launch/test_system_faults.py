"""Faults of the world around runs: disks, clocks, memory, processes that hang or talk on and on, two commands at once.

Each test ends with the user's message, and with the run continuing if it can.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from p3kit.errors import InputError, P3kitError
from p3kit.launch import backtest, local
from p3kit.rundir import RunDir, list_runs, rows
from tests.launch.launching import resume
from tests.made_runs import make_run

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "launch" / "fake_trainer.py"
Shell = Callable[[str], subprocess.CompletedProcess[str]]


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---------------------------------------------------------------------- processes


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (
            2,
            InputError,
            "run-1/AAPL: cannot be evaluated: a.csv: row 2: x; y\nrun-1/AAPL: cannot be evaluated: a.csv: row 3: z",
        ),
        (1, P3kitError, "run-1/AAPL: cannot be evaluated: a.csv: row 3: z; see load_policy in its trainer.py"),
    ],
)
def test_faults_of_the_bars_are_no_faults_of_the_trainer(
    code: int, kind: type[P3kitError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], code, stdout="", stderr="a.csv: row 2: x; y\na.csv: row 3: z\n")
    monkeypatch.setattr(backtest, "find_checkpoint", lambda *_: "last")
    monkeypatch.setattr(backtest, "evaluating_trainer", lambda *_: None)
    monkeypatch.setattr(backtest, "run_trainer", lambda *_: ended)
    with pytest.raises(kind) as caught:
        backtest.replay(make_run(tmp_path, agent_name="AAPL"), "AAPL", "last", split="validation")
    assert (str(caught.value), caught.value.exit_code) == (message, code)


def test_a_trainer_that_hangs_is_ended_and_the_next_one_gets_its_slot(start, plan, console, monkeypatch) -> None:
    monkeypatch.setattr(local, "HUNG_AFTER_S", 5.0)
    begun = time.monotonic()
    outcome = start(plan("A", end="deaf", at=500), plan("B"), jobs=1)
    assert outcome.states == {"run-1": "crashed", "run-2": "done"}
    assert time.monotonic() - begun < 120
    assert "run-1 crashed: it gave no sign of life for 0 min, so it was ended" in said(console)
    assert resume(outcome.runs[:1], jobs=1, console=console).states == {"run-1": "done"}


def test_a_trainer_that_talks_without_end_fills_no_disk(start, plan, monkeypatch) -> None:
    whole = RunDir.trim_log
    monkeypatch.setattr(RunDir, "trim_log", lambda run: whole(run, 2_000_000, 500_000))
    monkeypatch.setattr(local, "LOOK_S", 0.05)
    outcome = start(plan("A", end="talk", at=100))
    (run,) = outcome.runs
    assert outcome.states == {"run-1": "done"}
    run.trim_log()
    content = run.log_file.read_bytes()
    assert len(content) <= 2_000_000
    assert re.match(rb"\[[\d,]+ bytes of output were cut off here\]\n", content)


def test_a_trainer_that_eats_all_memory_fails_by_name(start, plan, console) -> None:
    outcome = start(plan("A", end="eat", at=700), plan("B"))
    assert outcome.states == {"run-1": "crashed", "run-2": "done"}
    assert "| MemoryError" in said(console)
    assert resume(outcome.runs[:1], jobs=1, console=console).states == {"run-1": "done"}


def test_one_degraded_run_among_ten(start, plan, console) -> None:
    plans = [plan(f"A{number}", **({"end": "kill", "at": 500} if number == 4 else {})) for number in range(10)]
    outcome = start(*plans)
    assert [name for name, state in outcome.states.items() if state != "done"] == ["run-5"]
    assert len(outcome.states) == 10
    assert said(console).count("crashed: its process was killed by SIGKILL") == 1


# ---------------------------------------------------------------------- clocks


def test_a_clock_that_is_set_back_or_forth_makes_nobody_look_dead(start, plan, monkeypatch) -> None:
    """The watchdog uses its own clock; times in the status count only if they change."""
    monkeypatch.setattr(local, "HUNG_AFTER_S", 60.0)
    clock, real = {"ahead": 0.0}, time.time

    def jumping() -> float:
        clock["ahead"] += 5_000 if len(str(clock["ahead"])) % 2 else -9_000
        return real() + clock["ahead"]

    monkeypatch.setattr("p3kit.launch.local.time.time", jumping)
    assert start(plan("A"), plan("B")).states == {"run-1": "done", "run-2": "done"}


def test_a_heartbeat_goes_on_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from p3kit.runtime import run as runtime

    written: list[float] = []
    ours = SimpleNamespace(_written=-1e9)

    def write() -> None:
        written.append(runtime.time.time())
        ours._written = runtime.time.monotonic()

    ours._write_status = write
    monkeypatch.setattr(runtime, "STATUS_SECONDS", 0.0)
    for of_day in (2e9, 1e9, 0.0):
        monkeypatch.setattr(runtime.time, "time", lambda of_day=of_day: of_day)
        runtime.Run.heartbeat(ours)  # type: ignore[arg-type]
    assert written == [2e9, 1e9, 0.0]


# ---------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[str], Shell]:
    """`disk("size=300k")` gives a shell in which $DISK is a small disk of its own; it goes with the shell."""
    place = tmp_path / "disk"
    place.mkdir()
    isolated = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    try:
        allowed = subprocess.run([*isolated, "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare on this system")
    if allowed.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    (tmp_path / "trial.toml").write_text(f'name = "trial"\ntrainer = "{FAKE_TRAINER}"\nsymbols = ["AAPL"]\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISK": str(place), "P3KIT_RUNS": f"{place}/runs"}
    environment["P3KIT"] = f"{sys.executable} -m p3kit"

    def of_size(options: str) -> Shell:
        def shell(script: str) -> subprocess.CompletedProcess[str]:
            whole = f"mount -t tmpfs -o {options} tmpfs $DISK\n{script}"
            return subprocess.run(
                [*isolated, "bash", "-c", whole],
                env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip

        return shell

    return of_size


def parts_of(output: str) -> list[str]:
    return output.split("== ")[1:]


@pytest.mark.parametrize(
    "room_kb",
    [
        8,
        *(pytest.param(kb, marks=pytest.mark.slow) for kb in (0, 4, 12, 16, 20, 24, 28)),
    ],
)
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(disk, room_kb: int) -> None:
    """A run that fits the disk is squeezed by a filler so that it fills up at some write, whichever it is."""
    shell = disk("size=400k")(f"""
        head -c $((400 * 1024 - {room_kb} * 1024)) /dev/zero > $DISK/filler
        $P3KIT run trial.toml --no-aim --jobs 1; echo "== run $?"
        $P3KIT runs; echo "== runs $?"
        rm $DISK/filler
        if [ -e $DISK/runs/run-1/run.json ]; then $P3KIT resume run-1 --no-aim; else $P3KIT run trial.toml --no-aim; fi
        echo "== again $?"
        $P3KIT runs --json
    """)
    first, second, last = parts_of(shell.stdout)
    assert "again 0" in last, shell.stdout + shell.stderr
    assert [line["state"] for line in json.loads(last.partition("\n")[2])] == ["done"]
    before_there_was_room = shell.stderr.partition("== ")[0]
    assert "run 1" in first, "the run fits: nothing was tried"
    assert "No space left on device" in before_there_was_room, before_there_was_room
    assert "free some space" in before_there_was_room
    assert second.startswith("runs ")
    ours = [line for line in before_there_was_room.splitlines() if not line.startswith(("  | ", "["))]
    assert not any(line.startswith("Traceback") for line in ours), shell.stderr


def test_a_folder_that_may_only_be_read_is_read(disk) -> None:
    shell = disk("size=4m")(f"""
        {sys.executable} - <<'END'
from pathlib import Path
import os
from tests.made_runs import make_run
from p3kit.rundir import RunDir
root = Path(os.environ["P3KIT_RUNS"])
make_run(root)
gone = make_run(root, state="running")
gone.write_status(gone.status() | {{"state": "running", "pid": 999_999_999}})
END
        mount -o remount,ro $DISK
        $P3KIT runs; echo "== runs $?"
        $P3KIT diagnose run-1 --patch > /dev/null; echo "== diagnose $?"
        $P3KIT compare run-1 run-2 > /dev/null; echo "== compare $?"
        $P3KIT report --week 1 --output $PWD/reports; echo "== report $?"
        $P3KIT run trial.toml --no-aim; echo "== run $?"
        $P3KIT resume run-2 --no-aim; echo "== resume $?"
        $P3KIT stop run-2; echo "== stop $?"
    """)
    codes = {name: int(code) for name, code in re.findall(r"^== (\w+) (\d+)$", shell.stdout, re.MULTILINE)}
    told = shell.stdout + shell.stderr
    assert codes == {"runs": 0, "diagnose": 0, "compare": 0, "report": 0, "run": 1, "resume": 1, "stop": 1}, told
    assert "Traceback" not in told, told
    assert "run-1" in shell.stdout
    assert "run-2: crashed, but its status cannot be saved: " in shell.stderr
    assert shell.stderr.count("Read-only file system") >= 4


WRITERS: dict[str, Callable[[RunDir], object]] = {
    "metrics": lambda run: run.append_metrics(
        [{"agent": "AAPL", "iteration": 99, "global_step": 99, "time": 0.0, "metrics": {"policy/entropy": 1.0}}]
    ),
    "journal": lambda run: run.append_event("note", text="x"),
    "status": lambda run: run.write_status({"state": "done", "agents": {}}),
    "run.json": lambda run: run.update_info(notes=["x"]),
    "histogram": lambda run: run.write_histogram("reward", "AAPL", 1, {"edges": [0, 1], "counts": [1]}),
    "replay": lambda run: run.write_replay("x", {"bars": []}),
    "cut for a resume": lambda run: run.cut_after({"AAPL": 8_192, "none": 0}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_of_a_run_keeps_what_was_there_when_a_write_fails(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    class Full(io.FileIO):
        def write(self, content: object) -> int:
            super().write(bytes(content)[:10])  # type: ignore[call-overload]
            return full()

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", *r, **n: Full(path, "w") if mode == "wb" else opened(path, mode, *r, **n)
    )
    monkeypatch.setattr(rows.os, "fdopen", lambda number, *r, **n: Full(number, "r+"))
    with pytest.raises(P3kitError, match=r"cannot be written \(No space left on device\); free some space or fix"):
        WRITERS[name](run)
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    if name == "cut for a resume":  # half of it may be done; the next resume does the rest
        metrics = run.path / "metrics.jsonl"
        assert before[metrics].startswith(after[metrics])
        assert [row["global_step"] for row in run.read_metrics()] == [4_096, 8_192, 8_192]
        after[metrics] = before[metrics]
    assert after == before


# ---------------------------------------------------------------------- two at once


@pytest.mark.slow
@pytest.mark.aim
def test_two_runs_and_a_mirror_at_once_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "trial.toml").write_text(f'name = "trial"\ntrainer = "{FAKE_TRAINER}"\nsymbols = ["AAPL", "AMD"]\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def p3kit(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "p3kit", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
        )

    commands = [["run", "trial.toml"], ["run", "trial.toml", "--no-aim"], ["sync"], ["sync"]]
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(p3kit, commands))
    assert [one.returncode for one in ended] == [0, 0, 0, 0], [one.stderr for one in ended]
    assert p3kit(["sync"]).returncode == 0
    runs = list_runs(tmp_path / "runs")
    assert [run.name for run in runs] == ["run-1", "run-2", "run-3", "run-4"]
    assert {run.status()["state"] for run in runs} == {"done"}
    from p3kit.aim_mirror import Mirror

    assert Mirror(tmp_path / "runs").sync().changed == 0
