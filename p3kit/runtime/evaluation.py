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
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from p3kit import metrics as formulas
from p3kit.edge import Candidate
from p3kit.env import Rules, Timestep, TradingEnv, make_trading_env
from p3kit.market import SymbolData
from p3kit.market.foresight import feature_foresight
from p3kit.runtime.equal_exposure import average_fraction, hold_fraction
from p3kit.significance import excess_interval, sharpe_interval
from p3kit.spec import Spec

HOLD, BUY_LARGE, SELL_ALL = (formulas.ACTIONS.index(name) for name in ("HOLD", "BUY_LARGE", "SELL_ALL"))
RANDOM_PATHS = 16
SIMPLE_RULES = ("moving average", "buy-and-hold")
MOVING_AVERAGES = (10, 50)
_EQUITY_POINTS = 1_500
LEAST_TRIPS = 20
"""Winners, and losers, below which a median holding time is chance."""
_RECENT_WINDOWS = 8
_AGENTS_AT_ONCE = 8
"""Whose fixed rules are played side by side: more would only take memory."""
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
        self._fixed: FixedRules | None = None

    def __call__(self, policy: Policy) -> Evaluation:
        return evaluate_together([self], _stack_of_one(policy))[0]

    @property
    def signal_rule(self) -> tuple[str, float]:
        """See `FixedRules`."""
        return self.fixed.signal

    @property
    def train_hold_sharpe(self) -> float | None:
        """See `FixedRules`."""
        return self.fixed.train_hold_sharpe

    @property
    def rules(self) -> Mapping[str, list[Walk]]:
        """See `FixedRules`."""
        return self.fixed.paths

    @property
    def fixed(self) -> FixedRules:
        """What fixed rules do on these bars; played once."""
        if self._fixed is None:
            (self._fixed,) = play_fixed_rules([self])
        return self._fixed

    @cached_property
    def foresight(self) -> tuple[str, float]:
        """The feature that knows most about the next bars of the training split, and its |correlation| with them."""
        return feature_foresight(self.bars)

    def walk(self, split: Split, policy: Policy) -> Walk:
        """The policy's one path over a whole split."""
        return walk_together([self], split, _stack_of_one(policy))[0]

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
    unplayed = [one for one in evaluators if one._fixed is None]
    for begin in range(0, len(unplayed), _AGENTS_AT_ONCE):
        some = unplayed[begin : begin + _AGENTS_AT_ONCE]
        for one, fixed in zip(some, play_fixed_rules(some), strict=True):
            one._fixed = fixed
    validation, train = walk_together(evaluators, split, policy), walk_together(evaluators, "train", policy)
    return [
        Evaluation(
            policy=validation[k],
            train=train[k],
            rules=one.rules,
            bars=one.bars,
            split=split,
            window_bars=one.spec.env.episode_bars,
            foresight=one.foresight,
            signal_rule=one.signal_rule,
            train_hold_sharpe=one.train_hold_sharpe,
            fixed_rule=one.fixed.best,
            account_rules=Rules.from_spec(one.spec),
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


@dataclass(frozen=True)
class FixedRules:
    """What rules that anyone could write do at these fees on the bars of one agent."""

    paths: Mapping[str, list[Walk]]
    """On the split: one path each of hold, buy_and_hold and moving_average, sixteen of random."""
    signal: tuple[str, float]
    """Long while one feature is above (or below) its mean: the feature that earned most on the newest training windows,
    and what it returned on the split. ("", 0.0) where none earned anything in training."""
    best: tuple[str, Walk]
    """Among that signal rule, the moving average and buy-and-hold, the one with the best Sharpe ratio on the newest
    training windows: its name, and its path on the split."""
    train_hold_sharpe: float | None
    """Buy-and-hold's Sharpe ratio on the training split: how kind the market itself was there."""


def play_fixed_rules(evaluators: Sequence[Evaluator]) -> list[FixedRules]:
    """The fixed rules of K agents, played side by side, as if each agent's were played alone."""
    split = evaluators[0].split
    always = [np.ones((1, len(one.bars.close)), bool) for one in evaluators]
    held = _follow(evaluators, always, "train", [one.windows("train") for one in evaluators])
    named = [_signals(one.bars) for one in evaluators]
    simple = [
        np.stack([moving_average_signal(one.bars.close), np.ones(len(one.bars.close), bool)]) for one in evaluators
    ]
    recent = [one.windows("train")[-_RECENT_WINDOWS:] for one in evaluators]
    tried = [np.concatenate([long, own]) for (_, long), own in zip(named, simple, strict=True)]
    trained = _follow(evaluators, tried, "train", recent)
    earned = [[float(np.prod(1 + walk.bar_return)) for walk in walks[: -len(SIMPLE_RULES)]] for walks in trained]
    best = [int(np.argmax(own)) for own in earned]
    chosen = [long[i : i + 1] for (_, long), i in zip(named, best, strict=True)]
    own_split = [one.windows(split) for one in evaluators]
    told = _follow(evaluators, chosen, split, own_split)
    fixed = [
        np.stack([np.zeros(len(close), bool), np.ones(len(close), bool), moving_average_signal(close)])
        for close in (one.bars.close for one in evaluators)
    ]
    paths = _follow(evaluators, fixed, split, own_split, random_paths=RANDOM_PATHS)
    return [
        FixedRules(
            paths={"hold": [own[0]], "buy_and_hold": [own[1]], "moving_average": [own[2]], "random": own[3:]},
            signal=(names[i], float(np.prod(1 + walk.bar_return) - 1)) if won[i] > 1 else ("", 0.0),
            best=_best_rule(
                {names[i]: (walks[i], walk), SIMPLE_RULES[0]: (walks[-2], own[2]), SIMPLE_RULES[1]: (walks[-1], own[1])}
            ),
            train_hold_sharpe=walk_metrics(hold, one.bars.bars_per_year_of("train"))["sharpe_ratio"],
        )
        for one, own, (names, _), i, won, (walk,), (hold,), walks in zip(
            evaluators, paths, named, best, earned, told, held, trained, strict=True
        )
    ]


def _best_rule(rules: Mapping[str, tuple[Walk, Walk]]) -> tuple[str, Walk]:
    """Of {name: (path in training, path on the split)}, the one with the best Sharpe ratio in training."""
    ratios = [formulas.sharpe_ratio(trained.bar_return, 1.0) for trained, _ in rules.values()]
    best = int(np.argmax([-np.inf if ratio is None else ratio for ratio in ratios]))
    name = list(rules)[best]
    return name, rules[name][1]


def _signals(bars: SymbolData) -> tuple[list[str], Array]:
    """Every feature above and below its mean: names, and (rules, T) where it is so; NaN before the look-back is
    neither."""
    regimes = [f"regime_{name}" for name in REGIMES]
    moves = [i for i, name in enumerate(bars.feature_names) if name not in regimes]
    table = bars.features.T[moves]
    names = [f"{bars.feature_names[i]} {side} its mean" for side in ("above", "below") for i in moves]
    return names, np.concatenate([table > 0, table < 0])


def _follow(
    evaluators: Sequence[Evaluator],
    signals: Sequence[Array],
    split: Split,
    spans: Sequence[list[tuple[int, int]]],
    random_paths: int = 0,
) -> list[list[Walk]]:
    """Per agent one path per rule: all in while its signal (rules, T) is on, out while it is off; then `random_paths`
    that draw from what is allowed, each agent from a generator of its own. Agents have equally many rules."""
    device, rules = evaluators[0].device, len(signals[0])
    count, most = len(evaluators), max(map(len, spans))  # who has fewer windows plays the first one again, unseen
    long = np.zeros((count, rules, max(own.shape[1] for own in signals)), bool)
    for table, own in zip(long, signals, strict=True):
        table[:, : own.shape[1]] = own
    on = torch.as_tensor(long, device=device)
    generators = [torch.Generator().manual_seed(seed_of("random baseline", one.seed, one.symbol)) for one in evaluators]
    agent = torch.arange(count, device=device).view(-1, 1, 1)
    rule = torch.arange(rules, device=device).view(1, -1, 1)

    def decide(step: Timestep, env: TradingEnv) -> Tensor:
        bar, mask = step.bar.view(count, -1, most), step.mask.view(count, rules + random_paths, most, -1)
        wanted, flat = on[agent, rule, bar[:, :rules]], mask[:, :rules, :, BUY_LARGE]
        action = torch.where(flat & wanted, BUY_LARGE, torch.where(~flat & ~wanted, SELL_ALL, HOLD))
        if random_paths:
            noise = [
                torch.rand(random_paths, len(own), mask.shape[-1], generator=generator)
                for own, generator in zip(spans, generators, strict=True)
            ]
            padded = torch.stack([F.pad(own, (0, 0, 0, most - own.shape[1])) for own in noise]).to(device)
            drawn = padded.masked_fill(~mask[:, rules:], -1).argmax(-1)
            action = torch.cat([action, drawn], 1)
        return action.flatten()

    paths = rules + random_paths
    padded = [window for own in spans for window in (own + own[:1] * (most - len(own))) * paths]
    walks = _play(evaluators, decide, split, padded)
    starts = range(0, len(walks), most)
    joined = [_join(walks[at : at + len(spans[i // paths])]) for i, at in enumerate(starts)]
    return [joined[i : i + paths] for i in range(0, len(joined), paths)]


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
    split: Split
    window_bars: int
    foresight: tuple[str, float]
    signal_rule: tuple[str, float]
    train_hold_sharpe: float | None
    fixed_rule: tuple[str, Walk]
    account_rules: Rules
    holding_limit: int
    """Bars after which a position is closed whatever the policy says."""

    @property
    def bars_per_year(self) -> float:
        """Bars per year of the split."""
        return self.bars.bars_per_year_of(self.split)

    def summary(self) -> dict[str, Any]:
        """What the journal keeps of it."""
        return {
            "split": self.split,
            "metrics": self.metrics,
            "baselines": self.baselines,
            "regimes": self.regimes(),
            "windows": len(range(0, len(self.policy.bar), self.window_bars)),
            "constant": self.is_constant,
            "returns": formulas.return_shape(self.policy.bar_return, self.bars_per_year),
            "foresight": self.foresight[0],
            "signal_rule": {"rule": self.signal_rule[0], "total_return": self.signal_rule[1]},
            **self.yardsticks(),
            **self.intervals(),
        }

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`eval/…` metrics of the policy. A ratio that does not exist (no trade, no loss) is left out, not guessed."""
        values = {f"eval/{name}": value for name, value in walk_metrics(self.policy, self.bars_per_year).items()}
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
        values["eval/train_sharpe_ratio"] = walk_metrics(self.train, self.bars.bars_per_year_of("train"))[
            "sharpe_ratio"
        ]
        values["eval/train_buy_and_hold_sharpe"] = self.train_hold_sharpe
        values["eval/feature_foresight"] = self.foresight[1]
        values |= holding_times([self.train, self.policy], self.holding_limit)
        return {name: value for name, value in values.items() if value is not None}

    @cached_property
    def baselines(self) -> dict[str, dict[str, float | None]]:
        """Metrics of each fixed rule; the random rule's are means over its paths."""
        table: dict[str, dict[str, float | None]] = {}
        for name, paths in self.rules.items():
            rows = [walk_metrics(path, self.bars_per_year) for path in paths]
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
                "sharpe_ratio": formulas.sharpe_ratio(returns, self.bars_per_year) if len(returns) > 1 else None,
            }
        return table

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % intervals of the Sharpe ratio and of its excess over buy-and-hold, of this policy alone: none of them
        accounts for a choice among several evaluations. None where there are too few independent bars."""
        if "eval/sharpe_ratio" not in self.metrics:
            return {"sharpe_interval": None, "excess_interval": None}
        own, hold = self.policy.bar_return, self.rules["buy_and_hold"][0].bar_return
        sharpe = sharpe_interval(own, self.bars_per_year)
        excess = excess_interval(own, hold, self.bars_per_year)
        return {"sharpe_interval": sharpe and list(sharpe), "excess_interval": excess and list(excess)}

    @cached_property
    def at_equal_exposure(self) -> tuple[float, Array]:
        """Fraction of equity that has the policy's average exposure, and its bar returns (B,)."""
        first, last = self.bars.splits[self.split]
        spans = windows(first, last, self.window_bars)
        fraction = average_fraction(self.policy.exposure, len(spans))
        return fraction, hold_fraction(self.bars, spans, fraction, self.account_rules)

    def yardsticks(self) -> dict[str, dict[str, Any]]:
        """Results of the two yardsticks that are no baseline: equal exposure, and the best fixed rule of training."""
        fraction, returns = self.at_equal_exposure
        name, walk = self.fixed_rule
        return {
            "equal_exposure": {"fraction": fraction, **self._earned(returns)},
            "fixed_rule": {"rule": name, **self._earned(walk.bar_return)},
        }

    def _earned(self, returns: Array) -> dict[str, float | None]:
        return {
            "total_return": formulas.total_return(returns),
            "sharpe_ratio": formulas.sharpe_ratio(returns, self.bars_per_year),
        }

    def candidate(self, global_step: int) -> Candidate:
        """The returns that the label is judged by."""
        policy, hold = self.policy.bar_return, self.rules["buy_and_hold"][0].bar_return
        first, last = (str(self.bars.timestamps[self.policy.bar[at] + 1])[:19] for at in (0, -1))
        return Candidate.of(
            {
                "policy": policy,
                "timing": policy - self.at_equal_exposure[1],
                "buy_and_hold": hold,
                "fixed_rule": self.fixed_rule[1].bar_return,
            },
            global_step=global_step,
            span=f"{first} to {last}",
            bars_per_year=self.bars_per_year,
            trades=len(self.policy.profit),
            switches=int(np.abs(np.diff(self.policy.exposure > 0, prepend=False)).sum()),
            rule=self.fixed_rule[0],
        )

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


def _join(walks: list[Walk]) -> Walk:
    return Walk(**{name: np.concatenate([getattr(walk, name) for walk in walks]) for name in Walk.__dataclass_fields__})


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def moving_average_signal(close: Array) -> Array:
    """(T,) long while the fast average of closes up to the bar is above the slow one; flat before both exist."""
    fast, slow = (np.convolve(close, np.ones(n) / n)[: len(close)] for n in MOVING_AVERAGES)
    signal: Array = fast > slow
    signal[: MOVING_AVERAGES[1] - 1] = False
    return signal


def seed_of(*parts: object) -> int:
    """A 63-bit seed from words and numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
