"""Measuring repair: degraded runs, repaired runs, and actions on healthy runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p3kit.spec import resolve_spec
from tests.made_runs import make_run
from tests.measure.suite.cases import load_controls, load_faults
from tests.measure.suite.repair_rates import (
    REPAIRED,
    WATCHED,
    Action,
    Attempt,
    Band,
    Control,
    Steadied,
    Trained,
    _over,
    as_document,
    as_markdown,
    band_of,
    draw,
    most_telling,
    read_trained,
    steadied,
    summarise,
)

ACTION = Action("A", 4_096, "beyond-step-too-big", "back to init, ppo.learning_rate 0.03 → 0.003", "opt.step_too_big")


def trained(*sharpes: float, state: str = "done", actions: tuple[Action, ...] = ()) -> Trained:
    return Trained("run-1", state, tuple(8_192 * (n + 1) for n in range(len(sharpes))), sharpes, actions)


BAND = Band(3.0, 0.5, 5)


def attempt(sick: Trained, repaired: Trained, seed: int = 1, case: str = "F01.full") -> Attempt:
    return Attempt(case, "learning rate far too high", seed, BAND, trained(1.0, 3.1), sick, repaired)


WELL = attempt(trained(0.1, -0.3), trained(0.2, 2.6, actions=(ACTION,)))
STILL_SICK = attempt(trained(0.1, -0.3), trained(0.2, 2.4, actions=(ACTION,)), seed=2)
NOBODY_ACTED = attempt(trained(0.1, 1.0), trained(0.1, 1.0), seed=3)
NOT_HURT = attempt(trained(1.0, 2.9), trained(1.0, 2.9), seed=4)
ENDED = attempt(trained(0.1, 0.2), trained(0.1, 3.0, state="failed", actions=(ACTION,)), seed=5)


def test_who_is_hurt_and_who_is_well_again() -> None:
    assert [one.was_hurt for one in (WELL, STILL_SICK, NOBODY_ACTED, NOT_HURT, ENDED)] == [True] * 3 + [False, True]
    assert [one.is_well for one in (WELL, STILL_SICK, NOBODY_ACTED, NOT_HURT, ENDED)] == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_the_totals_leave_out_what_did_no_harm_and_count_actions_on_controls() -> None:
    controls = [Control("C01", 1, trained(3.0)), Control("C02", 1, trained(3.0, actions=(ACTION, ACTION)))]
    compared = [Steadied("C01", seed, BAND, trained(score)) for seed, score in ((1, 2.4), (2, 2.5), (3, 3.9))]
    totals = summarise([WELL, STILL_SICK, NOBODY_ACTED, NOT_HURT], controls, compared)
    assert (totals["repaired"]["hits"], totals["repaired"]["of"]) == (1, 3)
    assert (totals["repaired_where_acted"]["hits"], totals["repaired_where_acted"]["of"]) == (1, 2)
    assert (totals["not_hurt"], totals["actions_on_controls"]) == (1, 2)
    assert (totals["controls_acted_on"]["hits"], totals["controls_acted_on"]["of"]) == (1, 2)
    assert (totals["steadied_in_band"]["hits"], totals["steadied_in_band"]["of"]) == (2, 3)
    text = as_markdown([WELL, STILL_SICK], controls, compared, "how")
    assert "| F01.full learning rate far too high | 1/2 | 3.00 ± 0.50 | -0.30, -0.30 | 2.60, 2.40 |" in text
    assert "| C02 | 1 | 1 | beyond-step-too-big (opt.step_too_big) |" in text
    json.dumps(as_document([WELL], controls, compared, {"command": "x"}))
    assert "| for comparison: healthy runs of the same seeds in their own range | 1/1 = 100%" in text, (
        "one run, seen twice"
    )


def test_a_band_takes_two_seeds() -> None:
    assert band_of([trained(2.0), trained(4.0)]) == Band(3.0, pytest.approx(2**0.5), 2)
    with pytest.raises(ValueError, match="at least two"):
        band_of([trained(2.0)])


def test_the_picture_shows_what_gained_most(tmp_path: Path) -> None:
    assert most_telling([NOBODY_ACTED]) is None
    shown = most_telling([STILL_SICK, WELL, NOBODY_ACTED])
    assert shown is WELL
    draw(shown, tmp_path / "repair.png")
    assert (tmp_path / "repair.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "overlay", [pytest.param(WATCHED, marks=pytest.mark.slow, id="sick"), pytest.param(REPAIRED, id="repaired")]
)
def test_every_repairable_fault_and_control_is_a_sound_spec_under_the_pack(overlay: dict[str, Any]) -> None:
    for case in [*(case for case in load_faults() if case.repairable), *load_controls()]:
        spec = _over(case, overlay).resolved(7)
        assert spec.diagnose.mode == overlay["diagnose"]["mode"]
        assert (len(spec.intervention) > 10) == (overlay is REPAIRED)
        resolve_spec(spec.model_dump(mode="json"), "again")


def test_healthy_runs_are_compared_under_the_one_rule_that_follows_any_repair() -> None:
    for case in load_controls():
        (rule,) = _over(case, steadied()).resolved(7).intervention
        assert rule.id == "repair-steady"
        assert [type(action).__name__ for action in rule.actions()] == ["Scale", "Scale"]
        told = rule.model_dump(mode="json")["on"][0]["all"]
        assert [part["metric"] for part in told] == ["progress", "effective/ppo.learning_rate", "updates_left"]


def test_a_stored_run_tells_its_score_and_what_was_done_to_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    agent = run.agent_names()[0]
    before = read_trained(run)
    looked: dict[str, Any] = {"id": "look", "decision": "fired", "keys": {}, "reason": "", "did": [{"note": "x"}]}
    moved = looked | {"id": "up", "keys": {"ppo.ent_coef": [0.01, 0.05]}, "row": "policy.hold", "did": []}
    held = moved | {"decision": "suppressed"}
    for event in (looked, moved, held):
        run.append_event("intervention", agent, 8_192, **event)
    after = read_trained(run)
    assert before.actions == ()
    assert after.actions == (Action(agent, 8_192, "up", "ppo.ent_coef 0.01 → 0.05", "policy.hold"),)
    assert after.score == before.score
