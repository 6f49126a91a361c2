"""`[init]`: a training starts from the weights, statistics and optimiser of an earlier one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import p3kit
import p3kit.env
from p3kit.errors import CheckpointError, InputError, SpecError
from p3kit.rundir import RunDir, find_checkpoint
from p3kit.runtime import load_checkpoint, part
from p3kit.runtime.card import weights_of
from p3kit.runtime.checkpoints import state_hash

from .tiny_runs import go_on, train

NETS: dict[str, dict[str, Any]] = {
    "ppo": {"symbols": ["AAA"]},
    "ppo_stacked": {"symbols": ["AAA", "BBB"]},
    "ppo_shared": {"symbols": ["AAA", "BBB"], "ppo.patch": 2, "ppo.layers": 1, "env.window": 4},
}
SHORT = {"ppo.total_timesteps": 600, "evaluation.every": 300, "observation.normalize": "running"}
NETWORKS = {"ppo": ["net"], "ppo_stacked": ["net"], "ppo_shared": ["heads", "encoder"]}


@pytest.fixture(scope="module")
def earlier(trainers: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDir]:
    """A finished run of a trainer, made once."""
    made: dict[str, RunDir] = {}

    def run_of(name: str) -> RunDir:
        if name not in made:
            (made[name],) = train(trainers(name), tmp_path_factory.mktemp(name), name, NETS[name] | SHORT)
        return made[name]

    return run_of


def start(
    trainers: Callable[[str], ModuleType], run: RunDir, name: str, init: dict[str, Any], **changes: Any
) -> RunDir:
    given = NETS[name] | SHORT | {"seeds": [7], "init": {"from": "run-1"} | init} | changes
    return train(trainers(name), run.path.parents[1], name, given)[-1]


def first_state(run: RunDir) -> dict[str, Any]:
    """The trainer's part before its first iteration."""
    return part("trainer", load_checkpoint(run.checkpoint("init")))


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert expected
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_the_last_weights_and_statistics_are_those_it_starts_with(
    trainers: Callable[[str], ModuleType], earlier: Callable[[str], RunDir], name: str, optimizer: bool
) -> None:
    old = earlier(name)
    run = start(trainers, old, name, {"checkpoint": "last", "optimizer": optimizer}, **{"env.num_envs": 6})
    found, expected = first_state(run), part("trainer", load_checkpoint(old.checkpoint("last")))
    for network in [*NETWORKS[name], "observation"]:
        assert_equal(part(network, found), part(network, expected))
    for key in ("mean", "variance"):
        assert torch.equal(found[f"reward/{key}"], expected[f"reward/{key}"])
    moments = {key: value for key, value in part("optimizer", found).items() if isinstance(value, torch.Tensor)}
    if optimizer:
        assert_equal(moments, {key: part("optimizer", expected)[key] for key in moments})
    assert any(bool(value.any()) for value in moments.values()) == optimizer
    assert run.status()["state"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "ppo_stacked"])
def test_chosen_weights_fit_the_trainer_of_one_agent_and_that_of_a_stack(
    trainers: Callable[[str], ModuleType], earlier: Callable[[str], RunDir], name: str
) -> None:
    """Each starts from the weights that the other made."""
    old = earlier("ppo_stacked" if name == "ppo" else "ppo")
    run = start(trainers, old, name, {}, symbols=["AAA"])
    chosen = weights_of(load_checkpoint(old.checkpoint(find_checkpoint(old, "AAA", "best"))))
    first = first_state(run)
    if name == "ppo":
        assert_equal(part("net", first), part("net", chosen))
        assert torch.equal(first["observation/mean"], chosen["observation/mean"])
    else:
        weight = chosen["net/policy.layers.1.weight"].T
        assert torch.equal(first["net/policy.1.weight"][0], weight)
        half = chosen["net/policy.layers.0.bias"]
        assert torch.equal(first["net/first.bias"][0, 0, : len(half)], half)
        assert torch.equal(first["observation/mean"][0], chosen["observation/mean"])
    assert float(first["reward/mean"]) == float(chosen["reward/mean"])


