"""Does the reward pay for anything but money? Fixed rules play it in a market where nothing can be earned.

In a driftless market no rule makes money, and every trade costs some. Whatever a rule earns there beyond staying flat
is paid by the reward itself, and an agent will find it. The market is a geometric random walk of closes, as volatile as
the symbol's own training bars, whose price is a martingale; with closes alone, stops and targets fill at the closes
that hit them, so that the spec's resting orders add no drift. All rules play the same episodes, each row of one batched
environment an episode of one rule.

**What counts as beating flat**: a mean reward per episode more than two standard errors above that of staying flat.
Some rule of many may be that lucky, so one that is plays four times as many fresh episodes, and only what repeats there
is a defect.

That a reward is judged by what exploits it is the idea of Amodei et al. 2016, "Concrete Problems in AI Safety",
section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit.check.own import NAME as OWN
from p3kit.check.own import own_term
from p3kit.check.probe import Probe
from p3kit.env import TradingEnv
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import Spec, find_trainer

HOLD, SMALL, MEDIUM, LARGE, SELL_HALF, SELL_ALL, ADD = range(len(ACTIONS))
EPISODES = 600
LUCK = 2.0
"""Standard errors above flat that a rule may reach by luck."""
REPEAT = 4
"""How many times as many fresh episodes a rule plays that was above."""
CHEAP_BPS = 1.0
WARM_UP = 60
"""Bars before the first episode, for the rules' averages and the volatility."""
EDGE = 0.4
"""Of the control market: the share of a bar's standard deviation by which its signal, +1 or −1, moves the next bar."""
SIGNAL_BARS = 20
"""Bars for which the signal stands on average: long enough to be paid for after costs and a fill at the next close."""
LOOK = 20
"""Bars of the trailing Sharpe ratio and of the volatility that the sizing component knows."""

PAYERS = (*COMPONENTS, "bonus", OWN)
"""All that a reward can be made of."""

Array = NDArray[np.float64]
Rule = Callable[["Scene"], Tensor]


@dataclass(frozen=True)
class Scene:
    """What a rule sees: the rows' mask and account at bars (N,), and signals known at the close of every bar."""

    mask: Tensor  # (N, A)
    account: Tensor  # (N, K)
    bar: Tensor  # (N,)
    signals: dict[str, Tensor]  # (T,) bool each
    noise: Tensor  # (N, A) uniform

    @property
    def flat(self) -> Tensor:
        return self.mask[:, LARGE]

    def field(self, name: str) -> Tensor:
        return self.account[:, ACCOUNT_FIELDS.index(name)]

    def follow(self, signal: str) -> Tensor:
        """Long while the signal is on."""
        wanted = self.signals[signal][self.bar]
        action = torch.where(self.flat & wanted, LARGE, HOLD)
        return torch.where(~self.flat & ~wanted, SELL_ALL, action)


def _churn(size: int) -> Rule:
    return lambda s: torch.where(s.flat, size, SELL_ALL)


def _until(exit_: Callable[[Scene], Tensor], size: int = LARGE) -> Rule:
    """Buy whenever flat; sell all when `exit_` says so."""
    return lambda s: torch.where(s.flat, size, torch.where(exit_(s), SELL_ALL, HOLD))


def _held(scene: Scene, bars: int, episode_bars: int) -> Tensor:
    return scene.field("bars_held") * episode_bars >= bars - 0.5


def rules(spec: Spec) -> dict[str, Rule]:
    """Every fixed rule by its name. Staying flat is the one that the others are compared with."""
    length = spec.env.episode_bars
    return {
        "stay flat": lambda s: torch.zeros_like(s.bar),
        "buy and hold": lambda s: torch.where(s.flat, LARGE, HOLD),
        "churn small": _churn(SMALL),
        "churn medium": _churn(MEDIUM),
        "churn large": _churn(LARGE),
        "take profit at once": _until(lambda s: s.field("unrealised_return") > 0),
        "cut losses at once": _until(lambda s: s.field("unrealised_return") < -0.005),
        "keep losers, sell winners in halves": lambda s: torch.where(
            s.flat, LARGE, torch.where(s.field("unrealised_return") > 0, SELL_HALF, HOLD)
        ),
        "hold six bars": _until(lambda s: _held(s, 6, length), MEDIUM),
        "hold eight bars, small": _until(lambda s: _held(s, 8, length), SMALL),
        "add whenever allowed": lambda s: torch.where(
            s.flat, SMALL, torch.where(s.mask[:, ADD], ADD, torch.where(_held(s, 4, length), SELL_ALL, HOLD))
        ),
        "moving average": lambda s: s.follow("moving average"),
        "long while trailing Sharpe > 1": lambda s: s.follow("trailing Sharpe"),
        "random": lambda s: s.noise.masked_fill(~s.mask, -1).argmax(1),
    }


