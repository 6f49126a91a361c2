"""The yardstick and the environment keep the same books: the optimal rule's actions, played in the environment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p3kit.env import TradingEnv
from p3kit.market import load_market, synthetic_market
from p3kit.market.optimal import TradingRules, attainable
from p3kit.metrics import ACTIONS
from tests.market.made import market_spec


@pytest.mark.parametrize("fill", ["next", "close"])
def test_the_optimal_rule_earns_in_the_environment_what_attainable_says(fill: str) -> None:
    spec = market_spec(
        ["EDGE"],
        data={"source": "synthetic", "synthetic": {"bars": 3_000, "regimes": False}},
        env={"fill": fill, "episode_bars": 200},
    )
    market = load_market(spec, ["EDGE"])
    first, last = market["EDGE"].splits["train"]
    played = attainable(synthetic_market(spec, "EDGE"), TradingRules.from_spec(spec), first, last)
    assert played.trades > 10

    env = TradingEnv(market, spec, symbols=["EDGE"], num_envs=1)
    env.reset_windows(torch.tensor([0]), torch.tensor([first]), torch.tensor([last - 1]))
    held, returns = 0, []
    for position in played.positions[:-1]:
        name = (
            "HOLD"
            if position == held
            else "SELL_ALL"
            if position == 0
            else ("BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE")[position - 1]
        )
        held = int(position)
        returns.append(float(env.step(torch.tensor([ACTIONS.index(name)])).bar_return))
    env.raise_if_faulty()
    np.testing.assert_allclose(returns, played.bar_returns, atol=1e-12)
