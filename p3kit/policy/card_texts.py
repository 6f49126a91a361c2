"""Sentences of a policy's card: formulas, rules, meanings. `reader.py` computes what they describe."""

from __future__ import annotations

import re

from p3kit.market.features import LOOKBACK

DEFINITIONS = {
    "o, h, l, c, v": "open, high, low, close and volume of bar t, after the adjustment; h and l are c where "
    "price_columns lacks high or low",
    "r": "r(t) = ln(c(t) / c(t-1))",
    "sum_n, mean_n, min_n, max_n": "over the bars t-n+1 to t; sums are added from the oldest value on, in float64",
    "std_n": "standard deviation over the bars t-n+1 to t, divisor n-1",
    "s": "max(std_20(r), 1e-6)",
    "cut(x, a)": "x, at least -a and at most a",
    "normalised": "(value - mean) / scale of the feature, in float64, then rounded to float32",
}
"""Symbols in the formulas of features."""

_FEATURES: dict[str, tuple[str, int]] = {
    r"return_(\d+)": ("cut(sum_{n}(r) / (s * sqrt({n})), 10)", 20),
    r"momentum_(\d+)": (
        f"w(k) = (1 - 2/({{n}}+1))^k for k = 0 to {LOOKBACK - 1}, divided by their sum; "
        "cut(sum over k of w(k) * r(t-k) / (s * sqrt(sum of w(k)^2)), 10)",
        LOOKBACK,
    ),
    "volatility_5_20": ("cut(ln(max(std_5(r), 1e-6) / max(std_20(r), 1e-6)), 3)", 20),
    "volatility_20_60": ("cut(ln(max(std_20(r), 1e-6) / max(std_60(r), 1e-6)), 3)", 60),
    "volatility": ("ln(max(std_20(r) * sqrt(bars_per_year), 0.001) / 0.2)", 20),
    r"mean_distance_(\d+)": ("cut(ln(c / mean_{n}(c)) / (s * sqrt({n})), 10)", 49),
    "high_distance_60": ("cut(ln(c / max_60(h)) / (s * sqrt(60)), 10)", 59),
    "low_distance_60": ("cut(ln(c / min_60(l)) / (s * sqrt(60)), 10)", 59),
    "range_position_20": (
        "a = min_20(l), b = max_20(h); cut((c - (a+b)/2) / ((b-a)/2), 1), and 0 where a = b",
        19,
    ),
    "rsi_14": ("cut(sum_14(r) / sum_14(|r|), 1), and 0 where the divisor is 0", 14),
    "gap": ("cut(ln(o(t) / c(t-1)) / s, 10)", 20),
    "bar_range": ("cut(ln(h / l) / s, 10)", 20),
    "close_location": ("cut((c - (l+h)/2) / ((h-l)/2), 1), and 0 where h = l", 0),
    "volume_20": ("u = mean_20(v), e = 0.01 * u, or 1 where u = 0; ln((v + e) / (u + e))", 19),
    "regime_bear": ("1 where trend < -0.5, else 0; trend = mean_5(sum_60(r) / (max(std_60(r), 1e-6) * sqrt(60)))", 64),
    "regime_sideways": ("1 where trend is from -0.5 to 0.5, else 0; trend as in regime_bear", 64),
    "regime_bull": ("1 where trend > 0.5, else 0; trend as in regime_bear", 64),
}
"""Name → formula, and the bars before t that it uses."""

ACCOUNT_TEXTS = {
    "in_position": "1 with shares, else 0",
    "exposure": "market value / equity",
    "unrealised_return": "market value / paid - 1; 0 while flat",
    "bars_held": "bars held / episode_bars, at most 1",
    "cash": "cash / equity",
    "equity_change": "equity / entry cash - 1; 0 while flat",
    "drawdown": "1 - equity / peak; 0 while flat",
    "max_drawdown": "largest drawdown since the trade opened; 0 while flat",
    "realised": "(cash + paid) / entry cash - 1; 0 while flat",
    "episode_left": "1 - bars held / episode_bars, at least 0",
    "adds_used": "ADDs of the open trade / max(max_adds, 1)",
    "add_size": "money that an ADD would spend / equity; 0 where it is masked",
}
"""Field → formula; the fields `last_action.NAME` are 1 for the last action of the account, else 0."""

