"""N accounts as tensors, and the pure functions that move them from one bar to the next.

The order of events inside a step is described in `p3kit.env`. Every tensor here is (N,) float64 unless noted; flags are
(N,) bool. Nothing here branches on data, so nothing waits for a device. At a handful of accounts a step costs what its
operations cost to call; constants beside tensors are floats, since an int costs a conversion each time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from p3kit.env.bar_tensors import Transition
from p3kit.env.rules import ROUNDING, Rules
from p3kit.metrics import ACTIONS

HOLD = ACTIONS.index("HOLD")
SELL_HALF = ACTIONS.index("SELL_HALF")
SELL_ALL = ACTIONS.index("SELL_ALL")
ADD = ACTIONS.index("ADD")
BUYS = tuple(ACTIONS.index(name) for name in ("BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE"))

ACCOUNT_FIELDS = (
    "in_position",  # 0 or 1
    "exposure",  # market value / equity
    "unrealised_return",  # market value / what was paid for it, costs included, − 1; 0 when flat
    "bars_held",  # / episode_bars, at most 1
    "cash",  # / equity
    "equity_change",  # equity / initial capital − 1
    "drawdown",  # fall from the episode's peak
    "max_drawdown",  # largest drawdown of the episode so far
    "realised",  # realised P&L / initial capital
    "episode_left",  # share of the episode still to come
    "adds_used",  # / max_adds
    "add_size",  # what an ADD would buy now, as a share of equity; 0 where it is masked
    *(f"last_action.{name}" for name in ACTIONS),  # one-hot
)
"""The account's part of the observation, in order; unit-free. `p3kit.env` defines them for a continuous account."""


class Account(NamedTuple):
    """The state of N accounts at the close of a bar. Fields of the open trade are 0 while flat."""

    cash: Tensor
    market_value: Tensor  # shares × close
    equity: Tensor  # cash + market value
    peak: Tensor  # highest equity of the episode
    max_drawdown: Tensor  # largest 1 − equity / peak of the episode
    return_mean: Tensor  # running moments of the bar returns, as the Sharpe component keeps them
    return_square: Tensor
    steps: Tensor  # bars since the episode began
    length: Tensor  # bars the episode lasts; inf for a continuous account
    add_spend: Tensor  # money an ADD would spend now; 0 where it is masked
    # The open trade
    shares: Tensor
    paid: Tensor  # money spent on the shares still held, costs included
    entry_value: Tensor  # the same shares at their fill prices, without costs
    entry_size: Tensor  # share of equity that the trade opened with
    entry_cash: Tensor  # cash before the trade opened
    bars_held: Tensor  # closes seen since the trade opened
    adds: Tensor  # ADDs executed


_TRADE = Account._fields.index("shares")


class Pieces(NamedTuple):
    """Shares closed in a step, (2, N): row 0 by the order, row 1 by force. Zero where nothing was closed."""

    profit: Tensor  # net of both fees
    entry_value: Tensor
    bars: Tensor  # held


class Flows(NamedTuple):
    """Cash flows and events of N accounts during one step, beside their new state."""

    traded_value: Tensor  # shares × fill price over all fills
    cost: Tensor  # commission and slippage paid
    filled_exposure: Tensor  # exposure right after the order's fill
    pieces: Pieces
    closed_profit: Tensor  # net profit of a round trip that ended flat; NaN where none did
    opened: Tensor  # bool: a BUY or ADD was filled
    rested: Tensor  # bool: a position was held over the bar under a HOLD
    terminated: Tensor  # bool
    truncated: Tensor  # bool


def fresh_account(length: Tensor, rules: Rules) -> Account:
    """Flat accounts with the initial capital, at the start of episodes of `length` bars (N,).

    Under continuous rules the length is infinite for any argument.
    """
    zero = torch.zeros_like(length)
    if rules.continuous:
        length = torch.full_like(length, torch.inf)
    capital = torch.full_like(length, rules.initial_capital)
    blank = Account(*(zero for _ in Account._fields))
    return blank._replace(cash=capital, equity=capital, peak=capital, length=length)


def order_table(rules: Rules, device: torch.device) -> Tensor:
    """(3, 7) float64: per action the share of equity to open with, the share of the position to sell, and 1 for ADD."""
    table = torch.zeros(3, len(ACTIONS), dtype=torch.float64)
    for action, size in zip(BUYS, rules.sizes, strict=True):
        table[0, action] = size
    table[1, SELL_HALF], table[1, SELL_ALL] = 0.5, 1.0
    table[2, ADD] = 1.0
    return table.to(device)


def mask_table(device: torch.device) -> Tensor:
    """(3, 7) bool: the actions allowed when flat, when long, and when long with an ADD open."""
    table = torch.zeros(3, len(ACTIONS), dtype=torch.bool)
    table[:, HOLD] = True
    table[0, list(BUYS)] = True
    table[1:, [SELL_HALF, SELL_ALL]] = True
    table[2, ADD] = True
    return table.to(device)


