"""The benchmark of the diagnosis cuts out what it says, pairs within rounds, and the page tells what was measured."""

import ast
import json
from typing import Any

import pytest

from .diagnosis_overhead import BEGIN, END, NOT_MEASURED, PAGE, RESULTS, ROOT, bare_trainer, ratios, render, rotated


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_a_bare_trainer_records_no_evidence_and_is_sound(trainer: str) -> None:
    code = (ROOT / "trainers" / f"{trainer}.py").read_text(encoding="utf-8")
    bare = bare_trainer(code, trainer)
    ast.parse(bare)
    assert "feature_rank(" in code.split("def main")[1]
    assert "feature_rank(" not in bare.split("def main")[1]
    assert "# 6. Evidence" in code
    assert "# 6. Evidence" not in bare
    with pytest.raises(ValueError, match="0 sections"):
        bare_trainer(bare, trainer)


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
