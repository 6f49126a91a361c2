"""One agent of one run as plain data: scores, findings, interventions and curves at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from p3kit import edge
from p3kit.diagnose.diagnosis import OUTCOMES, judge, merged_patch, ranges
from p3kit.diagnose.evidence import Recorded
from p3kit.diagnose.findings import AgentDiagnosis, Finding, Range
from p3kit.diagnose.journal import did_in_words, for_agent, intervened
from p3kit.headline import HARDLY_TRAINED, Scored
from p3kit.metrics import COMPONENTS, ReturnShape
from p3kit.report.run_history import RunHistory
from p3kit.rundir import RunDir, chosen_evaluation, planned_over_made, read_candidates

BASELINES = ("hold", "buy_and_hold", "moving_average", "random")
CURVES = (
    "eval/sharpe_ratio",
    "eval/buy_and_hold_sharpe",
    "episode/episode_reward_mean",
    "policy/entropy_norm",
    "policy/hold_share",
    "value/value_loss",
    "value/explained_variance",
    "diag/ev_reference",
    *(f"reward/episode_share.{component}" for component in COMPONENTS),
)
"""The metrics that the pictures of a report show."""
Curve = tuple[Sequence[int], Sequence[float]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """One evaluation on the validation split: the policy's metrics, the fixed rules', intervals, regimes."""

    global_step: int
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float | None]]
    sharpe_interval: Interval | None
    excess_interval: Interval | None
    regimes: Mapping[str, Mapping[str, float | None]]
    returns: ReturnShape | None
    """None for a policy that never traded, and where an older journal does not have it."""
    mode: str = "windows"
    """`continuous` or `windows`; an older journal does not have it, and was made in windows."""

    @property
    def sharpe(self) -> float | None:
        """None for a policy that never traded."""
        return self.metrics.get("eval/sharpe_ratio")


@dataclass(frozen=True)
class Deflated:
    """Chance that the true Sharpe ratio is above 0, the luck of the best of `trials` taken off."""

    value: float
    trials: int
    """Evaluations of the symbol in this experiment, whichever agent made them."""


@dataclass(frozen=True)
class Outcome:
    """Effect of one intervention on a symptom, from the journal.

    `symptom` is the row it was on, or `intervention "ID"` if its trigger names none. `keys`: spec path → value before
    and after. `ended` is the step at which it was verified, released or failed; None while it is live. `recovered` is
    None if neither the journal nor the diagnosis has the answer.
    """

    symptom: str
    global_step: int
    keys: Mapping[str, Sequence[Any]]
    recovered: bool | None
    ended: int | None = None
    word: str = ""
    """Journalled end of the intervention: verified, released, failed, or over after its span."""
    rolled_back_to: str = ""
    """The checkpoint that training went back to."""
    rule: str = ""
    """The intervention, by its id."""
    did: Sequence[str] = ()
    """Further changes, as text: `update ended`."""
    turns: int = 1
    """How often a controller has turned the key; `keys` has its first value and its last."""


@dataclass(frozen=True)
class FinalLook:
    """Newest evaluation of the test split, and the number of such evaluations."""

    looks: int
    metrics: Mapping[str, float]
    sharpe_interval: Interval | None
    excess_interval: Interval | None


@dataclass(frozen=True)
class AgentSummary:
    """One agent of an experiment at the time of the report. `run` is None before its training starts."""

    name: str
    symbol: str
    state: str = "untrained"
    run: str | None = None
    global_step: int = 0
    total_timesteps: int = 0
    message: str = ""
    stopped_early: str = ""
    grade: str | None = None
    reasons: Sequence[Mapping[str, Any]] = ()
    labels: Sequence[str] = ()
    judged: Mapping[str, Any] | None = None
    """The comparison with the yardsticks, from the verdict; None in runs of an older p3kit."""
    member: edge.Member | None = field(default=None, compare=False)
    """Its candidates, for tests over several agents."""
    supervised_return: float | None = None
    scores: Scores | None = None
    deflated: Deflated | None = None
    findings: Sequence[Finding] = ()
    outcomes: Sequence[Outcome] = ()
    suppressed: Mapping[str, int] = field(default_factory=dict)
    """Symptom → how often an intervention on it was held back."""
    intervened: bool = False
    """Whether something changed how it trains: its scores are not those of its spec alone."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    patch: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    equity: Mapping[str, Any] | None = None
    retrained_in: str | None = None
    """A newer run of this agent that has no verdict yet."""
    seed: int = 1
    final: FinalLook | None = None
    point: Mapping[str, Any] = field(default_factory=dict)
    """Its point of the matrix, by spec path."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The resolved spec as it applies to this agent, as plain tables."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts about its bars in run.json: fingerprint, source, synthetic, bars_per_year; empty if there are none."""
    window: str | None = None
    """First validation day of its walk-forward window."""

    @property
    def bars_per_year(self) -> float | None:
        """Bars per year of the validation split, on which the equity curve was recorded; None without bars."""
        year = self.data.get("split_bars_per_year", {}).get("validation", self.data.get("bars_per_year"))
        return None if year is None else float(year)

    @property
    def grade_text(self) -> str:
        """`PASS`, or `PASS, intervened`; a dash before there is one."""
        return f"{self.grade or '–'}{', intervened' if self.intervened else ''}"

    @property
    def complete(self) -> bool:
        """Trained to the end, or stopped early by its own rules, and graded."""
        return self.grade is not None

    @property
    def passed(self) -> bool:
        return self.grade is not None and self.grade != "FAIL"

    @property
    def over_buy_and_hold(self) -> str:
        """`shown`, `not shown` or `not judged`."""
        return edge.label(self.judged)

    @property
    def evidence(self) -> str:
        """Evidence of an edge in its returns, as text."""
        return edge.evidence(self.grade or "", self.judged)

    def over(self, yardstick: str) -> Mapping[str, Any] | None:
        """{excess, interval, p, shown} over a yardstick; None where it was not judged."""
        return self.judged["over"].get(yardstick) if self.judged else None

    @property
    def in_words(self) -> str:
        """One plain sentence about what it earned and what that shows."""
        sharpe = self.scores.sharpe if self.scores else None
        return edge.sentence(self.grade or "", sharpe, self.judged)

    @property
    def failed_reasons(self) -> list[Mapping[str, Any]]:
        """The minimum criteria that were not met."""
        return [reason for reason in self.reasons if not reason["met"] and reason.get("set", "minimum") == "minimum"]

    @property
    def unrepaired(self) -> list[Finding]:
        """Alarms that still held at the end of the record. What an agent earns is another matter: see the grade."""
        return [finding for finding in self.alarms if finding.open and finding.symptom not in OUTCOMES]

    @property
    def alarms(self) -> list[Finding]:
        """Critical and warning rows that no other row explains."""
        return [finding for finding in self.findings if finding.alarming and finding.follows is None]

    @property
    def sharpe_text(self) -> str:
        """`Sharpe 0.42`, or `Sharpe n/a` for a policy that never traded."""
        sharpe = self.scores.sharpe if self.scores else None
        return "Sharpe n/a" if sharpe is None else f"Sharpe {sharpe:.2f}"

    @property
    def scored(self) -> Scored:
        """Its part of the headline."""
        metrics = self.scores.metrics if self.scores else {}
        hold = (self.scores.baselines if self.scores else {}).get("buy_and_hold", {})
        return Scored(
            self.name,
            edge.label(self.judged),
            metrics.get("eval/total_return"),
            hold.get("total_return"),
            metrics.get("eval/max_drawdown"),
            hold.get("max_drawdown"),
            self.window or None,
            hardly_trained=HARDLY_TRAINED in self.labels,
        )

    def sharpe_or(self, otherwise: float) -> float:
        sharpe = self.scores.sharpe if self.scores else None
        return otherwise if sharpe is None else sharpe


