"""Every detector by symptom id."""

from p3kit.diagnose import detectors_guide, detectors_issues, detectors_learning  # noqa: F401  (they register themselves)
from p3kit.diagnose.rows import DETECTORS

__all__ = ["DETECTORS"]
