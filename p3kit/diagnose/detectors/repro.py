"""Detectors of `repro.*`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Recorded
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, passed, raised_at, too_early


@detector("repro.drift")
def other_numbers(evidence: Evidence, row: Row) -> Finding:
    """Exact: the first iteration against that of an earlier run of one spec, seed, data and commit. What a clock or the
    operating system measured is left out."""
    if evidence.twins is None:
        return Finding(
            row.symptom, evidence.agent, "no_evidence", "information", "other runs are compared by p3kit diagnose only"
        )
    if not evidence.twins:
        return too_early(evidence, row, "0", "1 other run of this spec, seed, data and commit")
    run, theirs = evidence.twins[-1]
    own, other = _first_iteration(evidence.series), _first_iteration(theirs)
    common = own.keys() & other.keys()
    if not common:
        return too_early(evidence, row, "no iteration", "a first iteration in both runs")
    apart = sorted(name for name in common if not np.array_equal(own[name], other[name], equal_nan=True))
    if not apart:
        return passed(evidence, row, f"{len(common)} metrics of the first iteration equal those of {run}")
    name = apart[0]
    text = f"{len(apart)} of {len(common)} metrics of the first iteration differ from {run}: {name} is "
    text += f"{format_number(float(own[name][-1]))} here and {format_number(float(other[name][-1]))} there"
    cause = [(1.0, "nondeterminism", f"spec, seed, data and commit are those of {run}")]
    step = int(evidence.series[name].steps[0])
    return raised_at(evidence, row, step, text, float(len(apart)), cause)


def _first_iteration(series: Mapping[str, Recorded]) -> dict[str, Floats]:
    first = {
        name: np.asarray(one.values, np.float64)[np.asarray(one.iterations) == 1]
        for name, one in series.items()
        if not name.startswith("perf/")
    }
    return {name: values for name, values in first.items() if len(values)}
