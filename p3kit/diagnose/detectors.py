"""Every detector by symptom id."""

from p3kit.diagnose import (  # noqa: F401  (they register themselves)
    detectors_agents,
    detectors_guide,
    detectors_issues,
    detectors_learning,
)
from p3kit.diagnose.registry import DETECTORS

__all__ = ["DETECTORS"]
