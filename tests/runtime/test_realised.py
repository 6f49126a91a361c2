"""The learning rate that the moves of weights imply."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from p3kit.runtime.realised import LARGEST_STEP, fastest

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
