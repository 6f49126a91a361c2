"""The seven reward components, in two formula sets, as pure functions of tensors.

Notation for shapes: N accounts, P = 2 pieces (what an order closed, what was closed by force). E is equity before the
step, E′ after it, E0 the initial capital, u = 0.01 one unit of the sound set (1 % of E0). Amounts of money are in the
account's currency; exposures, drawdowns and returns are fractions. Components are raw: `combine` applies the weights.

`"sound"` (default) pays only for money made or risk avoided. `"guide"` is the training guide's section 2.2 to
the letter; sizing and hold, which it does not define, are the sound ones. The guide's set has known defects. Its
drawdown penalty falls from 0.150 to 0.0225 as the drawdown crosses 15 %. Any one-bar win pays the full time bonus,
however small. Its Sharpe term reaches ±10³ on flat returns and compares a per-bar ratio with an annual target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from p3kit.env.account import Account, Flows
from p3kit.env.rules import (
    DRAWDOWN_DEEP,
    DRAWDOWN_FREE,
    FREE_HOLD_BARS,
    ROUNDING,
    SHARPE_CLIP,
    SHARPE_DECAY,
    SHARPE_MIN_VARIANCE,
    SHARPE_WARMUP_BARS,
    TAKE,
    UNIT,
    Rules,
)
from p3kit.metrics import COMPONENTS


def combine(components: Tensor, weights: Tensor) -> Tensor:
    """The weighted total (…) of raw components (…, 7) under weights (7,).

    A matrix product would round differently from one batch size to another; a row's sum does not.
    """
    return (components * weights.to(components.dtype)).sum(-1)


def reward_components(
    before: Account, after: Account, flows: Flows, volatility: Tensor, rules: Rules
) -> tuple[Tensor, Account]:
    """All components of one step, (N, 7) float64 in the order of `metrics.COMPONENTS`, and the account with the moments
    of its bar returns moved on. `volatility` (N,) is annualised and belongs to the bar of the decision."""
    if rules.continuous:
        return _change_alone(before, after, rules), after
    bar_return = after.equity / before.equity - 1.0
    sizing = sizing_component(flows.opened, flows.filled_exposure, volatility, rules)
    hold = hold_component(flows.rested, before.bars_held, rules.patience)
    if rules.formulas == "sound":
        unit = UNIT * rules.initial_capital
        ratio = differential_sharpe(bar_return, before.return_mean, before.return_square)
        warm = before.steps >= SHARPE_WARMUP_BARS
        exposure = before.market_value / before.equity
        columns = (
            (after.equity - before.equity) / unit,
            flows.cost / -unit,
            sound_time(flows.pieces.profit / unit, flows.pieces.entry_value / unit, flows.pieces.bars, rules.patience),
            exposure / rules.max_position * ratio * warm,
            sound_drawdown(before.max_drawdown, after.max_drawdown),
            sizing,
            hold,
        )
        mean, square = moving_moments(bar_return, before.return_mean, before.return_square)
    else:
        mean, square = sample_moments(bar_return, before.return_mean, before.return_square, before.steps)
        columns = (
            (after.equity - before.equity) / rules.initial_capital,
            flows.cost / -rules.initial_capital,
            guide_time(flows.closed_profit, flows.pieces.bars[0].maximum(flows.pieces.bars[1]), rules),
            guide_sharpe(mean, square, after.steps, rules.target_sharpe),
            guide_drawdown(1.0 - after.equity / after.peak),
            sizing,
            hold,
        )
    return torch.stack(columns, dim=1), after._replace(return_mean=mean, return_square=square)


def _change_alone(before: Account, after: Account, rules: Rules) -> Tensor:
    """Components of a continuous account, (N, 7): pnl as in episodes, and 0 for the others."""
    unit = UNIT if rules.formulas == "sound" else 1.0
    change = (after.equity - before.equity) / (unit * rules.initial_capital)
    return F.pad(change.unsqueeze(1), (0, len(COMPONENTS) - 1))


# ---- sound ----------------------------------------------------------------------------------------------------------


def sound_time(profit: Tensor, entry_value: Tensor, bars: Tensor, patience: int) -> Tensor:
    """Quick gains a little better, slow losses worse, per closed piece; (P, N) in units each, (N,) out.

    With g the net profit, V the entry value, h the bars held: ¼·min(g, take·V)/max(h, 1) for a gain, else
    ¼·g·(1 + min(h, H)/H). The factor on a win (≤ ¼) never exceeds the factor on a loss (≥ ¼), so without an edge the
    expectation is ≤ 0 under any exit rule.
    """
    win = torch.minimum(profit, TAKE * entry_value) / bars.clamp(min=1.0)
    loss = profit * (1.0 + (bars / patience).clamp(max=1.0))
    return (0.25 * torch.where(profit > 0.0, win, loss)).sum(0)


def differential_sharpe(bar_return: Tensor, mean: Tensor, square: Tensor) -> Tensor:
    """Change of the Sharpe ratio by one more bar return, clipped to ±2; (N,).

    D = (B·ΔA − ½·A·ΔB)/(B − A²)^{3/2} with ΔA = R − A, ΔB = R² − B, A and B the moving moments *before* this bar.
    Source: Moody and Saffell (2001), "Learning to trade via direct reinforcement", equation 14. We depart from it where
    if B − A² is only rounding: 0 there.
    """
    variance = square - mean * mean
    change = square * (bar_return - mean) - 0.5 * mean * (bar_return * bar_return - square)
    measurable = variance > SHARPE_MIN_VARIANCE
    spread = torch.where(measurable, variance, 1.0)
    ratio = change / (spread * spread.sqrt())  # a power would round differently from one batch size to another
    return ratio.clamp(-SHARPE_CLIP, SHARPE_CLIP) * measurable


def moving_moments(bar_return: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of the differential Sharpe ratio after one more bar: exponential means of R and R², from 0."""
    return mean + SHARPE_DECAY * (bar_return - mean), square + SHARPE_DECAY * (bar_return * bar_return - square)


