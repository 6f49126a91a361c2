"""Settings as an update realised them, from its own numbers: a setting without an effect shows as a difference.

Each function derives the value of a setting from a relation that holds exactly in PPO. It returns the spec's own value
if the relation holds to rounding, else the value that explains the record, and NaN if the record is not enough.

Notation for shapes: T steps, N envs, G gradient steps, E epochs, B sampled rows. Everything returns 0-d tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from p3kit.metrics import COMPONENTS
from p3kit.runtime.field_changes import MISMATCH
from p3kit.runtime.iteration import Iteration, Sample

REALISED = "realised/"
LARGEST_STEP = 7.3
"""Largest |m|/√v of Adam for any gradients: (1 − β₁)/√((1 − β₂)(1 − β₁²/β₂)) = 7.27 by Cauchy-Schwarz. Gradients that
grow by β₂/β₁ a step reach it; (1 − β₁)/√(1 − β₂) of Kingma and Ba (2015, section 2.1) is that of a single gradient."""
_ROUNDING = 1e-4
_TIMES = 5.0
"""Factor between two fractions of clipped ratios that no drift within one epoch explains."""
_MANY = 0.05
_FAR = 1.6
_LEAST_EPOCHS, _LEAST_STEPS = 3, 12


def known(metrics: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Metrics without the settings that an update could not show, and without the fields that do not depart."""
    return {
        name: value
        for name, value in metrics
        if not (name.startswith(REALISED) and math.isnan(value)) and not (name.startswith(MISMATCH) and value == 0)
    }


def realised_settings(
    iteration: Iteration, sample: Sample, args: Any, update: Mapping[str, Tensor], epochs: int, steps_left: int
) -> dict[str, Tensor]:
    """`realised/` and the path of each setting that an update shows. `update` holds (G,) per metric."""
    found = {
        **loss_weights(update, args.vf_coef, args.ent_coef),
        **discounts(iteration, args.gamma, args.gae_lambda),
        **reward_weights(iteration),
        **epochs_run(update, epochs, args.n_epochs, args.target_kl),
        "ppo.clip_range": clip_range(iteration, sample, update, epochs, args.clip_range),
    }
    found |= counts(iteration, args, len(next(iter(update.values()))), epochs, steps_left)
    return {REALISED + path: torch.as_tensor(value, dtype=torch.float64) for path, value in found.items()}


def loss_weights(update: Mapping[str, Tensor], vf_coef: float, ent_coef: float) -> dict[str, Tensor]:
    """vf_coef and ent_coef by least squares: loss − policy term = vf_coef · value term − ent_coef · entropy, in each of
    G steps."""
    names = ("policy/total_loss", "policy/policy_loss", "value/value_loss", "policy/entropy")
    if any(name not in update for name in names):
        return {}
    total, policy, value, entropy = (update[name].double() for name in names)
    rest, design = total - policy, torch.stack([value, -entropy], 1)
    in_spec = torch.tensor([vf_coef, ent_coef], dtype=torch.float64, device=total.device)
    size = policy.abs() + vf_coef * value.abs() + ent_coef * entropy.abs()
    holds = (rest - design @ in_spec).abs().max() <= _ROUNDING * size.max()
    fitted = _least_squares(design, rest)
    fits = (rest - design @ fitted).abs().max() <= _ROUNDING * size.max()  # else the loss has another term
    vf, ent = torch.where(holds, in_spec, torch.where(fits, fitted, torch.nan)).unbind()
    return {"ppo.vf_coef": vf, "ppo.ent_coef": ent}


def discounts(iteration: Iteration, gamma: float | Tensor, gae_lambda: float | Tensor) -> dict[str, Tensor]:
    """gamma and gae_lambda by least squares: R − r = γ(1 − λ) V′ + γλ R′ on steps that another one follows. A rollout
    of one step has none."""
    if len(iteration.returns) < 2:
        return {}
    returns, value = iteration.returns.double(), iteration.next_value.double()
    inside = (~iteration.done[:-1]).flatten()
    target = (returns - iteration.rewards.scaled.double())[:-1].flatten() * inside
    design = torch.stack([value[:-1].flatten() * inside, returns[1:].flatten() * inside], 1)
    asked = torch.stack([torch.as_tensor(x, dtype=torch.float64, device=value.device) for x in (gamma, gae_lambda)])
    weights = asked[0] * torch.stack([1 - asked[1], asked[1]])
    spread = _ROUNDING * returns.std().clamp_min(1e-8) + 1e-6 * returns.abs().max()
    holds = (target - design @ weights).abs().max() <= 10 * spread
    fitted = _least_squares(design, target)
    fits = (target - design @ fitted).abs().max() <= 10 * spread  # else it is no matter of a discount
    total = fitted.sum()
    found = torch.where(fits, torch.stack([total, fitted[1] / total]), torch.nan)
    discount, mix = torch.where(holds, asked, found).unbind()
    return {"ppo.gamma": discount, "ppo.gae_lambda": mix}


def reward_weights(iteration: Iteration) -> dict[str, Tensor]:
    """The weight of each component: Σ weighted · raw / Σ raw²; NaN for a component that never paid."""
    raw, weighted = iteration.buffer.components.double(), iteration.rewards.weighted.double()
    square = raw.square().sum((0, 1))
    weights = torch.where(square > 0, (weighted * raw).sum((0, 1)) / square, torch.nan)
    return {f"reward.weights.{name}": weights[i] for i, name in enumerate(COMPONENTS)}


