"""Thresholds that are calibrated on a pool of healthy runs; `calibration.json` holds them beside the pool's hash.

The rule: a row warns at the threshold of the catalogue, or at the largest statistic of the pool if that is beyond it.
By exchangeability a row alarms on one more healthy run of that kind with a probability of at most 1 / (runs + 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("calibration.json")


@cache
def calibration() -> dict[str, Any]:
    """The stored thresholds: rule, hash and number of runs of the pool, and `rows`."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def calibrated_threshold(symptom: str, catalogue: float) -> float:
    """The threshold of a row, given that of the catalogue. A row whose catalogue changed since is not calibrated."""
    row = calibration()["rows"].get(symptom)
    return float(row["warn"]) if row is not None and row["catalogue"] == catalogue else catalogue


def pool_hash(runs: Sequence[Path]) -> str:
    """SHA-256 of the records of some runs, in any order."""
    each = sorted(hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest() for run in runs)
    return hashlib.sha256("".join(each).encode()).hexdigest()
