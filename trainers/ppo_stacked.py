"""PPO for K independent agents as one tensor program: trainers/ppo.py for a stack of agents.

Parameters, optimiser moments, rollouts and minibatches have a leading agent axis; one batched step serves all agents.
No agent affects another: each has its own generator, schedules, gradient clipping, `target_kl`, guard against steps
that are not finite, early stop and verdict. It ends with the weights (to float rounding) that trainers/ppo.py gives it
alone. A small net leaves most of a core idle when it is trained alone, and nearly all of a GPU; a stack uses them.

p3kit starts it with a run directory that holds a group of agents of equal shapes; alone it trains one:

    python trainers/ppo_stacked.py --symbol AAPL --total-timesteps 20000

Notation for shapes: K agents, T steps of the rollout, N envs of an agent, R = T·N rows, B rows of a minibatch, D
observation values, F fields of the account, A actions, C reward components, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from p3kit.runtime import Stack, StackRun, under
from p3kit.runtime.products import linear
from p3kit.runtime.stacking import (
    AdamW,
    DropoutMasks,
    Knobs,
    LossScale,
    Weights,
    adamw_step,
    add_weighted,
    autocast,
    by_agent,
    by_env,
    flatten_weights,
    from_rows,
    gather_rows,
    grad_and_aux,
    masks_of_rows,
    plan_step,
    split_batches,
    stack_knobs,
    stack_networks,
    stack_setting,
    to_rows,
    unstack_network,
)

AGENTS = "stack"
"""Agents that p3kit puts into one run of this trainer: those with equal shapes of their tensors."""

# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


# Copied from trainers/ppo.py::Args
@dataclass(frozen=True)
class Args:
    """The knobs of `[ppo]`. p3kit reads this class from the source; "size" marks what fixes the shape of tensors."""

    total_timesteps: Annotated[int, Ge(1), Le(10_000_000_000), "size"] = 100_000
    """Env steps per agent, taken exactly."""
    learning_rate: Annotated[float, Gt(0), Le(1)] = 3e-4
    """Step size of Adam; raising it learns faster and breaks sooner."""
    n_steps: Annotated[int, Ge(1), Le(1_000_000), "size"] = 2048
    """Rollout length per env and iteration; raising it gives better advantages and fewer updates."""
    batch_size: Annotated[int, Ge(2), Le(100_000_000), "size"] = 64
    """Rows of a minibatch; raising it gives steadier gradients and fewer of them."""
    n_epochs: Annotated[int, Ge(1), Le(1_000), "size"] = 10
    """Passes over each rollout; raising it uses samples better and moves the policy further from them."""
    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount per bar; the horizon is 1/(1 − gamma) bars."""
    gae_lambda: Annotated[float, Ge(0), Le(1)] = 0.95
    """Mix of one-step and whole-episode advantages; raising it trades bias for variance."""
    clip_range: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Largest distance of the probability ratio from 1 before its gradient is cut."""
    ent_coef: Annotated[float, Ge(0), Le(2)] = 0.01
    """Weight of the entropy bonus in nats; raising it keeps the policy exploring."""
    vf_coef: Annotated[float, Ge(0), Le(1_000)] = 0.5
    """Weight of the value loss."""
    max_grad_norm: Annotated[float, Gt(0), Le(1_000_000_000)] = 0.5
    """Gradients longer than this are shortened to it."""
    target_kl: Annotated[float | Literal["off"], Gt(0), Le(1_000)] = 0.015
    """An epoch whose mean KL divergence is larger is the last of its update; "off" runs all epochs."""
    accumulation_steps: Annotated[int, Ge(1), Le(1_000_000), "size"] = 1
    """Minibatches summed into one gradient step; raising it saves memory at an equal effective batch."""
    hidden: Annotated[tuple[int, ...], Ge(1), Le(16_384), "size"] = (64, 64)
    """Widths of the hidden layers, of the policy and of the value net alike."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the hidden layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of hidden units dropped per env; constant within an iteration, so that the ratio starts at 1."""
    weight_decay: Annotated[float, Ge(0), Le(100)] = 0.0
    """Decoupled weight decay (AdamW); raising it keeps weights small."""
    value_loss: Literal["mse", "huber", "clipped"] = "mse"
    """Shape of the value loss; "huber" bounds its gradient, "clipped" bounds the move from the old value."""
    init_gain: Annotated[float, Gt(0), Le(100), "size"] = 0.01
    """Scale of the policy head at the start; small means a nearly uniform first policy."""
    init_hold: Annotated[float, Ge(0), Le(20), "size"] = 0.0
    """Logit of the first action (HOLD) at the start, others have 0; raising it trades less, so positions last."""


