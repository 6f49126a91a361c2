"""PPO for one agent, in one file, written to be read from top to bottom.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), with the details that Engstrom et
al. 2020 and Andrychowicz et al. 2020 found to matter: orthogonal initialisation with a small policy head, Adam with
eps 1e-5, advantages normalised per batch, gradients clipped by norm, truncated episodes bootstrapped.

p3kit starts it with a run directory; alone it is a command of its own:

    python trainers/ppo.py --symbol AAPL --total-timesteps 20000
    python trainers/ppo.py --env-id CartPole-v1 --n-steps 128 --total-timesteps 100000

Notation for shapes: T steps of the rollout, N envs, R = T·N rows, B rows of a minibatch, D observation values, K fields
of the account, A actions, C reward components.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from p3kit.runtime import AgentRun

# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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

DropoutMasks = list[Tensor]
"""Multipliers per hidden layer, (rows, width): 0 for a unit that is off, 1/(1 − dropout) for one that is on."""


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


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (…, A) of the valid actions; masked ones get the smallest number, so their probability is 0."""
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1)


def dropout_masks(args: Args, num_envs: int, generator: torch.Generator) -> DropoutMasks | None:
    """One set of units per env, held for a whole iteration (consistent dropout, Hausknecht and Wagener 2022)."""
    if args.dropout == 0:
        return None
    draws = [torch.rand(num_envs, width, generator=generator) for width in args.hidden]
    return [(draw >= args.dropout).float() / (1 - args.dropout) for draw in draws]


def select_masks(dropout: DropoutMasks | None, envs: Tensor) -> DropoutMasks | None:
    """The dropout masks (B, width) of rows that belong to `envs` (B,)."""
    return dropout and [layer[envs] for layer in dropout]