def epochs_run(update: Mapping[str, Tensor], epochs: int, n_epochs: int, target_kl: float | str) -> dict[str, Any]:
    """Epochs, unless target_kl ended them; and the largest mean KL of an epoch that another one followed, which
    target_kl bounds."""
    kl = update["policy/kl_divergence"].double()
    if epochs < 1 or len(kl) % epochs:
        return {}
    mean = kl.view(epochs, -1).mean(1)
    limit = math.inf if target_kl == "off" else float(target_kl)
    ended = (mean[-1] > limit * (1 - _ROUNDING)) & (epochs <= n_epochs)
    followed = mean[:-1].max() if epochs > 1 else torch.full((), torch.nan)
    return {"ppo.n_epochs": torch.where(ended, torch.nan, float(epochs)), "ppo.target_kl": followed}


def clip_range(
    iteration: Iteration, sample: Sample, update: Mapping[str, Tensor], epochs: int, clip: float
) -> Tensor | float:
    """The distance from 1 that as many ratios exceed after the update as its last epoch counted as clipped. The two
    are one epoch apart: only a large difference counts, and only in an update of many steps and epochs."""
    counted = update["policy/clip_fraction"].double()
    if epochs < _LEAST_EPOCHS or len(counted) < _LEAST_STEPS:
        return clip
    last = counted[-max(len(counted) // epochs, 1) :].mean()
    old = iteration.buffer.log_prob.flatten()[sample.rows]
    away = ((sample.log_prob - old).double().exp() - 1).abs()
    seen = (away > clip).double().mean()
    differ = ((seen > _MANY) & (last * _TIMES < seen)) | ((last > _MANY) & (seen * _TIMES < last))
    other = torch.quantile(away.nan_to_num(0.0), (1 - last).clamp(0, 1))
    far = (other > _FAR * clip) | (other < clip / _FAR)
    return torch.where(differ & far, other, torch.full_like(other, clip))


def counts(iteration: Iteration, args: Any, gradient_steps: int, epochs: int, steps_left: int) -> dict[str, float]:
    """Envs, steps of a rollout, and rows of a minibatch; nothing of a rollout that the last steps cut short."""
    steps, num_envs = iteration.buffer.action.shape
    found = {"env.num_envs": float(num_envs)}
    if num_envs * args.n_steps > steps_left or not iteration.same_step:
        return found
    batch, per_epoch = args.batch_size * args.accumulation_steps, gradient_steps / max(epochs, 1)
    matches = per_epoch == math.ceil(iteration.rows / batch)
    size = args.batch_size if matches else iteration.rows / (per_epoch * args.accumulation_steps)
    return found | {"ppo.n_steps": float(steps), "ppo.batch_size": float(size)}


def optimiser_settings(
    args: Any,
    groups: Sequence[Mapping[str, Any]],
    moved: Tensor,
    gradient_steps: int,
    norm: Tensor,
    gradients: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Settings of the optimiser's step. `moved` is the largest change of a weight in the update, `norm` that of the
    last gradient before clipping, `gradients` the last ones after it."""
    found = {}
    for path, key in (("learning_rate", "lr"), ("weight_decay", "weight_decay")):
        if values := [float(group[key]) for group in groups if key in group]:
            asked = getattr(args, path)
            found[f"ppo.{path}"] = torch.tensor(max(values, key=lambda value: abs(value - asked)))
    found["ppo.learning_rate"] = fastest(found.get("ppo.learning_rate"), args, moved, gradient_steps)
    if gradients:
        after = torch.stack([gradient.double().norm() for gradient in gradients]).norm()
        found["ppo.max_grad_norm"] = gradient_limit(norm.double(), after, args.max_grad_norm)
    return {REALISED + path: value.double() for path, value in found.items()}


def fastest(rate: Tensor | None, args: Any, moved: Tensor, gradient_steps: int) -> Tensor:
    """The learning rate of the optimiser, or the least one that explains the largest move of a weight in these
    steps."""
    asked = torch.full_like(moved.double(), args.learning_rate)
    known = asked if rate is None else rate.double().to(asked.device)
    least = moved.double() / (LARGEST_STEP * max(gradient_steps, 1))
    grown = least > 1.1 * torch.maximum(asked, known) * (1 + args.weight_decay * gradient_steps)
    return torch.where(grown & moved.isfinite(), least, known)


def gradient_limit(norm: Tensor, after: Tensor, limit: float) -> Tensor:
    """max_grad_norm: the norm after clipping where clipping changed it or should have; NaN where it had no occasion."""
    changed = (after - norm).abs() > 1e-3 * norm
    return torch.where((changed | (norm > limit)) & norm.isfinite() & (norm > 0), after, torch.nan)


def _least_squares(design: Tensor, target: Tensor) -> Tensor:
    """The two coefficients that explain target (n,) by design (n, 2); NaN if the columns cannot be separated."""
    gram, moment = design.T @ design, design.T @ target
    determinant = gram[0, 0] * gram[1, 1] - gram[0, 1] * gram[1, 0]
    inverse = torch.stack([gram[1, 1], -gram[0, 1], -gram[1, 0], gram[0, 0]]).view(2, 2)
    apart = determinant > 1e-10 * gram[0, 0] * gram[1, 1]
    solved: Tensor = torch.where(apart, inverse @ moment / determinant, torch.nan)
    return solved
