"""Episodes bar by bar: what the policy saw it could do, what it did, and what each component of the reward paid for it.

An episode is one window of a split, as in training: the policy without exploration, flat at the start, at the
fees and under the weights that the spec states. Rewards are weighted and before `reward.scaling`, so that they can be
compared between checkpoints. Plain dicts, ready for JSON.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.runtime.evaluation import Evaluator, Policy
from p3kit.runtime.reward_shape import reward_to_go
from p3kit.runtime.walks import Array, Split, play_spans
from p3kit.spec import Spec

_COLUMNS = ("components", "mask", "exposure", "equity", "cost_paid", "traded_value", "closed_profit")


def replay_episodes(evaluator: Evaluator, policy: Policy, split: Split, episodes: int, gamma: float) -> list[Any]:
    """`episodes` windows of a split, from the one with the largest reward to the one with the smallest, evenly between
    where there are more than two. Fewer where the split has fewer."""

    spans = evaluator.windows(split)
    table = play_spans([evaluator], evaluator.decide(split, policy), split, spans, _COLUMNS, continuous=False)
    weights = np.array([float(getattr(evaluator.spec.reward.weights, name)) for name in COMPONENTS])
    bonus = evaluator.spec.reward.action_bonus * (table["action"] != 0)  # (bars, windows)
    reward = (table["components"] * weights).sum(-1) + bonus
    total = np.where(table["alive"], reward, 0.0).sum(0)  # (windows,)
    ranked = np.argsort(-total, kind="stable")
    chosen = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(episodes, len(ranked))).round().astype(int))]
    return [
        _episode(evaluator, table, int(row), spans[int(row)], reward, bonus, gamma)
        | {"split": split, "rank": 1 + int((total > total[row]).sum()), "of": len(spans)}
        for row in chosen
    ]


def _episode(
    evaluator: Evaluator,
    table: dict[str, Array],
    row: int,
    span: tuple[int, int],
    reward: Array,
    bonus: Array,
    gamma: float,
) -> dict[str, Any]:
    """One window as columns over its bars. Prices are those of the bar that each step arrived at."""
    spec, bars = evaluator.spec, evaluator.bars
    played = table["alive"][:, row]
    column = {name: values[played, row] for name, values in table.items()}
    decided = column["bar"]
    own = reward[played, row]
    weights = {name: float(getattr(spec.reward.weights, name)) for name in COMPONENTS}
    closed = column["closed_profit"]
    return {
        "symbol": evaluator.symbol,
        "first_bar": int(span[0]),
        "gamma": gamma,
        "weights": weights,
        "formulas": spec.reward.formulas,
        "start_price": float(bars.close[span[0]]),
        "bars": {
            "timestamp": [str(stamp)[:19] for stamp in bars.timestamps[decided + 1]],
            "price": bars.close[decided + 1].tolist(),
            "action": [ACTIONS[number] for number in column["action"]],
            "allowed": [[name for name, open_ in zip(ACTIONS, mask, strict=True) if open_] for mask in column["mask"]],
            "exposure": column["exposure"].tolist(),
            "equity": (column["equity"] / spec.env.initial_capital).tolist(),
            "cost": (column["cost_paid"] / spec.env.initial_capital).tolist(),
            "traded": (column["traded_value"] / spec.env.initial_capital).tolist(),
            "closed_profit": [None if np.isnan(p) else float(p / spec.env.initial_capital) for p in closed],
            "reward": own.tolist(),
            "reward_to_go": reward_to_go(own, gamma).tolist(),
            "bonus": bonus[played, row].tolist(),
            "components": {name: column["components"][:, i].tolist() for i, name in enumerate(COMPONENTS)},
            "weighted": {
                name: (column["components"][:, i] * weights[name]).tolist() for i, name in enumerate(COMPONENTS)
            },
        },
        "totals": _totals(column, own, weights, spec),
    }


def _totals(column: dict[str, Array], reward: Array, weights: dict[str, float], spec: Spec) -> dict[str, Any]:
    counts = np.bincount(column["action"], minlength=len(ACTIONS))
    return {
        "reward": float(reward.sum()),
        "weighted": {
            name: float(column["components"][:, i].sum() * weights[name]) for i, name in enumerate(COMPONENTS)
        },
        "return": float(column["equity"][-1] / spec.env.initial_capital - 1),
        "cost": float(column["cost_paid"].sum() / spec.env.initial_capital),
        "round_trips": int((~np.isnan(column["closed_profit"])).sum()),
        "actions": {name: int(count) for name, count in zip(ACTIONS, counts, strict=True) if count},
    }
