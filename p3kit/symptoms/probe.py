"""Symptoms of the probes before training."""

from __future__ import annotations

from p3kit.symptoms.symptom import Symptom

ROWS = (
    Symptom(
        "probe.env",
        "Debugging step 1: environment alone",
        "5.2",
        "critical",
        "1,000 random steps stay finite, in their spaces, and repeat under the same seed",
    ),
    Symptom(
        "probe.forward",
        "Debugging step 2: agent forward pass",
        "5.2",
        "critical",
        "actions, log-probabilities and values are finite; a batch equals its rows",
    ),
    Symptom(
        "probe.update",
        "Debugging step 3: PPO update on synthetic data",
        "5.2",
        "critical",
        "the loss falls on a repeated batch, the ratio starts at 1, every layer has a gradient",
    ),
    Symptom(
        "probe.learning", "Debugging step 4: short training", "5.2", "critical", "the probe environments are solved"
    ),
)
