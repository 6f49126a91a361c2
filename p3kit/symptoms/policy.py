"""Symptoms of the policy."""

from __future__ import annotations

from p3kit.symptoms.changes import GUIDE_LR, HALVE_LR, LESS_ENTROPY, LOWER_COST, MORE_ENTROPY, ONE_ACTION
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "policy.hold",
        "Degenerate Policy: premature convergence (all HOLD)",
        "3.2, 5.1",
        "critical",
        "policy/hold_share above 0.95 and policy/entropy_norm below 0.15 before 80% of training",
        (
            Cause("ent_coef_low", "the entropy bonus is too weak to keep exploration alive", (MORE_ENTROPY,)),
            Cause("penalty_dominates", "penalties outweigh profit: the reward favours inaction", (LOWER_COST,)),
            Cause("mask_tight", "the mask leaves little but HOLD", automatic=False),
        ),
        automatic=True,
        judged=True,
        departure="The guide's numbers (99% HOLD, 0.1 nats) come too late for a repair, and nats depend on the number of valid "
        "actions. The row uses 95% and 0.15 of the largest possible entropy. The guide's bonus of 0.01 per action other than "
        "HOLD pays for churn without profit; `reward.action_bonus` exists, and no patch proposes it.",
    ),
    Symptom(
        "policy.correct_inaction",
        "All HOLD, and HOLD is right",
        "3.2",
        "information",
        "the policy holds, and no fixed rule made money on the validation split after costs",
        (Cause("no_edge", "no fixed rule earns its costs in this market", automatic=False),),
        judged=True,
    ),
    Symptom(
        "policy.loss",
        "Policy loss should decrease",
        "6.1",
        "information",
        "never raised: the clipped surrogate hovers around 0 by construction",
        judged=True,
        departure="The guide requires a policy loss that decreases. Advantages are normalised to a mean of 0, so the "
        "surrogate starts at 0 in every update and its level has no meaning; progress is judged by the evaluations.",
    ),
    Symptom(
        "policy.frozen",
        "Policy does not move",
        "-",
        "critical",
        "policy/kl_divergence below 5e-5, or diag/update_ratio below 2e-4, for 5 ticks before 80% of training, with entropy left; "
        "KL below 5e-6 for 2 ticks while more than half of the entropy is left",
        (
            Cause("learning_rate", "the learning rate in force is close to 0", (GUIDE_LR,)),
            Cause("no_advantage", "advantages are all alike: the reward has no signal", automatic=False),
            Cause("detached", "the value head learns and the policy does not: a fault of the trainer", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "policy.uniform",
        "Random behaviour late in training",
        "1.2",
        "warning",
        "policy/entropy_norm above 0.965 for 3 ticks after half of training and not falling; above 0.99 after 15% where "
        "ent_coef is above 0.1",
        (
            Cause("ent_coef_high", "the entropy bonus outweighs the policy gradient", (LESS_ENTROPY,)),
            Cause("frozen", "the policy hardly moves at all", automatic=False),
            Cause("no_signal", "advantages point nowhere", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "policy.early_entropy",
        "Entropy falls too early",
        "1.2, 3.2",
        "warning",
        "policy/entropy_norm below 0.25 (the guide's end of training) for 3 ticks before 60% of training",
        (
            Cause(
                "ent_coef_low",
                "the entropy bonus is too weak",
                (Change("ppo.ent_coef", by=3.0, at_least=0.01, at_most=0.10, usual=0.01),),
            ),
            Cause("step_size", "the steps are too large", (HALVE_LR,)),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "policy.init_scale",
        "Initial policy is not near uniform",
        "-",
        "warning",
        "policy/entropy_norm below 0.9 in the first record, of what ppo.init_hold leaves",
        (
            Cause(
                "init_gain",
                "the policy head starts too large",
                (Change("ppo.init_gain", to=0.01),),
                automatic=False,
            ),
        ),
        judged=True,
    ),
    Symptom(
        "policy.greedy_worse",
        "The most probable action earns less than drawn ones",
        "-",
        "warning",
        "eval/sampled_lead above 3 standard errors in 2 evaluations in a row after half of training, with evaluation.action greedy; information where greedy's Sharpe ratio is 0.3 or more",
        (ONE_ACTION,),
        judged=True,
    ),
)
