"""Backtests on a whole split: the policy, and beside it the fixed rules, in the same engine and at the same fees.

A split is walked in windows of `episode_bars` back to back from its first bar (the last one shorter), each starting
flat with the initial capital. Windows do not depend on each other, so all of them are played at once as rows of one
environment, and their bar returns are concatenated in order of time. Nothing here sees an intervention: the
spec is the user's own.

Notation for shapes: K agents, W windows, B bars of the split, R rows.
"""

from __future__ import annotations

import hashlib
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
from p3kit.spec import Spec

HOLD, BUY_LARGE, SELL_ALL = (formulas.ACTIONS.index(name) for name in ("HOLD", "BUY_LARGE", "SELL_ALL"))
RANDOM_PATHS = 16
MOVING_AVERAGES = (10, 50)
_EQUITY_POINTS = 1_500
LEAST_TRIPS = 20
"""Winners, and losers, below which a median holding time is chance."""
FORESIGHT_BARS = 3
_RECENT_WINDOWS = 8
REGIMES = ("bear", "sideways", "bull")

Array = NDArray[Any]
Split = Literal["train", "validation", "test"]
Policy = Callable[[Tensor, Tensor], Tensor]
"""(observation (R, D), mask (R, A)) → action (R,)"""
StackPolicy = Callable[[Tensor, Tensor], Tensor]
"""The policies of K agents at once: (observation (K, R, D), mask (K, R, A)) → action (K, R)"""
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
    profit: Array  # (trades,) net profit of each round trip / initial capital

    @cached_property
    def equity(self) -> Array:
        """(B + 1,) compounded from 1."""
        return np.concatenate([[1.0], np.cumprod(1 + self.bar_return)])


def windows(first: int, last: int, length: int) -> list[tuple[int, int]]:
    """(first bar, last bar) of windows back to back: each decides on its first … last − 1 bars, marks on the next.

    `first`, `last` is the half-open bar range of a split; every return of the split belongs to exactly one window.
    """
    starts = range(first, last - 1, length)
    return [(start, min(start + length, last - 1)) for start in starts]


