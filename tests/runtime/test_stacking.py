"""p3kit.runtime.stacking: what it does for K agents at once is what plain code does for each of them alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from p3kit.runtime import stacking
from p3kit.runtime.scaling import ObservationScaler

STEPS, ENVS, AGENTS = 5, 4, 3
CPU = torch.device("cpu")


def numbered(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).view(*shape)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_the_environment_are_split_by_agent() -> None:
    rows = numbered(ENVS * AGENTS, 2)
    for env in range(ENVS):
        for agent in range(AGENTS):
            row = rows[env * AGENTS + agent]
            assert torch.equal(stacking.by_agent(rows, AGENTS)[agent, env], row)
            assert torch.equal(stacking.by_env(rows.unsqueeze(0), AGENTS)[0, env, agent], row)
            assert torch.equal(stacking.split_agents(rows.T, AGENTS)[:, env, agent], row)


def test_tables_become_rows_and_rows_become_tables_again() -> None:
    table = numbered(STEPS, ENVS, AGENTS)
    rows = stacking.to_rows(table)
    for step in range(STEPS):
        for env in range(ENVS):
            assert torch.equal(rows[:, step * ENVS + env], table[step, env])
    assert torch.equal(stacking.from_rows(rows, ENVS), table)
    assert stacking.to_rows(numbered(STEPS, ENVS, AGENTS, 7)).shape == (AGENTS, STEPS * ENVS, 7)


@pytest.mark.parametrize("width", [(), (6,)])
def test_each_agent_gathers_its_own_rows(width: tuple[int, ...]) -> None:
    table = numbered(AGENTS, 20, *width)
    rows = torch.tensor([[3, 19], [0, 0], [7, 1]])
    expected = torch.stack([table[k, rows[k]] for k in range(AGENTS)])
    assert torch.equal(stacking.gather_rows(table, rows), expected)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 30), size=st.integers(1, 35))
def test_batches_hold_every_row_once_in_order(rows: int, size: int) -> None:
    columns = (numbered(AGENTS, rows), numbered(AGENTS, rows, 2))
    batches = list(stacking.split_batches(columns, size))
    assert [batch[0].shape[1] for batch in batches] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    for column, *parts in zip(columns, *batches, strict=True):
        assert torch.equal(torch.cat(parts, 1), column)
    assert all(column.is_contiguous() for batch in batches[: rows // size] for column in batch)


def test_dropout_masks_follow_the_env_of_a_row() -> None:
    masks, envs = [numbered(AGENTS, ENVS, 2), numbered(AGENTS, ENVS, 3)], torch.tensor([[0, 1], [3, 3], [2, 0]])
    found = stacking.masks_of_rows(masks, envs)
    assert found is not None
    for layer, mask in zip(found, masks, strict=True):
        assert torch.equal(layer, torch.stack([mask[k, envs[k]] for k in range(AGENTS)]))
    assert stacking.masks_of_rows(None, envs) is None


def test_weighted_terms_add_up_and_a_whole_one_is_kept_as_it_is() -> None:
    terms, total = [{"a": numbered(2, 2) + i} for i in range(3)], {}
    for term, weight in zip(terms, (0.5, 0.25, 0.25), strict=True):
        total = stacking.add_weighted(total, term, weight)
    torch.testing.assert_close(total["a"], 0.5 * terms[0]["a"] + 0.25 * terms[1]["a"] + 0.25 * terms[2]["a"])
    assert stacking.add_weighted({}, terms[0], 1) is terms[0]


def test_flat_weights_hold_every_number_of_an_agent() -> None:
    weights = {"a": numbered(AGENTS, 2, 3), "b": numbered(AGENTS, 1, 4)}
    flat = stacking.flatten_weights(weights)
    assert flat.shape == (AGENTS, 10)
    assert torch.equal(flat[1], torch.cat([weights["a"][1].flatten(), weights["b"][1].flatten()]))
    assert torch.equal(stacking.flatten_weights({"a": numbered(2, 3), "b": numbered(4)}, 0)[6:], numbered(4))


# --- settings and random numbers --------------------------------------------------------------------------------------


def test_a_setting_that_is_off_is_infinite() -> None:
    agents = [SimpleNamespace(target_kl=0.01), SimpleNamespace(target_kl="off")]
    assert stacking.stack_setting(agents, "target_kl", CPU).tolist() == [pytest.approx(0.01), math.inf]


def test_knobs_have_one_row_per_agent() -> None:
    agents = [SimpleNamespace(**dict.fromkeys(stacking.Knobs._fields, value)) for value in (0.5, 2.0)]
    for column in stacking.stack_knobs(agents, CPU):
        assert column.tolist() == [[0.5], [2.0]]


def draws_of(generator: torch.Generator | None, dropout: float = 0.0) -> stacking.Draws:
    def noise(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=source)

    def masks(num_envs: int, source: torch.Generator) -> list[Tensor] | None:
        return [torch.rand(num_envs, 6, generator=source) + dropout] if dropout else None

    return stacking.draw(generator, (STEPS, ENVS, 7), 2, noise, masks)


def test_an_agent_draws_the_same_numbers_whatever_its_neighbours() -> None:
    alone = [draws_of(torch.Generator().manual_seed(k), dropout=0.1) for k in range(AGENTS)]
    stack = stacking.stack_draws([draws_of(torch.Generator().manual_seed(k), dropout=0.1) for k in range(AGENTS)], CPU)
    assert stack.dropout is not None
    for k, own in enumerate(alone):
        assert own.dropout is not None
        assert torch.equal(stack.noise[:, k], own.noise)
        assert torch.equal(stack.starts[:, :, k], own.starts)
        assert torch.equal(stack.orders[k], own.orders)
        assert torch.equal(stack.dropout[0][k], own.dropout[0])
    assert all(sorted(order.tolist()) == list(range(STEPS * ENVS)) for order in stack.orders.flatten(0, 1))


def test_an_agent_that_has_ended_draws_nothing_and_keeps_its_place() -> None:
    generator = torch.Generator().manual_seed(1)
    stack = stacking.stack_draws([draws_of(None), draws_of(generator, dropout=0.1)], CPU)
    assert stack.dropout is not None
    assert torch.equal(stack.dropout[0][0], torch.ones(ENVS, 6))
    assert not stack.noise[:, 0].any()
    assert torch.equal(stack.orders[0, 0], torch.arange(STEPS * ENVS))
    assert stacking.stack_draws([draws_of(None), draws_of(None)], CPU).dropout is None


# --- networks ---------------------------------------------------------------------------------------------------------


def network(sizes: tuple[int, ...], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    whole = nn.Module()
    for name, outputs in (("policy", 7), ("value", 1)):
        child = nn.Module()
        child.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, (*sizes[1:], outputs), strict=True))
        setattr(whole, name, child)
    return whole


@pytest.mark.parametrize("sizes", [(5,), (5, 4), (5, 4, 3)], ids=["linear", "one hidden", "two hidden"])
def test_a_stack_gives_every_network_back(sizes: tuple[int, ...]) -> None:
    networks = [network(sizes, seed) for seed in range(AGENTS)]
    stack = stacking.stack_networks(networks, CPU)
    for k, one in enumerate(networks):
        expected = one.state_dict()
        found = stacking.unstack_network(stack, k)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_layers_of_an_agent_are_views() -> None:
    stack = stacking.stack_networks([network((5, 4, 3), seed) for seed in range(AGENTS)], CPU)
    before = {name: tensor.clone() for name, tensor in stack.items()}
    for layers in stacking.layers_of_agent(stack, 1).values():
        for weight, bias in layers:
            weight.add_(1)
            bias.add_(1)
    for name, tensor in stack.items():
        assert torch.equal(tensor[1], before[name][1] + 1)
        assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])


def test_weights_of_agents_are_stacked_by_name() -> None:
    tables = [{"a": numbered(2) + k, "b": numbered(3) * k} for k in range(AGENTS)]
    stack = stacking.stack_weights(tables, CPU)
    assert all(torch.equal(stack[name][k], own[name]) for k, own in enumerate(tables) for name in own)


def scaler(*, running: bool = True) -> ObservationScaler:
    return ObservationScaler(2, running=running, clip=10.0, device=CPU)


def test_each_agents_observations_are_scaled_by_its_own_statistics() -> None:
    torch.manual_seed(0)
    seen = torch.randn(AGENTS, 50, 2) * torch.tensor([1.0, 5.0, 9.0]).view(3, 1, 1)
    together, alone = stacking.ObservationScalers([scaler() for _ in range(AGENTS)]), [scaler() for _ in range(AGENTS)]
    together.update(seen)
    for one, own in zip(alone, seen, strict=True):
        one.update(own)
    expected = torch.stack([one(own) for one, own in zip(alone, seen, strict=True)])
    assert torch.equal(together(seen), expected)
    assert torch.equal(together(seen[[2, 0]], [2, 0]), expected[[2, 0]])
    again = stacking.ObservationScalers([scaler() for _ in range(AGENTS)])
    again.load_state_dict(together.state_dict())
    assert torch.equal(again(seen), expected)
    again.go_back(together.state_dict(), 0, 2)
    assert torch.equal(again(seen[[0]], [0]), alone[2](seen[0]).unsqueeze(0))
    assert torch.equal(again.of_agent(1)["mean"], alone[1].state_dict()["mean"])


def test_observations_pass_unchanged_where_nothing_is_normalised() -> None:
    seen = torch.randn(AGENTS, 4, 2)
    assert stacking.ObservationScalers([scaler(running=False)] * AGENTS)(seen) is seen


# --- optimiser --------------------------------------------------------------------------------------------------------


def test_the_optimiser_is_torchs_adamw_with_clipping() -> None:
    torch.manual_seed(0)
    knobs = stacking.Knobs(
        *(torch.tensor([[a], [b]]) for a, b in ((0.01, 0.1), (0.0, 0.3), (0.2, 0.2), (0, 0), (0, 0), (0.5, 3.0)))
    )
    start = torch.randn(2, 4, 3)
    stack = {"w": start.clone()}
    first, second = {"w": torch.zeros(2, 4, 3)}, {"w": torch.zeros(2, 4, 3)}
    steps, one = torch.zeros(2), torch.ones(2)
    theirs = [torch.nn.Parameter(start[k].clone()) for k in range(2)]
    optimisers = [
        torch.optim.AdamW([w], lr=lr, eps=1e-5, weight_decay=d)
        for w, lr, d in zip(theirs, (0.01, 0.1), (0.0, 0.3), strict=True)
    ]
    for t in range(20):
        gradient = {"w": torch.randn(2, 4, 3)}
        live = torch.tensor([True, t % 3 > 0])
        if t == 7:
            gradient["w"][0] = math.nan
        factors, steps, metrics = stacking.plan_step(gradient, torch.zeros(2), one, steps, live, knobs)
        stacking.adamw_step(stack, first, second, gradient, factors)
        assert metrics[0, 3] == (t == 7)
        for k in range(2):
            if live[k] and gradient["w"][k].isfinite().all():
                theirs[k].grad = gradient["w"][k].clone()
                norm = torch.nn.utils.clip_grad_norm_([theirs[k]], (0.5, 3.0)[k])
                torch.testing.assert_close(metrics[k, 0], norm)
                optimisers[k].step()
    for k in range(2):
        torch.testing.assert_close(stack["w"][k], theirs[k].detach(), rtol=1e-4, atol=1e-6)
    assert steps.tolist() == [19, 13]


def test_a_loss_scale_follows_each_agents_own_overflows() -> None:
    scale = stacking.LossScale(2, torch.device("cpu"), enabled=True)
    live = torch.ones(2, dtype=torch.bool)
    scale.update(torch.tensor([math.inf, 1.0]), live)
    assert scale.scale.tolist() == [32_768, 65_536]
    for _ in range(2_000):
        scale.update(torch.tensor([1.0, 1.0]), live)
    assert scale.scale.tolist() == [65_536, 131_072]
    scale.update(torch.tensor([math.inf, math.inf]), torch.tensor([True, False]))
    assert scale.scale.tolist() == [32_768, 131_072]


def test_a_loss_scale_changes_neither_the_step_nor_the_norm() -> None:
    torch.manual_seed(4)
    knobs = stacking.Knobs(*(torch.full((2, 1), value) for value in (0.01, 0.0, 0.2, 0.0, 0.0, 0.5)))
    gradient, live = {"w": torch.randn(2, 4, 3)}, torch.ones(2, dtype=torch.bool)
    plain = stacking.plan_step(gradient, torch.zeros(2), torch.ones(2), torch.zeros(2), live, knobs)
    scaled = {"w": gradient["w"] * 1_024}
    found = stacking.plan_step(scaled, torch.zeros(2), torch.full((2,), 1_024.0), torch.zeros(2), live, knobs)
    torch.testing.assert_close(found[2], plain[2])
    torch.testing.assert_close(scaled["w"] * found[0].grad_scale, gradient["w"] * plain[0].grad_scale)


def test_under_a_loss_scale_only_a_loss_can_be_broken() -> None:
    knobs = stacking.Knobs(*(torch.ones(2, 1) for _ in stacking.Knobs._fields))
    gradient, live = {"w": torch.full((2, 1, 1), math.inf)}, torch.ones(2, dtype=torch.bool)
    scale, losses = torch.tensor([2.0, 2.0]), torch.tensor([0.0, math.nan])
    factors, steps, metrics = stacking.plan_step(gradient, losses, scale, torch.zeros(2), live, knobs)
    assert metrics[:, 3].tolist() == [0, 1]
    assert steps.tolist() == [0, 0]
    assert not factors.active.any()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_agents_that_stay_keep_everything_that_is_theirs() -> None:
    names, kept = ("A", "B", "C"), [2, 0]
    state: dict[str, Any] = {
        "agents": "\n".join(names),
        "global_step": 300,
        "net/w": numbered(AGENTS, 2, 2),
        "encoder/w": numbered(AGENTS, 2),
        "reward/discounted": numbered(ENVS, AGENTS),
        "env/row": numbered(ENVS * AGENTS),
        "env/account": numbered(6, ENVS * AGENTS),
    }
    found = stacking.select_agents(state, kept, shared=["encoder"])
    assert found["agents"] == "C\nA"
    assert found["global_step"] == 300
    assert torch.equal(found["encoder/w"], state["encoder/w"])
    assert torch.equal(found["net/w"], state["net/w"][kept])
    assert torch.equal(found["reward/discounted"], state["reward/discounted"][:, kept])
    for env in range(ENVS):
        for place, agent in enumerate(kept):
            assert found["env/row"][env * 2 + place] == state["env/row"][env * AGENTS + agent]
            assert torch.equal(found["env/account"][:, env * 2 + place], state["env/account"][:, env * AGENTS + agent])


def test_one_agent_of_the_optimiser_goes_back_alone() -> None:
    torch.manual_seed(5)
    weights = {"w": torch.randn(AGENTS, 2, 2)}
    optimizer, scale = stacking.AdamW(weights, (AGENTS,), CPU), stacking.LossScale(AGENTS, CPU, enabled=True)
    knobs, live = (
        stacking.Knobs(*(torch.full((AGENTS, 1), 0.1) for _ in range(6))),
        torch.ones(AGENTS, dtype=torch.bool),
    )

    def step() -> None:
        gradient = {"w": torch.randn(AGENTS, 2, 2)}
        factors, steps, metrics = stacking.plan_step(
            gradient, torch.zeros(AGENTS), torch.ones(AGENTS), optimizer.steps, live, knobs
        )
        optimizer.step(gradient, factors, steps)
        scale.update(metrics[:, 0], live)

    step()
    kept = {
        name: {key: value.clone() for key, value in one.state_dict().items()}
        for name, one in (("optimizer", optimizer), ("scale", scale))
    }
    step()
    now = {key: value.clone() for key, value in optimizer.state_dict().items()}
    optimizer.go_back(kept["optimizer"], 0, 2)
    scale.go_back(kept["scale"], 0, 2)
    for key, value in optimizer.state_dict().items():
        assert torch.equal(value[0], kept["optimizer"][key][2]), key
        assert torch.equal(value[1:], now[key][1:]), key
    assert scale.good.tolist() == [1, 2, 2]
    again = stacking.AdamW({"w": torch.zeros(AGENTS, 2, 2)}, (AGENTS,), CPU)
    again.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(value, optimizer.state_dict()[key]) for key, value in again.state_dict().items())
