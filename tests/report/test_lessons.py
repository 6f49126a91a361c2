"""Lessons over every run, with n, spread and links; too few cases are marked, and failures are listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p3kit.errors import RunNotFound
from p3kit.report.lessons_data import ENOUGH, gather_attempts
from p3kit.report.lessons_page import Lesson, draw_lessons, render_lessons
from tests.command import invoke
from tests.diagnose.test_table import all_hold, never_trades
from tests.made_runs import Row, intervene, make_run, spec_with

Golden = Callable[[str, str], None]
LIFT = {0.9: 0.3, 0.95: 0.0, 0.98: 0.0}
"""What each made-up gae_lambda adds to the Sharpe ratio."""


def sweep(root: Path, seeds: int = 4, values: tuple[float, ...] = (0.9, 0.95, 0.98)) -> None:
    for value in values:
        for seed in range(1, seeds + 1):
            name = f"AAPL.s{seed}.gae_lambda={value}"
            sharpe = 0.5 + LIFT[value] + 0.05 * seed
            make_run(root, seed=seed, point={"ppo.gae_lambda": value}, agent_name=name, best_sharpe=sharpe)


def passing_hold(row: Row, progress: float, tick: int) -> None:
    if 6 <= tick < 12:
        all_hold(row, 1.0, tick)


def repaired(root: Path, times: int, *, recovered: int) -> None:
    """Runs with an intervention on all-HOLD, of which the first `recovered` helped."""
    for number in range(times):
        run = make_run(root, seed=number, fault=passing_hold)
        intervene(run, "suppressed", 24_000)
        intervene(run, "fired", 31_000, keys={"ppo.ent_coef": [0.01, 0.05]})
        intervene(run, "verified" if number < recovered else "failed", 45_000)


def texts(lessons: list[Lesson] | object) -> str:
    return "\n".join(lesson.text for lesson in lessons)  # type: ignore[attr-defined]


def test_the_guides_five_sections(tmp_path: Path, golden: Golden) -> None:
    root = tmp_path / "runs"
    sweep(root)
    repaired(root, 4, recovered=4)
    make_run(root, symbol="HD", fault=all_hold, eval_fault=never_trades, verdict="FAIL")
    make_run(root, symbol="JPM", until=0.12, state="crashed", message="its process is gone")
    golden("report/lessons.md", render_lessons(gather_attempts(root), tmp_path / "reports" / "l.md", root))


def test_effects_are_paired_and_need_three_cases(tmp_path: Path) -> None:
    sweep(tmp_path, seeds=4)
    effects = {(e.before, e.after): e for e in gather_attempts(tmp_path).effects}
    assert list(effects) == [("0.9", "0.95"), ("0.9", "0.98"), ("0.95", "0.98")]
    assert all(effect.path == "ppo.gae_lambda" and len(effect.differences) == 4 for effect in effects.values())
    assert effects["0.9", "0.95"].mean == pytest.approx(-0.3, abs=0.05)
    assert (effects["0.9", "0.95"].shown, effects["0.95", "0.98"].shown) == (True, False)
    insights = draw_lessons(gather_attempts(tmp_path))
    assert "`ppo.gae_lambda` 0.9 → 0.95: Sharpe -0." in texts(insights.hyperparameters)
    assert "set `ppo.gae_lambda = 0.9`, not 0.95" in texts(insights.recommendations)


def test_two_cases_are_not_enough(tmp_path: Path) -> None:
    sweep(tmp_path, seeds=ENOUGH - 1, values=(0.9, 0.95))
    history = gather_attempts(tmp_path)
    [effect] = history.effects
    assert not effect.enough
    assert not effect.shown
    page = render_lessons(history, tmp_path / "l.md", tmp_path)
    assert "- **Insufficient data**: `ppo.gae_lambda` 0.9 → 0.95" in page
    assert "set `ppo.gae_lambda" not in page


def test_knobs_that_vary_together_are_not_told_apart(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, seed=seed)
        make_run(tmp_path, seed=seed, spec=spec_with(ppo__gamma=0.9, ppo__vf_coef=1.0), best_sharpe=0.9)
    history = gather_attempts(tmp_path)
    assert (history.effects, history.entangled) == ([], ["ppo.gamma", "ppo.vf_coef"])
    assert "never alone" in texts(draw_lessons(history).hyperparameters)


@pytest.mark.parametrize(("times", "recovered", "advice"), [(6, 6, "keep"), (6, 0, "drop or change"), (4, 2, "go on")])
def test_interventions_by_how_often_they_helped(times: int, recovered: int, advice: str, tmp_path: Path) -> None:
    repaired(tmp_path, times, recovered=recovered)
    history = gather_attempts(tmp_path)
    [repair] = history.repairs
    assert (repair.symptom, repair.keys, repair.known, repair.recovered) == (
        "policy.hold", ("ppo.ent_coef",), times, recovered,
    )  # fmt: skip
    lessons = draw_lessons(history)
    where = lessons.worked if recovered * 2 > times else lessons.failed
    assert f"{recovered} of {times} recovered" in texts(where)
    assert advice in texts(lessons.recommendations)
    assert all(attempt.agent.suppressed == {"policy.hold": 1} for attempt in history.attempts)


def test_nothing_is_claimed_where_nothing_was_tried(tmp_path: Path) -> None:
    make_run(tmp_path, until=0.0, state="queued")
    lessons = draw_lessons(gather_attempts(tmp_path))
    assert (lessons.worked, lessons.environment, lessons.recommendations) == ([], [], [])
    page = render_lessons(gather_attempts(tmp_path), tmp_path / "l.md", tmp_path)
    assert page.count("- Nothing was recorded.") == 3
    assert "**Insufficient data**: no knob was varied" in page


def test_only_agents_that_hold_as_a_family_are_a_reason_to_scale(tmp_path: Path) -> None:
    for seed in range(4):
        make_run(tmp_path / "chance", seed=seed)
    [first, *_] = draw_lessons(gather_attempts(tmp_path / "chance")).recommendations
    assert first.text.startswith("do not scale for an edge: 0 of 4 agents are shown to beat buy-and-hold; luck alone")
    for symbol in ("AAPL", "AMD"):
        make_run(tmp_path / "edge", symbol=symbol, edge=0.004)
    [first, *_] = draw_lessons(gather_attempts(tmp_path / "edge")).recommendations
    assert first.text.startswith("scale with AAPL, AMD: 2 of 2 agents are shown to beat buy-and-hold;")


def test_runs_of_an_older_p3kit_are_not_judged(tmp_path: Path) -> None:
    make_run(tmp_path, keeps_returns=False)
    lessons = draw_lessons(gather_attempts(tmp_path))
    assert any("keep no returns" in lesson.text for lesson in lessons.failed)
    assert "No agent of 1 can be judged" in lessons.recommendations[0].text


def test_spread_over_seeds(tmp_path: Path) -> None:
    sharpes = []
    for seed in range(5):
        make_run(tmp_path, seed=seed, best_sharpe=0.3 + 0.2 * seed)
    history = gather_attempts(tmp_path)
    sharpes = [attempt.sharpe for attempt in history.traded if attempt.sharpe is not None]
    assert len(history.seed_differences) == 10
    assert history.seed_spread == pytest.approx(np.std(sharpes, ddof=1))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = invoke("report", "--lessons")
    assert nothing.exit_code == 2
    sweep(Path("runs"), seeds=1, values=(0.9,))
    result = invoke("report", "--lessons")
    assert (result.exit_code, result.stdout.strip()) == (0, "reports/lessons-learned.md"), result.output
    page = Path("reports/lessons-learned.md")
    assert "](../runs/run-1)" in page.read_text()
    before = page.read_bytes()
    assert invoke("report", "--lessons", "--output", "reports/lessons-learned.md").exit_code == 0
    assert page.read_bytes() == before
    told = json.loads(invoke("report", "--lessons", "--json").stdout)
    assert next(iter(told["sections"])) == "What worked well"
    for wrong in (["report"], ["report", "--lessons", "--week", "1"]):
        assert invoke(*wrong).exit_code == 2
    with pytest.raises(RunNotFound, match="there are: phase3"):
        gather_attempts(Path("runs"), "phase4")
