"""PPO for K agents that look through one encoder: a patch transformer shared by all, a policy and a value head each.

Every market window goes through the same encoder. An agent's heads, which see the newest bar and the account beside
what the encoder makes of the window, its returns' scale, schedules, `target_kl` and verdict are its own. In each
gradient step every agent's whole gradient is first clipped to its own norm, so that none can shout the others down;
the encoder then follows the mean, at a slower rate than the heads, and without the values' part. How far the agents
pull it apart is measured in every step (`diag/grad_share`, `diag/grad_cosine`); `surgery = "pcgrad"` takes the
conflicting part of each gradient away (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1). An
agent whose update was ended by `target_kl` no longer pulls, but still sees through an encoder that the others move.

The encoder follows PatchTST (Nie et al. 2023) in cutting a window into patches of bars, one token each. Only the last
token feeds the heads, so the last layer asks for that token alone.

p3kit starts it with a run directory that holds all agents of a seed; alone it trains one:

    python trainers/ppo_shared.py --symbol AAPL --total-timesteps 20000

Notation for shapes: K agents, T steps of the rollout, N envs of an agent, R = T·N rows, B rows of a minibatch, W bars
of a window, V values of a bar, D observation values (W·V and the account), F fields of the account, A actions, C reward
components.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from p3kit.errors import InputError
from p3kit.runtime import Agent, Flat, Rollout, Run, StackPolicy, open_run, part, seed_of, under
from p3kit.runtime.evidence import (
    EXPOSURE,
    correlation,
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
    stack_setting,
    stack_weights,
    step_factors,
    to_rows,
)

AGENTS = "all"
"""What p3kit puts into one run of this trainer: all agents of a seed and a matrix point, which share an encoder."""

# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    patch: Annotated[int, Ge(1), "size"] = 4
    """Bars of a token; raising it makes the encoder faster and blunter in time."""
    d_model: Annotated[int, Ge(1), "size"] = 64
    """Width of a token."""
    layers: Annotated[int, Ge(1), "size"] = 2
    """Transformer layers of the shared encoder."""
    heads: Annotated[int, Ge(1), "size"] = 4
    """Attention heads of a layer; d_model is a multiple of it."""
    head_width: Annotated[int, Ge(1), "size"] = 64
    """Hidden units of each agent's policy head and value head."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of hidden units switched off per env, the same all through an iteration, so that the ratio starts at 1."""
    encoder_rate: Annotated[float, Ge(0), "size"] = 0.1
    """Learning rate of the shared encoder as a share of the agents' own; raising it adapts what all see faster, and
    unsettles the heads that look through it."""
    value_reach: Annotated[float, Ge(0), Le(1), "size"] = 0.0
    """Share of the value loss's gradient that reaches the shared encoder; raising it lets values shape what policies
    see, and their noise too."""
    surgery: Literal["off", "pcgrad"] = "off"
    """What happens to gradients of agents that pull the encoder apart; "pcgrad" takes the conflicting part away."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay (AdamW); raising it keeps weights small."""
    value_loss: Literal["mse", "huber", "clipped"] = "mse"
    """Shape of the value loss; "huber" bounds its gradient, "clipped" bounds the move from the old value."""
    init_gain: Annotated[float, Gt(0), "size"] = 0.01
    """Scale of the policy head at the start; small means a nearly uniform first policy."""
    token_gain: Annotated[float, Ge(0), Le(1), "size"] = 0.1
    """Weight of the encoder's token beside a head's other inputs at the start; small means that heads first learn from
    the newest bar and the account, and take in the encoder's view as it becomes worth something."""
    token_weight: Annotated[float, Ge(0), Le(1), "size"] = 1.0
    """Weight of the encoder's token beside a head's other inputs throughout; small lets heads follow it slowly, where
    windows hold little that the newest bar does not."""


# ── network ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Keep = list[Tensor]
"""Dropout multipliers per hidden layer, (rows, width): 0 for a unit that is off, 1/(1 − dropout) for one that is on."""


