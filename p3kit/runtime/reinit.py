"""New initial weights for a part of a net, in place: the intervention `reinit`.

A net is given as layers by network (policy, value), from the observation to the output. A layer is a pair of views: its
weight (out, in) and bias (out,), however the trainer stores them. Writing to them changes the net. The optimiser's
moments have the same form and become 0. Its count of steps stays, as in ReDo (Sokar et al. 2023, "The Dormant Neuron
Phenomenon in Deep Reinforcement Learning", algorithm 1).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from p3kit.runtime.evidence import dormant_units
from p3kit.runtime.stacking import Weights, layers_of_agent

UNDECIDED_GAIN = 0.01
"""Largest singular value of a policy's last layer after a reset (Andrychowicz et al. 2021, section 3.2)."""
Layer = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,)."""
NamedLayers = Mapping[str, Sequence[Layer]]
"""Layers by network (policy, value), from the first to the output."""


@torch.no_grad()
def reinit_head(
    net: NamedLayers, fresh: NamedLayers, moments: Sequence[NamedLayers], network: str, layers: int = 1
) -> None:
    """Give the last `layers` layers of a network the weights of `fresh`. A policy's outputs begin small, for any gain
    of the trainer: a head as large as before would be certain before it has learnt."""
    if network == "policy":
        weight = fresh[network][-1][0]
        weight.mul_((UNDECIDED_GAIN / torch.linalg.matrix_norm(weight, 2)).clamp(max=1.0))
    for number in range(-layers, 0):
        for own, new in zip(net[network][number], fresh[network][number], strict=True):
            own.copy_(new)
        for moment in moments:
            for own in moment[network][number]:
                own.zero_()


@torch.no_grad()
def reinit_dormant(
    net: NamedLayers, fresh: NamedLayers, moments: Sequence[NamedLayers], activations: Mapping[str, Sequence[Tensor]]
) -> int:
    """Give every dormant hidden unit the incoming weights of `fresh`, no bias, and outgoing weights of 0, so that the
    outputs stay nearly the same and the unit can learn. Return their number.

    `activations` are (B, H) per hidden layer of each network: the first ones of its layers, as many as are given.
    """
    found = 0
    for network, hidden in activations.items():
        for number, activation in enumerate(hidden):
            dormant = dormant_units(activation)
            found += int(dormant.sum())
            (weight, bias), (new, _) = net[network][number], fresh[network][number]
            weight[dormant], bias[dormant] = new[dormant], 0.0
            net[network][number + 1][0][:, dormant] = 0
            for moment in moments:
                for own in moment[network][number]:
                    own[dormant] = 0
                moment[network][number + 1][0][:, dormant] = 0
    return found


def reinit_part(
    net: nn.Module, optimizer: torch.optim.Optimizer, part: str, observation: Tensor, generator: torch.Generator
) -> None:
    """Draw new weights for a part of a module: "policy_head" and "value_head" are the last layers of its children
    `policy` and `value`, "dormant" the hidden units that hardly respond to observations (B, D).

    `net.reset_parameters(generator)` gives the weights; the children have `hidden(observation)` for "dormant".
    """
    fresh: Any = copy.deepcopy(net).cpu()
    fresh.reset_parameters(generator)
    fresh.to(observation.device)
    own, new, moments = _layers(net), _layers(fresh), _moments(net, optimizer)
    if part != "dormant":
        reinit_head(own, new, moments, part.removesuffix("_head"))
        return
    children: dict[str, Any] = dict(net.named_children())
    with torch.no_grad():
        activations = {name: child.hidden(observation) for name, child in children.items()}
    reinit_dormant(own, new, moments, activations)


def reinit_agent(
    stack: Weights,
    fresh: Weights,
    moments: Sequence[Weights],
    part: str,
    activations: Mapping[str, Sequence[Tensor]],
    agent: int,
    layers: int,
) -> None:
    """`reinit_part` for one agent of a stack: `fresh` has its new weights, (1, …), and `activations` its hidden layers.

    "policy_head" and "value_head" are the last `layers` layers.
    """
    own, new = layers_of_agent(stack, agent), layers_of_agent(fresh, 0)
    moved = [layers_of_agent(moment, agent) for moment in moments]
    if part == "dormant":
        reinit_dormant(own, new, moved, activations)
    else:
        reinit_head(own, new, moved, part.removesuffix("_head"), layers)


def _linears(net: nn.Module) -> dict[str, list[nn.Linear]]:
    return {
        name: [layer for layer in child.modules() if isinstance(layer, nn.Linear)]
        for name, child in net.named_children()
    }


def _layers(net: nn.Module) -> NamedLayers:
    return {name: [(layer.weight, layer.bias) for layer in layers] for name, layers in _linears(net).items()}


def _moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[NamedLayers]:
    """Adam's two moments by layer; none before the first step."""
    state = optimizer.state
    if not state:
        return []
    return [
        {
            name: [(state[layer.weight][key], state[layer.bias][key]) for layer in layers]
            for name, layers in _linears(net).items()
        }
        for key in ("exp_avg", "exp_avg_sq")
    ]
