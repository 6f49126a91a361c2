"""Episodes bar by bar agree with the evaluation of the same policy, and holding times with a plain count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from p3kit.market import SymbolData, load_market
from p3kit.market.foresight import feature_foresight
from p3kit.metrics import ACTIONS
from p3kit.runtime.evaluation import Evaluator
from p3kit.runtime.replay import replay_episodes
from p3kit.runtime.walk_metrics import holding_times, round_trips
from p3kit.runtime.walks import Walk
from p3kit.spec import Spec, resolve_spec

CPU = torch.device("cpu")
SELL_ALL = ACTIONS.index("SELL_ALL")


@pytest.fixture(scope="module")
def spec() -> Spec:
    return resolve_spec({"name": "t", "symbols": ["AAPL"], "reward": {"action_bonus": 0.01}}, "t")


@pytest.fixture(scope="module")
def bars(spec: Spec) -> SymbolData:
    return load_market(spec, ["AAPL"])["AAPL"]


def restless(observation: Tensor, mask: Tensor) -> Tensor:
    """The last action that is allowed, but now and then HOLD: a rule that trades a lot and needs no weights."""
    busy = observation.sum(-1) > 0
    return torch.where(busy, mask.shape[1] - 1 - mask.flip(1).int().argmax(1), 0)


def test_episodes_are_the_evaluation_bar_by_bar(spec: Spec, bars: SymbolData) -> None:
    evaluator = Evaluator(spec, bars, "AAPL", 1, CPU, mode="windows")
    walk = evaluator.walk("validation", restless)
    episodes = replay_episodes(evaluator, restless, "validation", 99, gamma=0.9)
    assert len(episodes) == len(evaluator.windows("validation"))
    assert [e["rank"] for e in episodes] == list(range(1, len(episodes) + 1))
    assert [e["totals"]["reward"] for e in episodes] == sorted((e["totals"]["reward"] for e in episodes), reverse=True)
    in_time = sorted(episodes, key=lambda e: e["first_bar"])
    assert [a for e in in_time for a in e["bars"]["action"]] == [ACTIONS[i] for i in walk.action]
    growth = np.prod([1 + e["totals"]["return"] for e in in_time])
    assert growth == pytest.approx(walk.equity[-1], rel=1e-9)
    assert sum(e["totals"]["round_trips"] for e in in_time) == len(walk.profit)
    for episode in episodes:
        told = episode["bars"]
        assert all(action in allowed for action, allowed in zip(told["action"], told["allowed"], strict=True))
        parts = np.sum(list(told["weighted"].values()), axis=0) + told["bonus"]
        np.testing.assert_allclose(parts, told["reward"], atol=1e-12)
        assert told["reward_to_go"][0] == pytest.approx(sum(r * 0.9**t for t, r in enumerate(told["reward"])))
        assert sum(told["components"]["pnl"]) * 0.01 == pytest.approx(episode["totals"]["return"], abs=1e-9)


def test_two_episodes_are_the_best_and_the_worst_paid(spec: Spec, bars: SymbolData) -> None:
    evaluator = Evaluator(spec, bars, "AAPL", 1, CPU)
    best, worst = replay_episodes(evaluator, restless, "train", 2, gamma=0.99)
    assert (best["rank"], worst["rank"]) == (1, best["of"])
    assert best["totals"]["reward"] > worst["totals"]["reward"]


def walk_of(exposure: list[float], returns: list[float]) -> Walk:
    zero = np.zeros(len(exposure))
    return Walk(np.arange(len(exposure)), np.array(returns), zero, np.array(exposure), zero, zero, np.array([]))


def test_round_trips_are_stretches_with_a_position() -> None:
    walk = walk_of([0, 1, 1, 0, 0, 0.5, 0, 1, 1], [0, 0.1, 0.1, -0.05, 0, 0.2, -0.4, 0.01, 0.01])
    held, gain = round_trips(walk)
    assert held.tolist() == [2, 1]  # the last one is still open
    assert gain == pytest.approx([1.1 * 1.1 * 0.95 - 1, 1.2 * 0.6 - 1])
    assert holding_times([walk], 10) == {}


def test_round_trips_agree_with_the_engines_count(spec: Spec, bars: SymbolData) -> None:
    evaluator = Evaluator(spec, bars, "AAPL", 1, CPU)
    walk = evaluator.walk("train", restless)
    held, _ = round_trips(walk)
    # bought in the last step of a window and sold at its close: a round trip of no bar, which no holding time counts
    assert 0 <= len(walk.profit) - len(held) <= len(evaluator.windows("train"))
    assert held.sum() == (walk.exposure > 0).sum()


def test_holding_times_tell_winners_from_losers() -> None:
    exposure = ([1.0] * 2 + [0.0] + [1.0] * 6 + [0.0]) * 25
    returns = ([0.01] * 2 + [0.0] + [-0.01] * 6 + [0.0]) * 25
    told = holding_times([walk_of(exposure, returns)], 8)
    assert told == {"eval/holding_winners": 2.0, "eval/holding_losers": 6.0, "eval/losers_held": 0.75}


def test_a_feature_that_knows_the_future_is_named(spec: Spec, bars: SymbolData) -> None:
    name, honest = feature_foresight(bars)
    assert honest < 0.2, name
    move = np.append(np.diff(np.log(bars.close)), 0.0)
    rng = np.random.default_rng(0)
    for lead in (0, 2):
        known = np.roll(move, -lead) / move.std() + rng.standard_normal(len(move))
        features = np.concatenate([bars.features, known[:, None].astype(np.float32)], axis=1)
        leaky = replace(bars, features=features, feature_names=(*bars.feature_names, "tomorrow"))
        name, share = feature_foresight(leaky)
        assert name == "tomorrow"
        assert share == pytest.approx(0.7, abs=0.08)
