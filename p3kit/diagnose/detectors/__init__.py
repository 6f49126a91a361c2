"""Detectors by symptom id: pure functions of recorded metrics, filed by the prefix of the id.

The detectors of `PREFIX.*` are in `PREFIX.py`, their rows of the troubleshooting table in `p3kit/symptoms/PREFIX.py`.

Thresholds are calibrated so that healthy runs raise nothing. The guide's own, taken literally, raise five or six alarms
on each healthy run: explained variance is below 0 at the first update, and the noise of the market bounds it after
that. The guide's words stay as labels. Its numbers are read with their units: an entropy of 1.5 nats is impossible with
four valid actions (ln 4 is 1.39), healthy clip fractions are 0.00 to 0.10, a phase is a fraction of training.

The worst faults look healthy in the usual metrics. A learning rate of 3e-2 shows in KL, clip fraction, explained
variance and gradient norm much as a healthy one does. It shows in the change of the weights, in dormant units and in
rank.
"""

from p3kit.diagnose.detectors import (  # noqa: F401  (they register themselves)
    data,
    env,
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
    repro,
    reward,
    run,
    spec,
    trade,
    train,
    value,
)
from p3kit.diagnose.registry import REGISTERED

__all__ = ["DETECTORS"]

ORDER = (
    "spec.no_effect",
    "env.mismatch",
    "net.still",
    "multi.interference",
    "multi.outlier_agent",
    "repro.drift",
    "intervention.oscillates",
    "reward.share",
    "reward.dead",
    "reward.one_sign",
    "reward.tail",
    "reward.corr",
    "reward.bimodal",
    "reward.rtg_flat",
    "reward.rtg_erratic",
    "trade.too_many",
    "trade.never",
    "trade.drawdown",
    "phase.entropy",
    "phase.ev",
    "train.growth",
    "train.clip",
    "train.kl",
    "opt.grad",
    "value.mean",
    "perf.no_progress",
    "trade.exit_early",
    "trade.hold_losers",
    "phase.reward",
    "policy.loss",
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
    "opt.step_too_big",
    "opt.lr_decayed",
    "net.dormant",
    "net.rank",
    "policy.frozen",
    "policy.uniform",
    "policy.early_entropy",
    "policy.init_scale",
    "policy.greedy_worse",
    "ppo.ratio_ne_1",
    "ppo.adv_std",
    "ppo.adv_signal",
    "reward.scale",
    "obs.scale",
    "env.no_end",
    "data.leak",
    "data.break",
    "mask.tight",
    "net.dead_relu",
    "reward.hack",
    "obs.drift",
    "env.duplicate",
)
"""Symptom ids in the order of `DETECTORS`. Of several raised rows that may explain one of `FOLLOW_ANY`, the first one
does. `catalogue_version` depends on this order."""

DETECTORS = dict(sorted(REGISTERED.items(), key=lambda item: ORDER.index(item[0])))
"""Every detector by symptom id."""
