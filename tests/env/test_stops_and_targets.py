"""Stops, targets and holding limits, by hand. No costs; the account buys for all it has at 100 a share."""

from __future__ import annotations

import pytest

from p3kit.env import Timestep
from p3kit.market import SymbolData
from tests.env.worlds import FREE, WINDOW, component, make_spec, make_symbol, play

QUIET = (100.0, 100.0, 100.0, 100.0)
Bar = tuple[float, float, float, float]  # open, high, low, close


def bars(*after: Bar) -> SymbolData:
    """Quiet bars at 100, then the bars given, then one more like the last close."""
    rows = [QUIET] * WINDOW + [*after] + [(after[-1][3],) * 4]
    opened, high, low, close = (list(column) for column in zip(*rows, strict=True))
    return make_symbol(close, opened, high, low)


def closes(*after: float) -> SymbolData:
    """The same with closes alone."""
    return make_symbol([100.0] * WINDOW + [*after, after[-1]])


def prices_per_share(steps: list[Timestep]) -> list[float]:
    """Equity per 1,000 shares: the price at which the position was marked or sold."""
    return [round(step.equity.item() / 1_000, 9) for step in steps[1:]]


@pytest.mark.parametrize(
    ("bar", "sold_at", "why"),
    [
        ((99.0, 101.0, 94.0, 100.0), 95.0, "the low goes through the stop: sold at the stop"),
        ((93.0, 99.0, 92.0, 98.0), 93.0, "the bar opens below the stop: sold at the open, not at the stop"),
        ((101.0, 112.0, 100.0, 105.0), 110.0, "the high goes through the target: sold at the target"),
        ((115.0, 118.0, 111.0, 112.0), 115.0, "the bar opens above the target: sold at the open"),
        ((100.0, 112.0, 94.0, 108.0), 95.0, "both are hit inside the bar: the stop counts"),
        ((115.0, 116.0, 90.0, 91.0), 115.0, "the open is beyond the target before the low can be seen"),
        ((100.0, 109.9, 95.1, 100.0), None, "neither is hit"),
        ((100.0, 100.0, 95.0, 100.0), 95.0, "the low touches the stop: a tie is a hit"),
    ],
)
def test_stop_and_target_on_the_path_of_the_bar(bar: Bar, sold_at: float | None, why: str) -> None:
    steps = play(bars(QUIET, bar), make_spec(stop=0.05, target=0.10, **FREE), ["BUY_LARGE"])
    sold = steps[2]
    assert sold.equity.item() == pytest.approx(1_000 * (sold_at or bar[3]), rel=1e-9), why
    assert sold.exposure.item() == pytest.approx(0.0 if sold_at else 1.0), why
    assert sold.closed_profit.isnan().item() == (sold_at is None), why


def test_a_position_bought_at_the_open_is_under_its_stop_in_that_bar() -> None:
    steps = play(bars((100.0, 101.0, 90.0, 97.0)), make_spec(stop=0.05, **FREE), ["BUY_LARGE"])
    assert steps[1].equity.item() == pytest.approx(95_000, rel=1e-9)
    assert component(steps[1], "time").item() < 0


def test_a_position_bought_at_the_close_seen_meets_the_next_open() -> None:
    data = bars((90.0, 96.0, 89.0, 95.5))
    assert play(data, make_spec(stop=0.05, fill="close", **FREE), ["BUY_LARGE"])[1].equity.item() == 90_000.0


def test_closes_alone_fill_resting_orders_at_the_close() -> None:
    steps = play(closes(100.0, 97.0, 91.0, 120.0), make_spec(stop=0.05, **FREE), ["BUY_LARGE"])
    assert prices_per_share(steps) == [100.0, 97.0, 91.0, 91.0, 91.0]


def test_a_late_fill_meets_no_path_of_its_own_bar() -> None:
    """High and low without an open: the order fills at the close of 98, after the low of 80 had come and gone."""
    high, low, close = (
        [100.0] * WINDOW + [100.0, 99.0],
        [100.0] * WINDOW + [80.0, 98.0],
        [100.0] * WINDOW + [98.0, 98.5],
    )
    data = make_symbol(close, None, high, low)
    bought = play(data, make_spec(stop=0.05, **FREE), ["BUY_LARGE"])[1]
    assert bought.exposure.item() == pytest.approx(1.0)


def test_a_position_sold_on_the_path_voids_a_late_order() -> None:
    """The stop goes at 91 before the ADD could fill at that close."""
    steps = play(closes(100.0, 101.0, 91.0, 91.0), make_spec(stop=0.05, **FREE), ["BUY_MEDIUM", "HOLD", "ADD"])
    stopped = steps[3]
    assert stopped.exposure.item() == 0.0
    assert stopped.traded_value.item() == pytest.approx(500 * 91.0)
    assert component(stopped, "sizing").item() == 0.0


def test_without_an_open_a_stop_is_not_filled_above_the_bar() -> None:
    """From 100 to a bar between 88 and 92: the stop at 95 cannot be had any more."""
    data = make_symbol(
        [100.0] * WINDOW + [100.0, 90.0, 90.0],
        None,
        [100.0] * WINDOW + [100.0, 92.0, 90.0],
        [100.0] * WINDOW + [100.0, 88.0, 90.0],
    )
    steps = play(data, make_spec(stop=0.05, **FREE), ["BUY_LARGE"])
    assert steps[2].equity.item() == pytest.approx(92_000, rel=1e-9)


def test_levels_follow_the_average_fill_price() -> None:
    """500 shares at 100 and as many as the cash buys at 110: the stop lies 2 % below the average of both."""
    rising = (110.0, 110.0, 110.0, 110.0)
    steps = play(
        bars(QUIET, rising, rising, (110.0, 110.0, 90.0, 109.0)),
        make_spec(stop=0.02, **FREE),
        ["BUY_MEDIUM", "HOLD", "ADD"],
    )
    spent = min(0.5 * 105_000, 105_000 - 55_000, 50_000)
    shares = 500 + spent / 110
    average = (500 * 100 + spent) / shares
    assert steps[4].equity.item() == pytest.approx(100_000 - 50_000 - spent + shares * average * 0.98, rel=1e-9)


@pytest.mark.parametrize(("limit", "sold_after"), [(1, 1), (3, 3)])
def test_the_holding_limit_sells_at_the_close(limit: int, sold_after: int) -> None:
    path = [(101.0 + i, 103.0 + i, 100.0 + i, 102.0 + i) for i in range(5)]
    steps = play(bars(*path), make_spec(max_hold=limit, **FREE), ["BUY_LARGE"])
    held = [step.exposure.item() > 0 for step in steps[1:]]
    assert held == [True] * (sold_after - 1) + [False] * (len(held) - sold_after + 1)
    assert steps[sold_after].equity.item() == pytest.approx(100_000 * path[sold_after - 1][3] / 101.0, rel=1e-9)


def test_a_stop_comes_before_the_holding_limit() -> None:
    steps = play(bars((100.0, 100.0, 94.0, 99.0)), make_spec(max_hold=1, stop=0.05, **FREE), ["BUY_LARGE"])
    assert steps[1].equity.item() == pytest.approx(95_000, rel=1e-9)
