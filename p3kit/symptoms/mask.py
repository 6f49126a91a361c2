"""Symptoms of the action masks."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "mask.violation",
        "Action Masking Errors",
        "5.1",
        "critical",
        "a masked action was selected (exact)",
        (
            Cause(
                "mask_not_applied",
                "the policy was not given the mask of its own state: a fault of the trainer",
                automatic=False,
            ),
        ),
        judged=True,
    ),
    Symptom(
        "mask.tight",
        "Action masking too restrictive",
        "3.2",
        "warning",
        "policy/valid_actions below 1.5 on average",
        (Cause("mask_rules", "the mask rules leave little but HOLD", automatic=False),),
        judged=True,
    ),
)