class Evaluator:
    """Evaluates one agent's policy on one split, with the training split beside it for the gap.

    The test split is only for `final` evaluators, which p3kit makes for `p3kit evaluate --final` alone; any other
    raises ValueError.
    """

    def __init__(
        self,
        spec: Spec,
        bars: SymbolData,
        symbol: str,
        seed: int,
        device: torch.device,
        *,
        split: Split = "validation",
        final: bool = False,
    ) -> None:
        self.spec, self.bars, self.symbol, self.seed, self.device = spec, bars, symbol, seed, device
        self.split: Split = split
        self.final = final

    def __call__(self, policy: Policy) -> Evaluation:
        return evaluate_together([self], _stack_of_one(policy))[0]

    @cached_property
    def signal_rule(self) -> tuple[str, float]:
        """What can be earned at these fees by a rule that anyone could write: long while one feature is above (or
        below) its mean. The feature is chosen by what it earned on the newest training windows; told is its name and
        what it returned on the split. ("", 0.0) where none earned anything in training.
        """
        moves = [i for i, name in enumerate(self.bars.feature_names) if not name.startswith("regime_")]
        names = [f"{self.bars.feature_names[i]} {side} its mean" for side in ("above", "below") for i in moves]
        table = self.bars.features.T[moves]
        long = np.concatenate([table > 0, table < 0])  # (rules, T); NaN before the look-back is neither
        recent = self.windows("train")[-_RECENT_WINDOWS:]
        earned = [float(np.prod(1 + walk.bar_return)) for walk in self._follow(long, "train", recent)]
        best = int(np.argmax(earned))
        if earned[best] <= 1:
            return "", 0.0
        (walk,) = self._follow(long[best : best + 1], self.split, self.windows(self.split))
        return names[best], float(np.prod(1 + walk.bar_return) - 1)

    @cached_property
    def train_hold_sharpe(self) -> float | None:
        """Buy-and-hold's Sharpe ratio on the training split: how kind the market itself was there."""
        always = np.ones((1, len(self.bars.close)), bool)
        (walk,) = self._follow(always, "train", self.windows("train"))
        return walk_metrics(walk, self.bars.bars_per_year)["sharpe_ratio"]

    def _follow(self, long: Array, split: Split, spans: list[tuple[int, int]]) -> list[Walk]:
        """One path per rule: all in while its signal (rules, T) is on, out while it is off."""
        signals = torch.as_tensor(long, device=self.device)
        rule = torch.arange(len(long) * len(spans), device=self.device) // len(spans)

        def decide(step: Timestep, env: TradingEnv) -> Tensor:
            wanted, flat = signals[rule, step.bar], step.mask[:, BUY_LARGE]
            return torch.where(flat & wanted, BUY_LARGE, torch.where(~flat & ~wanted, SELL_ALL, HOLD))

        walks = _play([self], decide, split, spans * len(long))
        return [_join(walks[i : i + len(spans)]) for i in range(0, len(walks), len(spans))]

    @cached_property
    def foresight(self) -> tuple[str, float]:
        """The feature that knows most about the next bars of the training split, and its |correlation| with them."""
        return feature_foresight(self.bars)

    def walk(self, split: Split, policy: Policy) -> Walk:
        """The policy's one path over a whole split."""
        return walk_together([self], split, _stack_of_one(policy))[0]

    @cached_property
    def rules(self) -> dict[str, list[Walk]]:
        """The fixed rules on the split: one path each, sixteen for the random one. Played once per run."""
        spans = self.windows(self.split)
        long = {"hold": np.zeros(len(self.bars.close), bool), "buy_and_hold": np.ones(len(self.bars.close), bool)}
        long["moving_average"] = _moving_average_signal(self.bars.close)
        fixed = torch.as_tensor(np.stack(list(long.values())), device=self.device)  # (rules, T)
        rows = len(spans) * (len(long) + RANDOM_PATHS)
        rule = torch.arange(rows, device=self.device) // len(spans)
        is_random = rule >= len(long)
        generator = torch.Generator().manual_seed(seed_of("random baseline", self.seed, self.symbol))

        def decide(step: Timestep, env: TradingEnv) -> Tensor:
            wants_long = fixed[rule.clamp_max(len(long) - 1), step.bar]
            flat = step.mask[:, BUY_LARGE]
            action = torch.where(flat & wants_long, BUY_LARGE, HOLD)
            action = torch.where(~flat & ~wants_long, SELL_ALL, action)
            noise = torch.rand(step.mask.shape, generator=generator).to(self.device)
            return torch.where(is_random, noise.masked_fill(~step.mask, -1).argmax(1), action)

        walks = _play([self], decide, self.split, spans * (len(long) + RANDOM_PATHS))
        paths = [_join(walks[i : i + len(spans)]) for i in range(0, rows, len(spans))]
        return {name: [paths[i]] for i, name in enumerate(long)} | {"random": paths[len(long) :]}

    def windows(self, split: Split) -> list[tuple[int, int]]:
        """The windows of a split; ValueError for a look at the test split that nobody asked for."""
        if split == "test" and not self.final:
            raise ValueError("the test split is for final evaluations")
        first, last = self.bars.splits[split]
        return windows(first, last, self.spec.env.episode_bars)


def evaluate_together(evaluators: Sequence[Evaluator], policy: StackPolicy) -> list[Evaluation]:
    """What K agents do on their splits, as if each was evaluated alone. All have the rules and the split of the first;
    symbols may repeat."""
    split = evaluators[0].split
    validation, train = walk_together(evaluators, split, policy), walk_together(evaluators, "train", policy)
    return [
        Evaluation(
            policy=validation[k],
            train=train[k],
            rules=one.rules,
            bars=one.bars,
            bootstrap_seed=one.seed,
            split=split,
            window_bars=one.spec.env.episode_bars,
            foresight=one.foresight,
            signal_rule=one.signal_rule,
            train_hold_sharpe=one.train_hold_sharpe,
            holding_limit=one.spec.env.episode_bars if one.spec.env.max_hold == "off" else int(one.spec.env.max_hold),
        )
        for k, one in enumerate(evaluators)
    ]