def drawdown_cost(drawdown: Tensor) -> Tensor:
    """Q: 0 below 5 %, then one for one, and steeper beyond 15 %; continuous and monotone."""
    return (drawdown - DRAWDOWN_FREE).clamp(min=0.0) + (drawdown - DRAWDOWN_DEEP).clamp(min=0.0) ** 2


def sound_drawdown(max_before: Tensor, max_after: Tensor) -> Tensor:
    """−(Q(m′) − Q(m))/u, m the largest drawdown of the episode so far: only a new low costs."""
    return (drawdown_cost(max_before) - drawdown_cost(max_after)) / UNIT


# ---- guide ----------------------------------------------------------------------------------------------------------


def guide_time(closed_profit: Tensor, bars: Tensor, rules: Rules) -> Tensor:
    """`1/max(h, 1)` for a round trip that made money, `−h/max_hold` for one that did not, 0 where none closed (NaN).

    h is bars held. A profit within rounding of 0 is not a profit. `max_hold` "off" counts as 8 bars.
    """
    won = closed_profit > ROUNDING * rules.initial_capital
    value = torch.where(won, 1.0 / bars.clamp(min=1.0), bars / -rules.patience)
    return torch.where(closed_profit.isnan(), 0.0, value)


def sample_moments(bar_return: Tensor, mean: Tensor, deviation: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of an episode's bar returns after one more; `steps` bars came before.

    Source: Welford (1962), "Note on a method for calculating corrected sums of squares and products".
    """
    delta = bar_return - mean
    mean = mean + delta / (steps + 1.0)
    return mean, deviation + delta * (bar_return - mean)


def guide_sharpe(mean: Tensor, deviation: Tensor, steps: Tensor, target_sharpe: float) -> Tensor:
    """`mean/(std + 1e-6) − target` over the episode's bar returns so far; 0 with fewer than two of them."""
    std = (deviation / steps).sqrt()
    return torch.where(steps < 2.0, 0.0, mean / (std + 1e-6) - target_sharpe)


def guide_drawdown(drawdown: Tensor) -> Tensor:
    """0 below 5 % of current drawdown, −d below 15 %, −d² from there on."""
    penalty = torch.where(drawdown < DRAWDOWN_DEEP, drawdown, drawdown * drawdown)
    return torch.where(drawdown < DRAWDOWN_FREE, 0.0, -penalty)


# ---- both -----------------------------------------------------------------------------------------------------------


def sizing_component(opened: Tensor, exposure: Tensor, volatility: Tensor, rules: Rules) -> Tensor:
    """−min(1, |x − x*|/x*) where a BUY or ADD was filled; x the exposure after the fill, and x* the exposure that would
    bring the position to the target volatility, within [smallest size, max_position]. Never positive."""
    ideal = (rules.target_volatility / volatility).clamp(rules.smallest_size, rules.max_position)
    miss = ((exposure - ideal).abs() / ideal).clamp(max=1.0)
    return torch.where(opened, -miss, 0.0)


def hold_component(rested: Tensor, bars_held: Tensor, patience: int) -> Tensor:
    """−min(1, (h − 6)/H) on a HOLD that keeps a position older than 6 bars, else 0."""
    overdue = ((bars_held - FREE_HOLD_BARS) / patience).clamp(0.0, 1.0)
    return torch.where(rested, -overdue, 0.0)