@dataclass(frozen=True)
class Played:
    """What one rule earned per episode, beyond staying flat in the same episodes."""

    rule: str
    fees: str
    episodes: int
    mean: float
    error: float
    """Standard error of the mean."""
    paid: dict[str, float]
    """Mean weighted sum per episode by component, "bonus", and the trainer's own term where it has one."""
    repeated: bool = False

    @property
    def beats_flat(self) -> bool:
        return self.mean > LUCK * self.error

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "beats_flat": self.beats_flat}


def probe_reward(
    spec: Spec, bars: SymbolData, episodes: int = EPISODES, progress: Callable[[str], None] = lambda _: None
) -> list[Probe]:
    """Two probes: no rule beats flat where nothing can be earned; a rule with a clear edge does where something can."""
    first, end = bars.splits["train"]
    scale = float(np.diff(np.log(bars.close[first:end])).std())
    driftless = _Market(spec, scale, bars.bars_per_year, edge=0.0)
    table = []
    for fees, own in _fee_levels(spec).items():
        progress(f"reward: fixed rules at {fees}")
        table += _play_all(own, fees, driftless, episodes)
    progress("reward: a market with an edge")
    control = _Market(spec, scale, bars.bars_per_year, edge=EDGE)
    known = {"follow the signal": lambda s: s.follow("signal"), "stay flat": rules(spec)["stay flat"]}
    (paid,) = _compare(spec, "the spec's fees", control, known, episodes, seed=1)
    return [_no_free_reward(spec, table), _pays_for_an_edge(spec, paid)]


def _fee_levels(spec: Spec) -> dict[str, Spec]:
    own = spec.env.commission_bps + spec.env.slippage_bps
    cheap = spec.env.model_copy(update={"commission_bps": CHEAP_BPS, "slippage_bps": 0.0})
    levels = {f"the spec's fees ({own:g} bp)": spec}
    return levels if own == CHEAP_BPS else levels | {f"{CHEAP_BPS:g} bp": spec.model_copy(update={"env": cheap})}


def _play_all(spec: Spec, fees: str, market: _Market, episodes: int) -> list[Played]:
    """Every rule, those above flat a second time over more and fresh episodes."""
    every = rules(spec)
    results = []
    for played in _compare(spec, fees, market, every, episodes, seed=1):
        if played.beats_flat:
            again = {name: every[name] for name in (played.rule, "stay flat")}
            (second,) = _compare(spec, fees, market, again, REPEAT * episodes, seed=2)
            played = Played(**{**vars(second), "repeated": True})
        results.append(played)
    return results


