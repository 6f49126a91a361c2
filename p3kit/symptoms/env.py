"""Symptoms of the environment."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
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
        "diag/env_twins above 0.3 in three iterations: the P&L of so many environments moves with another one's",
        (Cause("shared_seed", "environments start at the same bars: they share a random state", automatic=False),),
        judged=True,
    ),
    Symptom(
        "env.stale_obs",
        "Observations are off by one",
        "-",
        "critical",
        "diag/obs_agreement below 0.5 from the first tick (later: below 0.2 for 3): correlation of the return that the newest "
        "observed bar shows and the P&L of the step that led there, over rows that hold a position",
        (
            Cause(
                "shuffled",
                "observations belong to other rows or other bars than they are given to",
                automatic=False,
            ),
        ),
        judged=True,
    ),
)
