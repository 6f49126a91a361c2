"""Symptoms of the reproducibility."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "repro.drift",
        "Same spec and seed, other numbers",
        "-",
        "information",
        "metrics of the first iteration differ from those of another run of one spec, seed, data and commit",
        (Cause("nondeterminism", "something draws random numbers or sums in another order", automatic=False),),
        judged=True,
    ),
)