def walk_together(evaluators: Sequence[Evaluator], split: Split, policy: StackPolicy) -> list[Walk]:
    """Each agent's one path over a whole split, all in one environment."""
    spans = [one.windows(split) for one in evaluators]
    most = max(map(len, spans))  # agents with fewer windows play their first one again, unseen

    def decide(step: Timestep, env: TradingEnv) -> Tensor:
        observation, mask = env.observe(step.index, step.account), step.mask
        shape = (len(evaluators), most, -1)
        return policy(observation.reshape(shape), mask.reshape(shape)).flatten()

    padded = [window for own in spans for window in own + own[:1] * (most - len(own))]
    walks = _play(evaluators, decide, split, padded)
    return [_join(walks[k * most : k * most + len(own)]) for k, own in enumerate(spans)]


def _stack_of_one(policy: Policy) -> StackPolicy:
    return lambda observation, mask: policy(observation.squeeze(0), mask.squeeze(0)).unsqueeze(0)


def _play(evaluators: Sequence[Evaluator], decide: Decide, split: Split, spans: list[tuple[int, int]]) -> list[Walk]:
    """Play every window once, the same number for each evaluator and in their order; one Walk per window."""
    table = play_windows(evaluators, decide, split, spans, _STEP_COLUMNS)
    capital = evaluators[0].spec.env.initial_capital
    return [_cut(table, row, *span, capital) for row, span in enumerate(spans)]


@torch.no_grad()
def play_windows(
    evaluators: Sequence[Evaluator],
    decide: Decide,
    split: Split,
    spans: list[tuple[int, int]],
    names: Sequence[str],
) -> dict[str, Array]:
    """Play every window once, the same number for each evaluator and in their order.

    (bars of the longest window, R, …) per column: `alive` before the step, the `bar` it was decided on, `action`, and
    of `names` what the Timestep after it says; `mask` is the one that the decision was made under.
    """
    first_one = evaluators[0]
    env = make_trading_env(
        {one.symbol: one.bars for one in evaluators},
        first_one.spec,
        symbols=[one.symbol for one in evaluators],
        split=split,
        num_envs=len(spans),
        device=first_one.device,
    )
    first, last = (torch.tensor(edge, device=first_one.device) for edge in zip(*spans, strict=True))
    whose = torch.arange(len(spans), device=first_one.device) // (len(spans) // len(evaluators))
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


def _cut(table: Mapping[str, Array], row: int, first: int, last: int, capital: float) -> Walk:
    """One window as a path over all its bars: who was ruined on the way stays in cash for the rest of it."""
    played = table["alive"][:, row]
    column = {name: values[played, row] for name, values in table.items()}
    profit = column["closed_profit"][~np.isnan(column["closed_profit"])] / capital
    rest = last - first - int(played.sum())
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


_STEP_COLUMNS = ("bar_return", "exposure", "traded_value", "cost_paid", "closed_profit")


