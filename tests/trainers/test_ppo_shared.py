"""trainers/ppo_shared.py: one encoder, K agents; their gradients, what they do to each other, and how they end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from p3kit.rundir import RunDir
from p3kit.runtime.stacking import BETA1, Knobs, adamw_step, add_weighted, plan_step
from p3kit.spec.knobs import read_knobs

from .conftest import TRAINERS, load_trainer
from .tiny_runs import final_weights, killed_and_resumed, metrics_of, train

RATIO_STARTS_AT_ONE = 1e-5


@pytest.fixture(scope="module")
def shared() -> ModuleType:
    return load_trainer("ppo_shared")


def run(module: ModuleType, folder: Path, changes: dict[str, Any]) -> RunDir:
    (made,) = train(module, folder, "ppo_shared", changes)
    return made


# --- the network ------------------------------------------------------------------------------------------------------


def transformer_of(encoder: dict[str, Tensor], layers: int, heads: int) -> nn.TransformerEncoder:
    """PyTorch's own pre-norm transformer with the same weights."""
    width = len(encoder["norm.weight"])
    layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False).eval()
    state = {"norm.weight": encoder["norm.weight"], "norm.bias": encoder["norm.bias"]}
    for i in range(layers):
        own = {name.removeprefix(f"{i}."): w for name, w in encoder.items() if name.startswith(f"{i}.")}
        state |= {
            f"layers.{i}.self_attn.in_proj_weight": torch.cat((own["query.weight"], own["key_value.weight"]), 1).T,
            f"layers.{i}.self_attn.in_proj_bias": torch.cat((own["query.bias"], own["key_value.bias"])),
            f"layers.{i}.self_attn.out_proj.weight": own["merge.weight"].T,
            f"layers.{i}.self_attn.out_proj.bias": own["merge.bias"],
        }
        names = (("linear1", "wide"), ("linear2", "narrow"), ("norm1", "attention_norm"), ("norm2", "wide_norm"))
        for theirs, ours in names:
            weight = own[f"{ours}.weight"]
            state[f"layers.{i}.{theirs}.weight"] = weight.T if weight.dim() == 2 else weight
            state[f"layers.{i}.{theirs}.bias"] = own[f"{ours}.bias"]
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize(("window", "patch", "layers"), [(24, 4, 2), (10, 4, 1), (5, 8, 3)])
def test_the_encoder_is_pytorchs_transformer_asked_for_its_last_token(
    shared: ModuleType, window: int, patch: int, layers: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    args = shared.Args(patch=patch, layers=layers, d_model=32, heads=4)
    shape = shared.Shape(window, 6, 5)
    encoder = shared.make_encoder(shape, args, generator)
    encoder = {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in encoder.items()}
    observation = torch.randn(7, window * 6 + 5, generator=generator)
    bars = observation[:, : window * 6].view(7, window, 6)
    missing = -window % patch
    bars = torch.cat((torch.zeros(7, missing, 6), bars), 1)  # the oldest patch is filled up with nothing
    tokens = bars.reshape(7, -1, patch * 6) @ encoder["embed.weight"] + encoder["embed.bias"] + encoder["position"]
    with torch.no_grad():
        expected = transformer_of(encoder, layers, 4)(tokens)[:, -1]
    found = shared.encode(shared.for_each(encoder, 1), observation.unsqueeze(0), shape, args)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


def test_few_tokens_attend_as_many_do(shared: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 2, 5, 6, 4, 8).unbind()
    few = shared.attend(query[:, :, -1:], key, value)
    monkeypatch.setattr(shared, "FEW_TOKENS", 0)
    torch.testing.assert_close(few, shared.attend(query[:, :, -1:], key, value), rtol=1e-5, atol=1e-6)


def test_a_first_policy_is_nearly_uniform_and_its_values_small(shared: ModuleType) -> None:
    args, shape = shared.Args(), shared.Shape(24, 20, 18)
    generator = torch.Generator().manual_seed(0)
    encoder = shared.make_encoder(shape, args, generator)
    own = [shared.make_heads(shape, 7, args, generator) for _ in range(3)]
    heads = {name: torch.stack([one[name] for one in own]) for name in own[0]}
    logits, value, *_ = shared.forward_all(encoder, heads, torch.randn(3, 256, 498), shape, args)
    assert logits.shape == (3, 256, 7)
    assert logits.abs().max() < 0.1
    assert value.std() < 3


def test_heads_begin_with_their_own_eyes(shared: ModuleType) -> None:
    """The token's share of a head's first layer is `token_gain` of what it would have been; nothing else moves."""
    shape, whole, small = shared.Shape(6, 5, 3), shared.Args(token_gain=1.0), shared.Args(token_gain=0.1)
    expected, found = (shared.make_heads(shape, 7, args, torch.Generator().manual_seed(1)) for args in (whole, small))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        if name.endswith(".0.weight"):  # (in, out), the token's rows first
            torch.testing.assert_close(found[name][: whole.d_model], 0.1 * weights[: whole.d_model])
            weights, found[name] = weights[whole.d_model :], found[name][whole.d_model :]
            assert len(weights) == shape.values + shape.account
        assert torch.equal(found[name], weights), name


def test_heads_follow_the_token_as_slowly_as_its_weight(shared: ModuleType) -> None:
    """A weight of 0.1 is a first layer whose token rows have a tenth of the output and of the gradient. The other
    inputs keep theirs."""
    shape = shared.Shape(6, 5, 3)
    whole, slow = shared.Args(token_weight=1.0), shared.Args(token_weight=0.1)
    encoder = shared.make_encoder(shape, whole, torch.Generator().manual_seed(2))
    heads = shared.make_heads(shape, 7, whole, torch.Generator().manual_seed(1))
    tenth = {
        name: torch.cat((0.1 * w[: whole.d_model], w[whole.d_model :])) if name.endswith(".0.weight") else w
        for name, w in heads.items()
    }
    observation = torch.randn(1, 12, 6 * 5 + 3, generator=torch.Generator().manual_seed(3))
    told = []
    for args, own in ((slow, heads), (whole, tenth)):
        own = {name: w.unsqueeze(0).clone().requires_grad_() for name, w in own.items()}
        logits, value, *_ = shared.forward_all(encoder, own, observation, shape, args)
        (logits.sum() + value.sum()).backward()
        told.append((logits, value, own["policy.0.weight"].grad[0]))
    (slow_logits, slow_value, slow_pull), (logits, value, pull) = told
    torch.testing.assert_close((slow_logits, slow_value), (logits, value))
    torch.testing.assert_close(slow_pull[: whole.d_model], 0.1 * pull[: whole.d_model])
    torch.testing.assert_close(slow_pull[whole.d_model :], pull[whole.d_model :])


def test_sizes_that_do_not_fit_are_refused(shared: ModuleType, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(AssertionError):
        run(shared, tmp_path, {"ppo.heads": 3})
    assert "ppo.heads: 3 heads cannot share a d_model of 16; d_model is a multiple of heads" in capsys.readouterr().err


def test_compiled_functions_see_no_knob_that_moves(shared: ModuleType) -> None:
    assert set(shared.LIVE) == {knob.name for knob in read_knobs(TRAINERS / "ppo_shared.py") if knob.live}


# --- gradients --------------------------------------------------------------------------------------------------------


def small_problem(shared: ModuleType, agents: int = 3, rows: int = 40) -> tuple[Any, ...]:
    """Encoder, heads, observation, batch, knobs, shape and args of a random problem."""
    generator = torch.Generator().manual_seed(5)
    args, shape = shared.Args(d_model=16, heads=2, head_width=8), shared.Shape(8, 5, 4)
    encoder = shared.make_encoder(shape, args, generator)
    own = [shared.make_heads(shape, 7, args, generator) for _ in range(agents)]
    heads = {name: torch.stack([one[name] for one in own]) for name in own[0]}
    mask = torch.rand(agents, rows, 7, generator=generator) < 0.6
    mask[..., 0] = True
    log_prob = shared.masked_log_softmax(torch.randn(agents, rows, 7, generator=generator), mask)
    action, chosen = shared.sample_action(log_prob, shared.gumbel_noise((agents, rows, 7), generator))
    columns = [torch.randn(agents, rows, generator=generator) for _ in range(3)]
    batch = shared.Minibatch(action, chosen, *columns, mask)
    knobs = Knobs(*(torch.rand(agents, 1, generator=generator) * high for high in (1e-3, 0.1, 0.3, 0.1, 1.0, 1.0)))
    observation = torch.randn(agents, rows, 8 * 5 + 4, generator=generator)
    return encoder, heads, observation, batch, knobs, shape, args


def test_gradients_are_those_of_each_agent_alone(shared: ModuleType, ppo: ModuleType) -> None:
    encoder, heads, observation, batch, knobs, shape, args = small_problem(shared)
    scale = torch.tensor([1.0, 2.0, 8.0])
    found = shared.find_gradients(encoder, heads, observation, batch, None, knobs, scale, shape, args, torch.float32)
    for k in range(3):
        own_encoder = {name: w.clone().requires_grad_() for name, w in encoder.items()}
        own_heads = {name: w[k : k + 1].clone().requires_grad_() for name, w in heads.items()}
        logits, value, *_ = shared.forward_all(own_encoder, own_heads, observation[k : k + 1], shape, args)
        rows = ppo.Minibatch(*(column[k] for column in batch))
        loss, stats = ppo.ppo_loss(
            logits[0],
            value[0],
            rows,
            clip_range=float(knobs.clip_range[k]),
            ent_coef=float(knobs.ent_coef[k]),
            vf_coef=float(knobs.vf_coef[k]),
            value_loss="mse",
        )
        (loss * scale[k]).backward()
        for name, w in own_encoder.items():
            torch.testing.assert_close(found[0][name][k], w.grad, rtol=1e-4, atol=1e-5)
        for name, w in own_heads.items():
            torch.testing.assert_close(found[1][name][k], w.grad[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[2][k], loss.detach())
        torch.testing.assert_close(found[3][k], stats)


def test_only_as_much_of_the_values_gradient_reaches_the_encoder_as_was_asked_for(shared: ModuleType) -> None:
    encoder, heads, observation, batch, knobs, shape, args = small_problem(shared)
    batch = batch._replace(advantage=torch.zeros_like(batch.advantage))  # the policy has nothing to learn
    knobs = knobs._replace(ent_coef=torch.zeros(3, 1))

    def gradients(reach: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given = (encoder, heads, observation, batch, None, knobs, torch.ones(3), shape)
        return shared.find_gradients(*given, replace(args, value_reach=reach), torch.float32)[:2]

    (none, heads_of_none), (half, _), (whole, heads_of_whole) = (gradients(reach) for reach in (0.0, 0.5, 1.0))
    for name in encoder:
        assert not none[name].any()
        torch.testing.assert_close(half[name], whole[name] / 2, rtol=1e-4, atol=1e-6)
    assert whole["embed.weight"].any()
    for name, gradient in heads_of_whole.items():
        torch.testing.assert_close(heads_of_none[name], gradient)


def pcgrad(gradients: list[Tensor], orders: Tensor) -> list[Tensor]:
    """Algorithm 1 of Yu et al. 2020, copied."""
    changed = []
    for i, gradient in enumerate(gradients):
        left = gradient.clone()
        for j in orders[i].tolist():
            if j != i and (along := left @ gradients[j]) < 0:
                left = left - along / (gradients[j] @ gradients[j]) * gradients[j]
        changed.append(left)
    return changed


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), agents=st.integers(1, 6))
def test_surgery_is_pcgrad(shared: ModuleType, seed: int, agents: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(agents, 4, generator=generator, dtype=torch.float64)
    orders = torch.stack([torch.randperm(agents, generator=generator) for _ in range(agents)])
    coefficients = shared.surgery_coefficients(gradients @ gradients.T, orders)
    expected = torch.stack(pcgrad(list(gradients), orders))
    torch.testing.assert_close(coefficients @ gradients, expected, rtol=1e-8, atol=1e-9)


def factors_of(shared: ModuleType, gradients: dict[str, Tensor], knobs: Any, live: Tensor) -> Any:
    agents = len(live)
    whole = {name: g.flatten(1).unsqueeze(1) for name, g in gradients.items()}
    return plan_step(whole, torch.zeros(agents), torch.ones(agents), torch.zeros(agents), live, knobs)[0]


def test_the_encoder_follows_the_mean_of_what_the_agents_ask_for_each_clipped_by_itself(shared: ModuleType) -> None:
    knobs = small_problem(shared, agents=4)[4]._replace(max_grad_norm=torch.full((4, 1), 0.5))
    torch.manual_seed(2)
    gradients = {"a": torch.randn(4, 3, 2), "b": torch.randn(4, 5)}
    gradients["a"][1] *= 1_000  # one agent shouts
    gradients["b"][2, 0] = math.nan  # one is broken
    live = torch.tensor([True, True, True, False])  # and one has stopped
    factors = factors_of(shared, gradients, knobs, live)
    found = shared.share_gradient(gradients, factors, torch.zeros(()), knobs, 0.5, None, torch.tensor(True))
    flat = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    heard = [flat[k] * min(1.0, 0.5 / float(flat[k].norm())) for k in (0, 1)]
    mean = (heard[0] + heard[1]) / 2
    got = torch.cat([found.gradient["a"].flatten(), found.gradient["b"]])
    torch.testing.assert_close(got, mean, rtol=1e-4, atol=1e-6)
    rate = 0.5 * float(knobs.learning_rate[:2].mean()) / (1 - BETA1)  # at the first step of Adam
    assert float(found.factors.step_size) == pytest.approx(rate, rel=1e-5)
    cosine = float(heard[0] @ heard[1] / heard[0].norm() / heard[1].norm())
    share, mean_cosine, least = found.interference.unbind(1)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.5, 0.0, 0.0]), rtol=1e-4, atol=1e-6)
    assert mean_cosine[:2].tolist() == pytest.approx([cosine, cosine], abs=1e-5)
    assert least[:2].tolist() == pytest.approx([cosine, cosine], abs=1e-5)
    assert mean_cosine[2:].isnan().all()
    assert least[2:].isnan().all()


