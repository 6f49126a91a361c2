"""Symptoms of the phases of training."""

from __future__ import annotations

from p3kit.symptoms.changes import HALVE_LR, LESS_ENTROPY, MORE_ENTROPY, RAISE_VF
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "phase.entropy",
        "Entropy off its expected path",
        "3.1, 6.1",
        "information",
        "policy/entropy_norm outside the corridor for this share of training (guide: 1.5, 1.0, 0.8, 0.5 nats of ln 7)",
        (
            Cause("below", "the policy commits early", (MORE_ENTROPY,), automatic=False),
            Cause("above", "the policy commits late", (LESS_ENTROPY,), automatic=False),
        ),
        judged=True,
        departure="The guide's path is in nats and absolute steps. ln 7 is 1.95, but with a mask about four actions are "
        "valid (ln 4 is 1.39), so 1.5 nats are impossible, and 20k steps are early only in 100k. The row uses entropy as a "
        "fraction of its largest value for the valid actions, and time as a fraction of training.",
    ),
    Symptom(
        "phase.ev",
        "Explained variance off its expected path",
        "3.1, 3.3, 6.1",
        "information",
        "value/explained_variance below the ridge reference by more than 0.1 after 40% of training",
        (Cause("value_learning", "a linear fit explains more than the value head", (RAISE_VF,), automatic=False),),
        judged=True,
        departure="The guide requires 0.5, then 0.7. Healthy runs with a validation Sharpe above 3 stay at 0.35-0.45, because "
        "returns are hard to predict. A ridge fit on the same batch replaces the fixed number.",
    ),
    Symptom(
        "phase.reward",
        "Reward off its expected path",
        "3.1, 6.2",
        "warning",
        "Sharpe of the evaluations in the last 40% of training falls with 95% confidence (Sen's slope), by 1 or more, "
        "to less than half of its best",
        (
            Cause(
                "overfit",
                "the training split still improves: the policy learns what does not repeat",
                (Change("early_stop.patience", to=3), Change("ppo.weight_decay", to=0.001)),
                automatic=False,
            ),
            Cause("unstable", "the training split falls with it: the steps have become too large", (HALVE_LR,)),
            Cause(
                "proxy",
                "the reward rises while the account falls",
                (Change("reward.weights.pnl", to=0.6),),
                automatic=False,
            ),
        ),
        judged=True,
    ),
)
