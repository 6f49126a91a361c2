"""Symptoms of the data."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Symptom

ROWS = (
    Symptom(
        "data.break",
        "A column changes its nature part of the way",
        "-",
        "warning",
        "a column of the user's files freezes, or the size of its changes, their correlation with returns or with their past, or its "
        "level separates completely before and after one bar",
        (Cause("column", "the column has another unit, sign, lag or source from some bar on", automatic=False),),
        judged=True,
    ),
    Symptom(
        "data.leak",
        "Too good to be true: data leak",
        "5.1",
        "critical",
        "eval/feature_foresight above 0.4: a feature correlates with the return of the next bar; or eval/sharpe_ratio above 8 by two standard errors",
        (Cause("future_feature", "a feature probably contains future prices", automatic=False),),
        judged=True,
    ),
)
