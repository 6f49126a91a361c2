"""Detectors of `data.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Span, sustained
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import Row, detector, passed, raised, raised_at, silent, within
from p3kit.metrics import FORESIGHT


@detector("data.leak", "eval/sharpe_ratio", warn=8.0, minimum=1, patience=2, unit="evaluations", at_once=True)
def too_good(evidence: Evidence, row: Row) -> Finding:
    """A feature that moves with bars it cannot have seen, or a Sharpe ratio that no honest feature pays, by two
    standard errors: on a short split luck reaches beyond the bound."""
    foresight = evidence.evaluations("eval/feature_foresight")
    if len(foresight) and float(foresight.values[-1]) > FORESIGHT:
        value = float(foresight.values[-1])
        events = [event for event in evidence.events_of("evaluation") if event.get("foresight")]
        name = events[-1]["foresight"] if events else "a feature"
        text = f"{name} correlates with a coming return by {value:.2f} on the training bars"
        cause = [(1.0, "future_feature", f"{name}: an honest feature stays below {FORESIGHT:g}")]
        always = Span(0, len(foresight) - 1, True)
        return raised(evidence, row, foresight, always, value, text, threshold=FORESIGHT, causes=cause)
    sharpe = evidence.evaluations("eval/sharpe_ratio")
    surely = sharpe.values - 2 * evidence.sharpe_errors(sharpe.steps)
    span = sustained(surely > row.warn, row.patience)
    if span is None:
        return silent(evidence, row, sharpe, "highest validation Sharpe")
    value = float(np.max(within(sharpe, span)))
    cause = [(1.0, "future_feature", "no honest feature pays this well on bars it has not seen")]
    return raised(evidence, row, sharpe, span, value, f"validation Sharpe {value:.1f}", causes=cause)


@detector("data.break", "diag/mismatch")
def column_breaks(evidence: Evidence, row: Row) -> Finding:
    """A column of the user's files that is another one from some bar on. It is found in the data before training."""
    names = [name.removeprefix(_COLUMN) for name in evidence.series if name.startswith(_COLUMN)]
    if not names:
        return passed(evidence, row, "no column of the user's files changes its nature")
    step = min(int(evidence.evaluations(_COLUMN + name).steps[0]) for name in names)
    cause = [(1.0, "column", f"p3kit data names the bar: {', '.join(names)}")]
    text = f"{', '.join(names)}: another column from some bar on"
    return raised_at(evidence, row, step, text, float(len(names)), cause)


_COLUMN = "mismatch/column."
