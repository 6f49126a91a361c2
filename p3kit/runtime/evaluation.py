"""Backtests on a whole split: the policy, and beside it the fixed rules, in the same engine and at the same fees.

The validation and the test split are played as one continuous account, unless the mode is `windows`
(`p3kit.runtime.walks`). Interventions have no effect here: the spec is the user's own.

Notation for shapes: K agents, W spans, B bars of the split, R rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3kit import metrics as formulas
from p3kit.edge import Candidate
from p3kit.env import Rules, Timestep, TradingEnv
from p3kit.errors import InputError
from p3kit.market import SymbolData
from p3kit.market.foresight import feature_foresight
from p3kit.runtime.action_rule import GREEDY, choose_by_agent, rules_beside
from p3kit.runtime.equal_exposure import average_fraction, hold_fraction
from p3kit.runtime.fixed_rules import ChosenRules, FixedRules, play_chosen_rules, play_fixed_rules
from p3kit.runtime.lookahead import DecideRows, walk_ahead
from p3kit.runtime.walk_metrics import holding_times, rule_metrics, walk_metrics
from p3kit.runtime.walks import Array, Decide, Mode, Player, Span, Split, Walk, join, play
from p3kit.significance import excess_interval, sharpe_interval
from p3kit.spec import Spec

_EQUITY_POINTS = 1_500
_AGENTS_AT_ONCE = 8
"""Whose fixed rules are played side by side: more would only take memory."""
REGIMES = ("bear", "sideways", "bull")

Policy = Callable[[Tensor, Tensor], Tensor]
"""(observation (R, D), mask (R, A)) → log-probabilities (R, A), or actions (R,) of a policy without probabilities"""
StackPolicy = Callable[[Tensor, Tensor], Tensor]
"""The policies of K agents at once: (observation (K, R, D), mask (K, R, A)) → (K, R, A), or actions (K, R)"""


class Evaluator(Player):
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
        mode: Mode = "continuous",
        chosen_rules: ChosenRules | None = None,
    ) -> None:
        """`chosen_rules` are those of the run, for bars without its training split."""
        super().__init__(spec, bars, symbol, seed, device, mode)
        self.chosen_rules = chosen_rules
        self.action_rule = spec.evaluation.action
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
        """Results of the fixed rules on these bars, computed once."""
        if self._fixed is None:
            (self._fixed,) = _fixed_rules([self], self.split)
        return self._fixed

    @cached_property
    def foresight(self) -> tuple[str, float]:
        """The feature with the largest |correlation| with the next bars of the training split, and that correlation."""
        return feature_foresight(self.bars) if self.has_training_bars else ("", 0.0)

    def walk(self, split: Split, policy: Policy) -> Walk:
        """The policy's one path over a whole split."""
        return walk_together([self], split, _stack_of_one(policy))[0][0]

    def in_windows(self) -> Evaluator:
        """This evaluator in mode `windows`, as an agent is trained."""
        other = copy.copy(self)
        other.mode = "windows"
        return other

    def decide(self, split: Split, policy: Policy) -> Decide:
        """The policy's decisions on rows of this agent."""
        return _decide(_decide_rows([self], split, _stack_of_one(policy), [[self.action_rule]]), 1, 1)

    def windows(self, split: Split) -> list[Span]:
        """The windows of a split; ValueError for the test split without a request for it."""
        self._refuse_test(split)
        return super().windows(split)

    def spans(self, split: Split) -> list[Span]:
        """The windows of a split, or the whole of it as one span; ValueError as in `windows`."""
        self._refuse_test(split)
        return super().spans(split)

    def _refuse_test(self, split: Split) -> None:
        if split == "test" and not self.final:
            raise ValueError("the test split is for final evaluations")


