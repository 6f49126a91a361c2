"""The rows of one symbol as text or numbers, not yet checked, and where they stand in the file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.errors import Fault


@dataclass
class Sheet:
    """Rows of bars with the names of `shapes.ROLES` as columns."""

    path: Path
    frame: pd.DataFrame
    rows: NDArray[np.intp]  # (T,) the number that a user would give each row
    unused: dict[str, pd.Series] = field(default_factory=dict)  # columns without a meaning, by name

    def fault(self, rows: NDArray[np.intp] | int, what: str, hint: str) -> Fault:
        """A fault at the first of `rows` (positions), with the number of further ones."""
        positions = np.atleast_1d(rows)
        first = int(positions[0])
        more = f" (and {len(positions) - 1} more rows)" if len(positions) > 1 else ""
        stamp = as_text(self.frame["timestamp"].iloc[first])
        if "time" in self.frame.columns:
            stamp = f"{stamp} {as_text(self.frame['time'].iloc[first])}".strip()
        if hasattr(self.frame["timestamp"].iloc[first], "isoformat"):
            stamp = str(self.frame["timestamp"].iloc[first])
        when = f" ({stamp[:40]})" if stamp else ""
        return Fault(f"{self.path}: row {self.rows[first]}{when}", what + more, hint)

    def reversed(self) -> Sheet:
        """The rows from the last to the first, with their numbers."""
        return replace(self, frame=self.frame.iloc[::-1].reset_index(drop=True), rows=self.rows[::-1])

    def symbol_like(self, timestamps: NDArray[np.datetime64]) -> str | None:
        """The unused column of text that makes every repeated timestamp unique, or None."""
        for name, column in self.unused.items():
            codes, found = pd.factorize(column)
            few = 1 < len(found) <= max(2, len(column) // 5)
            if few and not pd.DataFrame({"time": timestamps, "code": codes}).duplicated().any():
                return name
        return None


def as_text(value: object) -> str:
    """A cell as text; whole timestamps from Parquet object columns come out in ISO 8601."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    return value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
