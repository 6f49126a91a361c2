"""Symptoms of the gates."""

from __future__ import annotations

from p3kit.symptoms.symptom import Symptom

ROWS = (
    Symptom("gate.minimum", "Minimum Success", "3.3", "gate", "[criteria.minimum]"),
    Symptom("gate.strong", "Strong Success", "3.3", "gate", "[criteria.strong]"),
    Symptom("gate.stop", "Early Stopping", "3.3", "gate", "[early_stop]"),
)
