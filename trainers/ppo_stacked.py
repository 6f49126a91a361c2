"""PPO for K independent agents as one tensor program: what trainers/ppo.py does for one, done for a stack at once.

Parameters, optimiser moments, rollouts and minibatches have a leading agent axis; one batched step serves all agents.
Nothing crosses that axis: each agent has its own generator, schedules, gradient clipping, `target_kl`, guard against
steps that are not finite, early stop and verdict, and ends with the weights (to float rounding) that trainers/ppo.py
gives it alone. A small net leaves most of a core waiting when it is trained alone; that is all there is to gain, and
on a GPU it is nearly everything.

p3kit starts it with a run directory that holds a group of agents of equal shapes; alone it trains one:

    python trainers/ppo_stacked.py --symbol AAPL --total-timesteps 20000

Notation for shapes: K agents, T steps of the rollout, N envs of an agent, R = T·N rows, B rows of a minibatch, D
observation values, F fields of the account, A actions, C reward components, H hidden units.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.func import grad_and_value

from p3kit.runtime import Agent, Flat, Rollout, Run, StackPolicy, open_run, part, under
from p3kit.runtime.evidence import (
    EXPOSURE,
    correlation,
    dead_share,
    dormant_share,
    explained_variance,
    feature_rank,
    gae_error,
    obs_agreement,
    ridge_explained_variance,
    sample_rows,
    update_ratio,
    wrong_bootstraps,
)
from p3kit.runtime.reinit import reinit_dormant, reinit_head
from p3kit.runtime.stacking import (
    Knobs,
    LossScale,
    ObservationScalers,
    StepFactors,
    Weights,
    adamw_step,
    add_weighted,
    by_agent,
    by_env,
    draw,
    flatten_weights,
    from_rows,
    gather_rows,
    layers_of_agent,
    masks_of_rows,
    plan_step,
    select_agents,
    split_batches,
    stack_draws,
    stack_knobs,
    stack_networks,
    stack_setting,
    to_rows,
    unstack_network,
)

AGENTS = "stack"
"""What p3kit puts into one run of this trainer: agents that share nothing but the shapes of their tensors."""

# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


# Copied from trainers/ppo.py::Args
@dataclass(frozen=True)
class Args:
    """The knobs of `[ppo]`. p3kit reads this class from the source; "size" marks what fixes the shape of tensors."""

    total_timesteps: Annotated[int, Ge(1), "size"] = 100_000
    """Env steps to train for, per agent; exactly so many are taken."""
    learning_rate: Annotated[float, Gt(0), Le(1)] = 3e-4
    """Step size of Adam; raising it learns faster and breaks sooner."""
    n_steps: Annotated[int, Ge(1), "size"] = 2048
    """Rollout length per env and iteration; raising it gives better advantages and fewer updates."""
    batch_size: Annotated[int, Ge(2), "size"] = 64
    """Rows of a minibatch; raising it gives steadier gradients and fewer of them."""
    n_epochs: Annotated[int, Ge(1), "size"] = 10
    """Passes over each rollout; raising it uses samples better and moves the policy further from them."""
    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount per bar; the horizon is 1/(1 − gamma) bars."""
    gae_lambda: Annotated[float, Ge(0), Le(1)] = 0.95
    """Mix of one-step and whole-episode advantages; raising it trades bias for variance."""
    clip_range: Annotated[float, Gt(0), Lt(1)] = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""
    ent_coef: Annotated[float, Ge(0)] = 0.01
    """Weight of the entropy bonus in nats; raising it keeps the policy exploring."""
    vf_coef: Annotated[float, Ge(0)] = 0.5
    """Weight of the value loss."""
    max_grad_norm: Annotated[float, Gt(0)] = 0.5
    """Gradients longer than this are shortened to it."""
    target_kl: Annotated[float | Literal["off"], Gt(0)] = 0.015
    """An epoch whose mean KL divergence is larger is the last of its update; "off" runs all epochs."""
    accumulation_steps: Annotated[int, Ge(1), "size"] = 1
    """Minibatches summed into one gradient step; raising it saves memory at an equal effective batch."""
    hidden: Annotated[tuple[int, ...], "size"] = (64, 64)
    """Widths of the hidden layers, of the policy and of the value net alike."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the hidden layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of hidden units switched off per env, the same all through an iteration, so that the ratio starts at 1."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay (AdamW); raising it keeps weights small."""
    value_loss: Literal["mse", "huber", "clipped"] = "mse"
    """Shape of the value loss; "huber" bounds its gradient, "clipped" bounds the move from the old value."""
    init_gain: Annotated[float, Gt(0), "size"] = 0.01
    """Scale of the policy head at the start; small means a nearly uniform first policy."""