def load_policy(
    args: Args, weights: dict[str, Any], device: torch.device, observation_size: int, num_actions: int, **_: Any
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The policy of a checkpoint: (observation (B, D), mask (B, A)) → masked log-probabilities (B, A), value (B,)."""
    net = ActorCritic(observation_size, num_actions, args, torch.Generator()).to(device)
    net.load_state_dict(weights["net"])

    def policy(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = net(observation)
        return masked_log_softmax(logits, mask), value

    return policy


# ── rollout ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def sample_action(log_prob: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from (N, A) log-probabilities by the Gumbel-max trick: actions (N,) and their log-probabilities (N,)."""
    action = (log_prob + noise).argmax(-1)
    return action, log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: −ln E with E exponential."""
    return -torch.empty(shape).exponential_(generator=generator).clamp_min_(1e-30).log_()


# ── advantages ────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """Zero mean and unit standard deviation over the effective batch; a single row is left as it is."""
    if len(advantage) < 2:
        return advantage
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


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
STEP_METRICS = (*LOSS_METRICS, "policy/kl_max", "grad/grad_norm", "grad/grad_norm_max", "grad/grad_clipped_pct",
                "diag/nonfinite", "policy/total_loss")  # fmt: skip
KL = LOSS_METRICS.index("policy/kl_divergence")


class Minibatch(NamedTuple):
    """Input of the loss for B rows, all of shape (B,) but for the mask (B, A)."""

    action: Tensor
    log_prob: Tensor
    advantage: Tensor  # normalised
    returns: Tensor
    value: Tensor
    mask: Tensor


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
        clipped_value = batch.value + (value - batch.value).clamp(-clip_range, clip_range)
        value_term = torch.max((value - batch.returns).square(), (clipped_value - batch.returns).square()).mean()
    else:
        value_term = F.mse_loss(value, batch.returns)

    entropy = -(all_log_prob.exp() * all_log_prob).sum(-1)  # a masked action adds 0 · (smallest number) = 0
    loss = policy_term + vf_coef * value_term - ent_coef * entropy.mean()

    with torch.no_grad():
        choices = batch.mask.sum(-1)
        has_choice = (choices > 1).float()
        normalised_entropy = entropy / choices.clamp_min(2).float().log() * has_choice
        entropy_norm = normalised_entropy.sum() / has_choice.sum().clamp_min(1)
        deviation, kl = (ratio - 1).abs(), (ratio - 1 - log_ratio).mean()
        clip_fraction = (deviation > clip_range).float().mean()
        stats = [policy_term, value_term, entropy.mean(), entropy_norm, kl, clip_fraction, deviation.mean()]
    return loss, torch.stack(stats).detach()


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def train(run: AgentRun[Args]) -> None:
    """Roll out, estimate advantages, update and record, until the run has taken its steps."""
    device, generator = run.device, run.generator("agent")  # random numbers are drawn from here as whole tensors
    env = run.make_env()
    num_envs = env.num_envs
    net = ActorCritic(env.observation_size, env.num_actions, run.args, run.generator("net")).to(device)
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, eps=1e-5, fused=True)
    forward, backward, fast_step, grad_scaler = run.prepare(net, ppo_loss, optimizer)
    step = run.resume(net=net, optimizer=optimizer)
    if step is None:
        step = env.reset(torch.rand(num_envs, generator=generator).to(device))
    index, account, mask = step.index, step.account, step.mask  # (N,), (N, K), (N, A): where each env acts next

    for global_step, args in run.iterations():
        # 1. Rates in force, and every random number of this iteration.
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = args.learning_rate, args.weight_decay
        left = args.total_timesteps - global_step
        restarts = env.autoreset == "next_step"  # then a step after an episode's end has no action
        steps = min(args.n_steps, math.ceil(left / num_envs) + restarts)
        rows = steps * num_envs
        noise = gumbel_noise((steps, num_envs, env.num_actions), generator).to(device)
        starts = torch.rand(steps, num_envs, generator=generator).to(device)
        orders = torch.stack([torch.randperm(rows, generator=generator) for _ in range(args.n_epochs)]).to(device)
        dropout = dropout_masks(args, num_envs, generator)
        dropout = dropout and [layer.to(device) for layer in dropout]

        # 2. Rollout: act, step, remember where each observation came from.
        transitions = []
        with torch.no_grad():
            for t in range(steps):
                logits, value = forward(run.observe(index, account), dropout)
                action, log_prob = sample_action(masked_log_softmax(logits, mask), noise[t])
                step = env.step(action, starts[t])
                transitions.append(
                    Buffer(
                        *(index, account, mask, action, log_prob, value),
                        *(step.components, step.terminated, step.truncated, step.final_index, step.final_account),
                        *(step.equity, step.closed_profit, step.valid),
                    )
                )
                index, account, mask = step.index, step.account, step.mask
            _, last_value = forward(run.observe(index, account), dropout)  # (N,)
        buffer = Buffer(*(torch.stack(column) for column in zip(*transitions, strict=True)))

        # 3. Rewards: components times the weights in force, then scaled and clipped.
        done = buffer.terminated | buffer.truncated
        reward, reward_parts = run.scale_reward(buffer.components, buffer.action, done, args.gamma)  # (T, N)

        # 4. Advantages: the value of the state that followed, before any restart.
        next_value = torch.cat([buffer.value[1:], last_value.unsqueeze(0)])  # (T, N)
        ended = done.nonzero(as_tuple=True)
        if env.autoreset == "same_step" and len(ended[0]):
            final = run.observe(buffer.final_index[ended], buffer.final_account[ended])
            with torch.no_grad():
                _, next_value[ended] = forward(final, select_masks(dropout, ended[1]))
        advantage = compute_gae(reward, buffer.value, next_value, buffer.terminated, done, args.gamma, args.gae_lambda)
        returns = advantage + buffer.value

        # 5. Update: epochs over shuffled minibatches, until the policy has moved far enough.
        flat_index, flat_account = buffer.index.flatten(), buffer.account.flatten(0, 1)  # (R,), (R, K)
        tables = (buffer.action, buffer.log_prob, advantage, returns, buffer.value, buffer.mask)
        flat = Minibatch(*(table.flatten(0, 1) for table in tables))  # (R,), the mask (R, A)
        learnable = buffer.valid.flatten()  # (R,)
        learnable = learnable & (learnable.cumsum(0) <= left)  # steps beyond total_timesteps do not count
        coefficients = {"clip_range": args.clip_range, "ent_coef": args.ent_coef, "vf_coef": args.vf_coef}
        update: list[Tensor] = []  # one number per STEP_METRICS for each gradient step
        for epoch in range(args.n_epochs):
            order, first_of_epoch = orders[epoch], len(update)
            if restarts or left < rows:
                order = order[learnable[order]]
            shuffled = (order, *(column[order] for column in (flat_index, flat_account, *flat)))
            batches = (column.split(args.batch_size * args.accumulation_steps) for column in shuffled)
            for batch, batch_index, batch_account, *columns in zip(*batches, strict=True):
                learnt_from = Minibatch(*columns)
                run.learns_from(batch, learnt_from)
                batch_advantage = normalise(learnt_from.advantage)
                learnt_from = learnt_from._replace(advantage=batch_advantage)
                optimizer.zero_grad(set_to_none=True)
                stats = total_loss = torch.zeros((), device=device)
                for piece, share, attempt in run.pieces(len(batch), undo=optimizer.zero_grad):
                    with attempt:  # out of memory: undo, then the same batch again in smaller pieces
                        rows_of = Minibatch(*(column[piece] for column in learnt_from))
                        observation = run.observe(batch_index[piece], batch_account[piece])
                        masks = select_masks(dropout, batch[piece] % num_envs)
                        loss, piece_stats = backward(
                            observation, masks, rows_of, share, value_loss=args.value_loss, **coefficients
                        )
                        stats = piece_stats * share + (stats if piece.start else 0)
                        total_loss = loss * share + (total_loss if piece.start else 0)
                if fast_step is not None:  # compiled: a trainer with another step than the one below leaves this out
                    norm, broken = fast_step(args.max_grad_norm)
                else:
                    grad_scaler.unscale_(optimizer)
                    norm = nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
                    # The fused optimiser skips a step that is not finite by this flag, so that the CPU need not look.
                    # Under fp16 an infinite gradient is common and the scaler's business; an infinite loss is not.
                    broken = ~torch.isfinite(total_loss if grad_scaler.is_enabled() else norm)
                    optimizer.found_inf = broken.float()  # type: ignore[attr-defined]
                    grad_scaler.step(optimizer)
                    grad_scaler.update()
                clipped = (norm > args.max_grad_norm).float()
                step_stats = torch.stack([stats[KL], norm, norm, clipped, broken.float(), total_loss])
                update.append(torch.cat([stats, step_stats]))
            if args.target_kl != "off":
                epoch_kl = torch.stack(update[first_of_epoch:])[:, KL].mean()
                if epoch_kl.item() > args.target_kl:  # one device sync per epoch
                    break

        # 6. Metrics and evidence for the diagnosis; then evaluation, interventions and checkpoints where they are due.
        steps_taken = dict(zip(STEP_METRICS, torch.stack(update).T, strict=True))
        run.record(buffer, reward_parts, next_value, advantage, returns, steps_taken, epochs=epoch + 1, dropout=dropout)


def main() -> None:
    with AgentRun(Args, load_policy, __file__) as run:
        train(run)


if __name__ == "__main__":
    main()
