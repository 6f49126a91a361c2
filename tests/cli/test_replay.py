"""`p3kit run --replay`, as a user gives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """
name = "tiny"
symbols = ["TINY"]
[data]
source = "synthetic"
synthetic = { bars = 2_000 }
[env]
num_envs = 4
episode_bars = 32
[ppo]
total_timesteps = 512
n_steps = 32
batch_size = 64
n_epochs = 2
hidden = [16]
[evaluation]
every = 512
[checkpoints]
every = 128
[diagnose.budget]
lost_steps_pct = 100
[[intervention]]
id = "back"
on = { metric = "progress", op = ">=", value = 0.5 }
do = [{ rollback = "init" }, { scale = "learning_rate", by = 0.5, min = 1e-6 }]
"""


def p3kit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p3kit", *arguments, "--no-aim"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_is_repeated_by_its_journal_and_another_spec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SPEC)
    first = p3kit(tmp_path, "run", "tiny.toml")
    assert first.returncode == 0, first.stderr
    assert "intervened" in first.stdout
    assert "back fired: ppo.learning_rate 3e-4 → 1.5e-4, back to init" in first.stderr
    again = p3kit(tmp_path, "run", "tiny.toml", "--replay", "run-1")
    assert again.returncode == 0, again.stderr
    assert "run-2 repeats run-1: the same weights, SHA-256" in again.stdout
    other = p3kit(tmp_path, "run", "tiny.toml", "--replay", "run-1", "--set", "ppo.gamma=0.5")
    assert other.returncode == 2
    assert "had another spec: ppo.gamma 0.99 → 0.5" in other.stderr
    assert "Traceback" not in other.stderr
