"""Training, validation and test bars: by share or by date, an embargo between them, none of them starting cold."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

MIN_BARS = 2
"""An account needs a bar to decide on and a bar to see the result of."""

Problem = tuple[str, str, str]
"""(key of the spec, what is wrong, remedy)"""


def split_bars(
    timestamps: NDArray[np.datetime64],
    parts: dict[SplitName, float | str],
    *,
    embargo: int,
    warm_up: int,
    episode_bars: int,
) -> tuple[dict[SplitName, tuple[int, int]], list[Problem]]:
    """Bar ranges (first, last exclusive) on which an account may act, and all their faults.

    - timestamps: (T,) strictly increasing
    - parts: train, validation, test in the order of time (the spec has checked that), each a fraction of the bars or
      days "FROM..TO", both included, in UTC if the timestamps have a time zone
    - embargo: bars between the end of one split and the start of the next, taken from the end of the earlier one
    - warm_up: bars before the first acting bar that an observation needs (window + longest look-back). Only bars at the
      start of the series are spent on it: validation and test warm up on the bars before their boundary.
    """
    bounds = _bounds(timestamps, parts)
    first = {name: max(bounds[name][0], warm_up) for name in SPLITS}
    last = {name: bounds[name][1] for name in SPLITS}
    for earlier, later in pairwise(SPLITS):
        last[earlier] = min(last[earlier], bounds[later][0] - embargo)

    problems: list[Problem] = []
    for name in SPLITS:
        bars, given = last[name] - first[name], bounds[name][1] - bounds[name][0]
        needed, purpose = (episode_bars + 1, "one episode") if name == "train" else (MIN_BARS, "a trade and its result")
        if given <= 0:
            span = f"{str(timestamps[0])[:10]} to {str(timestamps[-1])[:10]}"
            problems.append(
                (f"data.split.{name}", f"{parts[name]} holds no bar", f"the {len(timestamps)} bars run from {span}")
            )
        elif bars < needed:
            problems.append(
                (
                    f"data.split.{name}",
                    f"{parts[name]} is {given} bars, of which {max(bars, 0)} can be used: an observation needs "
                    f"{warm_up} bars before the first, and the embargo is {embargo}; {purpose} needs {needed}",
                    "give it more bars, or lower env.window, env.episode_bars or data.embargo",
                )
            )
    return {name: (first[name], last[name]) for name in SPLITS}, problems


def _bounds(
    timestamps: NDArray[np.datetime64], parts: dict[SplitName, float | str]
) -> dict[SplitName, tuple[int, int]]:
    """Bars (first, last exclusive) of each part as written in the spec."""
    bounds: dict[SplitName, tuple[int, int]] = {}
    total, share = len(timestamps), 0.0
    for name in SPLITS:
        part = parts[name]
        if isinstance(part, str):
            first_day, last_day = (np.datetime64(day.strip(), "D") for day in part.split(".."))
            first, last = first_day.astype("datetime64[ns]"), (last_day + 1).astype("datetime64[ns]")
            bounds[name] = (int(np.searchsorted(timestamps, first)), int(np.searchsorted(timestamps, last)))
        else:
            # rounded, for 0.7 + 0.15 + 0.15 is 0.9999999999999999
            bounds[name] = (int(round(total * share, 6)), int(round(total * (share + part), 6)))
            share += part
    return bounds
