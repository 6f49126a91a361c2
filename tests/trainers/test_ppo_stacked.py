"""trainers/ppo_stacked.py: K agents in one program come out as trainers/ppo.py makes each of them alone."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p3kit.runtime.stacking import Knobs

from .conftest import load_trainer
from .tiny_runs import final_weights, killed_and_resumed, metrics_of, train

TOLERANCE = {"rtol": 2e-3, "atol": 2e-5}
"""Of weights and losses after a dozen updates in float32: sums are taken in another order, and Adam's first steps
divide small numbers by each other."""


@pytest.fixture(scope="module")
def stacked() -> ModuleType:
    return load_trainer("ppo_stacked")


CASES = {
    "plain": {},
    "accumulated": {"ppo.accumulation_steps": 3, "ppo.batch_size": 16},
    "dropout": {"ppo.dropout": 0.3},
    "its own way to stop": {"ppo.target_kl": 0.0002, "ppo.n_epochs": 6, "ppo.learning_rate": 1e-3},
    "running scales": {"observation.normalize": "running", "reward.scaling": "running"},
    "linear, huber, decay": {"ppo.hidden": [], "ppo.value_loss": "huber", "ppo.weight_decay": 0.1},
    "relu, clipped, schedules": {
        "ppo.activation": "relu",
        "ppo.value_loss": "clipped",
        "schedules": {
            "ppo.learning_rate": {"kind": "linear", "start": 1e-3, "end": 1e-4},
            "ppo.ent_coef": {"kind": "cosine", "start": 0.05, "end": 0.0},
        },
    },
    "agents that differ": {
        "agents": {
            "AAA": {"ppo": {"learning_rate": 1e-3, "gamma": 0.9, "clip_range": 0.1}},
            "CCC": {"ppo": {"ent_coef": 0.1, "max_grad_norm": 0.05, "vf_coef": 1.0}, "reward": {"action_bonus": 0.01}},
        }
    },
}


ALWAYS = ("agents that differ",)
ONCE = {"evaluation.every": 1_000}


@pytest.mark.parametrize(
    "case", [case if case in ALWAYS else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_every_agent_comes_out_as_it_does_alone(
    ppo: ModuleType, stacked: ModuleType, tmp_path: Path, case: str
) -> None:
    changes = ONCE | CASES[case]
    alone = train(ppo, tmp_path / "alone", "ppo", changes)
    (together,) = train(stacked, tmp_path / "stack", "ppo_stacked", changes)
    assert together.agent_names() == ["AAA", "BBB", "CCC"]
    for run in alone:
        (agent,) = run.agent_names()
        expected, found = metrics_of(run, agent), metrics_of(together, agent)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if key[1] in ("diag/feature_rank", "diag/dormant_share", "grad/grad_clipped_pct", "policy/clip_fraction"):
                assert found[key] == pytest.approx(value, abs=0.05 if value <= 1 else 1), key  # counts at a threshold
            else:
                assert found[key] == pytest.approx(value, rel=0.02, abs=2e-3, nan_ok=True), key
        theirs, ours = final_weights(run, agent), final_weights(together, agent)
        assert ours.keys() == theirs.keys()
        for name, weights in theirs.items():
            torch.testing.assert_close(ours[name], weights, **TOLERANCE)


def test_the_place_in_the_stack_does_not_matter(stacked: ModuleType, tmp_path: Path) -> None:
    (one,) = train(stacked, tmp_path / "a", "ppo_stacked", ONCE)
    (other,) = train(stacked, tmp_path / "b", "ppo_stacked", ONCE | {"symbols": ["CCC", "AAA", "DDD", "BBB"]})
    for agent in ("AAA", "BBB", "CCC"):
        for name, weights in final_weights(one, agent).items():
            torch.testing.assert_close(final_weights(other, agent)[name], weights, **TOLERANCE)


def test_an_agent_that_breaks_leaves_the_others_untouched(
    stacked: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (healthy,) = train(stacked, tmp_path / "healthy", "ppo_stacked", {})
    loss, calls = stacked.ppo_loss, []

    def breaks_after_the_first_update(*arguments: Any) -> Any:
        losses, stats = loss(*arguments)
        calls.append(None)
        return losses * torch.tensor([1.0, math.nan if len(calls) > 10 else 1.0, 1.0]), stats

    monkeypatch.setattr(stacked, "ppo_loss", breaks_after_the_first_update)
    (sick,) = train(stacked, tmp_path / "sick", "ppo_stacked", {})
    status = sick.status()
    assert status["state"] == "failed"
    assert "BBB" in status["message"]
    assert {name: agent["state"] for name, agent in status["agents"].items()} == {
        "AAA": "done",
        "BBB": "failed",
        "CCC": "done",
    }
    (event,) = sick.read_events("failed")
    assert event["agent"] == "BBB"
    assert "finite" in event["message"]
    assert {event["agent"] for event in sick.read_events("verdict")} == {"AAA", "CCC"}
    for agent in ("AAA", "CCC"):
        assert metrics_of(sick, agent) == metrics_of(healthy, agent)


@pytest.mark.slow
def test_agents_that_stop_early_leave_and_the_stack_becomes_smaller(
    stacked: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"ppo.total_timesteps": 1_500, "symbols": ["AAA", "BBB", "CCC", "DDD"], "evaluation.every": 300}
    (whole,) = train(stacked, tmp_path / "whole", "ppo_stacked", changes)
    rule = {"min_progress": 0.3, "stretch_sharpe": "off", "min_delta": 1e6, "plateau_steps": 1}
    impatient = {name: {"early_stop": rule | {"patience": n}} for name, n in (("AAA", 2), ("CCC", 3), ("DDD", 3))}
    sizes, train_stack = [], stacked.train
    monkeypatch.setattr(stacked, "train", lambda stack: sizes.append(stack.count) or train_stack(stack))
    (run,) = train(stacked, tmp_path / "early", "ppo_stacked", changes | {"agents": impatient})
    stops = {event["agent"]: event["global_step"] for event in run.read_events("early_stop")}
    assert stops == {"AAA": 900, "CCC": 1200, "DDD": 1200}
    assert sizes == [4, 1]  # one of four that stopped keeps its place; of three, only the fourth goes on
    assert metrics_of(run, "BBB").keys() == metrics_of(whole, "BBB").keys()
    for name, weights in final_weights(whole, "BBB").items():
        torch.testing.assert_close(final_weights(run, "BBB")[name], weights, **TOLERANCE)
    for agent, step in stops.items():
        assert max(at for at, _ in metrics_of(run, agent)) == step
        assert run.status()["agents"][agent]["verdict"] is not None


def test_a_stack_resumes_to_the_same_bits(stacked: ModuleType, tmp_path: Path) -> None:
    (whole,) = train(stacked, tmp_path / "whole", "ppo_stacked", {})
    run = killed_and_resumed(stacked, tmp_path / "killed", "ppo_stacked", {})
    for agent in run.agent_names():
        assert metrics_of(run, agent) == metrics_of(whole, agent)
        for name, weights in final_weights(whole, agent).items():
            assert torch.equal(final_weights(run, agent)[name], weights)


@pytest.mark.parametrize("kind", ["mse", "huber", "clipped"])
def test_loss_is_that_of_each_agent_alone(ppo: ModuleType, stacked: ModuleType, kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    agents, rows, actions = 4, 50, 7
    mask = torch.rand(agents, rows, actions, generator=generator) < 0.6
    mask[..., 0] = True
    logits = torch.randn(agents, rows, actions, generator=generator)
    action, log_prob = ppo.sample_action(
        ppo.masked_log_softmax(logits + 0.3, mask), ppo.gumbel_noise((agents, rows, actions), generator)
    )
    columns = [torch.randn(agents, rows, generator=generator) for _ in range(4)]
    batch = stacked.Minibatch(action, log_prob, *columns[:3], mask)
    per_agent = {"clip_range": [0.1, 0.2, 0.3, 0.2], "ent_coef": [0.0, 0.1, 0.01, 0.2], "vf_coef": [0.5, 1.0, 0.1, 0.0]}
    others = {"learning_rate": [1.0] * 4, "weight_decay": [0.0] * 4, "max_grad_norm": [0.5] * 4}
    knobs = Knobs(**{name: torch.tensor(v).unsqueeze(1) for name, v in (per_agent | others).items()})
    losses, stats = stacked.ppo_loss(logits, columns[3], batch, knobs, kind)
    for k in range(agents):
        own = {name: values[k] for name, values in per_agent.items()}
        one = ppo.Minibatch(*(column[k] for column in batch))
        loss, expected = ppo.ppo_loss(logits[k], columns[3][k], one, value_loss=kind, **own)
        torch.testing.assert_close(losses[k], loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stats[k], expected, rtol=1e-5, atol=1e-6)


def test_advantages_of_stacks_are_those_of_the_plain_sum(stacked: ModuleType) -> None:
    """(steps, envs, agents): every agent by its own gamma and lambda, truncated and terminated episodes mixed."""
    from .test_ppo_parts import plain_gae

    torch.manual_seed(5)
    shape = (14, 3, 4)
    reward, value, next_value = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (torch.rand(shape) < 0.15 for _ in range(2))
    done = terminated | truncated
    gamma, gae_lambda = torch.tensor([0.9, 0.99, 0.5, 1.0]).double(), torch.tensor([0.95, 0.0, 1.0, 0.8]).double()
    ours = stacked.compute_gae(reward, value, next_value, terminated, done, gamma, gae_lambda)
    for k in range(4):
        plain = plain_gae(
            *(t[..., k] for t in (reward, value, next_value, terminated, done)), float(gamma[k]), float(gae_lambda[k])
        )
        torch.testing.assert_close(ours[..., k], plain, rtol=1e-10, atol=1e-10)


def test_larger_nets_repay_compiling_sooner_and_smaller_ones_never_later(stacked: ModuleType) -> None:
    assert stacked.compiling_pays_from(75_000) == stacked.compiling_pays_from(10_000) == 200_000
    assert stacked.compiling_pays_from(375_000) == 40_000
