"""Tests of the runtime behind trainers/ppo.py: the state registry, pieces of a batch, transfer, loaded policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p3kit.env import make_trading_env
from p3kit.errors import InputError
from p3kit.market import load_market
from p3kit.runtime.pieces import Pieces
from p3kit.runtime.policy import by_part, load_policy_of, load_weights, sizes_on_bars
from p3kit.runtime.scaling import RewardScaler
from p3kit.runtime.trainer_import import import_trainer
from p3kit.runtime.trainer_state import Registry
from p3kit.runtime.transfer import to_host
from p3kit.spec import resolve_spec

TRAINER = Path(__file__).parents[2] / "trainers" / "ppo.py"


# ── registry ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def made(seed: int) -> tuple[Registry, nn.Linear, torch.optim.Optimizer, dict[str, torch.Tensor]]:
    """A net, its optimiser after a step, and the weights of three agents."""
    torch.manual_seed(seed)
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    stack = {"weight": torch.randn(3, 5)}
    registry = Registry()
    registry.add({"net": net, "optimizer": optimizer, "stack": stack})
    return registry, net, optimizer, stack


def test_a_registry_restores_what_it_saved_in_place() -> None:
    saved, net, optimizer, stack = made(1)
    state = {name: value.clone() for name, value in saved.state_dict().items()}
    other, other_net, other_optimizer, other_stack = made(2)
    other.load_state_dict(state)
    torch.testing.assert_close(other_net.weight, net.weight, rtol=0, atol=0)
    torch.testing.assert_close(other_stack, stack, rtol=0, atol=0)
    ours, theirs = optimizer.state[net.weight], other_optimizer.state[other_net.weight]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
    assert {name.split("/")[0] for name in state} == {"net", "optimizer", "stack"}
    assert set(saved.state_dict(["net"])) == {"net/weight", "net/bias"}


def test_a_rollback_leaves_what_stays_and_takes_back_one_agent_of_a_stack() -> None:
    registry, _, _, stack = made(1)
    env = nn.Linear(1, 1)
    registry.add({"env": env}, rolls_back=False)
    state = {name: value.clone() for name, value in registry.state_dict().items()}
    before = stack["weight"].clone()
    stack["weight"] += 1
    with torch.no_grad():
        env.weight += 1
    registry.go_back(state, place=2, from_place=0)
    torch.testing.assert_close(stack["weight"][2], before[0])
    torch.testing.assert_close(stack["weight"][:2], before[:2] + 1)
    torch.testing.assert_close(env.weight, state["env/weight"] + 1)


def test_a_rollback_keeps_the_sums_of_running_episodes() -> None:
    scaler = RewardScaler("running", None, 2, torch.device("cpu"))
    registry = Registry()
    registry.add({"reward": scaler})
    reward, done = torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    scaler(reward, done, 0.9)
    state = registry.state_dict()
    scaler(5 * reward, done, 0.9)
    sums = scaler.discounted.clone()
    registry.go_back(state)
    torch.testing.assert_close(scaler.discounted, sums)
    assert scaler.steps == 6


def test_a_name_is_registered_once() -> None:
    registry, net, *_ = made(1)
    with pytest.raises(ValueError, match="net: registered before"):
        registry.add({"net": net})


# ── pieces ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def halve(size: int, error: RuntimeError) -> int:
    if "memory" not in str(error):
        raise error
    return size // 2


def test_pieces_cover_a_batch_and_their_shares_add_up() -> None:
    found = [(rows.start, rows.stop, share) for rows, share, _ in Pieces(4, halve)(10)]
    assert found == [(0, 4, 0.4), (4, 8, 0.4), (8, 10, 0.2)]


def test_out_of_memory_begins_the_batch_again_in_smaller_pieces() -> None:
    pieces, weight, undone = Pieces(8, halve), torch.zeros(1, requires_grad=True), 0

    def undo() -> None:
        nonlocal undone
        undone, weight.grad = undone + 1, None

    seen = []
    for rows, share, attempt in pieces(8, undo):
        with attempt:
            (weight.sum() * share).backward()
            if rows.stop - rows.start > 2:
                raise torch.OutOfMemoryError("out of memory")
            seen.append((rows.start, rows.stop))
    assert (undone, pieces.size) == (2, 2)
    assert seen == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0]  # nothing of the refused attempts is left in it


def test_another_error_is_raised() -> None:
    _, _, attempt = next(Pieces(8, halve)(8))
    with pytest.raises(RuntimeError, match="shapes"), attempt:
        raise RuntimeError("shapes do not match")


# ── transfer ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Elsewhere(torch.Tensor):
    """A CPU tensor that reports another device, so that it is packed."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta")