def advance(
    account: Account, action: Tensor, bar: Transition, orders: Tensor, rules: Rules, any_late: bool
) -> tuple[Account, Flows]:
    """One bar for every account: fill the order, meet resting orders, mark, and close what has to be closed.

    `action` (N,) int64 must be allowed by the mask; `orders` is `order_table(rules)`. The moments of the bar returns
    are left as they were: they belong to the reward.
    """
    with_resting = rules.stop is not None or rules.target is not None or rules.max_hold is not None
    decided = action
    if with_resting and any_late:
        hit_before, price_before = _resting_exit(account, bar, rules)
        late = bar.late > 0.0
        hit_before = hit_before & late
        decided = action.masked_fill(hit_before, HOLD)  # the position was gone before the order could fill

    filled, sale, traded, cost, opened = _fill(account, decided, bar, orders, rules)
    holding = filled.shares * bar.fill
    filled_exposure = holding / (filled.cash + holding)

    forced, exit_price = torch.zeros_like(opened), bar.close
    if with_resting:
        forced, exit_price = _resting_exit(filled, bar, rules)
        if any_late:
            forced = torch.where(late, hit_before, forced)
            exit_price = torch.where(late, price_before, exit_price)

    filled = filled._replace(bars_held=filled.bars_held + 1.0 - bar.late * (account.shares == 0.0))
    new, closing, exit_value, exit_cost, terminated, truncated = _mark(filled, forced, exit_price, bar.close, rules)
    was_long, is_long = filled.shares + account.shares > 0.0, new.shares > 0.0
    closed_profit = torch.where(was_long & ~is_long, new.cash - filled.entry_cash, torch.nan)
    new = settle_account(new, is_long, rules)
    pieces = Pieces(
        profit=torch.stack((sale.profit, closing.profit)),
        entry_value=torch.stack((sale.entry_value, closing.entry_value)),
        bars=torch.stack((sale.bars, closing.bars)),
    )
    flows = Flows(
        traded_value=traded + exit_value,
        cost=cost + exit_cost,
        filled_exposure=filled_exposure,
        pieces=pieces,
        closed_profit=closed_profit,
        opened=opened,
        rested=(action == HOLD) & (account.shares > 0.0),
        terminated=terminated,
        truncated=truncated,
    )
    return new, flows


def _fill(
    account: Account, action: Tensor, bar: Transition, orders: Tensor, rules: Rules
) -> tuple[Account, Pieces, Tensor, Tensor, Tensor]:
    """Fill the orders. Returns the account, the piece sold, the traded value, the cost, and who bought."""
    buy_size, sell_share, is_add = orders.index_select(1, action).unbind(0)
    spend = buy_size * account.equity + is_add * account.add_spend  # costs included
    bought_value = spend / ((1.0 + rules.slippage) * (1.0 + rules.commission))
    sold_value = account.shares * sell_share * bar.fill
    proceeds = sold_value * ((1.0 - rules.slippage) * (1.0 - rules.commission))

    remaining = 1.0 - sell_share
    opened = spend > 0.0
    filled = account._replace(
        cash=account.cash - spend + proceeds,
        shares=account.shares * remaining + bought_value / bar.fill,
        paid=account.paid * remaining + spend,
        entry_value=account.entry_value * remaining + bought_value,
        entry_size=account.entry_size + buy_size,
        entry_cash=torch.where(buy_size > 0.0, account.cash, account.entry_cash),
        adds=account.adds + is_add,
    )
    piece = Pieces(
        profit=proceeds - account.paid * sell_share,
        entry_value=account.entry_value * sell_share,
        bars=(account.bars_held + bar.late) * (sell_share > 0.0),
    )
    cost = (spend - bought_value) + (sold_value - proceeds)
    return filled, piece, bought_value + sold_value, cost, opened


def _resting_exit(account: Account, bar: Transition, rules: Rules) -> tuple[Tensor, Tensor]:
    """Mask and prices of positions that a stop, target or holding limit ends during the bar (elsewhere the close).

    Later assignments win, so they are listed from weak to strong: holding limit at the close, target inside the bar,
    stop inside the bar, target at the open, stop at the open. A tie counts as a hit.
    """
    entry = account.entry_value / account.shares  # average fill price; NaN while flat, which hits nothing
    hit = torch.zeros_like(account.shares, dtype=torch.bool)
    price = bar.close
    if rules.max_hold is not None:
        hit = (account.shares > 0.0) & (account.bars_held + 1.0 >= rules.max_hold)
    above = below = None
    if rules.target is not None:
        target = entry * (1.0 + rules.target)
        above = target * (1.0 - ROUNDING)
        inside = bar.high >= above
        hit, price = hit | inside, torch.where(inside, target, price)
    if rules.stop is not None:
        stop = entry * (1.0 - rules.stop)
        below = stop * (1.0 + ROUNDING)
        inside = bar.low <= below
        hit, price = hit | inside, torch.where(inside, stop, price)
    if above is not None:
        price = torch.where(bar.open >= above, bar.open, price)
    if below is not None:
        price = torch.where(bar.open <= below, bar.open, price)
    return hit, price


