"""The learning proof: `p3kit run specs/learning.toml` and `specs/learning_shared.toml`, scored on 24,000 bars that
no agent trained on.

Slow: run it with `tox -e slow` (about half an hour on two cores); the figures it prints stand in trainers/README.md.
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
from p3kit.spec import agent_spec, load_spec

from .learning_scores import Score, score, scores

pytestmark = pytest.mark.slow

SPECS = Path(__file__).parents[3] / "specs"
PNL_ALONE = (
    "reward.weights = { pnl = 1.0, cost = 0.0, time = 0.0, sharpe = 0.0, drawdown = 0.0, sizing = 0.0, hold = 0.0 }",
)
NO_EDGE = ("data.synthetic.edge = 0.0",)
SEEDS = [1, 2, 3, 4, 5]


def train(folder: Path, name: str, overrides: tuple[str, ...] = ()) -> dict[str, Score]:
    """Run a shipped spec as a user would; the score of every agent."""
    flags = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "p3kit", "run", str(SPECS / name), "--no-aim", "--runs", str(folder), *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3_000:]
    return {agent: score for run in list_runs(folder) for agent, score in scores(run).items()}


def train_sb3(seed: int) -> Score:
    from . import sb3

    spec = agent_spec(load_spec(SPECS / "learning.toml").spec, "EDGE")
    return score(spec, "EDGE", sb3.train(spec, load_market(spec, ["EDGE"])["EDGE"], "EDGE", seed))


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Score]:
    return train(tmp_path_factory.mktemp("stacked"), "learning.toml")


def tell(capsys: pytest.CaptureFixture[str], what: str, found: dict[str, Score]) -> None:
    with capsys.disabled():
        shares = ", ".join(f"{agent} {one.share:.2f}" for agent, one in found.items())
        yearly = ", ".join(f"{one.yearly:+.3f}" for one in found.values())
        print(f"\n{what}: share of the attainable score {shares}; log return a year {yearly}")


def median_share(found: dict[str, Score]) -> float:
    return median(one.share for one in found.values())


def test_stacked_agents_reach_three_quarters(stacked: dict[str, Score], capsys: pytest.CaptureFixture[str]) -> None:
    tell(capsys, "ppo_stacked, default reward", stacked)
    assert len(stacked) == len(SEEDS)
    assert min(one.bars for one in stacked.values()) >= 20_000
    assert median_share(stacked) >= 0.75


def test_agents_that_share_an_encoder_reach_three_quarters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(tmp_path, "learning_shared.toml")
    tell(capsys, "ppo_shared, default reward", found)
    by_seed = [[one.share for agent, one in found.items() if agent.endswith(f".s{seed}")] for seed in SEEDS]
    assert all(by_seed)
    assert median(sum(shares) / len(shares) for shares in by_seed) >= 0.75


def test_pnl_alone_reaches_sixty_percent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(tmp_path, "learning.toml", PNL_ALONE)
    tell(capsys, "ppo_stacked, pnl alone", found)
    assert median_share(found) >= 0.60


def test_not_below_stable_baselines3_at_equal_settings(
    stacked: dict[str, Score], capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        theirs = dict(zip(map(str, SEEDS), pool.map(train_sb3, SEEDS), strict=True))
    tell(capsys, "Stable-Baselines3", theirs)
    assert median_share(stacked) >= median_share(theirs)


def test_without_an_edge_it_loses_at_most_five_percent_a_year(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = train(tmp_path, "learning.toml", NO_EDGE)
    tell(capsys, "no edge", found)
    assert median(one.yearly for one in found.values()) >= -0.05
