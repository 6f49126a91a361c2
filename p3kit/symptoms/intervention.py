"""Symptoms of the interventions."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "intervention.oscillates",
        "Interventions undo each other",
        "-",
        "warning",
        "one key was raised and lowered twice within 10 ticks",
        (Cause("thresholds", "trigger and release of an intervention lie too close together", automatic=False),),
        judged=True,
    ),
)