# ── network ───────────────────────────────────────────────────────────────────────────────────────────────────────────


# Copied from trainers/ppo.py::MLP
class MLP(nn.Module):
    """A plain multilayer perceptron."""

    def __init__(
        self, sizes: list[int], activation: str, head: tuple[float, float], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.activation = torch.tanh if activation == "tanh" else torch.relu
        self.head_gain, self.first_bias = head
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Orthogonal weights: √2 in hidden layers, `head_gain` in the last one; no biases but the first output's."""
        for layer in self.layers:
            gain = self.head_gain if layer is self.layers[-1] else math.sqrt(2)
            weight, bias = layer.parameters()
            nn.init.orthogonal_(weight, gain, generator=generator)
            nn.init.zeros_(bias)
        nn.init.constant_(bias[:1], self.first_bias)

    def hidden(self, x: Tensor, dropout: DropoutMasks | None = None) -> list[Tensor]:
        """Activations of every hidden layer, (B, width) each."""
        activations = []
        for i, layer in enumerate(list(self.layers)[:-1]):
            x = self.activation(layer(x))
            if dropout is not None:
                x = x * dropout[i]
            activations.append(x)
        return activations

    def forward(self, x: Tensor, dropout: DropoutMasks | None = None) -> Tensor:
        hidden = self.hidden(x, dropout)
        return self.layers[-1](hidden[-1] if hidden else x)


# Copied from trainers/ppo.py::ActorCritic
class ActorCritic(nn.Module):
    """Two nets that share nothing: a policy over A actions and a value."""

    def __init__(self, observation_size: int, num_actions: int, args: Args, generator: torch.Generator) -> None:
        super().__init__()
        widths = [observation_size, *args.hidden]
        self.policy = MLP([*widths, num_actions], args.activation, (args.init_gain, args.init_hold), generator)
        self.value = MLP([*widths, 1], args.activation, (1.0, 0.0), generator)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights again."""
        self.policy.reset_parameters(generator)
        self.value.reset_parameters(generator)

    def forward(self, observation: Tensor, dropout: DropoutMasks | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) → logits (B, A) and value (B,), both float32."""
        return self.policy(observation, dropout).float(), self.value(observation, dropout).squeeze(-1).float()


def affine(stack: Weights, layer: str, x: Tensor) -> Tensor:
    """(K, B, in) → (K, B, out), each agent by its own layer."""
    return linear(x, stack[f"{layer}.weight"], stack[f"{layer}.bias"])


def hidden_layers(
    stack: Weights, observation: Tensor, activation: str, dropout: DropoutMasks | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Activations of the policy's and the value's hidden layers, (K, B, H) each; empty for a linear policy."""
    if "first.weight" not in stack:
        return []
    act = torch.tanh if activation == "tanh" else torch.relu
    policy, value = act(affine(stack, "first", observation)).chunk(2, -1)
    layers = []
    for layer in range(1, sum(name.startswith("policy") for name in stack) // 2 + 1):
        if dropout is not None:
            policy, value = policy * dropout[layer - 1], value * dropout[layer - 1]
        layers.append((policy, value))
        if f"policy.{layer + 1}.weight" in stack:
            policy, value = act(affine(stack, f"policy.{layer}", policy)), act(affine(stack, f"value.{layer}", value))
    return layers


def forward_stack(
    stack: Weights, observation: Tensor, activation: str, dropout: DropoutMasks | None = None
) -> tuple[Tensor, Tensor]:
    """(K, B, D) → logits (K, B, A) and value (K, B), both float32; what `ActorCritic` gives each agent alone."""
    layers = hidden_layers(stack, observation, activation, dropout)
    policy, value = layers[-1] if layers else (observation, observation)
    logits, values = affine(stack, f"policy.{len(layers)}", policy), affine(stack, f"value.{len(layers)}", value)
    return logits.float(), values.squeeze(-1).float()


# Copied from trainers/ppo.py::masked_log_softmax
def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (…, A) of the valid actions; masked ones get the smallest number, so their probability is 0."""
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1)


# Copied from trainers/ppo.py::dropout_masks
def dropout_masks(args: Args, num_envs: int, generator: torch.Generator) -> DropoutMasks | None:
    """One set of units per env, held for a whole iteration (consistent dropout, Hausknecht and Wagener 2022)."""
    if args.dropout == 0:
        return None
    draws = [torch.rand(num_envs, width, generator=generator) for width in args.hidden]
    return [(draw >= args.dropout).float() / (1 - args.dropout) for draw in draws]


class Networks:
    """The networks of K agents as one stack; `p3kit.runtime.stack_run.Networks` describes each method."""

    output_layers = 1

    def __init__(
        self,
        make: Callable[[torch.Generator], ActorCritic],
        generators: Sequence[torch.Generator],
        activation: str,
        device: torch.device,
    ) -> None:
        self.make, self.activation, self.device = make, activation, device
        self.weights = self.initial_weights(*generators)

    def initial_weights(self, *generators: torch.Generator) -> Weights:
        return stack_networks([self.make(generator) for generator in generators], self.device)

    def flat(self) -> Tensor:
        return flatten_weights(self.weights)

    def log_probs(self, agents: Sequence[int] | slice, observation: Tensor, mask: Tensor) -> Tensor:
        own = {name: weights[agents] for name, weights in self.weights.items()}
        logits, _ = forward_stack(own, observation, self.activation)
        return masked_log_softmax(logits, mask)

    def inspect(
        self, observation: Tensor, mask: Tensor, dropout: DropoutMasks | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor], dict[str, Tensor]]:
        logits, _ = forward_stack(self.weights, observation, self.activation, dropout)
        layers = hidden_layers(self.weights, observation, self.activation)
        return masked_log_softmax(logits, mask), [policy for policy, _ in layers], [value for _, value in layers], {}

    def of_agent(self, agent: int) -> dict[str, Tensor]:
        return under("net", unstack_network(self.weights, agent))


