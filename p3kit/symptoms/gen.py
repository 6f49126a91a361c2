"""Symptoms of the generalization."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "gen.gap",
        "Poor Generalization",
        "5.1",
        "warning",
        "training Sharpe above validation Sharpe, both in windows that start flat, by more than 1.5, by three standard errors and by more than the part of buy-and-hold's own "
        "gap that the policy holds, and validation below 40% of training, twice in a row after 30% of training",
        (
            Cause(
                "overfit",
                "the gap grew while training went on",
                (Change("early_stop.patience", to=3), Change("ppo.weight_decay", to=0.001)),
                automatic=False,
            ),
            Cause("shift", "the gap was there at the first evaluation: the two periods differ", automatic=False),
        ),
        judged=True,
        departure="Dropout, the guide's first remedy, breaks the ratio of PPO unless rollout and update drop the same units, "
        "as p3kit does. Early stopping and weight decay come first.",
    ),
)
