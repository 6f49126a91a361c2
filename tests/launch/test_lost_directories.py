"""Run directories that somebody deletes or renames while p3kit trains: each is marked, and the other runs go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from p3kit.rundir import RunDir

ROOT = Path(__file__).parents[2]
SPEC = f"""
name = "x"
trainer = "{ROOT / "tests/launch/fake_trainer.py"}"
symbols = ["A", "B", "C", "D", "E"]
data = {{ source = "synthetic", synthetic = {{ bars = 2000 }} }}
ppo = {{ total_timesteps = 2000, pause = 0.2 }}
"""


def test_a_deleted_and_a_renamed_run_stop_none_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(SPEC)
    command = [sys.executable, "-m", "p3kit", "run", "x.toml", "--no-aim", "--jobs", "2", "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all((runs / f"run-{n}/metrics.jsonl").exists() for n in (1, 2)):
        time.sleep(0.05)
    (runs / "run-2").rename(tmp_path / "renamed")  # trains
    (runs / "run-1").rename(tmp_path / "gone")  # trains; a rename is one step, so nothing is written meanwhile
    shutil.rmtree(tmp_path / "gone")
    shutil.rmtree(runs / "run-4")  # waits for its turn
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    states = {run["run"]: run["state"] for run in json.loads(output)["runs"]}
    assert states == {"run-1": "crashed", "run-2": "crashed", "run-3": "done", "run-4": "crashed", "run-5": "done"}
    for name in ("run-1", "run-2", "run-4"):
        assert f"{name} crashed: its directory runs/{name} was deleted or renamed; the other runs go on" in errors
    assert "Traceback" not in errors
    assert [RunDir(runs / name).status()["state"] for name in ("run-3", "run-5")] == ["done", "done"]
    assert "p3kit resume" not in errors
