"""Signals that were ignored when p3kit started (nohup, a job in the background) stay ignored by every handler."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p3kit.rundir import RunDir

ROOT = Path(__file__).parents[2]
SPEC = f"""
name = "x"
trainer = "{ROOT / "tests/launch/fake_trainer.py"}"
symbols = ["A", "B"]
data = {{ source = "synthetic", synthetic = {{ bars = 2000 }} }}
ppo = {{ total_timesteps = STEPS, pause = 0.05 }}
"""
HANDLERS = {
    "the launcher": "from p3kit.launch.local import Interrupts\nInterrupts().__enter__()",
    "the mirror": "from p3kit.cli.aim import _stop_on_signals\n_stop_on_signals()",
}


def test_handlers_are_set_in_one_place() -> None:
    """Elsewhere: a handler that is put back, and SIGTERM of a trainer that p3kit itself started."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "p3kit").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"\bsignal\.signal\(", line) and path.name != "signals.py"
    ]
    assert found == [
        "p3kit/launch/local.py: signal.signal(number, handler)",
        "p3kit/runtime/run.py: signal.signal(signal.SIGTERM, self._on_signal)",
    ]


@pytest.mark.parametrize("who", HANDLERS)
def test_what_is_ignored_stays_ignored_and_the_rest_is_handled(who: str) -> None:
    names = ["SIGINT", "SIGTERM", "SIGHUP"]
    for ignored in names:
        program = f"import signal\nsignal.signal(signal.{ignored}, signal.SIG_IGN)\n{HANDLERS[who]}\n"
        program += f"print([signal.getsignal(getattr(signal, n)) is signal.SIG_IGN for n in {names}])"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout.strip() == str([name == ignored for name in names])


def start(folder: Path, ignored: str, steps: int) -> subprocess.Popen[bytes]:
    (folder / "x.toml").write_text(SPEC.replace("STEPS", str(steps)))
    command = f"trap '' {ignored}; exec {sys.executable} -m p3kit run x.toml --no-aim --jobs 2"
    process = subprocess.Popen(["sh", "-c", command], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (folder / "runs/run-2/metrics.jsonl").exists():
        time.sleep(0.05)
    return process


def test_nohup_survives_a_closed_terminal(tmp_path: Path) -> None:
    process = start(tmp_path, "HUP", 2_000)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert [RunDir(tmp_path / "runs" / name).status()["state"] for name in ("run-1", "run-2")] == ["done", "done"]


def test_trainers_end_even_where_everything_is_ignored_but_one_signal(tmp_path: Path) -> None:
    process = start(tmp_path, "TERM HUP", 200_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert [RunDir(tmp_path / "runs" / name).status()["state"] for name in ("run-1", "run-2")] == ["stopped"] * 2
