"""Statistics of a net and an update for the diagnosis, as small tensor functions on a sample of the batch.

Notation for shapes: B sampled rows, D observation values, H hidden units. Everything returns 0-d tensors: the trainer
moves them from the device once per iteration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.metrics import NETS

SAMPLE_ROWS = 2_048
EXPOSURE = ACCOUNT_FIELDS.index("exposure")
"""Column of an account that holds market value / equity."""
DORMANT = 0.025
"""Threshold τ of a dormant unit (Sokar et al. 2023, definition 3.1)."""
_RANK_ENERGY = 0.99


def sample_rows(rows: int, device: torch.device) -> Tensor:
    """At most 2,048 row numbers, evenly spread over a batch of `rows`, in order. No random numbers are drawn."""
    return torch.linspace(0, rows - 1, min(rows, SAMPLE_ROWS), device=device, dtype=torch.float64).long()


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 − Var(target − value)/Var(target) over all elements; NaN where the target is constant or a single number."""
    target = target.double()
    if target.numel() < 2:
        return torch.full_like(target.sum(), torch.nan)
    variance = target.var()
    share: Tensor = torch.where(variance > 0, 1 - (target - value.double()).var() / variance, torch.nan)
    return share


def ridge_explained_variance(observation: Tensor, target: Tensor) -> Tensor:
    """Explained variance of a linear forecast: the reference beside the value function's explained variance.

    A ridge regression is fitted on the earlier half of the rows and judged on the later half, so that it forecasts like
    the value function. observation (B, D) and target (B,) are in the order of time. The penalty is the number of fitted
    rows, which keeps the condition number below D + 1, so single precision is enough. NaN if a number is not finite, or
    with fewer than four rows.
    """
    if len(target) < 4:
        return torch.full((), torch.nan, dtype=torch.float64, device=target.device)
    sound = observation.isfinite().all() & target.isfinite().all()
    half = observation.shape[0] // 2
    target = target.nan_to_num(0.0, 0.0, 0.0)
    mean, std = observation[:half].mean(0), observation[:half].std(0).clamp_min(1e-8)
    x = ((observation - mean) / std).clamp(-10, 10).nan_to_num(0.0)
    fitted, level = x[:half], target[:half].mean()
    gram = fitted.T @ fitted
    gram.diagonal().add_(half)
    factor, _ = torch.linalg.cholesky_ex(gram)  # positive by its penalty: no look at the device whether it is
    weights = torch.cholesky_solve((fitted.T @ (target[:half] - level)).unsqueeze(1), factor)
    forecast = (x[half:] @ weights).squeeze(1) + level
    share: Tensor = torch.where(sound, explained_variance(forecast, target[half:]), torch.nan)
    return share


def dormant_share(activations: Iterable[Tensor]) -> Tensor:
    """Share of hidden units with a normalised mean |activation| of at most τ. `activations`: one (B, H) per layer."""
    return torch.cat([dormant_units(activation) for activation in activations]).double().mean()


def dormant_units(activation: Tensor) -> Tensor:
    """Mask (H,) of the dormant units in a layer's activations (B, H)."""
    score = activation.abs().mean(0)
    dormant: Tensor = score <= DORMANT * score.mean()
    return dormant


def dead_share(activations: Iterable[Tensor]) -> Tensor:
    """Share of hidden units that are above 0 on no row: ReLU units that no gradient reaches. One (B, H) per layer."""
    return torch.cat([(activation <= 0).all(0) for activation in activations]).double().mean()


def feature_rank(activation: Tensor) -> Tensor:
    """Singular values that hold 99 % of the energy of the last hidden layer (B, H) (Moalla et al. 2024). NaN where a
    number is not finite: such a run must reach the record of this fault, and a decomposition of NaN raises.

    Their squares are the eigenvalues of AᵀA (H, H), which is small.
    """
    units = activation.double().nan_to_num(0.0, 0.0, 0.0)
    energy = torch.linalg.eigvalsh(units.T @ units).flip(0).cumsum(0)
    rank = (energy < _RANK_ENERGY * energy[-1]).sum() + 1
    found: Tensor = torch.where(activation.isfinite().all(), rank.double(), torch.nan)
    return found


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two tensors of one shape; NaN where one is constant."""
    a, b = a.double().flatten(), b.double().flatten()
    a, b = a - a.mean(), b - b.mean()
    ratio: Tensor = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    return ratio


def update_ratio(before: Tensor, after: Tensor, gradient_steps: int) -> Tensor:
    """‖ΔW‖/‖W‖/√(gradient steps), from flat parameter vectors."""
    moved: Tensor = (after - before).norm() / (before.norm() * max(gradient_steps, 1) ** 0.5)
    return moved


def movement(before: Mapping[str, Tensor], after: Mapping[str, Tensor], gradient_steps: int) -> dict[str, Tensor]:
    """Per net, by the first part of a weight's name: its update ratio, its norm, and the fraction of its tensors that
    stood still."""
    found = {}
    for net in NETS:
        pairs = [(before[name].flatten(), after[name].flatten()) for name in after if name.split(".")[0] == net]
        if pairs:
            old, new = (torch.cat(side) for side in zip(*pairs, strict=True))
            found[f"diag/update_ratio.{net}"] = update_ratio(old, new, gradient_steps)
            found[f"diag/weight_norm.{net}"] = new.norm()
            found[f"diag/still_share.{net}"] = torch.stack([(a == b).all() for a, b in pairs]).double().mean()
    return found
