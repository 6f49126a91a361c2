"""Symptoms of the run as a process."""

from __future__ import annotations

from p3kit.symptoms.changes import ACCUMULATE, HALVE_BATCH, HALVE_ENVS, LARGER_BATCH, MORE_ENVS
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
    Symptom(
        "run.slow",
        "Slow Training",
        "5.1",
        "information",
        "perf/steps_per_second below 100",
        (
            Cause("update_bound", "gradient steps take most of the time", (LARGER_BATCH,), automatic=False),
            Cause(
                "env_bound",
                "the rollout takes most of the time; more batched accounts per step are nearly free",
                (MORE_ENVS,),
                automatic=False,
            ),
            Cause(
                "evaluation_bound",
                "evaluations take most of the time",
                (Change("evaluation.every", by=2, usual=5000),),
                automatic=False,
            ),
        ),
        judged=True,
        departure="The guide's remedy, fewer environments, is for one process per environment. In p3kit accounts are rows of "
        "one batch: more of them cost nearly nothing, and fewer make training slower.",
    ),
    Symptom(
        "run.oom",
        "OOM (Out of Memory)",
        "5.1",
        "critical",
        "the allocator refused, or the process was ended for its memory (event `oom`)",
        (
            Cause(
                "minibatch",
                "the minibatch does not fit; the same gradient from half the rows at a time",
                (HALVE_BATCH, ACCUMULATE),
            ),
            Cause("rollout", "the rollout buffer does not fit", (HALVE_ENVS,), automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
)
