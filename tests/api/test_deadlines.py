"""Waiting for other people's code has an end: Aim on a full disk, Ray, pictures, a child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p3kit.launch.deadlines import abandoned, ends_within

ROOT = Path(__file__).parents[2]
HILL = f'name = "hill"\ntrainer = "{ROOT / "tests" / "tune" / "hill.py"}"\nsymbols = ["AAPL"]\nppo.x = 0.3\n'
P3KIT = (
    "import p3kit.aim_mirror.mirror as mirror; mirror.SILENT_S = {silent}; {more}; from p3kit.cli import main; main()"
)
HANG = (
    "import time, p3kit.aim_mirror.store as store; store.AimStore.publish = lambda *arguments: time.sleep(1e6); "
    "import atexit; atexit.register(time.sleep, 1e6)"
)


def command(silent: float, more: str, *words: str) -> list[str]:
    return [sys.executable, "-c", P3KIT.format(silent=silent, more=more), *words]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hill.toml").write_text(HILL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    return tmp_path


def state(folder: Path) -> str:
    return str(json.loads((folder / "runs" / "run-1" / "status.json").read_text())["state"])


@pytest.mark.aim
def test_a_mirror_that_hangs_is_left_alone(folder: Path) -> None:
    done = subprocess.run(command(2.0, HANG, "run", "hill.toml"), capture_output=True, text=True, timeout=120)
    assert (done.returncode, state(folder)) == (0, "done"), done.stderr
    assert "warning: the Aim mirror hangs, as it does on a full disk" in done.stderr
    assert "hill: verdicts on the validation split" in done.stdout


@pytest.mark.aim
def test_ctrl_c_ends_the_wait_for_a_mirror(folder: Path) -> None:
    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it

    with subprocess.Popen(
        command(1e6, HANG, "run", "hill.toml"), stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    ) as process:
        deadline = time.monotonic() + 120
        while not (folder / "runs" / "run-1" / "status.json").exists() or state(folder) != "done":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3.0)  # the launcher waits for the mirror now
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "pictures and the Aim mirror are not up to date" in process.stderr.read()


@pytest.mark.aim
@pytest.mark.slow
def test_sync_ends_where_aim_hangs(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "p3kit", "run", "hill.toml", "--no-aim"], capture_output=True, check=True)
    done = subprocess.run(command(2.0, HANG, "sync"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert ".aim: Aim hangs, as it does on a full disk; free some space and try again" in done.stderr


@pytest.mark.aim
@pytest.mark.slow
@pytest.mark.parametrize("room_kb", [200, 350, 450, 600, 750, 900, 2000])
def test_a_full_disk_under_the_mirror_leaves_the_training_alone(folder: Path, room_kb: int) -> None:
    (folder / "disk").mkdir()
    isolated = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    mount = f"mount -t tmpfs -o size={room_kb}k tmpfs {folder}/disk"
    if subprocess.run([*isolated, "bash", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    words = command(5.0, "pass", "run", "hill.toml", "--aim-repo", f"{folder}/disk")
    done = subprocess.run(
        [*isolated, "bash", "-c", f'{mount} && exec "$@"', "bash", *words], capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, state(folder)) == (0, "done"), done.stderr
    assert "Traceback" not in done.stderr
    assert room_kb > 1000 or "warning: " in done.stderr


def test_work_that_does_not_end_is_abandoned() -> None:
    assert ends_within(5.0, "short", lambda: None)
    assert not ends_within(0.05, "endless", lambda: time.sleep(2.0))
    assert abandoned.pop() == "endless"
    assert not abandoned
