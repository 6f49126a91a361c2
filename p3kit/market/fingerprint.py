"""A name for the data itself: runs on different bars cannot be taken for the same experiment."""

from __future__ import annotations

import hashlib

import numpy as np

from p3kit.market.bars import Bars


def fingerprint(bars: Bars, *, own: bool = True) -> str:
    """SHA-256 (hex) of the parsed table: the names, timestamps and numbers, for any kind of file.

    The same bars in CSV and in Parquet have the same fingerprint; one changed digit gives another. Columns of the
    user's that are features count, unless `own` is False: then it is that of the prices alone.
    """
    digest = hashlib.sha256(b"p3kit bars 1\n")
    digest.update(bars.timestamps.astype("datetime64[ns]").astype("<i8").tobytes())
    for name in ("close", *bars.columns):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(getattr(bars, name), dtype="<f8").tobytes())
    for name, values in sorted(bars.own.items()) if own else ():
        digest.update(f"own {len(name)} {name}".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()