def summarise_agent(history: RunHistory, plan: Mapping[str, Any], retrained_in: str | None = None) -> AgentSummary:
    """One agent of one run, as known at the history's moment. `plan` is its entry in run.json."""
    name = plan["name"]
    state, message = history.state(name)
    evidence = history.evidence[name]
    evidence = replace(evidence, peers=[other for other in history.evidence.values() if other is not evidence])
    findings = judge(evidence)
    several = len(history.info["spec"].get("symbols") or []) > 1
    seen = tuple(ranges(evidence))
    diagnosis = AgentDiagnosis(
        history.run.name, name, plan["symbol"], several, evidence.last_step, evidence.total_timesteps, findings, seen
    )
    verdicts = history.since_extension(name, "verdict")
    verdict = verdicts[-1] if verdicts else {}
    scores = _chosen_scores(plan, history.of(name, "evaluation"), verdict.get("chosen_step"))
    early = history.since_extension(name, "early_stop")
    journal = [for_agent(event, name) for event in history.of(name, "intervention")]
    return AgentSummary(
        name=name,
        symbol=plan["symbol"],
        state=state,
        run=history.run.name,
        global_step=evidence.last_step,
        total_timesteps=evidence.total_timesteps,
        message=message,
        stopped_early=str(early[-1].get("reason") or "") if early else "",
        grade=verdict.get("grade"),
        reasons=verdict.get("reasons") or (),
        labels=_labels(verdict, scores),
        judged=verdict.get("judged"),
        member=_member(history, plan, verdict),
        supervised_return=verdict.get("supervised_return"),
        scores=scores,
        findings=findings,
        outcomes=_outcomes(journal, findings),
        suppressed=_suppressed(journal),
        intervened=intervened(journal),
        ranges={found.metric: found for found in seen},
        patch=merged_patch([diagnosis]),
        curves=_curves(evidence.series),
        equity=_equity(history.run, name, scores),
        retrained_in=retrained_in,
        seed=int(plan["seed"]),
        final=_final(history.of(name, "final_evaluation")),
        point=plan.get("point") or {},
        spec=plan["spec"],
        data=(history.info.get("data") or {}).get(plan["symbol"]) or {},
        window=plan.get("window"),
    )


