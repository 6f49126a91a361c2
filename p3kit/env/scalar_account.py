"""One account in plain Python: the reference that the batched engine is tested against, written to be read.

It keeps what a bookkeeper keeps (a list of purchases, a list of sales, the equity at every close) and works everything
out from those, one bar at a time. It shares constants with the batched engine, and no formula. The words are those of
`p3kit.env`; money is in the account's currency, prices are per share, shares of something are fractions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p3kit.env import rules as r
from p3kit.env.rules import Rules
from p3kit.metrics import ACTIONS

if TYPE_CHECKING:
    from p3kit.market import SymbolData


@dataclass
class Lot:
    """Shares bought in one order and not yet sold."""

    shares: float
    fill: float  # price of the fill, before slippage
    paid: float  # slippage and commission included


@dataclass(frozen=True)
class Sale:
    """A piece of a position that was closed."""

    profit: float  # net of both fees
    entry_value: float  # at fill prices
    bars: int  # held


@dataclass(frozen=True)
class Outcome:
    """Result of one bar, named as in `Timestep`; `components` are in the order of `metrics.COMPONENTS`."""

    components: list[float]
    equity: float
    bar_return: float
    traded_value: float
    cost_paid: float
    closed_profit: float | None
    exposure: float
    terminated: bool
    truncated: bool


class ScalarAccount:
    """One account over the bars `first` … `last` of one symbol, flat at the close of `first`."""

    def __init__(self, data: SymbolData, rules: Rules, first: int, last: int) -> None:
        self.rules = rules
        self.close = floats(data.close)
        self.open = None if data.open is None else floats(data.open)
        self.high = None if data.high is None else floats(data.high)
        self.low = None if data.low is None else floats(data.low)
        self.volatility = floats(data.volatility)
        self.first, self.last, self.bar = first, last, first
        self.cash = rules.initial_capital
        self.lots: list[Lot] = []
        self.equities = [rules.initial_capital]  # at every close of the episode so far
        self.profits: list[float] = []  # of every sale of the episode; see `_begin_anew`
        self.last_action = "HOLD"
        self.bars_held = 0
        self.entry_size = 0.0
        self.cash_at_entry = 0.0
        self.adds = 0
        self.ended = False
        self._cost = self._traded = 0.0  # of the step under way, like the two below
        self._sales: list[Sale] = []
        self._filled_exposure: float | None = None  # after a BUY or ADD

    # ---- the agent's observation ------------------------------------------------------------------------------------

    @property
    def equity(self) -> float:
        """Cash and market value at the close of the bar."""
        return self.cash + self.market_value

    @property
    def market_value(self) -> float:
        """Value of the shares at the close of the bar, in cash units."""
        return self.shares * self.close[self.bar]

    @property
    def shares(self) -> float:
        """Shares held."""
        return sum(lot.shares for lot in self.lots)

    @property
    def paid(self) -> float:
        """Cost of the shares held, fees included, in cash units."""
        return sum(lot.paid for lot in self.lots)

    def allowed(self) -> set[str]:
        """The actions that the mask allows."""
        if not self.lots:
            return {"HOLD", "BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE"}
        actions = {"HOLD", "SELL_HALF", "SELL_ALL"}
        large_enough = self.add_budget() >= min(self.rules.sizes) / 2 * self.equity * (1 - r.ROUNDING)
        above_water = self.market_value >= self.paid * (1 - r.ROUNDING)
        if large_enough and above_water and self.adds < self.rules.max_adds:
            actions.add("ADD")
        return actions

    def add_budget(self) -> float:
        """Money that an ADD may spend: as much as the opening order would, within the position limit and the cash."""
        room = self.rules.max_position * self.equity - self.market_value
        return min(self.entry_size * self.equity, room, self.cash)

    def fields(self) -> list[float]:
        """The account's part of the observation, in the order of `ACCOUNT_FIELDS`."""
        rules, equity, peak, anchor = self.rules, self.equity, max(self.equities), self.equities[0]
        return [
            1.0 if self.lots else 0.0,
            self.market_value / equity,
            self.market_value / self.paid - 1 if self.lots else 0.0,
            min(self.bars_held / rules.episode_bars, 1.0) if self.lots else 0.0,
            self.cash / equity,
            equity / anchor - 1,
            (peak - equity) / peak,
            largest_drawdown(self.equities),
            sum(self.profits) / anchor,
            self._episode_left(),
            self.adds / max(rules.max_adds, 1) if self.lots else 0.0,
            self.add_budget() / equity if "ADD" in self.allowed() else 0.0,
            *(1.0 if name == self.last_action else 0.0 for name in ACTIONS),
        ]

    def _episode_left(self) -> float:
        """Share of the episode still to come."""
        if self.rules.continuous:
            return max(0.0, 1 - self.bars_held / self.rules.episode_bars)
        return (self.last - self.bar) / (self.last - self.first)

    # ---- one bar ----------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Outcome:
        """Carry out `action` and let one bar pass. Raises ValueError for a masked action or an account that ended."""
        if self.ended:
            raise ValueError("the episode has ended")
        if action not in self.allowed():
            raise ValueError(f"{action} is masked at bar {self.bar}")
        was_long, equity_before, exposure_before = bool(self.lots), self.equity, self.market_value / self.equity
        held_before, now, then = self.bars_held, self.bar, self.bar + 1
        self.last_action = action
        self._cost = self._traded = 0.0
        self._sales, self._filled_exposure = [], None
        late = self.rules.fill == "next" and self.open is None

        if late:
            self._meet_path(then)
            order_is_void = was_long and not self.lots  # the position it was meant for is gone
            if not order_is_void:
                self._carry_out(action, self.close[then], held_before + 1)
            if was_long:
                self.bars_held = held_before + 1
        else:
            fill = self.close[now] if self.rules.fill == "close" or self.open is None else self.open[then]
            self._carry_out(action, fill, held_before)
            self._meet_path(then)
            self.bars_held += 1

        self.bar = then
        terminated = self.equity < self.rules.ruin * self.rules.initial_capital * (1 - r.ROUNDING)
        truncated = then == self.last and not terminated
        if terminated or (truncated and not self.rules.continuous):
            self._sell(1.0, self.close[then], self.bars_held)
        self.ended = terminated or truncated
        self.equities.append(self.equity)

        went_flat = not self.lots and (was_long or self._filled_exposure is not None)
        closed_profit = self.cash - self.cash_at_entry if went_flat else None
        components = self._components(action, was_long, held_before, exposure_before, closed_profit)
        if not self.lots:
            self.bars_held, self.adds, self.entry_size = 0, 0, 0.0
            self._begin_anew()
        return Outcome(
            components=components,
            equity=self.equity,
            bar_return=self.equity / equity_before - 1,
            traded_value=self._traded,
            cost_paid=self._cost,
            closed_profit=closed_profit,
            exposure=self.market_value / self.equity,
            terminated=terminated,
            truncated=truncated,
        )

    def _begin_anew(self) -> None:
        """Forget the past of a continuous account that is flat: its next trade is an episode of its own."""
        if self.rules.continuous:
            self.equities, self.profits = [self.equity], []

    def _carry_out(self, action: str, fill: float, bars_held: int) -> None:
        """Fill the agent's order at the price `fill`; budgets are those of the close it was decided at."""
        if action.startswith("BUY"):
            size = self.rules.sizes[("BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE").index(action)]
            self.entry_size, self.cash_at_entry, self.bars_held = size, self.cash, 0
            self._buy(size * self.equity, fill)
        elif action == "ADD":
            self._buy(self.add_budget(), fill)
            self.adds += 1
        elif action == "SELL_HALF":
            self._sell(0.5, fill, bars_held)
        elif action == "SELL_ALL":
            self._sell(1.0, fill, bars_held)

    def _buy(self, budget: float, fill: float) -> None:
        """Buy as many shares as `budget` pays for, slippage and commission included."""
        price = fill * (1 + self.rules.slippage)
        shares = budget / (price * (1 + self.rules.commission))
        self.cash -= budget
        self.lots.append(Lot(shares, fill, budget))
        self._traded += shares * fill
        self._cost += shares * (price - fill) + shares * price * self.rules.commission
        self._filled_exposure = self.shares * fill / (self.cash + self.shares * fill)

    def _sell(self, share: float, fill: float, bars_held: int) -> None:
        """Sell the same share of every lot."""
        if not self.lots:
            return
        price = fill * (1 - self.rules.slippage)
        sold = [Lot(lot.shares * share, lot.fill, lot.paid * share) for lot in self.lots]
        shares = sum(lot.shares for lot in sold)
        commission = shares * price * self.rules.commission
        proceeds = shares * price - commission
        self.cash += proceeds
        profit = proceeds - sum(lot.paid for lot in sold)
        self.profits.append(profit)
        self._sales.append(Sale(profit, sum(lot.shares * lot.fill for lot in sold), bars_held))
        self._traded += shares * fill
        self._cost += shares * (fill - price) + commission
        if share == 1.0:
            self.lots = []
        else:
            self.lots = [
                Lot(a.shares - b.shares, a.fill, a.paid - b.paid) for a, b in zip(self.lots, sold, strict=True)
            ]

    def _meet_path(self, then: int) -> None:
        """Sell the position where the path of bar `then` meets a resting order."""
        if not self.lots:
            return
        price = self._resting_price(then)
        if price is not None:
            self._sell(1.0, price, self.bars_held + 1)

    def _resting_price(self, then: int) -> float | None:
        """The price at which the first resting order fills on bar `then`, or None."""
        rules, close = self.rules, self.close[then]
        opened, high, low = self._path(then)
        average = sum(lot.shares * lot.fill for lot in self.lots) / self.shares
        if rules.stop is not None and opened <= average * (1 - rules.stop) * (1 + r.ROUNDING):
            return opened
        if rules.target is not None and opened >= average * (1 + rules.target) * (1 - r.ROUNDING):
            return opened
        if rules.stop is not None and low <= average * (1 - rules.stop) * (1 + r.ROUNDING):
            return average * (1 - rules.stop)
        if rules.target is not None and high >= average * (1 + rules.target) * (1 - r.ROUNDING):
            return average * (1 + rules.target)
        if rules.max_hold is not None and self.bars_held + 1 >= rules.max_hold:
            return close
        return None

    def _path(self, then: int) -> tuple[float, float, float]:
        """Open, high and low of bar `then`, as far as the symbol has them."""
        close = self.close[then]
        opened = close if self.open is None else self.open[then]
        high = max(opened, close) if self.high is None else self.high[then]
        low = min(opened, close) if self.low is None else self.low[then]
        if self.open is None:
            opened = min(max(self.close[then - 1], low), high)
        return opened, high, low

    # ---- reward -----------------------------------------------------------------------------------------------------

    def _components(
        self, action: str, was_long: bool, held_before: int, exposure_before: float, closed_profit: float | None
    ) -> list[float]:
        """The seven components of the step whose equity was just appended."""
        rules, capital = self.rules, self.rules.initial_capital
        patience = rules.max_hold or r.DEFAULT_PATIENCE
        gain = self.equities[-1] - self.equities[-2]
        if rules.continuous:
            return [gain / capital / (r.UNIT if rules.formulas == "sound" else 1.0), *[0.0] * 6]
        returns = [b / a - 1 for a, b in zip(self.equities, self.equities[1:], strict=False)]
        sizing = self._sizing()
        hold = 0.0
        if action == "HOLD" and was_long and held_before > r.FREE_HOLD_BARS:
            hold = -min(1.0, (held_before - r.FREE_HOLD_BARS) / patience)
        if rules.formulas == "guide":
            bars = self._sales[-1].bars if self._sales else 0
            return [
                gain / capital,
                -self._cost / capital,
                guide_time(bars, closed_profit > r.ROUNDING * capital, patience) if closed_profit is not None else 0.0,
                guide_sharpe(returns, rules.target_sharpe),
                guide_drawdown(1 - self.equities[-1] / max(self.equities)),
                sizing,
                hold,
            ]
        unit = r.UNIT * capital
        deeper = q(largest_drawdown(self.equities)) - q(largest_drawdown(self.equities[:-1]))
        return [
            gain / unit,
            -self._cost / unit,
            sum(sound_time(sale.profit / unit, sale.entry_value / unit, sale.bars, patience) for sale in self._sales),
            exposure_before / rules.max_position * differential_sharpe(returns),
            -deeper / r.UNIT,
            sizing,
            hold,
        ]

    def _sizing(self) -> float:
        """Distance between the exposure of this step's BUY or ADD and the exposure that fits the volatility."""
        if self._filled_exposure is None:
            return 0.0
        rules, volatility = self.rules, self.volatility[self.bar - 1]
        ideal = math.inf if volatility == 0 else rules.target_volatility / volatility
        ideal = max(min(rules.sizes), min(ideal, rules.max_position))
        return -min(1.0, abs(self._filled_exposure - ideal) / ideal)


