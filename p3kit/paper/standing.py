"""The status of a paper account, from its journal: money beside buy-and-hold, and the result beside validation.

The interval from validation is a prediction interval. Validation gives the chosen weights' Sharpe ratio with its 95 %
interval v − a … v + b, from n bars. The Sharpe ratio of the m bars since the opening has an error of its own.
If returns are like those of validation, and the weights were not chosen on these bars, it lies within v − a w … v + b w
in 95 of 100 cases. Here w is √(1 + n/m), wider by Student's quantile for m bars. Weights are chosen by their result on
validation, so v is too high on average, and a live result below the middle is usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from p3kit.market.bars import Floats
from p3kit.metrics import max_drawdown, sharpe_ratio
from p3kit.paper.account_journal import time_text
from p3kit.paper.book import Book, Point

LEAST_RETURNS = 20
"""Bars since the opening below which there is no Sharpe ratio."""


def status_of(book: Book, agent: str) -> dict[str, Any]:
    """The status as plain values; the same journal gives the same status."""
    points, newest = book.points, book.points[-1]
    own, hold = returns_of(points)
    fills = [fill for point in points for fill in point.fills]
    return {
        "format": 1,
        "agent": agent,
        "symbol": book.symbol,
        "synthetic": bool(book.opened.get("synthetic")),
        **{name: book.weights.get(name) for name in ("run", "checkpoint", "global_step", "sha256")},
        "opened": time_text(points[0].time),
        "newest": time_text(newest.time),
        "made_later": book.opened.get("made_later"),
        "bars": len(own),
        "bars_seen": _bars_seen(book),
        "capital": book.capital,
        "equity": newest.equity,
        "total_return": newest.equity / book.capital - 1.0,
        "max_drawdown": drawdown_of(own),
        "cost": sum(point.cost for point in points),
        "fills": len(fills),
        "buy_and_hold": {
            "equity": newest.hold_equity,
            "total_return": newest.hold_equity / book.capital - 1.0,
            "max_drawdown": drawdown_of(hold),
        },
        "position": _position(book),
        "decision": dict(newest.decision),
        "novel_bars": sum(bool((point.decision.get("novelty") or {}).get("novel")) for point in points),
        "validation": beside_validation(own, hold, book.weights.get("validation")),
        "weights_changed": sum(event["kind"] == "weights" for event in book.events),
        "corrected_bars": len(book.corrected),
        "rescaled": sum(event["kind"] == "rescaled" for event in book.events),
        "ruined": book.ruined[0],
    }


def returns_of(points: Sequence[Point]) -> tuple[Floats, Floats]:
    """Bar returns of the account and of buy-and-hold since the opening, (T − 1,) each."""
    own, hold = (np.array([getattr(point, name) for point in points]) for name in ("equity", "hold_equity"))
    return own[1:] / own[:-1] - 1.0, hold[1:] / hold[:-1] - 1.0


def drawdown_of(returns: Floats) -> float:
    """Largest fall from a peak, as a fraction."""
    return float(max_drawdown(np.concatenate([[1.0], np.cumprod(1.0 + returns)])))


def beside_validation(own: Floats, hold: Floats, validation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Sharpe ratio of the account, and its excess over buy-and-hold, each with the interval from validation.

    None where validation has no evaluation of these weights, or where the account has fewer than 20 returns.
    """
    if not validation or len(own) < LEAST_RETURNS:
        return None
    year = float(validation["bars_per_year"])
    live, held = sharpe_ratio(own, year), sharpe_ratio(hold, year)
    excess = None if live is None or held is None else live - held
    found = {
        "bars": int(validation["bars"]),
        "sharpe_ratio": _beside(
            live, validation.get("sharpe_ratio"), validation.get("sharpe_interval"), own, validation
        ),
        "sharpe_excess": _beside(
            excess, validation.get("sharpe_excess"), validation.get("excess_interval"), own, validation
        ),
    }
    return found


