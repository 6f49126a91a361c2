"""A gradient step of a module by AdamW, as two functions that torch.compile takes whole.

torch.compile breaks its graph at `loss.backward()` and around the step of a torch.optim optimizer. On a CPU the breaks
take as long as the work between them. These functions have none, and end with the same numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from p3kit.runtime.stacking import (
    BETA1,
    BETA2,
    EPSILON,
    StepFactors,
    Weights,
    adamw_step,
    autocast,
    grad_and_aux,
    step_factors,
)


def gradient_function(
    net: nn.Module, loss: Callable[..., tuple[Tensor, Tensor]], precision: torch.dtype
) -> Callable[..., tuple[Weights, Tensor, Tensor]]:
    """(weights of `net`, observation (B, …), dropout masks, *rest, **settings of `loss`) → gradient, loss and
    statistics."""

    def find_gradient(
        weights: Weights, observation: Tensor, dropout: Any, *rest: Any, **settings: Any
    ) -> tuple[Weights, Tensor, Tensor]:
        def total(own: Weights) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            with autocast(observation.device, precision):
                value, stats = loss(*functional_call(net, own, (observation, dropout)), *rest, **settings)
            return value, (value.detach(), stats)

        gradient, (value, stats) = grad_and_aux(total, weights)
        return gradient, value, stats

    return find_gradient


def step_function(optimizer: torch.optim.Optimizer) -> Callable[..., tuple[Tensor, Tensor]]:
    """`clip_and_step`; where compiling has failed, clipping by norm and the step of `optimizer` itself."""

    def step(*tensors: Any) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return clip_and_step(*tensors)
        norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], tensors[-1].item())
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        return norm, ~norm.isfinite()

    return step


def is_supported(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> bool:
    """True if `clip_and_step` equals clipping by norm and a step of `optimizer`, over all `parameters`."""
    (group, *others) = optimizer.param_groups
    return (
        type(optimizer) is torch.optim.AdamW
        and not others
        and (*group["betas"], group["eps"]) == (BETA1, BETA2, EPSILON)
        and not (group["amsgrad"] or group["maximize"])
        and [*map(id, group["params"])] == [*map(id, parameters)]
    )


def moments_of(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Adam's two moments and its count of steps, of each parameter. Before the first step they are
    zero, as torch.optim.AdamW makes them."""
    parameters = optimizer.param_groups[0]["params"]
    states = [optimizer.state[one] for one in parameters]
    if not all(states):
        for one, state in zip(parameters, states, strict=True):
            state["step"] = torch.zeros((), dtype=torch.float32, device=one.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(one), torch.zeros_like(one)
    first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    return first, second, steps


def clip_and_step(
    weights: list[Tensor],
    gradient: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    learning_rate: Tensor,
    weight_decay: Tensor,
    max_grad_norm: Tensor,
) -> tuple[Tensor, Tensor]:
    """Shorten the gradient to `max_grad_norm`, and take a step of AdamW unless the norm is not finite; all in place.

    Returns the norm before, and True where no step was taken, both 0-d.
    """
    norm = torch.stack([one.square().sum() for one in gradient]).sum().sqrt()
    active, scale = norm.isfinite(), (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    taken = torch.stack(steps) + active
    factors = step_factors(active.expand(taken.shape), scale.expand(taken.shape), taken, learning_rate, weight_decay)
    for i, (own, grad) in enumerate(zip(weights, gradient, strict=True)):
        own_factors = StepFactors(*(column[i] for column in factors))
        adamw_step({"": own}, {"": first[i]}, {"": second[i]}, {"": grad}, own_factors)
        grad.mul_(scale)
        steps[i].copy_(taken[i])
    return norm, ~active
