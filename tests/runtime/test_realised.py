"""Settings that follow from the record: the learning rate from moves of weights, the weights of the loss."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from p3kit.runtime.realised import LARGEST_STEP, fastest, loss_weights

RATE, STEPS, EARLIER = 1e-3, 160, 3_000


@pytest.mark.parametrize("growth", [1.0, 1.05, 0.999 / 0.9, 1.2])
def test_no_gradients_move_a_weight_by_more_than_the_bound(growth: float) -> None:
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=0.0, eps=1e-300)
    args = SimpleNamespace(learning_rate=RATE, weight_decay=0.0)
    for step in range(EARLIER + STEPS):
        if step == EARLIER:
            before = weight.detach().clone()
        weight.grad = torch.full_like(weight, growth ** (step - EARLIER / 2))
        optimizer.step()
    moved = (weight.detach() - before).abs().max()
    assert fastest(None, args, moved, STEPS) == RATE
    assert moved < LARGEST_STEP * RATE * STEPS
    if growth == pytest.approx(1.11):
        assert moved > 0.95 * LARGEST_STEP * RATE * STEPS, "the bound is reached"
    assert fastest(None, args, 3 * LARGEST_STEP * RATE * STEPS * torch.ones(()), STEPS) == pytest.approx(3 * RATE)


def steps_of(vf_coef: float, ent_coef: float, penalty: float) -> dict[str, torch.Tensor]:
    """The loss and its parts in 40 gradient steps, with a further term if `penalty` is not 0."""
    draw = torch.Generator().manual_seed(3)
    policy, value, entropy, own = (torch.rand(40, generator=draw) for _ in range(4))
    total = policy + vf_coef * value - ent_coef * entropy + penalty * own
    names = ("policy/total_loss", "policy/policy_loss", "value/value_loss", "policy/entropy")
    return dict(zip(names, (total, policy, value, entropy), strict=True))


def test_a_wrong_weight_of_the_loss_is_found_and_an_own_term_is_no_wrong_weight() -> None:
    as_set = loss_weights(steps_of(0.5, 0.01, 0.0), 0.5, 0.01)
    assert [float(one) for one in as_set.values()] == [0.5, 0.01]
    wrong = loss_weights(steps_of(0.25, -0.01, 0.0), 0.5, 0.01)
    assert [float(one) for one in wrong.values()] == pytest.approx([0.25, -0.01], rel=1e-4)
    own = loss_weights(steps_of(0.5, 0.01, 0.1), 0.5, 0.01)
    assert all(one.isnan() for one in own.values())