def load_policy(
    args: Args,
    weights: dict[str, Any],
    device: torch.device,
    observation_size: int,
    num_actions: int,
    agent: str = "",
    **_: Any,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The policy of an agent of a checkpoint: (observation (B, D), mask (B, A)) → masked log-probabilities (B, A),
    value (B,)."""
    net, own = ActorCritic(observation_size, num_actions, args, torch.Generator()).to(device), weights["net"]
    if "agents" in weights:  # the checkpoint of a whole stack
        own = unstack_network(own, weights["agents"].split("\n").index(agent))
    net.load_state_dict(own)

    def policy(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = net(observation)
        return masked_log_softmax(logits, mask), value

    return policy


# ── rollout ───────────────────────────────────────────────────────────────────────────────────────────────────────────


# Copied from trainers/ppo.py::Buffer
class Buffer(NamedTuple):
    """One rollout, compact: where to gather each observation from, never the observation itself."""

    index: Tensor  # type: ignore[assignment]  # (T, N) row of the feature table
    account: Tensor  # (T, N, K)
    mask: Tensor  # (T, N, A) bool, the mask the action was drawn under
    action: Tensor  # (T, N)
    log_prob: Tensor  # (T, N)
    value: Tensor  # (T, N)
    components: Tensor  # (T, N, C) raw reward components
    terminated: Tensor  # (T, N) bool: no equity left: no bootstrap
    truncated: Tensor  # (T, N) bool: the window ended, the value of the final observation follows
    final_index: Tensor  # (T, N)
    final_account: Tensor  # (T, N, K)
    equity: Tensor  # (T, N) in money, after the step
    closed_profit: Tensor  # (T, N) NaN where no round trip closed
    valid: Tensor  # (T, N) bool: a real transition; False for a reset step, which has no action


# Copied from trainers/ppo.py::sample_action
def sample_action(log_prob: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from (N, A) log-probabilities by the Gumbel-max trick: actions (N,) and their log-probabilities (N,)."""
    action = (log_prob + noise).argmax(-1)
    return action, log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)


