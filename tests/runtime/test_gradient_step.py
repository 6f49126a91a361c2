"""p3kit.runtime.gradient_step beside `loss.backward()`, clipping by norm and torch.optim.AdamW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from p3kit.runtime.gradient_step import clip_and_step, gradient_function, is_supported, moments_of

KNOBS = {"lr": 3e-3, "weight_decay": 0.1, "eps": 1e-5}


class Net(nn.Module):
    """Two layers, called with dropout masks as the networks of trainers/ppo.py are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, observation: Tensor, dropout: Any = None) -> tuple[Tensor]:
        return (self.last(torch.tanh(self.first(observation))).squeeze(-1),)


def loss(value: Tensor, target: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    error = (value - target).square().mean()
    return scale * error, error.detach()


@pytest.mark.parametrize("limit", [1e-3, 1e3], ids=["clipped", "not clipped"])
def test_steps_are_those_of_clipping_and_adamw(limit: float) -> None:
    expected, found = Net(), Net()
    parameters = list(expected.parameters())
    optimizer = torch.optim.AdamW(parameters, **KNOBS, fused=True)
    own = torch.optim.AdamW(found.parameters(), **KNOBS, fused=True)
    find_gradient = gradient_function(found, loss, torch.float32)
    weights = {name: one.detach() for name, one in found.named_parameters()}
    knobs = [torch.tensor(one) for one in (KNOBS["lr"], KNOBS["weight_decay"], limit)]
    for step in range(6):
        rows, target = torch.randn(16, 5), torch.randn(16)
        if step == 3:
            target[0] = torch.inf  # no step is taken, and the moments stay
        optimizer.zero_grad()
        value, _ = loss(*expected(rows), target, scale=2.0)
        value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        gradient, found_value, stats = find_gradient(weights, rows, None, target, scale=2.0)
        torch.testing.assert_close((found_value, stats * 2), (value.detach(), value.detach()))
        with torch.no_grad():
            found_norm, skipped = clip_and_step([*weights.values()], [*gradient.values()], *moments_of(own), *knobs)
        assert bool(skipped) == (step == 3)
        if step != 3:
            torch.testing.assert_close(found_norm, norm)
            torch.testing.assert_close([*gradient.values()], [one.grad for one in parameters])
        torch.testing.assert_close(weights, {name: one.detach() for name, one in expected.named_parameters()})
    torch.testing.assert_close(own.state_dict()["state"], optimizer.state_dict()["state"])
    assert float(own.state_dict()["state"][0]["step"]) == 5


@pytest.mark.parametrize(
    ("change", "supported"),
    [({}, True), ({"betas": (0.9, 0.99)}, False), ({"eps": 1e-8}, False), ({"amsgrad": True}, False)],
)
def test_other_optimizers_step_by_themselves(change: dict[str, Any], supported: bool) -> None:
    parameters = list(Net().parameters())
    assert is_supported(torch.optim.AdamW(parameters, **(KNOBS | change)), parameters) == supported
    assert not is_supported(torch.optim.Adam(parameters, eps=1e-5), parameters)
    assert not is_supported(torch.optim.AdamW(parameters[:2], eps=1e-5), parameters)
