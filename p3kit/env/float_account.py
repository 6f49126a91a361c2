"""One continuous account in plain floats: `account.py` for one account, operation for operation, with the same bits.

A tensor operation costs microseconds however short the tensor is, and one account needs two hundred of them a bar.
The tests compare every bit with `TradingEnv`. `p3kit.env` describes what happens inside a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

from p3kit.env.account import ADD, BUYS, HOLD, SELL_ALL, SELL_HALF
from p3kit.env.rules import ROUNDING, Rules
from p3kit.metrics import ACTIONS

BarRow = Sequence[float]
"""The columns of `Transition` for one bar."""
FLAT, LONG, LONG_WITH_ADD = range(3)
"""Rows of `mask_table`."""
SHARE_SOLD = {SELL_HALF: 0.5, SELL_ALL: 1.0}
ALLOWED = (
    frozenset({HOLD, *BUYS}),
    frozenset({HOLD, SELL_HALF, SELL_ALL}),
    frozenset({HOLD, SELL_HALF, SELL_ALL, ADD}),
)
_ONE_HOT = [tuple(float(own == action) for own in range(len(ACTIONS))) for action in range(len(ACTIONS))]
_FLAT_FIELDS = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


class FloatAccount(NamedTuple):
    """The fields of `Account` that a continuous account needs, at the close of a bar."""

    cash: float
    market_value: float
    equity: float
    peak: float
    max_drawdown: float
    add_spend: float
    shares: float
    paid: float
    entry_value: float
    entry_size: float
    entry_cash: float
    bars_held: float
    adds: float

    @property
    def mask_row(self) -> int:
        """Row of `mask_table` with the next allowed actions."""
        return LONG_WITH_ADD if self.add_spend > 0.0 else LONG if self.shares > 0.0 else FLAT


class Outcome(NamedTuple):
    """Outcome of one bar, with the names of `Timestep`."""

    bar_return: float
    exposure: float
    traded_value: float
    cost_paid: float
    closed_profit: float
    terminated: bool


class FloatEngine:
    """Moves continuous accounts by `rules`. It raises ZeroDivisionError where `TradingEnv` computes inf or NaN."""

    def __init__(self, rules: Rules, any_late: bool) -> None:
        self._rules = rules
        self._any_late = any_late
        self._purchase = (1.0 + rules.slippage) * (1.0 + rules.commission)
        self._sale = (1.0 - rules.slippage) * (1.0 - rules.commission)
        self._ruined_below = rules.ruin * rules.initial_capital * (1.0 - ROUNDING)
        self._least_add = 0.5 * rules.smallest_size * (1.0 - ROUNDING)
        self._sizes = dict(zip(BUYS, rules.sizes, strict=True))
        self._resting = rules.stop is not None or rules.target is not None or rules.max_hold is not None

    def fresh(self) -> FloatAccount:
        """A flat account with the initial capital."""
        capital = self._rules.initial_capital
        return FloatAccount(capital, 0.0, capital, capital, *[0.0] * 9)

    def fields(self, account: FloatAccount, last_action: int) -> tuple[float, ...]:
        """`ACCOUNT_FIELDS`, as `observe_account` computes them."""
        if not account.shares > 0.0:
            return _FLAT_FIELDS + _ONE_HOT[last_action]
        cash, value, equity, peak, max_drawdown, add_spend, _, paid, _, _, anchor, bars_held, adds = account
        held = bars_held / self._rules.episode_bars
        return (
            1.0,
            value / equity,
            (value - paid) / (paid if paid > 0.0 else 1.0),
            min(held, 1.0),
            cash / equity,
            equity / anchor - 1.0,
            1.0 - equity / peak,
            max_drawdown,
            (cash + paid) / anchor - 1.0,
            max(1.0 - held, 0.0),
            adds / max(self._rules.max_adds, 1),
            add_spend / equity,
            *_ONE_HOT[last_action],
        )

    def step(self, account: FloatAccount, action: int, bar: BarRow) -> tuple[FloatAccount, Outcome]:
        """Let one bar pass; `action` must be allowed."""
        if action == HOLD and not account.shares > 0.0:
            return account, Outcome(0.0, 0.0, 0.0, 0.0, nan, account.cash < self._ruined_below)
        fill, _, _, _, close, _, late = bar
        met = self._any_late and late > 0.0
        hit = exit_price = None
        if met and self._resting:
            hit, exit_price = self._resting_exit(account, bar)
            if hit:
                action = HOLD  # the position was gone before the order could fill
        filled, traded, cost = self._fill(account, action, fill) if action != HOLD else (account, 0.0, 0.0)
        if self._resting and not met:
            hit, exit_price = self._resting_exit(filled, bar)
        opened_late = late if account.shares == 0.0 else 0.0
        bars_held = filled.bars_held + 1.0 - opened_late
        return self._mark(account, filled, bars_held, exit_price if hit else None, close, traded, cost)

    def _fill(self, account: FloatAccount, action: int, fill: float) -> tuple[FloatAccount, float, float]:
        """The account after an order other than HOLD, the traded value and the cost."""
        cash, value, equity, peak, fall, add_spend, shares, paid, entry_value, entry_size, entry_cash, held, adds = (
            account
        )
        if action in SHARE_SOLD:
            share = SHARE_SOLD[action]
            remaining = 1.0 - share
            sold_value = shares * share * fill
            proceeds = sold_value * self._sale
            cash, shares = cash + proceeds, shares * remaining
            paid, entry_value = paid * remaining, entry_value * remaining
            traded, cost = sold_value, sold_value - proceeds
        else:
            size = self._sizes.get(action, 0.0)
            spend = add_spend if action == ADD else size * equity
            bought = spend / self._purchase
            entry_cash = cash if size > 0.0 else entry_cash
            cash, shares = cash - spend, shares + bought / fill
            paid, entry_value, entry_size = paid + spend, entry_value + bought, entry_size + size
            adds = adds + 1.0 if action == ADD else adds
            traded, cost = bought, spend - bought
        filled = FloatAccount(
            cash, value, equity, peak, fall, add_spend, shares, paid, entry_value, entry_size, entry_cash, held, adds
        )
        return filled, traded, cost

    def _resting_exit(self, account: FloatAccount, bar: BarRow) -> tuple[bool, float]:
        """True where a resting order ends the position during the bar, and the price; see `account.py`."""
        _, opened, high, low, price, _, _ = bar
        if not account.shares > 0.0:
            return False, price
        rules, hit, above, below = self._rules, False, None, None
        entry = account.entry_value / account.shares
        if rules.max_hold is not None:
            hit = account.bars_held + 1.0 >= rules.max_hold
        if rules.target is not None:
            target = entry * (1.0 + rules.target)
            above = target * (1.0 - ROUNDING)
            if high >= above:
                hit, price = True, target
        if rules.stop is not None:
            stop = entry * (1.0 - rules.stop)
            below = stop * (1.0 + ROUNDING)
            if low <= below:
                hit, price = True, stop
        if above is not None and opened >= above:
            price = opened
        if below is not None and opened <= below:
            price = opened
        return hit, price

    def _mark(
        self,
        before: FloatAccount,
        account: FloatAccount,
        bars_held: float,
        exit_price: float | None,
        close: float,
        traded: float,
        cost: float,
    ) -> tuple[FloatAccount, Outcome]:
        """Mark at the close; sell at `exit_price` where a resting order was hit, or where the account is ruined."""
        cash, _, _, peak, max_drawdown, _, shares, paid, entry_value, entry_size, entry_cash, _, adds = account
        forced = exit_price is not None
        value = shares * (close if exit_price is None else exit_price)
        marked = cash + (value * self._sale if forced else value)
        terminated = marked < self._ruined_below
        was_long = shares + before.shares > 0.0
        if forced or terminated:
            proceeds = value * self._sale
            cash, shares, traded, cost = cash + proceeds, 0.0, traded + value, cost + (value - proceeds)
        if not shares > 0.0:
            profit = cash - entry_cash if was_long else nan
            after = FloatAccount(cash, 0.0, cash, cash, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            return after, Outcome(cash / before.equity - 1.0, 0.0, traded, cost, profit, terminated)
        value = shares * close
        equity = cash + value
        peak = equity if equity > peak else peak
        drawdown = 1.0 - equity / peak
        spend = min(entry_size * equity, self._rules.max_position * equity - value, cash)
        may_add = spend >= self._least_add * equity and adds < self._rules.max_adds and value >= paid * (1.0 - ROUNDING)
        after = FloatAccount(
            cash,
            value,
            equity,
            peak,
            drawdown if drawdown > max_drawdown else max_drawdown,
            spend if may_add else 0.0,
            shares,
            paid,
            entry_value,
            entry_size,
            entry_cash,
            bars_held,
            adds,
        )
        return after, Outcome(equity / before.equity - 1.0, value / equity, traded, cost, nan, terminated)
