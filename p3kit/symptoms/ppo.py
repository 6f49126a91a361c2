"""Symptoms of the PPO update."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "ppo.ratio_ne_1",
        "Probability ratio does not start at 1",
        "-",
        "critical",
        "policy/ratio_error of the first minibatch above 1e-3 (2e-2 under bf16 or fp16)",
        (
            Cause(
                "stored_log_prob",
                "log-probabilities, mask or dropout differ between rollout and update: a fault of the trainer",
                automatic=False,
            ),
        ),
        judged=True,
    ),
    Symptom(
        "ppo.adv_std",
        "Advantages are all equal",
        "-",
        "critical",
        "diag/advantage_std below 1e-6, or rewards that are all equal and not 0",
        (Cause("constant_reward", "every step paid the same", automatic=False),),
        judged=True,
    ),
    Symptom(
        "ppo.adv_signal",
        "Updates ignore the advantages",
        "-",
        "critical",
        "diag/advantage_signal below 0.03 over 5 ticks (or 0.015 over 3) in the first half of training while the policy moves "
        "(healthy: 0.07-0.4), below 0 after it",
        (
            Cause("misaligned", "advantages are shuffled against their steps: a fault of the trainer", automatic=False),
            Cause(
                "sign",
                "the sign of the advantage or of the loss is flipped: a fault of the trainer",
                automatic=False,
            ),
        ),
        judged=True,
    ),
)
