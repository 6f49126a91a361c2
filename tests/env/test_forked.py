"""Vector environments of gymnasium in processes, as users start them: with any context, without OMP_NUM_THREADS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

import gymnasium
import numpy as np
import torch

import p3kit.env

if __name__ == "__main__":
    context, warm = sys.argv[1:]
    torch.set_num_threads(2)
    if warm == "warm":
        env = gymnasium.make("p3kit/Trading-v1", symbol="AAPL")
        env.reset(seed=1)
        env.step(0)
        torch.ones(1_000_000).exp().sum()
    chosen = {} if context == "default" else {"vector_kwargs": {"context": context}}
    vector = gymnasium.make_vec("p3kit/Trading-v1", num_envs=2, vectorization_mode="async", symbol="AAPL", **chosen)
    vector.reset(seed=1)
    print("stepped", vector.step(np.array([0, 0]))[0].shape[0])
    vector.close()
"""


@pytest.mark.parametrize("context", ["default", "fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_an_env_survives_every_way_of_starting_a_process(context: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    warm = "warm" if context in ("default", "fork") else "cold"
    result = subprocess.run(
        [sys.executable, str(program), context, warm],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.stdout == "stepped 2\n", result.stderr
