"""The fraction of the attainable score: 1 for the optimal rule itself, 0 for a flat account, None on real bars."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from p3kit.env.account import SELL_ALL
from p3kit.market import SymbolData, load_market
from p3kit.market.load import synthetic_market
from p3kit.market.optimal import TradingRules, attainable
from p3kit.runtime.attainable import attainable_share
from p3kit.runtime.evaluation import Evaluator
from p3kit.runtime.walks import Walk
from p3kit.spec import Spec, resolve_spec


def make_spec(**data: object) -> Spec:
    """A spec whose evaluation calls the policy once per bar, in order: the scalar engine does not look ahead."""
    tables = {"data": {"source": "synthetic", **data}, "env": {"backend": "scalar"}}
    return resolve_spec({"name": "x", "symbols": ["EDGE"], **tables}, "test")


def walk(spec: Spec, symbol: str, positions: list[int]) -> Walk:
    """The path of an account that holds `positions` (0 flat, 1 to 3 the sizes) on the bars of the validation split."""
    step, held = iter(positions), 0

    def policy(observation: Tensor, mask: Tensor) -> Tensor:
        nonlocal held
        wanted = next(step)
        action = 0 if wanted == held else wanted or SELL_ALL
        held = wanted
        return torch.tensor([action])

    return Evaluator(spec, bars_of(spec, symbol), symbol, 1, torch.device("cpu")).walk("validation", policy)


def bars_of(spec: Spec, symbol: str) -> SymbolData:
    return load_market(spec, [symbol])[symbol]


@pytest.mark.parametrize("regimes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_optimal_rule_has_a_share_of_one_and_a_flat_account_none_of_it(regimes: bool) -> None:
    spec = make_spec(synthetic={"bars": 8_000, "regimes": regimes})
    first, last = bars_of(spec, "EDGE").splits["validation"]
    best = attainable(synthetic_market(spec, "EDGE"), TradingRules.from_spec(spec), first, last)
    found = attainable_share(spec, "EDGE", walk(spec, "EDGE", best.positions.tolist()))
    assert found is not None
    assert found["share"] == pytest.approx(1.0, abs=0.02)  # the last position is marked there, and sold by the rule
    assert found["optimal_log_return_per_bar"] == pytest.approx(best.log_return_per_bar, rel=1e-12)
    assert found["upper_bound"] is regimes
    flat = attainable_share(spec, "EDGE", walk(spec, "EDGE", [0] * len(best.positions)))
    assert flat is not None
    assert flat["share"] == 0.0


def test_real_bars_and_a_market_without_an_edge_have_none() -> None:
    fair = make_spec(synthetic={"bars": 4_000, "edge": 0.0})
    path = walk(fair, "EDGE", [0] * 4_000)
    assert attainable_share(fair, "EDGE", path) is None
    real = resolve_spec({"name": "x", "symbols": ["AAPL"]}, "test")
    assert attainable_share(real, "AAPL", path) is None
