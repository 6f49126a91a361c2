"""Action rules: the actions that they pick. A decision depends on its bar, its agent and its probabilities alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import p3kit
from p3kit.market import SymbolData, load_market
from p3kit.runtime.action_rule import bar_draws, choose_action
from p3kit.runtime.evaluation import Evaluator, evaluate_together
from p3kit.spec import Spec, resolve_spec

CPU = torch.device("cpu")
HOURS = np.arange("2020-01-01", "2026-11-06", dtype="datetime64[h]")  # 60,000 bars


def masked_log_probs(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 7) as trainers return them, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, 7, generator=generator) < 0.5
    mask[torch.arange(rows), torch.randint(7, (rows,), generator=generator)] = True
    logits = 3 * torch.randn(rows, 7, generator=generator)
    return logits.masked_fill(~mask, torch.finfo(torch.float32).min).log_softmax(-1), mask


@pytest.mark.parametrize("rule", ["sampled", "sharpened"])
@given(seed=st.integers(0, 2**32 - 1), draw=st.floats(0, 1, exclude_max=True, width=32))
def test_a_masked_action_is_never_drawn(rule: str, seed: int, draw: float) -> None:
    log_probs, mask = masked_log_probs(50, seed)
    for value in (0.0, draw, 1 - 2**-48):
        chosen = choose_action(log_probs, rule, torch.full((50,), value, dtype=torch.float64))
        assert mask.gather(1, chosen.unsqueeze(1)).all()


def test_actions_are_drawn_as_often_as_they_are_probable() -> None:
    log_probs, _ = masked_log_probs(1, 5)
    draws = torch.from_numpy(bar_draws(3, "AAPL", HOURS))
    chosen = choose_action(log_probs.expand(len(draws), -1), "sampled", draws)
    share = torch.bincount(chosen, minlength=7) / len(draws)
    torch.testing.assert_close(share, log_probs[0].exp(), atol=0.008, rtol=0)  # 4 standard errors
    assert (choose_action(log_probs, "greedy", draws[:1]) == log_probs.argmax(-1)).all()


def test_sharpened_draws_a_side_at_a_low_temperature() -> None:
    """HOLD is the most probable action. Buying as a whole is likelier, and is drawn by the fifth power of that."""
    chances = torch.tensor([0.40, 0.00, 0.15, 0.35, 0.04, 0.06, 0.00])
    log_probs = chances.log().clamp_min(torch.finfo(torch.float32).min)
    draws = torch.from_numpy(bar_draws(3, "AAPL", HOURS))
    chosen = choose_action(log_probs.expand(len(draws), -1), "sharpened", draws)
    share = torch.bincount(chosen, minlength=7) / len(draws)
    hold, buy, sell = (side**5 / (0.4**5 + 0.5**5 + 0.1**5) for side in (0.4, 0.5, 0.1))
    expected = torch.tensor([hold, 0, buy * 0.3, buy * 0.7, sell * 0.4, sell * 0.6, 0])
    torch.testing.assert_close(share, expected, atol=0.008, rtol=0)  # 4 standard errors
    assert share[chances == 0].sum() == 0


def test_draws_belong_to_seed_symbol_and_time_alone() -> None:
    """Other programs compute them from the text of the card, so the formula never changes."""
    times = np.array(["2024-01-02", "2024-01-03T15:30"], dtype="datetime64[ns]")
    digest = hashlib.sha256(b"7/AAPL/1704295800000000").digest()
    assert bar_draws(7, "AAPL", times)[1] == int.from_bytes(digest[:6], "big") / 2**48
    draws = bar_draws(1, "AAPL", HOURS)
    assert (bar_draws(1, "AAPL", HOURS[500:900]) == draws[500:900]).all()
    for other in (bar_draws(2, "AAPL", HOURS), bar_draws(1, "MSFT", HOURS)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.02
    assert 0 <= draws.min() < draws.max() < 1


def spec_of(action: str, symbol: str = "AAPL") -> Spec:
    return resolve_spec({"name": "t", "symbols": [symbol], "evaluation": {"action": action}}, "t")


@pytest.fixture(scope="module")
def bars() -> SymbolData:
    return load_market(spec_of("greedy"), ["AAPL"])["AAPL"]


def policy(observation: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities that depend on the observation."""
    weights = torch.randn(observation.shape[-1], 7, generator=torch.Generator().manual_seed(1)) / 3
    logits = (observation.unsqueeze(-1) * weights).sum(-2)
    return logits.masked_fill(~mask, torch.finfo(torch.float32).min).log_softmax(-1)


