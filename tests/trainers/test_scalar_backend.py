"""trainers/ppo.py learns the same from either backend: a whole run, training and evaluation, done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.test_ppo_runs import plan_run, rows_of, train

SHORT = ("ppo.total_timesteps=600", "env.stop=0.03")


@pytest.mark.slow
def test_a_run_on_plain_accounts_has_the_metrics_of_the_batched_one(tmp_path: Path) -> None:
    """To 1e-6 relative. Rewards differ by 1e-15 or so; a float32 of the network that rounds the other way for it would
    show as 1e-7, and one other action as far more."""
    tables = []
    for backend in ("batched", "scalar"):
        folder = tmp_path / backend
        folder.mkdir()
        tables.append(rows_of(train(plan_run(folder, (*SHORT, f'env.backend="{backend}"')))))
    batched, scalar = tables
    assert len(batched) == len(scalar)
    for one, other in zip(batched, scalar, strict=True):
        assert (one["step"], one["iteration"]) == (other["step"], other["iteration"])
        expected, found = ({name: float(v) for name, v in row["metrics"].items()} for row in (one, other))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), one["step"]
    assert any("eval/total_return" in row["metrics"] for row in scalar)
