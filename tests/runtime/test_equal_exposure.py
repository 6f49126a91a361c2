"""Buy-and-hold at equal exposure, to 1e-9 beside a bookkeeper that fills one bar at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p3kit.env import Rules
from p3kit.market import SymbolData, load_market
from p3kit.runtime.equal_exposure import average_fraction, hold_fraction
from p3kit.runtime.evaluation import Evaluator
from p3kit.runtime.fixed_rules import BUY_LARGE
from p3kit.runtime.walks import Mode, windows
from p3kit.spec import Spec, resolve_spec


@pytest.fixture(scope="module")
def spec() -> Spec:
    return resolve_spec({"name": "t", "symbols": ["AAPL"]}, "t")


@pytest.fixture(scope="module")
def bars(spec: Spec) -> SymbolData:
    return load_market(spec, ["AAPL"])["AAPL"]


def by_hand(data: SymbolData, first: int, last: int, fraction: float, rules: Rules) -> list[float]:
    """Equity at every close of one span. Each order is found by halving an interval, with no formula for its size."""
    cash, shares, found = 1.0, 0.0, [1.0]

    def after(order: float, price: float) -> tuple[float, float]:
        """Cash and shares once `order` shares were bought (below 0: sold)."""
        if order > 0:
            return cash - order * price * (1 + rules.slippage) * (1 + rules.commission), shares + order
        return cash - order * price * (1 - rules.slippage) * (1 - rules.commission), shares + order

    def invested(order: float, price: float) -> float:
        left, held = after(order, price)
        return held * price / (left + held * price)

    for bar in range(first, last):
        late = rules.fill == "next" and data.open is None
        price = data.close[bar]
        if rules.fill == "next":
            price = data.close[bar + 1] if data.open is None else data.open[bar + 1]
        if rules.continuous or not (late and bar + 1 == last):
            low, high = -shares, (cash + shares * price) / price
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if invested(middle, price) < fraction else (low, middle)
            cash, shares = after((low + high) / 2, price)
        if bar + 1 == last and not rules.continuous:
            cash, shares = after(-shares, data.close[last])
        found.append(cash + shares * data.close[bar + 1])
    return found


@settings(max_examples=40, deadline=None)
@given(
    fraction=st.floats(0.0, 1.0),
    fill=st.sampled_from(["next", "close"]),
    opens=st.booleans(),
    bps=st.sampled_from([(0.0, 0.0), (10.0, 5.0), (100.0, 50.0)]),
    continuous=st.booleans(),
    seed=st.integers(0, 1_000),
)
def test_every_mark_is_the_bookkeepers(
    spec: Spec,
    bars: SymbolData,
    fraction: float,
    fill: str,
    opens: bool,
    bps: tuple[float, float],
    continuous: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    close = 100 * np.cumprod(1 + rng.normal(0, 0.02, len(bars.close)))
    data = replace(bars, close=close, open=close * (1 + rng.normal(0, 0.01, len(close))) if opens else None)
    rules = Rules.from_spec(spec, continuous=continuous)
    rules = replace(rules, fill=fill, commission=bps[0] / 1e4, slippage=bps[1] / 1e4)
    spans = [(10, 40), (40, 70), (70, 81)]
    found = hold_fraction(data, spans, fraction, rules)
    at = 0
    for first, last in spans:
        equity = np.array(by_hand(data, first, last, fraction, rules))
        expected = equity[1:] / equity[:-1] - 1
        assert found[at : at + last - first] == pytest.approx(expected, abs=1e-9)
        at += last - first


@pytest.mark.parametrize("mode", ["continuous", "windows"])
def test_all_in_is_buy_and_hold_of_the_engine(spec: Spec, bars: SymbolData, mode: Mode) -> None:
    evaluation = Evaluator(spec, bars, "AAPL", 1, torch.device("cpu"), mode=mode)(
        lambda observation, mask: torch.where(mask[:, BUY_LARGE], BUY_LARGE, 0)
    )
    fraction, returns = evaluation.at_equal_exposure
    assert fraction == 1.0
    assert returns == pytest.approx(evaluation.rules["buy_and_hold"][0].bar_return, abs=1e-9)
    assert np.abs(evaluation.candidate(1).series["timing"].sums).max() < 1e-9


def test_the_fraction_has_the_policys_average_exposure(spec: Spec, bars: SymbolData) -> None:
    first, last = bars.splits["validation"]
    spans = windows(first, last, spec.env.episode_bars)
    exposure = np.full(last - first - 1, 0.4)
    exposure[[end - first - 1 for _, end in spans]] = 0.0  # every account is sold at the end of a window
    assert average_fraction(exposure, len(spans)) == pytest.approx(0.4)
    assert not hold_fraction(bars, spans, 0.0, Rules.from_spec(spec)).any()