def floats(column: NDArray[np.float64]) -> Sequence[float]:
    """A column that reads as plain Python floats, not copied: many accounts may look at one symbol."""
    return np.ascontiguousarray(column, dtype=np.float64).data


def largest_drawdown(equities: list[float]) -> float:
    """The deepest fall from an earlier high, as a share of that high."""
    return max(1 - later / max(equities[: i + 1]) for i, later in enumerate(equities))


def q(drawdown: float) -> float:
    """Cumulative penalty for the maximum drawdown."""
    if drawdown < r.DRAWDOWN_FREE:
        return 0.0
    if drawdown <= r.DRAWDOWN_DEEP:
        return drawdown - r.DRAWDOWN_FREE
    return drawdown - r.DRAWDOWN_FREE + (drawdown - r.DRAWDOWN_DEEP) ** 2


def sound_time(profit: float, entry_value: float, bars: int, patience: int) -> float:
    """Of one sale, profit and entry value in units."""
    if profit > 0:
        return 0.25 * min(profit, r.TAKE * entry_value) / max(bars, 1)
    return 0.25 * profit * (1 + min(bars, patience) / patience)


def differential_sharpe(returns: list[float]) -> float:
    """Of the last return, given those before it; 0 while there are fewer than 20 of these."""
    *earlier, newest = returns
    if len(earlier) < r.SHARPE_WARMUP_BARS:
        return 0.0
    decay = [r.SHARPE_DECAY * (1 - r.SHARPE_DECAY) ** age for age in range(len(earlier))]  # newest first
    a = sum(weight * x for weight, x in zip(decay, reversed(earlier), strict=True))
    b = sum(weight * x * x for weight, x in zip(decay, reversed(earlier), strict=True))
    if b - a**2 <= r.SHARPE_MIN_VARIANCE:
        return 0.0
    ratio = (b * (newest - a) - a * (newest**2 - b) / 2) / math.pow(b - a**2, 1.5)
    return max(-r.SHARPE_CLIP, min(r.SHARPE_CLIP, ratio))


def guide_time(hold_duration: int, profitable: bool, max_hold: int) -> float:
    """The guide's `compute_time_reward`."""
    if profitable:
        return 1.0 / max(hold_duration, 1)
    return -hold_duration / max_hold


def guide_sharpe(returns: list[float], target_sharpe: float) -> float:
    """The guide's `compute_sharpe_reward`; `np.std` divides by n, and so does `pstdev`."""
    if len(returns) < 2:
        return 0.0
    return statistics.fmean(returns) / (statistics.pstdev(returns) + 1e-6) - target_sharpe


def guide_drawdown(current_dd: float) -> float:
    """The guide's `compute_drawdown_penalty`."""
    if current_dd < 0.05:
        return 0.0
    if current_dd < 0.15:
        return -current_dd
    return -(current_dd**2)
