"""Symptoms of the performance of the policy."""

from __future__ import annotations

from p3kit.symptoms.changes import ONE_ACTION
from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "perf.no_progress",
        "No progress on validation",
        "6.2",
        "warning",
        "best validation Sharpe below 0.3 at 60% of training, and not above buy-and-hold",
        (
            Cause("no_signal", "the market may hold no edge at these costs", automatic=False),
            Cause(
                "not_learning",
                "the policy has not learnt what a fixed rule earns: see the other rows, or train longer",
                automatic=False,
            ),
            ONE_ACTION,
        ),
        judged=True,
    ),
)
