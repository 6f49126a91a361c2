"""Estimates of many series at once, for measurements of error rates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from p3kit import significance as s


def estimate_each(own: s.Sums, reference: s.Sums | None = None) -> Iterator[tuple[int, s.Estimate]]:
    """(series, its estimate) of K series, each as if it stood alone, in no order; faster than one by one."""
    first, second = own.influence
    if reference is not None:
        first, second = first - reference.influence[0], second - reference.influence[1]
    blocks = np.array([s.near_block(length) for length in s.block_length(first + second)])
    for block in np.unique(blocks):
        columns = np.flatnonzero(blocks == block)
        found = s.estimate(own.only(columns), reference and reference.only(columns), float(block))
        for place, column in enumerate(columns):
            one = slice(place, place + 1)
            yield int(column), s.Estimate(found.value[one], found.error[one], found.draws[:, one])