class Shape(NamedTuple):
    """How an observation is laid out: W·V values of the window, oldest bar first, then F fields of the account."""

    window: int
    values: int
    account: int


def make_encoder(shape: Shape, args: Args, generator: torch.Generator) -> Weights:
    """The shared encoder's weights, scaled to keep activations near one."""
    width, tokens = args.d_model, math.ceil(shape.window / args.patch)

    def normal(*sizes: int, gain: float = 1.0) -> Tensor:
        return torch.randn(*sizes, generator=generator) * gain / math.sqrt(sizes[0])

    weights = {
        "embed.weight": normal(args.patch * shape.values, width),
        "embed.bias": torch.zeros(width),
        "position": 0.02 * torch.randn(tokens, width, generator=generator),
    }
    residual = 1 / math.sqrt(2 * args.layers)  # so that the sum over layers keeps its size (Radford et al. 2019)
    for i in range(args.layers):
        for name, rows, columns, gain in (
            ("query", width, width, 1.0),
            ("key_value", width, 2 * width, 1.0),
            ("merge", width, width, residual),
            ("wide", width, 2 * width, math.sqrt(2)),
            ("narrow", 2 * width, width, residual),
        ):
            weights[f"{i}.{name}.weight"] = normal(rows, columns, gain=gain)
            weights[f"{i}.{name}.bias"] = torch.zeros(columns)
        for name in ("attention_norm", "wide_norm"):
            weights |= {f"{i}.{name}.weight": torch.ones(width), f"{i}.{name}.bias": torch.zeros(width)}
    return weights | {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}


def make_heads(shape: Shape, num_actions: int, args: Args, generator: torch.Generator) -> Weights:
    """One agent's policy head and value head: two layers each, over the encoder's token, the newest bar as it is, and
    the account."""
    heads = {}
    for body, outputs, gain in (("policy", num_actions, args.init_gain), ("value", 1, 1.0)):
        seen = args.d_model + shape.values + shape.account
        sizes = ((seen, args.head_width, math.sqrt(2)), (args.head_width, outputs, gain))
        for layer, (rows, columns, layer_gain) in enumerate(sizes):
            weight = torch.empty(columns, rows)
            nn.init.orthogonal_(weight, layer_gain, generator=generator)
            if layer == 0:
                weight[:, : args.d_model].mul_(args.token_gain)
            heads[f"{body}.{layer}.weight"] = weight.T.contiguous()
            heads[f"{body}.{layer}.bias"] = torch.zeros(1, columns)
    return heads


