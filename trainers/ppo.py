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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from p3kit.runtime import Bodies, Flat, Rollout, load_optimizer_state, open_run, optimizer_state, part, under
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
from p3kit.runtime.reinit import Layer, reinit_dormant, reinit_head

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

Keep = list[Tensor]
"""Dropout multipliers per hidden layer, (rows, width): 0 for a unit that is off, 1/(1 − dropout) for one that is on."""


class Body(nn.Module):
    """A plain multilayer perceptron."""

    def __init__(self, sizes: list[int], activation: str, head_gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.activation = torch.tanh if activation == "tanh" else torch.relu
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        for layer in self.layers:
            gain = head_gain if layer is self.layers[-1] else math.sqrt(2)
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            nn.init.zeros_(layer.bias)

    def hidden(self, x: Tensor, keep: Keep | None = None) -> list[Tensor]:
        """Activations of every hidden layer, (B, width) each."""
        activations = []
        for i, layer in enumerate(self.layers[:-1]):
            x = self.activation(layer(x))
            if keep is not None:
                x = x * keep[i]
            activations.append(x)
        return activations

    def forward(self, x: Tensor, keep: Keep | None = None) -> Tensor:
        hidden = self.hidden(x, keep)
        return self.layers[-1](hidden[-1] if hidden else x)


class ActorCritic(nn.Module):
    """Two nets that share nothing: a policy over A actions and a value."""

    def __init__(self, observation_size: int, num_actions: int, args: Args, generator: torch.Generator) -> None:
        super().__init__()
        widths = [observation_size, *args.hidden]
        self.policy = Body([*widths, num_actions], args.activation, args.init_gain, generator)
        self.value = Body([*widths, 1], args.activation, 1.0, generator)

    def forward(self, observation: Tensor, keep: Keep | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) → logits (B, A) and value (B,), both float32."""
        return self.policy(observation, keep).float(), self.value(observation, keep).squeeze(-1).float()


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (…, A) of the valid actions; masked ones get the smallest number, so their probability is 0."""
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1)


def dropout_masks(args: Args, num_envs: int, generator: torch.Generator) -> Keep | None:
    """One set of units per env, held for a whole iteration (consistent dropout, Hausknecht and Wagener 2022)."""
    if args.dropout == 0:
        return None
    draws = [torch.rand(num_envs, width, generator=generator) for width in args.hidden]
    return [(draw >= args.dropout).float() / (1 - args.dropout) for draw in draws]


# ── rollout ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Buffer(NamedTuple):
    """One rollout, compact: where to gather each observation from, never the observation itself."""

    index: Tensor  # (T, N) row of the feature table
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
    valid: Tensor  # (T, N) bool: a real transition, to be learnt from


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
)
UPDATE_METRICS = (
    *LOSS_METRICS,
    "policy/kl_max",
    "grad/grad_norm",
    "grad/grad_norm_max",
    "grad/grad_clipped_pct",
    "diag/nonfinite",
)
KL = UPDATE_METRICS.index("policy/kl_divergence")


class Minibatch(NamedTuple):
    """What the loss needs of B rows, all of shape (B,) but for the mask (B, A)."""

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
        stats = torch.stack(
            [
                policy_term,
                value_term,
                entropy.mean(),
                entropy_norm,
                (ratio - 1 - log_ratio).mean(),
                ((ratio - 1).abs() > clip_range).float().mean(),
            ]
        )
    return loss, stats


# ── training loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def set_rates(optimizer: torch.optim.Optimizer, args: Args) -> None:
    """Let the optimiser go by the knobs in force."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = args.learning_rate, args.weight_decay


def bodies(net: ActorCritic) -> Bodies:
    """The net as `p3kit.runtime.reinit` takes it: views of each layer's weight (out, in) and bias (out,)."""
    return {name: [(layer.weight, layer.bias) for layer in getattr(net, name).layers] for name in ("policy", "value")}


