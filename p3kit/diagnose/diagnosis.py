"""From a run directory to its diagnosis: gather the evidence, run every detector, rank, and compute the patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from p3kit.diagnose.detectors import DETECTORS
from p3kit.diagnose.evidence import TICK, Evidence, Recorded
from p3kit.diagnose.findings import SEVERITIES, AgentDiagnosis, Finding, Range, SpecChange, row_numbers
from p3kit.diagnose.journal import changes_training, for_agent, intervened
from p3kit.diagnose.registry import Row, about_trading
from p3kit.errors import P3kitError
from p3kit.rundir import RunDir, concerns, list_runs
from p3kit.spec.writing import patch_toml
from p3kit.symptoms import SYMPTOMS, Change, Value

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "phase.entropy": (
        "policy.hold",
        "policy.correct_inaction",
        "policy.early_entropy",
        "policy.uniform",
        "policy.frozen",
    ),
    "policy.early_entropy": ("policy.hold", "opt.step_too_big", "train.kl", "policy.init_scale", "obs.scale"),
    "policy.uniform": (
        "policy.frozen",
        "ppo.adv_std",
        "ppo.adv_signal",
        "reward.tail",
        "reward.scale",
    ),
    "env.mismatch": (
        "spec.no_effect",
        "mask.violation",
        "mask.tight",
        "ppo.ratio_ne_1",
        "env.no_end",
        "num.nan",
    ),  # these name one field of it
    "net.still": ("net.dead_relu", "ppo.adv_std", "num.nan"),
    "train.growth": ("opt.step_too_big", "train.kl", "reward.explode", "reward.scale", "reward.tail", "obs.scale"),
    "reward.tail": ("reward.explode", "ppo.adv_std", "reward.share"),
    "reward.one_sign": ("ppo.adv_std",),
    "ppo.adv_signal": ("ppo.adv_std", "obs.scale", "reward.tail", "reward.scale"),
    "policy.frozen": ("opt.lr_decayed", "ppo.adv_std", "net.dead_relu", "net.dormant", "reward.tail", "reward.scale"),
    "policy.hold": ("opt.step_too_big", "ppo.adv_signal", "mask.tight"),
    "phase.ev": ("value.fail",),
    "phase.reward": ("gen.gap", "reward.hack", "opt.step_too_big", "train.kl"),
    "reward.share": ("reward.hack",),
    "reward.explode": ("reward.hack",),
    "value.fail": (
        "policy.frozen",
        "opt.step_too_big",
        "reward.scale",
        "reward.tail",
        "reward.share",
        "ppo.adv_std",
        "obs.scale",
        "env.duplicate",
        "net.still",
    ),
    "value.mean": ("value.fail", "reward.scale", "reward.explode"),
    "trade.never": ("policy.hold", "policy.correct_inaction", "policy.frozen", "reward.share"),
    "reward.dead": ("policy.hold", "policy.correct_inaction"),
    "net.dead_relu": ("opt.step_too_big",),
    "net.dormant": ("opt.step_too_big", "net.dead_relu"),
    "net.rank": (
        "opt.step_too_big",
        "net.dormant",
        "policy.hold",
        "reward.hack",
        "reward.explode",
        "reward.share",
        "reward.scale",
    ),
    "reward.bimodal": ("reward.hack", "reward.explode", "reward.share", "reward.tail", "reward.scale"),
    "reward.corr": ("reward.hack", "reward.explode", "reward.share", "reward.tail", "ppo.adv_std"),
    "train.kl": ("opt.step_too_big",),
    "train.clip": ("opt.step_too_big", "train.kl", "reward.hack", "reward.explode"),
    "opt.grad": ("reward.scale", "reward.tail", "obs.scale", "num.nan", "reward.hack", "reward.explode", "reward.corr"),
    "train.unstable": ("opt.step_too_big", "train.kl", "reward.explode", "env.duplicate"),
    "reward.hack": ("reward.corr",),
    "reward.scale": ("reward.tail", "ppo.adv_std"),
    "gen.gap": ("data.leak", "opt.step_too_big", "train.kl", "train.clip", "reward.scale", "reward.tail"),
    "perf.no_progress": ("gen.gap",),
    "trade.drawdown": ("gen.gap",),
    "trade.too_many": ("reward.corr", "reward.share", "reward.hack", "ppo.adv_signal", "reward.scale"),
}
"""Which raised row explains which other one, the nearest explanation first. `FOLLOW_ANY` may follow any of them."""

FOLLOW_ANY = ("perf.no_progress", "phase.reward", "trade.never", "trade.drawdown", "multi.outlier_agent")

EXACT = (
    "num.nan",
    "run.oom",
    "spec.no_effect",
    "env.mismatch",
    "mask.violation",
    "ppo.ratio_ne_1",
    "ppo.adv_std",
    "net.still",
)
"""Rows that are true or false for any policy. Statistics at the same time or later are a consequence."""

LAYERS: Mapping[str, int] = {
    **dict.fromkeys(("data", "env", "mask", "obs", "reward"), 1),
    **dict.fromkeys(("opt", "train", "ppo", "net", "value", "num"), 2),
    "policy": 3,
    **dict.fromkeys(("trade", "gen", "perf", "phase", "multi"), 4),
}
"""Order of causes by the prefix of a row: inputs and rewards, then the update, the policy, the outcome. A row follows
from one of an earlier layer that began a tick or more before it."""

CATALOGUE = "p3kit@1"
"""The rule pack, as `diagnose.catalogue` names it."""

SHOWN_RANGES = (
    "policy/entropy",
    "policy/entropy_norm",
    "policy/kl_divergence",
    "policy/clip_fraction",
    "value/explained_variance",
    "grad/grad_norm",
    "policy/hold_share",
    "reward/episode_share.pnl",
    "episode/episode_reward_mean",
    "eval/sharpe_ratio",
    "eval/max_drawdown",
    "perf/steps_per_second",
)
"""The ranges that a clean bill of health and the weekly report show."""


_OF_TRADING = ("policy/hold_share", "reward/episode_share.pnl", "eval/sharpe_ratio", "eval/max_drawdown")

Rules = Mapping[str, Mapping[str, Any]]
"""Thresholds by symptom: {"policy.hold": {"warn": 0.9, "patience": 5}}, over those of the spec and of the catalogue."""


def diagnose(run: RunDir, agent: str | None = None, rules: Rules | None = None) -> list[AgentDiagnosis]:
    """Judge every agent of a run, or one. Reads files only; a run may still be training.

    With `rules` the recorded metrics are judged with other thresholds: nothing is trained again.
    """
    info, status = run.info(), run.status()
    plans = {plan["name"]: plan for plan in info["agents"]}
    symbols = info["spec"].get("symbols") or []
    every = [
        AgentDiagnosis(
            run=run.name,
            agent=evidence.agent,
            symbol=plans[evidence.agent]["symbol"],
            several_symbols=len(symbols) > 1,
            global_step=evidence.last_step,
            total_timesteps=evidence.total_timesteps,
            findings=judge(evidence),
            ranges=tuple(ranges(evidence)),
            failure=f"{status['state']}: {status['message']}" if ended_badly(status) else "",
            intervened=intervened(evidence.events_of("intervention")),
        )
        for evidence in gather_run(run, rules=rules)
    ]
    numbers = row_numbers(every)  # over all agents, also for one of them
    return [replace(one, numbers=numbers) for one in every if agent in (None, one.agent)]


def gather_run(run: RunDir, agent: str | None = None, rules: Rules | None = None) -> list[Evidence]:
    """The records of a run's agents, or of one, each beside those of the others and of earlier runs like this one."""
    info, status, events = run.info(), run.status(), run.read_events()
    everyone = {
        plan["name"]: gather_evidence(run.series(plan["name"]), plan, info, status, events, rules)
        for plan in info["agents"]
    }
    wanted = everyone if agent is None else {name: one for name, one in everyone.items() if name == agent}
    twins = twin_runs(run)
    return [
        replace(
            evidence,
            peers=[other for other in everyone.values() if other is not evidence],
            twins=[(twin.name, twin.series(name)) for twin in twins],
        )
        for name, evidence in wanted.items()
    ]


