"""The benchmark of the diagnosis removes the right parts, pairs within rounds, and its page has the figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.conftest import load_trainer
from tests.trainers.tiny_runs import metrics_of, train

from .diagnosis_overhead import BEGIN, END, NOT_MEASURED, PAGE, RESULTS, no_evidence, ratios, render, rotated


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_a_run_without_evidence_learns_the_same(trainer: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"trainer": trainer, "ppo.total_timesteps": 300, "diagnose.mode": "off"}
    changes |= {"symbols": ["AAA"]} if trainer == "ppo" else {}
    without: tuple[str, ...] = ()
    if trainer == "ppo_shared":
        changes |= {"ppo.patch": 4, "ppo.d_model": 8, "ppo.layers": 1, "ppo.heads": 1, "ppo.head_width": 8}
        without = ("ppo.hidden",)
    (usual,) = train(load_trainer(trainer), tmp_path / "usual", trainer, changes, without)
    with no_evidence():
        (bare,) = train(load_trainer(trainer), tmp_path / "bare", trainer, changes, without)
    one, two = (metrics_of(run, "AAA") for run in (usual, bare))
    assert "value/explained_variance" in {name for _, name in one}
    assert "value/explained_variance" not in {name for _, name in two}
    assert len(two) > 20
    assert {key: one[key] for key in two} == pytest.approx(two, nan_ok=True, rel=0)


def run(number: int, variant: str, cpu_s: float) -> dict[str, Any]:
    return {"round": number, "workload": "guide", "variant": variant, "cpu_s": cpu_s, "load_before": 0.5}


def test_ratios_are_taken_inside_a_round() -> None:
    runs = [run(1, "on", 10.2), run(1, "bare", 10.0), run(2, "on", 33.0), run(2, "bare", 30.0), run(3, "on", 9.0)]
    assert ratios(runs, "bare") == pytest.approx([1.02, 1.1])
    made = {"commit": "0000000", "cores": 2, "machine": "x86_64, Linux", "torch": "2"}
    text = render({"made_by": made, "runs": runs})
    assert "| +6.0% (+2.0% to +10.0%) | not measured |" in text
    assert [rotated(("on", "unwatched", "bare"), by)[0] for by in (1, 2, 3)] == ["unwatched", "bare", "on"]


def test_the_page_tells_the_committed_figures() -> None:
    told = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)[1].split(END, 1)[0]
    wanted = render(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else NOT_MEASURED
    assert told.strip() == wanted.strip()
