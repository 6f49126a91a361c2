"""Symptoms of the environment."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "env.mismatch",
        "The rollout is not what environment and policy gave",
        "-",
        "critical",
        "a field of the rollout departs from a replay by a fresh environment of the spec in more than 0.5% of the environments; "
        "or, in any environment, the buffer from what the environment returned, the returns and advantages from their formula, "
        "a minibatch from the rollout, or its first values and log-probabilities from those of the rollout (exact but for rounding)",
        (
            Cause("observation", "features are not those of their bars", automatic=False),
            Cause("action_mask", "the mask is not that of the account", automatic=False),
            Cause("reward", "a reward component is not what its formula gives", automatic=False),
            Cause("account", "the account, its costs or its fills do not follow the spec", automatic=False),
            Cause("episode_end", "episodes end elsewhere than the spec sets", automatic=False),
            Cause(
                "stored", "stored actions, log-probabilities or values are not those of the rollout", automatic=False
            ),
            Cause("targets", "the loss gets other returns, advantages or rows than the rollout gives", automatic=False),
        ),
        judged=True,
    ),
    Symptom(
        "env.no_end",
        "Episodes never end",
        "-",
        "critical",
        "no episode ended in twice the time that episodes may last",
        (Cause("truncation_missing", "the environment does not end its episodes", automatic=False),),
        judged=True,
    ),
    Symptom(
        "env.duplicate",
        "Environments are copies of each other",
        "-",
        "critical",
        "diag/env_twins above 0.3 in three iterations: that fraction of environments has the P&L of another one",
        (Cause("shared_seed", "environments start at the same bars: they share a random state", automatic=False),),
        judged=True,
    ),
)
