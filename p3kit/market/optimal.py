"""The optimal rule of the synthetic market, by value iteration: the reference for every learner.

Once per bar the rule may stay flat, buy any of the sizes, hold, or sell all, at the same costs and the same fill as the
environment. SELL_HALF and ADD are left out: the growth-optimal fraction is edge·s/σ, about 30 for s = 1, so the best
position is nearly always all or nothing. The rule maximises the mean log return per bar, without episode limits, by
relative value iteration on a grid of signal × regime × position.

The rule uses the formula, its parameters, and the signal s[t], which anybody can compute from the bars. If the market
has regimes, it also uses the hidden regime that drives the next return. So it is exactly optimal without regimes. With
regimes it is an upper bound that no learner reaches; proofs use a market without regimes.

Between buying and selling, the fraction of equity in the position is taken as constant. That is exact for a size of 1.
For smaller sizes it leaves out a second-order drift of the fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from p3kit.market.bars import Bars, Floats
from p3kit.market.synthetic import SyntheticMarket, SyntheticSettings

if TYPE_CHECKING:
    from p3kit.spec import Spec

Fill = Literal["next", "close"]


@dataclass(frozen=True)
class TradingRules:
    """Limits and costs of the account; the fields of `[env]`."""

    sizes: tuple[float, ...] = (0.25, 0.50, 1.00)
    commission_bps: float = 10.0
    slippage_bps: float = 5.0
    fill: Fill = "next"

    @classmethod
    def from_spec(cls, spec: Spec) -> TradingRules:
        """The rules of a spec's `[env]`."""
        env = spec.env
        return cls(tuple(env.sizes), env.commission_bps, env.slippage_bps, env.fill)

    @property
    def buy_factor(self) -> float:
        """Value of the shares bought per unit of money spent."""
        return 1.0 / ((1.0 + self.slippage_bps / 1e4) * (1.0 + self.commission_bps / 1e4))

    @property
    def sell_factor(self) -> float:
        """Money received per unit of value sold."""
        return (1.0 - self.slippage_bps / 1e4) * (1.0 - self.commission_bps / 1e4)


@dataclass(frozen=True, eq=False)
class OptimalRule:
    """For every grid point of the signal, regime k and position: which position to hold over the next bar.

    Positions are 0 (flat) and 1 … n (the sizes). `gain` is the mean log return per bar that the rule earns in the long
    run, computed by value iteration.
    """

    grid: Floats  # (S,) signal
    choice: NDArray[np.int64]  # (S, K, 1 + n)
    gain: float
    rules: TradingRules

    def decide(self, signal: float, state: int, position: int) -> int:
        """The position to hold from the next fill on."""
        nearest = round((signal - self.grid[0]) / (self.grid[1] - self.grid[0]))
        return int(self.choice[min(max(nearest, 0), len(self.grid) - 1), state, position])


@dataclass(frozen=True, eq=False)
class Played:
    """Result of a rule on given bars, without episodes: flat on the first bar, sold at the last close."""

    log_return_per_bar: float
    sharpe_ratio: float | None
    positions: NDArray[np.int64]  # (T,) position decided on each bar: 0 flat, 1 … n the sizes; 0 on the last bar
    bar_returns: Floats  # (T − 1,) simple return of equity from each bar to the next
    trades: int


