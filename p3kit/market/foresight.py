"""Features that move with returns which come after them: the one check for look-ahead, and its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p3kit.market.bars import Floats
from p3kit.market.symbol_data import SymbolData
from p3kit.metrics import FORESIGHT

FORESIGHT_BARS = 3


def feature_foresight(bars: SymbolData, names: Sequence[str] | None = None) -> tuple[str, float]:
    """The feature with the largest |correlation| with the log return of one of the next three bars, over the training
    split, and that correlation; ("", 0.0) if no feature varies. A sound feature correlates slightly with the next bar.

    For columns of the user's files, the change from the bar before counts as well: tomorrow's price as a level
    correlates with nothing. `names` are the features to check, by default all.
    """
    first, last = bars.splits["train"]
    chosen = [i for i, name in enumerate(bars.feature_names) if names is None or name in names]
    move = np.diff(np.log(bars.close))  # (T − 1,), move[t] leads from bar t to t + 1
    best = ("", 0.0)
    for ahead in range(FORESIGHT_BARS):
        rows = np.arange(first, min(last, len(move) - ahead))
        table = bars.features[rows][:, chosen].astype(np.float64)
        own = [at for at, i in enumerate(chosen) if bars.feature_names[i] in bars.own_features]
        changes = table[:, own] - bars.features[rows - 1][:, [chosen[at] for at in own]]
        known = _correlations(np.concatenate([table, changes], axis=1), move[rows + ahead])
        if known.max(initial=0.0) > best[1]:
            best = (bars.feature_names[[*chosen, *(chosen[at] for at in own)][int(known.argmax())]], float(known.max()))
    return best


def _correlations(table: Floats, target: Floats) -> Floats:
    """|Correlation| of each column (T, F) with the target (T,); 0 where a column does not vary."""
    table = table - table.mean(0)
    target = target - target.mean()
    scale = np.sqrt((table**2).sum(0) * (target**2).sum())
    return np.asarray(np.divide(np.abs(table.T @ target), scale, out=np.zeros(len(scale)), where=scale > 0))


def foresight_notes(bars: SymbolData) -> list[str]:
    """A note on every column of the user's files that correlates with a coming return beyond the threshold."""
    found = [feature_foresight(bars, [name]) for name in bars.own_features]
    return [
        f"{name} correlates with a coming return by {value:.2f} on the training bars, above {FORESIGHT:g}: give the "
        "value that was known at the close of its bar"
        for name, value in found
        if value > FORESIGHT
    ]
