"""The benchmark's page agrees with the results: medians, ratios by round, and no comparison of unequal work."""

from pathlib import Path
from typing import Any

import pytest

from .speed_page import gradient_steps_per_rollout, ratio_by_round, write_page
from .trainer_speed import CONTESTANTS, GROWTH, SHARED, WIDE, Contestant


def measured(name: str, number: int, rate: float, gradient_steps: int = 2_560) -> dict[str, Any]:
    counted = {"steps": 16_384, "gradient_steps": gradient_steps, "update_share": 0.9, "update_rate": rate + 1}
    return {"contestant": name, "round": number, "rate": rate, "load_before": 0.5, **counted}


@pytest.fixture
def results() -> dict[str, Any]:
    rounds = [
        measured("stacked", k, rate) | {"steady_rate": 2 * rate} for k, rate in enumerate((9_000.0, 3_000.0, 8_000.0))
    ]
    rounds += [measured("sb3_best", k, rate) for k, rate in enumerate((1_000.0, 1_000.0, 2_000.0))]
    made_by = {"commit": "0000000", "cores": 2, "processor": "X", "python": "3.11", "packages": {"torch": "2"}}
    return {"made_by": made_by, "rounds": rounds, "growth": []}


def test_ratios_are_taken_inside_a_round(results: dict[str, Any]) -> None:
    assert ratio_by_round(results, "sb3_best", "stacked") == [9.0, 3.0, 4.0]


def test_the_page_has_medians_and_names_what_is_missing(results: dict[str, Any], tmp_path: Path) -> None:
    write_page(results, CONTESTANTS, GROWTH, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    row, alone = (line for line in page.splitlines() if line.startswith("| SB3 PPO, 2 processes of 1 thread |"))
    assert "**1,000** (1,000 to 2,000)" in row
    assert "| **4.0** (3.0 to 9.0) × | **8.0** (6.0 to 18.0) × |" in row  # whole, once started
    assert "**1,001**" in alone
    assert "MaskablePPO, 2 processes of 1 thread | not measured" in page
    assert (tmp_path / "images" / "trainer-speed.png").stat().st_size > 10_000


def test_start_and_end_have_a_table(results: dict[str, Any], tmp_path: Path) -> None:
    for one in results["rounds"]:
        if one["contestant"] == "stacked":
            one |= {"start_s": 4.0 + one["round"], "loading_s": 2.5, "end_s": 3.0}
    write_page(results, CONTESTANTS, GROWTH, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8").split("## Start and end")[1]
    assert "| p3kit, ppo_stacked | **5.0** (4.0 to 6.0) | **2.5** (2.5 to 2.5) | **3.0** (3.0 to 3.0) |" in page


def test_growth_has_a_table_for_each_thing_that_grows(results: dict[str, Any], tmp_path: Path) -> None:
    figures = {"rate": 2_000.0, "steady_rate": 10_000.0, "wall_s": 40.0, "memory_mb": 900.0}
    results["growth"] = [{"contestant": c.name, **figures} for c in GROWTH]
    results["made_by"]["workloads"] = {c.name: {"knobs": dict(c.knobs)} for c in GROWTH}
    write_page(results, CONTESTANTS, GROWTH, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8").split("## Growth")[1]
    for family, sizes in {"agents": (1, 10, 50, 143), "envs": (8, 16, 64), "window": (1, 24, 48)}.items():
        table = page.split(f"| {family} (n_steps 512)")[1].split("\n\n")[0]
        rows = [row.split(" | ") for row in table.splitlines()[2:]]
        assert [row[0] for row in rows] == [f"| {size}" for size in sizes]
        assert rows[0][1:] == ["10,000", "2,000", "40 s", "900 MB |"]
    assert "takes 40 s: 2,000 steps/s, against 8,000 with it" in page


def test_unequal_numbers_of_gradient_steps_are_refused(results: dict[str, Any]) -> None:
    assert gradient_steps_per_rollout(results) == 2_560
    results["rounds"].insert(0, measured("sb3_best", 3, 1_000.0, gradient_steps=2_559))
    with pytest.raises(ValueError, match="unequal numbers of gradient steps"):
        gradient_steps_per_rollout(results)


@pytest.mark.parametrize("contestant", [*CONTESTANTS, *GROWTH], ids=lambda c: c.name)
def test_workloads_are_whole_iterations_that_a_spec_can_ask_for(contestant: Contestant, tmp_path: Path) -> None:
    from p3kit.spec import load_spec

    (tmp_path / "speed.toml").write_text(contestant.spec(), encoding="utf-8")
    spec = load_spec(tmp_path / "speed.toml").spec
    iterations, rest = divmod(spec.ppo.total_timesteps, spec.ppo.n_steps * spec.env.num_envs)
    assert rest == 0
    assert iterations >= (2 if contestant.kind == "ours" else 1)  # the first one holds all that is done once


def test_both_sides_of_a_comparison_have_the_same_net_and_rollout() -> None:
    knobs = {c.name: c.knobs for c in CONTESTANTS}
    assert knobs["sb3_wide"] == knobs["sb3_wide_dummy"] == knobs["wide"] == WIDE
    assert knobs["sb3_shared"] == knobs["shared"] == SHARED
