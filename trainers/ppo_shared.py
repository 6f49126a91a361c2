"""PPO for K agents with one encoder: a patch transformer shared by all, a policy head and a value head each.

Every market window goes through the same encoder. Each agent has its own heads, scale of returns, schedules,
`target_kl` and verdict. A head gets the encoder's token, the newest bar and the account. In each gradient step every
agent's whole gradient is first clipped to its own norm, so that no agent dominates. The encoder then follows the mean,
at a slower rate than the heads, and without the gradient of the values. The interference between agents is measured in
every step (`diag/grad_share`, `diag/grad_cosine`); `surgery = "pcgrad"` removes the conflicting part of each gradient
(Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1). An agent whose update was ended by
`target_kl` contributes no gradient any more; the encoder that it uses still moves.

The encoder follows PatchTST (Nie et al. 2023) in cutting a window into patches of bars, one token each. Only the last
token feeds the heads, so the last layer computes that token alone.

p3kit starts it with a run directory that holds all agents of a seed; alone it trains one:

    python trainers/ppo_shared.py --symbol AAPL --total-timesteps 20000

Notation for shapes: K agents, T steps of the rollout, N envs of an agent, R = T·N rows, B rows of a minibatch, W bars
of a window, V values of a bar, D observation values (W·V and the account), F fields of the account, A actions, C reward
components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from p3kit.errors import InputError
from p3kit.runtime import Stack, StackRun, seed_of, under
from p3kit.runtime.evidence import feature_rank
from p3kit.runtime.products import linear
from p3kit.runtime.stacking import (
    AdamW,
    DropoutMasks,
    Knobs,
    LossScale,
    StepFactors,
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
    stack_setting,
    stack_weights,
    step_factors,
    to_rows,
)

AGENTS = "all"
"""What p3kit puts into one run of this trainer: all agents of a seed and a matrix point, which share an encoder."""

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
    # differs: a shared encoder in place of separate layers (4 lines)
    patch: Annotated[int, Ge(1), Le(10_000), "size"] = 4
    """Bars of a token; raising it makes the encoder faster and coarser in time."""
    d_model: Annotated[int, Ge(1), Le(16_384), "size"] = 64
    """Width of a token."""
    layers: Annotated[int, Ge(1), Le(1_000), "size"] = 2
    """Transformer layers of the shared encoder."""
    heads: Annotated[int, Ge(1), Le(1_000), "size"] = 4
    """Attention heads of a layer; d_model is a multiple of it."""
    head_width: Annotated[int, Ge(1), Le(16_384), "size"] = 128
    """Hidden units of each agent's policy head and value head."""
    # end
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of hidden units dropped per env; constant within an iteration, so that the ratio starts at 1."""
    # differs: a shared encoder (0 lines)
    encoder_rate: Annotated[float, Ge(0), Le(1_000), "size"] = 0.1
    """Learning rate of the shared encoder as a fraction of the agents' own; raising it adapts the encoder faster, and
    disturbs the heads."""
    value_reach: Annotated[float, Ge(0), Le(1), "size"] = 0.0
    """Fraction of the value loss's gradient that reaches the shared encoder; raising it lets the values train the
    encoder, with their noise."""
    surgery: Literal["off", "pcgrad"] = "off"
    """Treatment of conflicting gradients on the encoder; "pcgrad" removes the conflicting part."""
    # end
    weight_decay: Annotated[float, Ge(0), Le(100)] = 0.0
    """Decoupled weight decay (AdamW); raising it keeps weights small."""
    value_loss: Literal["mse", "huber", "clipped"] = "mse"
    """Shape of the value loss; "huber" bounds its gradient, "clipped" bounds the move from the old value."""
    init_gain: Annotated[float, Gt(0), Le(100), "size"] = 0.01
    """Scale of the policy head at the start; small means a nearly uniform first policy."""
    init_hold: Annotated[float, Ge(0), Le(20), "size"] = 0.0
    """Logit of the first action (HOLD) at the start, others have 0; raising it trades less, so positions last."""
    # differs: a shared encoder (0 lines)
    token_gain: Annotated[float, Ge(0), Le(1), "size"] = 1.0
    """Weight of the encoder's token beside a head's other inputs at the start; small means that heads first learn from
    the newest bar and the account, and use the encoder later."""
    token_weight: Annotated[float, Ge(0), Le(1), "size"] = 0.1
    """Weight of the encoder's token beside a head's other inputs throughout; small lets heads follow it slowly, for
    windows with little information beyond the newest bar."""
    # end


# ── network ───────────────────────────────────────────────────────────────────────────────────────────────────────────


FEW_TOKENS = 8
"""So few tokens attend to each other faster by sums of products than by batches of tiny matrices."""


class Shape(NamedTuple):
    """Layout of an observation: W·V values of the window, oldest bar first, then F fields of the account."""

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
    heads["policy.1.bias"][0, 0] = args.init_hold
    return heads


def for_each(encoder: Weights, count: int) -> Weights:
    """The shared encoder as weights (K, …) of K agents, without a copy: gradients on them are each agent's own."""
    return {name: weights.expand(count, *weights.shape) for name, weights in encoder.items()}


