"""`ScalarTradingEnv`: the trading environment with one plain Python account per row, for debugging.

`env.backend = "scalar"` puts it under a trainer. Bars, splits, windows, restarts and faults are those of `TradingEnv`;
money, masks, account fields and reward all come from `p3kit.env.scalar_account`, account by account. If a run looks
wrong under `"batched"` and right under `"scalar"`, the fault is in the batched engine. If both look wrong, set a
breakpoint in `ScalarAccount.step`.

Notation for shapes: N accounts, K account fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from p3kit.env.account import HOLD, Account
from p3kit.env.scalar_account import Lot, Outcome, ScalarAccount, largest_drawdown
from p3kit.env.step import Course, Rows, carry, start_row
from p3kit.env.timestep import Timestep
from p3kit.env.trading import NEEDS_START, TradingEnv
from p3kit.errors import CheckpointError, NumericalFault
from p3kit.metrics import ACTIONS, COMPONENTS

if TYPE_CHECKING:
    from p3kit.spec import Spec


class ScalarTradingEnv(TradingEnv):
    """`TradingEnv` with a list of `ScalarAccount` for its books: the same `Timestep`s to 1e-9, far slower.

    Here a step does wait for the device, and a bar that breaks the arithmetic (a price of 0) raises NumericalFault at
    once. An episode may be looked at in `books` while it runs.
    """

    @property
    def books(self) -> Sequence[ScalarAccount]:
        """The current N accounts; not for writing."""
        return self._books

    @property
    def accounts(self) -> Account:
        """The books as the batched engine would keep them. Moments of bar returns are NaN: they are not kept here."""
        return Account(*self._column(_books_row).unbind(1))

    def update(self, spec: Spec) -> None:
        """Take numbers that moved from `spec`. The mask of an ADD is updated at once here, in `TradingEnv` with the
        next step."""
        super().update(spec)
        for book in self._books:
            book.rules = self.rules
        self._refresh()

    def compile(self, compiled: Callable[[Any], Any] | None = None) -> None:
        """Do nothing: this engine is plain Python."""

    # ---- playing ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, action: Tensor, start: Tensor | None = None) -> Timestep:
        """Let one bar pass, as `TradingEnv.step` does."""
        if start is None and not self._replay:
            raise ValueError(NEEDS_START)
        step, self._rows = self._play_rows(range(self.num_envs), self._rows, self._course, action, start)
        return step

    @torch.no_grad()
    def step_some(self, rows: Tensor, action: Tensor, start: Tensor) -> Timestep:
        """Let one bar pass for `rows`, as `TradingEnv.step_some` does."""
        if self._replay:
            raise RuntimeError("windows are played by all rows together")
        step, moved = self._play_rows(rows.tolist(), self._rows.take(rows), self._course.take(rows), action, start)
        self._rows = self._rows.put(rows, moved)
        return step

    @torch.no_grad()
    def restart_some(self, rows: Tensor, start: Tensor) -> None:
        """Put `rows` at new starts, as `TradingEnv.restart_some` does."""
        super().restart_some(rows, start)
        for row in rows.tolist():
            self._books[row] = self._open_book(row, int(self._rows.index[row]))

    def _play_rows(
        self, places: Sequence[int], rows: Rows, course: Course, action: Tensor, start: Tensor | None
    ) -> tuple[Timestep, Rows]:
        """One bar for the accounts at `places` (n of the N), whose `rows`, `course`, `action` and `start` are (n,)."""
        allowed = rows.mask.gather(1, action.unsqueeze(1)).squeeze(1)
        action = torch.where(allowed, action, HOLD)
        played = rows.alive
        outcomes = [
            self._play(place, ACTIONS[number]) if plays else _nothing(self._books[place])
            for place, number, plays in zip(places, action.tolist(), played.tolist(), strict=True)
        ]

        def of(read: Callable[[Outcome], float | list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor([read(outcome) for outcome in outcomes], dtype=dtype, device=self.device)

        terminated, truncated = of(lambda o: o.terminated, torch.bool), of(lambda o: o.truncated, torch.bool)
        ended = terminated | truncated
        index = arrived = rows.index + played.long()
        alive = played
        fields, mask = self._look(places)
        final_fields = fields
        if self._replay:
            alive = played & ~ended
            mask = torch.where(alive.unsqueeze(1), mask, self._tables.one_hot[HOLD].bool())
        elif start is not None and bool(ended.any()):
            index = torch.where(ended, start_row(start, course), arrived)
            for i in ended.nonzero().flatten().tolist():
                self._books[places[i]] = self._open_book(places[i], int(index[i]))
            fields, mask = self._look(places)
        step = Timestep(
            index=index,
            account=fields,
            mask=mask,
            components=of(lambda o: o.components),
            terminated=terminated,
            truncated=truncated,
            final_index=arrived,
            final_account=final_fields,
            equity=of(lambda o: o.equity),
            bar_return=of(lambda o: o.bar_return),
            traded_value=of(lambda o: o.traded_value),
            cost_paid=of(lambda o: o.cost_paid),
            closed_profit=of(lambda o: torch.nan if o.closed_profit is None else o.closed_profit),
            exposure=of(lambda o: o.exposure),
            bar=arrived - course.symbol_offset,
            action=action,
            alive=alive,
            valid=played,
        )
        return step, carry(rows, step, rows.account, allowed)  # the books keep the accounts

    def _play(self, row: int, action: str) -> Outcome:
        book = self._books[row]
        try:
            return book.step(action)
        except ArithmeticError as error:
            where = f"{self._name(row)}: bar {book.bar}"
            raise NumericalFault(
                where, f"arithmetic error in account {row}: {error}", "check that all prices are positive"
            ) from error

    def _begin(self, symbol: Tensor, index: Tensor, length: Tensor, replay: bool) -> None:
        super()._begin(symbol, index, length, replay)
        self._lengths = [int(bars) for bars in length.tolist()]
        self._books = [self._open_book(row, first) for row, first in enumerate(index.tolist())]
        self._refresh()

    def _open_book(self, row: int, index: int) -> ScalarAccount:
        """A flat account for `row`, which stands at row `index` of the bar table."""
        first = index - int(self._course.symbol_offset[row])
        return ScalarAccount(self._data[int(self._symbol[row])], self.rules, first, first + self._lengths[row])

    def _look(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Observations (n, K) float32 and action masks (n, 7) bool of the accounts at `places`."""
        fields = self._column(ScalarAccount.fields, places).to(torch.float32)
        return fields, self._column(lambda book: [name in book.allowed() for name in ACTIONS], places).bool()

    def _refresh(self) -> None:
        """Look again, after the books were changed from outside a step."""
        fields, mask = self._look(range(self.num_envs))
        self._rows = self._rows._replace(fields=fields, mask=mask)

    def _column(self, read: Callable[[ScalarAccount], Sequence[float]], places: Sequence[int] | None = None) -> Tensor:
        """(n, values) float64: the result of `read` for each account, or for those at `places`."""
        books = self._books if places is None else [self._books[place] for place in places]
        return torch.tensor([read(book) for book in books], dtype=torch.float64, device=self.device)

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `reset` and `step` change, as a flat dict of tensors; rows of windows are not kept.

        Lists of an account (purchases, equities, profits) lie one account after another, with a count per account.
        """
        if self._replay:
            raise RuntimeError("an env that plays windows has no state to resume from")
        lists: dict[str, list[list[Any]]] = {
            "lots": [[(lot.shares, lot.fill, lot.paid) for lot in book.lots] for book in self._books],
            "equities": [book.equities for book in self._books],
            "profits": [book.profits for book in self._books],
        }
        state = {"books": self._column(_numbers), "masked_actions": self._rows.masked_actions.clone()}
        state["nonfinite_bar"] = self._rows.nonfinite_bar.clone()
        for name, rows in lists.items():
            state[name] = torch.tensor([item for row in rows for item in row], dtype=torch.float64)
            state[f"{name}_count"] = torch.tensor([len(row) for row in rows])
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Timestep:
        """Continue where `state_dict` was taken; returns the current rows. CheckpointError if N differs."""
        if len(state["books"]) != self.num_envs:
            raise CheckpointError(
                "env state",
                f"it holds {len(state['books'])} accounts, this env {self.num_envs}",
                "resume with the spec of the run",
            )
        self._begin(self._training_symbol, self._first_start, self._training_length, replay=False)
        lots, equities, profits = (_rows(state, name) for name in ("lots", "equities", "profits"))
        for row, (book, numbers) in enumerate(zip(self._books, state["books"].tolist(), strict=True)):
            book.first, book.last, book.bar, action, book.bars_held, book.adds = (int(x) for x in numbers[:6])
            book.cash, book.entry_size, book.cash_at_entry = numbers[6:]
            book.last_action = ACTIONS[action]
            book.lots = [Lot(*lot) for lot in lots[row]]
            book.equities, book.profits = equities[row], profits[row]
        bars = torch.tensor([book.bar for book in self._books], device=self.device)
        self._rows = self._rows._replace(
            index=bars + self._course.symbol_offset,
            masked_actions=state["masked_actions"].to(self.device),
            nonfinite_bar=state["nonfinite_bar"].to(self.device),
        )
        self._refresh()
        return self.standing()


def _nothing(book: ScalarAccount) -> Outcome:
    """The outcome of a bar for an account whose window had ended before it."""
    return Outcome(
        components=[0.0] * len(COMPONENTS),
        equity=book.equity,
        bar_return=0.0,
        traded_value=0.0,
        cost_paid=0.0,
        closed_profit=None,
        exposure=0.0,
        terminated=False,
        truncated=False,
    )


def _numbers(book: ScalarAccount) -> list[float]:
    """State of an account between bars, beside its lists; whole numbers first."""
    whole = (book.first, book.last, book.bar, ACTIONS.index(book.last_action), book.bars_held, book.adds)
    return [*map(float, whole), book.cash, book.entry_size, book.cash_at_entry]


def _rows(state: Mapping[str, Tensor], name: str) -> list[list[Any]]:
    """One list of `state_dict` cut into its accounts again."""
    items = iter(state[name].tolist())
    return [list(islice(items, count)) for count in state[f"{name}_count"].tolist()]


def _books_row(book: ScalarAccount) -> list[float]:
    """One account in the order of `Account`."""
    is_long = bool(book.lots)
    trade = (
        book.shares,
        book.paid,
        sum(lot.shares * lot.fill for lot in book.lots),
        book.entry_size,
        book.cash_at_entry,
        book.bars_held,
        book.adds,
    )
    return [
        book.cash,
        book.market_value,
        book.equity,
        max(book.equities),
        largest_drawdown(book.equities),
        torch.nan,
        torch.nan,
        len(book.equities) - 1,
        torch.inf if book.rules.continuous else book.last - book.first,
        book.add_budget() if "ADD" in book.allowed() else 0.0,
        *(trade if is_long else [0.0] * len(trade)),
    ]
