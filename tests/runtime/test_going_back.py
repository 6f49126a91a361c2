"""Statistics of a stack: the same numbers as alone, and one agent's can go back without the others'."""

from __future__ import annotations

import torch

from p3kit.runtime.scaling import ObservationScaler, RewardScaler

CPU = torch.device("cpu")
DRAW = torch.Generator().manual_seed(1)


def rewards() -> torch.Tensor:
    return torch.randn(16, 3, 2, generator=DRAW)


def test_a_stack_scales_as_each_agent_alone_does() -> None:
    stack = RewardScaler("running", None, 3, CPU, agents=2)
    alone = [RewardScaler("running", None, 3, CPU) for _ in range(2)]
    for _ in range(4):
        reward, done = rewards(), torch.rand(16, 3, 2, generator=DRAW) < 0.1
        together = stack(reward, done, 0.9)[0]
        for k, scaler in enumerate(alone):
            one = scaler(reward[..., k], done[..., k], 0.9)[0]
            torch.testing.assert_close(together[..., k], one, rtol=1e-12, atol=0)


def test_one_agent_goes_back_the_other_does_not() -> None:
    stack, never = (RewardScaler("running", None, 3, CPU, agents=2) for _ in range(2))
    done = torch.zeros(16, 3, 2, dtype=torch.bool)
    begun = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in stack.state_dict().items()
    }
    first, second = rewards() * 100, rewards()
    stack(first, done, 0.0)
    stack.go_back(begun, place=0, from_place=0)
    scale = stack(second, done, 0.0)[2]
    never(second, done, 0.0)
    torch.testing.assert_close(scale[0], second[..., 0].double().std(correction=0), rtol=1e-6, atol=0)
    assert float(scale[1]) > 10 * float(scale[0]), "it still remembers the large rewards"


def test_frozen_statistics_do_not_move() -> None:
    frozen = False
    scaler = ObservationScaler(4, running=True, clip=10.0, device=CPU, is_frozen=lambda: frozen)
    scaler.update(torch.randn(32, 4, generator=DRAW))
    mean = scaler.moments.mean.clone()
    frozen = True
    scaler.update(torch.randn(32, 4, generator=DRAW) + 5)
    torch.testing.assert_close(scaler.moments.mean, mean)
    assert scaler.drift is None
    frozen = False
    scaler.update(torch.randn(32, 4, generator=DRAW) + 5)
    assert (scaler.moments.mean > mean).all()