def affine(weights: Weights, layer: str, x: Tensor) -> Tensor:
    return x @ weights[f"{layer}.weight"] + weights[f"{layer}.bias"]


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def encode(encoder: Weights, observation: Tensor, shape: Shape, args: Args, keep: Keep | None = None) -> Tensor:
    """(B, D) → (B, d_model): the last token after a pre-norm transformer over patches of the window."""
    window = observation[:, : shape.window * shape.values].unflatten(1, (shape.window, shape.values))
    window = F.pad(window, (0, 0, -shape.window % args.patch, 0))  # the oldest patch may be short of bars
    x = affine(encoder, "embed", window.reshape(len(window), -1, args.patch * shape.values)) + encoder["position"]
    for i in range(args.layers):
        normed = layer_norm(encoder, f"{i}.attention_norm", x)
        if i == args.layers - 1:
            x = x[:, -1:]  # nobody asks what the other tokens become
        query = affine(encoder, f"{i}.query", normed[:, -x.shape[1] :])
        key, value = affine(encoder, f"{i}.key_value", normed).chunk(2, -1)
        query, key, value = (t.unflatten(-1, (args.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attention = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1) @ value
        x = x + affine(encoder, f"{i}.merge", attention.transpose(1, 2).flatten(2))
        wide = F.gelu(affine(encoder, f"{i}.wide", layer_norm(encoder, f"{i}.wide_norm", x)))
        if keep is not None:
            wide = wide * keep[i].unsqueeze(1)
        x = x + affine(encoder, f"{i}.narrow", wide)
    return layer_norm(encoder, "norm", x.squeeze(1))


def hidden_units(
    heads: Weights, token: Tensor, observation: Tensor, shape: Shape, args: Args, keep: Keep | None = None
) -> list[Tensor]:
    """Activations of the policy head's and the value head's hidden layer, (…, B, head_width) each.

    Of the value's gradient only `value_reach` goes on to the encoder (Cobbe et al. 2021, "Phasic Policy Gradient", on
    what the two losses do to weights that they share).
    """
    token = args.token_weight * token
    for_value = args.value_reach * token + (1 - args.value_reach) * token.detach()
    own = observation[..., -shape.values - shape.account :]  # the newest bar and the account: heads' own eyes
    seen = {"policy": torch.cat((token, own), -1), "value": torch.cat((for_value, own), -1)}
    hidden = [torch.tanh(affine(heads, f"{body}.0", x)) for body, x in seen.items()]
    return hidden if keep is None else [layer * keep[-1] for layer in hidden]


def read_heads(heads: Weights, hidden: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (…, B, A) and value (…, B), both float32."""
    logits, value = (affine(heads, f"{body}.1", layer) for body, layer in zip(("policy", "value"), hidden, strict=True))
    return logits.float(), value.squeeze(-1).float()


def forward_all(
    encoder: Weights, heads: Weights, observation: Tensor, shape: Shape, args: Args, keep: Keep | None = None
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """(K, B, D) → logits (K, B, A), value (K, B), the heads' hidden layers, and the encoder's token (K, B, d_model)."""
    rows = keep and [layer.flatten(0, 1) for layer in keep]
    token = encode(encoder, observation.flatten(0, 1), shape, args, rows).unflatten(0, observation.shape[:2])
    hidden = hidden_units(heads, token, observation, shape, args, keep)
    return *read_heads(heads, hidden), hidden, token


# Copied from trainers/ppo.py::masked_log_softmax
def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (…, A) of the valid actions; masked ones get the smallest number, so their probability is 0."""
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1)


def dropout_masks(args: Args, num_envs: int, generator: torch.Generator) -> Keep | None:
    """One set of units per env, held for a whole iteration (consistent dropout, Hausknecht and Wagener 2022): the wide
    layer of every transformer layer, then the heads."""
    if args.dropout == 0:
        return None
    widths = [2 * args.d_model] * args.layers + [args.head_width]
    draws = [torch.rand(num_envs, width, generator=generator) for width in widths]
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


# Copied from trainers/ppo_stacked.py::normalise
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
    "policy/ratio_error",
)
UPDATE_METRICS = (
    *LOSS_METRICS[:-1],
    "policy/kl_max",
    "grad/grad_norm",
    "grad/grad_norm_max",
    "grad/grad_clipped_pct",
    "diag/nonfinite",
)
INTERFERENCE_METRICS = ("diag/grad_share", "diag/grad_cosine", "diag/grad_cosine_min")
"""Of an agent's clipped gradient on the encoder: its share of the agents' norms, and its cosine with the others'."""
KL, NORM = UPDATE_METRICS.index("policy/kl_divergence"), UPDATE_METRICS.index("grad/grad_norm")


# Copied from trainers/ppo_stacked.py::Minibatch
class Minibatch(NamedTuple):
    """What the loss needs of B rows of each agent, all (K, B) but for the mask (K, B, A)."""

    action: Tensor
    log_prob: Tensor
    advantage: Tensor  # normalised
    returns: Tensor
    value: Tensor
    mask: Tensor


# Copied from trainers/ppo.py::ppo_loss
def ppo_loss(
    logits: Tensor,
    value: Tensor,
    batch: Minibatch,
    *,
    clip_range: float,
    ent_coef: float,
    vf_coef: float,
    value_loss: str,
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate with value and entropy terms (Schulman et al. 2017, equations 7 and 9), to be minimised.

    logits (B, A), value (B,). Returns the loss and, detached, one number per LOSS_METRICS. The KL divergence is the k3
    estimate E[(ratio − 1) − ln ratio], which is never negative (J. Schulman, "Approximating KL divergence", 2020).
    """
    all_log_prob = masked_log_softmax(logits, batch.mask)
    log_ratio = all_log_prob.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1) - batch.log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    policy_term = -torch.min(ratio * batch.advantage, clipped * batch.advantage).mean()

    if value_loss == "huber":
        value_term = 2 * F.huber_loss(value, batch.returns)  # doubled: equal to the squared error below 1
    elif value_loss == "clipped":
        near = batch.value + (value - batch.value).clamp(-clip_range, clip_range)
        value_term = torch.max((value - batch.returns).square(), (near - batch.returns).square()).mean()
    else:
        value_term = F.mse_loss(value, batch.returns)

    entropy = -(all_log_prob.exp() * all_log_prob).sum(-1)  # a masked action adds 0 · (smallest number) = 0
    loss = policy_term + vf_coef * value_term - ent_coef * entropy.mean()

    with torch.no_grad():
        choices = batch.mask.sum(-1)
        open_states = (choices > 1).float()
        share_of_most = entropy / choices.clamp_min(2).float().log() * open_states
        entropy_norm = share_of_most.sum() / open_states.sum().clamp_min(1)
        away, kl = (ratio - 1).abs(), (ratio - 1 - log_ratio).mean()
        clip_fraction = (away > clip_range).float().mean()
        stats = [policy_term, value_term, entropy.mean(), entropy_norm, kl, clip_fraction, away.mean()]
    return loss, torch.stack(stats).detach()


def find_gradients(
    encoder: Weights,
    heads: Weights,
    observation: Tensor,
    batch: Minibatch,
    keep: Keep | None,
    knobs: Knobs,
    loss_scale: Tensor,
    shape: Shape,
    args: Args,
    precision: torch.dtype,
) -> tuple[Weights, Weights, Tensor, Tensor, Tensor]:
    """Each agent's own gradient of `loss_scale` (K,) times its loss, on the encoder and on its heads.

    Returns both (K, …), the losses (K,), `ppo_loss`'s statistics (K, 6) and the mean |ratio − 1| (K,).
    """

    def loss_of_one(
        weights: tuple[Weights, Weights], seen: Tensor, rows: Minibatch, kept: Keep | None, own: Knobs, scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        own_encoder, own_heads = weights
        with torch.autocast(seen.device.type, dtype=precision, enabled=precision != torch.float32):
            token = encode(own_encoder, seen, shape, args, kept)
            logits, value = read_heads(own_heads, hidden_units(own_heads, token, seen, shape, args, kept))
        settings = {name: getattr(own, name).squeeze(-1) for name in ("clip_range", "ent_coef", "vf_coef")}
        loss, stats = ppo_loss(logits, value, rows, **settings, value_loss=args.value_loss)
        return loss * scale, (loss.detach(), stats[:-1], stats[-1])

    axes = ((None, 0), 0, 0, None if keep is None else 0, 0, 0)
    gradients, (_, (losses, stats, away)) = vmap(grad_and_value(loss_of_one, has_aux=True), in_dims=axes)(
        (encoder, heads), observation, batch, keep, knobs, loss_scale
    )
    return *gradients, losses, stats, away


# ── shared gradient ───────────────────────────────────────────────────────────────────────────────────────────────────


def surgery_coefficients(gram: Tensor, orders: Tensor) -> Tensor:
    """PCGrad from inner products alone: what is left of agent i's gradient is Σ_j coefficient[i, j] · gradient_j.

    gram (K, K) of the gradients; orders (K, K), in which order agent i meets the others (itself included, and passed
    over). Whatever of a gradient points against another agent's gradient is projected away (Yu et al. 2020).
    """
    coefficients = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    own = torch.arange(len(gram), device=gram.device)
    for met in orders.unbind(1):
        along = (coefficients * gram[met]).sum(1)
        conflict = (along < 0) & (met != own) & (gram[met, met] > 0)
        step = torch.where(conflict, along / gram[met, met].clamp_min(1e-30), 0.0)
        coefficients = coefficients.scatter_add(1, met.unsqueeze(1), -step.unsqueeze(1))
    return coefficients


class Shared(NamedTuple):
    """What a gradient step does to the encoder."""

    gradient: Weights  # the mean over agents
    factors: StepFactors  # without dimensions
    steps: Tensor  # () taken so far
    interference: Tensor  # (K, 3), INTERFERENCE_METRICS


def share_gradient(
    gradients: Weights,
    factors: StepFactors,
    steps: Tensor,
    knobs: Knobs,
    encoder_rate: float,
    orders: Tensor | None,
    encoder_moves: Tensor,
) -> Shared:
    """The agents' gradients on the encoder, each clipped by its own move, put together: their mean over the agents that
    move at all, after surgery along `orders` if any. The step follows their mean learning rate × `encoder_rate`; there
    is none where an intervention has frozen the encoder: `encoder_moves` () bool."""
    taken = factors.active.flatten()

    def clip(gradient: Tensor) -> Tensor:
        shape = (-1, *(1,) * (gradient.dim() - 1))
        return torch.where(taken.view(shape), gradient * factors.grad_scale.view(shape), 0.0)

    clipped = {name: clip(gradient) for name, gradient in gradients.items()}
    flat = [g.flatten(1) for g in clipped.values()]
    gram = torch.stack([g @ g.T for g in flat]).sum(0)
    coefficients = torch.eye(len(gram), device=gram.device) if orders is None else surgery_coefficients(gram, orders)
    number = taken.sum()
    weights = coefficients.sum(0) / number.clamp_min(1)
    norm = gram.diagonal().sqrt()
    cosine = gram / (norm.unsqueeze(0) * norm.unsqueeze(1)).clamp_min(1e-30)
    others = taken.unsqueeze(0) & taken.unsqueeze(1) & ~torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    mean = (cosine * others).sum(1) / others.sum(1)  # NaN for an agent that is alone
    least = torch.where(others.any(1), cosine.masked_fill(~others, torch.inf).amin(1), torch.nan)
    active = (number > 0) & encoder_moves
    steps = steps + active
    rate = encoder_rate * (knobs.learning_rate.squeeze(-1) * taken).sum() / number.clamp_min(1)
    decay = (knobs.weight_decay.squeeze(-1) * taken).sum() / number.clamp_min(1)
    own = step_factors(active, torch.ones_like(rate), steps, rate, decay)
    combined = {name: torch.tensordot(weights, g, 1) for name, g in clipped.items()}
    return Shared(combined, own, steps, torch.stack([norm / norm.sum(), mean, least], -1))


def decide(
    encoder: Weights,
    heads: Weights,
    observation: Tensor,
    mask: Tensor,
    noise: Tensor,
    keep: Keep | None,
    shape: Shape,
    args: Args,
    precision: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (K, N), their log-probabilities and the values of observations (K, N, D)."""
    with torch.autocast(observation.device.type, dtype=precision, enabled=precision != torch.float32):
        logits, value, _, _ = forward_all(encoder, heads, observation, shape, args, keep)
    action, log_prob = sample_action(masked_log_softmax(logits, mask), noise)
    return action, log_prob, value


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

COMPILING_PAYS_FROM = 300_000
"""Env steps of a run, over all agents, that repay half a minute of compiling on a CPU."""


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
            agents, state = [agents[k] for k in kept], select_agents(state, kept, shared="encoder")
        for agent in run.agents:
            agent.conclude()


LIVE = (
    "learning_rate",
    "gamma",
    "gae_lambda",
    "clip_range",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "target_kl",
    "dropout",
    "weight_decay",
)
"""Knobs that move while a run trains; a compiled function that saw them would be compiled anew at every move."""


def reinit(
    heads: Weights, fresh: Weights, moments: tuple[Weights, Weights], what: str, hidden: list[Tensor], k: int
) -> None:
    """Draw a part of agent k's heads anew: "policy_head" and "value_head" are both layers, "dormant" the hidden units
    that hardly answer, by their activations `hidden` (K, B, head_width). `fresh` are heads as they would begin."""
    whole, new = layers_of_agent(heads, k), layers_of_agent(fresh, 0)
    moved = [layers_of_agent(moment, k) for moment in moments]
    if what == "dormant":
        reinit_dormant(whole, new, moved, {"policy": [hidden[0][k]], "value": [hidden[1][k]]})
    else:
        reinit_head(whole, new, moved, what.removesuffix("_head"), layers=2)


def backtest(run: Run[Args]) -> None:
    """Show the policy of `run.backtest`: the encoder, and the heads of one agent."""
    agent, state = run.agent, run.backtest.weights
    encoder, heads, moments = part("encoder", state), part("heads", state), part("observation", state)
    if "agents" in state:
        k = state["agents"].split("\n").index(agent.name)
        heads, moments = ({name: value[k] for name, value in table.items()} for table in (heads, moments))
    env = run.make_env([agent])
    args, shape = agent.args_at(0), Shape(env.bars.window, env.bars.num_features, env.account_size)
    scale_observation = agent.observation_scaler(env.observation_size)
    scale_observation.load_state_dict(moments)
    stack = {name: weights.unsqueeze(0) for name, weights in heads.items()}

    def greedy(observation: Tensor, mask: Tensor) -> Tensor:
        with run.autocast():
            logits, *_ = forward_all(encoder, stack, scale_observation(observation).unsqueeze(0), shape, args)
        return masked_log_softmax(logits.squeeze(0), mask).argmax(-1)

    agent.report_backtest(greedy)


def train(run: Run[Args], agents: list[Agent[Args]], state: Flat | None) -> Flat:
    """Train until all agents have ended, or half of them: then the rest is faster without them.

    `state` is where the run stands, None at the beginning; returns where it stands then.
    """
    device, precision, count = run.device, run.precision, len(agents)
    args = agents[0].args_at(0)  # sizes and words are the same in all agents of a stack
    env = run.make_env(agents)  # row n·K + k is env n of agent k
    num_envs = env.num_envs // count
    shape = Shape(env.bars.window, env.bars.num_features, env.account_size)
    if args.d_model % args.heads:
        where, what = "ppo.heads", f"{args.heads} heads cannot share a d_model of {args.d_model}"
        raise InputError(where, what, "d_model is a multiple of heads")
    seed = agents[0].seed
    encoder = make_encoder(shape, args, torch.Generator().manual_seed(seed_of("encoder", seed)))
    encoder = {name: weights.to(device) for name, weights in encoder.items()}
    own_heads = [make_heads(shape, env.num_actions, args, agent.new_generator("net")) for agent in agents]
    heads = stack_weights(own_heads, device)
    encoder_first, encoder_second, first, second = (
        {name: torch.zeros_like(weights) for name, weights in table.items()}
        for table in (encoder, encoder, heads, heads)
    )
    encoder_steps = torch.zeros((), device=device)
    steps_taken = torch.zeros(count, device=device)
    loss_scale = LossScale(count, device, enabled=precision == torch.float16)
    scale_observation = ObservationScalers([agent.observation_scaler(env.observation_size) for agent in agents])
    scale_reward = agents[0].reward_scaler(num_envs, agents)
    compiled = partial(run.compiled, pays_from=COMPILING_PAYS_FROM)
    fast_decide, fast_find, fast_step = compiled(decide), compiled(find_gradients), compiled(adamw_step)
    fast_plan, fast_share = compiled(plan_step), compiled(share_gradient)
    fixed = replace(args, **dict.fromkeys(LIVE, 0.5))  # what compiled functions see of the knobs: only what never moves
    can_shrink = agents[0].spec.env.backend == "batched"  # the plain reference keeps its books in lists, not in rows
    words = (shape, fixed, precision)

    def greedy(of: list[int]) -> StackPolicy:
        """The policies of agents `of` (numbers in this stack)."""
        own = {name: weights[of] for name, weights in heads.items()}

        def policy(observation: Tensor, mask: Tensor) -> Tensor:
            observation = scale_observation(observation, of)
            with run.autocast():
                logits, *_ = forward_all(encoder, own, observation, shape, args)
            return masked_log_softmax(logits, mask).argmax(-1)

        return policy

    def policy_state(agent: Agent[Args]) -> Flat:
        k = agents.index(agent)
        own = {name: weights[k] for name, weights in heads.items()}
        statistics = scale_observation.of_agent(k)
        return under("encoder", encoder) | under("heads", own) | under("observation", statistics)

    def trainer_state() -> Flat:
        return {
            "agents": "\n".join(agent.name for agent in agents),
            "iteration": iteration,
            "global_step": global_step,
            "minibatch": minibatch,
            "steps_taken": steps_taken,
            "loss_scale": loss_scale.scale,
            "loss_scale_good": loss_scale.good,
            "encoder_steps": encoder_steps,
            **under("encoder", encoder),
            **under("encoder_first", encoder_first),
            **under("encoder_second", encoder_second),
            **under("heads", heads),
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
        encoder, encoder_first, encoder_second, encoder_steps = (
            *(part(name, state) for name in ("encoder", "encoder_first", "encoder_second")),
            state["encoder_steps"],
        )
        heads, first, second = part("heads", state), part("first", state), part("second", state)
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
        encoder_moves = torch.tensor(not run.encoder_is_frozen, device=device)
        gamma, gae_lambda = (stack_setting(in_force, name, device) for name in ("gamma", "gae_lambda"))
        left = agents[0].total_timesteps - global_step
        steps = min(args.n_steps, math.ceil(left / num_envs))
        rows = steps * num_envs
        draws = []
        for agent, own_args in zip(agents, in_force, strict=True):
            own_generator = agent.generator if agent.state == "running" else None
            own_masks = partial(dropout_masks, own_args)
            size = (steps, num_envs, env.num_actions)
            draws.append(draw(own_generator, size, args.n_epochs, gumbel_noise, own_masks))
        noise, starts, orders, dropout = stack_draws(draws, device)
        surgery_orders = None
        if args.surgery == "pcgrad":
            meeting = torch.Generator().manual_seed(seed_of("surgery", seed, iteration))
            surgery_orders = torch.stack([torch.randperm(count, generator=meeting) for _ in agents]).to(device)

        # 2. Rollout: act, step, remember where each observation came from.
        clock = time.perf_counter()
        records = []
        with torch.no_grad():
            for t in range(steps):
                observation = scale_observation(env.observe(by_agent(index, count), by_agent(account, count)))
                action, log_prob, value = fast_decide(
                    encoder, heads, observation, by_agent(mask, count), noise[t], dropout, *words
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
                encoder, heads, observation, by_agent(mask, count), noise[0], dropout, *words
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
                    dropout_final = masks_of_rows(dropout, first_rows % num_envs)
                    _, final_value, *_ = forward_all(
                        encoder, heads, scale_observation(final), shape, args, dropout_final
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
        before = flatten_weights(encoder, 0), flatten_weights(heads)
        interference: list[Tensor] = []
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
                batch = batch._replace(advantage=normalise(batch.advantage))
                size = envs.shape[1]
                fits = False
                while not fits:  # into memory: else the same batch again, in smaller pieces
                    gradients: Weights = {}
                    head_gradients: Weights = {}
                    losses = stats = away = torch.zeros((), device=device)
                    try:
                        for begin in range(0, size, minibatch):  # accumulated where there is more than one
                            piece = slice(begin, begin + minibatch)
                            piece_envs = envs[:, piece]
                            # A last, smaller minibatch would have to be compiled anew, for a handful of steps.
                            find = fast_find if size == minibatch else find_gradients
                            of_piece = find(
                                encoder,
                                heads,
                                scale_observation(env.observe(batch_index[:, piece], batch_account[:, piece])),
                                Minibatch(*(column[:, piece] for column in batch)),
                                masks_of_rows(dropout, piece_envs),
                                knobs,
                                loss_scale.scale,
                                *words,
                            )
                            share = piece_envs.shape[1] / size
                            gradients = add_weighted(gradients, of_piece[0], share)
                            head_gradients = add_weighted(head_gradients, of_piece[1], share)
                            losses, stats, away = (
                                total + one * share
                                for total, one in zip((losses, stats, away), of_piece[2:], strict=True)
                            )
                        fits = True
                    except RuntimeError as error:
                        minibatch = run.smaller_minibatch(minibatch, error)
                whole = {f"encoder.{name}": g.flatten(1).unsqueeze(1) for name, g in gradients.items()} | head_gradients
                factors, steps_taken, step_metrics = fast_plan(
                    whole, losses, loss_scale.scale, steps_taken, live, knobs
                )
                shared = fast_share(
                    gradients, factors, encoder_steps, knobs, args.encoder_rate, surgery_orders, encoder_moves
                )
                encoder_steps = shared.steps
                fast_step(encoder, encoder_first, encoder_second, shared.gradient, shared.factors)
                fast_step(heads, first, second, head_gradients, factors)
                interference.append(shared.interference)
                step_metrics = torch.cat([stats, stats[:, KL : KL + 1], step_metrics], -1)
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
            dropout_sample = masks_of_rows(dropout, (sample % num_envs).expand(count, -1))
            logits, _, hidden, token = forward_all(encoder, heads, observation, shape, args, dropout_sample)
            if dropout is not None:
                # The net as it is, nothing dropped. The encoder is dear: a quarter of the sample tells as much.
                _, _, hidden, token = forward_all(encoder, heads, observation[:, ::4], shape, args)
            log_prob_after = masked_log_softmax(logits, flat.mask[:, sample])
            log_prob_after = log_prob_after.gather(-1, flat.action[:, sample].unsqueeze(-1)).squeeze(-1)
            after = flatten_weights(encoder, 0), flatten_weights(heads)
            pulled = torch.stack(interference).nanmean(0)
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
                    "diag/update_ratio": update_ratio(
                        *(torch.cat([shared_part, own[k]]) for shared_part, own in (before, after)), gradient_steps[k]
                    ),
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
                of_agent["diag/dormant_share"] = dormant_share([layer[k] for layer in hidden])
                of_agent["diag/feature_rank"] = feature_rank(token[k])
                if count > 1:  # one agent alone pulls against nobody
                    of_agent |= {name: pulled[k, i] for i, name in enumerate(INTERFERENCE_METRICS)}
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
        last_gradient = torch.cat([flatten_weights(gradients), flatten_weights(head_gradients)], 1).cpu()
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
        back = dict(run.rolled_back(agents))
        for k, earlier in back.items():
            then = earlier["agents"].split("\n").index(agents[k].name)
            for name, table in (("heads", heads), ("first", first), ("second", second)):
                for key, weights in part(name, earlier).items():
                    table[key][k] = weights[then]
            steps_taken[k] = earlier["steps_taken"][then]
            loss_scale.scale[k], loss_scale.good[k] = earlier["loss_scale"][then], earlier["loss_scale_good"][then]
            scale_observation.go_back(part("observation", earlier), k, then)
            scale_reward.go_back(part("reward", earlier), k, then)
        if back and all(agents.index(agent) in back for agent in running if agent.state == "running"):
            oldest = min(back.values(), key=lambda earlier: int(earlier["global_step"]))
            encoder, encoder_first, encoder_second = (  # it is everybody's: it goes back when everybody does
                part(name, oldest) for name in ("encoder", "encoder_first", "encoder_second")
            )
            encoder_steps = oldest["encoder_steps"]
        for k, what, generator in run.reinitialised(agents):
            fresh = stack_weights([make_heads(shape, env.num_actions, args, generator)], device)
            with torch.no_grad():
                _, _, hidden, _ = forward_all(encoder, heads, scale_observation(raw_observation), shape, args)
            reinit(heads, fresh, (first, second), what, hidden, k)
        if any(a.due(a.spec.checkpoints.every, start_step) for a in running) or run.stop_requested:
            run.save_checkpoint("last", trainer_state())


if __name__ == "__main__":
    main()