def affine(weights: Weights, layer: str, x: Tensor) -> Tensor:
    """(K, …, in) → (K, …, out)."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    out = linear(x.flatten(1, -2), weight, bias.reshape(len(weight), 1, -1))
    return out.reshape(*x.shape[:-1], -1)


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    weight, bias = (weights[f"{name}.{kind}"].reshape(len(x), *(1,) * (x.dim() - 2), -1) for kind in ("weight", "bias"))
    return F.layer_norm(x, x.shape[-1:]) * weight + bias


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of tokens (K, B, i, heads, H) to tokens (K, B, j, heads, H), in the shape of the query."""
    scale = 1 / math.sqrt(query.shape[-1])
    if key.shape[2] > FEW_TOKENS:
        query, key, value = (t.transpose(2, 3) for t in (query, key, value))
        return ((query @ key.mT * scale).softmax(-1) @ value).transpose(2, 3)
    scores = (query.unsqueeze(3) * key.unsqueeze(2)).sum(-1) * scale  # (K, B, i, j, heads)
    return (scores.softmax(3).unsqueeze(-1) * value.unsqueeze(2)).sum(3)


def encode(
    encoder: Weights, observation: Tensor, shape: Shape, args: Args, dropout: DropoutMasks | None = None
) -> Tensor:
    """(K, B, D) → (K, B, d_model): the last token after a pre-norm transformer over patches of the window. Weights are
    (K, …)."""
    window = observation[..., : shape.window * shape.values].unflatten(-1, (shape.window, shape.values))
    window = F.pad(window, (0, 0, -shape.window % args.patch, 0))  # the oldest patch may be short of bars
    patches = window.reshape(*observation.shape[:2], -1, args.patch * shape.values)  # (K, B, tokens, …)
    x = affine(encoder, "embed", patches) + encoder["position"].unsqueeze(1)
    for i in range(args.layers):
        normed = layer_norm(encoder, f"{i}.attention_norm", x)
        if i == args.layers - 1:
            x = x[:, :, -1:]  # the other tokens are not used
        query = affine(encoder, f"{i}.query", normed[:, :, -x.shape[2] :])
        key, value = affine(encoder, f"{i}.key_value", normed).chunk(2, -1)
        attention = attend(*(t.unflatten(-1, (args.heads, -1)) for t in (query, key, value))).flatten(-2)
        x = x + affine(encoder, f"{i}.merge", attention)
        wide = F.gelu(affine(encoder, f"{i}.wide", layer_norm(encoder, f"{i}.wide_norm", x)))
        if dropout is not None:
            wide = wide * dropout[i].unsqueeze(2)
        x = x + affine(encoder, f"{i}.narrow", wide)
    return layer_norm(encoder, "norm", x.squeeze(2))


