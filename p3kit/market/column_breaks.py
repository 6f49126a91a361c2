"""Columns that change their nature part of the way, and features that are not what their formulas give.

A built-in feature is a formula of the bars, so it is computed again and compared. A column of the user's files has no
formula. It is compared with itself: blocks of bars before and after a break differ in

- the logarithm of the median size of its changes, which a new unit, noise or a filled-in column moves
- the correlation of its changes with the return of the bar, which another sign, lag or column moves
- the correlation of its changes with the change before, which smoothing or noise moves
- the level, where one single change carries it

Blocks that are exchangeable separate completely at one split with probability 2/C(40, k), k the blocks on the smaller
side. With 7 or more on either side that is at most 1e-7, so that all splits, statistics and columns together stay below
1e-3. Markets are not exchangeable, so a break also has a least size. A frozen column is found by its longest run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from p3kit.market.bars import Bars, Floats
from p3kit.market.symbol_data import SymbolData

BLOCKS, LEAST_SIDE = 40, 7
_LEAST_BLOCK = 20
_FALSE_ALARMS = 1e-6
_SIZES = {"size of its changes": np.log(2.5), "correlation with the return": 0.5, "correlation with its past": 0.5}
"""Least difference of the medians on both sides: factor 2.5, and 0.5 in Fisher's z."""
_JUMP = 30.0
"""Median changes that a level moves by at once to count as another one."""
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Break:
    """A column that is another one from `bar` on."""

    column: str
    bar: int
    what: str


def departing_features(data: SymbolData) -> dict[str, float]:
    """Per built-in feature that departs from its formula: the fraction of bars in which it does."""
    if data.recipe is None:
        return {}
    names = tuple(name for name in data.recipe.names if name not in data.own_features and name in data.feature_names)
    kept = [data.recipe.names.index(name) for name in names]
    mean, scale = (tuple(values[i] for i in kept) for values in (data.recipe.mean, data.recipe.scale))
    recipe = replace(data.recipe, names=names, own=(), mean=mean, scale=scale)
    columns = ("open", "high", "low", "volume")
    bars = Bars(data.symbol, data.timestamps, data.close, **{name: getattr(data, name) for name in columns})
    expected = recipe.features(bars)
    seen = data.features[:, [data.feature_names.index(name) for name in names]]
    usable = np.isfinite(expected).all(1)
    near = np.abs(seen - expected) <= _ROUNDING * (1 + np.abs(expected))
    shares = (~near[usable]).mean(0) if usable.any() else np.zeros(len(names))
    return {name: float(share) for name, share in zip(names, shares, strict=True) if share > 0}


def column_breaks(data: SymbolData) -> list[Break]:
    """Breaks of the columns of the user's files, at most one per column, between the first usable and the last bar."""
    first = min(first for first, _ in data.splits.values())
    move = np.diff(np.log(data.close[first:]), prepend=np.nan)
    found = []
    for name in data.own_features:
        values = data.features[first:, data.feature_names.index(name)].astype(np.float64)
        if (one := find_break(values, move)) is not None:
            found.append(Break(name, first + one[0], one[1]))
    return found


def break_notes(data: SymbolData) -> list[str]:
    """A note on every column of the user's files that changes its nature part of the way."""
    return [
        f"column {one.column} is another one from bar {one.bar} on ({str(data.timestamps[one.bar])[:19]}): {one.what}; "
        "look at its source there, or leave it out"
        for one in column_breaks(data)
    ]


def find_break(values: Floats, move: Floats) -> tuple[int, str] | None:
    """The bar from which a column (T,) is another one, and what changed; None where it stays what it is. `move` (T,)
    are the returns of the bars."""
    if (frozen := _frozen(values)) is not None:
        return frozen
    size = len(values) // BLOCKS
    if size < _LEAST_BLOCK:
        return None
    change = np.diff(values, prepend=values[0])
    usual = float(np.median(np.abs(change[change != 0]))) if change.any() else 0.0
    if usual == 0:
        return None
    cut = slice(len(values) - size * BLOCKS, None)
    blocks = change[cut].reshape(BLOCKS, size)
    table = {
        "size of its changes": np.log(np.median(np.abs(blocks), axis=1) + 1e-3 * usual),
        "correlation with the return": _fisher(blocks, move[cut].reshape(BLOCKS, size)),
        "correlation with its past": _fisher(blocks[:, 1:], blocks[:, :-1]),
    }
    for what, statistic in table.items():
        if (split := _separates(statistic, _SIZES[what])) is not None:
            return cut.start + split * size, f"the {what} changed"
    return _level(values, change, usual, size)


def _frozen(values: Floats) -> tuple[int, str] | None:
    """The longest run of one value, where T pᴸ, which bounds the probability of so long a run, is below 1e-6; p is the
    fraction of equal neighbours elsewhere."""
    equal = values[1:] == values[:-1]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    if not len(edges):
        return None
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    run = int(lengths[longest])
    others = len(equal) - run
    repeats = (float(equal.sum()) - run + 1) / (others + 2)
    if others < run // 4 or np.log(len(values)) + run * np.log(min(repeats, 1.0)) > np.log(_FALSE_ALARMS):
        return None  # most of it is one value: a flag, or a constant
    return int(edges[2 * longest]), f"it has one value for {run + 1} bars"


def _fisher(a: Floats, b: Floats) -> Floats:
    """Fisher's z of the correlation of each row of two tables (n, m); 0 where one is constant."""
    a, b = (x - np.nanmean(x, axis=1, keepdims=True) for x in (a, b))
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    ratio = np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 0)
    return np.asarray(np.arctanh(np.clip(ratio, -0.999, 0.999)))


def _separates(statistic: Floats, least: float) -> int | None:
    """The first split at which every block after it lies beyond every block before it, and the medians are `least` or
    more apart; None where there is none."""
    for split in range(LEAST_SIDE, BLOCKS - LEAST_SIDE + 1):
        before, after = statistic[:split], statistic[split:]
        apart = before.max() < after.min() or after.max() < before.min()
        if apart and abs(np.median(after) - np.median(before)) >= least:
            return split
    return None


def _level(values: Floats, change: Floats, usual: float, size: int) -> tuple[int, str] | None:
    """One change that carries the level beyond all it was before."""
    at = int(np.abs(change).argmax())
    side = LEAST_SIDE * size
    if abs(change[at]) < _JUMP * usual or at < side or at > len(values) - side:
        return None
    medians = np.median(sliding_window_view(values, size)[::size], axis=1)
    split = at // size
    before, after = medians[:split], medians[split + 1 :]
    if len(before) < LEAST_SIDE or len(after) < LEAST_SIDE:
        return None
    apart = before.max() < after.min() or after.max() < before.min()
    carried = abs(np.median(after) - np.median(before)) < 2 * abs(change[at])
    return (at, "its level changed at once") if apart and carried else None
