"""README.md of an exported policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p3kit import escape

_TEMPLATE = """# {name}

A trading policy for {symbol}, trained with PPO by p3kit{synthetic}. It reads past bars and an account, and returns
one of {count} actions. {use}

| file | content |
|---|---|
| `card.json` | features with formulas, normaliser, actions, mask, costs, spec, validation figures, limits |
| `network.onnx` | the network, opset {opset}; in `observation` ({size}) and `mask` ({count}); out `logits`, `value` |
| `weights.safetensors` | the weights by the names of the trainer |
| `policy.py` | a reader in plain numpy: features, account and decision |

## Use

```sh
pip install numpy onnxruntime
python policy.py bars.csv
python policy.py bars.csv account.json
python policy.py bars.csv --from {first} --to {last}
```

`bars.csv` has the columns time, {columns}: at least {needed} bars, oldest first. `account.json` is
`{{"cash": 100000, "shares": 0}}`; with shares, also `entry_price`, `bars_held` and `adds`. The last command steps one
account through the days.

## Validation

{validation}

## Limits

{limits}
"""

_FIGURES = (
    ("Sharpe ratio", "eval/sharpe_ratio", "sharpe_interval"),
    ("Sharpe ratio over buy-and-hold", "eval/sharpe_excess", "excess_interval"),
    ("Total return", "eval/total_return", None),
    ("Maximum drawdown", "eval/max_drawdown", None),
    ("Trades", "eval/total_trades", None),
)


def policy_readme(card: Mapping[str, Any]) -> str:
    """The text of the README, from the card."""
    observation, features, days = card["observation"], card["features"], _days(card)
    columns = [*features["price_columns"], "close", *features["own_columns"]]
    return _TEMPLATE.format(
        name=escape.markdown(card["name"]),
        symbol=escape.markdown(card["symbol"]),
        synthetic=" on SYNTHETIC bars, which are no evidence about a real market" if card["synthetic"] else "",
        use=card["intended_use"],
        opset=card["network"]["opset"],
        size=observation["size"],
        count=len(card["actions"]),
        columns=", ".join(map(escape.markdown, dict.fromkeys(columns))),
        needed=observation["window"] + features["look_back"],
        first=days[0],
        last=days[1],
        validation=_validation(card),
        limits="\n".join(f"- {line}" for line in card["limits"]),
    )


def _days(card: Mapping[str, Any]) -> tuple[str, str]:
    """First and last day of the validation split."""
    first, last = (card["data"].get("split_days") or {}).get("validation") or ("2024-01-02", "2024-12-31")
    return first[:10], last[:10]


def _validation(card: Mapping[str, Any]) -> str:
    evaluation = card["validation"]["evaluation"]
    if evaluation is None:
        return "These weights were not evaluated."
    lines = ["| figure | value | 95 % interval, not corrected for the choice of these weights |", "|---|---|---|"]
    for label, metric, interval in _FIGURES:
        value, bounds = evaluation["metrics"].get(metric), evaluation.get(interval or "")
        shown = "none" if value is None else f"{value:.4g}"
        lines.append(f"| {label} | {shown} | {f'{bounds[0]:.3g} to {bounds[1]:.3g}' if bounds else ''} |")
    verdict = card["validation"]["verdict"]
    if verdict is not None:
        label = verdict.get("over_buy_and_hold")
        lines += ["", f"Verdict: {verdict['grade']}. An edge over buy-and-hold: {label}."]
    return "\n".join(lines)