def hidden_units(
    heads: Weights, token: Tensor, observation: Tensor, shape: Shape, args: Args, dropout: DropoutMasks | None = None
) -> list[Tensor]:
    """Activations of the policy head's and the value head's hidden layer, (K, B, head_width) each.

    Of the value's gradient only `value_reach` reaches the encoder (Cobbe et al. 2021, "Phasic Policy Gradient", on
    what the two losses do to weights that they share).
    """
    token = args.token_weight * token
    for_value = args.value_reach * token + (1 - args.value_reach) * token.detach()
    own = observation[..., -shape.values - shape.account :]  # the newest bar and the account
    seen = {"policy": torch.cat((token, own), -1), "value": torch.cat((for_value, own), -1)}
    hidden = [torch.tanh(affine(heads, f"{body}.0", x)) for body, x in seen.items()]
    return hidden if dropout is None else [layer * dropout[-1] for layer in hidden]


def apply_heads(heads: Weights, hidden: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (K, B, A) and value (K, B), both float32."""
    logits, value = (affine(heads, f"{body}.1", layer) for body, layer in zip(("policy", "value"), hidden, strict=True))
    return logits.float(), value.squeeze(-1).float()


def forward_all(
    encoder: Weights, heads: Weights, observation: Tensor, shape: Shape, args: Args, dropout: DropoutMasks | None = None
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """(K, B, D) → logits (K, B, A), value (K, B), the heads' hidden layers, and the encoder's token (K, B, d_model)."""
    token = encode(for_each(encoder, len(observation)), observation, shape, args, dropout)
    hidden = hidden_units(heads, token, observation, shape, args, dropout)
    return *apply_heads(heads, hidden), hidden, token


# Copied from trainers/ppo.py::masked_log_softmax
def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (…, A) of the valid actions; masked ones get the smallest number, so their probability is 0."""
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1)


# Copied from trainers/ppo.py::dropout_masks
def dropout_masks(args: Args, num_envs: int, generator: torch.Generator) -> DropoutMasks | None:
    # differs: the wide layer of every transformer layer, then the heads (1 line)
    """One set of units per env, held for a whole iteration (consistent dropout, Hausknecht and Wagener 2022): the wide
    layer of every transformer layer, then the heads."""
    # end
    if args.dropout == 0:
        return None
    # differs: the same (1 line)
    widths = [2 * args.d_model] * args.layers + [args.head_width]
    draws = [torch.rand(num_envs, width, generator=generator) for width in widths]
    # end
    return [(draw >= args.dropout).float() / (1 - args.dropout) for draw in draws]


class Networks:
    """One encoder and the heads of K agents; `p3kit.runtime.stack_run.Networks` describes each method."""

    output_layers = 2

    def __init__(
        self,
        encoder: Weights,
        heads: Sequence[Weights],
        shape: Shape,
        num_actions: int,
        args: Args,
        device: torch.device,
    ) -> None:
        self.encoder = {name: weights.to(device) for name, weights in encoder.items()}
        self.weights = stack_weights(heads, device)
        self.shape, self.num_actions, self.args, self.device = shape, num_actions, args, device

    def initial_weights(self, generator: torch.Generator) -> Weights:
        return stack_weights([make_heads(self.shape, self.num_actions, self.args, generator)], self.device)

    def flat(self) -> Tensor:
        heads = flatten_weights(self.weights)
        return torch.cat((flatten_weights(self.encoder, 0).expand(len(heads), -1), heads), 1)

    def log_probs(self, agents: Sequence[int] | slice, observation: Tensor, mask: Tensor) -> Tensor:
        own = {name: weights[agents] for name, weights in self.weights.items()}
        logits, *_ = forward_all(self.encoder, own, observation, self.shape, self.args)
        return masked_log_softmax(logits, mask)

    def inspect(
        self, observation: Tensor, mask: Tensor, dropout: DropoutMasks | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor], dict[str, Tensor]]:
        networks, rest = (self.encoder, self.weights), (self.shape, self.args)
        logits, _, hidden, token = forward_all(*networks, observation, *rest, dropout)
        if dropout is not None:  # the networks without dropout: the encoder is slow, and a quarter of the rows will do
            _, _, hidden, token = forward_all(*networks, observation[:, ::4], *rest)
        ranks = torch.stack([feature_rank(own) for own in token])
        return masked_log_softmax(logits, mask), hidden[:1], hidden[1:], {"diag/feature_rank": ranks}

    def of_agent(self, agent: int) -> dict[str, Tensor]:
        heads = {name: weights[agent] for name, weights in self.weights.items()}
        return under("encoder", self.encoder) | under("heads", heads)


