"""Numbers of a column as float64, from any type in the file."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.market.bars import Floats
from p3kit.market.timestamps import text_of

MISSING = ("", "nan", "null", "none", "na", "n/a")
"""Words for a missing number, in lower case."""


def numbers_of(column: pd.Series) -> tuple[Floats, NDArray[np.intp], pd.Series]:
    """A column as float64 (T,) with NaN for what is missing, the rows that are no number, and the text.

    The first value is empty where a row is no number.
    """
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.array([], dtype=np.intp), column
    text = text_of(column)
    readable = pd.to_numeric(text, errors="coerce").notna().to_numpy()
    unread = np.flatnonzero(~readable & ~text.str.lower().isin(MISSING).to_numpy())
    if len(unread):
        return np.array([]), unread, text
    # Python's own float() gives the nearest double, which pandas' fast parser does not promise
    numbers = [float(cell) if good else np.nan for cell, good in zip(text, readable, strict=True)]
    return np.array(numbers, dtype=np.float64), unread, text