def twin_runs(run: RunDir) -> list[RunDir]:
    """Other runs in the same folder that should begin with the same numbers, oldest first: one spec, seeds, data,
    trainer, commit and versions. Empty where the code had changes that no commit holds."""
    own = _identity(run)
    if own is None or str(run.info().get("git_commit")).endswith("+changes"):
        return []
    others = [other for other in list_runs(run.path.parent) if other.path != run.path]
    return [other for other in others if _identity(other) == own]


def _identity(run: RunDir) -> Any:
    """Identity of everything that decides a run's numbers; None for a damaged one, which `p3kit runs` names."""
    try:
        info = run.info()
        code = run.trainer_file.read_bytes()
    except (P3kitError, OSError):
        return None
    fingerprints = {symbol: data.get("fingerprint") for symbol, data in (info.get("data") or {}).items()}
    agents = [(plan["name"], plan["spec"], plan["total_timesteps"]) for plan in info["agents"]]
    return agents, fingerprints, info.get("git_commit"), info.get("versions"), info.get("env_id"), code


def gather_evidence(
    series: Mapping[str, Recorded],
    plan: Mapping[str, Any],
    info: Mapping[str, Any],
    status: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    rules: Rules | None = None,
) -> Evidence:
    """The record of one agent; `plan` is its entry in run.json. Events without an agent belong to all."""
    name, spec = plan["name"], plan["spec"]
    if rules:
        table = spec.get("diagnose") or {}
        rows = table.get("rows") or {}
        merged = {**rows, **{row: {**(rows.get(row) or {}), **numbers} for row, numbers in rules.items()}}
        spec = {**spec, "diagnose": {**table, "rows": merged}}
    return Evidence(
        agent=name,
        series=series,
        spec=spec,
        total_timesteps=int(plan["total_timesteps"]),
        events=[for_agent(event, name) for event in events if concerns(event, name)],
        device=str(info.get("device") or "cpu"),
        task=str(info.get("env_id") or ""),
        failure=str(status.get("message") or "") if ended_badly(status) else "",
    )


