"""Paths over a split: rows of one environment that each play a span of bars, and the record of each row.

In mode `continuous` a path is one account from the first bar of the split to its last, as a user trades it. In mode
`windows` it is played in windows of `episode_bars` back to back (the last one shorter), each starting flat with the
initial capital, as an agent is trained. Windows do not depend on each other, so all of them are played at once, and
their bar returns are concatenated in order of time. The training split is always played in windows.

Notation for shapes: K players, B bars of the split, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit import metrics as formulas
from p3kit.env import Timestep, TradingEnv, make_trading_env
from p3kit.market import SymbolData
from p3kit.market.symbol_data import AnySplit
from p3kit.runtime.action_rule import bar_draws
from p3kit.spec import Spec

HOLD = formulas.ACTIONS.index("HOLD")

Array = NDArray[Any]
Span = tuple[int, int]
"""First and last bar: an action is decided on the first to the last − 1, and marked on the bar after it."""
Split = AnySplit
Mode = Literal["continuous", "windows"]
Decide = Callable[[Timestep, TradingEnv], Tensor]


@dataclass(frozen=True)
class Walk:
    """One path over one split: B bars in order of time."""

    bar: Array  # (B,) the bar each action was decided on
    bar_return: Array  # (B,) equity change of the step / equity before it
    action: Array  # (B,)
    exposure: Array  # (B,) share of equity invested after the step
    traded: Array  # (B,) traded value / equity
    cost: Array  # (B,) commission and slippage / initial capital
    profit: Array  # (trades,) net profit of each closed round trip / initial capital

    @cached_property
    def equity(self) -> Array:
        """(B + 1,) compounded from 1."""
        return np.concatenate([[1.0], np.cumprod(1 + self.bar_return)])

    @property
    def is_open(self) -> bool:
        """True where a position is held at the end, as only a continuous account does."""
        return bool(self.exposure[-1] > 0)


class Player:
    """The bars and the rules of one agent, and the mode in which it is evaluated."""

    def __init__(
        self, spec: Spec, bars: SymbolData, symbol: str, seed: int, device: torch.device, mode: Mode = "continuous"
    ) -> None:
        self.spec, self.bars, self.symbol, self.seed, self.device = spec, bars, symbol, seed, device
        self.mode: Mode = mode
        self._draws: dict[Split, Array] = {}

    @property
    def has_training_bars(self) -> bool:
        """False for bars outside the splits of a run that begin after its training split."""
        return "train" in self.bars.splits

    def mode_of(self, split: Split) -> Mode:
        """The mode in which a split is played."""
        return "windows" if split == "train" else self.mode

    def draws(self, split: Split) -> Array:
        """The uniform number of each bar (T,) for the rule `sampled`; 0 outside the split."""
        if split not in self._draws:
            first, last = self.bars.splits[split]
            self._draws[split] = np.zeros(len(self.bars.close))
            self._draws[split][first:last] = bar_draws(self.seed, self.symbol, self.bars.timestamps[first:last])
        return self._draws[split]

    def windows(self, split: Split) -> list[Span]:
        """The windows of a split."""
        first, last = self.bars.splits[split]
        return windows(first, last, self.spec.env.episode_bars)

    def spans(self, split: Split) -> list[Span]:
        """The windows of a split, or the whole of it as one span."""
        first, last = self.bars.splits[split]
        return self.windows(split) if self.mode_of(split) == "windows" else [(first, last - 1)]


def windows(first: int, last: int, length: int) -> list[Span]:
    """(first bar, last bar) of windows back to back: each decides on its first … last − 1 bars, marks on the next.

    `first`, `last` is the half-open bar range of a split; every return of the split belongs to exactly one window.
    """
    starts = range(first, last - 1, length)
    return [(start, min(start + length, last - 1)) for start in starts]


def play(players: Sequence[Player], decide: Decide, split: Split, spans: Sequence[Span]) -> list[Walk]:
    """Play every span once, the same number for each player and in their order; one Walk per span."""
    continuous = players[0].mode_of(split) == "continuous"
    table = play_spans(players, decide, split, spans, _STEP_COLUMNS, continuous=continuous)
    capital = players[0].spec.env.initial_capital
    return [
        walk_of({name: values[table["alive"][:, row], row] for name, values in table.items()}, *span, capital)
        for row, span in enumerate(spans)
    ]


@torch.no_grad()
def play_spans(
    players: Sequence[Player],
    decide: Decide,
    split: Split,
    spans: Sequence[Span],
    names: Sequence[str],
    *,
    continuous: bool,
) -> dict[str, Array]:
    """Play every span once, the same number for each player and in their order.

    (bars of the longest span, R, …) per column: `alive` before the step, the `bar` of the decision, `action`, and those
    in `names` from the Timestep after it; `mask` is the mask of the decision.
    """
    first_one = players[0]
    env = env_of(players, split, len(spans), continuous=continuous)
    first, last = (torch.tensor(edge, device=first_one.device) for edge in zip(*spans, strict=True))
    whose = torch.arange(len(spans), device=first_one.device) // (len(spans) // len(players))
    step = env.reset_windows(whose, first, last)
    still = torch.zeros(len(spans), dtype=torch.float64, device=first_one.device)  # restarts are never used here
    columns: dict[str, list[Tensor]] = {name: [] for name in ("alive", "bar", "action", *names)}
    for _ in range(max(b - a for a, b in spans)):
        before = step
        action = torch.where(before.alive, decide(before, env), HOLD)
        step = env.step(action, still)
        columns["alive"].append(before.alive)
        columns["bar"].append(before.bar)
        columns["action"].append(action)
        for name in names:
            columns[name].append(getattr(before if name == "mask" else step, name))
    env.raise_if_faulty()
    return {name: torch.stack(values).cpu().numpy() for name, values in columns.items()}


def env_of(players: Sequence[Player], split: Split, num_envs: int, *, continuous: bool) -> TradingEnv:
    """One environment in which all players act by the rules of the first."""
    return make_trading_env(
        {one.symbol: one.bars for one in players},
        players[0].spec,
        symbols=[one.symbol for one in players],
        split=split,
        num_envs=num_envs,
        device=players[0].device,
        continuous=continuous,
    )


def walk_of(column: Mapping[str, Array], first: int, last: int, capital: float) -> Walk:
    """One span as a path over all its bars: who was ruined on the way stays in cash for the rest of it."""
    profit = column["closed_profit"][~np.isnan(column["closed_profit"])] / capital
    rest = last - first - len(column["action"])
    if rest:
        column = {name: np.pad(values, (0, rest)) for name, values in column.items()}  # 0 is HOLD, and no return
    equity = capital * np.concatenate([[1.0], np.cumprod(1 + column["bar_return"])[:-1]])
    return Walk(
        bar=np.arange(first, last),
        bar_return=column["bar_return"],
        action=column["action"],
        exposure=column["exposure"],
        traded=column["traded_value"] / equity,
        cost=column["cost_paid"] / capital,
        profit=profit,
    )


def join(walks: list[Walk]) -> Walk:
    return Walk(**{name: np.concatenate([getattr(walk, name) for walk in walks]) for name in Walk.__dataclass_fields__})


_STEP_COLUMNS = ("bar_return", "exposure", "traded_value", "cost_paid", "closed_profit")