# Copied from trainers/ppo.py::gumbel_noise
def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: −ln E with E exponential."""
    return -torch.empty(shape).exponential_(generator=generator).clamp_min_(1e-30).log_()


# ── advantages ────────────────────────────────────────────────────────────────────────────────────────────────────────


# Copied from trainers/ppo.py::compute_gae
def compute_gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16), shape (T, …).

    `next_value` is the value of the state that followed, before any restart: the final observation's where `done`. Only
    `terminated` stops the bootstrap; `done` (terminated or truncated) ends the sum, so nothing leaks over a restart.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    decay = gamma * gae_lambda * (~done).to(delta.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + decay[t] * running
        advantage[t] = running
    return advantage


def normalise(advantage: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over each agent's effective batch (K, B); a single row is left as it is."""
    if advantage.shape[-1] < 2:
        return advantage
    return (advantage - advantage.mean(-1, keepdim=True)) / (advantage.std(-1, keepdim=True) + 1e-8)


# ── loss ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

# Copied from trainers/ppo.py::LOSS_METRICS
LOSS_METRICS = (
    "policy/policy_loss",
    "value/value_loss",
    "policy/entropy",
    "policy/entropy_norm",
    "policy/kl_divergence",
    "policy/clip_fraction",
    "policy/ratio_error",
)
# Copied from trainers/ppo.py::STEP_METRICS
STEP_METRICS = (*LOSS_METRICS, "policy/kl_max", "grad/grad_norm", "grad/grad_norm_max", "grad/grad_clipped_pct",
                "diag/nonfinite", "policy/total_loss")  # fmt: skip
# Copied from trainers/ppo.py::KL
KL = LOSS_METRICS.index("policy/kl_divergence")
NORM = STEP_METRICS.index("grad/grad_norm")


# Copied from trainers/ppo.py::Minibatch
class Minibatch(NamedTuple):
    # differs: rows of each agent (1 line)
    """Input of the loss for B rows of each of K agents, all (K, B) but for the mask (K, B, A)."""

    # end

    action: Tensor
    log_prob: Tensor
    advantage: Tensor  # normalised
    returns: Tensor
    value: Tensor
    mask: Tensor


def ppo_loss(logits: Tensor, value: Tensor, batch: Minibatch, knobs: Knobs, value_loss: str) -> tuple[Tensor, Tensor]:
    """The loss of trainers/ppo.py for each agent: the clipped surrogate with value and entropy terms (Schulman et al.
    2017, equations 7 and 9), to be minimised.

    logits (K, B, A), value (K, B). Returns losses (K,) and, detached, one number per LOSS_METRICS (K, 7). The KL
    divergence is the k3 estimate E[(ratio − 1) − ln ratio] (J. Schulman, "Approximating KL divergence", 2020).
    """
    all_log_prob = masked_log_softmax(logits, batch.mask)
    log_ratio = all_log_prob.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1) - batch.log_prob
    ratio = log_ratio.exp()
    clipped = torch.minimum(torch.maximum(ratio, 1 - knobs.clip_range), 1 + knobs.clip_range)
    policy_term = -torch.min(ratio * batch.advantage, clipped * batch.advantage).mean(-1)

    if value_loss == "huber":
        value_term = 2 * F.huber_loss(value, batch.returns, reduction="none").mean(-1)
    elif value_loss == "clipped":
        moved = torch.minimum(torch.maximum(value - batch.value, -knobs.clip_range), knobs.clip_range)
        clipped_value = batch.value + moved
        value_term = torch.max((value - batch.returns).square(), (clipped_value - batch.returns).square()).mean(-1)
    else:
        value_term = (value - batch.returns).square().mean(-1)

    entropy = -(all_log_prob.exp() * all_log_prob).sum(-1)
    loss = policy_term + knobs.vf_coef.squeeze(-1) * value_term - knobs.ent_coef.squeeze(-1) * entropy.mean(-1)

    choices = batch.mask.sum(-1)
    has_choice = (choices > 1).float()
    normalised_entropy = entropy / choices.clamp_min(2).float().log() * has_choice
    entropy_norm = normalised_entropy.sum(-1) / has_choice.sum(-1).clamp_min(1)
    deviation, kl = (ratio - 1).abs(), (ratio - 1 - log_ratio).mean(-1)
    clip_fraction = (deviation > knobs.clip_range).float().mean(-1)
    stats = [policy_term, value_term, entropy.mean(-1), entropy_norm, kl, clip_fraction, deviation.mean(-1)]
    return loss, torch.stack(stats, dim=-1).detach()


