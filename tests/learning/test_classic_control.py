"""CartPole-v1 and LunarLander-v3 against Stable-Baselines3's PPO, and the parts of that comparison.

The comparison itself is slow (`tox -e slow`): forty trainings of 500,000 steps, most of an hour on one core. Its
figures stand in trainers/README.md and, in full, in `results/classic_control.json`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .classic_control import TASKS, run, table


@pytest.mark.slow
def test_not_below_stable_baselines3_on_classic_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(list(TASKS), range(1, 11), 500_000, tmp_path, processes=2)
    with capsys.disabled():
        print("\n" + table(figures))
    assert all(task["reached"] for task in figures["tasks"].values())
