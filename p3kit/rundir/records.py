"""Data read from a run directory: series, histograms, disk usage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import P3kitError
from p3kit.rundir import rows, validation


@dataclass(frozen=True)
class Series:
    """One metric of one agent, in the order it was recorded. Shapes: all (n,). Values may be nan or inf."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    iterations: NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """One drawing's numbers, or returns. `kind`: reward, actions, gradients, value_map, equity or returns."""

    kind: str
    agent: str
    global_step: int
    path: Path

    @property
    def data(self) -> dict[str, Any]:
        """The numbers, read from disk. Raises P3kitError when the file is damaged."""
        document = rows.read_json(self.path)
        if wrong := validation.wrong_histogram(document, self.kind, self.agent, self.global_step):
            raise P3kitError(str(self.path), wrong, "delete the file")
        data: dict[str, Any] = document["data"]
        return data


@dataclass(frozen=True)
class DiskUsage:
    """Bytes that a run takes on its disk, in whole blocks. `growing`: metrics, events, histograms; they grow with the
    steps taken. `rest`: what a run has once."""

    growing: int
    best_checkpoints: int
    best_checkpoint_count: int
    rest: int

    @property
    def total(self) -> int:
        return self.growing + self.best_checkpoints + self.rest
