"""Diagnosis of a run from what it recorded: which symptoms of the catalogue show, since when, why, and what to change.

    for diagnosis in diagnose(RunDir.open("runs/run-42")):
        for finding in diagnosis.raised:
            print(finding.symptom, finding.evidence, finding.patch)

Detectors (`detectors.py`) are pure functions of recorded metrics (`evidence.py`); they read and never draw random
numbers.
"""

from p3kit.diagnose.detectors import DETECTORS
from p3kit.diagnose.diagnosis import catalogue_version, diagnose, gather_run, judge, merged_patch
from p3kit.diagnose.evidence import TICK, Evidence
from p3kit.diagnose.findings import AgentDiagnosis, CauseFound, Finding, Range, SpecChange

__all__ = [
    "DETECTORS",
    "TICK",
    "AgentDiagnosis",
    "CauseFound",
    "Evidence",
    "Finding",
    "Range",
    "SpecChange",
    "catalogue_version",
    "diagnose",
    "gather_run",
    "judge",
    "merged_patch",
]
