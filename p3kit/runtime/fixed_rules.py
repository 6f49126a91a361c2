"""Rules that anyone could write, played in the same engine and at the same fees as a policy.

The rules that are chosen are chosen on windows of the training split, and then played on another split in the mode of
the evaluation. Buy-and-hold is all in throughout: the stop, target, holding limit, sizes and ruin of the spec do not
apply to it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from p3kit import metrics as formulas
from p3kit.env import Timestep, TradingEnv
from p3kit.env.account import mask_table
from p3kit.market import REGIMES, SymbolData
from p3kit.runtime.lookahead import walk_actions
from p3kit.runtime.walk_metrics import walk_metrics
from p3kit.runtime.walks import Array, Player, Span, Split, Walk, join, play

HOLD, BUY_LARGE, SELL_ALL = (formulas.ACTIONS.index(name) for name in ("HOLD", "BUY_LARGE", "SELL_ALL"))
RANDOM_PATHS = 16
SIMPLE_RULES = ("moving average", "buy-and-hold")
MOVING_AVERAGES = (10, 50)
_RECENT_WINDOWS = 8


@dataclass(frozen=True)
class ChosenRules:
    """Rules that were chosen on the newest training windows."""

    feature_rule: str = ""
    """The rule of one feature that earned most."""
    best: str = SIMPLE_RULES[1]
    """Among that rule, the moving average and buy-and-hold, the one with the best Sharpe ratio."""
    earns: bool = False
    """True where the rule of one feature earned anything in training."""

    @classmethod
    def of_event(cls, event: Mapping[str, Any] | None) -> ChosenRules:
        """Those that an evaluation of the run has journalled."""
        if event is None or "fixed_rule" not in event:
            return cls()
        name, best = event["signal_rule"]["rule"], event["fixed_rule"]["rule"]
        return cls(name or (best if best not in SIMPLE_RULES else ""), best, earns=bool(name))


@dataclass(frozen=True)
class FixedRules:
    """Results of fixed rules on the bars of one agent, at the same fees."""

    paths: Mapping[str, list[Walk]]
    """On the split: one path each of hold, buy_and_hold and moving_average, sixteen of random."""
    signal: tuple[str, float]
    """Long while one feature is above (or below) its mean: the feature with the largest profit on the newest training
    windows, and its return on the split. ("", 0.0) if no feature made a profit in training."""
    best: tuple[str, Walk]
    """Among that signal rule, the moving average and buy-and-hold, the one with the best Sharpe ratio on the newest
    training windows: its name, and its path on the split."""
    train_hold_sharpe: float | None
    """Buy-and-hold's Sharpe ratio on the training split: how kind the market itself was there."""


def play_fixed_rules(players: Sequence[Player], split: Split) -> list[FixedRules]:
    """The fixed rules of K agents on a split, played side by side, as if each agent's were played alone."""
    windows = [one.windows("train") for one in players]
    recent = [own[-_RECENT_WINDOWS:] for own in windows]
    named = [_signals(one.bars) for one in players]
    tried = [
        np.stack([*long, moving_average_signal(one.bars.close)]) for one, (_, long) in zip(players, named, strict=True)
    ]
    trained = _follow(players, tried, "train", recent)
    held = _buy_and_hold(players, "train", windows)
    earned = [[float(np.prod(1 + walk.bar_return)) for walk in walks[:-1]] for walks in trained]
    best = [int(np.argmax(own)) for own in earned]
    names = [own[i] for (own, _), i in zip(named, best, strict=True)]
    choices = []
    for name, i, won, walks, hold in zip(names, best, earned, trained, held, strict=True):
        hold_recently = hold.bar_return[-len(walks[i].bar) :]  # windows do not depend on each other
        returns = {name: walks[i].bar_return, SIMPLE_RULES[0]: walks[-1].bar_return, SIMPLE_RULES[1]: hold_recently}
        rule = _best_rule(returns)
        choices.append(ChosenRules(name, rule, earns=won[i] > 1))
    found = play_chosen_rules(players, split, choices)
    sharpes = [
        walk_metrics(hold, one.bars.bars_per_year_of("train"))["sharpe_ratio"]
        for one, hold in zip(players, held, strict=True)
    ]
    return [replace(rules, train_hold_sharpe=sharpe) for rules, sharpe in zip(found, sharpes, strict=True)]


def play_chosen_rules(players: Sequence[Player], split: Split, choices: Sequence[ChosenRules]) -> list[FixedRules]:
    """The fixed rules of K agents on a split, the rules of one feature and the best ones already chosen."""
    own_split = [one.spans(split) for one in players]
    signals = [
        np.stack([_signal(one.bars, choice.feature_rule), np.zeros_like(average), average])
        for one, choice in zip(players, choices, strict=True)
        for average in [moving_average_signal(one.bars.close)]
    ]
    paths = _follow(players, signals, split, own_split, random_paths=RANDOM_PATHS)
    found = []
    for (walk, flat, average, *random), held, choice in zip(
        paths, _buy_and_hold(players, split, own_split), choices, strict=True
    ):
        by_name = {choice.feature_rule: walk, SIMPLE_RULES[0]: average, SIMPLE_RULES[1]: held}
        found.append(
            FixedRules(
                paths={"hold": [flat], "buy_and_hold": [held], "moving_average": [average], "random": random},
                signal=(choice.feature_rule, float(np.prod(1 + walk.bar_return) - 1)) if choice.earns else ("", 0.0),
                best=(choice.best, by_name[choice.best]),
                train_hold_sharpe=None,
            )
        )
    return found