# ── network ───────────────────────────────────────────────────────────────────────────────────────────────────────────

DropoutMasks = Keep = list[Tensor]
"""Dropout multipliers per hidden layer, (rows, width): 0 for a unit that is off, 1/(1 − dropout) for one that is on."""


# Copied from trainers/ppo.py::Body
class Body(nn.Module):
    """A plain multilayer perceptron."""

    def __init__(self, sizes: list[int], activation: str, head_gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.activation = torch.tanh if activation == "tanh" else torch.relu
        self.head_gain = head_gain
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Orthogonal weights: √2 in hidden layers, `head_gain` in the last one; no biases."""
        for layer in self.layers:
            gain = self.head_gain if layer is self.layers[-1] else math.sqrt(2)
            weight, bias = layer.parameters()
            nn.init.orthogonal_(weight, gain, generator=generator)
            nn.init.zeros_(bias)

    def hidden(self, x: Tensor, dropout: DropoutMasks | None = None) -> list[Tensor]:
        """Activations of every hidden layer, (B, width) each."""
        activations = []
        for i, layer in enumerate(self.layers[:-1]):
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
        self.policy = Body([*widths, num_actions], args.activation, args.init_gain, generator)
        self.value = Body([*widths, 1], args.activation, 1.0, generator)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        self.policy.reset_parameters(generator)
        self.value.reset_parameters(generator)

    def forward(self, observation: Tensor, dropout: DropoutMasks | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) → logits (B, A) and value (B,), both float32."""
        return self.policy(observation, dropout).float(), self.value(observation, dropout).squeeze(-1).float()


def linear(stack: Weights, layer: str, x: Tensor) -> Tensor:
    """(K, B, in) → (K, B, out), each agent by its own layer."""
    return torch.baddbmm(stack[f"{layer}.bias"], x, stack[f"{layer}.weight"])


def hidden_layers(
    stack: Weights, observation: Tensor, activation: str, keep: Keep | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Activations of the policy's and the value's hidden layers, (K, B, H) each; empty for a linear policy."""
    if "first.weight" not in stack:
        return []
    act = torch.tanh if activation == "tanh" else torch.relu
    policy, value = act(linear(stack, "first", observation)).chunk(2, -1)
    layers = []
    for layer in range(1, sum(name.startswith("policy") for name in stack) // 2 + 1):
        if keep is not None:
            policy, value = policy * keep[layer - 1], value * keep[layer - 1]
        layers.append((policy, value))
        if f"policy.{layer + 1}.weight" in stack:
            policy, value = act(linear(stack, f"policy.{layer}", policy)), act(linear(stack, f"value.{layer}", value))
    return layers


def forward_stack(
    stack: Weights, observation: Tensor, activation: str, keep: Keep | None = None
) -> tuple[Tensor, Tensor]:
    """(K, B, D) → logits (K, B, A) and value (K, B), both float32; what `ActorCritic` gives each agent alone."""
    layers = hidden_layers(stack, observation, activation, keep)
    policy, value = layers[-1] if layers else (observation, observation)
    logits, values = linear(stack, f"policy.{len(layers)}", policy), linear(stack, f"value.{len(layers)}", value)
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
    terminated: Tensor  # (T, N) bool: ruined, nothing follows
    truncated: Tensor  # (T, N) bool: the window ended, the value of the final observation follows
    final_index: Tensor  # (T, N)
    final_account: Tensor  # (T, N, K)
    equity: Tensor  # (T, N) in money, after the step
    closed_profit: Tensor  # (T, N) NaN where no round trip closed
    valid: Tensor  # (T, N) bool: a real transition; False for a reset step, in which nobody acted


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

LOSS_METRICS = (
    "policy/policy_loss",
    "value/value_loss",
    "policy/entropy",
    "policy/entropy_norm",
    "policy/kl_divergence",
    "policy/clip_fraction",
)
UPDATE_METRICS = (
    *LOSS_METRICS,
    "policy/kl_max",
    "grad/grad_norm",
    "grad/grad_norm_max",
    "grad/grad_clipped_pct",
    "diag/nonfinite",
)
KL, NORM = UPDATE_METRICS.index("policy/kl_divergence"), UPDATE_METRICS.index("grad/grad_norm")


class Minibatch(NamedTuple):
    """What the loss needs of B rows of each agent, all (K, B) but for the mask (K, B, A)."""

    action: Tensor
    log_prob: Tensor
    advantage: Tensor  # normalised
    returns: Tensor
    value: Tensor
    mask: Tensor


def ppo_loss(
    logits: Tensor, value: Tensor, batch: Minibatch, knobs: Knobs, value_loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    """trainers/ppo.py's loss of each agent: the clipped surrogate with value and entropy terms (Schulman et al. 2017,
    equations 7 and 9), to be minimised.

    logits (K, B, A), value (K, B). Returns losses (K,) and, detached, one number per LOSS_METRICS and the KL again
    (K, 7), and the mean |ratio − 1| (K,). The KL divergence, step_metrics twice to be averaged and maximised, is the k3
    estimate E[(ratio − 1) − ln ratio] (J. Schulman 2020).
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
        near = batch.value + moved
        value_term = torch.max((value - batch.returns).square(), (near - batch.returns).square()).mean(-1)
    else:
        value_term = (value - batch.returns).square().mean(-1)

    entropy = -(all_log_prob.exp() * all_log_prob).sum(-1)
    loss = policy_term + knobs.vf_coef.squeeze(-1) * value_term - knobs.ent_coef.squeeze(-1) * entropy.mean(-1)

    choices = batch.mask.sum(-1)
    open_states = (choices > 1).float()
    share_of_most = entropy / choices.clamp_min(2).float().log() * open_states
    entropy_norm = share_of_most.sum(-1) / open_states.sum(-1).clamp_min(1)
    away, kl = (ratio - 1).abs(), (ratio - 1 - log_ratio).mean(-1)
    stats = torch.stack(
        [
            policy_term,
            value_term,
            entropy.mean(-1),
            entropy_norm,
            kl,
            (away > knobs.clip_range).float().mean(-1),
            kl,
        ],
        dim=-1,
    )
    return loss, stats.detach(), away.mean(-1).detach()


def find_gradient(
    stack: Weights,
    observation: Tensor,
    batch: Minibatch,
    keep: Keep | None,
    knobs: Knobs,
    loss_scale: Tensor,
    activation: str,
    value_loss: str,
    precision: torch.dtype,
) -> tuple[Weights, Tensor, Tensor, Tensor]:
    """Each agent's gradient of `loss_scale` (K,) times its loss, from observations (K, B, D).

    The gradient of the sum over agents is each agent's own, since their losses have no weight in common. Returns it
    with the losses (K,), `ppo_loss`'s statistics (K, 7) and the mean |ratio − 1| (K,).
    """

    def total(weights: Weights) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        with torch.autocast(observation.device.type, dtype=precision, enabled=precision != torch.float32):
            logits, value = forward_stack(weights, observation, activation, keep)
        losses, stats, ratio_error = ppo_loss(logits, value, batch, knobs, value_loss)
        return (losses * loss_scale).sum(), (losses.detach(), stats, ratio_error)

    gradient, (_, (losses, stats, ratio_error)) = grad_and_value(total, has_aux=True)(stack)
    return gradient, losses, stats, ratio_error


def find_step(
    stack: Weights,
    observation: Tensor,
    batch: Minibatch,
    keep: Keep | None,
    knobs: Knobs,
    loss_scale: Tensor,
    steps: Tensor,
    live: Tensor,
    activation: str,
    value_loss: str,
    precision: torch.dtype,
) -> tuple[Weights, StepFactors, Tensor, Tensor, Tensor]:
    """`normalise`, `find_gradient` and `plan_step` of a whole batch, as one function to compile.

    Returns the gradient, the factors of its step, the steps then taken, one number per UPDATE_METRICS (K, M) and the
    mean |ratio − 1| (K,).
    """
    batch = batch._replace(advantage=normalise(batch.advantage))
    gradient, losses, stats, ratio_error = find_gradient(
        stack, observation, batch, keep, knobs, loss_scale, activation, value_loss, precision
    )
    factors, steps, step_metrics = plan_step(gradient, losses, loss_scale, steps, live, knobs)
    return gradient, factors, steps, torch.cat([stats, step_metrics], -1), ratio_error


def decide(
    stack: Weights,
    observation: Tensor,
    mask: Tensor,
    noise: Tensor,
    keep: Keep | None,
    activation: str,
    precision: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (K, N), their log-probabilities and the values of observations (K, N, D)."""
    with torch.autocast(observation.device.type, dtype=precision, enabled=precision != torch.float32):
        logits, value = forward_stack(stack, observation, activation, keep)
    action, log_prob = sample_action(masked_log_softmax(logits, mask), noise)
    return action, log_prob, value


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def compiling_pays_from(weights: int) -> float:
    """Env steps of a run, over all agents, that repay half a minute of compiling on a CPU. Policy and value nets of
    2 × 64 over the guide's observation have 75,000 weights; larger ones gain more by each step."""
    return 300_000 * min(1.0, 75_000 / weights)


def reinit(
    stack: Weights,
    fresh: Weights,
    moments: tuple[Weights, Weights],
    what: str,
    hidden: list[tuple[Tensor, Tensor]],
    k: int,
) -> None:
    """Draw a part of agent k's net anew, as trainers/ppo.py does: "policy_head" and "value_head" are the last layers,
    "dormant" the hidden units that hardly answer, by their activations `hidden`. `fresh` is a net as it would begin."""
    whole, new = layers_of_agent(stack, k), layers_of_agent(fresh, 0)
    moved = [layers_of_agent(moment, k) for moment in moments]
    if what == "dormant":
        activations = {"policy": [policy[k] for policy, _ in hidden], "value": [value[k] for _, value in hidden]}
        reinit_dormant(whole, new, moved, activations)
    else:
        reinit_head(whole, new, moved, what.removesuffix("_head"))


def main() -> None:
    with open_run(Args, __file__) as run:
        if run.backtest is not None:  # p3kit evaluate: the policy of a checkpoint, and nothing trained
            backtest(run)
            return
        state = run.resumed
        by_name = {agent.name: agent for agent in run.agents}
        agents = run.agents if state is None else [by_name[name] for name in state["agents"].split("\n")]
        while agents:
            state = train(run, agents, state)
            kept = [k for k, agent in enumerate(agents) if agent.state == "running"]
            agents, state = [agents[k] for k in kept], select_agents(state, kept)
        for agent in run.agents:
            agent.conclude()


def backtest(run: Run[Args]) -> None:
    """Show the policy of `run.backtest`: the weights of one agent, or one agent's part of a whole checkpoint."""
    agent, state = run.agent, run.backtest.weights
    weights, moments = part("net", state), part("observation", state)
    if "agents" in state:
        k = state["agents"].split("\n").index(agent.name)
        weights, moments = unstack_network(weights, k), {name: value[k] for name, value in moments.items()}
    env = run.make_env([agent])
    net = ActorCritic(env.observation_size, env.num_actions, agent.args_at(0), agent.new_generator("net")).to(
        run.device
    )
    net.load_state_dict(weights)
    scale_observation = agent.observation_scaler(env.observation_size)
    scale_observation.load_state_dict(moments)

    def greedy(observation: Tensor, mask: Tensor) -> Tensor:
        with run.autocast():
            logits, _ = net(scale_observation(observation))
        return masked_log_softmax(logits, mask).argmax(-1)

    agent.report_backtest(greedy)


def train(run: Run[Args], agents: list[Agent[Args]], state: Flat | None) -> Flat:
    """Train a stack until all its agents have ended, or half of them: then the rest is better off in a smaller one.

    `state` is where the stack stands, None at the beginning; returns where it stands then.
    """
    device, precision, count = run.device, run.precision, len(agents)
    args = agents[0].args_at(0)  # sizes and words are the same in all agents of a stack
    env = run.make_env(agents)  # row n·K + k is env n of agent k
    num_envs = env.num_envs // count
    make_net = partial(ActorCritic, env.observation_size, env.num_actions, args)
    stack = stack_networks([make_net(agent.new_generator("net")) for agent in agents], device)
    first, second = ({name: torch.zeros_like(weights) for name, weights in stack.items()} for _ in range(2))
    steps_taken = torch.zeros(count, device=device)
    loss_scale = LossScale(count, device, enabled=precision == torch.float16)
    scale_observation = ObservationScalers([agent.observation_scaler(env.observation_size) for agent in agents])
    scale_reward = agents[0].reward_scaler(num_envs, agents)
    compiled = partial(run.compiled, pays_from=compiling_pays_from(sum(w[0].numel() for w in stack.values())))
    fast_decide, fast_find, fast_step = compiled(decide), compiled(find_step), compiled(adamw_step)
    can_shrink = agents[0].spec.env.backend == "batched"  # the plain reference keeps its books in lists, not in rows
    words = (args.activation, args.value_loss, precision)

    def greedy(of: list[int]) -> StackPolicy:
        """The policies of agents `of` (numbers in this stack)."""
        own = {name: weights[of] for name, weights in stack.items()}

        def policy(observation: Tensor, mask: Tensor) -> Tensor:
            observation = scale_observation(observation, of)
            with run.autocast():
                logits, _ = forward_stack(own, observation, args.activation)
            return masked_log_softmax(logits, mask).argmax(-1)

        return policy

    def policy_state(agent: Agent[Args]) -> Flat:
        k = agents.index(agent)
        return under("net", unstack_network(stack, k)) | under("observation", scale_observation.of_agent(k))

    def trainer_state() -> Flat:
        return {
            "agents": "\n".join(agent.name for agent in agents),
            "iteration": iteration,
            "global_step": global_step,
            "minibatch": minibatch,
            "steps_taken": steps_taken,
            "loss_scale": loss_scale.scale,
            "loss_scale_good": loss_scale.good,
            **under("net", stack),
            **under("first", first),
            **under("second", second),
            **under("observation", scale_observation.state_dict()),
            **under("reward", scale_reward.state_dict()),
            **under("env", env.state_dict()),
        }

    if state is None:
        iteration, global_step, minibatch = 0, 0, args.batch_size
        step = env.reset(
            torch.stack([torch.rand(num_envs, generator=a.generator) for a in agents], 1).flatten().to(device)
        )
        run.save_checkpoint("init", trainer_state())
    else:
        iteration, global_step, minibatch = state["iteration"], state["global_step"], state["minibatch"]
        steps_taken, loss_scale.scale, loss_scale.good = (
            state["steps_taken"],
            state["loss_scale"],
            state["loss_scale_good"],
        )
        stack, first, second = part("net", state), part("first", state), part("second", state)
        scale_observation.load_state_dict(part("observation", state))
        scale_reward.load_state_dict(part("reward", state))
        step = env.load_state_dict(part("env", state))
    index, account, mask = step.index, step.account, step.mask

    while True:
        # 1. Who goes on, what is in force, and every random number of this iteration.
        running = [agent for agent in agents if agent.state == "running" and not agent.finished(global_step)]
        if not running or (len(running) <= count // 2 and can_shrink):
            return trainer_state()
        iteration += 1
        in_force = [agent.args_at(global_step) for agent in agents]
        knobs, target_kl = stack_knobs(in_force, device), stack_setting(in_force, "target_kl", device)
        gamma, gae_lambda = (stack_setting(in_force, name, device) for name in ("gamma", "gae_lambda"))
        left = agents[0].total_timesteps - global_step
        steps = min(args.n_steps, math.ceil(left / num_envs))
        rows = steps * num_envs
        draws = []
        for agent, own_args in zip(agents, in_force, strict=True):
            own_generator = agent.generator if agent.state == "running" else None
            own_masks = partial(dropout_masks, own_args)
            shape = (steps, num_envs, env.num_actions)
            draws.append(draw(own_generator, shape, args.n_epochs, gumbel_noise, own_masks))
        noise, starts, orders, dropout = stack_draws(draws, device)

        # 2. Rollout: act, step, remember where each observation came from.
        clock = time.perf_counter()
        records = []
        with torch.no_grad():
            for t in range(steps):
                observation = scale_observation(env.observe(by_agent(index, count), by_agent(account, count)))
                action, log_prob, value = fast_decide(
                    stack, observation, by_agent(mask, count), noise[t], dropout, args.activation, precision
                )
                action, log_prob, value = (table.t().flatten() for table in (action, log_prob, value))
                step = env.step(action, starts[t].flatten())
                decided = (index, account, mask, action, log_prob, value)
                records.append((*decided, *(getattr(step, name) for name in Buffer._fields[len(decided) :])))
                index, account, mask = step.index, step.account, step.mask
                if t % 256 == 0:
                    run.heartbeat()
            observation = scale_observation(env.observe(by_agent(index, count), by_agent(account, count)))
            _, _, last_value = fast_decide(
                stack, observation, by_agent(mask, count), noise[0], dropout, args.activation, precision
            )
        for row, fault in env.faults().items():
            if agents[row % count] in running:
                agents[row % count].fail(fault)
                running.remove(agents[row % count])
        buffer = Buffer(*(by_env(torch.stack(column), count) for column in zip(*records, strict=True)))
        del records
        rollout_s = time.perf_counter() - clock

        # 3. Rewards: weights in force, then scaling and clipping. Shapes are (T, N, K) here.
        clock = time.perf_counter()
        weights = torch.stack([agent.reward_weights_at(global_step) for agent in agents])
        bonus = torch.tensor([a.value_at("reward.action_bonus", global_step) for a in agents], device=device)
        bonus = bonus * (buffer.action != 0)
        weighted = buffer.components.double() * weights
        done = buffer.terminated | buffer.truncated
        reward, reward_clipped, reward_scale = scale_reward(weighted.sum(-1) + bonus, done, gamma)

        # 4. Advantages: the value of the state that followed, before any restart.
        next_value = torch.cat([buffer.value[1:], last_value.t().unsqueeze(0)])
        if most := int(done.sum((0, 1)).max()):  # each agent's ended rows first, filled up to the same number of rows
            ended = to_rows(done)
            first_rows = ended.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
            final_index, final_account = to_rows(buffer.final_index), to_rows(buffer.final_account)
            with torch.no_grad():
                final = env.observe(gather_rows(final_index, first_rows), gather_rows(final_account, first_rows))
                with run.autocast():
                    _, final_value = forward_stack(
                        stack, scale_observation(final), args.activation, masks_of_rows(dropout, first_rows % num_envs)
                    )
            rows_next = to_rows(next_value)
            is_end = ended.gather(1, first_rows)
            rows_next.scatter_(1, first_rows, torch.where(is_end, final_value, rows_next.gather(1, first_rows)))
            next_value = from_rows(rows_next, num_envs)
        advantage = compute_gae(reward, buffer.value, next_value, buffer.terminated, done, gamma, gae_lambda)
        returns = advantage + buffer.value

        # 5. Update: epochs over shuffled minibatches, each agent until its policy has moved far enough.
        flat_index, flat_account = to_rows(buffer.index), to_rows(buffer.account)
        flat = Minibatch(
            to_rows(buffer.action),
            to_rows(buffer.log_prob),
            to_rows(advantage),
            to_rows(returns),
            to_rows(buffer.value),
            to_rows(buffer.mask),
        )
        before = flatten_weights(stack)
        live = torch.tensor([agent in running for agent in agents], device=device)
        update: list[Tensor] = []
        epochs_done = torch.zeros(count, device=device)
        ratio_error = torch.zeros(count, device=device)
        learnt = min(rows, left)  # more envs than steps left: the surplus was played but is not learnt from
        for epoch in range(args.n_epochs):
            order = orders[:, epoch]
            if learnt < rows:
                order = order[order < learnt].view(count, learnt)
            batches = split_batches(
                (*(gather_rows(column, order) for column in (flat_index, flat_account, *flat)), order % num_envs),
                args.batch_size * args.accumulation_steps,
            )
            first_of_epoch = len(update)
            for batch_index, batch_account, *columns, envs in batches:
                batch = Minibatch(*columns)
                size = envs.shape[1]
                fits = False
                while not fits:  # into memory: else the same batch again, in smaller pieces
                    try:
                        if size <= minibatch:
                            # A last, smaller minibatch would have to be compiled anew, for a handful of steps.
                            find = fast_find if size == minibatch else find_step
                            gradient, factors, counted, step_metrics, away = find(
                                stack,
                                scale_observation(env.observe(batch_index, batch_account)),
                                batch,
                                masks_of_rows(dropout, envs),
                                knobs,
                                loss_scale.scale,
                                steps_taken,
                                live,
                                *words,
                            )
                        else:  # accumulated over minibatches: their gradients add up to that of the batch
                            gradient, losses, stats, away = {}, 0, 0, 0
                            whole = batch._replace(advantage=normalise(batch.advantage))
                            for begin in range(0, size, minibatch):
                                piece = slice(begin, begin + minibatch)
                                of_piece = find_gradient(
                                    stack,
                                    scale_observation(env.observe(batch_index[:, piece], batch_account[:, piece])),
                                    Minibatch(*(column[:, piece] for column in whole)),
                                    masks_of_rows(dropout, envs[:, piece]),
                                    knobs,
                                    loss_scale.scale,
                                    *words,
                                )
                                share = envs[:, piece].shape[1] / size
                                gradient = add_weighted(gradient, of_piece[0], share)
                                losses, stats, away = (
                                    total + one * share
                                    for total, one in zip((losses, stats, away), of_piece[1:], strict=True)
                                )
                            factors, counted, step_metrics = plan_step(
                                gradient, losses, loss_scale.scale, steps_taken, live, knobs
                            )
                            step_metrics = torch.cat([stats, step_metrics], -1)
                        fits = True
                    except RuntimeError as error:
                        minibatch = run.smaller_minibatch(minibatch, error)
                steps_taken = counted
                fast_step(stack, first, second, gradient, factors)
                loss_scale.update(step_metrics[:, NORM], live)
                if not update:
                    ratio_error = away
                update.append(step_metrics)
            run.heartbeat()
            epochs_done += live
            epoch_kl = torch.stack(update[first_of_epoch:])[:, :, KL].mean(0)
            live = live & ~(epoch_kl > target_kl)
            if not live.any():  # one look per epoch
                break

        # 6. Evidence for the diagnosis, on a sample of the rows.
        steps_per_epoch = math.ceil(learnt / (args.batch_size * args.accumulation_steps))
        gradient_steps = [int(epochs) * steps_per_epoch for epochs in epochs_done.tolist()]
        with torch.no_grad():
            sample = sample_rows(rows, device)
            raw_observation = env.observe(flat_index[:, sample], flat_account[:, sample])
            observation = scale_observation(raw_observation)
            logits, _ = forward_stack(
                stack, observation, args.activation, masks_of_rows(dropout, (sample % num_envs).expand(count, -1))
            )
            log_prob_after = masked_log_softmax(logits, flat.mask[:, sample])
            log_prob_after = log_prob_after.gather(-1, flat.action[:, sample].unsqueeze(-1)).squeeze(-1)
            hidden = hidden_layers(stack, observation, args.activation)
            after = flatten_weights(stack)
            earlier = sample_rows(rows - num_envs, device)
            shown = env.observe(flat_index[:, earlier + num_envs], flat_account[:, earlier + num_envs])
            earned, flat_done = to_rows(buffer.components[..., 0]), to_rows(done)
            evidence = []
            for k in range(count):
                obs_max_abs, obs_clipped_share = env.observation_stats(flat_index[k, sample], flat_account[k, sample])
                of_agent = {
                    "value/explained_variance": explained_variance(buffer.value[..., k], returns[..., k]),
                    "value/value_mean": buffer.value[..., k].mean(),
                    "value/return_mean": returns[..., k].mean(),
                    "value/return_std": returns[..., k].std(),
                    "diag/ev_reference": ridge_explained_variance(observation[k], flat.returns[k, sample]),
                    "diag/update_ratio": update_ratio(before[k], after[k], gradient_steps[k]),
                    "diag/advantage_std": advantage[..., k].std(),
                    "diag/gae_error": gae_error(
                        reward[..., k],
                        buffer.value[..., k],
                        next_value[..., k],
                        buffer.terminated[..., k],
                        done[..., k],
                        returns[..., k],
                        gamma[k],
                        gae_lambda[k],
                    ),
                    "diag/wrong_bootstraps": wrong_bootstraps(
                        buffer.value[..., k], next_value[..., k], buffer.truncated[..., k]
                    ),
                    "diag/advantage_signal": correlation(
                        flat.advantage[k, sample], log_prob_after[k] - flat.log_prob[k, sample]
                    ),
                    "diag/obs_max_abs": obs_max_abs,
                    "diag/obs_clipped_share": obs_clipped_share,
                    "diag/mask_violations": (~flat.mask[k].gather(-1, flat.action[k].unsqueeze(-1))).sum(),
                    "policy/ratio_error": ratio_error[k],
                    "policy/epochs_done": epochs_done[k],
                    "reward/scale": reward_scale[k],
                }
                if hidden:  # hidden = [] is a linear policy
                    layers = [policy[k] for policy, _ in hidden] + [value[k] for _, value in hidden]
                    of_agent["diag/dormant_share"] = dormant_share(layers)
                    of_agent["diag/feature_rank"] = feature_rank(hidden[-1][0][k])
                    if args.activation == "relu":
                        of_agent["diag/dead_share"] = dead_share(layers)
                if steps > 1:  # what a step earned, what is seen then
                    exposure = flat_account[k, earlier, EXPOSURE]
                    of_agent["diag/obs_agreement"] = obs_agreement(
                        shown[k, :, agents[k].newest_return_column],
                        earned[k, earlier],
                        exposure,
                        (flat.action[k, earlier] == 0) & ~flat_done[k, earlier],
                    )
                if loss_scale.enabled:
                    of_agent["diag/amp_scale"] = loss_scale.scale[k]
                evidence.append(of_agent)
            scale_observation.update(raw_observation)
        update_s = time.perf_counter() - clock

        # 7. The record of the iteration: one transfer from the device.
        values = torch.stack([torch.stack([v.double() for v in of_agent.values()]) for of_agent in evidence]).cpu()
        updates = torch.stack(update).cpu().numpy()  # (G, K, M)
        last_gradient = flatten_weights(gradient).cpu()
        tables = {
            "reward": reward,
            "clipped": reward_clipped,
            "weighted": weighted,
            "raw": buffer.components,
            "bonus": bonus,
            "action": buffer.action,
            "valid_actions": buffer.mask.sum(-1),
            "done": done,
            "equity": buffer.equity,
            "closed": ~buffer.closed_profit.isnan(),
            "reset_step": torch.zeros_like(done),  # our env begins an episode in the step that ends the last
        }
        arrays = {name: table.cpu().numpy() for name, table in tables.items()}
        start_step, global_step = global_step, global_step + learnt
        rollouts: dict[int, Rollout] = {}
        for k, agent in enumerate(agents):
            if agent not in running:
                continue
            rollout = Rollout(**{name: array[:, :, k] for name, array in arrays.items()})
            rollouts[k] = replace(rollout, equity=rollout.equity / agent.spec.env.initial_capital)
            agent.record(
                iteration,
                start_step,
                global_step,
                rollouts[k],
                {name: updates[: gradient_steps[k], k, i] for i, name in enumerate(UPDATE_METRICS)},
                dict(zip(evidence[k], values[k].tolist(), strict=True))
                | {
                    "reward/scale_steps": scale_reward.steps,
                    "perf/rollout_s": rollout_s,
                    "perf/update_s": update_s,
                },
            )

        # 8. Evaluation, of all whose turn it is together.
        due = [
            k
            for k, agent in enumerate(agents)
            if agent in running and agent.state == "running" and agent.due(agent.spec.evaluation.every, start_step)
        ]
        if due:
            run.evaluate([agents[k] for k in due], iteration, greedy(due), policy_state)
            for k in due:
                agents[k].write_histograms(env, rollouts[k], flat_account[k], flat.value[k], last_gradient[k])

        # 9. What an intervention takes back or draws anew, checkpoints.
        for k, earlier in run.rolled_back(agents):
            then = earlier["agents"].split("\n").index(agents[k].name)
            for name, table in (("net", stack), ("first", first), ("second", second)):
                for key, weights in part(name, earlier).items():
                    table[key][k] = weights[then]
            steps_taken[k] = earlier["steps_taken"][then]
            loss_scale.scale[k], loss_scale.good[k] = earlier["loss_scale"][then], earlier["loss_scale_good"][then]
            scale_observation.go_back(part("observation", earlier), k, then)
            scale_reward.go_back(part("reward", earlier), k, then)
        for k, what, generator in run.reinitialised(agents):
            fresh = stack_networks([make_net(generator)], device)
            hidden = hidden_layers(stack, scale_observation(raw_observation), args.activation)
            reinit(stack, fresh, (first, second), what, hidden, k)
        if any(a.due(a.spec.checkpoints.every, start_step) for a in running) or run.stop_requested:
            run.save_checkpoint("last", trainer_state())


if __name__ == "__main__":
    main()