@pytest.mark.parametrize("frozen", [False, True], ids=["nobody moves", "frozen"])
def test_the_encoder_stands_still(shared: ModuleType, frozen: bool) -> None:
    """An encoder that is frozen, or for which no agent has a finite gradient."""
    knobs = small_problem(shared, agents=2)[4]
    torch.manual_seed(3)
    gradients = {"a": torch.randn(2, 3, 3) if frozen else torch.full((2, 3, 3), math.nan)}
    factors = factors_of(shared, gradients, knobs, torch.ones(2, dtype=torch.bool))
    assert bool(factors.active.all()) == frozen
    found = shared.share_gradient(gradients, factors, torch.tensor(4.0), knobs, 0.5, None, torch.tensor(not frozen))
    weights = {"a": torch.randn(3, 3)}
    before, first, second = weights["a"].clone(), {"a": torch.ones(3, 3)}, {"a": torch.ones(3, 3)}
    adamw_step(weights, first, second, found.gradient, found.factors)
    assert torch.equal(weights["a"], before)
    assert torch.equal(first["a"], torch.ones(3, 3))
    assert torch.equal(second["a"], torch.ones(3, 3))
    assert found.steps == 4


def test_accumulated_gradients_are_those_of_the_larger_batch(shared: ModuleType) -> None:
    encoder, heads, observation, batch, knobs, shape, args = small_problem(shared)
    words, ones = (shape, args, torch.float32), torch.ones(3)
    whole = shared.find_gradients(encoder, heads, observation, batch, None, knobs, ones, *words)
    summed: list[dict[str, Tensor]] = [{}, {}]
    for piece in (slice(0, 16), slice(16, 32), slice(32, 40)):
        rows = shared.Minibatch(*(column[:, piece] for column in batch))
        part = shared.find_gradients(encoder, heads, observation[:, piece], rows, None, knobs, ones, *words)
        share = rows.action.shape[1] / 40
        summed = [add_weighted(total, one, share) for total, one in zip(summed, part[:2], strict=True)]
    for expected, found in zip(whole[:2], summed, strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


# --- runs -------------------------------------------------------------------------------------------------------------

RUNS = {
    "plain": {},
    "accumulated": {"ppo.accumulation_steps": 3, "ppo.batch_size": 16},
    "dropout": {"ppo.dropout": 0.3},
    "surgery": {"ppo.surgery": "pcgrad"},
    "running scales": {"observation.normalize": "running", "reward.scaling": "running"},
    "alone": {"symbols": ["AAA"]},
    "agents that differ": {"agents": {"AAA": {"ppo": {"learning_rate": 1e-3, "gamma": 0.9, "target_kl": 1e-4}}}},
}


ALWAYS = ("surgery", "agents that differ")


@pytest.mark.parametrize(
    "case", [case if case in ALWAYS else pytest.param(case, marks=pytest.mark.slow) for case in RUNS]
)
def test_every_agent_is_recorded_judged_and_kept(shared: ModuleType, tmp_path: Path, case: str) -> None:
    made = run(shared, tmp_path, RUNS[case])
    names = made.agent_names()
    assert made.status()["state"] == "done"
    assert {event["agent"] for event in made.read_events("verdict")} == set(names)
    for agent in names:
        rows = metrics_of(made, agent)
        told = {name for _, name in rows}
        assert ("diag/grad_share" in told) == (len(names) > 1)
        at_first = [value for (_, name), value in rows.items() if name == "policy/ratio_error"]
        assert max(at_first) < RATIO_STARTS_AT_ONE  # with dropout too: its units are the rollout's
        assert all(np.isfinite(v) for (_, name), v in rows.items() if name.startswith(("value/value_l", "policy/")))
    if len(names) > 1:
        shares = [metrics_of(made, agent) for agent in names]
        for key in [key for key in shares[0] if key[1] == "diag/grad_share"]:
            assert sum(of_agent[key] for of_agent in shares) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_the_order_of_the_agents_does_not_matter(shared: ModuleType, tmp_path: Path) -> None:
    one = run(shared, tmp_path / "a", {})
    other = run(shared, tmp_path / "b", {"symbols": ["CCC", "AAA", "BBB"]})
    for agent in one.agent_names():
        for of in ("encoder", "heads"):
            for name, weights in final_weights(one, agent, of).items():
                torch.testing.assert_close(final_weights(other, agent, of)[name], weights, rtol=2e-3, atol=5e-5)


@pytest.mark.slow
def test_surgery_changes_what_is_learnt_and_is_off_by_default(shared: ModuleType, tmp_path: Path) -> None:
    plain, off, on = (
        run(shared, tmp_path / name, changes)
        for name, changes in (("a", {}), ("b", {"ppo.surgery": "off"}), ("c", {"ppo.surgery": "pcgrad"}))
    )
    assert metrics_of(plain, "AAA") == metrics_of(off, "AAA")
    assert metrics_of(plain, "AAA") != metrics_of(on, "AAA")


def test_an_agent_that_breaks_leaves_and_the_encoder_goes_on(
    shared: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, calls = shared.find_gradients, []

    def breaks_after_the_first_update(*arguments: Any) -> Any:
        gradients, head_gradients, *rest = find(*arguments)
        calls.append(None)
        sick = torch.tensor([1.0, math.nan if len(calls) > 10 else 1.0, 1.0])
        broken = {name: g * sick.view(-1, *(1,) * (g.dim() - 1)) for name, g in gradients.items()}
        return broken, head_gradients, *rest

    monkeypatch.setattr(shared, "find_gradients", breaks_after_the_first_update)
    sick = run(shared, tmp_path, {})
    status = sick.status()
    assert status["state"] == "failed"
    assert {name: agent["state"] for name, agent in status["agents"].items()} == {
        "AAA": "done",
        "BBB": "failed",
        "CCC": "done",
    }
    assert {event["agent"] for event in sick.read_events("verdict")} == {"AAA", "CCC"}
    for agent in ("AAA", "CCC"):
        assert max(step for step, _ in metrics_of(sick, agent)) == 1_000
        weights = final_weights(sick, agent, "encoder") | final_weights(sick, agent, "heads")
        assert all(w.isfinite().all() for w in weights.values())


def test_agents_that_stop_early_leave_and_the_others_go_on(
    shared: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"min_progress": 0.3, "stretch_sharpe": "off", "min_delta": 1e6, "plateau_steps": 1}
    impatient = {name: {"early_stop": rule | {"patience": n}} for name, n in (("AAA", 2), ("CCC", 3))}
    sizes, train_together = [], shared.train
    monkeypatch.setattr(shared, "train", lambda stack: sizes.append(stack.count) or train_together(stack))
    made = run(shared, tmp_path, {"ppo.total_timesteps": 1_500, "evaluation.every": 300, "agents": impatient})
    assert {event["agent"]: event["global_step"] for event in made.read_events("early_stop")} == {
        "AAA": 900,
        "CCC": 1200,
    }
    assert sizes == [3, 1]
    assert max(step for step, _ in metrics_of(made, "BBB")) == 1_500
    assert all(agent["verdict"] is not None for agent in made.status()["agents"].values())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow, id="plain"),
        pytest.param({"ppo.surgery": "pcgrad", "ppo.dropout": 0.2}, id="surgery"),
    ],
)
def test_a_run_resumes_to_the_same_bits(shared: ModuleType, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run(shared, tmp_path / "whole", changes)
    resumed = killed_and_resumed(shared, tmp_path / "killed", "ppo_shared", changes)
    for agent in resumed.agent_names():
        assert metrics_of(resumed, agent) == metrics_of(whole, agent)
        for of in ("encoder", "heads"):
            for name, weights in final_weights(whole, agent, of).items():
                assert torch.equal(final_weights(resumed, agent, of)[name], weights)
