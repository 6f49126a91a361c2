"""Look-ahead of the features: the check of `data.leak`, before anything is trained."""

from __future__ import annotations

from p3kit.check.probe import Probe
from p3kit.market import SymbolData
from p3kit.market.foresight import feature_foresight
from p3kit.metrics import FORESIGHT


def probe_features(bars: SymbolData) -> Probe:
    """Correlate every feature with the returns that come after it, on the training split."""
    question = f"Is every feature of {bars.symbol} free of information about later bars?"
    name, value = feature_foresight(bars)
    if not name:
        return Probe("features", question, True, "no feature varies on the training bars")
    evidence = f"{name} correlates with a coming return by {value:.2f}, {FORESIGHT:g} is the limit"
    remedy = "" if value <= FORESIGHT else "give the value that was known at the close of its bar; see docs/data.md"
    return Probe("features", question, value <= FORESIGHT, evidence, remedy, {"feature": name, "foresight": value})
