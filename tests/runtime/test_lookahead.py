"""A policy that decides on several bars per pass walks the path of one bar at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p3kit.errors import NumericalFault
from p3kit.market import SymbolData, load_market
from p3kit.metrics import ACTIONS
from p3kit.runtime.evaluation import Evaluator, StackPolicy, walk_together
from p3kit.runtime.walks import Walk
from p3kit.spec import Spec, resolve_spec
from p3kit.spec.models import Split

CPU = torch.device("cpu")
SYMBOLS = ("AAPL", "AMD", "XOM")
RULES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "stop, target, limit": {"stop": 0.03, "target": 0.05, "max_hold": 12, "max_adds": 3},
    "close": {"fill": "close", "stop": 0.02},
    "ruin": {"ruin": 0.97},
}


def spec_with(env: dict[str, Any], backend: str = "batched", action: str = "greedy") -> Spec:
    tables = {"name": "t", "symbols": [*SYMBOLS], "env": {"window": 8, "backend": backend, **env}}
    return resolve_spec(tables | {"evaluation": {"action": action}}, "t")


@pytest.fixture(scope="module")
def market() -> dict[str, SymbolData]:
    return load_market(spec_with({}), [*SYMBOLS])


class Nets:
    """Untrained policies of several agents, which trade often; counts its passes."""

    def __init__(self, size: int, scale: float) -> None:
        weights = [torch.randn(size, len(ACTIONS), generator=torch.Generator().manual_seed(k)) for k in range(3)]
        self._weights = [scale * own.double() for own in weights]
        self.passes = 0

    def of(self, *agents: int) -> StackPolicy:
        def policy(observation: Tensor, mask: Tensor) -> Tensor:
            self.passes += 1
            # a row's sum does not depend on the rows beside it, unlike a matrix product
            logits = [(observation[i].double().unsqueeze(2) * self._weights[k]).sum(1) for i, k in enumerate(agents)]
            return torch.stack(logits).masked_fill(~mask, -torch.inf).log_softmax(-1)

        return policy


def nets(spec: Spec, market: dict[str, SymbolData], scale: float = 1.0) -> Nets:
    return Nets(spec.env.window * market["AAPL"].features.shape[1] + 12 + len(ACTIONS), scale)


def evaluators(spec: Spec, market: dict[str, SymbolData], *symbols: str) -> list[Evaluator]:
    return [Evaluator(spec, market[symbol], symbol, 1, CPU) for symbol in symbols]


def assert_same(a: Walk, b: Walk, tolerance: float) -> None:
    for field in fields(Walk):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("action", ["greedy", "sharpened", "sampled"])
@pytest.mark.parametrize("rules", RULES)
def test_several_bars_per_pass_are_one_bar_at_a_time(market: dict[str, SymbolData], rules: str, action: str) -> None:
    """The plain reference plays one bar at a time."""
    spec, slow = (spec_with(RULES[rules], backend, action) for backend in ("batched", "scalar"))
    net = nets(spec, market)
    together = walk_together(evaluators(spec, market, *SYMBOLS), "validation", net.of(0, 1, 2))
    for k, symbol in enumerate(SYMBOLS):
        ((alone,),) = walk_together(evaluators(slow, market, symbol), "validation", net.of(k))
        assert len(set(together[k][0].action)) > 3
        assert_same(together[k][0], alone, 1e-9)


FEW_BARS = {
    "train": "2013-10-01..2015-03-31",
    "validation": "2015-04-01..2015-10-31",
    "test": "2015-11-01..2016-06-30",
}


@pytest.mark.parametrize(
    "rules",
    ["stop, target, limit", "ruin", *(pytest.param(name, marks=pytest.mark.slow) for name in ("defaults", "close"))],
)
def test_fixed_rules_are_those_of_the_plain_reference(rules: str) -> None:
    fast_spec, slow_spec = (
        spec.model_copy(update={"data": spec.data.model_copy(update={"split": Split(**FEW_BARS)})})
        for spec in (spec_with(RULES[rules]), spec_with(RULES[rules], "scalar"))
    )
    market = load_market(fast_spec, ["AMD"])
    (fast,) = evaluators(fast_spec, market, "AMD")
    (slow,) = evaluators(slow_spec, market, "AMD")
    for name, paths in slow.rules.items():
        for a, b in zip(fast.rules[name], paths, strict=True):
            assert_same(a, b, 1e-9)


def test_neighbours_change_no_bit(market: dict[str, SymbolData]) -> None:
    spec = spec_with({})
    net = nets(spec, market)
    together = walk_together(evaluators(spec, market, *SYMBOLS), "validation", net.of(0, 1, 2))
    for k, symbol in enumerate(SYMBOLS):
        ((alone,),) = walk_together(evaluators(spec, market, symbol), "validation", net.of(k))
        assert_same(together[k][0], alone, 0.0)


def test_a_policy_that_rarely_changes_its_mind_needs_few_passes(market: dict[str, SymbolData]) -> None:
    (evaluator,) = evaluators(spec_with({}), market, "AAPL")
    passes = 0

    def buy(observation: Tensor, mask: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return torch.where(mask[..., ACTIONS.index("BUY_LARGE")], ACTIONS.index("BUY_LARGE"), 0)

    ((walk,),) = walk_together([evaluator], "validation", buy)
    assert passes < len(walk.bar) / 8


def test_a_masked_action_is_an_error(market: dict[str, SymbolData]) -> None:
    (evaluator,) = evaluators(spec_with({}), market, "AAPL")

    def sell(observation: Tensor, mask: Tensor) -> Tensor:
        return torch.full(mask.shape[:-1], ACTIONS.index("SELL_ALL"))

    with pytest.raises(NumericalFault, match="masked actions were selected"):
        walk_together([evaluator], "validation", sell)
