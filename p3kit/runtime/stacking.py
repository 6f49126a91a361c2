"""Tensor helpers for trainers that train K agents in one program: nothing here affects how an agent learns.

Notation for shapes: K agents, T steps of the rollout, N envs of an agent, R = T·N rows, B rows of a minibatch, A
actions, E epochs, P weights of an agent. Tables of a rollout are (T, N, K, …), rows of the environment are n·K + k, and
tables of an update are (K, R, …), so that every agent gathers and sums within its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value
from torch.utils._pytree import tree_flatten, tree_unflatten

from p3kit.runtime.checkpoints import Flat, part, under
from p3kit.runtime.scaling import ObservationScaler

Weights = dict[str, Tensor]
"""Tensors by name. In a stack of K agents the first dimension counts the agents; weights are (K, in, out), as their
gradients come out of a product, and biases (K, 1, out)."""
DropoutMasks = list[Tensor]
"""Multipliers per hidden layer, (…, rows, width): 0 for a unit that is off, 1/(1 − dropout) for one that is on."""

# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def split_agents(rows: Tensor, agents: int) -> Tensor:
    """(…, N·K) in the order of the environment → (…, N, K), on the last dimension."""
    split: Tensor = rows.unflatten(-1, (-1, agents))  # type: ignore[no-untyped-call]
    return split


def by_agent(rows: Tensor, agents: int) -> Tensor:
    """(N·K, …) in the order of the environment → (K, N, …)."""
    split: Tensor = rows.unflatten(0, (-1, agents)).transpose(0, 1)  # type: ignore[no-untyped-call]
    return split


def by_env(rows: Tensor, agents: int) -> Tensor:
    """(T, N·K, …) in the order of the environment → (T, N, K, …)."""
    split: Tensor = rows.unflatten(1, (-1, agents))  # type: ignore[no-untyped-call]
    return split


def to_rows(table: Tensor) -> Tensor:
    """(T, N, K, …) → (K, T·N, …), a table of rows per agent."""
    return table.movedim(2, 0).flatten(1, 2)


def from_rows(rows: Tensor, num_envs: int) -> Tensor:
    """(K, T·N) → (T, N, K), a view: the inverse of `to_rows`."""
    table: Tensor = rows.unflatten(1, (-1, num_envs)).permute(1, 2, 0)  # type: ignore[no-untyped-call]
    return table


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (K, B) of each agent's table (K, R, …)."""
    if table.dim() > 2:
        rows = rows.unsqueeze(-1).expand(-1, -1, table.shape[2])
    return table.gather(1, rows)


