"""`TradingEnv`: N trading accounts that advance together as tensors on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from p3kit.env.account import (
    ACCOUNT_FIELDS,
    HOLD,
    Account,
    action_mask,
    advance,
    fresh_account,
    mask_table,
    observe_account,
    order_table,
)
from p3kit.env.bars import Bars, check_windows
from p3kit.env.reward import reward_components
from p3kit.env.rules import Rules
from p3kit.env.timestep import Timestep
from p3kit.errors import CheckpointError, DataError, NumericalFault
from p3kit.metrics import ACTIONS, COMPONENTS

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.spec import Spec


NEEDS_START = "outside windows, step needs `start`: where does a row go on whose episode ends?"


class TradingEnv:
    """N accounts over the bars of some symbols; account i trades `symbols[i % len(symbols)]`.

    Notation for shapes: N accounts, K account fields, W bars in a window, F features.

    What happens inside a step is told in `p3kit.env`. `step` draws no random numbers and never waits for the device:
    the caller brings a uniform number per row that says where a row restarts, and asks `raise_if_faulty` now and then.
    Same inputs, same bits; an account's numbers depend on no other account.
    """

    autoreset = "same_step"
    action_names = ACTIONS
    num_actions = len(ACTIONS)
    account_fields = ACCOUNT_FIELDS
    account_size = len(ACCOUNT_FIELDS)

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
    ) -> None:
        """`num_envs` is N in all (default: env.num_envs per symbol). A masked action is executed as HOLD and counted;
        with `invalid_action="error"`, `raise_if_faulty` then raises. Raises DataError where a split has too few bars.
        """
        self.device = torch.device(device)
        self.symbols = tuple(symbols)
        self.split = split
        self.invalid_action = invalid_action
        self.rules = Rules.from_spec(spec)
        unique = tuple(dict.fromkeys(self.symbols))
        self._data = tuple(market[name] for name in unique)  # (S,)
        self.bars = Bars(market, unique, self.rules.fill, spec.env.window, self.device)
        self._clip = float(spec.observation.clip)
        self.observation_size = self.bars.window * self.bars.num_features + self.account_size

        self._orders = order_table(self.rules, self.device)
        self._masks = mask_table(self.device)
        self._one_hot = torch.eye(self.num_actions, dtype=torch.float64, device=self.device)
        self._offsets = torch.as_tensor(self.bars.offsets, device=self.device)  # (S,)
        self._ranges = torch.tensor([self._split_range(data) for data in self._data], device=self.device)  # (S, 2)
        self._symbol_rows = torch.tensor([unique.index(name) for name in self.symbols], device=self.device)

        rows = spec.env.num_envs * len(self.symbols) if num_envs is None else num_envs
        self._training_symbol = self._symbol_rows.repeat(-(-rows // len(self.symbols)))[:rows]  # (N,)
        first, end = self._ranges[self._training_symbol].unbind(1)
        length = (end - first - 1).clamp(max=self.rules.episode_bars)
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
        self.rules = Rules.from_spec(spec)
        self._orders = order_table(self.rules, self.device)

    # ---- playing ----------------------------------------------------------------------------------------------------

    @property
    def num_envs(self) -> int:
        """N: accounts in all, or windows after `reset_windows`."""
        return self._index.shape[0]

    @property
    def accounts(self) -> Account:
        """The books of the N accounts as they stand, float64; not for writing."""
        return self._account

    @torch.no_grad()
    def reset(self, start: Tensor) -> Timestep:
        """Start a training episode in every row; `start` (N,) uniform in [0, 1) says where."""
        return self._begin(self._training_symbol, self._start_row(start), self._training_length, replay=False)

    @torch.no_grad()
    def reset_windows(self, symbol_index: Tensor, first_bar: Tensor, last_bar: Tensor) -> Timestep:
        """Let each row play its own window once: flat at `first_bar`, forced out at the close of `last_bar`.

        All (N,) int64; `symbol_index` counts in `symbols`, and N need not be what it was. A row whose window ended
        stays where it is, `alive` and `valid` False, whatever action it is given. Raises ValueError for a window that
        leaves the split or has fewer than two bars.
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
        return self._begin(symbol, first_bar + self._offsets[symbol], length, replay=True)

    @torch.no_grad()
    def step(self, action: Tensor, start: Tensor | None = None) -> Timestep:
        """Let one bar pass. `action` (N,) int64; `start` (N,) in [0, 1) says where a row that ends restarts, and is not
        used in windows."""
        before, index = self._account, self._index + 1
        allowed = self._mask.gather(1, action.unsqueeze(1)).squeeze(1)
        action = torch.where(allowed, action, HOLD)
        bar = self.bars.transition(self._index)
        after, flows = advance(before, action, bar, self._orders, self.rules, self.bars.any_late)
        components, after = reward_components(before, after, flows, bar.volatility, self.rules)
        fields = observe_account(after, action, self._one_hot, self.rules)
        arrived = Timestep(
            index=index,
            account=fields,
            mask=self._mask,
            components=components,
            terminated=flows.terminated,
            truncated=flows.truncated,
            final_index=index,
            final_account=fields,
            equity=after.equity,
            bar_return=after.equity / before.equity - 1.0,
            traded_value=flows.traded_value,
            cost_paid=flows.cost,
            closed_profit=flows.closed_profit,
            exposure=after.market_value / after.equity,
            bar=index - self._symbol_offset,
            action=action,
            alive=self._alive,
            valid=self._alive,
        )
        if self._replay:
            step = self._stay(arrived, after)
        elif start is not None:
            step = self._restart(arrived, after, start)
        else:
            raise ValueError(NEEDS_START)
        self._note_faults(step, allowed)
        return step

    def _start_row(self, start: Tensor) -> Tensor:
        """The row each episode starts on, (N,) int64, from `start` in [0, 1)."""
        skip = (start.to(torch.float64) * self._num_starts).long()
        return self._first_start + torch.minimum(skip, self._num_starts - 1)

    def _begin(self, symbol: Tensor, index: Tensor, length: Tensor, replay: bool) -> Timestep:
        """Put fresh accounts on rows `index` of `symbol` for episodes of `length` bars, all (N,)."""
        self._replay = replay
        self._symbol, self._symbol_offset = symbol, self._offsets[symbol]
        self._index = index
        self._open_books(length)
        self._alive = torch.ones_like(index, dtype=torch.bool)
        self._masked_actions = torch.zeros_like(index)
        self._nonfinite_bar = index.new_full((len(index), len(COMPONENTS)), -1)  # (N, 7) first bar, −1 none
        return self._standing()

    def _open_books(self, length: Tensor) -> None:
        """Flat accounts in all rows, with what they see and what they may do; `length` (N,) bars is their episode."""
        self._account = fresh_account(length, self.rules)
        self._fresh = torch.stack(self._account)  # (fields, N)
        last_action = torch.full_like(self._index, HOLD)
        self._fields = self._fresh_fields = observe_account(self._account, last_action, self._one_hot, self.rules)
        self._mask = action_mask(self._account, self._masks)

    def _standing(self) -> Timestep:
        """The rows as they stand, before any step."""
        equity = self.accounts.equity
        zero, no = torch.zeros_like(equity), torch.zeros_like(self._alive)
        return Timestep(
            index=self._index,
            account=self._fields,
            mask=self._mask,
            components=zero.new_zeros(len(zero), len(COMPONENTS)),
            terminated=no,
            truncated=no,
            final_index=self._index,
            final_account=self._fields,
            equity=equity,
            bar_return=zero,
            traded_value=zero,
            cost_paid=zero,
            closed_profit=torch.full_like(zero, torch.nan),
            exposure=zero,
            bar=self._index - self._symbol_offset,
            action=torch.full_like(self._index, HOLD),
            alive=self._alive,
            valid=~no,
        )

    def _restart(self, arrived: Timestep, after: Account, start: Tensor) -> Timestep:
        """Training: rows whose episode ended stand at a new start in the same step."""
        ended = arrived.terminated | arrived.truncated
        self._account = Account(*torch.where(ended, self._fresh, torch.stack(after)).unbind(0))
        self._index = torch.where(ended, self._start_row(start), arrived.index)
        self._fields = torch.where(ended.unsqueeze(1), self._fresh_fields, arrived.account)
        self._mask = action_mask(self._account, self._masks)
        return arrived._replace(index=self._index, account=self._fields, mask=self._mask)

    def _stay(self, arrived: Timestep, after: Account) -> Timestep:
        """Windows: rows that had ended before this step are where they were, and nothing happened to them."""
        played = self._alive
        stack = torch.where(played, torch.stack(after), torch.stack(self._account))
        self._account = Account(*stack.unbind(0))
        self._index = torch.where(played, arrived.index, self._index)
        self._fields = torch.where(played.unsqueeze(1), arrived.account, self._fields)
        self._alive = played & ~arrived.terminated & ~arrived.truncated
        hold_only = self._one_hot[HOLD].bool()
        self._mask = torch.where(self._alive.unsqueeze(1), action_mask(self._account, self._masks), hold_only)
        return arrived._replace(
            index=self._index,
            account=self._fields,
            mask=self._mask,
            components=torch.where(played.unsqueeze(1), arrived.components, 0.0),
            terminated=arrived.terminated & played,
            truncated=arrived.truncated & played,
            final_index=self._index,
            final_account=self._fields,
            equity=self._account.equity,
            bar_return=torch.where(played, arrived.bar_return, 0.0),
            traded_value=torch.where(played, arrived.traded_value, 0.0),
            cost_paid=torch.where(played, arrived.cost_paid, 0.0),
            closed_profit=torch.where(played, arrived.closed_profit, torch.nan),
            exposure=torch.where(played, arrived.exposure, 0.0),
            bar=self._index - self._symbol_offset,
            alive=self._alive,
            valid=played,
        )

    # ---- looking ----------------------------------------------------------------------------------------------------

    def observe(self, index: Tensor, account: Tensor) -> Tensor:
        """Observations (…, observation_size) float32 of rows `index` (…) and account fields (…, K).

        The window comes first, oldest bar first, each bar's features together; then the account. Values are clipped to
        ± observation.clip.
        """
        return self._gather(index, account).clamp_(-self._clip, self._clip)

    def observation_stats(self, index: Tensor, account: Tensor) -> tuple[Tensor, Tensor]:
        """Largest |value| before clipping, and the share of values that clipping cuts; tensors without dimensions."""
        size = self._gather(index, account).abs_()
        return size.amax(), (size > self._clip).to(torch.float32).mean()

    def _gather(self, index: Tensor, account: Tensor) -> Tensor:
        return torch.cat((self.bars.windows(index), account), dim=-1)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def _note_faults(self, step: Timestep, allowed: Tensor) -> None:
        """Count masked actions and remember the first bar at which a component was not finite, without a sync."""
        self._masked_actions = self._masked_actions + (~allowed & step.valid)
        unnoted = ~step.components.isfinite() & (self._nonfinite_bar < 0)
        self._nonfinite_bar = torch.where(unnoted, step.bar.unsqueeze(1), self._nonfinite_bar)

    @property
    def masked_actions(self) -> Tensor:
        """(N,) int64: masked actions asked for since the last reset; each was executed as HOLD."""
        return self._masked_actions

    def raise_if_faulty(self) -> None:
        """Raise NumericalFault if a reward component was not finite or a masked action selected since the last reset.

        Waits for the device: call it once per rollout.
        """
        if bool((self._nonfinite_bar >= 0).any()):
            row, column = (int(i) for i in (self._nonfinite_bar >= 0).nonzero()[0])
            where = f"{self._name(row)}: bar {int(self._nonfinite_bar[row, column])}"
            raise NumericalFault(
                where, f"the {COMPONENTS[column]} component of account {row} is not finite", "look at the prices there"
            )
        if self.invalid_action == "error" and bool((self._masked_actions > 0).any()):
            row = int(self._masked_actions.argmax())
            raise NumericalFault(
                f"{self._name(row)}: account {row}",
                f"{int(self._masked_actions[row])} masked actions were selected",
                "sample from the policy with Timestep.mask of the same step",
            )

    def _name(self, row: int) -> str:
        return self.bars.symbols[int(self._symbol[row])]

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `reset` and `step` change, as a flat dict of tensors; rows of windows are not kept."""
        if self._replay:
            raise RuntimeError("an env that plays windows has no state to resume from")
        return {
            "account": torch.stack(self._account),
            "index": self._index.clone(),
            "fields": self._fields.clone(),
            "masked_actions": self._masked_actions.clone(),
            "nonfinite_bar": self._nonfinite_bar.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Timestep:
        """Continue where `state_dict` was taken; returns the rows as they stand. CheckpointError if N differs."""
        self._begin(self._training_symbol, self._first_start, self._training_length, replay=False)
        if state["account"].shape != self._fresh.shape:
            raise CheckpointError(
                "env state",
                f"it holds {tuple(state['account'].shape)} account numbers, this env {tuple(self._fresh.shape)}",
                "resume with the spec of the run",
            )
        self._account = Account(*state["account"].to(self.device).unbind(0))
        self._index = state["index"].to(self.device)
        self._fields = state["fields"].to(self.device)
        self._masked_actions = state["masked_actions"].to(self.device)
        self._nonfinite_bar = state["nonfinite_bar"].to(self.device)
        self._mask = action_mask(self._account, self._masks)
        return self._standing()
