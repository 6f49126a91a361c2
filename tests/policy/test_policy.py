"""`p3kit.load_policy`: the agent decides as the backtest does, and refuses what it cannot decide on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import p3kit
from p3kit.env import TradingVectorEnv
from p3kit.market import load_market
from p3kit.metrics import ACTIONS
from p3kit.runtime.evaluation import Evaluator
from p3kit.spec import shipped_trainers

SPEC = """
name = "tiny"
symbols = ["AAA", "BBB"]
[data]
source = "synthetic"
synthetic = { bars = 2_000 }
[env]
num_envs = 4
episode_bars = 60
[ppo]
total_timesteps = 600
n_steps = 75
n_epochs = 2
[evaluation]
every = 300
[checkpoints]
every = 300
[compute]
device = "cpu"
"""


def train(folder: Path, trainer: str) -> Path:
    """Train two agents with tiny sizes. Returns the folder of the runs."""
    file = folder / "tiny.toml"
    file.write_text(f'trainer = "{trainer}"\n{SPEC}')
    runs = p3kit.run_spec(file, 2, folder / "runs", progress=False)
    assert {run.state for run in runs} == {"done"}, [run.message for run in runs]
    return folder / "runs"


@pytest.fixture(scope="module")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("ppo"), "ppo")


def agents(root: Path) -> Iterator[tuple[p3kit.SavedRun, str]]:
    for run in p3kit.list_runs(root):
        for name in run.agents:
            yield run, name


def same_decisions(root: Path) -> int:
    """Compare each policy's own walk over the validation split with its backtest; returns the number of agents."""
    count = 0
    for run, name in agents(root):
        policy = p3kit.load_policy(f"{run.path}/{name}", "last")
        bars = load_market(policy.spec, [policy.symbol])[policy.symbol]
        seed = next(plan["seed"] for plan in run.info["agents"] if plan["name"] == name)

        def log_probs(observation: torch.Tensor, mask: torch.Tensor, policy: p3kit.Policy = policy) -> torch.Tensor:
            return torch.from_numpy(policy.logits(observation.numpy(), mask.numpy()))

        evaluation = Evaluator(policy.spec, bars, policy.symbol, seed, torch.device("cpu"))(log_probs)
        (backtest,) = p3kit.evaluate_run(f"{run.path}/{name}", checkpoint="last")
        assert backtest.metrics == evaluation.summary()["metrics"]
        assert backtest.result["curves"]["equity"] == evaluation.equity_curves()["equity"]
        assert policy.global_step == 600
        count += 1
    return count


@pytest.mark.slow
def test_the_policy_decides_as_the_backtest_does(runs_root: Path) -> None:
    assert same_decisions(runs_root) == 2


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [name for name in shipped_trainers() if name != "ppo"])
def test_the_policy_of_every_shipped_trainer_decides_as_its_backtest(trainer: str, tmp_path: Path) -> None:
    assert same_decisions(train(tmp_path, trainer)) == 2


def test_it_acts_in_the_gymnasium_environment(runs_root: Path) -> None:
    policy = p3kit.load_policy("1", "last", runs_root=runs_root)
    env = TradingVectorEnv(policy.spec, symbols=[policy.symbol], split="validation")
    observation, info = env.reset(seed=1)
    for _ in range(70):  # over the end of an episode
        actions = policy.act(observation, info["action_mask"])
        assert info["action_mask"][np.arange(len(actions)), actions].all()
        observation, _, _, _, info = env.step(actions)


def test_shapes_of_a_row_and_of_a_batch(runs_root: Path) -> None:
    policy = p3kit.load_policy(p3kit.open_run("run-1/AAA", runs_root), "last")
    assert (policy.name, policy.checkpoint, policy.action_names) == ("run-1/AAA", "last.pt", ACTIONS)
    assert policy.observation_size == policy.window * len(policy.feature_names) + len(policy.account_fields)
    random = np.random.default_rng(1)
    observation = random.standard_normal((5, policy.observation_size)).astype(np.float32)
    mask = random.random((5, 7)) < 0.5
    mask[:, 0] = True
    logits, value = policy.logits(observation, mask), policy.value(observation, mask)
    assert (logits.shape, logits.dtype, value.shape, value.dtype) == ((5, 7), np.float32, (5,), np.float32)
    probabilities = policy.probabilities(observation, mask)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    assert (probabilities[~mask] == 0).all()
    np.testing.assert_array_equal(policy.act(observation, mask), logits.argmax(-1))
    for row in range(5):
        one = policy.logits(observation[row], mask[row])
        assert one.shape == (7,)
        np.testing.assert_allclose(one[mask[row]], logits[row][mask[row]], rtol=1e-4, atol=1e-6)
        assert policy.value(observation[row]).shape == policy.act(observation[row], mask[row]).shape == ()
    np.testing.assert_array_equal(policy.value(observation), value)


def test_wrong_observations_and_masks_are_refused(runs_root: Path) -> None:
    policy = p3kit.load_policy("1", "last", runs_root=runs_root)
    good, mask = np.zeros((2, policy.observation_size), np.float32), np.ones((2, 7), bool)
    wrong = [
        (good[:, :-1], mask, "observation has shape"),
        (good[None], mask[None], "observation has shape"),
        (good, mask[:, :-1], "mask has shape"),
        (good, mask[:1], "mask has shape"),
        (good, mask.astype(np.float32), "mask is float32"),
        (good, ~mask, "no valid action"),
        (good + np.nan, mask, "not finite"),
    ]
    for observation, invalid, message in wrong:
        with pytest.raises(p3kit.InputError, match=message):
            policy.act(observation, invalid)


def test_what_cannot_be_loaded_is_an_error_with_a_remedy(runs_root: Path) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(p3kit.P3kitError) as error:
            p3kit.load_policy(*arguments, runs_root=runs_root)
        return str(error.value)

    assert 'did you mean "AAA"' in refused("run-1/AAX")
    assert "no such checkpoint; run-1 has " in refused("run-1", "best-7")
    assert "is no device" in refused("run-1", "last", "gpu")
    run = p3kit.open_run("run-2", runs_root)
    file = run.directory.checkpoint("last")
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    try:
        assert "torn or altered" in refused("run-2", "last")
    finally:
        file.write_bytes(whole)
    trainer = run.directory.trainer_file
    source = trainer.read_text()
    trainer.write_text(source.replace("def load_policy(", "def former_load_policy("))
    try:
        assert "has no function load_policy" in refused("run-2", "last")
    finally:
        trainer.write_text(source)