def moments_of(optimizer: torch.optim.Optimizer, net: ActorCritic) -> list[Bodies]:
    """Adam's two moments in the same shape; none before the first step."""
    if not optimizer.state:
        return []

    def moment(key: str, layers: Sequence[Layer]) -> list[Layer]:
        return [(optimizer.state[weight][key], optimizer.state[bias][key]) for weight, bias in layers]

    whole = bodies(net).items()
    return [{name: moment(key, layers) for name, layers in whole} for key in ("exp_avg", "exp_avg_sq")]


def reinit(net: ActorCritic, fresh: ActorCritic, optimizer: torch.optim.Optimizer, what: str, seen: Tensor) -> None:
    """Draw a part of the net anew: "policy_head" and "value_head" are the last layers, "dormant" the hidden units that
    hardly answer to the observations `seen` (B, D). `fresh` is a net as it would begin."""
    whole, new, moments = bodies(net), bodies(fresh), moments_of(optimizer, net)
    if what == "dormant":
        with torch.no_grad():
            activations = {"policy": net.policy.hidden(seen), "value": net.value.hidden(seen)}
        reinit_dormant(whole, new, moments, activations)
    else:
        reinit_head(whole, new, moments, what.removesuffix("_head"))


def main() -> None:
    with open_run(Args, __file__) as run:
        agent, device = run.agent, run.device
        args = agent.args_at(0)
        generator = agent.generator  # every random number of an iteration comes from here, drawn as whole tensors
        env = agent.make_env()
        num_envs = env.num_envs
        net = ActorCritic(env.observation_size, env.num_actions, args, agent.new_generator("net")).to(device)
        forward = run.compiled(net)
        parameters = list(net.parameters())
        optimizer = torch.optim.AdamW(
            parameters, lr=args.learning_rate, eps=1e-5, weight_decay=args.weight_decay, fused=True
        )
        grad_scaler = run.grad_scaler()
        scale_observation = agent.observation_scaler(env.observation_size)
        scale_reward = agent.reward_scaler(num_envs)

        def greedy(observation: Tensor, mask: Tensor) -> Tensor:
            with run.autocast():
                logits, _ = net(scale_observation(observation))
            return masked_log_softmax(logits, mask).argmax(-1)

        def trainer_state() -> dict[str, object]:
            return {
                "iteration": iteration,
                "minibatch": minibatch,
                **under("net", net.state_dict()),
                **under("optimizer", optimizer_state(optimizer)),
                **under("grad_scaler", grad_scaler.state_dict()),
                **under("observation", scale_observation.state_dict()),
                **under("reward", scale_reward.state_dict()),
                **under("env", env.state_dict()),
            }

        def load(state: Flat) -> None:
            net.load_state_dict(part("net", state))
            load_optimizer_state(optimizer, part("optimizer", state))
            grad_scaler.load_state_dict(part("grad_scaler", state))
            scale_observation.load_state_dict(part("observation", state))

        if run.backtest is not None:  # p3kit evaluate: the policy of a checkpoint, and nothing trained
            net.load_state_dict(part("net", run.backtest.weights))
            scale_observation.load_state_dict(part("observation", run.backtest.weights))
            agent.report_backtest(greedy)
            return

        if run.resumed is None:
            iteration, global_step, minibatch = 0, 0, args.batch_size
            step = env.reset(torch.rand(num_envs, generator=generator).to(device))
            run.save_checkpoint("init", trainer_state())
        else:
            state = run.resumed
            iteration, global_step, minibatch = state["iteration"], agent.global_step, state["minibatch"]
            load(state)
            scale_reward.load_state_dict(part("reward", state))
            step = env.load_state_dict(part("env", state))
        index, account, mask = step.index, step.account, step.mask

        while not agent.finished(global_step):
            # 1. What is in force, and every random number of this iteration.
            iteration += 1
            args = agent.args_at(global_step)
            set_rates(optimizer, args)
            left = agent.total_timesteps - global_step
            steps = min(args.n_steps, math.ceil(left / num_envs))
            rows = steps * num_envs
            noise = gumbel_noise((steps, num_envs, env.num_actions), generator).to(device)
            starts = torch.rand(steps, num_envs, generator=generator).to(device)
            orders = torch.stack([torch.randperm(rows, generator=generator) for _ in range(args.n_epochs)]).to(device)
            keep = dropout_masks(args, num_envs, generator)
            keep = keep and [mask_of_layer.to(device) for mask_of_layer in keep]

            # 2. Rollout: act, step, remember where each observation came from.
            clock = time.perf_counter()
            records = []
            with torch.no_grad(), run.autocast():
                for t in range(steps):
                    logits, value = forward(scale_observation(env.observe(index, account)), keep)
                    action, log_prob = sample_action(masked_log_softmax(logits, mask), noise[t])
                    step = env.step(action, starts[t])
                    decided = (index, account, mask, action, log_prob, value)
                    records.append((*decided, *(getattr(step, name) for name in Buffer._fields[len(decided) :])))
                    index, account, mask = step.index, step.account, step.mask
                    if t % 256 == 0:
                        run.heartbeat()
                _, last_value = forward(scale_observation(env.observe(index, account)), keep)
            env.raise_if_faulty()
            buffer = Buffer(*(torch.stack(column) for column in zip(*records, strict=True)))
            resting = ~buffer.valid
            if left < rows:  # more envs than steps left: the surplus was played but is not learnt from
                buffer.valid.view(-1)[left:] = False
            rollout_s = time.perf_counter() - clock

            # 3. Rewards: weights in force, then scaling and clipping.
            clock = time.perf_counter()
            weights = agent.reward_weights_at(global_step).to(device)
            bonus = agent.value_at("reward.action_bonus", global_step) * (buffer.action != 0)
            weighted = buffer.components.double() * weights
            done = buffer.terminated | buffer.truncated
            reward, reward_clipped, reward_scale = scale_reward(weighted.sum(-1) + bonus, done, args.gamma)

            # 4. Advantages: the value of the state that followed, before any restart.
            next_value = torch.cat([buffer.value[1:], last_value.unsqueeze(0)])
            ended = done.nonzero(as_tuple=True)
            if env.autoreset == "same_step" and len(ended[0]):
                with torch.no_grad(), run.autocast():
                    final = env.observe(buffer.final_index[ended], buffer.final_account[ended])
                    _, final_value = net(scale_observation(final), keep and [layer[ended[1]] for layer in keep])
                next_value[ended] = final_value
            advantage = compute_gae(
                reward, buffer.value, next_value, buffer.terminated, done, args.gamma, args.gae_lambda
            )
            returns = advantage + buffer.value

            # 5. Update: epochs over shuffled minibatches, until the policy has moved far enough.
            flat_index, flat_account = buffer.index.flatten(), buffer.account.flatten(0, 1)
            flat = Minibatch(
                buffer.action.flatten(),
                buffer.log_prob.flatten(),
                advantage.flatten(),
                returns.flatten(),
                buffer.value.flatten(),
                buffer.mask.flatten(0, 1),
            )
            env_of_row = torch.arange(rows, device=device) % num_envs
            before = nn.utils.parameters_to_vector(parameters).detach()
            update: list[Tensor] = []
            for epoch in range(args.n_epochs):
                order = orders[epoch]
                if env.autoreset == "next_step" or left < rows:
                    order = order[buffer.valid.flatten()[order]]
                first_of_epoch = len(update)
                for batch in order.split(args.batch_size * args.accumulation_steps):
                    batch_advantage = normalise(flat.advantage[batch])
                    fits = False
                    while not fits:  # into memory: else the same batch again, in smaller pieces
                        loss_metrics = torch.zeros(len(LOSS_METRICS), device=device)
                        total_loss = torch.zeros((), device=device)
                        batch_ratio_error = torch.zeros((), device=device)
                        optimizer.zero_grad(set_to_none=True)
                        pieces = zip(batch.split(minibatch), batch_advantage.split(minibatch), strict=True)
                        try:
                            for rows_of_piece, piece_advantage in pieces:
                                piece = Minibatch(*(column[rows_of_piece] for column in flat))
                                piece = piece._replace(advantage=piece_advantage)
                                observation = env.observe(flat_index[rows_of_piece], flat_account[rows_of_piece])
                                piece_keep = keep and [layer[env_of_row[rows_of_piece]] for layer in keep]
                                with run.autocast():
                                    logits, value = forward(scale_observation(observation), piece_keep)
                                loss, stats = ppo_loss(
                                    logits,
                                    value,
                                    piece,
                                    clip_range=args.clip_range,
                                    ent_coef=args.ent_coef,
                                    vf_coef=args.vf_coef,
                                    value_loss=args.value_loss,
                                )
                                share = len(rows_of_piece) / len(batch)
                                grad_scaler.scale(loss * share).backward()
                                loss_metrics += stats * share
                                total_loss += loss.detach() * share
                                if not update:
                                    with torch.no_grad():
                                        now = masked_log_softmax(logits, piece.mask)
                                        now = now.gather(-1, piece.action.unsqueeze(-1)).squeeze(-1)
                                        batch_ratio_error += ((now - piece.log_prob).exp() - 1).abs().mean() * share
                            fits = True
                        except RuntimeError as error:
                            minibatch = run.smaller_minibatch(minibatch, error)
                    if not update:
                        ratio_error = batch_ratio_error
                    grad_scaler.unscale_(optimizer)
                    norm = nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
                    # A step that is not finite is not taken: the fused optimiser skips it by this flag, without a look
                    # from the CPU. Under fp16 an infinite gradient is the scaler's daily business, an infinite loss is
                    # not.
                    broken = ~torch.isfinite(total_loss if grad_scaler.is_enabled() else norm)
                    optimizer.found_inf = broken.float()
                    grad_scaler.step(optimizer)
                    grad_scaler.update()
                    was_clipped = (norm > args.max_grad_norm).float()
                    rest = torch.stack([loss_metrics[KL], norm, norm, was_clipped, broken.float()])
                    update.append(torch.cat([loss_metrics, rest]))
                run.heartbeat()
                if args.target_kl != "off":
                    epoch_kl = torch.stack(update[first_of_epoch:])[:, KL].mean()
                    if epoch_kl.item() > args.target_kl:  # one look per epoch
                        break

            # 6. Evidence for the diagnosis, on a sample of the rows.
            with torch.no_grad():
                sample = sample_rows(rows, device)
                raw_observation = env.observe(flat_index[sample], flat_account[sample])
                observation = scale_observation(raw_observation)
                logits = net.policy(observation, keep and [layer[env_of_row[sample]] for layer in keep])
                log_prob_after = masked_log_softmax(logits, flat.mask[sample])
                log_prob_after = log_prob_after.gather(-1, flat.action[sample].unsqueeze(-1)).squeeze(-1)
                hidden = net.policy.hidden(observation)
                after = nn.utils.parameters_to_vector(parameters)
                obs_max_abs, obs_clipped_share = env.observation_stats(flat_index[sample], flat_account[sample])
                evidence = {
                    "value/explained_variance": explained_variance(buffer.value, returns),
                    "value/value_mean": buffer.value.mean(),
                    "value/return_mean": returns.mean(),
                    "value/return_std": returns.std(),
                    "diag/ev_reference": ridge_explained_variance(observation, flat.returns[sample]),
                    "diag/update_ratio": update_ratio(before, after, len(update)),
                    "diag/advantage_std": advantage.std(),
                    "diag/gae_error": gae_error(
                        reward,
                        buffer.value,
                        next_value,
                        buffer.terminated,
                        done,
                        returns,
                        args.gamma,
                        args.gae_lambda,
                    ),
                    "diag/advantage_signal": correlation(
                        flat.advantage[sample], log_prob_after - flat.log_prob[sample]
                    ),
                    "diag/obs_max_abs": obs_max_abs,
                    "diag/obs_clipped_share": obs_clipped_share,
                    "diag/mask_violations": (~flat.mask.gather(-1, flat.action.unsqueeze(-1))).sum(),
                    "policy/ratio_error": ratio_error,
                    "reward/scale": reward_scale,
                }
                if hidden:  # hidden = [] is a linear policy
                    units = [*hidden, *net.value.hidden(observation)]
                    evidence["diag/dormant_share"] = dormant_share(units)
                    evidence["diag/feature_rank"] = feature_rank(hidden[-1])
                    if args.activation == "relu":
                        evidence["diag/dead_share"] = dead_share(units)
                if env.autoreset == "same_step":
                    evidence["diag/wrong_bootstraps"] = wrong_bootstraps(buffer.value, next_value, buffer.truncated)
                if agent.newest_return_column is not None and steps > 1:  # what a step earned, what is seen then
                    earlier = sample_rows(rows - num_envs, device)
                    shown = env.observe(flat_index[earlier + num_envs], flat_account[earlier + num_envs])
                    exposure = flat_account[earlier, EXPOSURE]
                    evidence["diag/obs_agreement"] = obs_agreement(
                        shown[:, agent.newest_return_column],
                        buffer.components[..., 0].flatten()[earlier],
                        exposure,
                        (flat.action[earlier] == 0) & ~done.flatten()[earlier],
                    )
                scale_observation.update(raw_observation)
            update_s = time.perf_counter() - clock

            # 7. The record of the iteration: one transfer from the device.
            values = torch.stack([value.double() for value in evidence.values()]).cpu()
            updates = torch.stack(update).cpu().numpy()
            start_step, global_step = global_step, global_step + min(rows, left)
            rollout = Rollout(
                reward=reward.cpu().numpy(),
                clipped=reward_clipped.cpu().numpy(),
                weighted=weighted.cpu().numpy(),
                raw=buffer.components.cpu().numpy(),
                bonus=bonus.cpu().numpy(),
                action=buffer.action.cpu().numpy(),
                valid_actions=buffer.mask.sum(-1).cpu().numpy(),
                done=done.cpu().numpy(),
                equity=(buffer.equity / agent.spec.env.initial_capital).cpu().numpy(),
                closed=(~buffer.closed_profit.isnan()).cpu().numpy(),
                resting=resting.cpu().numpy(),
            )
            agent.record(
                iteration,
                start_step,
                global_step,
                rollout,
                {name: updates[:, i] for i, name in enumerate(UPDATE_METRICS)},
                dict(zip(evidence, values.tolist(), strict=True))
                | {
                    "policy/epochs_done": epoch + 1,
                    "reward/scale_steps": scale_reward.steps,
                    "perf/rollout_s": rollout_s,
                    "perf/update_s": update_s,
                }
                | ({"diag/amp_scale": grad_scaler.get_scale()} if grad_scaler.is_enabled() else {}),
            )

            # 8. Evaluation, what an intervention takes back or draws anew, checkpoints.
            if agent.due(agent.spec.evaluation.every, start_step):
                policy_state = under("net", net.state_dict()) | under("observation", scale_observation.state_dict())
                agent.evaluate(iteration, greedy, policy_state)
                gradient = nn.utils.parameters_to_vector(p.grad for p in parameters if p.grad is not None)
                agent.write_histograms(env, rollout, flat_account, flat.value, gradient)
            for _, earlier in run.rolled_back([agent]):
                load(earlier)
                scale_reward.go_back(part("reward", earlier))
            for _, what, draws in run.reinitialised([agent]):
                fresh = ActorCritic(env.observation_size, env.num_actions, args, draws).to(device)
                reinit(net, fresh, optimizer, what, scale_observation(raw_observation))
            if agent.due(agent.spec.checkpoints.every, start_step) or run.stop_requested:
                run.save_checkpoint("last", trainer_state())

        agent.conclude()


if __name__ == "__main__":
    main()
