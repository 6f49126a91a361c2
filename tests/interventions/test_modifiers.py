"""Effective value = schedule(t), or the set that masks it, × live scales, + live adds, then clamped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3kit.interventions import Clock, Modifier, effective
from p3kit.spec.actions import Add, Scale, Set
from p3kit.spec.interventions import Controller

START = Clock()


def live(what: Any, begin: Clock = START, factor: float = 1.0) -> Modifier:
    return Modifier("rule", 0, what, begin, factor)


def scale(by: float, **rest: Any) -> Modifier:
    return live(Scale(scale="ppo.ent_coef", by=by, **rest))


@given(st.floats(1e-6, 1e3))
def test_nothing_live_leaves_the_schedule_as_it_is(scheduled: float) -> None:
    assert effective(scheduled, [], START) == scheduled


@given(st.floats(1e-6, 1.0), st.floats(1.1, 9.0), st.floats(0.1, 0.9))
def test_scales_multiply_what_is_scheduled(scheduled: float, up: float, down: float) -> None:
    both = [scale(up, max=100.0), scale(down, min=1e-9)]
    assert effective(scheduled, both, START) == pytest.approx(scheduled * up * down)


def test_a_schedule_keeps_its_clock_beneath() -> None:
    falling = [0.4, 0.3, 0.2]
    assert [effective(now, [scale(2.0, max=1.0)], START) for now in falling] == [0.8, 0.6, 0.4]


def test_a_set_masks_the_schedule_and_scales_act_on_it() -> None:
    given_value = live(Set(set="ppo.ent_coef", to=0.05))
    assert effective(0.3, [given_value], START) == 0.05
    assert effective(0.3, [given_value, scale(2.0, max=1.0)], START) == 0.1


def test_adds_come_after_scales() -> None:
    added = live(Add(add="ppo.ent_coef", by=0.5, max=9.0))
    assert effective(1.0, [added, scale(2.0, max=9.0)], START) == 2.5


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(1.1, 99.0))
def test_a_raise_stops_at_its_bound_and_never_lowers(scheduled: float, bound: float, by: float) -> None:
    value = effective(scheduled, [scale(by, max=bound)], START)
    assert scheduled <= value <= max(bound, scheduled)


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(0.01, 0.9))
def test_a_cut_stops_at_its_bound_and_never_raises(scheduled: float, bound: float, by: float) -> None:
    value = effective(scheduled, [scale(by, min=bound)], START)
    assert min(bound, scheduled) <= value <= scheduled


def test_repeating_a_bounded_scale_cannot_run_away() -> None:
    assert effective(0.01, [scale(5.0, max=0.10)] * 6, START) == 0.10


def test_a_ramp_starts_from_the_value_in_force_and_arrives() -> None:
    ramp = {"updates": 4}
    values = {
        "scale": [effective(1.0, [scale(3.0, max=9.0, ramp=ramp)], Clock(updates=n)) for n in (0, 1, 2, 4, 9)],
        "set": [
            effective(1.0, [live(Set(set="ppo.ent_coef", to=3.0, ramp=ramp))], Clock(updates=n))
            for n in (0, 1, 2, 4, 9)
        ],
        "add": [
            effective(1.0, [live(Add(add="ppo.ent_coef", by=2.0, max=9.0, ramp=ramp))], Clock(updates=n))
            for n in (0, 1, 2, 4, 9)
        ],
    }
    assert all(found == [1.0, 1.5, 2.0, 3.0, 3.0] for found in values.values()), values


@pytest.mark.parametrize("unit", ["updates", "gradient_steps", "env_steps", "episodes", "evals"])
def test_a_span_is_over_in_its_own_unit(unit: str) -> None:
    begin = Clock(5, 5, 5, 5, 5)
    modifier = live(Scale(scale="ppo.ent_coef", by=2.0, max=1.0, until={unit: 10}), begin)  # type: ignore[arg-type]
    others = Clock(**{name: 99 if name != unit else 14 for name in vars(begin)})
    assert not modifier.is_over(others)
    assert modifier.is_over(Clock(**{name: 15 if name == unit else 5 for name in vars(begin)}))


def test_a_controller_multiplies_within_hard_bounds() -> None:
    loop = Controller(key="ppo.learning_rate", metric="policy/kl_divergence", target=0.01, min=1e-5, max=1e-2)
    assert effective(1e-3, [live(loop, factor=2.0)], START) == 2e-3
    assert effective(1e-3, [live(loop, factor=99.0)], START) == 1e-2
    assert effective(1e-6, [live(loop)], START) == 1e-5