def _beside(
    live: float | None,
    middle: float | None,
    interval: Sequence[float] | None,
    own: Floats,
    validation: Mapping[str, Any],
) -> dict[str, Any]:
    found: dict[str, Any] = {"value": live, "validation": middle, "interval": None, "inside": None}
    if middle is None or interval is None:
        return found
    low, high = prediction_interval(middle, interval, int(validation["bars"]), len(own))
    return found | {"interval": [low, high], "inside": None if live is None else bool(low <= live <= high)}


def prediction_interval(middle: float, interval: Sequence[float], bars: int, live_bars: int) -> tuple[float, float]:
    """The 95 % interval of a Sharpe ratio over `live_bars`, from the estimate and 95 % interval over `bars` bars."""
    wider = math.sqrt(1.0 + bars / live_bars) * _student(live_bars - 1) / _student(math.inf)
    return middle - (middle - interval[0]) * wider, middle + (interval[1] - middle) * wider


def _student(freedom: float) -> float:
    """97.5 % quantile of Student's distribution (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def validation_of(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of an evaluation event that the status needs; None without one, and where the policy never traded."""
    if event is None or not event.get("returns"):
        return None
    metrics = event["metrics"]
    return {
        "bars": event["returns"]["bars"],
        "bars_per_year": event["returns"]["bars_per_year"],
        "sharpe_ratio": metrics.get("eval/sharpe_ratio"),
        "sharpe_interval": event.get("sharpe_interval"),
        "sharpe_excess": metrics.get("eval/sharpe_excess"),
        "excess_interval": event.get("excess_interval"),
        "total_return": metrics.get("eval/total_return"),
    }


def sentences(status: Mapping[str, Any]) -> list[str]:
    """The result beside buy-and-hold and beside validation, one sentence each."""
    since, bars = status["opened"][:10], status["bars"]
    hold = status["buy_and_hold"]["total_return"]
    found = [f"{status['agent']}: {status['total_return']:+.2%} since {since} ({bars} bars), buy-and-hold {hold:+.2%}"]
    if seen := status["bars_seen"]:
        what = f"{seen} of {bars} bars lie before the end of the validation split: the weights were made for them"
        found.append(f"{status['agent']}: {what}")
    validation = status["validation"]
    if validation is None:
        least = LEAST_RETURNS
        why = f"{bars} bars are fewer than {least}" if bars < least else "these weights have no validation result"
        return [*found, f"{status['agent']}: no comparison with validation: {why}"]
    for name, title in (("sharpe_ratio", "Sharpe ratio"), ("sharpe_excess", "Sharpe ratio minus buy-and-hold's")):
        one = validation[name]
        if one["value"] is None or one["validation"] is None:
            continue
        if one["interval"] is None:
            why = "has no interval: too few of its bars have a return"
            found.append(f"{status['agent']}: {title} {one['value']:.2f}; validation, {one['validation']:.2f}, {why}")
            continue
        low, high = one["interval"]
        place = "inside" if one["inside"] else "OUTSIDE"
        found.append(
            f"{status['agent']}: {title} {one['value']:.2f} is {place} the 95 % prediction interval from validation, "
            f"{low:.2f} to {high:.2f} (validation {one['validation']:.2f} over {validation['bars']} bars)"
        )
    return found


def _bars_seen(book: Book) -> int:
    """Bars of the account that the newest weights were trained or chosen on."""
    last = book.weights.get("chosen_until")
    return 0 if last is None else sum(bool(point.time <= np.datetime64(last)) for point in book.points[1:])


def _position(book: Book) -> dict[str, Any] | None:
    account = book.account or {}
    if not account.get("shares"):
        return None
    return {
        "shares": account["shares"],
        "entry_price": account["entry_value"] / account["shares"],
        "value": account["market_value"],
        "unrealised_return": account["market_value"] / account["paid"] - 1.0,
        "bars_held": int(account["bars_held"]),
    }