def optimal_rule(
    settings: SyntheticSettings,
    rules: TradingRules,
    *,
    grid_points: int = 241,
    noise: tuple[Floats, Floats] | None = None,
    horizon: int | None = None,
) -> OptimalRule:
    """Solve the market.

    - noise: (values, probabilities) of ε; default: 41-point Gauss–Hermite quadrature of the standard normal
    - horizon: a finite number of bars, for tests; the position is valued at the end. `gain` is then the mean log return
      per bar of a flat account that starts at s = 0 in the middle regime
    """
    eps, probability = _normal_quadrature(41) if noise is None else noise
    drift, sigma = np.array(settings.drift), np.array(settings.sigma)  # (K,)
    kinds, shares = len(drift), np.array((0.0, *rules.sizes))  # (n + 1,)
    grid = np.linspace(-6.0, 6.0, grid_points)  # s has unit variance; beyond ±6 lies one bar in 10⁸

    # log return of the asset at (s, k, ε), and of an account with each share in it: (S, K, E) -> (S, K, n + 1)
    pull = settings.volatility * settings.edge * grid[:, None, None]
    asset = drift[:, None] + pull + sigma[:, None] * eps
    growth = np.stack([np.log1p(w * np.expm1(asset)) @ probability for w in shares], axis=-1)

    # where the signal goes: (S, K, E) -> one (S, S) matrix per regime, linear interpolation between grid points
    scale = settings.signal_scale / settings.volatility
    following = (1.0 - settings.alpha) * grid[:, None, None] + settings.alpha * scale * asset
    moves = np.stack([_interpolation(grid, following[:, k], probability) for k in range(kinds)])  # (K, S, S)

    cost = _log_costs(shares, rules)  # (from, to)
    value = np.zeros((grid_points, kinds, len(shares)))
    middle = (grid_points // 2, kinds // 2, 0)
    gain, choice = 0.0, np.zeros(value.shape, dtype=np.int64)
    for iteration in range(horizon or 100_000):
        onward = np.einsum("kst,jk,tjn->skn", moves, settings.transition.T, value, optimize=True)
        options = -cost[None, None] + (growth + onward)[:, :, None, :]  # (S, K, from, to)
        updated = options.max(axis=-1)
        choice = options.argmax(axis=-1)
        change = updated - value
        if horizon is None:  # relative value iteration: the common drift of all values is the gain
            gain = float(change[middle])
            value = updated - updated[middle]
            if np.ptp(change) < 1e-9:
                break
        else:
            value = updated
            gain = float(value[middle]) / (iteration + 1)
    return OptimalRule(grid, choice, gain, rules)


def play(rule: OptimalRule, market: SyntheticMarket, first: int = 0, last: int | None = None) -> Played:
    """Let the rule trade bars first … last − 1 of its market; it decides on every bar but the last."""
    last = len(market.bars) if last is None else last
    # the regime behind the return of the next bar is known to the rule one bar ahead
    signal, state = market.signal[first:last], np.append(market.state[first + 1 : last], 0)
    positions = np.zeros(last - first, dtype=np.int64)
    position = 0
    for t in range(last - first - 1):
        position = rule.decide(float(signal[t]), int(state[t]), position)
        positions[t] = position
    return play_positions(positions, market.bars, rule.rules, first, last)


def play_positions(
    positions: NDArray[np.int64], bars: Bars, rules: TradingRules, first: int = 0, last: int | None = None
) -> Played:
    """Account for given positions on bars first … last − 1, to the cent as the environment does.

    positions: (last − first,) decided on each bar; a change from one size to another without selling is refused with
    ValueError. An order for share w spends w × equity including its costs; the rest is cash.
    """
    last = len(bars) if last is None else last
    close = bars.close[first:last]
    opens = close if rules.fill == "close" or bars.open is None else bars.open[first:last]
    late = rules.fill == "next" and bars.open is None  # filled at the next close: nothing earned in that bar
    shares, cash, held, trades = 0.0, 1.0, 0, 0
    equity = np.empty(len(close))
    equity[0] = 1.0
    for t in range(len(close) - 1):
        price = close[t] if rules.fill == "close" else close[t + 1] if late else opens[t + 1]
        wanted = int(positions[t])
        if wanted != held:
            if held and wanted:
                raise ValueError(f"position {held} changes to {wanted} without selling first")
            if wanted:
                spent = rules.sizes[wanted - 1] * cash
                shares, cash = spent * rules.buy_factor / price, cash - spent
            else:
                cash, shares, trades = cash + shares * price * rules.sell_factor, 0.0, trades + 1
            held = wanted
        equity[t + 1] = cash + shares * close[t + 1]
    if held:
        equity[-1] = cash + shares * close[-1] * rules.sell_factor
        trades += 1
    returns = equity[1:] / equity[:-1] - 1.0
    spread = float(returns.std(ddof=1))
    sharpe = float(returns.mean()) / spread * math.sqrt(bars.bars_per_year) if spread > 0 else None
    return Played(math.log(equity[-1]) / (len(close) - 1), sharpe, positions, returns, trades)


def attainable(market: SyntheticMarket, rules: TradingRules, first: int = 0, last: int | None = None) -> Played:
    """Return of the optimal rule on bars first … last − 1 of `market`: 100 % of the score.

    The score of a policy is its own log return per bar on the same bars, divided by `log_return_per_bar` of this.
    """
    return play(optimal_rule(market.settings, rules), market, first, last)


def _log_costs(shares: Floats, rules: TradingRules) -> Floats:
    """Log of equity lost by going from share (row) to share (column); infinite where the rule may not go."""
    cost = np.full((len(shares), len(shares)), np.inf)
    np.fill_diagonal(cost, 0.0)
    cost[0, 1:] = -np.log1p(-shares[1:] * (1.0 - rules.buy_factor))
    cost[1:, 0] = -np.log1p(-shares[1:] * (1.0 - rules.sell_factor))
    return cost


def _normal_quadrature(points: int) -> tuple[Floats, Floats]:
    """Values and probabilities that integrate polynomials against the standard normal exactly."""
    values, weights = np.polynomial.hermite_e.hermegauss(points)
    return values, weights / weights.sum()


def _interpolation(grid: Floats, following: Floats, probability: Floats) -> Floats:
    """Transition matrix (S, S) of a signal that goes from grid point i to following[i, e] with probability[e]."""
    step = grid[1] - grid[0]
    place = np.clip((following - grid[0]) / step, 0.0, len(grid) - 1.0)  # (S, E)
    left = np.minimum(place.astype(np.int64), len(grid) - 2)
    share = place - left
    matrix = np.zeros((len(grid), len(grid)))
    rows = np.broadcast_to(np.arange(len(grid))[:, None], left.shape)
    np.add.at(matrix, (rows, left), (1.0 - share) * probability)
    np.add.at(matrix, (rows, left + 1), share * probability)
    return matrix
