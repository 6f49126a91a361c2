"""Symptoms of the several agents."""

from __future__ import annotations

from p3kit.symptoms.changes import SCALE_REWARD
from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "multi.interference",
        "Agents disturb each other in the shared encoder",
        "-",
        "warning",
        "diag/grad_cosine below -0.2 (the mean over the other agents), or diag/grad_share above three equal shares and above "
        "0.6, for 3 ticks",
        (
            Cause("scale", "one agent's gradient outweighs the others': its returns are larger", (SCALE_REWARD,)),
            Cause("conflict", "the agents pull the encoder in opposite directions", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "multi.outlier_agent",
        "One agent unlike the others",
        "-",
        "warning",
        "a metric more than 6 robust standard deviations from the other agents' at the same share of training, for 3 ticks "
        "(5 or more agents)",
        (
            Cause("data", "its market differs from the others'", automatic=False),
            Cause("learning", "it learns differently: another row of this agent gives the reason", automatic=False),
        ),
        judged=True,
    ),
)
