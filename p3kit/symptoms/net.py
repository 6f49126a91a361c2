"""Symptoms of the network."""

from __future__ import annotations

from p3kit.symptoms.changes import HALVE_EPOCHS, RAISE_VF, TENTH_LR
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "net.still",
        "A part of the net does not move",
        "-",
        "critical",
        "diag/still_share of the policy, the value or the encoder is 1 while another part moves; a warning where it is above 0 in two updates",
        (
            Cause("no_weight", "its loss has no weight", (RAISE_VF,), automatic=False),
            Cause("no_gradient", "no gradient reaches it: detached, frozen, or not in the optimiser", automatic=False),
        ),
        judged=True,
    ),
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
        "diag/feature_rank below a third of its first value; information where no units are dormant and no step is too large",
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
