"""Figures of drawn runs: effects, counting, and the page."""

from __future__ import annotations

import numpy as np
import pytest

from p3kit.diagnose import DETECTORS
from p3kit.diagnose.calibration import calibrated_threshold, calibration
from tests.measure.suite import drawn_cases
from tests.measure.suite.generated import BEGIN, END, PAGE, Drawn, effect_of, page_table, summary
from tests.measure.suite.scoring import Alarm, Outcome


def outcome(*alarms: Alarm, case: str = "D1.component", score: float = 0.0) -> Outcome:
    return Outcome(case, 1, "short", alarms, 100_000, "done", score)


def alarm(symptom: str, at: int = 50_000, severity: str = "warning", follows: str | None = None) -> Alarm:
    return Alarm(symptom, severity, at, (), follows)


def drawn(*alarms: Alarm, kind: int = 1, fall: float = 3.0, p: float = 0.01) -> Drawn:
    """A fault of a kind (0 key, 1 component, 2 buffer, 3 column) with the rows that it raised."""
    return Drawn(drawn_cases.draw_fault(kind, 7), outcome(*alarms), fall, p)


def test_the_effect_of_one_run_is_that_of_a_prediction_interval() -> None:
    healthy = [2.0, 3.0, 4.0]
    assert effect_of(3.0, healthy) == (0.0, 0.5)
    fall, p = effect_of(-9.0, healthy)
    assert fall == 12.0
    assert p < 0.02
    rng = np.random.default_rng(1)
    tails = [effect_of(one[0], one[1:])[1] < 0.05 for one in rng.standard_normal((4_000, 7)).tolist()]
    assert 0.035 < np.mean(tails) < 0.065


def test_what_does_no_harm_is_not_counted_and_a_broken_contract_is() -> None:
    assert not drawn(fall=0.5, p=0.3).counts
    assert not drawn(fall=3.0, p=0.08).counts
    assert drawn(kind=2, fall=0.0, p=0.5).counts


def test_a_right_row_is_a_root_of_its_family_after_the_onset() -> None:
    onset = round(drawn().case.onset * 100_000)
    assert drawn(alarm("reward.share", onset)).right
    for wrong in (
        alarm("reward.share", onset - 1),
        alarm("data.break", onset),
        alarm("reward.share", onset, follows="reward.hack"),
        alarm("reward.share", onset, "information"),
    ):
        assert not drawn(wrong).right


def test_figures() -> None:
    faults = [drawn(alarm("reward.share", 100_000), alarm("data.break")), drawn(), drawn(fall=0.0, p=0.5)]
    found = summary(faults, [outcome(), outcome(alarm("trade.never"))])
    assert (found["recall"]["hits"], found["recall"]["of"]) == (1, 2)
    assert (found["precision"]["hits"], found["precision"]["of"]) == (1, 2)
    assert (found["healthy"]["hits"], found["healthy"]["of"]) == (1, 2)
    assert found["median_delay"] is None


def test_rows_read_the_calibrated_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"rows": {"net.rank": {"warn": 0.2, "catalogue": 0.3}}}
    monkeypatch.setattr("p3kit.diagnose.calibration.calibration", lambda: stored)
    assert calibrated_threshold("net.rank", 0.3) == 0.2
    assert calibrated_threshold("net.rank", 0.4) == 0.4  # the catalogue changed since
    assert calibrated_threshold("obs.drift", 0.5) == 0.5


def test_the_stored_calibration_is_in_force() -> None:
    assert calibration()["runs"] >= 30
    for row, own in calibration()["rows"].items():
        assert DETECTORS[row].warn == own["warn"]


def test_the_page_has_the_committed_results() -> None:
    assert page_table() in PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
