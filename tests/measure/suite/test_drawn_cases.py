"""Drawn faults and configurations: valid, repeatable, and with the described fault."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from p3kit.market import load_market
from tests.measure.suite import drawn_cases
from tests.measure.suite.hooks import BUFFER_FIELDS, COLUMN_FAULTS, HOOKS, broken_bars

PARTS = (drawn_cases.POOL, drawn_cases.HELD_OUT_HEALTHY, drawn_cases.DEVELOPMENT, drawn_cases.HELD_OUT)


def test_no_seed_is_in_two_parts() -> None:
    seeds = [*drawn_cases.BASES, *drawn_cases.HELD_OUT_BASES, *(seed for part in PARTS for seed in part)]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_draw_repeats_and_is_a_valid_spec(seed: int) -> None:
    assert drawn_cases.draw_configuration(seed) == drawn_cases.draw_configuration(seed)
    drawn_cases.draw_configuration(seed).resolved(1)
    for number in range(4):
        fault = drawn_cases.draw_fault(4 * seed + number, 7)
        assert fault == drawn_cases.draw_fault(4 * seed + number, 7)
        assert fault.resolved(1) != drawn_cases.draw_base(7).resolved(1) or fault.inject is not None
        assert fault.strength == drawn_cases.KINDS[number]


class Buffer(NamedTuple):
    index: Tensor  # type: ignore[assignment]
    account: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    components: Tensor
    terminated: Tensor
    truncated: Tensor


class Minibatch(NamedTuple):
    advantage: Tensor
    returns: Tensor


COLUMNS = {"obs": "index", "actions": "action", "log_probs": "log_prob", "values": "value", "rewards": "components",
           "dones": "truncated", "advantages": "advantage", "returns": "returns"}  # fmt: skip


@pytest.mark.parametrize(("field", "how"), [(field, how) for field, hows in BUFFER_FIELDS.items() for how in hows])
def test_a_spoilt_field_differs_in_its_share_of_envs_alone(field: str, how: str) -> None:
    """A table of 6 steps of 8 envs: 4 envs differ, from half of training on."""
    clock = SimpleNamespace(done=False)
    trainer: Any = SimpleNamespace(
        Buffer=Buffer, Minibatch=Minibatch, compute_gae=lambda reward, *tables: reward.clone()
    )
    generator = torch.Generator().manual_seed(1)
    scene: Any = SimpleNamespace(trainer=trainer, generator=generator, after=lambda share: clock.done)
    HOOKS["spoil_buffer"](scene, field=field, how=how, share=0.5, amount=3, after=0.5)
    table = torch.arange(1.0, 49.0).reshape(6, 8)
    for clock.done in (False, True):
        trainer.compute_gae(table)
        made = (*trainer.Buffer(*[table] * 8), *trainer.Minibatch(table.flatten(), table.flatten()))
        found = dict(zip((*Buffer._fields, *Minibatch._fields), made, strict=True))
        for name, column in found.items():
            differs = (column.reshape(6, 8) != table).any(0).sum()
            spoilt = clock.done and (name == COLUMNS[field] or (field, name) in ALSO)
            assert differs == (4 if spoilt else 0)
        assert torch.equal(trainer.Buffer(*[table[0]] * 8).action, table[0])  # single steps stay
        assert torch.equal(trainer.Minibatch(table[0], table[0]).returns, table[0])  # minibatches as well


ALSO = {("obs", "account"), ("dones", "terminated")}


@pytest.mark.parametrize("how", COLUMN_FAULTS)
def test_columns_break_from_a_bar_on(how: str) -> None:
    spec = drawn_cases.draw_base(7).resolved(1)
    bars = load_market(spec, spec.symbols)["SUITE"]
    broken = broken_bars(bars, 1, how=how, count=2, begin=0.5, amount=4.0)
    differs = ~((broken.features == bars.features) | (np.isnan(bars.features) & np.isnan(broken.features)))
    begin = len(bars) // 2
    assert not differs[:begin].any()
    assert 1 <= differs[begin:].any(0).sum() <= 2
    assert differs[begin:].any(1).mean() > 0.5
    assert np.isfinite(broken.features[begin:]).all()