@torch.no_grad()
def _compare(spec: Spec, fees: str, market: _Market, chosen: dict[str, Rule], episodes: int, seed: int) -> list[Played]:
    """All rules in the same `episodes` episodes, each beside "stay flat", which is among them."""
    length = spec.env.episode_bars
    bars, signals = market.make(WARM_UP + max(spec.env.window, 1) + episodes * length + 1, seed)
    env = TradingEnv({bars.symbol: bars}, spec, symbols=[bars.symbol], num_envs=1)
    start = bars.splits["train"][0] + length * torch.arange(episodes)
    begin = start.repeat(len(chosen))  # (N,), rule after rule
    rule_of = torch.arange(len(chosen)).repeat_interleave(episodes)
    step = env.reset_windows(torch.zeros_like(begin), begin, begin + length)
    weights = torch.tensor([float(getattr(spec.reward.weights, name)) for name in COMPONENTS], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    own = own_term(find_trainer(spec.trainer), spec.ppo)
    sums = torch.zeros(len(begin), len(PAYERS), dtype=torch.float64)
    for _ in range(length):
        scene = Scene(step.mask, step.account, step.bar, signals, torch.rand(step.mask.shape, generator=generator))
        action = torch.stack([rule(scene) for rule in chosen.values()])  # (rules, N)
        seen, step = step, env.step(action.gather(0, rule_of.unsqueeze(0)).squeeze(0))
        sums[:, : len(COMPONENTS)] += step.components * weights
        sums[:, PAYERS.index("bonus")] += spec.reward.action_bonus * (step.action != HOLD) * step.valid
        if own is not None:
            decided = step._replace(index=seen.index, account=seen.account, mask=seen.mask)
            sums[:, PAYERS.index(OWN)] += own(decided) * step.valid
    env.raise_if_faulty()
    by_rule = sums.view(len(chosen), episodes, -1)
    flat = by_rule[list(chosen).index("stay flat")]
    return [_played(name, fees, table - flat) for name, table in zip(chosen, by_rule, strict=True) if table is not flat
            and name != "stay flat"]  # fmt: skip


def _played(name: str, fees: str, table: Tensor) -> Played:
    total = table.sum(1)
    paid = dict(zip(PAYERS, table.mean(0).tolist(), strict=True))
    return Played(name, fees, len(total), float(total.mean()), float(total.std() / math.sqrt(len(total))), paid)


class _Market:
    """Closes that follow a random walk, with or without an edge."""

    def __init__(self, spec: Spec, scale: float, bars_per_year: float, edge: float) -> None:
        self.window, self.scale, self.bars_per_year, self.edge = spec.env.window, scale, bars_per_year, edge

    def make(self, count: int, seed: int) -> tuple[SymbolData, dict[str, Tensor]]:
        """`count` bars, and what is known at the close of each, (count,) bool."""
        noise = np.random.default_rng([seed, 17]).standard_normal(count)
        turns = np.random.default_rng([seed, 18]).random(count) < 1 / SIGNAL_BARS
        signal = np.where(np.cumsum(turns) % 2 == 0, 1.0, -1.0)
        moves = self.scale * (noise + self.edge * np.concatenate([[0.0], signal[:-1]])) - self.scale**2 / 2
        close = 100.0 * np.exp(np.cumsum(moves) - np.cumsum(moves).mean())
        first = WARM_UP + self.window
        volatility = _trailing(moves, LOOK)[1] * math.sqrt(self.bars_per_year)
        bars = SymbolData(
            symbol="PROBE",
            timestamps=np.datetime64("2000-01-01", "ns") + np.arange(count) * np.timedelta64(1, "D"),
            close=close,
            open=None,
            high=None,
            low=None,
            features=np.zeros((count, 1), dtype=np.float32),
            feature_names=("nothing",),
            feature_mean=np.zeros(1),
            feature_scale=np.ones(1),
            volatility=volatility,
            regime=np.ones(count, dtype=np.int8),
            bars_per_year=self.bars_per_year,
            fingerprint="",
            splits={"train": (first, count)},
            source="probe",
            synthetic=True,
        )
        return bars, {name: torch.as_tensor(known) for name, known in self._signals(close, moves, signal).items()}

    def _signals(self, close: Array, moves: Array, signal: Array) -> dict[str, NDArray[np.bool_]]:
        mean, std = _trailing(moves, LOOK)
        return {
            "signal": signal > 0,
            "moving average": _trailing(close, 10)[0] > _trailing(close, 50)[0],
            "trailing Sharpe": mean * math.sqrt(self.bars_per_year) > std,
        }


def _trailing(values: Array, length: int) -> tuple[Array, Array]:
    """Mean and standard deviation of the last `length` values up to each; the first few know fewer."""
    count = np.minimum(np.arange(1, len(values) + 1), length)
    centred = values - values.mean()
    sums, squares = (np.cumsum(np.concatenate([[0.0], x])) for x in (centred, centred**2))
    first = np.arange(1, len(values) + 1) - count
    mean = (sums[1:] - sums[first]) / count
    variance = (squares[1:] - squares[first]) / count - mean**2
    return mean + values.mean(), np.sqrt(np.maximum(variance, 1e-18))


def _no_free_reward(spec: Spec, table: list[Played]) -> Probe:
    question = "Does any fixed rule beat staying flat where nothing can be earned?"
    details = {"rules": [played.to_json() for played in table], "standard_errors": LUCK}
    found = [played for played in table if played.beats_flat]
    if not found:
        best = max(table, key=lambda played: played.mean / played.error)
        evidence = f"none of {len(table)}; nearest is {best.rule} at {best.fees}: {best.mean:+.2f} ± {best.error:.2f}"
        return Probe("reward", question, True, evidence, details=details)
    worst = max(found, key=lambda played: played.mean)
    payer = max(worst.paid, key=lambda name: worst.paid[name])
    evidence = (
        f"{worst.rule} at {worst.fees} earns {worst.mean:+.2f} ± {worst.error:.2f} an episode, of which {payer} pays "
        f"{worst.paid[payer]:+.2f}" + (f"; {len(found) - 1} more do" if len(found) > 1 else "")
    )
    return Probe("reward", question, False, evidence, _remedy(spec, payer), details)


def _remedy(spec: Spec, payer: str) -> str:
    if payer == "bonus":
        return "reward.action_bonus = 0.0"
    if payer == OWN:
        return f"{OWN} of {spec.trainer}: what it pays per event must be at most 0, or a share of net profit"
    if spec.reward.formulas == "guide" and payer != "pnl":
        return 'reward.formulas = "sound"'
    if payer == "pnl":
        return "env.commission_bps and env.slippage_bps as your broker has them: P&L alone pays here"
    return f"reward.weights.{payer} = {getattr(spec.reward.weights, payer) / 2:g}"


def _pays_for_an_edge(spec: Spec, paid: Played) -> Probe:
    question = "Does a rule that knows where the price goes beat staying flat?"
    evidence = f"it earns {paid.mean:+.2f} ± {paid.error:.2f} an episode"
    details = {"rules": [paid.to_json()]}
    if paid.beats_flat:
        return Probe("reward-edge", question, True, evidence, details=details)
    drag = min(paid.paid, key=lambda name: paid.paid[name])
    remedy = f"{drag} takes {paid.paid[drag]:+.2f} of it: lower its weight, or the fees"
    if drag == OWN:
        remedy = f"{OWN} of {spec.trainer} takes {paid.paid[drag]:+.2f} of it: make it smaller"
    return Probe("reward-edge", question, False, evidence, remedy, details)
