"""Output that cannot be written as it is: other encodings, closed and full streams, pipes, narrow terminals."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.diagnose.test_table import all_hold
from tests.made_runs import intervene, make_run

ROOT = Path(__file__).parents[2]
P3KIT = f"{sys.executable} -m p3kit"
HILL = f"""
name = "hill"
trainer = "{ROOT / "tests" / "tune" / "hill.py"}"
symbols = ["AAPL"]
evaluation.every = 100
ppo.x = 0.3
"""
LONG = "AAPL.s1.hidden=(128, 128, 128).gae_lambda=0.95.stop=0.02"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "runs", agent_name=LONG, fault=all_hold, verdict="FAIL")
    intervene(run, "fired", 31_000, keys={"ppo.ent_coef": [0.01, 0.05]}, agent=LONG)
    (tmp_path / "hill.toml").write_text(HILL)
    return tmp_path


def shell(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run `line` in bash; `p3kit` in it is this one."""
    environment = {key: value for key, value in os.environ.items() if key not in ("P3KIT_RUNS", "COLUMNS")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; p3kit() {{ {P3KIT} "$@"; }}; {line}'],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=300,
    )


READING = ("runs", "diagnose latest", "plan hill.toml")
OTHERS = ("diagnose latest --explain 1", "compare --help", "show hill.toml", "compare 1 1")
SLOW = pytest.mark.slow


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=SLOW), pytest.param("cp1252", marks=SLOW)])
def test_a_terminal_of_another_encoding(folder: Path, encoding: str) -> None:
    for command in READING if encoding == "ascii" else (*READING, *OTHERS):
        done = shell(folder, f"p3kit {command}", PYTHONIOENCODING=encoding)
        assert b"Traceback" not in done.stderr, (command, done.stderr)
        done.stdout.decode(encoding)


LOST = (">&-", "2>&-", ">&- 2>&-", "| head -1", "2>&1 | head -1", "> /dev/full", "2> /dev/full")


@pytest.mark.parametrize("lost", [one if one == "> /dev/full" else pytest.param(one, marks=SLOW) for one in LOST])
@pytest.mark.parametrize(("change", "code", "state"), [("", 0, "done"), ("--set ppo.crash_above=0.1", 1, "crashed")])
def test_a_training_keeps_its_exit_code(folder: Path, lost: str, change: str, code: int, state: str) -> None:
    done = shell(folder, f"p3kit run hill.toml --no-aim {change} {lost}")
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert f'"state": "{state}"' in (folder / "runs" / "run-2" / "status.json").read_text()


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=SLOW)])
def test_a_training_in_another_encoding(folder: Path, encoding: str) -> None:
    done = shell(folder, "p3kit run hill.toml --no-aim", PYTHONIOENCODING=encoding)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"hill: verdicts on the validation split" in done.stdout
    assert "more notes: p3kit plan hill.toml" in done.stderr.decode(encoding)


def test_a_reader_that_leaves_is_no_failure_and_a_full_disk_is_one(folder: Path) -> None:
    left = shell(folder, "p3kit show hill.toml | true")
    assert (left.returncode, left.stderr) == (0, b"")
    assert shell(folder, "p3kit runs >&-").returncode == 0
    full = shell(folder, "p3kit runs > /dev/full")
    assert full.returncode == 1
    assert full.stderr == b"stdout: No space left on device; what was printed is not complete\n"


@pytest.mark.parametrize("columns", ["40", pytest.param("300", marks=SLOW)])
def test_in_a_pipe_nothing_is_cut(folder: Path, columns: str) -> None:
    runs = shell(folder, "p3kit runs | cat", COLUMNS=columns).stdout.decode()
    assert re.search(rf"(?m)^run-1 .* {re.escape(LONG)} .* FAIL", runs), runs
    matrix = "[matrix]\nhidden = [[64, 64, 64], [8]]\nx = [0.1, 0.2]\n"
    (folder / "matrix.toml").write_text(HILL.replace("ppo.x = 0.3\n", "") + matrix)
    plan = shell(folder, "p3kit plan matrix.toml | cat", COLUMNS=columns).stdout.decode()
    assert plan.count("(64, 64, 64)") + plan.count("64x64x64") == 2, plan
    assert "…" not in runs + plan


def in_terminal(folder: Path, command: str, columns: int) -> str:
    """Output of `command` on a terminal so wide, without its colours."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("P3KIT_RUNS", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*P3KIT.split(), *command.split()],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # the terminal is closed
        while chunk := os.read(main, 65536):
            output += chunk
    process.wait(timeout=60)
    os.close(main)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode()).replace("\r\n", "\n")


@pytest.mark.slow
def test_in_a_narrow_terminal_agent_and_verdict_stay(folder: Path) -> None:
    make_run(folder / "runs", symbol="HD")
    for columns in (40, 60):
        shown = in_terminal(folder, "runs", columns)
        assert re.search(r"(?m)^run-2 .*\bHD\b.*\bPASS\b", shown), shown
        assert max(map(len, shown.splitlines())) <= columns
        plan = in_terminal(folder, "plan hill.toml", columns)
        assert re.search(r"(?m)^ *1? *AAPL\b", plan), plan
        verdicts = in_terminal(folder, "run hill.toml --no-aim", columns)
        assert re.search(r"(?m)^(run-\d+/)?AAPL +FAIL", verdicts), verdicts


def test_every_console_is_ours() -> None:
    """A console of rich itself would print foreign text as it is, and cut tables in pipes."""
    for file in sorted((ROOT / "p3kit").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for scope in ast.walk(ast.parse(text)):
            if isinstance(scope, ast.FunctionDef):
                imported = [n for n in scope.body if isinstance(n, ast.ImportFrom) and n.module == "rich.console"]
                built = re.search(r"(?<![\w.])Console\(", ast.unparse(scope))
                assert not (imported and built), f"{file}:{scope.lineno}"
        at_top = re.search(r"(?m)^from rich\.console import .*\bConsole\b", text)
        inside = re.search(r"from p3kit\.console import .*\bConsole$", text)
        assert not at_top or inside or not re.search(r"(?<![\w.])Console\(", text), file
