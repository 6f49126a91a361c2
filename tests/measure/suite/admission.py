"""Test if a fault counts: it must lower the score, or break a contract.

The statistical killing of mutation testing for reinforcement learning (Tambon et al. 2023): runs with the fault against
runs of the same spec without it, by the score under the unmodified reward, fees and data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tests.measure.suite.cases import Case
from tests.measure.suite.scoring import Outcome

Verdict = Literal["harmful", "lost", "contract", "no harm", "unknown"]


@dataclass(frozen=True)
class Admission:
    """One fault at one strength against its healthy runs. Scores are Sharpe ratios, 0 for one that never trades."""

    case: str
    verdict: Verdict
    healthy: tuple[float, ...]
    sick: tuple[float, ...]
    p: float
    """One-sided, by permutation."""

    @property
    def effect(self) -> float:
        """Fall of the mean in standard deviations of the healthy runs."""
        return float((np.mean(self.healthy) - np.mean(self.sick)) / max(np.std(self.healthy, ddof=1), 1e-9))

    @property
    def admitted(self) -> bool:
        """Return True if the fault counts; it does not if it was shown to do no harm."""
        return self.verdict != "no harm"


def admit(outcomes: Sequence[Outcome], cases: Mapping[str, Case]) -> dict[str, Admission]:
    """The verdict on every fault of which there are runs, from runs of equal sizes (the guide's are left out).

    harmful: the score falls, p below 0.05 and by more than one healthy standard deviation · lost: the run does not
    reach its end · contract: it breaks one, for any score · no harm: neither, so it is no fault as injected ·
    unknown: no two healthy runs to compare with.
    """
    faults = [o for o in outcomes if cases[o.case].kind == "fault" and o.sizes != "guide"]
    return {name: _judged(cases[name], [o for o in faults if o.case == name], outcomes) for name in _names(faults)}


def _names(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.case for outcome in outcomes))


def _judged(case: Case, sick: Sequence[Outcome], outcomes: Sequence[Outcome]) -> Admission:
    sizes = {outcome.sizes for outcome in sick}
    healthy = [o for o in outcomes if o.case == case.reference and o.sizes in sizes]
    scores, wrong = _scores(healthy), _scores(sick)
    p = permutation_p(np.array(scores), np.array(wrong)) if len(scores) > 1 else float("nan")
    found = Admission(case.name, "unknown", scores, wrong, p)
    return Admission(case.name, _verdict(case, found, sick), scores, wrong, p)


def _verdict(case: Case, found: Admission, sick: Sequence[Outcome]) -> Verdict:
    comparable = len(found.healthy) > 1
    if comparable and found.p < 0.05 and found.effect > 1:
        return "harmful"
    if case.harm == "contract":  # before "lost": the diagnosis itself stops some of these
        return "contract"
    if all(outcome.state != "done" for outcome in sick):
        return "lost"
    return "no harm" if comparable else "unknown"


def _scores(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    return tuple(outcome.score or 0.0 for outcome in outcomes)


def permutation_p(healthy: NDArray[np.float64], sick: NDArray[np.float64], draws: int = 10_000) -> float:
    """Probability of a difference of means at least this large, if the fault had no effect."""
    seen = healthy.mean() - sick.mean()
    pool = np.concatenate([healthy, sick])
    rng = np.random.default_rng(0)
    drawn = np.array([rng.permutation(pool) for _ in range(draws)])
    difference = drawn[:, : len(healthy)].mean(1) - drawn[:, len(healthy) :].mean(1)
    return float((1 + np.count_nonzero(difference >= seen)) / (draws + 1))
