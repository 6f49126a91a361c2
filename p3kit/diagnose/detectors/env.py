"""Detectors of `env.*`."""

from __future__ import annotations

import numpy as np

from p3kit.diagnose.evidence import Evidence, sustained
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
    ("account", "account"),
    ("reward.", "reward"),
    ("terminated", "episode_end"),
    ("truncated", "episode_end"),
    ("final observation", "episode_end"),
    ("stored.bar", "observation"),
    ("stored.account", "observation"),
    ("stored.mask", "action_mask"),
    ("stored.reward", "reward"),
    ("stored.terminated", "episode_end"),
    ("stored.truncated", "episode_end"),
    ("stored.", "stored"),
    ("paid", "reward"),
    ("log_prob", "stored"),
    ("next value", "targets"),
    ("final value", "targets"),
    ("returns", "targets"),
    ("advantage", "targets"),
    ("learnt.bar", "observation"),
    ("learnt.account", "observation"),
    ("learnt.", "targets"),
    ("value loss", "stored"),
)
"""Fields of a rollout by their names' beginnings, and the causes. A field that departs may move those after it."""
_UNIT = "mismatch/reward.unit"
"""All components times one positive number: no fault by itself."""
_PLACES = {"stored.": "{} in the rollout buffer", "learnt.": "{} in the minibatch"}
_BY_FIRST_STEP = {"value loss": "value, by the first value loss", "log_prob": "log_prob, by the first ratio"}
_CHANGES = {
    "shift": "{:g} steps late",
    "factor": "times {:.3g}",
    "stale": "of the iteration before",
    "swapped": "swapped with the other kind of end",
    "mixed": "in another order",
}


@detector("env.mismatch", "diag/mismatch", warn=0.005)
def rollout_departs(evidence: Evidence, row: Row) -> Finding:
    """A step is a function of state, action and bars, so a replay has the same numbers. A different number was changed
    on the way to the learner. Of the fields that differ first, the one that changes the others is named first."""
    largest = evidence.evaluations("diag/mismatch")
    span = sustained(largest.values > row.warn, row.patience)
    if span is None:
        return passed(evidence, row, "every compared row has the same numbers", float(largest.values[-1]), row.warn)
    first = int(largest.steps[span.first])
    names = [name for name in evidence.series if name.startswith("mismatch/") and name != _UNIT]
    shares = {name.removeprefix("mismatch/"): _share_at(evidence, name, first) for name in names}
    causes: dict[str, tuple[float, str, str]] = {}
    for rank, (beginning, cause) in enumerate(_FIELDS):
        fields = {name: shares.pop(name) for name in list(shares) if name.startswith(beginning)}
        fields = {name: share for name, share in fields.items() if share > 0}
        if fields and cause not in causes:
            worst = max(fields, key=lambda name: fields[name])
            more = f" and {len(fields) - 1} more" if len(fields) > 1 else ""
            said = f"{_described(evidence, worst, first)}{more}, in {fields[worst]:.1%} of the environments"
            causes[cause] = (1 - rank / 100, cause, said)
    value = float(largest.values[span.first])
    text = "; ".join(why for _, _, why in list(causes.values())[:3])
    paid = [name.rpartition("reward.")[2] for name in names if "reward." in name and _share_at(evidence, name, first)]
    component = paid[0] if paid and "reward" in causes else None
    return raised(evidence, row, largest, span, value, text, causes=list(causes.values()), component=component)


def _described(evidence: Evidence, field: str, step: int) -> str:
    """The name of a field, with the change that explains it."""
    place = next((begin for begin in _PLACES if field.startswith(begin)), "")
    name = field.removeprefix(place)
    own = [one for one in evidence.series if one.startswith("change/") and _share_at(evidence, one, step)]
    within = [one for one in own if one.removeprefix("change/").rpartition(".")[0] == field] or (
        own if field == "returns" else []
    )
    if within:
        inner, _, kind = within[0].removeprefix("change/").rpartition(".")
        name = name if inner == field else inner
        name = f"{name} {_CHANGES[kind].format(_share_at(evidence, within[0], step))}"
    return _PLACES.get(place, "{}").format(_BY_FIRST_STEP.get(name, name))


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