def evaluate_together(evaluators: Sequence[Evaluator], policy: StackPolicy) -> list[Evaluation]:
    """Evaluate K agents on their splits, with the results of each evaluated alone. All have the rules and the split
    of the first; symbols may repeat."""
    split = evaluators[0].split
    unplayed = [evaluator for evaluator in evaluators if evaluator._fixed is None]
    for begin in range(0, len(unplayed), _AGENTS_AT_ONCE):
        some = unplayed[begin : begin + _AGENTS_AT_ONCE]
        for evaluator, fixed in zip(some, _fixed_rules(some, split), strict=True):
            evaluator._fixed = fixed
    rules = [rules_beside(evaluator.action_rule) for evaluator in evaluators]
    walks = walk_together(evaluators, split, policy, rules)
    train: Sequence[Walk | None] = [None] * len(evaluators)
    windowed: Sequence[Walk | None] = train
    if all(evaluator.has_training_bars for evaluator in evaluators):
        train = [walk for (walk,) in walk_together(evaluators, "train", policy)]
        flat = [evaluator.in_windows() for evaluator in evaluators]
        windowed = [walk for (walk,) in walk_together(flat, split, policy)]
    return [
        Evaluation(
            policy=walks[k][rules[k].index(evaluator.action_rule)],
            by_rule=dict(zip(rules[k], walks[k], strict=True)),
            action_rule=evaluator.action_rule,
            train=train[k],
            windowed=windowed[k],
            rules=evaluator.rules,
            bars=evaluator.bars,
            split=split,
            mode=evaluator.mode_of(split),
            spans=evaluator.spans(split),
            foresight=evaluator.foresight,
            signal_rule=evaluator.signal_rule,
            train_hold_sharpe=evaluator.train_hold_sharpe,
            fixed_rule=evaluator.fixed.best,
            account_rules=Rules.from_spec(evaluator.spec, continuous=evaluator.mode_of(split) == "continuous"),
            holding_limit=evaluator.spec.env.episode_bars
            if evaluator.spec.env.max_hold == "off"
            else int(evaluator.spec.env.max_hold),
        )
        for k, evaluator in enumerate(evaluators)
    ]


def _fixed_rules(evaluators: Sequence[Evaluator], split: Split) -> list[FixedRules]:
    """The fixed rules of agents, chosen on their training bars, or by the run where these are missing."""
    if all(evaluator.has_training_bars for evaluator in evaluators):
        return play_fixed_rules(evaluators, split)
    return play_chosen_rules(evaluators, split, [evaluator.chosen_rules or ChosenRules() for evaluator in evaluators])


def walk_together(
    evaluators: Sequence[Evaluator], split: Split, policy: StackPolicy, rules: Sequence[Sequence[str]] | None = None
) -> list[list[Walk]]:
    """Each agent's paths over a whole split, one per action rule, all in one environment.

    `rules` (K, P) names equally many for each agent. Default: the rule of its spec.
    """
    by_path = list(zip(*(rules or [[evaluator.action_rule] for evaluator in evaluators]), strict=True))
    decide, paths = _decide_rows(evaluators, split, policy, by_path), len(by_path)
    if (walked_ahead := walk_ahead(evaluators, split, decide, paths)) is not None:
        return [walked_ahead[at : at + paths] for at in range(0, len(walked_ahead), paths)]
    spans = [evaluator.spans(split) for evaluator in evaluators]
    longest = max(map(len, spans))  # agents with fewer windows play their first one again, unseen
    padded = [span for windows in spans for span in (windows + windows[:1] * (longest - len(windows))) * paths]
    walks = play(evaluators, _decide(decide, len(evaluators), paths), split, padded)
    starts = [range(k * paths * longest, (k + 1) * paths * longest, longest) for k in range(len(evaluators))]
    return [[join(walks[at : at + len(windows)]) for at in starts[k]] for k, windows in enumerate(spans)]


def _decide(decide: DecideRows, agents: int, paths: int) -> Decide:
    """`decide` on the rows of an environment, in the order agents × paths × windows."""

    def on_rows(step: Timestep, env: TradingEnv) -> Tensor:
        tables = (env.observe(step.index, step.account), step.mask, step.bar.unsqueeze(-1))
        seen, mask, bar = (table.reshape(agents, paths, -1, table.shape[-1]) for table in tables)
        return decide(seen, mask, bar.squeeze(-1)).flatten()

    return on_rows


def _decide_rows(
    evaluators: Sequence[Evaluator], split: Split, policy: StackPolicy, by_path: Sequence[Sequence[str]]
) -> DecideRows:
    """The decisions of K agents on P paths each. `by_path` (P, K) names action rules."""
    uniforms = [torch.from_numpy(evaluator.draws(split)) for evaluator in evaluators]
    draws = torch.nn.utils.rnn.pad_sequence(uniforms, batch_first=True).to(evaluators[0].device)  # (K, bars)
    agent = torch.arange(len(evaluators), device=draws.device).view(-1, 1, 1)
    rules_in_use = {evaluator.action_rule for evaluator in evaluators} - {GREEDY}

    def decide(seen: Tensor, mask: Tensor, bar: Tensor) -> Tensor:
        output, uniform = policy(seen.flatten(1, 2), mask.flatten(1, 2)), draws[agent, bar]
        if output.is_floating_point():
            log_probs = output.reshape(mask.shape)
            chosen = [choose_by_agent(log_probs[:, p], rules, uniform[:, p]) for p, rules in enumerate(by_path)]
            return torch.stack(chosen, 1)
        if rules_in_use:
            what = f'its policy returns actions, and evaluation.action = "{min(rules_in_use)}" needs log-probabilities'
            raise InputError(evaluators[0].symbol, what, 'return them, or write action = "greedy"')
        return output.reshape(bar.shape)

    return decide