@pytest.mark.parametrize("mode", ["continuous", pytest.param("windows", marks=pytest.mark.slow)])
def test_both_rules_are_recorded_and_the_one_of_the_spec_decides(bars: SymbolData, mode: str) -> None:
    found = {
        action: Evaluator(spec_of(action), bars, "AAPL", 1, CPU, mode=mode)(policy)  # type: ignore[arg-type]
        for action in ("greedy", "sampled")
    }
    for rule, evaluation in found.items():
        summary = evaluation.summary()
        assert summary["action"] == rule
        assert summary["metrics"]["eval/total_return"] == summary["actions"][rule]["total_return"]
        assert summary["metrics"][f"eval/{rule}_total_return"] == summary["metrics"]["eval/total_return"]
        assert set(summary["metrics"]) <= set(p3kit.metrics.METRICS)
        alone = Evaluator(spec_of(rule), bars, "AAPL", 1, CPU, mode=mode)  # type: ignore[arg-type]
        assert (alone.walk("validation", policy).bar_return == evaluation.policy.bar_return).all()
    greedy, sampled = (found[rule].policy for rule in ("greedy", "sampled"))
    assert (greedy.action != sampled.action).any()
    assert found["greedy"].summary()["actions"] == found["sampled"].summary()["actions"]
    assert (found["greedy"].train.action != found["sampled"].train.action).any()  # type: ignore[union-attr]


def test_the_rule_sharpened_is_recorded_beside_greedy(bars: SymbolData) -> None:
    own, greedy = (
        Evaluator(spec_of(action), bars, "AAPL", 1, CPU)(policy).summary() for action in ("sharpened", "greedy")
    )
    assert list(own["actions"]) == ["greedy", "sharpened"]
    assert list(greedy["actions"]) == ["greedy", "sampled"]
    assert own["metrics"]["eval/total_return"] == own["actions"]["sharpened"]["total_return"]
    assert own["actions"]["greedy"] == greedy["actions"]["greedy"]
    assert own["actions"]["sharpened"] not in greedy["actions"].values()
    assert not {name for name in own["metrics"] if name.startswith("eval/sampled_")}


def test_agents_of_different_rules_are_evaluated_together_as_alone(bars: SymbolData) -> None:
    own = [
        Evaluator(spec_of(action), bars, "AAPL", seed, CPU)
        for action in ("greedy", "sampled", "sharpened")
        for seed in (1, 2)
    ]
    together = evaluate_together(own, policy)
    for one, evaluation in zip(own, together, strict=True):
        assert one(policy).summary() == evaluation.summary()
    returns = [evaluation.metrics["eval/total_return"] for evaluation in together]
    assert returns[0] == returns[1] != returns[2] != returns[3]


def test_a_policy_that_returns_actions_has_nothing_to_sample(bars: SymbolData) -> None:
    def hold(observation: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(mask.shape[:-1], dtype=torch.long)

    assert Evaluator(spec_of("greedy"), bars, "AAPL", 1, CPU)(hold).is_constant
    for rule in ("sampled", "sharpened"):
        with pytest.raises(p3kit.InputError, match=f'returns actions, and evaluation.action = "{rule}"'):
            Evaluator(spec_of(rule), bars, "AAPL", 1, CPU)(hold)
