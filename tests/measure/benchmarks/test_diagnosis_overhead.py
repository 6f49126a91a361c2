"""The benchmark of the diagnosis measures what a run calls for it, once each, and its page has the figures."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.conftest import load_trainer
from tests.trainers.tiny_runs import metrics_of, train

from .diagnosis_overhead import BEGIN, END, EVIDENCE, JUDGING, PAGE, RESULTS, Stopwatch, render, stopwatch


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked"])
def test_a_measured_run_learns_the_same(trainer: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"trainer": trainer, "ppo.total_timesteps": 300}
    changes |= {"symbols": ["AAA"]} if trainer == "ppo" else {}
    (usual,) = train(load_trainer(trainer), tmp_path / "usual", trainer, changes)
    ticks = count()
    with stopwatch(lambda: float(next(ticks))) as watch:
        (measured,) = train(load_trainer(trainer), tmp_path / "measured", trainer, changes)
    assert metrics_of(usual, "AAA") == pytest.approx(metrics_of(measured, "AAA"), nan_ok=True, rel=0)
    assert watch.seconds[EVIDENCE] > 3, "every update has several measured functions"
    assert watch.seconds[JUDGING] > 0


def test_a_function_inside_a_measured_one_counts_once() -> None:
    moments = iter([0.0, 5.0, 7.0, 8.0])
    watch = Stopwatch(lambda: next(moments))
    inner = watch.measured(JUDGING, lambda: "inner")
    outer = watch.measured(EVIDENCE, inner)
    assert outer() == "inner"
    assert inner() == "inner"
    assert watch.seconds == {EVIDENCE: 5.0, JUDGING: 1.0}


def test_shares_are_those_of_a_run_and_its_own_time() -> None:
    runs = [{"round": n, "workload": "guide", "cpu_s": 10.0 * n, EVIDENCE: 0.1 * n**2, JUDGING: 0.1} for n in (1, 2, 3)]
    made = {"commit": "0000000", "cores": 2, "machine": "x86_64, Linux", "torch": "2"}
    text = render({"made_by": made, "runs": runs})
    assert "| 20.0 | 2.0% (1.0% to 3.0%) | 0.5% (0.3% to 1.0%) | 2.5% (2.0% to 3.3%) |" in text


def test_the_page_tells_the_committed_figures() -> None:
    told = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)[1].split(END, 1)[0]
    assert told.strip() == render(json.loads(RESULTS.read_text(encoding="utf-8"))).strip()
