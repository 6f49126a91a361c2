"""Catalogue of symptoms: faults of a run in the words of the training guide, and the changes of the spec that fix them.

One vocabulary serves interventions (`on = "policy.hold"`), `p3kit diagnose` and the weekly report. The rows of
`PREFIX.*` are in `p3kit/symptoms/PREFIX.py`, their detectors in `p3kit/diagnose/detectors/PREFIX.py`, the actions in
the rule engine. A trigger names a symptom (`num.nan`) or one of its causes (`num.nan:observation`).

Sections are those of the training guide; "-" marks rows that come from the literature instead: Andrychowicz et al. 2020
(initial policy scale), Sokar et al. 2023 (dormant units), Moalla et al. 2024 (feature rank), "The 37 implementation
details of PPO" 2022 (ratio, KL), A. Jones, "Debugging RL, without the agonizing pain" 2021 (relative entropy).
"""

from __future__ import annotations

from p3kit.symptoms import (
    data,
    env,
    gate,
    gen,
    intervention,
    mask,
    multi,
    net,
    num,
    obs,
    opt,
    perf,
    phase,
    policy,
    ppo,
    probe,
    repro,
    reward,
    run,
    spec,
    trade,
    train,
    value,
)
from p3kit.symptoms.symptom import Cause, Change, Severity, Symptom, Value

__all__ = [
    "GUIDE_ISSUES",
    "GUIDE_WARNINGS",
    "SYMPTOMS",
    "Cause",
    "Change",
    "Severity",
    "Symptom",
    "Value",
    "is_symptom",
]

ORDER = (
    "run.slow",
    "run.oom",
    "policy.hold",
    "policy.correct_inaction",
    "train.unstable",
    "gen.gap",
    "mask.violation",
    "num.nan",
    "reward.explode",
    "value.fail",
    "reward.share",
    "reward.dead",
    "reward.corr",
    "reward.bimodal",
    "reward.one_sign",
    "reward.tail",
    "reward.rtg_flat",
    "reward.rtg_erratic",
    "trade.too_many",
    "trade.never",
    "trade.exit_early",
    "trade.hold_losers",
    "trade.drawdown",
    "phase.entropy",
    "phase.ev",
    "phase.reward",
    "policy.loss",
    "train.growth",
    "train.clip",
    "train.kl",
    "opt.grad",
    "value.mean",
    "perf.no_progress",
    "probe.env",
    "probe.forward",
    "probe.update",
    "probe.learning",
    "opt.step_too_big",
    "opt.lr_decayed",
    "net.still",
    "net.dormant",
    "net.rank",
    "net.dead_relu",
    "policy.frozen",
    "policy.uniform",
    "policy.early_entropy",
    "policy.init_scale",
    "policy.greedy_worse",
    "ppo.ratio_ne_1",
    "ppo.adv_std",
    "ppo.adv_signal",
    "reward.scale",
    "reward.hack",
    "obs.scale",
    "obs.drift",
    "spec.no_effect",
    "env.mismatch",
    "env.no_end",
    "env.duplicate",
    "data.leak",
    "data.break",
    "mask.tight",
    "multi.interference",
    "multi.outlier_agent",
    "repro.drift",
    "intervention.oscillates",
    "gate.minimum",
    "gate.strong",
    "gate.stop",
)
"""Symptom ids in the order of the troubleshooting table."""

_MODULES = (
    data,
    env,
    gate,
    gen,
    intervention,
    mask,
    multi,
    net,
    num,
    obs,
    opt,
    perf,
    phase,
    policy,
    ppo,
    probe,
    repro,
    reward,
    run,
    spec,
    trade,
    train,
    value,
)

SYMPTOMS: dict[str, Symptom] = {
    row.id: row
    for row in sorted((row for module in _MODULES for row in module.ROWS), key=lambda row: ORDER.index(row.id))
}
"""Every symptom by id, in the order of `ORDER`."""

GUIDE_ISSUES = ("run.slow", "run.oom", "policy.hold", "train.unstable", "gen.gap", "mask.violation")
"""The guide's six common issues (5.1), in its order."""

GUIDE_WARNINGS = ("num.nan", "policy.hold", "reward.explode", "value.fail")
"""The guide's four warning signs (3.2), in its order."""


def is_symptom(trigger: str) -> bool:
    """True if a trigger names a symptom (`num.nan`) or one of its causes (`num.nan:observation`)."""
    symptom_id, _, cause_id = trigger.partition(":")
    if symptom_id not in SYMPTOMS:
        return False
    return not cause_id or any(cause.id == cause_id for cause in SYMPTOMS[symptom_id].causes)
