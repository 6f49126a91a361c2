"""The prices of a run's bars, kept to find out later what has changed in the user's files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.errors import P3kitError
from p3kit.rundir import rows
from p3kit.rundir.directory import RunDir
from p3kit.rundir.file_names import file_name


def write_prices(run: RunDir, symbol: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write `prices/SYMBOL.npz` unless it exists. `time` is stored as differences, which take hardly any room."""
    path = _path(run, symbol)
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    steps = np.diff(columns["time"], prepend=0)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{**columns, "time": steps})
    rows.write_bytes(path, file.getvalue())


def read_prices(run: RunDir, symbol: str) -> dict[str, NDArray[Any]] | None:
    """Read the prices that `write_prices` wrote; None where there are none. Raises P3kitError naming a damaged file."""
    path = _path(run, symbol)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        return {**columns, "time": np.cumsum(columns["time"])}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        hint = "delete it; bars that have changed are then refused"
        raise P3kitError(str(path), f"is damaged ({type(error).__name__})", hint) from error


def _path(run: RunDir, symbol: str) -> Path:
    return run.path / "prices" / f"{file_name(symbol)}.npz"
