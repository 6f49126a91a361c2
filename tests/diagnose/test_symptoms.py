"""The catalogue of symptoms is sound data: ids, words, patches that the real spec models accept."""

from __future__ import annotations

from typing import Any

import pytest
import tomli

from p3kit.diagnose import DETECTORS
from p3kit.metrics import COMPONENTS, is_metric
from p3kit.spec import resolve_spec
from p3kit.spec.writing import patch_toml
from p3kit.symptoms import GUIDE_ISSUES, GUIDE_WARNINGS, SYMPTOMS, Change, Symptom, is_symptom

EVERY = list(SYMPTOMS.values())


def accept(fragment: str) -> None:
    """The real spec models accept a patch on top of the smallest spec."""
    tables: dict[str, Any] = tomli.loads(fragment)
    resolve_spec({"name": "patched", "symbols": ["AAPL"], **tables}, "patch")


@pytest.mark.parametrize("symptom", EVERY, ids=lambda row: row.id)
def test_every_change_of_every_cause_is_a_spec_fragment(symptom: Symptom) -> None:
    for cause in symptom.causes:
        for change in cause.changes:
            for component in COMPONENTS if "{component}" in change.path else ("",):
                after = change.applied(None)
                assert after is not None
                accept(patch_toml({change.path.format(component=component): after}))


def test_patch_under_a_symbol_is_a_spec_fragment() -> None:
    fragment = patch_toml({"ppo.ent_coef": 0.05, "reward.weights.cost": 0.05}, "AAPL")
    assert fragment.startswith("[agents.AAPL.ppo]")
    accept(fragment)
    assert tomli.loads(patch_toml({"ppo.ent_coef": 0.05}, "BRK.B")) == {
        "agents": {"BRK.B": {"ppo": {"ent_coef": 0.05}}}
    }


def test_a_patch_of_a_schedule_is_a_spec_fragment() -> None:
    assert patch_toml({'schedules."ppo.ent_coef".start': 0.05, "evaluation.every": 10_000}) == (
        '[schedules."ppo.ent_coef"]\nstart = 0.05\n\n[evaluation]\nevery = 10_000'
    )
    assert patch_toml({}) == ""


def test_judged_says_whether_a_detector_exists() -> None:
    assert {row.id for row in EVERY if row.judged} == set(DETECTORS)


def test_detectors_need_metrics_of_the_glossary() -> None:
    for row in DETECTORS.values():
        assert all(is_metric(metric) for metric in row.needs), row.symptom


def test_the_guides_rows_are_judged_in_its_own_words() -> None:
    words = {
        "run.slow": "Slow Training",
        "run.oom": "OOM (Out of Memory)",
        "policy.hold": "Degenerate Policy",
        "train.unstable": "Unstable Training",
        "gen.gap": "Poor Generalization",
        "mask.violation": "Action Masking Errors",
        "num.nan": "NaN Losses",
        "reward.explode": "Exploding Rewards",
        "value.fail": "Value Function Collapse",
    }
    assert set(words) == {*GUIDE_ISSUES, *GUIDE_WARNINGS}
    for symptom, title in words.items():
        assert SYMPTOMS[symptom].title.startswith(title)
        assert SYMPTOMS[symptom].judged
    assert "all HOLD" in SYMPTOMS["policy.hold"].title


def test_causes_have_names_of_their_own() -> None:
    for row in EVERY:
        names = [cause.id for cause in row.causes]
        assert len(names) == len(set(names)), row.id


def test_automatic_repair_needs_something_to_change() -> None:
    for row in EVERY:
        if row.automatic:
            assert any(cause.changes for cause in row.causes), row.id


def test_triggers_name_a_symptom_or_one_of_its_causes() -> None:
    assert is_symptom("num.nan")
    assert is_symptom("num.nan:observation")
    assert not is_symptom("num.nan:weather")
    assert not is_symptom("num.nil")


def test_change_stays_within_its_bounds() -> None:
    raise_it = Change("ppo.ent_coef", by=5.0, at_least=0.05, at_most=0.1, usual=0.01)
    assert raise_it.applied(0.01) == 0.05
    assert raise_it.applied(0.001) == 0.05
    assert raise_it.applied(0.05) == 0.1
    assert raise_it.applied(0.1) is None
    assert raise_it.applied(0.2) is None  # already past the bound: never lowered by a change that raises
    halve = Change("ppo.batch_size", by=0.5, at_least=8, usual=64)
    assert halve.applied(64) == 32
    assert halve.applied(8) is None
    assert Change("reward.scaling", to="running").applied(None) == "running"
