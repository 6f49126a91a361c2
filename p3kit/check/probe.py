"""Result of a probe: one question, one answer, the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Probe:
    """The answer to one question about a spec."""

    name: str
    question: str
    passed: bool
    evidence: str
    remedy: str = ""
    """What to change where it did not pass, as a spec fragment where there is one."""
    details: dict[str, Any] = field(default_factory=dict)
    """The numbers, for programs."""
    skipped: str = ""
    """Why the question could not be put; such a probe neither passed nor failed."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "question": self.question,
            "passed": None if self.skipped else self.passed,
            "skipped": self.skipped,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "details": self.details,
        }
