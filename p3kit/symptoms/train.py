"""Symptoms of the training."""

from __future__ import annotations

from p3kit.symptoms.changes import (
    HALVE_EPOCHS,
    HALVE_LR,
    LARGER_BATCH,
    LOWER_LR,
    MORE_ENVS,
    RAISE_VF,
    SCALE_REWARD,
    STOP_AT_KL,
)
from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "train.unstable",
        "Unstable Training",
        "5.1",
        "warning",
        "the mean episode reward swings from tick to tick by more than 3 of its sampling errors, to and fro",
        (
            Cause("step_size", "KL is high: the steps are too large", (LOWER_LR, LARGER_BATCH)),
            Cause("reward_scale", "rewards are not normalised", (SCALE_REWARD,)),
            Cause("noise", "KL is normal: the episodes themselves are noisy", (MORE_ENVS,), automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "train.clip",
        "Clip fraction outside 0.1-0.3",
        "6.1",
        "warning",
        "policy/clip_fraction above 0.4 for two ticks (healthy runs were measured at 0.00-0.10)",
        (Cause("step_size", "too much change per update", (STOP_AT_KL, HALVE_LR)),),
        automatic=True,
        judged=True,
        departure="The guide requires 0.1-0.3. Healthy runs clip 0.00-0.10 of their ratios, so only the upper side warns.",
    ),
    Symptom(
        "train.kl",
        "KL divergence above 0.02",
        "1.3, 6.1",
        "warning",
        "policy/kl_divergence above 0.05 for two ticks (critical: policy/kl_max above 0.5)",
        (
            Cause("epochs", "KL grows over the epochs of an update", (STOP_AT_KL, HALVE_EPOCHS)),
            Cause("learning_rate", "the steps themselves are too large", (STOP_AT_KL, HALVE_LR)),
        ),
        automatic=True,
        judged=True,
        departure="The guide gives two numbers: 0.015 (1.3) and 0.02 (6.1). The first is a stop inside an update and is "
        "`ppo.target_kl`; runs with it end some updates slightly above it. The warning starts at a mean of 0.05.",
    ),
    Symptom(
        "train.growth",
        "Slow growth",
        "-",
        "warning",
        "value loss (in variances of the returns), gradient norm (in their deviations), value/return_std or a net's weights rise to 3, 10, 4 "
        "or 1.5 times their own lowest level over 8 ticks or more, with a Mann-Kendall statistic above 3",
        (
            Cause("value", "the value head loses the returns", (RAISE_VF,), automatic=False),
            Cause("gradient", "gradients grow", (HALVE_LR,), automatic=False),
            Cause("weights", "the weights of a net grow", (HALVE_LR,), automatic=False),
        ),
        judged=True,
    ),
)
