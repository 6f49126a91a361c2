"""One step of N rows as pure functions of tensors: all that happens between two bars, with nothing remembered here.

`TradingEnv` keeps the rows and calls these; torch.compile can turn each into one kernel. Nothing branches on data and
nothing waits for the device. `p3kit.env` describes a step.

Notation for shapes: N rows, K account fields, A actions, C reward components, R rows of the bar table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from p3kit.env.account import HOLD, Account, action_mask, advance, observe_account
from p3kit.env.bar_tensors import Transition
from p3kit.env.reward import reward_components
from p3kit.env.rules import Rules
from p3kit.env.timestep import Timestep
from p3kit.metrics import COMPONENTS


class Rows(NamedTuple):
    """State of N rows between two steps."""

    index: Tensor  # type: ignore[assignment]  # (N,) int64, row of the bar table (tuple.index is not needed)
    account: Account  # of (N,) float64
    fields: Tensor  # (N, K) float32, the agent's observation of its account
    mask: Tensor  # (N, A) bool
    alive: Tensor  # (N,) bool; False only after a window ended
    masked_actions: Tensor  # (N,) int64, requested since the reset
    nonfinite_bar: Tensor  # (N, C) int64, first bar at which a component was not finite; −1 none

    def take(self, rows: Tensor) -> Rows:
        """These rows (n,) alone, in this order."""
        return self._map(lambda value, _: value[rows], self)

    def put(self, rows: Tensor, some: Rows) -> Rows:
        """All rows, with `some` in the places of `rows` (n,)."""
        return self._map(lambda value, part: value.index_copy(0, rows, part), some)

    def _map(self, change: Callable[[Tensor, Tensor], Tensor], other: Rows) -> Rows:
        account = Account(*(change(*pair) for pair in zip(self.account, other.account, strict=True)))
        names = [name for name in self._fields if name != "account"]
        return Rows(account=account, **{name: change(getattr(self, name), getattr(other, name)) for name in names})


class Course(NamedTuple):
    """Bars of the episodes of N rows; they change only at a reset."""

    symbol_offset: Tensor  # (N,) int64, first row of the symbol in the bar table
    first_start: Tensor  # (N,) int64, row of the earliest start of a training episode
    num_starts: Tensor  # (N,) int64, how many rows an episode may start on
    last: Tensor  # (N,) int64, row on which a continuous account stops
    fresh: Tensor  # (account numbers, N) float64, a flat account
    fresh_fields: Tensor  # (N, K) float32, its observation

    def take(self, rows: Tensor) -> Course:
        """The course of these rows (n,) alone, in this order."""
        by_row = (self.symbol_offset[rows], self.first_start[rows], self.num_starts[rows], self.last[rows])
        return Course(*by_row, self.fresh[:, rows], self.fresh_fields[rows])


class Tables(NamedTuple):
    """Lookup tables of a step."""

    transitions: Tensor  # (R, 7) float64, the columns of `Transition`
    orders: Tensor  # (3, A) float64, `order_table`
    masks: Tensor  # (3, A) bool, `mask_table`
    one_hot: Tensor  # (A, A) float64, the identity


def start_row(start: Tensor, course: Course) -> Tensor:
    """The row each episode starts on, (N,) int64, from `start` (N,) uniform in [0, 1)."""
    skip = (start.to(torch.float64) * course.num_starts).long()
    return course.first_start + torch.minimum(skip, course.num_starts - 1)


def begin_rows(index: Tensor, course: Course, tables: Tables) -> Rows:
    """Flat accounts that stand on rows `index` (N,)."""
    account = Account(*course.fresh.unbind(0))
    return Rows(
        index=index,
        account=account,
        fields=course.fresh_fields,
        mask=action_mask(account, tables.masks),
        alive=torch.ones_like(index, dtype=torch.bool),
        masked_actions=torch.zeros_like(index),
        nonfinite_bar=index.new_full((len(index), len(COMPONENTS)), -1),
    )


def step_training(
    rows: Rows, action: Tensor, start: Tensor, course: Course, tables: Tables, rules: Rules, any_late: bool
) -> tuple[Timestep, Rows]:
    """A step in which a row whose episode ends stands at a new start, `start_row(start)`, in the same step."""
    arrived, after, allowed = _play_bar(rows, action, course, tables, rules, any_late)
    ended = arrived.terminated | arrived.truncated
    account = Account(*torch.where(ended, course.fresh, torch.stack([*after])).unbind(0))
    index = torch.where(ended, start_row(start, course), arrived.index)
    fields = torch.where(ended.unsqueeze(1), course.fresh_fields, arrived.account)
    mask = action_mask(account, tables.masks)
    step = arrived._replace(index=index, account=fields, mask=mask)
    return step, carry(rows, step, account, allowed)


def step_windows(
    rows: Rows, action: Tensor, course: Course, tables: Tables, rules: Rules, any_late: bool
) -> tuple[Timestep, Rows]:
    """A step in which a row whose window had ended before stays where it is, and nothing happens to it."""
    arrived, after, allowed = _play_bar(rows, action, course, tables, rules, any_late)
    played = rows.alive
    account = Account(*torch.where(played, torch.stack([*after]), torch.stack([*rows.account])).unbind(0))
    index = torch.where(played, arrived.index, rows.index)
    fields = torch.where(played.unsqueeze(1), arrived.account, rows.fields)
    alive = played & ~arrived.terminated & ~arrived.truncated
    hold_only = tables.one_hot[HOLD].bool()
    step = arrived._replace(
        index=index,
        account=fields,
        mask=torch.where(alive.unsqueeze(1), action_mask(account, tables.masks), hold_only),
        components=torch.where(played.unsqueeze(1), arrived.components, 0.0),
        terminated=arrived.terminated & played,
        truncated=arrived.truncated & played,
        final_index=index,
        final_account=fields,
        equity=account.equity,
        bar_return=torch.where(played, arrived.bar_return, 0.0),
        traded_value=torch.where(played, arrived.traded_value, 0.0),
        cost_paid=torch.where(played, arrived.cost_paid, 0.0),
        closed_profit=torch.where(played, arrived.closed_profit, torch.nan),
        exposure=torch.where(played, arrived.exposure, 0.0),
        bar=index - course.symbol_offset,
        alive=alive,
        valid=played,
    )
    return step, carry(rows, step, account, allowed)


def _play_bar(
    rows: Rows, action: Tensor, course: Course, tables: Tables, rules: Rules, any_late: bool
) -> tuple[Timestep, Account, Tensor]:
    """Let one bar pass for every row. Returns where it arrived, its account there, and whether the action was allowed;
    one that was not is executed as HOLD."""
    index = rows.index + 1
    allowed = rows.mask.gather(1, action.unsqueeze(1)).squeeze(1)
    action = torch.where(allowed, action, HOLD)
    bar = Transition(*tables.transitions.index_select(0, rows.index).unbind(1))
    after, flows = advance(rows.account, action, bar, tables.orders, rules, any_late)
    components, after = reward_components(rows.account, after, flows, bar.volatility, rules)
    fields = observe_account(after, action, tables.one_hot, rules)
    truncated = (index >= course.last) & ~flows.terminated if rules.continuous else flows.truncated
    arrived = Timestep(
        index=index,
        account=fields,
        mask=rows.mask,
        components=components,
        terminated=flows.terminated,
        truncated=truncated,
        final_index=index,
        final_account=fields,
        equity=after.equity,
        bar_return=after.equity / rows.account.equity - 1.0,
        traded_value=flows.traded_value,
        cost_paid=flows.cost,
        closed_profit=flows.closed_profit,
        exposure=after.market_value / after.equity,
        bar=index - course.symbol_offset,
        action=action,
        alive=rows.alive,
        valid=rows.alive,
    )
    return arrived, after, allowed


def carry(rows: Rows, step: Timestep, account: Account, allowed: Tensor) -> Rows:
    """The rows after `step`, their faults noted; `allowed` (N,) is true if the mask allowed the requested action."""
    unnoted = ~step.components.isfinite() & (rows.nonfinite_bar < 0)
    return Rows(
        index=step.index,
        account=account,
        fields=step.account,
        mask=step.mask,
        alive=step.alive,
        masked_actions=rows.masked_actions + (~allowed & step.valid),
        nonfinite_bar=torch.where(unnoted, step.bar.unsqueeze(1), rows.nonfinite_bar),
    )