def find_gradient(
    stack: Weights,
    observation: Tensor,
    batch: Minibatch,
    dropout: DropoutMasks | None,
    knobs: Knobs,
    loss_scale: Tensor,
    activation: str,
    value_loss: str,
    precision: torch.dtype,
) -> tuple[Weights, Tensor, Tensor]:
    """Each agent's gradient of `loss_scale` (K,) times its loss, from observations (K, B, D).

    The gradient of the sum over agents is each agent's own, since their losses have no weight in common. Returns it
    with the losses (K,) and one number per LOSS_METRICS (K, 7).
    """

    def total(weights: Weights) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with autocast(observation.device, precision):
            logits, value = forward_stack(weights, observation, activation, dropout)
        losses, stats = ppo_loss(logits, value, batch, knobs, value_loss)
        return (losses * loss_scale).sum(), (losses.detach(), stats)

    gradient, (losses, stats) = grad_and_aux(total, stack)
    return gradient, losses, stats


def take_step(
    stack: Weights,
    moments: tuple[Weights, Weights],
    steps: Tensor,
    gradient: Weights,
    losses: Tensor,
    stats: Tensor,
    loss_scale: Tensor,
    live: Tensor,
    knobs: Knobs,
) -> tuple[Tensor, Tensor]:
    """Clip each agent's gradient, and move its weights along it, in place. `steps` (K,) were taken before.

    Returns the steps taken by now, and one number per STEP_METRICS (K, M).
    """
    factors, taken, planned = plan_step(gradient, losses, loss_scale, steps, live, knobs)
    adamw_step(stack, *moments, gradient, factors)
    metrics = torch.cat([stats, stats[:, KL : KL + 1], planned], -1)
    return taken, metrics


def learn(
    stack: Weights,
    moments: tuple[Weights, Weights],
    steps: Tensor,
    observation: Tensor,
    batch: Minibatch,
    dropout: DropoutMasks | None,
    knobs: Knobs,
    loss_scale: Tensor,
    live: Tensor,
    activation: str,
    value_loss: str,
    precision: torch.dtype,
) -> tuple[Weights, Tensor, Tensor]:
    """The gradient step of a whole batch as one function to compile: its gradient, and what `take_step` returns."""
    batch = batch._replace(advantage=normalise(batch.advantage))
    words = (activation, value_loss, precision)
    gradient, losses, stats = find_gradient(stack, observation, batch, dropout, knobs, loss_scale, *words)
    return gradient, *take_step(stack, moments, steps, gradient, losses, stats, loss_scale, live, knobs)


