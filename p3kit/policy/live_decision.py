"""`Decision`: the action of a policy at the close of one bar, with all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from p3kit.env.account import Account as AccountTensors
from p3kit.env.rules import ROUNDING, Rules
from p3kit.market.novelty import Novelty
from p3kit.metrics import ACTIONS

if TYPE_CHECKING:
    import pandas as pd

HOLD, SELL_HALF, SELL_ALL, ADD = (ACTIONS.index(name) for name in ("HOLD", "SELL_HALF", "SELL_ALL", "ADD"))
BUYS = tuple(index for index, name in enumerate(ACTIONS) if name.startswith("BUY_"))


Fill = Literal["next open", "next close", "this close"]


@dataclass(frozen=True)
class Order:
    """The order behind an action. Nothing here is sent to a broker."""

    side: Literal["buy", "sell"]
    quantity: float
    """Shares. Exact for a sale; a purchase spends `spend`, so its quantity depends on the fill price."""
    at: Fill
    """Fill: `env.fill`, and the close where the bars have no open."""
    value: float
    """Quantity × the last close, without costs."""
    costs: float
    """Commission and slippage at the last close."""
    spend: float | None
    """Money that a purchase spends, costs included. None for a sale."""


@dataclass(frozen=True)
class Decision:
    """The decision of a policy at the close of a bar."""

    time: pd.Timestamp
    """The last bar."""
    action: str
    probabilities: Mapping[str, float]
    """Probability of each action; 0 where it is masked."""
    value: float
    """Expected discounted sum of the scaled rewards of training."""
    valid: Mapping[str, str | None]
    """Action → the reason that it is masked, None where it is valid."""
    order: Order | None
    """None for HOLD."""
    novelty: Novelty
    """The inputs beside the training bars."""
    weights_age_bars: int
    """Bars since the last bar of the training split; estimated where `bars` begin later."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "time": self.time.isoformat(),
            "action": self.action,
            "probabilities": dict(self.probabilities),
            "value": self.value,
            "valid": dict(self.valid),
            "order": None if self.order is None else asdict(self.order),
            "novelty": self.novelty.to_dict(),
            "weights_age_bars": self.weights_age_bars,
        }


def is_ruined(equity: float, start_capital: float, rules: Rules) -> bool:
    """True below `env.ruin` × the starting capital, where nothing is bought any more and a position is sold."""
    return equity < rules.ruin * start_capital * (1.0 - ROUNDING)


def reasons(account: AccountTensors, ruined: bool, rules: Rules) -> dict[str, str | None]:
    """Action → the reason that it is masked for one account, None where it is valid."""
    is_long, add_spend = bool(account.shares[0] > 0), float(account.add_spend[0])
    found: dict[str, str | None] = dict.fromkeys(ACTIONS)
    for index in BUYS:
        found[ACTIONS[index]] = "a position is open" if is_long else _ruin(rules) if ruined else None
    for index in (SELL_HALF, SELL_ALL):
        found[ACTIONS[index]] = None if is_long else "there is no position"
    found["ADD"] = None if add_spend > 0 else _add_reason(account, is_long, rules)
    if ruined and is_long:
        found |= dict.fromkeys(("HOLD", "SELL_HALF", "ADD"), _ruin(rules))
    return found


def _ruin(rules: Rules) -> str:
    return f"equity is below env.ruin = {rules.ruin:g} of the starting capital"


def _add_reason(account: AccountTensors, is_long: bool, rules: Rules) -> str:
    if not is_long:
        return "there is no position"
    if float(account.adds[0]) >= rules.max_adds:
        return f"env.max_adds = {rules.max_adds} is used up"
    if float(account.market_value[0]) < float(account.paid[0]) * (1.0 - ROUNDING):
        return "the position is under water"
    return f"cash or env.max_position = {rules.max_position:g} leave less than half of the smallest size"


def order_of(action: int, account: AccountTensors, close: float, rules: Rules, at: Fill) -> Order | None:
    """The order behind an action at the close of a bar."""
    keep = (1.0 - rules.slippage) * (1.0 - rules.commission)
    if action == HOLD:
        return None
    if action in (SELL_HALF, SELL_ALL):
        quantity = float(account.shares[0]) * (0.5 if action == SELL_HALF else 1.0)
        value = quantity * close
        return Order("sell", quantity, at, value, value * (1.0 - keep), None)
    size = dict(zip(BUYS, rules.sizes, strict=True)).get(action)
    spend = float(account.add_spend[0]) if size is None else size * float(account.equity[0])
    value = spend / ((1.0 + rules.slippage) * (1.0 + rules.commission))
    return Order("buy", value / close, at, value, spend - value, spend)