def test_tensors_of_all_types_arrive_as_they_were() -> None:
    tree: Any = {
        "a": torch.tensor([True, False, True]),
        "b": [torch.arange(6, dtype=torch.int64).view(2, 3).T, torch.randn(3, dtype=torch.float64)],
        "c": (torch.randn(2, 2), torch.tensor(3.5), torch.zeros(0, 4)),
    }
    plain = to_host(tree)
    packed = to_host(torch.utils._pytree.tree_map(lambda t: t.as_subclass(Elsewhere), tree))
    leaves = (torch.utils._pytree.tree_leaves(found) for found in (plain, packed))
    for one, two in zip(*leaves, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype
    np.testing.assert_array_equal(plain["b"][0], tree["b"][0].numpy())


# ── policies ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SPEC = resolve_spec(
    {
        "name": "p",
        "symbols": ["AAA"],
        "trainer": "ppo",
        "data": {"source": "synthetic", "synthetic": {"bars": 2_000}},
        "env": {"num_envs": 3},
        "observation": {"normalize": "running"},
    },
    "test",
)


def test_sizes_are_those_of_the_environment() -> None:
    market = load_market(SPEC, ["AAA"])
    env = make_trading_env(market, SPEC, symbols=["AAA"], split="train", device=torch.device("cpu"))
    sizes = sizes_on_bars(SPEC, market["AAA"])
    assert sizes["observation_size"] == env.observation_size
    assert sizes["num_actions"] == env.num_actions
    assert sizes["window"] * sizes["num_features"] + sizes["account_size"] == env.observation_size


def test_a_policy_needs_no_run_and_returns_masked_logits_and_values() -> None:
    trainer = import_trainer(TRAINER)
    sizes = sizes_on_bars(SPEC, load_market(SPEC, ["AAA"])["AAA"])
    size, actions = sizes["observation_size"], sizes["num_actions"]
    args = trainer.Args(hidden=(8,))
    net = trainer.ActorCritic(size, actions, args, torch.Generator().manual_seed(3))
    weights = {f"net/{name}": value for name, value in net.state_dict().items()}
    statistics = {"observation/mean": torch.full((size,), 2.0, dtype=torch.float64), "observation/count": 9}
    statistics["observation/variance"] = torch.ones(size, dtype=torch.float64)
    policy = load_weights(
        load_policy_of(trainer), args, SPEC, weights | statistics, torch.device("cpu"), agent="AAA", **sizes
    )
    observation, mask = 2 + torch.randn(5, size) / 10, torch.rand(5, actions) < 0.5
    mask[:, 0] = True
    logits, value = policy(observation, mask)
    assert (logits.shape, value.shape) == ((5, actions), (5,))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(5))
    assert not logits.exp()[~mask].any()
    normalised = (observation - 2).clamp(-SPEC.observation.clip, SPEC.observation.clip)
    torch.testing.assert_close(value, net(normalised)[1])
    assert (policy.log_probs(observation, mask) == logits).all()


def test_a_checkpoint_by_part() -> None:
    assert by_part({"iteration": 3, "net/a.b": 1, "net/c": 2, "optimizer/0/step": 4}) == {
        "iteration": 3,
        "net": {"a.b": 1, "c": 2},
        "optimizer": {"0/step": 4},
    }


def test_a_trainer_without_load_policy_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="has no function load_policy"):
        load_policy_of(import_trainer(tmp_path / "mine.py"))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="cannot be imported: ZeroDivisionError"):
        import_trainer(tmp_path / "broken.py")