def _mark(
    account: Account, forced: Tensor, exit_price: Tensor, close: Tensor, rules: Rules
) -> tuple[Account, Pieces, Tensor, Tensor, Tensor, Tensor]:
    """Mark at the close; force positions out that were hit, ruined or out of time, at the costs of any other sale.

    Returns the account, the piece closed by force, its traded value, its cost, `terminated` and `truncated`.
    """
    keep_of_sale = (1.0 - rules.slippage) * (1.0 - rules.commission)
    value = account.shares * torch.where(forced, exit_price, close)
    marked = account.cash + torch.where(forced, value * keep_of_sale, value)
    terminated = marked < rules.ruin * rules.initial_capital * (1.0 - ROUNDING)
    steps = account.steps + 1.0
    ended = steps >= account.length
    truncated = ended & ~terminated
    exits = forced | ended | terminated

    exit_share = exits.to(torch.float64)
    exit_value = value * exit_share
    proceeds = exit_value * keep_of_sale
    cash = account.cash + proceeds
    shares = account.shares * (1.0 - exit_share)
    market_value = shares * close
    equity = cash + market_value
    piece = Pieces(
        profit=proceeds - account.paid * exit_share,
        entry_value=account.entry_value * exit_share,
        bars=account.bars_held * (exit_value > 0.0),
    )
    peak = torch.maximum(account.peak, equity)
    max_drawdown = torch.maximum(account.max_drawdown, 1.0 - equity / peak)
    new = account._replace(
        cash=cash,
        market_value=market_value,
        equity=equity,
        peak=peak,
        max_drawdown=max_drawdown,
        steps=steps,
        shares=shares,
    )
    return new, piece, exit_value, exit_value - proceeds, terminated, truncated


def settle_account(account: Account, is_long: Tensor, rules: Rules) -> Account:
    """Forget the trade where the account is flat, and price the next ADD where one is allowed.

    An ADD spends the least of the entry's size × equity, the room below max_position, and the cash. It is open when
    that is at least half the smallest size, adds are left, and the position is not under water, costs included. Ties
    lean to yes.
    """
    trade = torch.stack(account[_TRADE:]) * is_long
    account = Account(*account[:_TRADE], *trade.unbind(0))
    if rules.continuous:
        account = _begin_anew(account, is_long)
    value = account.market_value
    room = torch.minimum(account.entry_size * account.equity, rules.max_position * account.equity - value)
    spend = torch.minimum(room, account.cash)
    least = (0.5 * rules.smallest_size * (1.0 - ROUNDING)) * account.equity
    allowed = (spend >= least) & (account.adds < rules.max_adds) & (value >= account.paid * (1.0 - ROUNDING)) & is_long
    return account._replace(add_spend=spend * allowed)


def _begin_anew(account: Account, is_long: Tensor) -> Account:
    """Restart the peak, the largest drawdown and the bar count of a continuous account where it is flat."""
    return account._replace(
        peak=torch.where(is_long, account.peak, account.equity),
        max_drawdown=account.max_drawdown * is_long,
        steps=account.steps * is_long,
    )


def action_mask(account: Account, masks: Tensor) -> Tensor:
    """(N, 7) bool: what each account may do next; `masks` is `mask_table()`."""
    return masks.index_select(0, (account.shares > 0.0).long() + (account.add_spend > 0.0).long())


def observe_account(account: Account, last_action: Tensor, one_hot: Tensor, rules: Rules) -> Tensor:
    """`ACCOUNT_FIELDS` of each account, (N, K) float32; `one_hot` is (7, 7) float64, the identity."""
    equity, value, paid = account.equity, account.market_value, account.paid
    long = account.shares > 0.0
    is_long = long.to(torch.float64)
    if rules.continuous:
        anchor: Tensor | float = torch.where(long, account.entry_cash, account.cash)
        left = (1.0 - account.bars_held / rules.episode_bars).clamp(min=0.0)
    else:
        anchor, left = rules.initial_capital, 1.0 - account.steps / account.length
    columns = (
        is_long,
        value / equity,
        (value - paid) / torch.where(paid > 0.0, paid, 1.0),
        (account.bars_held / rules.episode_bars).clamp(max=1.0),
        account.cash / equity,
        equity / anchor - 1.0,
        1.0 - equity / account.peak,
        account.max_drawdown,
        (account.cash + paid) / anchor - 1.0,
        left,
        account.adds / max(rules.max_adds, 1),
        account.add_spend / equity,
    )
    fields = torch.stack(columns, dim=1)  # (N, K − 7)
    return torch.cat((fields, one_hot.index_select(0, last_action)), dim=1).to(torch.float32)
