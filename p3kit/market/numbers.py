"""Numbers of a column as float64, from any type in the file.

`1,234.50`, `1.234,50`, `$12.30` and `1.2M` are read where the cells of the file settle what point and comma mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from p3kit.market.bars import Floats
from p3kit.market.sheet import Sheet
from p3kit.market.timestamps import text_of

MISSING = ("", "nan", "null", "none", "na", "n/a", "#n/a", "-", ".")
"""Words for a missing number, in lower case."""
_SIGNED = r"(?P<sign>[-+]?) ?[$€£¥]? ?(?P<number>{}) ?[$€£¥]?(?P<unit>[KMBkmb]?)"
_BETWEEN = "' \u00a0\u202f"
"""Signs between thousands that are no decimal sign anywhere."""
_SIGNS = {".": "point", ",": "comma"}
_UNITS = {"k": "e3", "m": "e6", "b": "e9"}


def with_plain_numbers(sheet: Sheet) -> tuple[Sheet, list[str]]:
    """The sheet with `1,234.50`, `1.234,50`, `$12.30` and `1.2M` as plain numbers, and a note; unchanged in doubt."""
    names = [name for name in sheet.frame.columns if name not in ("timestamp", "time")]
    texts = {name: text_of(sheet.frame[name]) for name in names if not _is_numeric(sheet.frame[name])}
    odd = {name: text[~_is_plain(text)] for name, text in texts.items()}
    if not any(map(len, odd.values())):
        return sheet, []
    cells = pd.concat([pd.Series(text.unique()) for text in texts.values()])
    meant = [decimal for decimal in (".", ",") if cells.str.contains(_proof(decimal)).any()]
    if len(meant) != 1:
        return sheet, []
    rewritten = {name: _plain(text, meant[0]) for name, text in texts.items()}
    changes = ((was, rewritten[name].loc[row]) for name, text in odd.items() for row, was in text.items())
    was, now = next(((was, now) for was, now in changes if was != now), ("", ""))
    if not was:
        return sheet, []
    note = f'numbers are not plain: "{was}" is read as {now}, with a decimal {_SIGNS[meant[0]]}'
    return replace(sheet, frame=sheet.frame.assign(**rewritten)), [note]


def _proof(decimal: str) -> str:
    """A cell that has only one meaning: `1.5`, `1,234.5` and `1,234,567` if the point is the decimal sign."""
    sign, other = (r"\.", ",") if decimal == "." else (",", r"\.")
    groups = rf"\d{{1,3}}(?:[{other}{_BETWEEN}]\d{{3}})+{sign}\d+|\d{{1,3}}(?:{other}\d{{3}}){{2,}}"
    return rf"^\D*(?:\d+{sign}(?:\d{{1,2}}|\d{{4,}})|{groups})\D*$"


def _plain(text: pd.Series, decimal: str) -> pd.Series:
    """Cells as Python writes numbers; cells of another form as they are."""
    sign, other = (r"\.", f"[,{_BETWEEN}]") if decimal == "." else (",", f"[.{_BETWEEN}]")
    form = _SIGNED.format(rf"(?:[1-9]\d{{0,2}}(?:{other}\d{{3}})+|\d+)(?:{sign}\d+)?")
    parts = text.str.extract(f"^{form}$")
    digits = parts["number"].str.replace(other, "", regex=True).str.replace(",", ".")
    return (parts["sign"] + digits + parts["unit"].str.lower().map(_UNITS).fillna("")).fillna(text)


def _is_plain(text: pd.Series) -> pd.Series:
    return pd.to_numeric(text, errors="coerce").notna() | text.str.lower().isin(MISSING)


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def numbers_of(column: pd.Series) -> tuple[Floats, NDArray[np.intp], pd.Series]:
    """A column as float64 (T,) with NaN for what is missing, the rows that are no number, and the text.

    The first value is empty where a row is no number.
    """
    if _is_numeric(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.array([], dtype=np.intp), column
    text = text_of(column)
    readable = pd.to_numeric(text, errors="coerce").notna().to_numpy()
    unread = np.flatnonzero(~readable & ~text.str.lower().isin(MISSING).to_numpy())
    if len(unread):
        return np.array([]), unread, text
    # Python's own float() gives the nearest double, which pandas' fast parser does not promise
    numbers = [float(cell) if good else np.nan for cell, good in zip(text, readable, strict=True)]
    return np.array(numbers, dtype=np.float64), unread, text