def ended_badly(status: Mapping[str, Any]) -> bool:
    """Return True if the run failed or crashed."""
    return status.get("state") in ("failed", "crashed")


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Every row of the catalogue that has a detector: raised rows first, the worst and earliest on top. Rows about
    trading are left out for a task that is no market."""
    rows = {symptom: row for symptom, row in DETECTORS.items() if not (evidence.task and about_trading(symptom))}
    findings = {symptom: _beside_own_changes(row, evidence) for symptom, row in rows.items()}
    raised = {symptom: finding for symptom, finding in findings.items() if finding.raised}
    explained = explanations(raised)
    judged = [
        _with_patch(replace(finding, follows=explained[symptom]), evidence) if finding.raised else finding
        for symptom, finding in findings.items()
    ]
    return tuple(sorted(judged, key=_order))


OWN_CHANGE = 3 * TICK
"""Env steps in which a row can be the mere effect of an intervention."""


def _beside_own_changes(row: Row, evidence: Evidence) -> Finding:
    """Judge a row. One that begins right after an intervention is judged by the record after that alone, so that the
    change itself is no symptom."""
    finding = row(evidence)
    begin = finding.since_step
    if not finding.raised or begin is None or finding.window == "exact":
        return finding
    changes = [int(event["global_step"]) for event in evidence.events_of("intervention") if changes_training(event)]
    last = max((step for step in changes if step < begin <= step + OWN_CHANGE), default=None)
    return finding if last is None else row(evidence.since(last))


@cache
def catalogue_version() -> str:
    """The rule pack and a fingerprint of its numbers and words: two equal ones judge alike."""
    rows = [[r.symptom, r.needs, r.warn, r.critical, r.minimum, r.patience, r.unit] for r in DETECTORS.values()]
    text = repr([rows, list(SYMPTOMS.values())])
    return f"{CATALOGUE}+{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _order(finding: Finding) -> tuple[Any, ...]:
    catalogue = list(SYMPTOMS).index(finding.symptom)
    if not finding.raised:
        return (1, 0, 0, 0, catalogue)
    return (0, finding.follows is not None, SEVERITIES.index(finding.severity), finding.since_step or 0, catalogue)


def explanations(raised: Mapping[str, Finding]) -> dict[str, str | None]:
    """The raised row that explains each raised row, or None for a root. The way from any row ends at a root, and that
    from an alarming row at an alarming one."""
    found = {symptom: _explanation(finding, raised) for symptom, finding in raised.items()}
    for symptom in found:
        way = [symptom]
        while (above := found[way[-1]]) is not None and above not in way:
            way.append(above)
        if above is not None:  # a circle: the row that began first is its root
            circle = way[way.index(above) :]
            found[min(circle, key=lambda name: (raised[name].since_step or 0, _layer(name), name))] = None
    return found


def _explanation(finding: Finding, raised: Mapping[str, Finding]) -> str | None:
    """The raised row that explains this one: a named ancestor that began no more than two ticks after it, then an exact
    row, then the earliest row of an earlier layer. Information explains no alarm."""
    named: Iterable[str] = FOLLOWS.get(finding.symptom, ())
    if finding.symptom in FOLLOW_ANY:
        roots = [name for name, other in raised.items() if other.alarming and name not in OUTCOMES]
        named = [*named, *roots]
    exact = [] if finding.symptom in EXACT else [name for name in EXACT if name in raised and raised[name].alarming]
    for name in [*named, *exact]:
        root = raised.get(name)
        if root is None or (finding.alarming and not root.alarming) or finding.symptom in FOLLOWS.get(name, ()):
            continue
        if (root.since_step or 0) <= (finding.since_step or 0) + 2 * TICK:
            return name
    return _earlier_layer(finding, raised)


def _earlier_layer(finding: Finding, raised: Mapping[str, Finding]) -> str | None:
    """The alarming row of an earlier layer that began first, and a tick or more before this one."""
    layer = _layer(finding.symptom)
    earlier = [
        other
        for name, other in raised.items()
        if other.alarming and _layer(name) < layer and (other.since_step or 0) + TICK <= (finding.since_step or 0)
    ]
    return min(earlier, key=lambda other: other.since_step or 0).symptom if earlier else None


def _layer(symptom: str) -> float:
    """The layer of a row; infinite where it takes no part in the order."""
    return LAYERS.get(symptom.partition(".")[0], np.inf)


OUTCOMES = (
    "perf.no_progress",
    "phase.reward",
    "gen.gap",
    "trade.never",
    "trade.too_many",
    "trade.exit_early",
    "trade.hold_losers",
    "trade.drawdown",
    "multi.outlier_agent",
    "run.slow",
)
"""Rows about results and resources: they explain no other row."""


def _with_patch(finding: Finding, evidence: Evidence) -> Finding:
    """Add the changes of the likeliest cause, worked out from the values that were in force when it began."""
    if not finding.causes:
        return finding
    changes = changes_for(finding, finding.causes[0].id, evidence)
    return replace(finding, changes=changes, patch=patch_toml({change.path: change.after for change in changes}))


def changes_for(finding: Finding, cause_id: str, evidence: Evidence) -> tuple[SpecChange, ...]:
    """Changes to the run's spec for one cause of a finding."""
    found: dict[str, SpecChange] = {}
    for change in SYMPTOMS[finding.symptom].cause(cause_id).changes:
        if finding.factor is not None and change.by is not None:
            change = replace(change, by=finding.factor)
        for made in spec_changes(change, evidence, finding.since_step, finding.component):
            found[made.path] = made
    return tuple(found.values())