def decide(
    stack: Weights,
    observation: Tensor,
    mask: Tensor,
    noise: Tensor,
    dropout: DropoutMasks | None,
    activation: str,
    precision: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (K, N), their log-probabilities and the values of observations (K, N, D)."""
    with autocast(observation.device, precision):
        logits, value = forward_stack(stack, observation, activation, dropout)
    action, log_prob = sample_action(masked_log_softmax(logits, mask), noise)
    return action, log_prob, value


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def compiling_pays_from(weights: int) -> float:
    """Env steps of a run, over all agents, for which compiling (half a minute on a CPU) saves time. Policy and value
    nets of 2 × 64 over the guide's observation have 75,000 weights; larger ones gain more by each step."""
    return 200_000 * min(1.0, 75_000 / weights)


def train(run: Stack[Args]) -> None:
    """Train a stack until all its agents have ended, or half of them: the rest then continues in a smaller one."""
    # 0. Environment, networks, optimiser, and what checkpoints keep.
    device, count, args = run.device, run.count, run.args
    env = run.make_env()  # row n·K + k is env n of agent k
    num_envs = env.num_envs // count
    make_net = partial(ActorCritic, env.observation_size, env.num_actions, args)
    networks = Networks(make_net, run.generators("net"), args.activation, device)
    net = networks.weights
    acting, learning = (args.activation, run.precision), (args.activation, args.value_loss, run.precision)
    pays_from = compiling_pays_from(sum(weights[0].numel() for weights in net.values()))
    fast_decide, fast_learn = run.compiled(decide, pays_from), run.compiled(learn, pays_from)
    optimizer = AdamW(net, (count,), device)
    loss_scale = LossScale(count, device, enabled=run.precision == torch.float16)
    step = run.resume(networks, optimizer, {"net": net, "loss_scale": loss_scale})
    index, account, mask = step.index, step.account, step.mask  # (N·K,), (N·K, F), (N·K, A): where each env acts next

    for global_step, in_force in run.iterations():
        # 1. Knobs in force, and every random number of this iteration.
        knobs, target_kl = stack_knobs(in_force, device), stack_setting(in_force, "target_kl", device)
        gamma, gae_lambda = (stack_setting(in_force, name, device) for name in ("gamma", "gae_lambda"))
        left = args.total_timesteps - global_step
        steps = min(args.n_steps, math.ceil(left / num_envs))
        rows = steps * num_envs
        noise, starts, orders, dropout = run.draws((steps, num_envs, env.num_actions), gumbel_noise, dropout_masks)

        # 2. Rollout: act, step, remember where each observation came from.
        # Copied from trainers/ppo.py::train section 2
        transitions = []
        with torch.no_grad():
            for t in range(steps):
                # differs: the environment has rows n·K + k, the networks (K, N) (3 lines)
                observation = run.observe(by_agent(index, count), by_agent(account, count))
                decided = fast_decide(net, observation, by_agent(mask, count), noise[t], dropout, *acting)
                action, log_prob, value = (table.t().flatten() for table in decided)  # (K, N) → (N·K,)
                step = env.step(action, starts[t].flatten())
                # end
                transitions.append(
                    Buffer(
                        *(index, account, mask, action, log_prob, value),
                        *(step.components, step.terminated, step.truncated, step.final_index, step.final_account),
                        *(step.equity, step.closed_profit, step.valid),
                    )
                )
                index, account, mask = step.index, step.account, step.mask
            # differs: the same (2 lines)
            observation = run.observe(by_agent(index, count), by_agent(account, count))
            *_, last_value = fast_decide(net, observation, by_agent(mask, count), noise[0], dropout, *acting)
        buffer = Buffer(*(by_env(torch.stack(column), count) for column in zip(*transitions, strict=True)))  # (T, N, K)
        # end

        # 3. Rewards: components times the weights in force, then scaled and clipped.
        # Copied from trainers/ppo.py::train section 3
        done = buffer.terminated | buffer.truncated
        # differs: each agent has a discount of its own (1 line)
        reward, reward_parts = run.scale_reward(buffer.components, buffer.action, done, gamma)  # (T, N, K)
        # end

        # 4. Advantages: the value of the state that followed, before any restart.
        next_value = torch.cat([buffer.value[1:], last_value.t().unsqueeze(0)])  # (T, N, K)
        if most := int(done.sum((0, 1)).max()):  # each agent's ended rows first, filled up to the same number of rows
            ended = to_rows(done)
            first_rows = ended.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
            final_index, final_account = to_rows(buffer.final_index), to_rows(buffer.final_account)
            final = run.observe(gather_rows(final_index, first_rows), gather_rows(final_account, first_rows))
            masks = masks_of_rows(dropout, first_rows % num_envs)
            with torch.no_grad(), run.autocast():
                _, final_value = forward_stack(net, final, args.activation, masks)
            rows_next, is_end = to_rows(next_value), ended.gather(1, first_rows)
            rows_next.scatter_(1, first_rows, torch.where(is_end, final_value, rows_next.gather(1, first_rows)))
            next_value = from_rows(rows_next, num_envs)
        advantage = compute_gae(reward, buffer.value, next_value, buffer.terminated, done, gamma, gae_lambda)
        returns = advantage + buffer.value

        # 5. Update: epochs over shuffled minibatches, each agent until its policy has moved far enough.
        flat_index, flat_account = to_rows(buffer.index), to_rows(buffer.account)  # (K, R), (K, R, F)
        tables = (buffer.action, buffer.log_prob, advantage, returns, buffer.value, buffer.mask)
        flat = Minibatch(*(to_rows(table) for table in tables))  # (K, R), the mask (K, R, A)
        live, epochs = run.live(), torch.zeros(count, device=device)
        learnable = min(rows, left)  # more envs than steps left: surplus rows are not learnt from
        update: list[Tensor] = []  # (K, M), one number per STEP_METRICS for each gradient step
        for epoch in range(args.n_epochs):
            order, first_of_epoch = orders[:, epoch], len(update)
            if learnable < rows:
                order = order[order < learnable].view(count, learnable)
            columns = (*(gather_rows(column, order) for column in (flat_index, flat_account, *flat)), order)
            batches = split_batches(columns, args.batch_size * args.accumulation_steps)
            for batch_index, batch_account, *chosen, batch_rows in batches:
                batch, envs, size = Minibatch(*chosen), batch_rows % num_envs, batch_rows.shape[1]
                run.learns_from(batch_rows, batch)
                gradient: Weights = {}
                losses = stats = torch.zeros((), device=device)
                moving = (net, optimizer.moments, optimizer.steps)
                for piece, share, attempt in run.pieces(size):
                    with attempt:  # out of memory: the same batch again in smaller pieces
                        observation = run.observe(batch_index[:, piece], batch_account[:, piece])
                        given = (masks_of_rows(dropout, envs[:, piece]), knobs, loss_scale.scale)
                        if share == 1:
                            # A last, smaller minibatch would need its own compilation, for a handful of steps.
                            learn_batch = fast_learn if size == run.minibatch else learn
                            gradient, taken, metrics = learn_batch(*moving, observation, batch, *given, live, *learning)
                        else:  # gradients of pieces add up to that of the batch
                            whole = batch._replace(advantage=normalise(batch.advantage))
                            rows_of = Minibatch(*(column[:, piece] for column in whole))
                            found = find_gradient(net, observation, rows_of, *given, *learning)
                            gradient = add_weighted(gradient if piece.start else {}, found[0], share)
                            losses = found[1] * share + (losses if piece.start else 0)
                            stats = found[2] * share + (stats if piece.start else 0)
                if share < 1:
                    taken, metrics = take_step(*moving, gradient, losses, stats, loss_scale.scale, live, knobs)
                optimizer.steps = taken
                loss_scale.update(metrics[:, NORM], live)
                update.append(metrics)
            epochs += live
            epoch_kl = torch.stack(update[first_of_epoch:])[:, :, KL].mean(0)
            live = live & ~(epoch_kl > target_kl)
            if not live.any():  # one device sync per epoch
                break

        # 6. Metrics and evidence for the diagnosis; then evaluation, interventions and checkpoints where they are due.
        run.record(
            *(buffer, reward_parts, next_value, advantage, returns, STEP_METRICS, torch.stack(update)),
            epochs=epochs,
            gradient=flatten_weights(gradient),
            dropout=dropout,
            extra={"diag/amp_scale": loss_scale.scale} if loss_scale.enabled else {},
        )


def main() -> None:
    with StackRun(Args, load_policy, __file__) as run:
        for stack in run.stacks():
            train(stack)


if __name__ == "__main__":
    main()
