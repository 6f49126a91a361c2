"""The rules of an account as plain numbers, taken from the spec: what trading costs, what is allowed, when it ends.

Both engines, the batched one and the scalar reference, read these; neither shares a formula with the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from p3kit.errors import InputError

if TYPE_CHECKING:
    from p3kit.spec import Spec

ROUNDING = 1e-9
"""Relative width of a tie. Comparisons of money are shifted by this much, in the direction stated at each of them. So
the last bit of a float never decides if an order is allowed, a stop is hit or a trade counts as a win."""

UNIT = 0.01
"""One unit of the sound reward: 1 % of the initial capital (a share)."""

TAKE = 0.025
"""Gain, as a share of a piece's entry value, above which the sound time component pays no more."""

DEFAULT_PATIENCE = 8
"""Bars that stand in for `env.max_hold` in the time and hold components when it is off."""

FREE_HOLD_BARS = 6
"""Bars a position may be held before the hold component starts."""

SHARPE_WARMUP_BARS = 20
"""Bars of an episode before the differential Sharpe ratio counts."""

SHARPE_DECAY = 1.0 / 64.0
"""Weight of the newest bar in the moments behind the differential Sharpe ratio (eta)."""

SHARPE_CLIP = 2.0
"""Bound on the differential Sharpe ratio of one bar."""

SHARPE_MIN_VARIANCE = 1e-12
"""Variance of bar returns below which a Sharpe ratio has no meaning: the differential Sharpe ratio is 0 there."""

DRAWDOWN_FREE = 0.05
"""Drawdown that costs nothing (both formula sets)."""

DRAWDOWN_DEEP = 0.15
"""Drawdown beyond which the quadratic term applies (both formula sets)."""


@dataclass(frozen=True)
class Rules:
    """Values of `[env]` and `[reward]`, as numbers for an engine.

    Money in the account's currency; `commission`, `slippage`, `stop`, `target`, `ruin`, `sizes` and `max_position` are
    shares (1 bp = 0.0001); `max_hold` and `episode_bars` count bars; `target_volatility` is annual. `None` is "off".
    """

    initial_capital: float
    sizes: tuple[float, float, float]
    max_position: float
    max_adds: int
    fill: Literal["next", "close"]
    commission: float
    slippage: float
    stop: float | None
    target: float | None
    max_hold: int | None
    episode_bars: int
    ruin: float
    formulas: Literal["sound", "guide"]
    target_volatility: float
    target_sharpe: float
    continuous: bool = False
    """One account that lives on from trade to trade, in place of episodes; see `p3kit.env`."""

    @classmethod
    def from_spec(cls, spec: Spec, *, continuous: bool = False) -> Rules:
        """The rules of `spec`. Raises InputError where fewer or more than three sizes are given."""
        env, reward = spec.env, spec.reward
        if len(env.sizes) != 3:
            raise InputError("env.sizes", f"{list(env.sizes)} has {len(env.sizes)} sizes", "BUY has exactly three")
        small, medium, large = (min(float(size), float(env.max_position)) for size in env.sizes)
        return cls(
            initial_capital=float(env.initial_capital),
            sizes=(small, medium, large),
            max_position=float(env.max_position),
            max_adds=int(env.max_adds),
            fill=env.fill,
            commission=env.commission_bps / 10_000,
            slippage=env.slippage_bps / 10_000,
            stop=None if env.stop == "off" else float(env.stop),
            target=None if env.target == "off" else float(env.target),
            max_hold=None if env.max_hold == "off" else int(env.max_hold),
            episode_bars=int(env.episode_bars),
            ruin=float(env.ruin),
            formulas=reward.formulas,
            target_volatility=float(reward.target_volatility),
            target_sharpe=float(reward.target_sharpe),
            continuous=continuous,
        )

    @property
    def held(self) -> Rules:
        """The rules of buy-and-hold: all in at the same costs, with no stop, target, holding limit or ruin."""
        small, medium, _ = self.sizes
        sizes = (small, medium, 1.0)
        return replace(self, sizes=sizes, max_position=1.0, stop=None, target=None, max_hold=None, ruin=0.0)

    @property
    def smallest_size(self) -> float:
        """The smallest share of equity an order opens with."""
        return min(self.sizes)

    @property
    def patience(self) -> int:
        """H of the time and hold components, in bars."""
        return self.max_hold or DEFAULT_PATIENCE
