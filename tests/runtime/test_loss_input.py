"""Changes between rollout and loss: every field, every kind of change, in one environment of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from p3kit.runtime.field_changes import changes_of
from p3kit.runtime.iteration import Iteration
from p3kit.runtime.loss_input import LossCheck, derived_fields, learnt_fields, right_returns, stored_fields
from p3kit.runtime.scaling import Rewards
from tests.trainers.conftest import load_trainer

STEPS, ENVS, WRONG = 40, 4, 2
GENERATOR = torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def ppo() -> ModuleType:
    return load_trainer("ppo")


class Buffer(NamedTuple):
    index: Tensor  # type: ignore[assignment]
    account: Tensor
    mask: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    components: Tensor
    terminated: Tensor
    truncated: Tensor
    final_index: Tensor
    final_account: Tensor
    equity: Tensor


class Minibatch(NamedTuple):
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor
    value: Tensor
    mask: Tensor


def draw(*more: int) -> Tensor:
    return torch.randn(STEPS, ENVS, *more, generator=GENERATOR)


def whole(below: int, *more: int) -> Tensor:
    return torch.randint(below, (STEPS, ENVS, *more), generator=GENERATOR)


def rollout(gamma: float = 0.95, gae_lambda: float = 0.9) -> Iteration:
    """A made-up rollout with truncations and terminations, and its returns by the recursion."""
    truncated = torch.rand(STEPS, ENVS, generator=GENERATOR) < 0.1
    terminated = (torch.rand(STEPS, ENVS, generator=GENERATOR) < 0.1) & ~truncated
    mask, components = whole(2, 3) > 0, draw(7).double()
    buffer = Buffer(whole(900), draw(5), mask, whole(3), draw(), draw(), components, terminated, truncated,
                    whole(900), draw(5), draw().double())  # fmt: skip
    weighted = components * torch.arange(1, 8)
    rewards = Rewards(
        weighted.sum(-1).float(), torch.zeros_like(truncated), torch.ones(()), weighted, torch.zeros(STEPS, ENVS)
    )
    done = terminated | truncated
    next_value = torch.where(done, draw(), torch.cat([buffer.value[1:], draw()[:1]]))
    made = Iteration(buffer, rewards, next_value, draw(), draw(), gamma, gae_lambda, same_step=True)
    returns = right_returns(made)
    return replace(made, returns=returns, advantage=returns - buffer.value)


def in_one_env(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def changed(table: Tensor) -> Tensor:
        spoilt = table.clone()
        spoilt[:, WRONG] = change(table[:, WRONG])
        return spoilt

    return changed


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "shift": (in_one_env(lambda own: own.roll(3, 0)), 3),
    "factor": (in_one_env(lambda own: own * -0.25), -0.25),
    "mixed": (in_one_env(lambda own: own.flip(0)), 1),
}
TABLES = ("log_prob", "value", "advantage", "returns")


def minibatch(made: Iteration, **spoilt: Tensor) -> tuple[Tensor, Minibatch]:
    rows = torch.randperm(STEPS * ENVS, generator=GENERATOR)[:100]
    tables = vars(made) | made.buffer._asdict() | spoilt  # type: ignore[attr-defined]
    return rows, Minibatch(*(tables[name].flatten(0, 1)[rows] for name in Minibatch._fields))


def departing(fields: list[Any]) -> dict[str, float]:
    return {name: float(share) for field in fields for name, share in field.shares() if share > 0}


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 1.0), (1.0, 0.0)])
def test_nothing_departs_in_a_sound_rollout(gamma: float, gae_lambda: float, ppo: ModuleType) -> None:
    made = rollout(gamma, gae_lambda)
    buffer, done = made.buffer, made.done
    advantage = ppo.compute_gae(
        made.rewards.scaled, buffer.value, made.next_value, buffer.terminated, done, gamma, gae_lambda
    )
    made = replace(made, advantage=advantage, returns=advantage + buffer.value)
    fields = [*stored_fields(buffer, buffer._asdict()), *derived_fields(made), *learnt_fields(made, [minibatch(made)])]  # type: ignore[attr-defined]
    assert len(fields) > 15
    assert departing(fields) == {}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", TABLES)
def test_a_column_of_the_loss_is_named_with_its_environment_and_its_change(name: str, kind: str) -> None:
    made, (change, value) = rollout(), CHANGES[kind]
    own = vars(made).get(name, getattr(made.buffer, name, None))
    fields = learnt_fields(made, [minibatch(made, **{name: change(own)})])
    shares = departing(fields)
    assert shares == {f"learnt.{name}": 1 / ENVS}
    assert changes_of(fields, shares, {}) == {f"learnt.{name}.{kind}": pytest.approx(value)}


@pytest.mark.parametrize("name", TABLES)
def test_a_column_of_the_iteration_before_is_stale(name: str) -> None:
    before, made = rollout(), rollout()
    own = vars(before).get(name, getattr(before.buffer, name, None))
    fields = learnt_fields(made, [minibatch(made, **{name: own})])
    shares = departing(fields)
    assert changes_of(fields, shares, {f"learnt.{name}": own}) == {f"learnt.{name}.stale": 1}


@pytest.mark.parametrize("kind", ["shift", "mixed"])
@pytest.mark.parametrize("name", Buffer._fields)
def test_a_field_of_the_buffer_is_compared_with_what_the_environment_returned(name: str, kind: str) -> None:
    tables = rollout().buffer._asdict()  # type: ignore[attr-defined]
    buffer = Buffer(**tables | {name: CHANGES[kind][0](tables[name])})
    shares = departing(stored_fields(buffer, tables))
    if name in ("log_prob", "value"):  # they are the net's and no environment's
        assert shares == {}
    else:
        assert shares
        assert set(shares.values()) == {1 / ENVS}


def test_swapped_ends_are_named() -> None:
    tables = rollout().buffer._asdict()  # type: ignore[attr-defined]
    fields = stored_fields(Buffer(**tables | {"terminated": tables["truncated"]}), tables)
    assert changes_of(fields, departing(fields), {}) == {"stored.terminated.swapped": 1}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", ["reward", "advantage", "returns"])
def test_a_change_before_or_after_the_advantages_is_named(name: str, kind: str) -> None:
    made, (change, value) = rollout(), CHANGES[kind]
    if name == "reward":
        spoilt = replace(made, rewards=made.rewards._replace(scaled=change(made.rewards.scaled)))
        returns = right_returns(spoilt)
        made = replace(made, returns=returns, advantage=returns - made.buffer.value)
    elif name == "advantage":
        advantage = change(made.advantage)
        made = replace(made, advantage=advantage, returns=advantage + made.buffer.value)
    else:
        made = replace(made, returns=change(made.returns))
    fields = derived_fields(made)
    shares = departing(fields)
    assert shares["returns"] == 1 / ENVS
    assert changes_of(fields, {"returns": 0.25}, {}) == {f"{name}.{kind}": pytest.approx(value, rel=1e-3)}


@pytest.mark.parametrize("wrong", ["nothing", "the next episode"])
def test_a_truncated_step_bootstraps_its_own_final_observation(wrong: str) -> None:
    made = rollout()
    restarted = torch.cat([made.buffer.value[1:], made.buffer.value[:1]])
    instead = torch.zeros_like(restarted) if wrong == "nothing" else restarted
    spoilt = replace(made, next_value=torch.where(made.buffer.truncated, instead, made.next_value))
    assert departing(derived_fields(spoilt))["final value"] == 1
    constant = spoilt.buffer._replace(value=torch.ones(STEPS, ENVS))  # type: ignore[attr-defined]
    even = replace(spoilt, buffer=constant, next_value=torch.ones(STEPS, ENVS))  # a dead value net
    assert "final value" not in departing(derived_fields(even))


class Env:
    """Returns numbers in order."""

    def reset(self) -> int:
        return 0

    def step(self, action: Tensor, start: Tensor | None = None) -> int:
        return 1

    load_state_dict = reset


def test_the_first_value_loss_is_that_of_its_rows() -> None:
    made, check = rollout(), LossCheck(Env(), torch.float32)  # type: ignore[arg-type]
    rows, batch = minibatch(made)
    check.take(rows, batch)
    loss = (made.buffer.value.flatten()[rows] - batch.returns).square().mean()
    update = {"value/value_loss": loss.reshape(1), "policy/ratio_error": torch.zeros(1)}
    assert not any(share > 0 for share in check.compare(made, {}, update, None).values())
    other = {"value/value_loss": 1.01 * loss.reshape(1), "policy/ratio_error": torch.full((1,), 0.1)}
    found = {name for name, share in check.compare(made, {}, other, None).items() if share > 0}
    assert found == {"value loss", "log_prob"}