def _stack_of_one(policy: Policy) -> StackPolicy:
    return lambda observation, mask: policy(observation.squeeze(0), mask.squeeze(0)).unsqueeze(0)


@dataclass(frozen=True)
class Evaluation:
    """Results of a policy on a split, and of the fixed rules there."""

    policy: Walk
    """The path by the agent's own action rule."""
    by_rule: Mapping[str, Walk]
    """The paths by greedy and by the agent's own rule, or by sampled beside greedy; the same where the policy has no
    probabilities."""
    action_rule: str
    train: Walk | None
    """None where the bars do not hold the training split."""
    windowed: Walk | None
    """The policy on the split in windows, as `train` is played; None without `train`."""
    rules: Mapping[str, list[Walk]]
    bars: SymbolData
    split: Split
    mode: Mode
    spans: list[Span]
    """The windows that were played, or the whole split as one."""
    foresight: tuple[str, float]
    signal_rule: tuple[str, float]
    train_hold_sharpe: float | None
    fixed_rule: tuple[str, Walk]
    account_rules: Rules
    holding_limit: int
    """Bars after which a position is closed for any policy."""

    @property
    def bars_per_year(self) -> float:
        """Bars per year of the split."""
        return self.bars.bars_per_year_of(self.split)

    def summary(self) -> dict[str, Any]:
        """Summary of the evaluation for the journal."""
        return {
            "split": self.split,
            "mode": self.mode,
            "action": self.action_rule,
            "actions": self.actions(),
            "metrics": self.metrics,
            "baselines": self.baselines,
            "regimes": self.regimes(),
            "windows": len(self.spans),
            "years": len(self.policy.bar) / self.bars_per_year,
            "constant": self.is_constant,
            "ruined": self.is_ruined,
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
        if self.train is not None:
            year = self.bars.bars_per_year_of("train")
            values["eval/train_sharpe_ratio"] = walk_metrics(self.train, year)["sharpe_ratio"]
        if self.windowed is not None:
            values["eval/windowed_sharpe_ratio"] = walk_metrics(self.windowed, self.bars_per_year)["sharpe_ratio"]
        values["eval/market_correlation"] = self._market_correlation
        values["eval/train_buy_and_hold_sharpe"] = self.train_hold_sharpe
        values["eval/feature_foresight"] = self.foresight[1] if self.train is not None else None
        values |= rule_metrics(self.by_rule, self.bars_per_year)
        values |= holding_times([walk for walk in (self.train, self.policy) if walk], self.holding_limit)
        return {name: value for name, value in values.items() if value is not None}

    def actions(self) -> dict[str, dict[str, float | None]]:
        """Metrics of the path by each action rule."""
        return {rule: walk_metrics(walk, self.bars_per_year) for rule, walk in self.by_rule.items()}

    @property
    def _market_correlation(self) -> float | None:
        """Correlation of the policy's bar returns with buy-and-hold's; None where one of them does not vary."""
        returns, hold_returns = self.policy.bar_return, self.rules["buy_and_hold"][0].bar_return
        if len(returns) < 2 or np.ptp(returns) == 0 or np.ptp(hold_returns) == 0:
            return None
        return float(np.corrcoef(returns, hold_returns)[0, 1])

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
        returns, hold_returns = self.policy.bar_return, self.rules["buy_and_hold"][0].bar_return
        sharpe = sharpe_interval(returns, self.bars_per_year)
        excess = excess_interval(returns, hold_returns, self.bars_per_year)
        return {"sharpe_interval": sharpe and list(sharpe), "excess_interval": excess and list(excess)}

    @cached_property
    def at_equal_exposure(self) -> tuple[float, Array]:
        """Fraction of equity that has the policy's average exposure, and its bar returns (B,)."""
        sales = 0 if self.mode == "continuous" else len(self.spans)
        fraction = average_fraction(self.policy.exposure, sales)
        return fraction, hold_fraction(self.bars, self.spans, fraction, self.account_rules)

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
        """True if the policy acts like a constant rule: never trades, or holds the market throughout."""
        hold = self.rules["buy_and_hold"][0]
        return bool(not self.policy.exposure.any() or np.mean(self.policy.action == hold.action) > 0.99)

    @property
    def is_ruined(self) -> bool:
        """True if the policy's account fell below `env.ruin`: it then stays in cash."""
        first = self.spans[0][0]
        spans = (self.policy.bar_return[start - first : end - first] for start, end in self.spans)
        return any(np.cumprod(1 + returns).min() < self.account_rules.ruin for returns in spans)

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


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