@dataclass(frozen=True)
class Evaluation:
    """What a policy did on a split, and what the fixed rules did there."""

    policy: Walk
    train: Walk
    rules: Mapping[str, list[Walk]]
    bars: SymbolData
    bootstrap_seed: int
    split: Split
    window_bars: int
    foresight: tuple[str, float]
    signal_rule: tuple[str, float]
    train_hold_sharpe: float | None
    holding_limit: int
    """Bars after which a position is closed whatever the policy says."""

    def summary(self) -> dict[str, Any]:
        """What the journal keeps of it."""
        return {
            "split": self.split,
            "metrics": self.metrics,
            "baselines": self.baselines,
            "regimes": self.regimes(),
            "windows": len(range(0, len(self.policy.bar), self.window_bars)),
            "constant": self.is_constant,
            "returns": formulas.return_shape(self.policy.bar_return, self.bars.bars_per_year),
            "foresight": self.foresight[0],
            "signal_rule": {"rule": self.signal_rule[0], "total_return": self.signal_rule[1]},
            **self.intervals(),
        }

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`eval/…` metrics of the policy. A ratio that does not exist (no trade, no loss) is left out, not guessed."""
        values = {f"eval/{name}": value for name, value in walk_metrics(self.policy, self.bars.bars_per_year).items()}
        hold = self.baselines["buy_and_hold"]["sharpe_ratio"]
        values["eval/buy_and_hold_sharpe"] = hold
        if values["eval/sharpe_ratio"] is not None and hold is not None:
            values["eval/sharpe_excess"] = values["eval/sharpe_ratio"] - hold
        returns = [
            float(np.prod(1 + paths[0].bar_return) - 1)
            for name, paths in self.rules.items()
            if name not in ("hold", "random")
        ]
        returns += [self.signal_rule[1]] if self.signal_rule[0] else []
        values["eval/best_fixed_rule_return"] = max(returns)
        values["eval/train_sharpe_ratio"] = walk_metrics(self.train, self.bars.bars_per_year)["sharpe_ratio"]
        values["eval/train_buy_and_hold_sharpe"] = self.train_hold_sharpe
        values["eval/feature_foresight"] = self.foresight[1]
        values |= holding_times([self.train, self.policy], self.holding_limit)
        return {name: value for name, value in values.items() if value is not None}

    @cached_property
    def baselines(self) -> dict[str, dict[str, float | None]]:
        """Metrics of each fixed rule; the random rule's are means over its paths."""
        table: dict[str, dict[str, float | None]] = {}
        for name, paths in self.rules.items():
            rows = [walk_metrics(path, self.bars.bars_per_year) for path in paths]
            table[name] = {key: _mean([row[key] for row in rows]) for key in rows[0]}
        return table

    def regimes(self) -> dict[str, dict[str, float | None]]:
        """Per regime of the deciding bar: bars, compounded return and Sharpe ratio of the policy."""
        table = {}
        regime = self.bars.regime[self.policy.bar]
        for number, name in enumerate(REGIMES):
            returns = self.policy.bar_return[regime == number]
            table[name] = {
                "bars": len(returns),
                "total_return": float(np.prod(1 + returns) - 1),
                "sharpe_ratio": formulas.sharpe_ratio(returns, self.bars.bars_per_year) if len(returns) > 1 else None,
            }
        return table

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % stationary-bootstrap intervals of the Sharpe ratio and of its paired excess over buy-and-hold."""
        if "eval/sharpe_ratio" not in self.metrics:
            return {"sharpe_interval": None, "excess_interval": None}
        own, hold = self.policy.bar_return, self.rules["buy_and_hold"][0].bar_return
        sharpe = formulas.bootstrap_sharpe(own, self.bars.bars_per_year, seed=self.bootstrap_seed)
        excess = formulas.bootstrap_sharpe_difference(own, hold, self.bars.bars_per_year, seed=self.bootstrap_seed)
        return {"sharpe_interval": sharpe and list(sharpe), "excess_interval": excess and list(excess)}

    @property
    def is_constant(self) -> bool:
        """Whether the policy does what a constant rule does: never trades, or holds the market throughout."""
        hold = self.rules["buy_and_hold"][0]
        return bool(not self.policy.exposure.any() or np.mean(self.policy.action == hold.action) > 0.99)

    def equity_curves(self) -> dict[str, Any]:
        """Curves for pictures: at most 1,500 evenly spaced points of time, equity from 1."""
        count = len(self.policy.bar)
        points = np.unique(np.linspace(0, count - 1, min(count, _EQUITY_POINTS)).round().astype(int))
        bar = self.policy.bar[points]
        return {
            "timestamps": [str(stamp)[:19] for stamp in self.bars.timestamps[bar + 1]],
            "price": self.bars.close[bar + 1].tolist(),
            "regime": [REGIMES[number] for number in self.bars.regime[bar]],
            "position": self.policy.exposure[points].tolist(),
            "equity": self.policy.equity[points + 1].tolist(),
            "baselines": {name: paths[0].equity[points + 1].tolist() for name, paths in self.rules.items()},
            "entries": self._moments(opened=True),
            "exits": self._moments(opened=False),
            "bars": count,
            "split": self.split,
        }

    def _moments(self, *, opened: bool) -> list[tuple[str, float]]:
        """(timestamp, close) of the bars at whose close a position was first held, or no longer held."""
        held = np.concatenate([[False], self.policy.exposure > 0])
        turned = held[1:] & ~held[:-1] if opened else ~held[1:] & held[:-1]
        bar = self.policy.bar[turned] + 1
        return [(str(self.bars.timestamps[b])[:19], float(self.bars.close[b])) for b in bar]


def walk_metrics(walk: Walk, bars_per_year: float) -> dict[str, float | None]:
    """The trading metrics of one path. `sharpe_ratio` is None for a path that never held a position."""
    never_traded = not walk.exposure.any() and len(walk.profit) == 0
    shares = np.bincount(walk.action, minlength=len(formulas.ACTIONS)) / len(walk.action)
    return {
        "sharpe_ratio": None if never_traded else formulas.sharpe_ratio(walk.bar_return, bars_per_year),
        "sortino_ratio": None if never_traded else formulas.sortino_ratio(walk.bar_return, bars_per_year),
        "max_drawdown": formulas.max_drawdown(walk.equity),
        "total_return": float(walk.equity[-1] - 1),
        "annual_volatility": formulas.annual_volatility(walk.bar_return, bars_per_year),
        "total_trades": len(walk.profit),
        "trades_per_bar": len(walk.profit) / len(walk.bar),
        "win_rate": formulas.win_rate(walk.profit),
        "profit_factor": formulas.profit_factor(walk.profit),
        "exposure": float(walk.exposure.mean()),
        "turnover": float(walk.traded.mean() * bars_per_year),
        "cost_paid": float(walk.cost.sum()),
        "hold_share": float(shares[HOLD]),
        "actions_used": int((shares >= 0.01).sum()),
    }


def round_trips(walk: Walk) -> tuple[Array, Array]:
    """(bars held, net return) of each round trip of a path: a stretch of steps with a position after them, and the step
    that closed it. Net return is the change of equity over those steps. (trips,) each."""
    held = np.concatenate([[False], walk.exposure > 0, [False]])
    opened, closed = np.flatnonzero(held[1:] & ~held[:-1]), np.flatnonzero(~held[1:] & held[:-1])
    last = np.minimum(closed, len(walk.bar) - 1)
    return closed - opened, walk.equity[last + 1] / walk.equity[opened] - 1


def holding_times(walks: Sequence[Walk], limit: int) -> dict[str, float]:
    """How long winners and losers were held; empty with fewer than 20 of either."""
    bars, gain = (np.concatenate(column) for column in zip(*map(round_trips, walks), strict=True))
    winners, losers = bars[gain > 0], bars[gain <= 0]
    if min(len(winners), len(losers)) < LEAST_TRIPS:
        return {}
    return {
        "eval/holding_winners": float(np.median(winners)),
        "eval/holding_losers": float(np.median(losers)),
        "eval/losers_held": float(np.quantile(losers, 0.9)) / limit,
    }


def feature_foresight(bars: SymbolData) -> tuple[str, float]:
    """The feature with the largest |correlation| with the log return of one of the next three bars, over the training
    split, and that correlation; ("", 0.0) where nothing varies. An honest feature knows a little of the next bar."""
    first, last = bars.splits["train"]
    move = np.diff(np.log(bars.close))  # (T − 1,), move[t] leads from bar t to t + 1
    best = ("", 0.0)
    for ahead in range(FORESIGHT_BARS):
        rows = np.arange(first, min(last, len(move) - ahead))
        table = bars.features[rows].astype(np.float64)
        table -= table.mean(0)
        target = move[rows + ahead] - move[rows + ahead].mean()
        scale = np.sqrt((table**2).sum(0) * (target**2).sum())
        known = np.divide(np.abs(table.T @ target), scale, out=np.zeros(len(scale)), where=scale > 0)
        if known.max(initial=0.0) > best[1]:
            best = (bars.feature_names[int(known.argmax())], float(known.max()))
    return best


def _join(walks: list[Walk]) -> Walk:
    return Walk(**{name: np.concatenate([getattr(walk, name) for walk in walks]) for name in Walk.__dataclass_fields__})


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _moving_average_signal(close: Array) -> Array:
    """(T,) long while the fast average of closes up to the bar is above the slow one; flat before both exist."""
    fast, slow = (np.convolve(close, np.ones(n) / n)[: len(close)] for n in MOVING_AVERAGES)
    signal: Array = fast > slow
    signal[: MOVING_AVERAGES[1] - 1] = False
    return signal


def seed_of(*parts: object) -> int:
    """A 63-bit seed from words and numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