def _buy_and_hold(players: Sequence[Player], split: Split, spans: Sequence[list[Span]]) -> list[Walk]:
    """All in over the spans of each player: the limits of its spec are those of `Rules.held`."""
    always = [np.ones((1, len(one.bars.close)), bool) for one in players]
    free = {"stop": "off", "target": "off", "max_hold": "off", "ruin": 0.0, "max_position": 1.0}
    holders = []
    for one in players:
        sizes = (*one.spec.env.sizes[:2], 1.0)
        holder = copy.copy(one)
        holder.spec = one.spec.model_copy(update={"env": one.spec.env.model_copy(update={**free, "sizes": sizes})})
        holders.append(holder)
    return [walk for (walk,) in _follow(holders, always, split, spans)]


def _best_rule(trained: Mapping[str, Array]) -> str:
    """Of {name: returns in training}, the one with the best Sharpe ratio."""
    ratios = [formulas.sharpe_ratio(returns, 1.0) for returns in trained.values()]
    return list(trained)[int(np.argmax([-np.inf if ratio is None else ratio for ratio in ratios]))]


def _signal(bars: SymbolData, name: str) -> Array:
    """(T,) where the rule of one feature is long; nowhere for a name that is no such rule."""
    names, long = _signals(bars)
    return long[names.index(name)] if name in names else np.zeros(len(bars.close), bool)


def _signals(bars: SymbolData) -> tuple[list[str], Array]:
    """Every feature above and below its mean: names, and (rules, T) where it is so; NaN before the look-back is
    neither."""
    regimes = [f"regime_{name}" for name in REGIMES]
    moves = [i for i, name in enumerate(bars.feature_names) if name not in regimes] or list(
        range(len(bars.feature_names))
    )
    table = (bars.features - _means_of_own(bars)).T[moves]
    names = [f"{bars.feature_names[i]} {side} its mean" for side in ("above", "below") for i in moves]
    return names, np.concatenate([table > 0, table < 0])


def _means_of_own(bars: SymbolData) -> Array:
    """Training means (F,) of columns of the user's that are not normalised. Built-in features lie about 0.

    Where the training bars are missing, the bars before the split take their place.
    """
    first, last = bars.splits["train"] if "train" in bars.splits else (0, bars.splits["outside"][0])
    raw = [
        name in bars.own_features and scale == 1
        for name, scale in zip(bars.feature_names, bars.feature_scale, strict=True)
    ]
    return np.where(raw, np.nanmean(bars.features[first:last], 0), np.float32(0))


def _follow(
    players: Sequence[Player],
    signals: Sequence[Array],
    split: Split,
    spans: Sequence[list[Span]],
    random_paths: int = 0,
) -> list[list[Walk]]:
    """One path per rule and agent: all in while its signal (rules, T) is on, out while it is off. Then `random_paths`
    that draw from the allowed actions, each agent from its own generator. Agents have equal numbers of rules."""
    if players[0].mode_of(split) == "continuous":
        actions = [_actions(*own, split, random_paths) for own in zip(players, signals, strict=True)]
        if (found := walk_actions(players, split, actions)) is not None:
            paths = len(found) // len(players)
            return [found[i : i + paths] for i in range(0, len(found), paths)]
    device, rules = players[0].device, len(signals[0])
    count, most = len(players), max(map(len, spans))  # who has fewer windows plays the first one again, unseen
    long = np.zeros((count, rules, max(own.shape[1] for own in signals)), bool)
    for table, own in zip(long, signals, strict=True):
        table[:, : own.shape[1]] = own
    on = torch.as_tensor(long, device=device)
    generators = [_random_generator(one) for one in players]
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
    walks = play(players, decide, split, padded)
    starts = range(0, len(walks), most)
    joined = [join(walks[at : at + len(spans[i // paths])]) for i, at in enumerate(starts)]
    return [joined[i : i + paths] for i in range(0, len(joined), paths)]


def _actions(player: Player, signals: Array, split: Split, random_paths: int) -> Array:
    """The actions of `_follow` on one account over the whole split, (paths, 3, B) by row of `mask_table` and bar."""
    first, last = player.spans(split)[0]
    wanted = signals[:, first:last]
    bought, sold = np.where(wanted, BUY_LARGE, HOLD), np.where(wanted, HOLD, SELL_ALL)
    chosen = np.stack([bought, sold, sold], 1)
    if not random_paths:
        return chosen
    masks = mask_table(torch.device("cpu"))
    noise = torch.rand(last - first, random_paths, 1, masks.shape[1], generator=_random_generator(player))
    drawn = noise.masked_fill(~masks, -1).argmax(-1)  # (B, paths, 3)
    return np.concatenate([chosen, drawn.permute(1, 2, 0).numpy()])


def _random_generator(player: Player) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of("random baseline", player.seed, player.symbol))


def moving_average_signal(close: Array) -> Array:
    """(T,) long while the fast average of closes up to the bar is above the slow one; flat before both exist."""
    fast, slow = (np.convolve(close, np.ones(n) / n)[: len(close)] for n in MOVING_AVERAGES)
    signal: Array = fast > slow
    signal[: MOVING_AVERAGES[1] - 1] = False
    return signal


def seed_of(*parts: object) -> int:
    """A 63-bit seed from words and numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
