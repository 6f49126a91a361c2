"""The fraction of the attainable score: a policy's log return on synthetic bars over that of the optimal rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from p3kit.market.load import synthetic_market
from p3kit.market.optimal import TradingRules, attainable
from p3kit.runtime.walks import Walk
from p3kit.spec import Spec


def attainable_share(spec: Spec, symbol: str, walk: Walk) -> dict[str, Any] | None:
    """Log return per bar of `walk` and of the optimal rule on the same bars, and their ratio.

    None on real bars, and on a synthetic market without an edge. With regimes the rule uses the hidden regime, so
    its return is an upper bound.
    """
    if spec.data.source != "synthetic" or spec.data.synthetic.edge <= 0:
        return None
    first, last = int(walk.bar[0]), int(walk.bar[-1]) + 2  # the rule earns nothing after its last bar
    best = attainable(synthetic_market(spec, symbol), TradingRules.from_spec(spec), first, last).log_return_per_bar
    if best <= 0:
        return None
    own = float(np.log1p(walk.bar_return).mean())
    return {
        "share": own / best,
        "log_return_per_bar": own,
        "optimal_log_return_per_bar": best,
        "upper_bound": spec.data.synthetic.regimes,
    }
