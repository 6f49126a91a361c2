"""`Account`: cash and position of a live account as a user can state them, and as the environment computes with them.

The environment's continuous account (`p3kit.env`) begins an episode where the open trade began. So the open trade is
all that a decision needs. Fields that are None are derived. The derived value is exact for a trade that was opened by
one order and of which nothing was sold; it is the nearest guess for others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from p3kit.env.account import Account as AccountTensors
from p3kit.env.account import fresh_account, settle_account
from p3kit.env.rules import Rules
from p3kit.errors import InputError
from p3kit.metrics import ACTIONS

_TRADE = ("entry_price", "bars_held", "adds", "paid", "entry_value", "entry_cash", "entry_size")


@dataclass(frozen=True)
class Account:
    """Cash and position of a live account at the close of a bar.

    Example:
        >>> p3kit.Account(cash=2_500.0, shares=31.0, entry_price=242.8, bars_held=4)
    """

    cash: float
    shares: float = 0.0
    entry_price: float = 0.0
    """Average fill price of the shares held, without costs. 0 while flat."""
    bars_held: int = 0
    """Closes since the trade opened."""
    adds: int = 0
    """ADDs since the trade opened."""
    max_drawdown: float = 0.0
    """Largest fall of equity from its peak since the trade opened, as a fraction."""
    peak: float | None = None
    """Highest equity since the trade opened. None: the larger of `entry_cash` and equity."""
    paid: float | None = None
    """Money spent on the shares still held, costs included. None: `entry_value` with the spec's costs."""
    entry_value: float | None = None
    """The shares still held at their fill prices. None: shares × `entry_price`."""
    entry_cash: float | None = None
    """Cash before the trade opened. None: cash + `paid`."""
    entry_size: float | None = None
    """Fraction of equity that the trade opened with. None: the size in `env.sizes` that is nearest to the cost of one
    order, `paid` / `entry_cash` / (1 + `adds`)."""
    last_action: str = "HOLD"
    """The action executed on the bar before."""
    start_capital: float | None = None
    """Capital that `env.ruin` is a fraction of. None: `entry_cash`, or cash while flat."""

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; JSON holds them exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "account") -> Account:
        """Read what `to_dict` returned. Raises InputError where a key is unknown or missing."""
        if not isinstance(values, Mapping):
            raise InputError(where, "is no table of keys", 'write an object such as {"cash": 10000}')
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise InputError(where, f"unknown key {key!r}", hint)
        if "cash" not in values:
            raise InputError(where, "has no key cash", 'write at least {"cash": 10000}')
        return cls(**values)


def read_accounts(path: Path) -> Account | dict[str, Account]:
    """Read a JSON file: one account, or accounts by agent or symbol. Raises InputError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(str(path), f"cannot be read as JSON: {reason}", 'write {"cash": 10000}') from None
    if isinstance(document, dict) and document and all(isinstance(value, dict) for value in document.values()):
        return {name: Account.from_dict(value, f"{path}: {name}") for name, value in document.items()}
    return Account.from_dict(document, str(path))


def to_tensors(account: Account, close: float, rules: Rules) -> AccountTensors:
    """The account as one row of the environment's continuous account, marked at `close`."""
    fresh = fresh_account(torch.zeros(1, dtype=torch.float64), rules)
    value = account.shares * close
    equity = account.cash + value
    row = {"cash": account.cash, "market_value": value, "equity": equity, "peak": equity}
    if account.shares > 0:
        row |= _trade(account, equity, rules)
    tensors = fresh._replace(**{name: torch.tensor([number], dtype=torch.float64) for name, number in row.items()})
    return settle_account(tensors, tensors.shares > 0, rules)


def from_tensors(row: AccountTensors, last_action: int, start_capital: float) -> Account:
    """The exact account of one row of the environment."""
    numbers = {name: float(value) for name, value in row._asdict().items()}
    exact: dict[str, Any] = {name: numbers[name] for name in ("cash", "shares", "max_drawdown", "peak")}
    if numbers["shares"] > 0:
        exact |= {name: numbers[name] for name in ("paid", "entry_value", "entry_cash", "entry_size")}
        exact["entry_price"] = numbers["entry_value"] / numbers["shares"]
    whole = {"bars_held": int(numbers["bars_held"]), "adds": int(numbers["adds"])}
    return Account(**exact, **whole, last_action=ACTIONS[last_action], start_capital=start_capital)


def start_capital_of(account: Account, rules: Rules) -> float:
    """Capital that `env.ruin` is a fraction of."""
    if account.start_capital is not None:
        return account.start_capital
    if account.shares == 0:
        return account.cash
    return _entry(account, rules)["entry_cash"]


def _trade(account: Account, equity: float, rules: Rules) -> dict[str, float]:
    """The fields of the open trade, those that are None derived."""
    entry = _entry(account, rules)
    peak = account.peak if account.peak is not None else max(entry["entry_cash"], equity)
    size = account.entry_size
    if size is None:
        one_order = entry["paid"] / entry["entry_cash"] / (1 + account.adds)
        size = min(rules.sizes, key=lambda own: abs(own - one_order))
    held = {"shares": account.shares, "bars_held": float(account.bars_held), "adds": float(account.adds)}
    drawdown = max(account.max_drawdown, 1.0 - equity / peak)
    return {**entry, **held, "entry_size": size, "peak": peak, "max_drawdown": drawdown, "steps": held["bars_held"]}


def _entry(account: Account, rules: Rules) -> dict[str, float]:
    """Value of the open trade at its fill prices, what was paid for it, and the cash before it."""
    value = account.entry_value if account.entry_value is not None else account.shares * account.entry_price
    costs = (1.0 + rules.slippage) * (1.0 + rules.commission)
    paid = account.paid if account.paid is not None else value * costs
    cash = account.entry_cash if account.entry_cash is not None else account.cash + paid
    return {"entry_value": value, "paid": paid, "entry_cash": cash}


def _check(account: Account) -> None:
    """Raise InputError for the first field that no account can have."""
    for field in fields(account):
        value = getattr(account, field.name)
        if field.name == "last_action":
            if value not in ACTIONS:
                raise InputError("account: last_action", f"is {value!r}", f"it is one of {', '.join(ACTIONS)}")
        elif value is not None:
            _check_number(field.name, value)
    for name in ("bars_held", "adds"):
        if getattr(account, name) != int(getattr(account, name)):
            raise InputError(f"account: {name}", f"is {getattr(account, name)}", "give a whole number")
    if account.max_drawdown >= 1:
        what = f"is {account.max_drawdown}"
        raise InputError("account: max_drawdown", what, "give a fraction below 1: 0.05 is a fall of 5 %")
    if account.cash + account.shares <= 0:
        raise InputError("account", "holds neither cash nor shares", "give its cash")
    if account.shares > 0 and account.entry_price <= 0 and account.entry_value is None:
        raise InputError("account: entry_price", "is missing", "give the average fill price of the shares")
    if account.shares == 0 and (stated := [name for name in _TRADE if getattr(account, name)]):
        what = f"{', '.join(stated)} given, and no shares"
        raise InputError("account", what, "give the shares held, or leave the open trade out")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"account: {name}", f"is {value!r}", "give a number")
    if not math.isfinite(value):
        raise InputError(f"account: {name}", f"is {value}", "give a finite number")
    if value < 0:
        hint = "an account has no debt" if name == "cash" else "short positions do not exist here"
        raise InputError(f"account: {name}", f"is {value}", hint if name in ("cash", "shares") else "give 0 or more")
