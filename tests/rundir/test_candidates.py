"""Returns of evaluations in a run directory: all of them, or no label."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.errors import P3kitError
from p3kit.rundir import judge_evaluations, planned_over_made, read_candidates
from tests.made_runs import make_run


def test_every_evaluation_is_a_candidate_and_a_lost_one_means_no_label(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    events = run.read_events("evaluation", "AAPL")
    found = read_candidates(run, "AAPL", events)
    assert [one.global_step for one in found] == [event["global_step"] for event in events]
    plan = run.info()["agents"][0]
    judged = judge_evaluations(run, plan, events, events[-1])
    assert judged is not None
    assert judged["candidates"] == len(events)
    lost = run.histograms("returns", "AAPL")[0].path
    content = lost.read_bytes()
    lost.unlink()
    assert read_candidates(run, "AAPL", events) == []
    assert judge_evaluations(run, plan, events, events[-1]) is None
    lost.write_bytes(content.replace(b'"span"', b'"spam"'))
    with pytest.raises(P3kitError, match=lost.name):
        read_candidates(run, "AAPL", events)


def test_a_run_of_an_older_p3kit_is_readable_and_not_judged(tmp_path: Path) -> None:
    run = make_run(tmp_path, keeps_returns=False)
    (verdict,) = run.read_events("verdict")
    assert verdict["judged"] is None
    assert verdict["over_buy_and_hold"] == "not judged"


def test_an_early_stop_counts_the_evaluations_that_it_left_out() -> None:
    events = [{"global_step": step} for step in (10_000, 20_000, 50_000)]
    assert planned_over_made({"total_timesteps": 100_000}, events) == 2.0
    assert planned_over_made({"total_timesteps": 50_000}, events) == 1.0
    assert planned_over_made({}, []) == 1.0
