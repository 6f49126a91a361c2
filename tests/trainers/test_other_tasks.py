"""Commands on a run that trains on another task than bars."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import Result

from p3kit.api.task_returns import evaluate_task
from p3kit.diagnose import Evidence, diagnose
from p3kit.diagnose.diagnosis import judge
from p3kit.errors import InputError
from p3kit.rundir import RunDir, Series, list_runs
from tests.command import invoke
from tests.trainers.test_started_alone import start

CARTPOLE = ["--env-id", "CartPole-v1", "--n-steps", "128", "--set", "env.num_envs=8"]


def train(ppo: ModuleType, folder: Path, *flags: str) -> RunDir:
    assert start(ppo, folder, *flags) == 0
    (run,) = list_runs(folder)
    return run


@pytest.fixture(scope="module")
def short(ppo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(ppo, tmp_path_factory.mktemp("task") / "runs", *CARTPOLE, "--total-timesteps", "3_000")


def call(run: RunDir, command: str, *arguments: str) -> Result:
    return invoke(command, run.name, *arguments, "--runs", run.path.parent)


def test_evaluate_plays_whole_episodes_and_prints_their_returns(short: RunDir) -> None:
    result = call(short, "evaluate", "--episodes", "25", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert len(found["returns"]) == 40  # two whole episodes in each of 20 rows
    assert found["returns"] == found["lengths"]  # CartPole pays 1 a step
    assert found["mean_return"] == pytest.approx(np.mean(found["returns"]))
    assert (found["global_step"], found["checkpoint"]) == (3_000, "last.pt")
    assert call(short, "evaluate", "--episodes", "25", "--json").output == result.output
    printed = call(short, "evaluate").output
    assert "100 episodes, greedy" in printed
    assert "mean return" in printed
    assert call(short, "evaluate", "--checkpoint", "init").exit_code == 0


@pytest.mark.parametrize("wrong", [True, False])
def test_rows_of_another_task_that_the_loss_gets_in_another_order_are_named(
    wrong: bool, short: RunDir, ppo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ppo.Minibatch
    if wrong:
        spoilt = lambda *columns: made(*columns[:2], columns[2].flip(0), *columns[3:])  # noqa: E731
        monkeypatch.setattr(ppo, "Minibatch", spoilt)
        short = train(ppo, tmp_path / "runs", *CARTPOLE, "--total-timesteps", "1_000")
    (diagnosis,) = diagnose(short)
    found = {finding.symptom: finding for finding in diagnosis.raised}
    assert ("env.mismatch" in found) == wrong
    if wrong:
        assert "advantage" in found["env.mismatch"].evidence


@pytest.mark.parametrize("flags", [("--final",), ("--split", "train"), ("--output", "a.png"), ("--checkpoint", "none")])
def test_what_a_task_does_not_have_is_refused(short: RunDir, flags: tuple[str, ...]) -> None:
    result = call(short, "evaluate", *flags)
    assert result.exit_code == 2
    assert "which has no splits and no picture" in result.stderr or "has init, last" in result.stderr


def test_a_task_is_played_at_least_once(short: RunDir) -> None:
    with pytest.raises(InputError, match="give at least 1"):
        evaluate_task(short.path, episodes=0)


def test_rows_about_trading_are_left_out(short: RunDir) -> None:
    (diagnosis,) = diagnose(short)
    rows = {finding.symptom for finding in diagnosis.findings}
    assert {"value.fail", "policy.frozen", "num.nan"} <= rows
    assert not any(row.startswith(("trade.", "gen.", "phase.")) for row in rows)
    assert not {"reward.dead", "policy.hold", "data.leak"} & rows
    assert not any("hold" in shown.metric or shown.metric.startswith("eval/") for shown in diagnosis.ranges)
    assert "trade." not in call(short, "diagnose").output


def made_up(task: str, metrics: dict[str, list[float]]) -> Evidence:
    steps = 4_096 * np.arange(1, 13)
    series = {name: Series(steps, np.array(values), np.arange(12)) for name, values in metrics.items()}
    return Evidence("made-up", series, {}, 60_000, task=task)


def symptoms(task: str, metrics: dict[str, list[float]]) -> set[str]:
    return {finding.symptom for finding in judge(made_up(task, metrics)) if finding.raised}


def test_equal_rewards_teach_by_the_end_of_an_episode() -> None:
    paid = {"diag/advantage_std": [1.0] * 12, "reward/std": [0.0] * 12, "reward/mean": [1.0] * 12}
    longer = paid | {"episode/episode_length_mean": [20.0 * i for i in range(1, 13)]}
    never = paid | {"episode/episode_length_mean": [200.0] * 12}
    assert "ppo.adv_std" not in symptoms("CartPole-v1", longer)
    assert "ppo.adv_std" in symptoms("MountainCar-v0", never)
    assert "ppo.adv_std" in symptoms("", longer)


def test_gradients_are_judged_by_the_spread_of_the_returns() -> None:
    large = {"grad/grad_norm": [150.0] * 12, "value/return_std": [30.0] * 12}
    assert "opt.grad" not in symptoms("CartPole-v1", large)
    assert "opt.grad" in symptoms("CartPole-v1", large | {"grad/grad_norm": [150.0] * 11 + [4_000.0]})
    assert "opt.grad" in symptoms("", large)


def test_the_value_of_a_solved_task_may_be_a_little_off() -> None:
    values = {"value/value_mean": [99.6] * 12, "value/return_mean": [99.7] * 12, "value/return_std": [0.06] * 12}
    assert "value.mean" not in symptoms("CartPole-v1", values)
    assert "value.mean" in symptoms("CartPole-v1", values | {"value/value_mean": [60.0] * 12})


@pytest.mark.slow
@pytest.mark.parametrize(("task", "steps"), [("CartPole-v1", "100_000"), ("Acrobot-v1", "60_000")])
@pytest.mark.parametrize("seed", ["1", "2"])
def test_healthy_runs_raise_nothing(ppo: ModuleType, tmp_path: Path, task: str, steps: str, seed: str) -> None:
    flags = ["--env-id", task, "--seed", seed, *CARTPOLE[2:], "--total-timesteps", steps]
    run = train(ppo, tmp_path / "runs", *flags)
    (diagnosis,) = diagnose(run)
    assert not [(finding.symptom, finding.evidence) for finding in diagnosis.raised if finding.severity != "info"]
    assert evaluate_task(run.path).mean > {"CartPole-v1": 400, "Acrobot-v1": -110}[task]