ACCOUNT_WORDS = {
    "market value": "shares * close(t)",
    "equity": "cash + market value",
    "paid": "money spent on the shares held, costs included; a sale of a share of the position takes the same share",
    "entry value": "the same shares at the prices of their fills, without slippage and commission",
    "entry price": "entry value / shares",
    "entry size": "share of equity that the trade opened with",
    "entry cash": "cash before the trade opened; while flat: cash",
    "peak": "highest equity at a close since the trade opened, the close of its decision among them; while flat: equity",
    "bars held": "closes since the opening fill; the bar of a late fill does not count",
    "last action": "HOLD at the start",
}
"""Definitions of what the fields are made of."""

MASK_TEXTS = (
    "HOLD is valid in every state.",
    "While flat, the three BUYs are valid.",
    "With shares, SELL_HALF and SELL_ALL are valid.",
    "ADD is valid with shares, if fewer than max_adds ADDs were made, market value >= paid, and the money it would spend "
    "is at least half the smallest size * equity.",
    "An ADD spends the least of entry size * equity, max_position * equity - market value, and cash, costs included.",
    "Comparisons of money allow one part in 1e9: the action is valid in a tie.",
)

STEP_TEXTS = (
    "An action is decided at the close of bar t and filled at the open of bar t+1 (fill = next), or at the close of bar "
    "t (fill = close). Without a column open, fill = next means the close of bar t+1: a late fill.",
    "A BUY of a size spends size * equity, costs included. A purchase pays fill * (1 + slippage) a share and commission "
    "on that; a sale gets fill * (1 - slippage) a share less commission on that.",
    "Bar t+1 then meets stop, target and max_hold, in this order: the open at or beyond the stop, at or beyond the "
    "target (both fill at the open); the low at the stop, the high at the target (both fill at their level: entry price "
    "* (1 - stop), entry price * (1 + target)); the close, where bars held reaches max_hold.",
    "A missing high is the larger, a missing low the smaller, of open and close. Without an open, the path of the bar "
    "starts at the last close, kept within low and high, and a late order fills after the path: what was held before it "
    "meets the path, and a position sold there voids the order.",
    "Equity is marked at the close of bar t+1. Below ruin * starting capital the position is sold at that close, and "
    "nothing is bought any more.",
)

ACTION_TEXTS = {
    "HOLD": "Nothing.",
    "BUY_SMALL": "Buy for {size:.6g} of equity.",
    "BUY_MEDIUM": "Buy for {size:.6g} of equity.",
    "BUY_LARGE": "Buy for {size:.6g} of equity.",
    "ADD": "Buy once more for the size of the opening, within max_position and cash.",
    "SELL_HALF": "Sell half the shares.",
    "SELL_ALL": "Sell all shares.",
}

_DRAW = (
    "u is the first 48 bits (big-endian) of the SHA-256 of SEED/SYMBOL/TIME over 2^48, with trained.seed, symbol, and the "
    "time of bar t in microseconds since 1970 (UTC)."
)
ACTION_RULE_TEXTS = {
    "greedy": "greedy: the valid action with the largest logit; the first of them in a tie",
    "sampled": "sampled: the first action whose cumulative probability exceeds u times the sum. " + _DRAW,
    "sharpened": "sharpened: add up the probabilities of HOLD, of the BUY actions and ADD, and of the SELL actions; multiply "
    "each probability by the fourth power of its sum; then the first action whose cumulative product exceeds u times the "
    "sum of the products. " + _DRAW,
}

INTENDED_USE = (
    "Research: reproduce the decisions of one trained agent on bars of its symbol and bar length, compare them, and "
    "follow them on paper."
)

LIMITS = (
    "Nothing here sends orders to a broker, and nothing here is investment advice.",
    "The figures are of a backtest on the validation split, from which the weights were chosen: expect less.",
    "One symbol and one bar length: other symbols, other bars, other costs and other price adjustments are untested.",
    "Fills assume that the whole order is executed at the open with fixed slippage; market impact, halts, taxes, dividends "
    "and borrowing are left out.",
    "Inputs outside the range of the training split are extrapolation.",
)


def feature_text(name: str, own: tuple[str, ...] = ()) -> tuple[str, int]:
    """The formula of a feature before it is normalised, and the bars before t that it uses."""
    if name in own:
        return f"the column {name} of the file at bar t", 0
    for pattern, (formula, bars) in _FEATURES.items():
        if found := re.fullmatch(pattern, name):
            return formula.format(n=found[1] if found.groups() else ""), max(
                bars, int(found[1]) - 1 if found.groups() else 0
            )
    raise KeyError(name)


ACCOUNT_UNITS = (
    "initial_capital in money; sizes, max_position, stop, target and ruin are fractions of equity, of the entry price or of "
    "the starting capital; commission and slippage are fractions of a trade; max_hold and episode_bars count bars; null is off"
)
