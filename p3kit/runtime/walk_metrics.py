"""Metrics of one path over a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from p3kit import metrics as formulas
from p3kit.runtime.action_rule import GREEDY, SAMPLED
from p3kit.runtime.walks import HOLD, Array, Walk

LEAST_TRIPS = 20
"""Winners, and losers, below which a median holding time is chance."""


def walk_metrics(walk: Walk, bars_per_year: float) -> dict[str, float | None]:
    """The trading metrics of one path. `sharpe_ratio` is None for a path that never held a position."""
    never_traded = not walk.exposure.any() and len(walk.profit) == 0
    shares = np.bincount(walk.action, minlength=len(formulas.ACTIONS)) / len(walk.action)
    return {
        "sharpe_ratio": None if never_traded else formulas.sharpe_ratio(walk.bar_return, bars_per_year),
        "sortino_ratio": None if never_traded else formulas.sortino_ratio(walk.bar_return, bars_per_year),
        "max_drawdown": formulas.max_drawdown(walk.equity),
        "total_return": float(walk.equity[-1] - 1),
        "annual_volatility": formulas.annual_volatility(walk.bar_return, bars_per_year),
        "total_trades": len(walk.profit) + walk.is_open,
        "trades_per_bar": (len(walk.profit) + walk.is_open) / len(walk.bar),
        "win_rate": formulas.win_rate(walk.profit),
        "profit_factor": formulas.profit_factor(walk.profit),
        "exposure": float(walk.exposure.mean()),
        "turnover": float(walk.traded.mean() * bars_per_year),
        "cost_paid": float(walk.cost.sum()),
        "hold_share": float(shares[HOLD]),
        "actions_used": int((shares >= 0.01).sum()),
    }


def rule_metrics(by_rule: Mapping[str, Walk], bars_per_year: float) -> dict[str, float | None]:
    """Metrics of the paths by greedy and by sampled, of those that were played.

    `eval/sampled_lead` is the t-value of the mean difference of their returns on the same bars.
    """
    found: dict[str, float | None] = {}
    played = {rule: by_rule[rule] for rule in (GREEDY, SAMPLED) if rule in by_rule}
    for rule, walk in played.items():
        own = walk_metrics(walk, bars_per_year)
        found |= {f"eval/{rule}_{key}": own[key] for key in ("sharpe_ratio", "total_return", "hold_share")}
    if len(played) == 2:
        lead = played[SAMPLED].bar_return - played[GREEDY].bar_return
        error = float(np.std(lead)) / np.sqrt(len(lead))
        found["eval/sampled_lead"] = float(np.mean(lead)) / error if error > 0 else 0.0
    return found


def round_trips(walk: Walk) -> tuple[Array, Array]:
    """(bars held, net return) of each closed round trip of a path: a stretch of steps with a position after them, and
    the step that closed it. Net return is the change of equity over those steps. (trips,) each."""
    held = np.concatenate([[False], walk.exposure > 0])
    opened, closed = np.flatnonzero(held[1:] & ~held[:-1]), np.flatnonzero(~held[1:] & held[:-1])
    opened = opened[: len(closed)]
    return closed - opened, walk.equity[closed + 1] / walk.equity[opened] - 1


def holding_times(walks: Sequence[Walk], limit: int) -> dict[str, float]:
    """Bars that winners and losers were held; empty with fewer than 20 of either."""
    bars, gain = (np.concatenate(column) for column in zip(*map(round_trips, walks), strict=True))
    winners, losers = bars[gain > 0], bars[gain <= 0]
    if min(len(winners), len(losers)) < LEAST_TRIPS:
        return {}
    return {
        "eval/holding_winners": float(np.median(winners)),
        "eval/holding_losers": float(np.median(losers)),
        "eval/losers_held": float(np.quantile(losers, 0.9)) / limit,
    }
