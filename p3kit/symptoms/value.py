"""Symptoms of the value function."""

from __future__ import annotations

from p3kit.symptoms.changes import HUBER, LARGER_BATCH, RAISE_VF, SCALE_REWARD
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "value.fail",
        "Value Function Collapse",
        "1.2, 3.2, 6.1",
        "warning",
        "value/explained_variance never above 0.08 in 5 ticks, and below a ridge reference above 0.08 by more than 0.1 (or never above "
        "-0.5 in the 3 ticks after the first), while the policy does more than HOLD; or no episode ended by 20% of training, "
        "within a horizon of gamma longer than that; or gamma is 1, as the end of an episode on bars bootstraps the value",
        (
            Cause("reward_scale", "returns are too large or too small for the value head", (SCALE_REWARD, HUBER)),
            Cause(
                "non_stationary",
                "the level of the returns moves faster than the value head follows",
                (SCALE_REWARD, RAISE_VF),
            ),
            Cause("vf_coef_low", "the value loss has too little weight", (RAISE_VF, LARGER_BATCH)),
            Cause(
                "unanchored",
                "no end and no discount fix the level of the value: its targets are its own guesses",
                (Change("ppo.gamma", to=0.99),),
            ),
        ),
        automatic=True,
        judged=True,
        departure="Explained variance is below 0 at the first update of every healthy run, and the noise of the "
        "market sets its ceiling. So a ridge fit on the same batch replaces 0. The guide's clamp of the value loss at 10 "
        'has no gradient above 10, where it is needed most: `value_loss = "huber"` bounds the gradient and keeps it.',
    ),
    Symptom(
        "value.mean",
        "Value mean should follow the returns",
        "6.1",
        "warning",
        "value/value_mean apart from value/return_mean by more than one standard deviation of the returns",
        (
            Cause(
                "bias",
                "the value head lags behind or bootstraps from the wrong state",
                (RAISE_VF,),
                automatic=False,
            ),
        ),
        judged=True,
    ),
)
