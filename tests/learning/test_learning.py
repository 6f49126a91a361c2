"""The learning proof: `p3kit run specs/learning.toml`, scored on 24,000 bars that nobody trained on.

Slow: run it with `tox -e slow` (about twenty minutes on two cores); the figures it prints stand in trainers/README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import pytest

from p3kit.market import load_market
from p3kit.rundir import list_runs
from p3kit.spec import load_spec

from .scoring import Score, score, trained_policy

pytestmark = pytest.mark.slow

SPEC = Path(__file__).parents[2] / "specs" / "learning.toml"
PNL_ALONE = (
    "reward.weights = { pnl = 1.0, cost = 0.0, time = 0.0, sharpe = 0.0, drawdown = 0.0, sizing = 0.0, hold = 0.0 }",
)
NO_EDGE = ("data.synthetic.edge = 0.0",)


def train(folder: Path, overrides: tuple[str, ...] = ()) -> list[Score]:
    """Run the spec as a user would; the score of every agent."""
    flags = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "p3kit", "run", str(SPEC), "--no-aim", "--runs", str(folder), *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3_000:]
    return [score(*trained_policy(run)) for run in list_runs(folder)]


def train_sb3(seed: int) -> Score:
    from . import sb3

    spec = load_spec(SPEC).spec.for_agent("EDGE")
    return score(spec, "EDGE", sb3.train(spec, load_market(spec, ["EDGE"])["EDGE"], "EDGE", seed))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[Score]:
    return train(tmp_path_factory.mktemp("ours"))


def tell(capsys: pytest.CaptureFixture[str], what: str, scores: list[Score]) -> None:
    with capsys.disabled():
        shares = ", ".join(f"{s.share:.2f}" for s in scores)
        yearly = ", ".join(f"{s.yearly:+.3f}" for s in scores)
        print(f"\n{what}: share of the attainable score {shares}; log return a year {yearly}")


def test_default_reward_reaches_sixty_percent(ours: list[Score], capsys: pytest.CaptureFixture[str]) -> None:
    tell(capsys, "default reward", ours)
    assert len(ours) == 5
    assert min(s.bars for s in ours) >= 20_000
    assert median(s.share for s in ours) >= 0.60


def test_pnl_alone_reaches_sixty_percent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = train(tmp_path, PNL_ALONE)
    tell(capsys, "pnl alone", scores)
    assert median(s.share for s in scores) >= 0.60


def test_not_below_stable_baselines3_at_equal_settings(ours: list[Score], capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        theirs = list(pool.map(train_sb3, [1, 2, 3, 4, 5]))
    tell(capsys, "Stable-Baselines3", theirs)
    assert median(s.share for s in ours) >= median(s.share for s in theirs)


def test_without_an_edge_it_loses_at_most_five_percent_a_year(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = train(tmp_path, NO_EDGE)
    tell(capsys, "no edge", scores)
    assert median(s.yearly for s in scores) >= -0.05
