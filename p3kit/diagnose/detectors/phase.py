"""Detectors of `phase.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, Floats, Span, sustained, trailing
from p3kit.diagnose.findings import Finding, format_number
from p3kit.diagnose.registry import Row, detector, passed, raised, silent, too_early

ENTROPY_CORRIDOR = ((0.0, 0.2, 0.5, 1.0), (0.5, 0.5, 0.25, 0.1), (1.0, 1.0, 0.95, 0.8))
"""Share of training, lower and upper bound of policy/entropy_norm."""


@detector("phase.entropy", "policy/entropy_norm", minimum=3, patience=3)
def entropy_path(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1: 1.5, 1.0, 0.8, 0.5 nats over the four phases, as shares of ln 7 and of training, with room either
    side."""
    entropy = evidence.ticks("policy/entropy_norm")
    progress = evidence.progress(entropy.steps)
    low, high = (np.interp(progress, ENTROPY_CORRIDOR[0], bound) for bound in ENTROPY_CORRIDOR[1:])
    below, above = entropy.values < low, entropy.values > high
    span = sustained(below | above, row.patience, entropy.iterations)
    if span is None:
        return silent(evidence, row, entropy, "share of the largest entropy")
    value, last = float(entropy.values[span.last]), span.last
    side = "below" if below[last] else "above"
    bound = float(low[last] if below[last] else high[last])
    text = f"entropy {value:.2f} of its maximum at {progress[last]:.0%} of training"
    cause = [(1.0, side, f"expected {low[last]:.2f} to {high[last]:.2f} here")]
    return raised(evidence, row, entropy, span, value, text, threshold=bound, causes=cause)


@detector("phase.ev", "value/explained_variance", "diag/ev_reference", warn=0.1, minimum=5)
def explained_variance_path(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1 and 6.1: above 0.5, then 0.7. What a linear fit reaches on the same batch takes the place of the
    number."""
    explained = evidence.ticks("value/explained_variance")
    reference = evidence.ticks("diag/ev_reference").at(explained.steps)
    late = evidence.progress(explained.steps) > 0.4
    if not np.any(late):
        return too_early(evidence, row, f"{evidence.progress(evidence.last_step):.0%}", "40% of training")
    width = explained.rows_for(5)
    lag = trailing(reference, width, np.median) - trailing(explained.values, width, np.median)
    span = sustained((lag > row.warn) & late, row.patience, explained.iterations)
    if span is None:
        return silent(evidence, row, explained, "explained variance")
    last = span.last
    text = f"explained variance {explained.values[last]:.2f}, a linear fit reaches {reference[last]:.2f}"
    cause = [(1.0, "value_learning", f"{lag[last]:.2f} below the fit over five ticks")]
    return raised(evidence, row, explained, span, float(lag[last]), text, causes=cause)


KEPT = 0.5
"""Share of its best validation Sharpe ratio that a run may fall to: healthy runs kept 0.57 at the least."""


@detector("phase.reward", "eval/sharpe_ratio", warn=1.0, minimum=4, unit="evaluations")
def score_falls(evidence: Evidence, row: Row) -> Finding:
    """Guide 3.1: the reward plateaus at the end. The last 40% of training by Sen's slope with its rank interval (Sen
    1968), which makes no assumption about the noise and draws no random numbers. Four evaluations fall by chance in one
    healthy run of twenty-four. A policy that still learns loses a third of its best and regains it; so half of the best
    must be lost."""
    sharpe = evidence.evaluations("eval/sharpe_ratio")
    late = evidence.progress(sharpe.steps) >= 0.6
    count = int(np.count_nonzero(late))
    if count < row.minimum:
        return too_early(evidence, row, f"{count}", f"{row.minimum} evaluations in the last 40% of training")
    first = int(np.argmax(late))
    time, values = evidence.progress(sharpe.steps)[late] / 0.4, sharpe.values[late]
    slope, high = sen_slope(time, values)
    fall = -slope * float(time[-1] - time[0])
    best = float(sharpe.values.max())
    if high >= 0 or fall < row.warn or best <= 0 or values[-1] > KEPT * best:
        text = f"validation Sharpe moved by {-fall:+.2f} over the last 40% of training"
        return passed(evidence, row, text, -fall, -row.warn)
    text = (
        f"validation Sharpe fell by {fall:.2f} over the last 40% of training, from {values[0]:.2f} to "
        f"{values[-1]:.2f}; its best was {best:.2f}"
    )
    train = evidence.evaluations("eval/train_sharpe_ratio").at(sharpe.steps)[late]
    reward = evidence.ticks("episode/episode_reward_mean").at(sharpe.steps)[late]
    causes = []
    if np.isfinite(train).all():
        move, high_train = sen_slope(time, train)
        overfit = move >= 0
        evidence_text = f"training Sharpe went from {train[0]:.2f} to {train[-1]:.2f}"
        causes.append((2.0 if overfit else 0.0, "overfit", evidence_text))
        causes.append((1.5 if high_train < 0 else 0.0, "unstable", evidence_text))
    if np.isfinite(reward).all() and sen_slope(time, reward)[0] > 0:
        said = f"the mean episode reward went from {format_number(reward[0])} to {format_number(reward[-1])}"
        causes.append((1.0, "proxy", said))
    span = Span(first, len(sharpe) - 1, True)
    return raised(evidence, row, sharpe, span, fall, text, causes=causes)


def sen_slope(time: Floats, values: Floats) -> tuple[float, float]:
    """Median of all pairwise slopes, and the upper end of its 95% interval by Kendall's ranks. Both (n,), n of 4 or
    more, at two times or more. Values at one time, as before and after an intervention, have no slope."""
    i, j = np.triu_indices(len(values), k=1)
    i, j = i[time[j] != time[i]], j[time[j] != time[i]]
    slopes = np.sort((values[j] - values[i]) / (time[j] - time[i]))
    n = len(values)
    half = 1.96 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    upper = min(int(np.ceil((len(slopes) + half) / 2)), len(slopes) - 1)
    return float(np.median(slopes)), float(slopes[upper])