def _labels(verdict: Mapping[str, Any], scores: Scores | None) -> list[str]:
    """The labels of the verdict, and the mode of the evaluation where it is not the one of today."""
    in_windows = scores is not None and scores.mode == "windows"
    return [*(verdict.get("labels") or ()), *(["evaluated in windows"] if in_windows else [])]


def _member(history: RunHistory, plan: Mapping[str, Any], verdict: Mapping[str, Any]) -> edge.Member:
    name, evaluations = plan["name"], history.of(plan["name"], "evaluation")
    read = partial(read_candidates, history.run, name, evaluations)
    tries = planned_over_made(plan, evaluations)
    return edge.Member(name, verdict.get("judged"), read, verdict.get("chosen_step"), tries)


def _final(events: Sequence[Mapping[str, Any]]) -> FinalLook | None:
    looks = sum("look" in event for event in events)
    found = [event for event in events if "metrics" in event]
    if not looks:
        return None
    newest: Mapping[str, Any] = found[-1] if found else {}
    return FinalLook(
        looks=looks,
        metrics=newest.get("metrics") or {},
        sharpe_interval=_interval(newest.get("sharpe_interval")),
        excess_interval=_interval(newest.get("excess_interval")),
    )


def _chosen_scores(
    plan: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], chosen_step: int | None
) -> Scores | None:
    """The evaluation that the verdict chose; before there is one, the best by Sharpe so far, else the last."""
    validation = [event for event in evaluations if event.get("split", "validation") == "validation"]
    if not validation:
        return None
    chosen = [event for event in validation if event["global_step"] == chosen_step]
    event = chosen[-1] if chosen else chosen_evaluation(plan, validation) or validation[-1]
    return Scores(
        global_step=int(event["global_step"]),
        metrics=event["metrics"],
        baselines=event.get("baselines") or {},
        sharpe_interval=_interval(event.get("sharpe_interval")),
        excess_interval=_interval(event.get("excess_interval")),
        regimes=event.get("regimes") or {},
        returns=event.get("returns"),
        mode=event.get("mode", "windows"),
    )


OSCILLATES = "intervention.oscillates"
"""The row of a key that is moved no more: nothing was on it that could have been held back."""

_ENDINGS = {"verified": True, "released": True, "failed": False}


def _outcomes(events: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> list[Outcome]:
    """Interventions that fired, each with the outcome for its symptom: from the journal, else from the diagnosis (over
    by the end of the record, or not). A change that ended after its span has no outcome of its own."""
    open_now = {finding.symptom: finding.open for finding in findings if finding.raised}
    outcomes: list[Outcome] = []
    for event in events:
        rule, decision = str(event.get("id") or ""), str(event.get("decision") or "")
        step = int(event.get("global_step") or event.get("env_step") or 0)
        mine = next((i for i in reversed(range(len(outcomes))) if outcomes[i].rule == rule), None)
        if decision == "fired" and event.get("factor") is not None and mine is not None:
            last = outcomes[mine]
            keys = {key: (last.keys.get(key, (before,))[0], after) for key, (before, after) in event["keys"].items()}
            outcomes[mine] = replace(last, keys=keys, turns=last.turns + 1)
        elif decision == "fired":
            symptom = str(event.get("row") or "").partition(":")[0] or f'intervention "{rule}"'
            outcomes.append(
                Outcome(
                    symptom=symptom,
                    global_step=step,
                    keys=event.get("keys") or {},
                    recovered=not open_now[symptom] if symptom in open_now else None,
                    rolled_back_to=str(event.get("checkpoint") or ""),
                    rule=rule,
                    did=did_in_words(event),
                )
            )
        elif decision in _ENDINGS and mine is not None and outcomes[mine].word in ("", "released", "over"):
            last = outcomes[mine]  # what was released may be verified yet
            if event.get("expired"):
                outcomes[mine] = replace(last, ended=step, word=last.word or "over")
            else:
                outcomes[mine] = replace(last, recovered=_ENDINGS[decision], ended=step, word=decision)
    return outcomes


def _suppressed(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Symptom → how often an intervention on it was held back."""
    counts: dict[str, int] = {}
    for event in events:
        if event.get("decision") in ("suppressed", "blocked") and event.get("row") != OSCILLATES:
            symptom = str(event.get("row") or "").partition(":")[0]
            counts[symptom] = counts.get(symptom, 0) + 1
    return counts


def _curves(series: Mapping[str, Recorded]) -> dict[str, Curve]:
    curves = {}
    for metric in CURVES:
        if metric in series:
            steps, values = np.asarray(series[metric].steps), np.asarray(series[metric].values)
            finite = np.isfinite(values)
            if finite.any():
                curves[metric] = (steps[finite].tolist(), values[finite].tolist())
    return curves


def _equity(run: RunDir, agent: str, scores: Scores | None) -> Mapping[str, Any] | None:
    if scores is None:
        return None
    for histogram in run.histograms("equity", agent):
        if histogram.global_step == scores.global_step:
            return histogram.data
    return None


def _interval(values: Sequence[float] | None) -> Interval | None:
    return None if values is None else (float(values[0]), float(values[1]))