def spec_changes(
    change: Change, evidence: Evidence, step: int | None = None, component: str | None = None
) -> list[SpecChange]:
    """Keys and values to write into the spec for a change. If the value follows a schedule, the schedule changes by the
    same factor, since it overrides a plain value. Empty where nothing would change."""
    path = change.path.format(component=component or "time")
    current = evidence.effective(path, step)
    number = current if isinstance(current, (int, float)) and not isinstance(current, bool) else None
    if change.by is not None and number is None and current is not None:
        return []  # a word such as "off" cannot be scaled
    after = change.applied(number if change.by is not None or number is not None else None)
    if change.by is None and current == change.to:
        after = None
    if path == "ppo.batch_size" and isinstance(after, int):
        rollout = (evidence.setting("ppo.n_steps") or after) * (evidence.setting("env.num_envs") or 1)
        after = min(after, int(rollout)) if min(after, int(rollout)) != current else None
    if after is None:
        return []
    schedule = (evidence.setting("schedules") or {}).get(path)
    if isinstance(schedule, Mapping) and isinstance(after, (int, float)) and number:
        return _scaled_schedule(path, schedule, float(after) / float(number))
    return [SpecChange(path, current, after)]


def _scaled_schedule(path: str, schedule: Mapping[str, Any], factor: float) -> list[SpecChange]:
    """The numbers of a schedule times `factor`. A piecewise one is left to the user: it has no single start."""
    table = f'schedules."{path}"'
    return [
        SpecChange(f"{table}.{key}", schedule[key], float(f"{schedule[key] * factor:.3g}"))
        for key in ("value", "start", "end")
        if isinstance(schedule.get(key), (int, float))
    ]


def ranges(evidence: Evidence) -> Iterable[Range]:
    """Ranges of the shown metrics over the whole record."""
    for metric in SHOWN_RANGES:
        if evidence.task and metric in _OF_TRADING:
            continue
        ticks = evidence.evaluations(metric) if metric.startswith("eval/") else evidence.ticks(metric)
        if len(ticks):
            yield Range(metric, float(np.min(ticks.values)), float(np.max(ticks.values)), float(ticks.values[-1]))


def merged_patch(diagnoses: Sequence[AgentDiagnosis]) -> str:
    """The patches of several agents as one TOML fragment; each agent's under its own `[agents.SYMBOL]` where the spec
    has several symbols. Of two agents of one symbol the first one's value is kept."""
    merged: dict[tuple[str | None, str], Value] = {}
    for diagnosis in diagnoses:
        symbol = diagnosis.symbol if diagnosis.several_symbols else None
        for finding in diagnosis.findings:
            if finding.alarming and finding.follows is None:
                for change in finding.changes:
                    merged.setdefault((symbol, change.path), change.after)
    symbols = dict.fromkeys(symbol for symbol, _ in merged)
    parts = [patch_toml({path: v for (owner, path), v in merged.items() if owner == s}, s) for s in symbols]
    return "\n\n".join(parts)
