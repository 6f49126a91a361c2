"""Symptoms of the observations."""

from __future__ import annotations

from p3kit.symptoms.changes import CLIP_OBSERVATION
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "obs.scale",
        "Observations out of scale",
        "2.3",
        "warning",
        "diag/obs_max_abs above 50 (above 250 for one tick, where observation.clip is off), or diag/obs_clipped_share above 2%",
        (
            Cause(
                "not_normalised",
                "observations are not normalised",
                (Change("observation.normalize", to="train"), CLIP_OBSERVATION),
            ),
            Cause(
                "clip",
                "observation.clip is so small that it cuts ordinary values",
                (CLIP_OBSERVATION,),
                automatic=False,
            ),
            Cause("outliers", "normalised, and still out of scale: outliers in the data", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "obs.drift",
        "Observations drift",
        "5.1",
        "warning",
        "diag/obs_drift times the number of updates above 4 twice after 30% of training: new rows lie so many standard deviations from the running mean",
        (
            Cause(
                "running",
                "running statistics keep moving",
                (Change("observation.normalize", to="train"),),
                automatic=False,
            ),
        ),
        judged=True,
    ),
)
