"""The label on simulated markets: false "shown" in at most 3 of 100, power, and coverage of intervals.

About three minutes on two cores (`tox -e label`). `python -m tests.measure.label` makes the tables of the docs.
"""

from __future__ import annotations

import pytest

from tests.measure.label import EDGES, NULLS, TENS, World, coverage, simulate

MARKETS = 2_000


@pytest.mark.slow
@pytest.mark.parametrize("world", NULLS, ids=lambda world: world.name)
def test_no_edge_is_shown_in_at_most_three_of_a_hundred(world: World) -> None:
    row = simulate(world, MARKETS, seed=3_000)
    tests = ["label, equal_exposure"] + ([] if world.sharpe < 0 else ["label, buy_and_hold"])
    for test in tests:
        print(f"{world.name}: {test} {row.rate(test):.1%} ± {row.error(test):.1%}")
        assert row.rate(test) <= 0.03, test
    if not world.cost:
        assert row.rate("choice ignored, equal_exposure") > 0.03, "the simulation would find a label that is too kind"


@pytest.mark.slow
def test_the_choice_costs_little_power() -> None:
    row = simulate(EDGES[2], MARKETS, seed=3_100)
    for name in ("buy_and_hold", "equal_exposure"):
        alone, chosen = row.rate(f"one policy, not chosen, {name}"), row.rate(f"label, {name}")
        assert chosen > 2 / 3 * alone > 0.5
        assert chosen > row.rate(f"held out, {name}"), "judging on bars kept apart has less power"


@pytest.mark.slow
def test_any_of_ten_agents() -> None:
    none, one = (simulate(world, 400, seed=3_200) for world in TENS)
    assert none.rate("any agent") <= 0.05 + 2 * none.error("any agent")
    assert one.rate("any agent") > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["iid", "ar0.3", "garch", "50 % exposure"])
def test_intervals_cover_what_they_claim(kind: str) -> None:
    found = coverage(kind, 500, 2_000, seed=3_300)
    assert found["given"] > 0.99, "a policy that happens to be out for nearly all bars has none"
    assert 0.94 - 3 * found["error"] <= found["coverage"] <= 0.96 + 3 * found["error"]