def split_batches(columns: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Tables (K, R, …) in batches of `size` rows, the last one smaller. Whole batches are contiguous, and so of one
    shape and stride in every epoch, which compiled functions need."""
    whole = columns[0].shape[1] // size * size
    batches = []
    for column in columns:
        split: Tensor = column[:, :whole].unflatten(1, (-1, size))  # type: ignore[no-untyped-call]
        batches.append(split.transpose(0, 1).contiguous().unbind(0))
    yield from zip(*batches, strict=True)
    if whole < columns[0].shape[1]:
        yield tuple(column[:, whole:] for column in columns)


def masks_of_rows(masks: DropoutMasks | None, envs: Tensor) -> DropoutMasks | None:
    """Dropout masks (K, B, width) of rows that belong to `envs` (K, B)."""
    return masks and [gather_rows(layer, envs) for layer in masks]


def add_weighted(total: Weights, term: Weights, weight: float) -> Weights:
    """`total` + `weight` · `term`, where an empty `total` is 0; `term` itself where its weight is 1."""
    if weight == 1:
        return term
    return {name: g * weight + total[name] if total else g * weight for name, g in term.items()}


def flatten_weights(weights: Weights, start: int = 1) -> Tensor:
    """All numbers of a dict of weights, with the dimensions from `start` on flattened: (K, P), or (P,) from 0 on."""
    return torch.cat([tensor.flatten(start) for tensor in weights.values()], -1)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[Any]:
    """The number format of a forward pass. In fp32 there is nothing to change, and a compiled function without the
    context of autocast is found in PyTorch's cache of traced functions."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, dtype=precision)


# ── settings in force ─────────────────────────────────────────────────────────────────────────────────────────────────


class Knobs(NamedTuple):
    """Each agent's knobs in force, (K, 1) float32."""

    learning_rate: Tensor
    weight_decay: Tensor
    clip_range: Tensor
    ent_coef: Tensor
    vf_coef: Tensor
    max_grad_norm: Tensor


def stack_knobs(in_force: Sequence[Any], device: torch.device) -> Knobs:
    """The knobs of K agents, from their arguments in force."""
    return Knobs(*(torch.tensor([[getattr(a, name)] for a in in_force], device=device) for name in Knobs._fields))


def stack_setting(in_force: Sequence[Any], name: str, device: torch.device) -> Tensor:
    """One setting (K,) of K agents, infinite where it is "off"."""
    values = [getattr(args, name) for args in in_force]
    return torch.tensor([math.inf if value == "off" else value for value in values], device=device)


# ── random numbers ────────────────────────────────────────────────────────────────────────────────────────────────────


class Draws(NamedTuple):
    """Every random number of an iteration, in the order in which trainers/ppo.py draws them."""

    noise: Tensor  # (T, N, A), of K agents (T, K, N, A)
    starts: Tensor  # (T, N), of K agents (T, N, K)
    orders: Tensor  # (E, R) a shuffle of the rows per epoch, of K agents (K, E, R)
    dropout: DropoutMasks | None  # (N, width) per hidden layer, of K agents (K, N, width)


def draw(
    generator: torch.Generator | None,
    shape: tuple[int, int, int],
    n_epochs: int,
    noise: Callable[[tuple[int, ...], torch.Generator], Tensor],
    dropout: Callable[[int, torch.Generator], DropoutMasks | None],
) -> Draws:
    """One agent's draws for a rollout of `shape` (T, N, A). Without a generator nothing is drawn: the agent has ended
    and only keeps its place."""
    steps, num_envs, _ = shape
    rows = steps * num_envs
    if generator is None:
        return Draws(torch.zeros(shape), torch.zeros(steps, num_envs), torch.arange(rows).expand(n_epochs, rows), None)
    return Draws(
        noise(shape, generator),
        torch.rand(steps, num_envs, generator=generator),
        torch.stack([torch.randperm(rows, generator=generator) for _ in range(n_epochs)]),
        dropout(num_envs, generator),
    )


def stack_draws(draws: Sequence[Draws], device: torch.device) -> Draws:
    """The draws of K agents. An agent without dropout masks gets masks of ones where another has some."""
    noise = torch.stack([one.noise for one in draws], 1).to(device)
    starts = torch.stack([one.starts for one in draws], 2).to(device)
    orders = torch.stack([one.orders for one in draws]).to(device)
    some = next((one.dropout for one in draws if one.dropout), None)
    if some is None:
        return Draws(noise, starts, orders, None)
    masks = [one.dropout or [torch.ones_like(layer) for layer in some] for one in draws]
    return Draws(noise, starts, orders, [torch.stack(layers).to(device) for layers in zip(*masks, strict=True)])


# ── networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def stack_weights(tables: Sequence[Weights], device: torch.device) -> Weights:
    """The weights of K agents, each tensor stacked along a new first dimension."""
    return {name: torch.stack([own[name] for own in tables]).to(device) for name in tables[0]}


def stack_networks(networks: Sequence[nn.Module], device: torch.device) -> Weights:
    """The weights of K networks whose `policy` and `value` have `layers` of equal shapes. The first layers of both see
    the same observation: they lie side by side as `first`, so that one product serves both."""

    def column(name: str, layer: int) -> tuple[Tensor, Tensor]:
        layers = [getattr(network, name).layers[layer] for network in networks]
        weight = torch.stack([one.weight.detach().T for one in layers])
        return weight, torch.stack([one.bias.detach().unsqueeze(0) for one in layers])

    stack: Weights = {}
    depth = len(getattr(networks[0], "policy").layers)  # noqa: B009 - a plain attribute is typed Tensor | Module
    for layer in range(depth):
        (policy_weight, policy_bias), (value_weight, value_bias) = column("policy", layer), column("value", layer)
        if layer == 0 and depth > 1:
            stack["first.weight"] = torch.cat((policy_weight, value_weight), -1)
            stack["first.bias"] = torch.cat((policy_bias, value_bias), -1)
        else:
            stack |= {f"policy.{layer}.weight": policy_weight, f"policy.{layer}.bias": policy_bias}
            stack |= {f"value.{layer}.weight": value_weight, f"value.{layer}.bias": value_bias}
    return {name: tensor.contiguous().to(device) for name, tensor in stack.items()}


def layers_of_agent(stack: Weights, agent: int) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Views of agent `agent`'s weight (out, in) and bias (out,) of every layer of "policy" and "value"."""
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {"policy": [], "value": []}
    if "first.weight" in stack:
        weight, bias = stack["first.weight"][agent].T, stack["first.bias"][agent, 0]
        half = len(bias) // 2
        layers = {"policy": [(weight[:half], bias[:half])], "value": [(weight[half:], bias[half:])]}
    for network, found in layers.items():
        while f"{network}.{len(found)}.weight" in stack:
            name = f"{network}.{len(found)}"
            found.append((stack[f"{name}.weight"][agent].T, stack[f"{name}.bias"][agent, 0]))
    return layers


def unstack_network(stack: Weights, agent: int) -> Flat:
    """The `state_dict` of agent `agent`'s own network, as `stack_networks` took it."""
    return {
        f"{network}.layers.{number}.{kind}": view
        for network, layers in layers_of_agent(stack, agent).items()
        for number, layer in enumerate(layers)
        for kind, view in zip(("weight", "bias"), layer, strict=True)
    }


class ObservationScalers:
    """The observation statistics of K agents, one scaler each."""

    def __init__(self, scalers: Sequence[ObservationScaler]) -> None:
        self._scalers = list(scalers)

    def __call__(self, observation: Tensor, agents: Sequence[int] | None = None) -> Tensor:
        """(K, …, D) → the same shape, each agent's rows by its own statistics; `agents` where they are only some."""
        scalers = self._scalers if agents is None else [self._scalers[k] for k in agents]
        if not any(scaler.running for scaler in scalers):
            return observation
        return torch.stack([scale(own) for scale, own in zip(scalers, observation, strict=True)])

    def update(self, observation: Tensor) -> None:
        """Add rows (K, B, D) to the statistics, as the environment gave them."""
        for scaler, own in zip(self._scalers, observation, strict=True):
            scaler.update(own)

    def of_agent(self, agent: int) -> Flat:
        """The state of one agent's scaler."""
        return self._scalers[agent].state_dict()

    def state_dict(self) -> Flat:
        states = [scaler.state_dict() for scaler in self._scalers]
        return {name: torch.stack([torch.as_tensor(own[name]) for own in states]) for name in states[0]}

    def load_state_dict(self, state: Flat) -> None:
        for agent in range(len(self._scalers)):
            self.go_back(state, agent, agent)

    def go_back(self, state: Flat, place: int, from_place: int) -> None:
        """Restore agent `place`, who was `from_place` when `state` was taken."""
        self._scalers[place].load_state_dict({name: value[from_place] for name, value in state.items()})


# ── gradient ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def grad_and_aux(function: Callable[[Any], tuple[Tensor, Any]], weights: Any) -> tuple[Any, Any]:
    """The gradient of the first result of `function` on its argument, a tree of tensors, and the second result.

    torch.compile traces torch.func alone. Outside of it that would import torch._dynamo, for a second of a short run.
    """
    if torch.compiler.is_compiling():
        gradient, (_, aux) = grad_and_value(function, has_aux=True)(weights)
        return gradient, aux
    leaves, tree = tree_flatten(weights)
    own = [one.detach().requires_grad_() for one in leaves]
    value, aux = function(tree_unflatten(own, tree))
    return tree_unflatten(list(torch.autograd.grad(value, own, materialize_grads=True)), tree), aux


# ── optimiser ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-5


class StepFactors(NamedTuple):
    """Factors of one AdamW step that all weights of an agent share, (K, 1, 1) each."""

    active: Tensor  # bool; where False neither weights nor moments change
    grad_scale: Tensor  # of the gradient: clipping, and the loss scale taken off
    first_weight: Tensor  # of the gradient in the first moment
    second_weight: Tensor  # of its square in the second moment
    step_size: Tensor  # learning rate over Adam's first bias correction
    inverse_std: Tensor  # Adam's second bias correction
    decay: Tensor  # of the weights


def step_factors(active: Tensor, grad_scale: Tensor, steps: Tensor, rate: Tensor, decay: Tensor) -> StepFactors:
    """The factors of a step, one number per agent: `steps` counts the steps taken, this one included.

    They go through one table. A compiled step would otherwise compute them again for every few weights.
    """
    moved, count = active.float(), steps.clamp_min(1)
    table = torch.stack(
        (
            moved,
            grad_scale,
            (1 - BETA1) * moved,
            (1 - BETA2) * moved,
            rate * moved / (1 - BETA1**count),
            (1 - BETA2**count).rsqrt(),
            1 - rate * decay * moved,
        )
    )
    return StepFactors(table[0] > 0, *table[1:])


def plan_step(
    gradient: Weights, loss: Tensor, loss_scale: Tensor, steps: Tensor, live: Tensor, knobs: Knobs
) -> tuple[StepFactors, Tensor, Tensor]:
    """Clip each agent's gradient to its own norm. An agent that is not `live` (K,) bool, or whose gradient is not
    finite, takes no step.

    `loss` (K,) is the losses, `loss_scale` (K,) the divisor of the gradient, `steps` (K,) the number of steps taken.
    Returns the factors, the new number of steps, and (K, 5): the norm twice (one is averaged, one maximised), 1 where
    it was clipped, 1 where something was not finite, and the loss. The fourth looks at the gradient; under a loss scale
    it looks at the loss, since a gradient that overflows is normal there.
    """
    norm = torch.stack([one.flatten(1).square().sum(1) for one in gradient.values()]).sum(0).sqrt() / loss_scale
    active = norm.isfinite() & live
    steps = steps + active
    rate, decay, limit = (
        knobs.learning_rate.squeeze(-1),
        knobs.weight_decay.squeeze(-1),
        knobs.max_grad_norm.squeeze(-1),
    )
    factors = step_factors(active, (limit / (norm + 1e-6)).clamp(max=1.0) / loss_scale, steps, rate, decay)
    broken = torch.where(loss_scale == 1, ~norm.isfinite(), ~loss.isfinite())
    metrics = torch.stack([norm, norm, (norm > limit).float(), broken.float(), loss], -1)
    return StepFactors(*(column.view(-1, 1, 1) for column in factors)), steps, metrics


def adamw_step(weights: Weights, first: Weights, second: Weights, gradient: Weights, factors: StepFactors) -> None:
    """One step of AdamW (Loshchilov and Hutter 2019) for every agent, in place; `first`, `second` are the moments."""
    for name, own in weights.items():
        grad = torch.where(factors.active, gradient[name] * factors.grad_scale, 0.0)
        new_first = first[name] + (grad - first[name]) * factors.first_weight
        new_second = second[name] * (1 - factors.second_weight) + grad * grad * factors.second_weight
        step = factors.step_size * new_first / (new_second.sqrt() * factors.inverse_std + EPSILON)
        own.copy_(own * factors.decay - step)
        first[name].copy_(new_first)
        second[name].copy_(new_second)


class AdamW:
    """AdamW for K agents in one step, with moments and step counts of each agent's own.

    A trainer may compile `adamw_step` into a function of its own. `shape` is (K,), or () for weights that all agents
    share.
    """

    def __init__(self, weights: Weights, shape: tuple[int, ...], device: torch.device) -> None:
        self.weights = weights
        first, second = ({name: torch.zeros_like(own) for name, own in weights.items()} for _ in range(2))
        self.moments = first, second
        self.steps = torch.zeros(shape, device=device)

    def step(self, gradient: Weights, factors: StepFactors, steps: Tensor) -> None:
        """Move the weights in place. `factors` and the new number of `steps` come from `plan_step`."""
        adamw_step(self.weights, *self.moments, gradient, factors)
        self.steps = steps

    def state_dict(self) -> Flat:
        first, second = self.moments
        return under("first", first) | under("second", second) | {"steps": self.steps}

    def load_state_dict(self, state: Flat) -> None:
        for name, moment in zip(("first", "second"), self.moments, strict=True):
            moment.update(part(name, state))
        self.steps = state["steps"]

    def go_back(self, state: Flat, place: int, from_place: int) -> None:
        """Restore agent `place`, who was `from_place` when `state` was taken."""
        for name, moment in zip(("first", "second"), self.moments, strict=True):
            for key, earlier in part(name, state).items():
                moment[key][place] = earlier[from_place]
        self.steps[place] = state["steps"][from_place]


class LossScale:
    """`torch.amp.GradScaler`'s rule with a scale of each agent's own: halved by a gradient that is not finite, doubled
    after 2,000 that were. Always 1 where gradients are not fp16."""

    GROWTH_STEPS = 2_000

    def __init__(self, agents: int, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = torch.full((agents,), 65_536.0 if enabled else 1.0, device=device)
        self.good = torch.zeros(agents, device=device)

    def update(self, norm: Tensor, live: Tensor) -> None:
        """Adapt the scales to this step's norms (K,), for the agents that are live (K,) bool."""
        if not self.enabled:
            return
        fine = norm.isfinite()
        good = torch.where(fine, self.good + 1, 0.0)
        grown = good >= self.GROWTH_STEPS
        scale = torch.where(fine, torch.where(grown, self.scale * 2, self.scale), self.scale * 0.5)
        self.scale = torch.where(live, scale, self.scale)
        self.good = torch.where(live, torch.where(grown, 0.0, good), self.good)

    def state_dict(self) -> Flat:
        return {"scale": self.scale, "good": self.good}

    def load_state_dict(self, state: Flat) -> None:
        self.scale, self.good = state["scale"], state["good"]

    def go_back(self, state: Flat, place: int, from_place: int) -> None:
        """Restore agent `place`, who was `from_place` when `state` was taken."""
        self.scale[place], self.good[place] = state["scale"][from_place], state["good"][from_place]


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────────


def select_agents(state: Mapping[str, Any], kept: Sequence[int], shared: Sequence[str] = ()) -> Flat:
    """The state of a run of K agents without those that are not `kept`. Parts that are `shared` belong to all agents.

    Rows of the environment are n·K + k, and the discounted sums of rewards (N, K).
    """
    names = state["agents"].split("\n")

    def own(name: str, value: Any) -> Any:
        if name == "agents":
            return "\n".join(names[k] for k in kept)
        if not isinstance(value, Tensor) or name.split("/")[0] in shared:
            return value
        if name == "reward/discounted":
            return value[:, kept]
        if name == "env/account":
            return split_agents(value, len(names))[..., kept].flatten(-2)
        if name.startswith("env/"):
            return by_agent(value, len(names))[kept].transpose(0, 1).flatten(0, 1)
        return value[kept]

    return {name: own(name, value) for name, value in state.items()}
