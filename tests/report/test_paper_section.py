"""Paper accounts in the weekly report: as of the end of the week, beside validation, and inert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p3kit.paper.account_journal import FILE, Journal
from p3kit.paper.standing import beside_validation, prediction_interval
from p3kit.report.paper_picture import draw_account
from p3kit.report.week_data import summarise_week
from p3kit.report.week_page import render_week, week_json
from p3kit.rundir import RunDir
from tests.command import invoke
from tests.made_runs import MONDAY, make_run
from tests.paper.scripted import FIRST, called, decider, made_bars, start_of
from tests.test_hostile_text import HOSTILE, assert_inert, assert_page_inert

DAY = 86_400.0
VALIDATION = {
    "bars": 400, "bars_per_year": 252.0, "sharpe_ratio": 0.5, "sharpe_interval": [-1.0, 2.0], "sharpe_excess": 0.2,
    "excess_interval": [-1.2, 1.6], "total_return": 0.1,
}  # fmt: skip


def weights(**changes) -> dict:
    return {**decider().weights, "validation": VALIDATION, **changes}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of the week from 2027-01-04, whose agent has a paper account with daily bars from 2026-12-30 on."""
    run = make_run(tmp_path / "runs")
    bars = made_bars()
    shift = np.datetime64("2026-12-30") - bars.timestamps[FIRST].astype("datetime64[D]")
    bars = replace(bars, timestamps=bars.timestamps + shift)
    called(tmp_path / "paper" / "X", bars, decider(weights=weights()), start=start_of(bars))
    run.append_event("paper", agent=run.agent_names()[0], folder="../paper/X")
    return run


def page(run: RunDir, week: int) -> str:
    return render_week(summarise_week(run.path.parent, week, MONDAY + 100 * DAY), {})


def test_the_report_shows_the_account_at_the_end_of_the_week(run: RunDir) -> None:
    first, third = page(run, 1), page(run, 3)
    assert "## Paper accounts" in first
    assert "(11 bars), buy-and-hold" in first, "2026-12-31 to 2027-01-10"
    assert "11 bars are fewer than 20" in first
    assert "(25 bars), buy-and-hold" in third, "a week without training shows it as well"
    assert "the 95 % prediction interval from validation" in third
    assert page(run, 1) == first
    document = week_json(summarise_week(run.path.parent, 3, MONDAY + 100 * DAY), Path("week.md"))
    (account,) = document["experiments"][0]["paper"]
    assert (account["folder"], account["bars"]) == ("../paper/X", 25)


def test_an_account_that_was_deleted_or_damaged_does_not_stop_the_report(run: RunDir) -> None:
    journal = run.path.parents[1] / "paper" / "X" / FILE
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b'"cost": ', b'"cost": 1', 1))
    assert f"{FILE}:" in page(run, 1)
    journal.unlink()
    assert "Paper accounts" not in page(run, 1)


def test_hostile_text_of_an_account_is_inert(tmp_path: Path) -> None:
    run, bars = make_run(tmp_path / "runs"), made_bars()
    names = dict.fromkeys(("run", "agent", "checkpoint"), HOSTILE)

    def decide(*seen):
        return {**decider().decide(*seen), HOSTILE: HOSTILE, "reason": HOSTILE}

    who = decider(agent=HOSTILE, weights=weights(**names), decide=decide)
    result = called(tmp_path / "paper" / "X", bars, who, start=start_of(bars))
    run.append_event("paper", agent=run.agent_names()[0], folder="../paper/X")
    assert_page_inert(page(run, 1))
    for words in (["status", str(tmp_path / "paper")], ["status", str(tmp_path / "paper"), "--json"]):
        shown = invoke("paper", *words)
        assert shown.exit_code == 0
        assert_inert(shown.output)
    draw_account(result.book, HOSTILE, tmp_path / "account.png")
    assert Journal(tmp_path / "paper" / "X").read()


@pytest.mark.parametrize("bars", [20, 100, 400, 100_000])
def test_the_prediction_interval_is_wider_than_the_confidence_interval(bars: int) -> None:
    low, high = prediction_interval(0.5, (-1.0, 2.0), 400, bars)
    assert low < -1.0
    assert high > 2.0
    wider = (high - 0.5) / 1.5
    assert wider == pytest.approx(np.sqrt(1 + 400 / bars), rel=0.07)


def test_a_result_far_from_validation_is_outside() -> None:
    rng = np.random.default_rng(1)
    own = 0.01 + 0.001 * rng.standard_normal(200)
    hold = 0.01 * rng.standard_normal(200)
    found = beside_validation(own, hold, VALIDATION)
    assert found["sharpe_ratio"]["inside"] is False
    assert beside_validation(own[:19], hold[:19], VALIDATION) is None
    assert beside_validation(own, hold, None) is None
