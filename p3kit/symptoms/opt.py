"""Symptoms of the optimizer."""

from __future__ import annotations

from p3kit.symptoms.changes import CLIP_GRADIENTS, LOWER_LR, TENTH_LR
from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "opt.grad",
        "Gradient norm exploding",
        "1.2, 3.2, 6.1",
        "warning",
        "grad/grad_norm_max above 100 (critical), or grad/grad_norm 10 robust standard deviations above its past",
        (Cause("explosion", "gradients outgrew the clipping", (CLIP_GRADIENTS, LOWER_LR)),),
        automatic=True,
        judged=True,
        departure="The guide requires a norm below 1 and fewer than 20% clipped, with a limit of 0.5: a healthy run at its "
        "own sizes has 96% clipped at a norm of 0.65. So the row warns of an explosion, not of clipping. The guide's remedy "
        "for gradients at the limit, a larger clip_range, changes the ratio and not the gradients.",
    ),
    Symptom(
        "opt.step_too_big",
        "Weights move too fast",
        "-",
        "critical",
        "diag/update_ratio above 0.03 (healthy: 0.003-0.009 per gradient step)",
        (Cause("learning_rate", "the learning rate is far too high", (TENTH_LR,)),),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "opt.lr_decayed",
        "Learning rate decayed too early",
        "-",
        "warning",
        "effective learning rate below 5% of its start before 60% of training",
        (Cause("schedule", "the schedule reaches its end before training does", automatic=False),),
        judged=True,
    ),
)
