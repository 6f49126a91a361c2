"""`TradingEnv`: N trading accounts that advance together as tensors on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from p3kit.env.account import (
    ACCOUNT_FIELDS,
    HOLD,
    Account,
    action_mask,
    fresh_account,
    mask_table,
    observe_account,
    order_table,
)
from p3kit.env.bar_tensors import Bars, check_windows
from p3kit.env.rules import Rules
from p3kit.env.step import Course, Rows, Tables, begin_rows, start_row, step_training, step_windows
from p3kit.env.timestep import Timestep
from p3kit.errors import CheckpointError, DataError, NumericalFault
from p3kit.metrics import ACTIONS, COMPONENTS

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.spec import Spec


FIXED_SHAPES = partial(torch.compile, dynamic=False)
NEEDS_START = "outside windows, step needs `start`: where does a row go on whose episode ends?"


class TradingEnv:
    """N accounts over the bars of some symbols; account i trades `symbols[i % len(symbols)]`.

    Notation for shapes: N accounts, K account fields, W bars in a window, F features.

    `p3kit.env` describes a step. `step` draws no random numbers and never waits for the device: the caller passes a
    uniform number per row, which sets where a row restarts, and calls `raise_if_faulty` from time to time.
    Same inputs, same bits; an account's numbers depend on no other account.
    """

    autoreset = "same_step"
    action_names = ACTIONS
    num_actions = len(ACTIONS)
    account_fields = ACCOUNT_FIELDS
    account_size = len(ACCOUNT_FIELDS)
    _rows: Rows

    def __init__(
        self,
        market: Mapping[str, SymbolData],
        spec: Spec,
        *,
        symbols: Sequence[str],
        split: str = "train",
        num_envs: int | None = None,
        device: str | torch.device = "cpu",
        invalid_action: Literal["error", "hold"] = "error",
        continuous: bool = False,
    ) -> None:
        """`num_envs` is N in all (default: env.num_envs per symbol). A masked action is executed as HOLD and counted;
        with `invalid_action="error"`, `raise_if_faulty` then raises. With `continuous`, an account begins on the first
        bar of the split and lives to its last. Raises DataError where a split has too few bars.
        """
        self.device = torch.device(device)
        self.symbols = tuple(symbols)
        self.split = split
        self.invalid_action = invalid_action
        self.rules = Rules.from_spec(spec, continuous=continuous)
        unique = tuple(dict.fromkeys(self.symbols))
        self._data = tuple(market[name] for name in unique)  # (S,)
        self.bars = Bars(market, unique, self.rules.fill, spec.env.window, self.device)
        self._clip = float(spec.observation.clip)
        self._clipped = self.bars.features.clamp(-self._clip, self._clip)  # once, not at every look
        self.observation_size = self.bars.window * self.bars.num_features + self.account_size

        self._tables = Tables(
            transitions=self.bars.transitions,
            orders=order_table(self.rules, self.device),
            masks=mask_table(self.device),
            one_hot=torch.eye(self.num_actions, dtype=torch.float64, device=self.device),
        )
        self._step_training: Callable[..., tuple[Timestep, Rows]] = step_training
        self._step_windows: Callable[..., tuple[Timestep, Rows]] = step_windows
        self._offsets = torch.as_tensor(self.bars.offsets, device=self.device)  # (S,)
        self._ranges = torch.tensor([self._split_range(data) for data in self._data], device=self.device)  # (S, 2)
        self._symbol_rows = torch.tensor([unique.index(name) for name in self.symbols], device=self.device)

        rows = spec.env.num_envs * len(self.symbols) if num_envs is None else num_envs
        self._training_symbol = self._symbol_rows.repeat(-(-rows // len(self.symbols)))[:rows]  # (N,)
        first, end = self._ranges[self._training_symbol].unbind(1)
        length = end - first - 1
        if not continuous:
            length = length.clamp(max=self.rules.episode_bars)
        self._first_start = first + self._offsets[self._training_symbol]  # (N,) row of the earliest start
        self._num_starts = end - first - length  # (N,)
        self._training_length = length.to(torch.float64)  # (N,)
        self._begin(self._training_symbol, self._first_start, self._training_length, replay=False)

    def _split_range(self, data: SymbolData) -> tuple[int, int]:
        """First bar and last bar + 1 in which an account of this env may act on one symbol."""
        if self.split not in data.splits:
            raise DataError(data.symbol, f"there is no split {self.split!r}", f"it has {', '.join(data.splits)}")
        first, end = data.splits[self.split]
        if end - first < 2:
            usable = max(end - first, 0)
            raise DataError(data.symbol, f"the {self.split} split has {usable} usable bars", "at least 2 are needed")
        check_windows(data, first, end, self.bars.window)
        return first, end

    def update(self, spec: Spec) -> None:
        """Take numbers that moved (costs, limits, reward settings) from `spec`. Windows, fills and rows stay."""
        self.rules = Rules.from_spec(spec, continuous=self.rules.continuous)
        self._tables = self._tables._replace(orders=order_table(self.rules, self.device))

    def compile(self, compiled: Callable[[Any], Any] = FIXED_SHAPES) -> None:
        """Run steps through `compiled`, which turns a function of tensors into a faster one; numbers agree to rounding.

        It pays on a GPU and at hundreds of rows, once the quarter of a minute that compiling takes is repaid.
        """
        self._step_training, self._step_windows = compiled(step_training), compiled(step_windows)

    # ---- playing ----------------------------------------------------------------------------------------------------

    @property
    def num_envs(self) -> int:
        """N: accounts in all, or windows after `reset_windows`."""
        return self._rows.index.shape[0]

    @property
    def accounts(self) -> Account:
        """The current books of the N accounts, float64; not for writing."""
        return self._rows.account

    @torch.no_grad()
    def reset(self, start: Tensor) -> Timestep:
        """Start a training episode in every row, at the place given by `start` (N,), uniform in [0, 1)."""
        self._begin(self._training_symbol, start_row(start, self._course), self._training_length, replay=False)
        return self.standing()

    @torch.no_grad()
    def reset_windows(self, symbol_index: Tensor, first_bar: Tensor, last_bar: Tensor) -> Timestep:
        """Let each row play its own window once: flat at `first_bar`, forced out at the close of `last_bar`.

        A continuous account keeps its position there; it is marked at that close. All (N,) int64; `symbol_index` counts
        in `symbols`, and N may change. A row whose window ended does not change, and is `alive` and `valid` False, for
        any action. Raises ValueError for a window that leaves the split or has fewer than two
        bars.
        """
        symbol_index, first_bar, last_bar = (t.to(self.device) for t in (symbol_index, first_bar, last_bar))
        symbol = self._symbol_rows[symbol_index]
        first, end = self._ranges[symbol].unbind(1)
        wrong = (first_bar < first) | (last_bar >= end) | (first_bar >= last_bar)
        if bool(wrong.any()):
            i = int(wrong.nonzero()[0])
            raise ValueError(
                f"window {i}, bars {int(first_bar[i])} to {int(last_bar[i])} of {self.symbols[int(symbol_index[i])]}, "
                f"is not inside the {self.split} split, bars {int(first[i])} to {int(end[i]) - 1}"
            )
        length = (last_bar - first_bar).to(torch.float64)
        self._begin(symbol, first_bar + self._offsets[symbol], length, replay=True)
        return self.standing()

    @torch.no_grad()
    def step(self, action: Tensor, start: Tensor | None = None) -> Timestep:
        """Let one bar pass. `action` (N,) int64; `start` (N,) in [0, 1) sets where a row that ends restarts, and is not
        used in windows."""
        rules, any_late = self.rules, self.bars.any_late
        if self._replay:
            step, self._rows = self._step_windows(self._rows, action, self._course, self._tables, rules, any_late)
        elif start is not None:
            start = start.clone()  # a row of a larger tensor has an offset, and torch.compile compiled for each offset
            step, self._rows = self._step_training(
                self._rows, action, start, self._course, self._tables, rules, any_late
            )
        else:
            raise ValueError(NEEDS_START)
        return step

    @torch.no_grad()
    def step_some(self, rows: Tensor, action: Tensor, start: Tensor) -> Timestep:
        """Let one bar pass for `rows` (n,) int64, without repetition; the others wait. All (n,), in the order of rows.

        Training episodes only (RuntimeError in windows).
        """
        if self._replay:
            raise RuntimeError("windows are played by all rows together")
        step, moved = step_training(
            self._rows.take(rows),
            action,
            start,
            self._course.take(rows),
            self._tables,
            self.rules,
            self.bars.any_late,
        )
        self._rows = self._rows.put(rows, moved)
        return step

    @torch.no_grad()
    def restart_some(self, rows: Tensor, start: Tensor) -> None:
        """Put `rows` (n,) int64 at the start of a new training episode, `start` (n,) in [0, 1); see `standing`."""
        course = self._course.take(rows)
        self._rows = self._rows.put(rows, begin_rows(start_row(start, course), course, self._tables))

    def _begin(self, symbol: Tensor, index: Tensor, length: Tensor, replay: bool) -> None:
        """Put fresh accounts on rows `index` of `symbol` for episodes of `length` bars, all (N,)."""
        self._replay = replay
        self._symbol = symbol
        account = fresh_account(length, self.rules)
        last_action = torch.full_like(index, HOLD)
        fields = observe_account(account, last_action, self._tables.one_hot, self.rules)
        self._course = Course(
            symbol_offset=self._offsets[symbol],
            first_start=self._first_start,
            num_starts=self._num_starts,
            last=index + length.long() if replay else self._first_start + self._training_length.long(),
            fresh=torch.stack(account),
            fresh_fields=fields,
        )
        self._rows = begin_rows(index, self._course, self._tables)

    def standing(self) -> Timestep:
        """The current rows, before any step."""
        rows, equity = self._rows, self.accounts.equity
        zero, no = torch.zeros_like(equity), torch.zeros_like(rows.alive)
        return Timestep(
            index=rows.index,
            account=rows.fields,
            mask=rows.mask,
            components=zero.new_zeros(len(zero), len(COMPONENTS)),
            terminated=no,
            truncated=no,
            final_index=rows.index,
            final_account=rows.fields,
            equity=equity,
            bar_return=zero,
            traded_value=zero,
            cost_paid=zero,
            closed_profit=torch.full_like(zero, torch.nan),
            exposure=zero,
            bar=rows.index - self._course.symbol_offset,
            action=torch.full_like(rows.index, HOLD),
            alive=rows.alive,
            valid=~no,
        )

    # ---- looking ----------------------------------------------------------------------------------------------------

    def observe(self, index: Tensor, account: Tensor) -> Tensor:
        """Observations (…, observation_size) float32 of rows `index` (…) and account fields (…, K).

        The window comes first, oldest bar first, each bar's features together; then the account. Values are clipped to
        ± observation.clip.
        """
        seen = torch.empty(*index.shape, self.observation_size, dtype=torch.float32, device=self.device)
        flat = seen.view(-1, self.observation_size)  # written in place: at many rows the copies would cost most
        self.bars.windows(self._clipped, index.reshape(-1), out=flat[:, : -self.account_size])
        torch.clamp(account, -self._clip, self._clip, out=seen[..., -self.account_size :])
        return seen

    def observation_stats(self, index: Tensor, account: Tensor) -> tuple[Tensor, Tensor]:
        """Largest |value| before clipping, and the share of values that clipping cuts; tensors without dimensions."""
        windows = self.bars.windows(self.bars.features, index.reshape(-1))
        size = torch.cat((windows, account.reshape(-1, self.account_size)), dim=1).abs_()
        return size.amax(), (size > self._clip).to(torch.float32).mean()

    # ---- faults -----------------------------------------------------------------------------------------------------

    @property
    def masked_actions(self) -> Tensor:
        """(N,) int64: masked actions requested since the last reset; each was executed as HOLD."""
        return self._rows.masked_actions

    def raise_if_faulty(self) -> None:
        """Raise NumericalFault if a reward component was not finite or a masked action selected since the last reset.

        Waits for the device: call it once per rollout.
        """
        for fault in self.faults().values():
            raise fault

    def faults(self) -> dict[int, NumericalFault]:
        """Faults since the last reset, by account; empty if there are none. Waits for the device."""
        nonfinite_bar, masked_actions = self._rows.nonfinite_bar.cpu(), self._rows.masked_actions.cpu()
        faults: dict[int, NumericalFault] = {}
        for row, column in (nonfinite_bar >= 0).nonzero().tolist():
            where = f"{self._name(row)}: bar {int(nonfinite_bar[row, column])}"
            what = f"the {COMPONENTS[column]} component of account {row} is not finite"
            faults.setdefault(row, NumericalFault(where, what, "look at the prices there"))
        if self.invalid_action == "error":
            for row in (masked_actions > 0).nonzero().flatten().tolist():
                where, what = (
                    f"{self._name(row)}: account {row}",
                    f"{int(masked_actions[row])} masked actions were selected",
                )
                hint = "sample from the policy with Timestep.mask of the same step"
                faults.setdefault(row, NumericalFault(where, what, hint))
        return faults

    def _name(self, row: int) -> str:
        return self.bars.symbols[int(self._symbol[row])]

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `reset` and `step` change, as a flat dict of tensors; rows of windows are not kept."""
        if self._replay:
            raise RuntimeError("an env that plays windows has no state to resume from")
        rows = self._rows
        return {
            "account": torch.stack(rows.account),
            "bar": rows.index - self._course.symbol_offset,  # inside its symbol: other symbols may come and go
            "fields": rows.fields.clone(),
            "masked_actions": rows.masked_actions.clone(),
            "nonfinite_bar": rows.nonfinite_bar.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Timestep:
        """Continue where `state_dict` was taken; returns the current rows. CheckpointError if N differs."""
        self._begin(self._training_symbol, self._first_start, self._training_length, replay=False)
        if state["account"].shape != self._course.fresh.shape:
            raise CheckpointError(
                "env state",
                f"it holds {tuple(state['account'].shape)} account numbers, this env {tuple(self._course.fresh.shape)}",
                "resume with the spec of the run",
            )
        account = Account(*state["account"].to(self.device).unbind(0))
        self._rows = self._rows._replace(
            index=state["bar"].to(self.device) + self._course.symbol_offset,
            account=account,
            fields=state["fields"].to(self.device),
            mask=action_mask(account, self._tables.masks),
            masked_actions=state["masked_actions"].to(self.device),
            nonfinite_bar=state["nonfinite_bar"].to(self.device),
        )
        return self.standing()
