"""Symptoms of the network."""

from __future__ import annotations

from p3kit.symptoms.changes import HALVE_EPOCHS, TENTH_LR
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "net.dormant",
        "Dormant units",
        "-",
        "warning",
        "diag/dormant_share above 0.5",
        (
            Cause("step_size", "together with too large steps", (TENTH_LR,)),
            Cause("plasticity", "grew slowly: too many epochs on the same data", (HALVE_EPOCHS,), automatic=False),
            Cause("initial", "so from the start: initialisation", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "net.rank",
        "Feature rank collapsed",
        "-",
        "warning",
        "diag/feature_rank below a third of its first value; information where it fell slowly and no units are dormant",
        (
            Cause("step_size", "together with too large steps", (TENTH_LR,)),
            Cause("plasticity", "fell slowly: too many epochs on the same data", (HALVE_EPOCHS,), automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "net.dead_relu",
        "Dead ReLU units",
        "-",
        "warning",
        "diag/dead_share above 0.5: units that are never above 0 on 2,048 states",
        (
            Cause(
                "initial",
                "initialisation or learning rate",
                (Change("ppo.activation", to="tanh"),),
                automatic=False,
            ),
            Cause("step_size", "together with too large steps", (TENTH_LR,), automatic=False),
        ),
        judged=True,
    ),
)
