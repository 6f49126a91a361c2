"""Symptoms of the spec: what it sets and what the record shows."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "spec.no_effect",
        "A setting has no effect",
        "-",
        "critical",
        "a setting of the spec differs from its value in the record (`realised/`): exact but for rounding",
        (
            Cause("optimiser", "the optimiser does not use the setting: a fault of the trainer", automatic=False),
            Cause("loss", "the loss does not use the setting: a fault of the trainer", automatic=False),
            Cause("targets", "the advantages do not use the setting: a fault of the trainer", automatic=False),
            Cause("reward", "the reward does not use the setting", automatic=False),
            Cause("count", "rollout, minibatches or epochs are not as many as the spec sets", automatic=False),
            Cause("seed", "two seeds gave the same run: the seed is not used", automatic=False),
        ),
        judged=True,
    ),
)
