"""CartPole-v1 and LunarLander-v3 against Stable-Baselines3's PPO, and the parts of that comparison.

The comparison itself is slow (`tox -e slow`): forty trainings of 500,000 steps, most of an hour on one core. Its
figures stand in trainers/README.md and, in full, in `results/classic_control.json`.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from scipy.stats import trim_mean
from stable_baselines3 import PPO

from p3kit.env import VectorTask
from p3kit.errors import InputError
from p3kit.rundir import RunDir, list_runs
from p3kit.spec.schedules import Linear, value_at

from .classic_control import (
    ALLOWED_LOSS,
    BEGIN,
    END,
    FALL_TO,
    FIRST_EPISODE_SEED,
    ROOT,
    TASKS,
    Array,
    compare,
    finished,
    interquartile_mean,
    play,
    put_into,
    run,
    sb3_model,
    told,
    train_ours,
)
from .sb3 import EnvPoolVecEnv

RESULTS = Path(__file__).parent / "results" / "classic_control.json"


@pytest.mark.slow
def test_not_below_stable_baselines3_on_classic_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(list(TASKS), range(1, 11), 500_000, tmp_path, processes=2)
    with capsys.disabled():
        print("\n" + told(figures))
    assert all(task["reached"] for task in figures["tasks"].values())


def balance(observation: Array) -> Array:
    """Push CartPole to where its pole is falling: holds it for hundreds of steps."""
    return (observation[:, 2] + observation[:, 3] > 0).astype(np.int64)


def test_both_sides_see_the_same_rows() -> None:
    """The adapter's rows are `VectorTask`'s without its resetting steps, over terminated and truncated episodes."""
    rows, steps = 3, 1_100
    ours, theirs = VectorTask("envpool:CartPole-v1", rows, seed=4), EnvPoolVecEnv("CartPole-v1", rows, seed=4)
    policies = [balance, balance, lambda seen: np.ones(len(seen), dtype=np.int64)]  # the last row falls at once

    def act(seen: Array) -> Array:
        return np.array([policy(seen[i : i + 1])[0] for i, policy in enumerate(policies)])

    begins = ours.reset()
    expected: list[list[tuple[object, ...]]] = [[] for _ in range(rows)]
    before = begins.account.numpy()
    for _ in range(steps):
        step = ours.step(torch.as_tensor(act(before)))
        after = step.account.numpy()
        for i in np.flatnonzero(step.valid.numpy()):
            reward = float(step.components[i, 0])
            ends = bool(step.terminated[i]), bool(step.truncated[i])
            expected[i].append((before[i].tolist(), reward, *ends, after[i].tolist()))
        before = after

    seen = theirs.reset()
    for t in range(min(map(len, expected))):
        after, reward, done, infos = theirs.step(act(seen))
        for i in range(rows):
            cut = infos[i].get("TimeLimit.truncated", False)
            arrived = infos[i]["terminal_observation"] if done[i] else after[i]
            found = (seen[i].tolist(), float(reward[i]), bool(done[i] and not cut), cut, arrived.tolist())
            assert found == expected[i][t]
        seen = after
    played = [step for row in expected for step in row[:t]]
    assert sum(step[2] for step in played) > 50
    assert sum(step[3] for step in played) >= 2


def test_stable_baselines3_is_given_our_settings() -> None:
    for name, task in TASKS.items():
        total = task.knobs.total_timesteps(500_000)
        model: PPO = sb3_model(name, 3, total)
        knobs = asdict(task.knobs)
        falling = {key: knobs.pop(key) for key in knobs.pop("falling")}
        assert model.n_envs == knobs.pop("num_envs")
        hidden = list(knobs.pop("hidden"))
        rollout = task.knobs.num_envs * task.knobs.n_steps
        schedules = {"learning_rate": model.lr_schedule, "clip_range": model.clip_range}
        for key, schedule in schedules.items():
            for done in (0, total // 2, total - rollout):  # env steps before the rollout that is learnt from
                after = 1 - (done + rollout) / total
                expected = getattr(task.knobs, key)
                if key in falling:
                    line = Linear(kind="linear", start=expected, end=FALL_TO * expected)
                    expected = value_at(line, done / total)
                assert schedule(after) == pytest.approx(expected)
            knobs.pop(key, None)
        assert {key: getattr(model, key) for key in knobs} == knobs
        assert (model.target_kl, model.clip_range_vf, model.normalize_advantage) == (None, None, True)
        nets = model.policy.mlp_extractor
        for net in (nets.policy_net, nets.value_net):
            assert [layer.out_features for layer in net if isinstance(layer, torch.nn.Linear)] == hidden
            assert sum(isinstance(layer, torch.nn.Tanh) for layer in net) == len(hidden)
        (group,) = model.policy.optimizer.param_groups
        assert (group["eps"], group["betas"], group["weight_decay"]) == (1e-5, (0.9, 0.999), 0)


@pytest.mark.slow
def test_one_comparison_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = TASKS["CartPole-v1"].knobs.total_timesteps(1)
    figures = run(["CartPole-v1"], [1], steps, tmp_path, processes=1)
    cartpole = figures["tasks"]["CartPole-v1"]
    assert cartpole["difference"] == cartpole["scores"]["ours"][0] - cartpole["scores"]["sb3"][0]
    assert all(0 < result["score"] <= 500 for result in figures["trainings"])
    assert "| CartPole-v1 |" in told(figures)

    (trained,) = list_runs(tmp_path / "runs" / "CartPole-v1-1")
    spec = trained.info()["agents"][0]["spec"]
    knobs = asdict(TASKS["CartPole-v1"].knobs)
    lines = {
        f"ppo.{key}": {"kind": "linear", "start": knobs[key], "end": pytest.approx(FALL_TO * knobs[key])}
        for key in knobs.pop("falling")
    }
    assert spec["schedules"] == lines
    assert spec["env"]["num_envs"] == knobs.pop("num_envs")
    assert {key: spec["ppo"][key] for key in knobs} == knobs | {"hidden": list(knobs["hidden"])}
    assert spec["ppo"]["target_kl"] == "off"
    assert spec["ppo"]["total_timesteps"] == cartpole["total_timesteps"] == 1_024
    assert (spec["reward"]["scaling"], spec["reward"]["clip"]) == ("none", "off")
    assert spec["observation"]["normalize"] == "none"

    capsys.readouterr()
    again = run(["CartPole-v1"], [1], steps, tmp_path, processes=1)
    assert again == figures
    assert capsys.readouterr().out == ""  # nothing was trained
    with pytest.raises(InputError, match="another length"):
        finished(tmp_path, "ours", "CartPole-v1", 1, 2 * steps)


def test_scores_are_those_of_a_plain_loop() -> None:
    returns = play("CartPole-v1", balance, episodes=3)
    for i, score in enumerate(returns):
        env = gymnasium.make("CartPole-v1")
        seen, _ = env.reset(seed=FIRST_EPISODE_SEED + i)
        total, over = 0.0, False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(int(balance(seen[None])[0]))
            total, over = total + reward, terminated or truncated
        assert score == total


@pytest.mark.parametrize("state", ["stopped", "running", "crashed", "failed"])
def test_a_training_that_was_cut_short_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A trainer that gets SIGTERM saves its weights and exits with 0. Its score once stood among the results."""

    plain = subprocess.run

    def cut_short(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "--runs" not in command:
            return plain(command, **options)
        runs = Path(command[command.index("--runs") + 1])
        run = RunDir.create(runs, {"agents": []}, "", ROOT / "trainers" / "ppo.py")
        run.update_status(state=state)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", cut_short)
    with pytest.raises(InputError, match=f"{state}.*train it again"):
        train_ours("CartPole-v1", 1, 1_024, tmp_path)


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    random = np.random.default_rng(1)
    for n in (1, 3, 4, 10, 17):
        scores = random.normal(size=(5, n))
        np.testing.assert_allclose(interquartile_mean(scores), trim_mean(scores, 0.25, axis=1))


def test_interval_of_the_difference() -> None:
    same = compare([7.0] * 10, [5.0] * 10)
    assert (same["difference"], same["interval"]) == (2.0, [2.0, 2.0])
    random = np.random.default_rng(2)
    covered = []
    for _ in range(20):
        found = compare(random.normal(3, 1, 10), random.normal(2, 1, 10))
        low, high = found["interval"]
        assert low < found["difference"] < high
        covered.append(low <= 1 <= high)
    assert np.mean(covered) >= 0.75


def test_figures_go_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("nothing to replace")
    with pytest.raises(InputError, match="has no place for the figures"):
        put_into(page, "new")


def test_committed_figures_are_what_they_say() -> None:
    """Summaries follow from the scores by seed, and the settings are those of the code."""
    figures = json.loads(RESULTS.read_text())
    for name, task in figures["tasks"].items():
        assert task["settings"] == json.loads(json.dumps(asdict(TASKS[name].knobs)))
        found = compare(task["scores"]["ours"], task["scores"]["sb3"])
        for key, value in found.items():
            assert task[key] == pytest.approx(value), key
        low, high = task["score_range"]
        assert task["reached"] == (found["difference"] >= -ALLOWED_LOSS * (high - low))
    assert told(figures) in (RESULTS.parents[4] / "trainers" / "README.md").read_text()
