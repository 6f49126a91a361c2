"""From bar to bar: the agent's account and that of buy-and-hold, moved by the functions of `p3kit.env`.

Both are rows of one continuous account (see `p3kit.env`), so an account has the bits that `p3kit evaluate` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from p3kit.env import Rules
from p3kit.env.account import BUYS, HOLD, Account, Flows, advance, fresh_account, order_table
from p3kit.env.bar_tensors import Transition, transitions
from p3kit.market import Bars
from p3kit.market.bars import Floats
from p3kit.metrics import ACTIONS
from p3kit.paper.account_journal import ACCOUNT_NUMBERS, Row
from p3kit.paper.book import Book, Numbers, line_of_bar

Decide = Callable[[Bars, Account, str], Mapping[str, Any]]
"""(bars up to now, account of one row, last action) → the decision as plain values, `action` among them."""

BUY_LARGE = BUYS[-1]
RUINED = {"action": ACTIONS[HOLD], "reason": "the account is ruined: its equity fell below env.ruin"}


class Prices(NamedTuple):
    """Two bars, as `transitions` takes them."""

    open: Floats | None
    high: Floats | None
    low: Floats | None
    close: Floats
    volatility: Floats


def next_row(book: Book, rules: Rules, time: Any, values: Sequence[float], decide: Decide, needed: int) -> Row:
    """The row of the bar that follows the book's newest one: fills, accounts at its close, and the decision on it.

    `needed` bars, the new one included, are all that the decision rests on.
    """
    seen = book.to_bars([*book.times[1 - needed :], time], np.array([*book.values[1 - needed :], list(values)]))

    def decided(account: Account, last_action: str, is_ruined: bool) -> dict[str, Any]:
        return dict(RUINED if is_ruined else decide(seen, _one(account), last_action))

    if book.account is None or book.buy_and_hold is None:
        account = fresh_account(torch.zeros(2, dtype=torch.float64), rules)
        return _row(book, time, values, account, decided(account, ACTIONS[HOLD], False))
    before = _tensors([book.account, book.buy_and_hold])
    action = ACTIONS.index(str(book.decision["action"]))
    hold = HOLD if before.shares[1] > 0 or book.ruined[1] else BUY_LARGE  # an older p3kit ruined buy-and-hold, too
    bar = _transition(book, values, rules)
    is_late = bool(bar.late[0] > 0)
    orders, held = order_table(rules, torch.device("cpu")), order_table(rules.held, torch.device("cpu"))
    after, flows = advance(before, torch.tensor([action, HOLD]), bar, orders, rules, is_late)
    kept, _ = advance(before, torch.tensor([HOLD, hold]), bar, held, rules.held, is_late)
    after = Account(*(torch.stack([own[0], other[1]]) for own, other in zip(after, kept, strict=True)))
    ruined = [book.ruined[0] or bool(flows.terminated[0]), book.ruined[1]]
    fills = _fills(before, after, action, bar, flows, orders, rules)
    decision = decided(after, ACTIONS[action], ruined[0])
    return _row(book, time, values, after, decision, fills, float(flows.cost[0]), ruined)


def _row(
    book: Book,
    time: Any,
    values: Sequence[float],
    account: Account,
    decision: Mapping[str, Any],
    fills: Sequence[Mapping[str, Any]] = (),
    cost: float = 0.0,
    ruined: Sequence[bool] = (False, False),
) -> Row:
    own, hold = (_numbers(account, at) for at in (0, 1))
    line = line_of_bar(time, values)
    return {
        "kind": "bar",
        "time": line[0],
        "bar": line,
        "fills": list(fills),
        "cost": cost,
        "equity": own["equity"],
        "account": own,
        "buy_and_hold": hold,
        "ruined": list(ruined),
        "weights": str(book.weights.get("sha256", ""))[:12],
        "decision": decision,
    }


def _transition(book: Book, values: Sequence[float], rules: Rules) -> Transition:
    """From the newest bar of the book to the next one, the same for both accounts."""
    two = np.array([book.values[-1], list(values)], dtype=np.float64)
    named = {name: two[:, i] for i, name in enumerate(book.columns)}
    prices = Prices(named.get("open"), named.get("high"), named.get("low"), named["close"], np.zeros(2))
    table = torch.as_tensor(transitions(prices, rules.fill)[:1]).repeat(2, 1)
    return Transition(*table.unbind(1))


def _fills(
    before: Account, after: Account, action: int, bar: Transition, flows: Flows, orders: Tensor, rules: Rules
) -> list[dict[str, Any]]:
    """The trades of the agent's account in this bar: by its order, and by force."""
    held, price = float(before.shares[0]), float(bar.fill[0])
    sold = float(orders[1, action]) if float(flows.pieces.bars[0, 0]) > 0 else 0.0
    forced = float(flows.pieces.bars[1, 0]) > 0
    entry = float(flows.pieces.entry_value[1, 0]) if forced else float(after.entry_value[0])
    bought = entry - float(before.entry_value[0]) * (1.0 - sold) if bool(flows.opened[0]) else 0.0
    fills = []
    if bought > 0:
        fills.append(_fill("buy", ACTIONS[action], price, bought / price))
    if sold > 0:
        fills.append(_fill("sell", ACTIONS[action], price, held * sold))
    if forced:
        shares = held * (1.0 - sold) + bought / price
        value = float(flows.traded_value[0]) - bought - held * sold * price
        exit_price = value / shares
        reason = _why(exit_price, entry / shares, bool(flows.terminated[0]), rules)
        fills.append(_fill("sell", reason, exit_price, shares))
    return fills


def _fill(side: str, reason: str, price: float, shares: float) -> dict[str, Any]:
    return {"side": side, "reason": reason, "price": price, "shares": shares, "value": price * shares}


def _why(price: float, entry: float, is_ruin: bool, rules: Rules) -> str:
    """The rule that ended a position."""
    if is_ruin:
        return "ruin"
    if rules.stop is not None and price <= entry * (1 - rules.stop) * (1 + 1e-9):
        return "stop"
    if rules.target is not None and price >= entry * (1 + rules.target) * (1 - 1e-9):
        return "target"
    return "max_hold"


def _tensors(accounts: Sequence[Numbers]) -> Account:
    """Accounts of the journal as one of the environment, a row each."""
    columns = {name: torch.tensor([one[name] for one in accounts], dtype=torch.float64) for name in ACCOUNT_NUMBERS}
    zero = torch.zeros(len(accounts), dtype=torch.float64)
    return Account(length=torch.full_like(zero, torch.inf), return_mean=zero, return_square=zero, **columns)


def _numbers(account: Account, row: int) -> Numbers:
    return {name: float(getattr(account, name)[row]) for name in ACCOUNT_NUMBERS}


def _one(account: Account) -> Account:
    """The agent's row alone."""
    return Account(*(column[:1] for column in account))
