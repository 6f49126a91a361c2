"""Detectors of `env.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, breached, sustained
from p3kit.diagnose.findings import Finding, format_steps
from p3kit.diagnose.registry import Row, detector, passed, raised, silent, too_early, within


@detector("env.no_end", "episode/episodes")
def episodes_never_end(evidence: Evidence, row: Row) -> Finding:
    """No episode in twice the time that all accounts need for one."""
    bars, accounts = evidence.setting("env.episode_bars"), evidence.setting("env.num_envs")
    if not bars or not accounts:
        return Finding(row.symptom, evidence.agent, "no_evidence", "critical", "the spec has no length of episodes")
    episodes = evidence.ticks("episode/episodes", "sum")
    need = 2 * int(bars) * int(accounts)
    if evidence.last_step < need:
        return too_early(evidence, row, f"{format_steps(evidence.last_step)} steps", f"{format_steps(need)}")
    ended = np.cumsum(episodes.values)
    silent_since = np.where(episodes.values > 0, episodes.steps, 0)
    quiet = episodes.steps - np.maximum.accumulate(silent_since)
    span = sustained(quiet >= need, row.patience)
    if span is None:
        return passed(evidence, row, f"{ended[-1]:,.0f} episodes ended", float(ended[-1]), 0.0)
    cause = [(1.0, "truncation_missing", f"episodes should last {bars} bars")]
    text = f"no episode ended in {format_steps(int(np.max(quiet)))} steps"
    return raised(evidence, row, episodes, span, float(np.max(quiet)), text, threshold=float(need), causes=cause)


_FIELDS = (
    ("feature.", "observation"),
    ("observation.", "observation"),
    ("bar", "observation"),
    ("mask", "action_mask"),
    ("equity", "account"),
    ("account.", "account"),
    ("reward.", "reward"),
    ("terminated", "episode_end"),
    ("truncated", "episode_end"),
    ("final observation", "episode_end"),
    ("log_prob", "stored"),
    ("value", "stored"),
    ("returns", "stored"),
)
"""Fields of a rollout by their names' beginnings, and the causes. A field that departs may move those after it."""
_UNIT = "mismatch/reward.unit"
"""All components times one positive number: no fault by itself."""


@detector("env.mismatch", "diag/mismatch", warn=0.005)
def rollout_departs(evidence: Evidence, row: Row) -> Finding:
    """A step is a function of state, action and bars, so a replay has the same numbers. A different number was changed
    on the way to the learner. Of the fields that differ first, the one that changes the others is named first."""
    largest = evidence.evaluations("diag/mismatch")
    span = sustained(largest.values > row.warn, row.patience)
    if span is None:
        return passed(evidence, row, "every replayed row has the same numbers", float(largest.values[-1]), row.warn)
    first = int(largest.steps[span.first])
    names = [name for name in evidence.series if name.startswith("mismatch/") and name != _UNIT]
    shares = {name.removeprefix("mismatch/"): _share_at(evidence, name, first) for name in names}
    causes: dict[str, tuple[float, str, str]] = {}
    for rank, (beginning, cause) in enumerate(_FIELDS):
        fields = {name: share for name, share in shares.items() if name.startswith(beginning) and share > row.warn}
        if fields and cause not in causes:
            worst = max(fields, key=lambda name: fields[name])
            more = f" and {len(fields) - 1} more" if len(fields) > 1 else ""
            causes[cause] = (1 - rank / 100, cause, f"{worst}{more}: {fields[worst]:.1%} of the rows")
    value = float(largest.values[span.first])
    text = "; ".join(why for _, _, why in list(causes.values())[:3]) + " depart from a replay"
    component = next(
        (n.removeprefix("reward.") for n in shares if n.startswith("reward.") and "reward" in causes), None
    )
    return raised(evidence, row, largest, span, value, text, causes=list(causes.values()), component=component)


def _share_at(evidence: Evidence, metric: str, step: int) -> float:
    recorded = evidence.evaluations(metric)
    at = np.flatnonzero(recorded.steps == step)
    return float(recorded.values[at[0]]) if len(at) else 0.0


@detector("env.duplicate", "diag/env_twins", warn=0.3, minimum=3, patience=3)
def environments_are_copies(evidence: Evidence, row: Row) -> Finding:
    """Rows that stand at the same bars earn alike whenever both hold something. Two may meet by chance for an episode,
    not a third of all for three ticks."""
    twins = evidence.ticks("diag/env_twins")
    span = sustained(twins.values > row.warn, twins.rows_for(row.patience), twins.iterations)
    if span is None:
        return silent(evidence, row, twins, "largest share of environments that move with another")
    value = float(np.max(within(twins, span)))
    cause = [(1.0, "shared_seed", f"{evidence.setting('env.num_envs')} environments, fewer paths")]
    text = f"the P&L of {value:.0%} of the environments moves with that of another one"
    return raised(evidence, row, twins, span, value, text, causes=cause)


@detector("env.stale_obs", "diag/obs_agreement", warn=0.5, minimum=2, patience=3, gross=1)
def observations_are_not_of_their_row(evidence: Evidence, row: Row) -> Finding:
    """The newest bar that a row observes is the one that its account was just marked at. So it is from the first tick
    on, or it is not: one tick is enough before any agreed. Later a policy that hardly holds leaves few and small
    positions to compare, so a loss of agreement has to be far deeper, and to last."""
    agreement = evidence.ticks("diag/obs_agreement")
    size = np.abs(agreement.values)  # near −1 the observation is right and the P&L turned, which is for reward.corr
    agreed = np.maximum.accumulate(size) > _AGREED
    span = breached((size < 0.4 * row.warn) & agreed, row.patience, (size < row.warn) & ~agreed)
    if span is None:
        return silent(evidence, row, agreement, "smallest correlation of observed and earned return")
    value = float(np.mean(within(agreement, span)))
    cause = [(1.0, "shuffled", f"correlation {value:+.2f} where the same number stands on both sides")]
    text = f"the return a row observes and the one it earned correlate with {value:+.2f} only"
    return raised(evidence, row, agreement, span, value, text, causes=cause)


_AGREED = 0.8
"""Smallest correlation that counts as agreement; healthy runs start at 0.98."""
