"""Symptoms of the numbers that are not finite."""

from __future__ import annotations

from p3kit.symptoms.changes import CLIP_GRADIENTS, CLIP_OBSERVATION, CLIP_REWARD, LOWER_LR
from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "num.nan",
        "NaN Losses",
        "3.2",
        "critical",
        "a number that is not finite in observation, reward, loss, gradient or weights; the first one decides the cause",
        (
            Cause("explosion", "gradients exploded (norm above 100) before it", (LOWER_LR, CLIP_GRADIENTS)),
            Cause("outlier", "|reward| was above 1,000 before it", (CLIP_REWARD, LOWER_LR)),
            Cause("observation", "an observation was not finite: data or environment", automatic=False),
            Cause("reward", "a reward was not finite: reward shaper or data", automatic=False),
            Cause(
                "numerics",
                "values overflowed without a warning in gradients or rewards",
                (LOWER_LR, CLIP_GRADIENTS, CLIP_OBSERVATION),
            ),
        ),
        automatic=True,
        judged=True,
    ),
)