def load_policy(
    args: Args,
    weights: dict[str, Any],
    device: torch.device,
    window: int,
    num_features: int,
    account_size: int,
    agent: str = "",
    **_: Any,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The policy of an agent of a checkpoint: (observation (B, D), mask (B, A)) → masked log-probabilities (B, A),
    value (B,)."""
    shape, heads = Shape(window, num_features, account_size), weights["heads"]
    if "agents" in weights:  # the checkpoint of a whole run
        place = weights["agents"].split("\n").index(agent)
        heads = {name: own[place] for name, own in heads.items()}
    encoder, stack = ({name: own.to(device) for name, own in part.items()} for part in (weights["encoder"], heads))
    stack = {name: own.unsqueeze(0) for name, own in stack.items()}

    def policy(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits, value, *_ = forward_all(encoder, stack, observation.unsqueeze(0), shape, args)
        return masked_log_softmax(logits.squeeze(0), mask), value.squeeze(0)

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


# Copied from trainers/ppo_stacked.py::normalise
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
# Copied from trainers/ppo_stacked.py::NORM
NORM = STEP_METRICS.index("grad/grad_norm")
INTERFERENCE_METRICS = ("diag/grad_share", "diag/grad_cosine", "diag/grad_cosine_min")
"""Of an agent's clipped gradient on the encoder: its share of the agents' norms, and its cosine with the others'."""


# Copied from trainers/ppo_stacked.py::Minibatch
class Minibatch(NamedTuple):
    """Input of the loss for B rows of each of K agents, all (K, B) but for the mask (K, B, A)."""

    action: Tensor
    log_prob: Tensor
    advantage: Tensor  # normalised
    returns: Tensor
    value: Tensor
    mask: Tensor


# Copied from trainers/ppo_stacked.py::ppo_loss
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


def find_gradients(
    encoder: Weights,
    heads: Weights,
    observation: Tensor,
    batch: Minibatch,
    dropout: DropoutMasks | None,
    knobs: Knobs,
    loss_scale: Tensor,
    shape: Shape,
    args: Args,
    precision: torch.dtype,
) -> tuple[Weights, Weights, Tensor, Tensor]:
    """Each agent's own gradient of `loss_scale` (K,) times its loss, on the encoder and on its heads.

    Returns both (K, …), the losses (K,) and one number per LOSS_METRICS (K, 7).
    """

    def total(weights: tuple[Weights, Weights]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        own_encoder, own_heads = weights
        with autocast(observation.device, precision):
            token = encode(own_encoder, observation, shape, args, dropout)
            logits, value = apply_heads(own_heads, hidden_units(own_heads, token, observation, shape, args, dropout))
        losses, stats = ppo_loss(logits, value, batch, knobs, args.value_loss)
        return (losses * loss_scale).sum(), (losses.detach(), stats)

    of_each = (for_each(encoder, len(observation)), heads)
    gradients, (losses, stats) = grad_and_aux(total, of_each)
    return *gradients, losses, stats


# ── shared gradient ───────────────────────────────────────────────────────────────────────────────────────────────────


def surgery_coefficients(gram: Tensor, orders: Tensor) -> Tensor:
    """PCGrad from inner products alone: what is left of agent i's gradient is Σ_j coefficient[i, j] · gradient_j.

    gram (K, K) of the gradients; orders (K, K), in which order agent i meets the others (itself included, and passed
    over). The part of a gradient that points against another agent's gradient is projected away (Yu et al. 2020).
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
    """The gradient step of the encoder."""

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
    encoder_trainable: Tensor,
) -> Shared:
    """The mean of the agents' gradients on the encoder, over the agents that take a step. Each gradient is first
    clipped by its own factor; surgery follows, along `orders` if any.

    The learning rate is the agents' mean times `encoder_rate`. The encoder takes no step where `encoder_moves` () bool
    is False, because an intervention has frozen it.
    """
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
    active = (number > 0) & encoder_trainable
    steps = steps + active
    rate = encoder_rate * (knobs.learning_rate.squeeze(-1) * taken).sum() / number.clamp_min(1)
    decay = (knobs.weight_decay.squeeze(-1) * taken).sum() / number.clamp_min(1)
    own = step_factors(active, torch.ones_like(rate), steps, rate, decay)
    combined = {name: torch.tensordot(weights, g, 1) for name, g in clipped.items()}
    return Shared(combined, own, steps, torch.stack([norm / norm.sum(), mean, least], -1))


# Copied from trainers/ppo_stacked.py::take_step
def take_step(
    # differs: encoder and heads (4 lines)
    encoder: Weights,
    heads: Weights,
    moments: tuple[tuple[Weights, Weights], tuple[Weights, Weights]],
    steps: tuple[Tensor, Tensor],
    gradient: Weights,
    head_gradient: Weights,
    # end
    losses: Tensor,
    stats: Tensor,
    loss_scale: Tensor,
    live: Tensor,
    knobs: Knobs,
    # differs: the encoder's step is shared (6 lines)
    encoder_rate: float,
    orders: Tensor | None,
    encoder_trainable: Tensor,
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Clip each agent's gradient, and move encoder and heads, in place. `moments` and `steps` are those of both.

    Returns the steps taken by now, one number per STEP_METRICS (K, M), and INTERFERENCE_METRICS (K, 3).
    """
    whole = {f"encoder.{name}": g.flatten(1).unsqueeze(1) for name, g in gradient.items()} | head_gradient
    factors, counted, planned = plan_step(whole, losses, loss_scale, steps[1], live, knobs)
    together = share_gradient(gradient, factors, steps[0], knobs, encoder_rate, orders, encoder_trainable)
    adamw_step(encoder, *moments[0], together.gradient, together.factors)
    adamw_step(heads, *moments[1], head_gradient, factors)
    # end
    metrics = torch.cat([stats, stats[:, KL : KL + 1], planned], -1)
    # differs: the same (1 line)
    return (together.steps, counted), metrics, together.interference
    # end


# Copied from trainers/ppo_stacked.py::learn
def learn(
    # differs: encoder and heads (3 lines)
    encoder: Weights,
    heads: Weights,
    moments: tuple[tuple[Weights, Weights], tuple[Weights, Weights]],
    steps: tuple[Tensor, Tensor],
    # end
    observation: Tensor,
    batch: Minibatch,
    dropout: DropoutMasks | None,
    knobs: Knobs,
    loss_scale: Tensor,
    live: Tensor,
    # differs: the encoder's step is shared (2 lines)
    orders: Tensor | None,
    encoder_trainable: Tensor,
    shape: Shape,
    args: Args,
    # end
    precision: torch.dtype,
    # differs: the gradients of both (2 lines)
) -> tuple[Weights, Weights, tuple[Tensor, Tensor], Tensor, Tensor]:
    """The gradient step of a whole batch as one function to compile: its gradients, and what `take_step` returns."""
    # end
    batch = batch._replace(advantage=normalise(batch.advantage))
    # differs: encoder and heads (3 lines)
    words = (shape, args, precision)
    found = find_gradients(encoder, heads, observation, batch, dropout, knobs, loss_scale, *words)
    moved = (encoder, heads, moments, steps, *found, loss_scale, live, knobs)
    return *found[:2], *take_step(*moved, args.encoder_rate, orders, encoder_trainable)
    # end


# Copied from trainers/ppo_stacked.py::decide
def decide(
    # differs: encoder and heads (1 line)
    encoder: Weights,
    heads: Weights,
    # end
    observation: Tensor,
    mask: Tensor,
    noise: Tensor,
    dropout: DropoutMasks | None,
    # differs: how an observation is laid out (1 line)
    shape: Shape,
    args: Args,
    # end
    precision: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (K, N), their log-probabilities and the values of observations (K, N, D)."""
    with autocast(observation.device, precision):
        # differs: encoder and heads (1 line)
        logits, value, _, _ = forward_all(encoder, heads, observation, shape, args, dropout)
        # end
    action, log_prob = sample_action(masked_log_softmax(logits, mask), noise)
    return action, log_prob, value


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

PAYS_FROM = 300_000
"""Env steps of a run, over all agents, for which compiling (half a minute on a CPU) saves time."""
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
"""Knobs that change while a run trains; a function compiled with them would be compiled again at every change."""


def train(run: Stack[Args]) -> None:
    """Train until all agents have ended, or half of them: the rest then continues without them."""
    # 0. Environment, networks, optimiser, and what checkpoints keep.
    # Copied from trainers/ppo_stacked.py::train section 0
    device, count, args = run.device, run.count, run.args
    env = run.make_env()  # row n·K + k is env n of agent k
    num_envs = env.num_envs // count
    # differs: one encoder beside the heads, with an optimiser of its own (7 lines)
    shape = Shape(env.bars.window, env.bars.num_features, env.account_size)
    if args.d_model % args.heads:
        where, what = "ppo.heads", f"{args.heads} heads cannot share a d_model of {args.d_model}"
        raise InputError(where, what, "d_model is a multiple of heads")
    first_encoder = make_encoder(shape, args, torch.Generator().manual_seed(seed_of("encoder", run.seed)))
    own_heads = [make_heads(shape, env.num_actions, args, generator) for generator in run.generators("net")]
    networks = Networks(first_encoder, own_heads, shape, env.num_actions, args, device)
    encoder, heads = networks.encoder, networks.weights
    fixed = replace(args, **dict.fromkeys(LIVE, 0.5))  # type: ignore[arg-type]  # the arguments that never move
    words = (shape, fixed, run.precision)
    fast_decide, fast_learn = run.compiled(decide, PAYS_FROM), run.compiled(learn, PAYS_FROM)
    optimizer, encoder_optimizer = AdamW(heads, (count,), device), AdamW(encoder, (), device)
    # end
    loss_scale = LossScale(count, device, enabled=run.precision == torch.float16)
    # differs: the encoder belongs to all agents (1 line)
    step = run.resume(
        networks,
        optimizer,
        {"heads": heads, "loss_scale": loss_scale},
        shared={"encoder": encoder, "encoder_optimizer": encoder_optimizer},
    )
    # end
    index, account, mask = step.index, step.account, step.mask  # (N·K,), (N·K, F), (N·K, A): where each env acts next

    for global_step, in_force in run.iterations():
        # 1. Knobs in force, and every random number of this iteration.
        # Copied from trainers/ppo_stacked.py::train section 1
        knobs, target_kl = stack_knobs(in_force, device), stack_setting(in_force, "target_kl", device)
        gamma, gae_lambda = (stack_setting(in_force, name, device) for name in ("gamma", "gae_lambda"))
        left = args.total_timesteps - global_step
        steps = min(args.n_steps, math.ceil(left / num_envs))
        rows = steps * num_envs
        noise, starts, orders, dropout = run.draws((steps, num_envs, env.num_actions), gumbel_noise, dropout_masks)
        # differs: an intervention may freeze the encoder, and surgery has an order (0 lines)
        encoder_trainable = torch.tensor(not run.encoder_is_frozen, device=device)
        surgery_orders = None
        if args.surgery == "pcgrad":
            own = torch.Generator().manual_seed(seed_of("surgery", run.seed, run.iteration))
            surgery_orders = torch.stack([torch.randperm(count, generator=own) for _ in range(count)]).to(device)
        # end

        # 2. Rollout: act, step, remember where each observation came from.
        # Copied from trainers/ppo_stacked.py::train section 2
        transitions = []
        with torch.no_grad():
            for t in range(steps):
                observation = run.observe(by_agent(index, count), by_agent(account, count))
                # differs: encoder and heads (1 line)
                decided = fast_decide(encoder, heads, observation, by_agent(mask, count), noise[t], dropout, *words)
                # end
                action, log_prob, value = (table.t().flatten() for table in decided)  # (K, N) → (N·K,)
                step = env.step(action, starts[t].flatten())
                transitions.append(
                    Buffer(
                        *(index, account, mask, action, log_prob, value),
                        *(step.components, step.terminated, step.truncated, step.final_index, step.final_account),
                        *(step.equity, step.closed_profit, step.valid),
                    )
                )
                index, account, mask = step.index, step.account, step.mask
            observation = run.observe(by_agent(index, count), by_agent(account, count))
            # differs: encoder and heads (1 line)
            allowed = by_agent(mask, count)
            *_, last_value = fast_decide(encoder, heads, observation, allowed, noise[0], dropout, *words)
            # end
        buffer = Buffer(*(by_env(torch.stack(column), count) for column in zip(*transitions, strict=True)))  # (T, N, K)

        # 3. Rewards: components times the weights in force, then scaled and clipped.
        # Copied from trainers/ppo_stacked.py::train section 3
        done = buffer.terminated | buffer.truncated
        reward, reward_parts = run.scale_reward(buffer.components, buffer.action, done, gamma)  # (T, N, K)

        # 4. Advantages: the value of the state that followed, before any restart.
        # Copied from trainers/ppo_stacked.py::train section 4
        next_value = torch.cat([buffer.value[1:], last_value.t().unsqueeze(0)])  # (T, N, K)
        if most := int(done.sum((0, 1)).max()):  # each agent's ended rows first, filled up to the same number of rows
            ended = to_rows(done)
            first_rows = ended.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
            final_index, final_account = to_rows(buffer.final_index), to_rows(buffer.final_account)
            final = run.observe(gather_rows(final_index, first_rows), gather_rows(final_account, first_rows))
            masks = masks_of_rows(dropout, first_rows % num_envs)
            with torch.no_grad(), run.autocast():
                # differs: encoder and heads (1 line)
                _, final_value, *_ = forward_all(encoder, heads, final, shape, args, masks)
                # end
            rows_next, is_end = to_rows(next_value), ended.gather(1, first_rows)
            rows_next.scatter_(1, first_rows, torch.where(is_end, final_value, rows_next.gather(1, first_rows)))
            next_value = from_rows(rows_next, num_envs)
        advantage = compute_gae(reward, buffer.value, next_value, buffer.terminated, done, gamma, gae_lambda)
        returns = advantage + buffer.value

        # 5. Update: epochs over shuffled minibatches, each agent until its policy has moved far enough.
        # Copied from trainers/ppo_stacked.py::train section 5
        flat_index, flat_account = to_rows(buffer.index), to_rows(buffer.account)  # (K, R), (K, R, F)
        tables = (buffer.action, buffer.log_prob, advantage, returns, buffer.value, buffer.mask)
        flat = Minibatch(*(to_rows(table) for table in tables))  # (K, R), the mask (K, R, A)
        live, epochs = run.live(), torch.zeros(count, device=device)
        learnable = min(rows, left)  # more envs than steps left: surplus rows are not learnt from
        update: list[Tensor] = []  # (K, M), one number per STEP_METRICS for each gradient step
        # differs: what the agents do to each other (0 lines)
        interference: list[Tensor] = []  # (K, 3), INTERFERENCE_METRICS of each gradient step
        # end
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
                # differs: gradients on encoder and heads, and one optimiser for each (1 line)
                head_gradient: Weights = {}
                moving = ((encoder_optimizer.moments, optimizer.moments), (encoder_optimizer.steps, optimizer.steps))
                rules = (surgery_orders, encoder_trainable)
                # end
                for piece, share, attempt in run.pieces(size):
                    with attempt:  # out of memory: the same batch again in smaller pieces
                        observation = run.observe(batch_index[:, piece], batch_account[:, piece])
                        given = (masks_of_rows(dropout, envs[:, piece]), knobs, loss_scale.scale)
                        if share == 1:
                            # A last, smaller minibatch would need its own compilation, for a handful of steps.
                            learn_batch = fast_learn if size == run.minibatch else learn
                            # differs: gradients on encoder and heads (1 line)
                            gradient, head_gradient, taken, metrics, interfering = learn_batch(
                                *(encoder, heads, *moving, observation, batch, *given, live, *rules, *words)
                            )
                            # end
                        else:  # gradients of pieces add up to that of the batch
                            whole = batch._replace(advantage=normalise(batch.advantage))
                            rows_of = Minibatch(*(column[:, piece] for column in whole))
                            # differs: gradients on encoder and heads (7 lines)
                            found = find_gradients(encoder, heads, observation, rows_of, *given, *words)
                            gradient = add_weighted(gradient if piece.start else {}, found[0], share)
                            head_gradient = add_weighted(head_gradient if piece.start else {}, found[1], share)
                            losses = found[2] * share + (losses if piece.start else 0)
                            stats = found[3] * share + (stats if piece.start else 0)
                if share < 1:
                    found = (gradient, head_gradient, losses, stats)
                    taken, metrics, interfering = take_step(
                        *(encoder, heads, *moving, *found, loss_scale.scale, live, knobs, args.encoder_rate, *rules)
                    )
                encoder_optimizer.steps, optimizer.steps = taken
                interference.append(interfering)
                # end
                loss_scale.update(metrics[:, NORM], live)
                update.append(metrics)
            epochs += live
            epoch_kl = torch.stack(update[first_of_epoch:])[:, :, KL].mean(0)
            live = live & ~(epoch_kl > target_kl)
            if not live.any():  # one device sync per epoch
                break

        # 6. Metrics and evidence for the diagnosis; then evaluation, interventions and checkpoints where they are due.
        # Copied from trainers/ppo_stacked.py::train section 6
        # differs: what the agents did to each other (0 lines)
        interfered = torch.stack(interference).nanmean(0)
        # end
        run.record(
            *(buffer, reward_parts, next_value, advantage, returns, STEP_METRICS, torch.stack(update)),
            epochs=epochs,
            # differs: gradients on the encoder and on the heads (1 line)
            gradient=torch.cat([flatten_weights(gradient), flatten_weights(head_gradient)], 1),
            # end
            dropout=dropout,
            # differs: one agent alone interferes with none (1 line)
            extra=({"diag/amp_scale": loss_scale.scale} if loss_scale.enabled else {})
            | (dict(zip(INTERFERENCE_METRICS, interfered.unbind(1), strict=True)) if count > 1 else {}),
            # end
        )


# Copied from trainers/ppo_stacked.py::main
def main() -> None:
    with StackRun(Args, load_policy, __file__) as run:
        for stack in run.stacks():
            train(stack)


if __name__ == "__main__":
    main()