@pytest.mark.slow
def test_it_is_recorded_and_goes_on_without_the_earlier_run(
    trainers: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    own = NETS["ppo"] | SHORT | {"observation.normalize": "train"}
    (old,) = train(trainers("ppo"), tmp_path, "ppo", own)
    moved = {"data.split": {"train": 0.5, "validation": 0.3, "test": 0.2}}
    (run,) = train(trainers("ppo"), tmp_path, "ppo", own | moved | {"init": {"from": "run-1/AAA"}})
    entry = run.info()["agents"][0]["init"]
    chosen = load_checkpoint(old.checkpoint(find_checkpoint(old, "AAA", "best")))
    assert entry["sha256"] == state_hash(weights_of(chosen))
    assert (entry["from"], entry["lineage"], entry["reward_scale"]) == ("run-1/AAA", ["run-1/AAA"], True)
    assert run.info()["data"]["AAA"]["recipe"] == old.info()["data"]["AAA"]["recipe"]
    assert run.info()["data"]["AAA"]["splits"] != old.info()["data"]["AAA"]["splits"]
    assert "started from run-1/AAA" in run.read_events("verdict")[0]["labels"]
    (again,) = train(trainers("ppo"), tmp_path, "ppo", own | {"init": {"from": "run-2"}, "reward.clip": 5.0})
    entry = again.info()["agents"][0]["init"]
    assert (entry["lineage"], entry["reward_scale"]) == (["run-2/AAA", "run-1/AAA"], False)
    assert first_state(again)["reward/count"] == 0
    first, last = first_state(again), part("trainer", load_checkpoint(again.checkpoint("last")))
    old.delete()
    run.delete()
    for path in again.checkpoints():
        if not path.stem.startswith("start"):
            path.unlink()
    again.cut_after({"AAA": -1})
    go_on(trainers("ppo"), again)
    assert_equal(first_state(again), first)
    assert_equal(part("net", part("trainer", load_checkpoint(again.checkpoint("last")))), part("net", last))


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_with_both_sides(
    trainers: Callable[[str], ModuleType], earlier: Callable[[str], RunDir]
) -> None:
    old = earlier("ppo")
    with pytest.raises(SpecError, match=r"env.window is 24 in run-1/AAA and 8 for AAA"):
        start(trainers, old, "ppo", {}, **{"env.window": 8})
    with pytest.raises(SpecError, match=r"ppo.hidden is \[16, 8\] in run-1/AAA and \[16\] for AAA"):
        start(trainers, old, "ppo", {}, **{"ppo.hidden": [16]})
    with pytest.raises(SpecError, match="CCC has neither the name nor the symbol of run-1/AAA"):
        start(trainers, old, "ppo", {}, symbols=["CCC"])
    with pytest.raises(InputError, match='"chosen": run-1/AAA has no such checkpoint; it has best-'):
        start(trainers, old, "ppo", {"checkpoint": "chosen"})
    assert start(trainers, old, "ppo", {"from": "run-1/AAA"}, symbols=["CCC"]).status()["state"] == "done"


@pytest.mark.slow
def test_a_shared_encoder_comes_from_one_checkpoint(trainers: Callable[[str], ModuleType], tmp_path: Path) -> None:
    own = NETS["ppo_shared"] | SHORT
    (old,) = train(trainers("ppo_shared"), tmp_path, "ppo_shared", own)
    agents = old.status()["agents"]
    for agent, step in (("AAA", 300), ("BBB", 600)):
        agents[agent]["verdict"]["chosen_step"] = step
    old.update_status(agents=agents)
    given = own | {"init": {"from": "run-1", "checkpoint": "best"}}
    with pytest.raises(SpecError, match=r'best-000000300-AAA, best-000000600-BBB.*take checkpoint = "last"'):
        train(trainers("ppo_shared"), tmp_path, "ppo_shared", given)


@pytest.mark.slow
def test_a_checkpoint_and_an_exported_policy_are_as_good_as_their_run(
    trainers: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    own = NETS["ppo"] | SHORT | {"observation.normalize": "train"}
    (old,) = train(trainers("ppo"), tmp_path, "ppo", own)
    chosen = old.checkpoint(find_checkpoint(old, "AAA", "best"))
    file = Path(shutil.copy(chosen, tmp_path / "mine.pt"))
    folder = p3kit.export_policy("run-1/AAA", tmp_path / "exported", runs_root=tmp_path / "runs")
    recipe = old.info()["data"]["AAA"]["recipe"]
    old.delete()
    for path, label in ((file, "mine/AAA"), (folder, "exported/AAA")):
        run = train(trainers("ppo"), tmp_path, "ppo", own | {"init": {"from": str(path)}})[-1]
        assert_equal(part("net", first_state(run)), part("net", weights_of(load_checkpoint(file))))
        entry = run.info()["agents"][0]["init"]
        assert (entry["from"], entry["reward_scale"]) == (label, path == file)
        assert run.info()["data"]["AAA"]["recipe"] == recipe
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(SpecError, match=r"weights.safetensors is torn or altered; export it again"):
        train(trainers("ppo"), tmp_path, "ppo", own | {"init": {"from": str(folder)}})


def test_other_weights_than_were_planned_are_refused(tmp_path: Path) -> None:
    from p3kit.runtime.checkpoints import save_checkpoint
    from p3kit.runtime.initial_weights import InitialWeights

    run = RunDir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    state = {"net/weight": torch.ones(2)}
    save_checkpoint(run.checkpoint("start-1"), state, compress=False)
    entry = {"from": "run-1/A", "agent": "A", "file": "start-1", "sha256": state_hash(state)}
    plan = {"init": entry | {"optimizer": False, "reward_scale": True}}
    assert InitialWeights.read(run, plan, torch.device("cpu")) is not None
    save_checkpoint(run.checkpoint("start-1"), {"net/weight": torch.zeros(2)}, compress=False)
    with pytest.raises(CheckpointError, match="other weights than the run was planned with"):
        InitialWeights.read(run, plan, torch.device("cpu"))


@pytest.mark.slow
def test_an_env_outside_p3kit_has_the_features_of_the_earlier_run(
    trainers: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    own = NETS["ppo"] | SHORT | {"observation.normalize": "train"}
    train(trainers("ppo"), tmp_path, "ppo", own)
    moved = {"data.split": {"train": 0.5, "validation": 0.3, "test": 0.2}, "init": {"from": "run-1"}}
    train(trainers("ppo"), tmp_path, "ppo", own | moved)
    policy = p3kit.load_policy("run-2/AAA", runs_root=tmp_path / "runs")
    with pytest.raises(InputError, match=r"give recipes=\{policy.symbol: policy.recipe\}"):
        p3kit.env.TradingVectorEnv(policy.spec)
    env = p3kit.env.TradingVectorEnv(policy.spec, recipes={policy.symbol: policy.recipe})
    observation, info = env.reset(seed=1)
    assert policy.act(observation, info["action_mask"]).shape == (4,)
