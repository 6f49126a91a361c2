# ruff: noqa: E501  (a catalogue reads best with one fact per line)
"""The catalogue of symptoms: what can go wrong in a run, in the training guide's words, and what to change in the spec.

One vocabulary serves interventions (`on = "policy.hold"`), `p3kit diagnose` and the weekly report. This module is data:
the detectors live in `p3kit.diagnose`, the actions in the trainers' runtime. A trigger may name a symptom (`num.nan`) or
one of its causes (`num.nan:observation`).

Sections are those of the training guide; "-" marks rows that come from the literature instead: Andrychowicz et al. 2020
(initial policy scale), Sokar et al. 2023 (dormant units), Moalla et al. 2024 (feature rank), "The 37 implementation
details of PPO" 2022 (ratio, KL), A. Jones, "Debugging RL, without the agonizing pain" 2021 (relative entropy).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "information", "gate"]
"""critical: the run is lost or its numbers are invalid · warning · information · gate: a criterion, judged by the verdict."""

Value = float | int | str
"""A value that a patch writes into a spec."""


@dataclass(frozen=True)
class Change:
    """One edit of a spec value: either `to` a value, or scaled `by` a factor and kept within [at_least, at_most].

    `path` may hold `{component}`, the reward component that the evidence names. `usual` is the guide's value, from which
    the catalogue's example is computed; a finding computes from the value that the run really used.
    """

    path: str
    to: Value | None = None
    by: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    usual: float = 0.0

    def applied(self, current: float | int | None) -> Value | None:
        """The value after the change; None where the change would do nothing (the bound is already reached)."""
        if self.by is None:
            return self.to if self.to != current else None
        start = self.usual if current is None else current
        after = start * self.by
        if self.at_most is not None:
            after = min(after, max(self.at_most, start) if self.by > 1 else self.at_most)
        if self.at_least is not None:
            after = max(after, min(self.at_least, start) if self.by < 1 else self.at_least)
        if isinstance(start, int):
            return round(after) if round(after) != start else None
        after = float(f"{after:.3g}")
        return after if after != start else None


@dataclass(frozen=True)
class Cause:
    """One explanation of a symptom. `changes` is empty where a spec cannot mend it."""

    id: str
    meaning: str
    changes: tuple[Change, ...] = ()
    automatic: bool = True
    """Whether an intervention may act on this cause by itself."""


@dataclass(frozen=True)
class Symptom:
    """One row of the troubleshooting table.

    `title` keeps the guide's words, `evidence` says what is measured against what, `automatic` whether an automatic
    repair is allowed at all, `judged` whether recorded metrics are judged for it: the `probe.` rows are answered by
    `p3kit check` before training, the gates by each verdict.
    """

    id: str
    title: str
    section: str
    severity: Severity
    evidence: str
    causes: tuple[Cause, ...] = ()
    automatic: bool = False
    judged: bool = False
    departure: str = ""
    """Where the row is judged otherwise than the guide says, and why. Empty where the guide is followed."""

    @property
    def patch(self) -> str:
        """The catalogue's example of a repair: the first cause that a spec can mend, from the guide's values. May be ""."""
        for cause in self.causes:
            values = {change.path.format(component="time"): change.applied(None) for change in cause.changes}
            if values:
                return write_patch({path: value for path, value in values.items() if value is not None})
        return ""

    def cause(self, cause_id: str) -> Cause:
        """The cause of that name; KeyError when the catalogue has none."""
        for cause in self.causes:
            if cause.id == cause_id:
                return cause
        raise KeyError(f"{self.id} has no cause {cause_id!r}")


def write_patch(values: Mapping[str, Value], agent_symbol: str | None = None) -> str:
    """TOML of spec values by dotted path, as a fragment to copy; under `[agents.SYMBOL]` when a symbol is given.

    >>> print(write_patch({"ppo.ent_coef": 0.05, "ppo.learning_rate": 1e-4}))
    [ppo]
    ent_coef = 0.05
    learning_rate = 0.0001
    """
    tables: dict[str, list[str]] = {}
    for path, value in values.items():
        table, _, key = path.rpartition(".")
        if agent_symbol is not None:
            table = f"agents.{_toml_key(agent_symbol)}.{table}"
        tables.setdefault(table, []).append(f"{key} = {json.dumps(value)}")
    return "\n\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items())


def _toml_key(name: str) -> str:
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else json.dumps(name)


# Changes that several rows share, each named by what it does.
_LOWER_LR = Change("ppo.learning_rate", by=0.33, at_least=1e-5, usual=3e-4)
_HALVE_LR = Change("ppo.learning_rate", by=0.5, at_least=1e-5, usual=3e-4)
_TENTH_LR = Change("ppo.learning_rate", by=0.1, at_least=1e-5, usual=3e-4)
_GUIDE_LR = Change("ppo.learning_rate", to=3e-4)
_CLIP_GRADIENTS = Change("ppo.max_grad_norm", to=0.3)
_CLIP_REWARD = Change("reward.clip", to=5.0)
_CLIP_OBSERVATION = Change("observation.clip", to=10.0)
_SCALE_REWARD = Change("reward.scaling", to="running")
_MORE_ENTROPY = Change("ppo.ent_coef", by=5.0, at_least=0.05, at_most=0.10, usual=0.01)
_LESS_ENTROPY = Change("ppo.ent_coef", by=0.1, at_least=0.001, usual=0.01)
_LOWER_COST = Change("reward.weights.cost", by=0.33, at_least=0.03, usual=0.15)
_LARGER_BATCH = Change("ppo.batch_size", by=2, usual=64)
_HALVE_BATCH = Change("ppo.batch_size", by=0.5, at_least=8, usual=64)
_ACCUMULATE = Change("ppo.accumulation_steps", by=2, usual=1)
_HALVE_ENVS = Change("env.num_envs", by=0.5, at_least=1, usual=8)
_MORE_ENVS = Change("env.num_envs", by=2, usual=8)
_HALVE_EPOCHS = Change("ppo.n_epochs", by=0.5, at_least=1, usual=10)
_STOP_AT_KL = Change("ppo.target_kl", to=0.02)
_RAISE_VF = Change("ppo.vf_coef", to=1.0)
_HUBER = Change("ppo.value_loss", to="huber")
_SHRINK_COMPONENT = Change("reward.weights.{component}", by=0.33, at_least=0.01, usual=0.15)
_SILENCE_COMPONENT = Change("reward.weights.{component}", by=0.2, at_least=0.01, usual=0.15)


def _catalogue() -> dict[str, Symptom]:
    rows = [
        # --- the guide's six issues (5.1) and four warning signs (3.2) ---
        Symptom(
            "run.slow",
            "Slow Training",
            "5.1",
            "information",
            "perf/steps_per_second below 100",
            (
                Cause("update_bound", "gradient steps take most of the time", (_LARGER_BATCH,), automatic=False),
                Cause(
                    "env_bound",
                    "the rollout takes most of the time; more batched accounts per step are nearly free",
                    (_MORE_ENVS,),
                    automatic=False,
                ),
                Cause(
                    "evaluation_bound",
                    "evaluations take most of the time",
                    (Change("evaluation.every", by=2, usual=5000),),
                    automatic=False,
                ),
            ),
            judged=True,
            departure="The guide's remedy, fewer environments, is for one process per environment. Here accounts are rows of "
            "one batch: more of them are nearly free, fewer make training slower.",
        ),
        Symptom(
            "run.oom",
            "OOM (Out of Memory)",
            "5.1",
            "critical",
            "the allocator refused, or the process was ended for its memory (event `oom`)",
            (
                Cause(
                    "minibatch",
                    "the minibatch does not fit; the same gradient from half the rows at a time",
                    (_HALVE_BATCH, _ACCUMULATE),
                ),
                Cause("rollout", "the rollout buffer does not fit", (_HALVE_ENVS,), automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "policy.hold",
            "Degenerate Policy: premature convergence (all HOLD)",
            "3.2, 5.1",
            "critical",
            "policy/hold_share above 0.95 and policy/entropy_norm below 0.15 before 80% of training",
            (
                Cause("ent_coef_low", "the entropy bonus is too weak to keep exploration alive", (_MORE_ENTROPY,)),
                Cause("penalty_dominates", "penalties outweigh profit: the reward favours inaction", (_LOWER_COST,)),
                Cause("mask_tight", "the mask leaves little but HOLD", automatic=False),
            ),
            automatic=True,
            judged=True,
            departure="The guide's numbers (99% HOLD, 0.1 nats) come too late to mend anything, and nats depend on how many "
            "actions are valid: 95% and 0.15 of the largest possible entropy are asked. Its bonus of 0.01 per action that is not "
            "HOLD pays for churn whatever is earned; `reward.action_bonus` exists, and no patch proposes it.",
        ),
        Symptom(
            "policy.correct_inaction",
            "All HOLD, and HOLD is right",
            "3.2",
            "information",
            "the policy holds, and no fixed rule made money on the validation split after costs",
            (Cause("no_edge", "no fixed rule earns its costs in this market", automatic=False),),
            judged=True,
        ),
        Symptom(
            "train.unstable",
            "Unstable Training",
            "5.1",
            "warning",
            "the mean episode reward swings from tick to tick by more than 3 of its sampling errors, to and fro",
            (
                Cause("step_size", "KL is high: the steps are too large", (_LOWER_LR, _LARGER_BATCH)),
                Cause("reward_scale", "rewards are not normalised", (_SCALE_REWARD,)),
                Cause("noise", "KL is normal: the episodes themselves are noisy", (_MORE_ENVS,), automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "gen.gap",
            "Poor Generalization",
            "5.1",
            "warning",
            "training Sharpe above validation Sharpe by more than 1.5, by three standard errors and by more than buy-and-hold's own "
            "gap, and validation below 40% of training, twice in a row after 30% of training",
            (
                Cause(
                    "overfit",
                    "the gap grew while training went on",
                    (Change("early_stop.patience", to=3), Change("ppo.weight_decay", to=0.001)),
                    automatic=False,
                ),
                Cause("shift", "the gap was there at the first evaluation: the two periods differ", automatic=False),
            ),
            judged=True,
            departure="Dropout, the guide's first remedy, breaks the ratio of PPO unless rollout and update drop the same units "
            "(they do here); stopping early and weight decay come first.",
        ),
        Symptom(
            "mask.violation",
            "Action Masking Errors",
            "5.1",
            "critical",
            "a masked action was selected (exact)",
            (
                Cause(
                    "mask_not_applied",
                    "the policy was not given the mask of its own state: a fault of the trainer",
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "num.nan",
            "NaN Losses",
            "3.2",
            "critical",
            "a number that is not finite in observation, reward, loss, gradient or weights; the first one decides the cause",
            (
                Cause("explosion", "gradients exploded (norm above 100) before it", (_LOWER_LR, _CLIP_GRADIENTS)),
                Cause("outlier", "|reward| was above 1,000 before it", (_CLIP_REWARD, _LOWER_LR)),
                Cause("observation", "an observation was not finite: data or environment", automatic=False),
                Cause("reward", "a reward was not finite: reward shaper or data", automatic=False),
                Cause(
                    "numerics",
                    "values overflowed without a warning in gradients or rewards",
                    (_LOWER_LR, _CLIP_GRADIENTS, _CLIP_OBSERVATION),
                ),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "reward.explode",
            "Exploding Rewards",
            "3.2",
            "critical",
            "reward/total jumps by more than 8 robust standard deviations of its last 10 ticks, and stays",
            (
                Cause(
                    "hack",
                    "one component carries the jump and the account does not gain: an exploit",
                    (_SILENCE_COMPONENT,),
                ),
                Cause("legitimate", "the account gains as much: a strategy, not an exploit", automatic=False),
                Cause("scale", "the raw reward did not move: the scaling broke", (_SCALE_REWARD, _CLIP_REWARD)),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "value.fail",
            "Value Function Collapse",
            "1.2, 3.2, 6.1",
            "warning",
            "value/explained_variance never above 0.08 in 5 ticks, and below a ridge reference above 0.08 by more than 0.1 (or never above "
            "-0.5 in the 3 ticks after the first), while the policy does more than HOLD; or no episode ended by 20% of training, "
            "within a horizon of gamma longer than that",
            (
                Cause("reward_scale", "returns are too large or too small for the value head", (_SCALE_REWARD, _HUBER)),
                Cause(
                    "non_stationary",
                    "the level of the returns moves faster than the value head follows",
                    (_SCALE_REWARD, _RAISE_VF),
                ),
                Cause("vf_coef_low", "the value loss has too little weight", (_RAISE_VF, _LARGER_BATCH)),
                Cause(
                    "unanchored",
                    "no end and no discount fix the level of the value: its targets are its own guesses",
                    (Change("ppo.gamma", to=0.99),),
                ),
            ),
            automatic=True,
            judged=True,
            departure="Explained variance is below 0 at the first update of every healthy run, and its ceiling is set by the "
            "noise of the market: a ridge fit on the same batch takes the place of 0. The guide's clamp of the value loss at 10 "
            'has no gradient above 10, where it is needed most: `value_loss = "huber"` bounds the gradient and keeps it.',
        ),
        # --- further rows of the guide ---
        Symptom(
            "reward.share",
            "One reward component dominates (PnL should be 40-50%)",
            "2.2, 2.4",
            "warning",
            "reward/episode_share of a component other than pnl above 0.5, or up by more than 0.15 since the start",
            (
                Cause("weights", "so from the start: weights or units", (_SHRINK_COMPONENT,), automatic=False),
                Cause(
                    "component_drift",
                    "the share grew while training: the agent farms this component",
                    (_SHRINK_COMPONENT,),
                ),
            ),
            automatic=True,
            judged=True,
            departure="The guide's weights sum to 0.90, and under its own ranges (time ±1, sharpe ±2, pnl ±0.1) pnl cannot "
            "reach 40-50%. Under the sound formulas pnl carries 75-95%, which is what a reward that means money looks like; the "
            "warning is for another component that carries more than half.",
        ),
        Symptom(
            "reward.dead",
            "A reward component is always zero",
            "2.4",
            "information",
            "a component with a weight above 0 was exactly 0 for the whole window",
            (
                Cause("no_trades", "the condition that pays it was never met: nothing was traded", automatic=False),
                Cause("never_fired", "trades were closed and it still paid nothing", automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "reward.corr",
            "PnL and Sharpe components should correlate",
            "2.4",
            "warning",
            "rank correlation over 30 episodes of reward and equity won below 0.3 twice (or by 2.5 standard errors once), or of the "
            "pnl and sharpe components below 0.2 by two standard errors while reward and equity won correlate below 0.8",
            (
                Cause(
                    "proxy",
                    "episodes that win equity are not the ones that win reward: something other than money is paid",
                    (Change("reward.weights.pnl", to=0.6),),
                    automatic=False,
                ),
                Cause("sharpe", "the Sharpe component pays for something other than profit", automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "reward.bimodal",
            "Bimodal rewards (reward hacking)",
            "2.4",
            "warning",
            "two modes more than 3 pooled standard deviations apart within one event class",
            (Cause("second_mode", "one kind of step is paid in two ways", automatic=False),),
            judged=True,
        ),
        Symptom(
            "reward.one_sign",
            "Rewards all positive or all negative",
            "2.4",
            "warning",
            "reward/positive_share above 0.999 or below 0.001 while rewards vary",
            (
                Cause("offset", "a constant offset outweighs the variation", automatic=False),
                Cause(
                    "penalties",
                    "penalties sum to more than the profit component",
                    (_LOWER_COST, Change("reward.weights.drawdown", by=0.5, at_least=0.02, usual=0.10)),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "reward.tail",
            "Long tail of rewards: outliers need clipping",
            "2.4",
            "warning",
            "reward/max_abs above 40 standard deviations (critical above 1,000 in absolute terms)",
            (
                Cause(
                    "outlier",
                    "single steps dwarf the rest: a price spike or one component",
                    (_SCALE_REWARD, _CLIP_REWARD),
                ),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "reward.rtg_flat",
            "Reward-to-go is flat",
            "2.4",
            "warning",
            "spread of the mean reward-to-go over the episode below 5% of its spread in all, with an explained variance "
            "below 0.1",
            (
                Cause("constant", "rewards hardly vary", automatic=False),
                Cause(
                    "gamma_low",
                    "the horizon is short beside the episode",
                    (Change("ppo.gamma", to=0.99),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "reward.rtg_erratic",
            "Reward-to-go is erratic",
            "2.4",
            "information",
            "lag-1 autocorrelation of the reward-to-go below gamma - 0.1",
            (Cause("noise", "rewards are noisy", (Change("ppo.gae_lambda", to=0.9),), automatic=False),),
            judged=True,
            departure="The guide raises gamma against a noisy reward-to-go, and calls what a larger lambda brings "
            "long-term bias. Both add variance, lambda nearest to the cause: a smaller gae_lambda comes first.",
        ),
        Symptom(
            "trade.too_many",
            "Agent trades too much",
            "2.2, 6.2",
            "warning",
            "more than 0.31 round trips per validation bar (the guide's 1,000 a year of hourly bars) in two evaluations",
            (
                Cause(
                    "cost_weak",
                    "the cost component hardly counts",
                    (Change("reward.weights.cost", to=0.25),),
                    automatic=False,
                ),
                Cause(
                    "scalping",
                    "the time component pays for quick exits",
                    (Change("reward.weights.time", to=0.05),),
                    automatic=False,
                ),
            ),
            judged=True,
            departure="1,000 trades a year of hourly bars are read as buys plus sells: 0.31 round trips a bar, whatever the "
            "bar length. A warning only where the churn does not pay.",
        ),
        Symptom(
            "trade.never",
            "Agent never trades",
            "2.2",
            "warning",
            "no round trip in the last two evaluations after 20% of training",
            (
                Cause(
                    "cost_strong",
                    "costs are punished more than opportunities pay",
                    (Change("reward.weights.cost", to=0.10),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "trade.exit_early",
            "Agent exits winners too early",
            "2.2",
            "information",
            "eval/holding_winners below half of eval/holding_losers in two evaluations (20 or more of each)",
            (
                Cause(
                    "time_high",
                    "the time component pays for speed",
                    (Change("reward.weights.time", to=0.05),),
                    automatic=False,
                ),
                Cause("stop_or_target", "env.target sells winners before the policy would", automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "trade.hold_losers",
            "Agent holds losers forever",
            "2.2",
            "information",
            "eval/losers_held, the 90th percentile of losers' holding time in limits (env.max_hold, else the episode), above 0.9",
            (
                Cause(
                    "time_low",
                    "slow losses cost too little",
                    (Change("reward.weights.time", to=0.25),),
                    automatic=False,
                ),
                Cause(
                    "no_stop",
                    "nothing ends a losing trade but the policy",
                    (Change("env.stop", to=0.05),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "trade.drawdown",
            "Max drawdown too deep",
            "2.2, 6.2",
            "warning",
            "eval/max_drawdown above 30% in the last two evaluations",
            (
                Cause(
                    "drawdown_weak",
                    "drawdowns cost too little in the reward",
                    (Change("reward.weights.drawdown", to=0.20),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "phase.entropy",
            "Entropy off its expected path",
            "3.1, 6.1",
            "information",
            "policy/entropy_norm outside the corridor for this share of training (guide: 1.5, 1.0, 0.8, 0.5 nats of ln 7)",
            (
                Cause("below", "the policy commits early", (_MORE_ENTROPY,), automatic=False),
                Cause("above", "the policy commits late", (_LESS_ENTROPY,), automatic=False),
            ),
            judged=True,
            departure="The guide's path is in nats and absolute steps. ln 7 is 1.95, but with a mask about four actions are "
            "valid (ln 4 is 1.39), so 1.5 nats cannot be; and 20k steps are early only in 100k. Entropy is taken as a share of its "
            "largest value for the valid actions, and time as a share of training.",
        ),
        Symptom(
            "phase.ev",
            "Explained variance off its expected path",
            "3.1, 3.3, 6.1",
            "information",
            "value/explained_variance below the ridge reference by more than 0.1 after 40% of training",
            (Cause("value_learning", "a linear fit explains more than the value head", (_RAISE_VF,), automatic=False),),
            judged=True,
            departure="The guide asks for 0.5, then 0.7. Healthy runs with a validation Sharpe above 3 stay at 0.35-0.45: what "
            "is unpredictable cannot be explained. The ridge fit on the same batch takes the place of the number.",
        ),
        Symptom(
            "phase.reward",
            "Reward off its expected path",
            "3.1, 6.2",
            "warning",
            "Sharpe of the evaluations in the last 40% of training falls with 95% confidence (Sen's slope), by 1 or more, "
            "to less than half of its best",
            (
                Cause(
                    "overfit",
                    "the training split still improves: the policy learns what does not repeat",
                    (Change("early_stop.patience", to=3), Change("ppo.weight_decay", to=0.001)),
                    automatic=False,
                ),
                Cause("unstable", "the training split falls with it: the steps have become too large", (_HALVE_LR,)),
                Cause(
                    "proxy",
                    "the reward rises while the account falls",
                    (Change("reward.weights.pnl", to=0.6),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "policy.loss",
            "Policy loss should decrease",
            "6.1",
            "information",
            "never raised: the clipped surrogate hovers around 0 by construction",
            judged=True,
            departure="The guide asks for a policy loss that decreases. Advantages are normalised to a mean of 0, so the "
            "surrogate starts at 0 in every update and its level says nothing; progress is judged by the evaluations.",
        ),
        Symptom(
            "train.clip",
            "Clip fraction outside 0.1-0.3",
            "6.1",
            "warning",
            "policy/clip_fraction above 0.4 for two ticks (healthy runs were measured at 0.00-0.10)",
            (Cause("step_size", "too much change per update", (_STOP_AT_KL, _HALVE_LR)),),
            automatic=True,
            judged=True,
            departure="The guide asks for 0.1-0.3. Healthy runs clip 0.00-0.10 of their ratios, so only the upper side warns.",
        ),
        Symptom(
            "train.kl",
            "KL divergence above 0.02",
            "1.3, 6.1",
            "warning",
            "policy/kl_divergence above 0.05 for two ticks (critical: policy/kl_max above 0.5)",
            (
                Cause("epochs", "KL grows over the epochs of an update", (_STOP_AT_KL, _HALVE_EPOCHS)),
                Cause("learning_rate", "the steps themselves are too large", (_STOP_AT_KL, _HALVE_LR)),
            ),
            automatic=True,
            judged=True,
            departure="The guide gives two numbers: 0.015 (1.3) and 0.02 (6.1). The first is a stop inside an update and is "
            "`ppo.target_kl`; runs that use it end some updates a little above it. A warning begins at a mean of 0.05.",
        ),
        Symptom(
            "opt.grad",
            "Gradient norm exploding",
            "1.2, 3.2, 6.1",
            "warning",
            "grad/grad_norm_max above 100 (critical), or grad/grad_norm 10 robust standard deviations above its past",
            (Cause("explosion", "gradients outgrew the clipping", (_CLIP_GRADIENTS, _LOWER_LR)),),
            automatic=True,
            judged=True,
            departure="The guide asks for a norm below 1 and fewer than 20% clipped, with a limit of 0.5: a healthy run at its "
            "own sizes was measured with 96% clipped at a norm of 0.65. Clipping is no alarm, an explosion is. Its lever for "
            "gradients at the limit, a larger clip_range, acts on the ratio and not on gradients.",
        ),
        Symptom(
            "value.mean",
            "Value mean should follow the returns",
            "6.1",
            "warning",
            "value/value_mean apart from value/return_mean by more than one standard deviation of the returns",
            (
                Cause(
                    "bias",
                    "the value head lags behind or bootstraps from the wrong state",
                    (_RAISE_VF,),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "perf.no_progress",
            "No progress on validation",
            "6.2",
            "warning",
            "best validation Sharpe below 0.3 at 60% of training, and not above buy-and-hold",
            (
                Cause(
                    "no_signal", "learning looks normal: the market may hold no edge at these costs", automatic=False
                ),
                Cause("not_learning", "another row says that learning itself is broken", automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "probe.env",
            "Debugging step 1: environment alone",
            "5.2",
            "critical",
            "1,000 random steps stay finite, in their spaces, and repeat under the same seed",
        ),
        Symptom(
            "probe.forward",
            "Debugging step 2: agent forward pass",
            "5.2",
            "critical",
            "actions, log-probabilities and values are finite; a batch equals its rows",
        ),
        Symptom(
            "probe.update",
            "Debugging step 3: PPO update on synthetic data",
            "5.2",
            "critical",
            "the loss falls on a repeated batch, the ratio starts at 1, every layer has a gradient",
        ),
        Symptom(
            "probe.learning", "Debugging step 4: short training", "5.2", "critical", "the probe environments are solved"
        ),
        # --- rows from the literature ---
        Symptom(
            "opt.step_too_big",
            "Weights move too fast",
            "-",
            "critical",
            "diag/update_ratio above 0.03 (healthy: 0.003-0.009 per gradient step)",
            (Cause("learning_rate", "the learning rate is far too high", (_TENTH_LR,)),),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "opt.lr_decayed",
            "Learning rate decayed too early",
            "-",
            "warning",
            "effective learning rate below 5% of its start before 60% of training",
            (Cause("schedule", "the schedule reaches its end before training does", automatic=False),),
            judged=True,
        ),
        Symptom(
            "net.dormant",
            "Dormant units",
            "-",
            "warning",
            "diag/dormant_share above 0.5",
            (
                Cause("step_size", "together with too large steps", (_TENTH_LR,)),
                Cause("plasticity", "grew slowly: too many epochs on the same data", (_HALVE_EPOCHS,), automatic=False),
                Cause("initial", "so from the start: initialisation", automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "net.rank",
            "Feature rank collapsed",
            "-",
            "warning",
            "diag/feature_rank below a third of its first value; information where it fell slowly and no units are dormant",
            (
                Cause("step_size", "together with too large steps", (_TENTH_LR,)),
                Cause("plasticity", "fell slowly: too many epochs on the same data", (_HALVE_EPOCHS,), automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "net.dead_relu",
            "Dead ReLU units",
            "-",
            "warning",
            "diag/dead_share above 0.5: units that are never above 0 on 2,048 states",
            (
                Cause(
                    "initial",
                    "initialisation or learning rate",
                    (Change("ppo.activation", to="tanh"),),
                    automatic=False,
                ),
                Cause("step_size", "together with too large steps", (_TENTH_LR,), automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "policy.frozen",
            "Policy does not move",
            "-",
            "critical",
            "policy/kl_divergence below 5e-5, or diag/update_ratio below 2e-4, for 5 ticks before 80% of training, with entropy left; "
            "KL below 5e-6 for 2 ticks while more than half of the entropy is left",
            (
                Cause("learning_rate", "the learning rate in force is close to 0", (_GUIDE_LR,)),
                Cause("no_advantage", "advantages are all alike: the reward says nothing", automatic=False),
                Cause(
                    "detached", "the value head learns and the policy does not: a fault of the trainer", automatic=False
                ),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "policy.uniform",
            "Random behaviour late in training",
            "1.2",
            "warning",
            "policy/entropy_norm above 0.965 for 3 ticks after half of training and not falling; above 0.99 after 15% where "
            "ent_coef is above 0.1",
            (
                Cause("ent_coef_high", "the entropy bonus outweighs the policy gradient", (_LESS_ENTROPY,)),
                Cause("frozen", "the policy hardly moves at all", automatic=False),
                Cause("no_signal", "advantages point nowhere", automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "policy.early_entropy",
            "Entropy falls too early",
            "1.2, 3.2",
            "warning",
            "policy/entropy_norm below 0.25 (the guide's end of training) for 3 ticks before 60% of training",
            (
                Cause(
                    "ent_coef_low",
                    "the entropy bonus is too weak",
                    (Change("ppo.ent_coef", by=3.0, at_least=0.01, at_most=0.10, usual=0.01),),
                ),
                Cause("step_size", "the steps are too large", (_HALVE_LR,)),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "policy.init_scale",
            "Initial policy is not near uniform",
            "-",
            "warning",
            "policy/entropy_norm below 0.9 in the first tick",
            (
                Cause(
                    "init_gain",
                    "the policy head starts too large",
                    (Change("ppo.init_gain", to=0.01),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "ppo.ratio_ne_1",
            "Probability ratio does not start at 1",
            "-",
            "critical",
            "policy/ratio_error of the first minibatch above 1e-3 (2e-2 under bf16 or fp16)",
            (
                Cause(
                    "stored_log_prob",
                    "log-probabilities, mask or dropout differ between rollout and update: a fault of the trainer",
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "ppo.adv_std",
            "Advantages are all equal",
            "-",
            "critical",
            "diag/advantage_std below 1e-6, or rewards that are all equal and not 0",
            (Cause("constant_reward", "every step paid the same", automatic=False),),
            judged=True,
        ),
        Symptom(
            "ppo.adv_signal",
            "Updates ignore the advantages",
            "-",
            "critical",
            "diag/advantage_signal below 0.03 over 5 ticks (or 0.015 over 3) in the first half of training while the policy moves "
            "(healthy: 0.07-0.4), below 0 after it",
            (
                Cause(
                    "misaligned", "advantages are shuffled against their steps: a fault of the trainer", automatic=False
                ),
                Cause(
                    "sign",
                    "the sign of the advantage or of the loss is flipped: a fault of the trainer",
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "value.bootstrap",
            "Value bootstraps from the wrong state",
            "-",
            "warning",
            "diag/gae_error above 1e-3: the returns are not r + γ((1 − λ) V′ + λ R′); or diag/wrong_bootstraps above 0.1: "
            "truncated steps bootstrap nothing, or the value of the episode that was started in their place",
            (
                Cause(
                    "next_value",
                    "the advantage sum leaves out the value that follows, or takes another",
                    automatic=False,
                ),
                Cause(
                    "truncation",
                    "truncated episodes are treated as if nothing followed: a fault of the trainer",
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "reward.scale",
            "Returns are badly scaled",
            "2.3",
            "warning",
            "value/return_std above 50 or below 0.01 for 2 ticks (above 250 for one), reward/std below 1e-3 (1e-4 for one), or "
            "reward/clipped_share above 10%",
            (
                Cause("too_large", "returns are too large for the value head", (_SCALE_REWARD,)),
                Cause("too_small", "returns are too small against the entropy bonus", (_SCALE_REWARD,)),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "reward.hack",
            "Reward hacking",
            "2.4, 3.2",
            "critical",
            "rank correlation of episode reward and episode return over 10 ticks below -0.3, the reward up and the return down "
            "by more than two standard errors",
            (
                Cause("component_drift", "one component grows at the expense of money", (_SILENCE_COMPONENT,)),
                Cause("action_pays", "one action is paid for itself, beside profit", automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "obs.scale",
            "Observations out of scale",
            "2.3",
            "warning",
            "diag/obs_max_abs above 50 (above 250 for one tick, where observation.clip is off), or diag/obs_clipped_share above 2%",
            (
                Cause(
                    "not_normalised",
                    "observations are not normalised",
                    (Change("observation.normalize", to="train"), _CLIP_OBSERVATION),
                ),
                Cause("outliers", "normalised, and still out of scale: outliers in the data", automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "obs.drift",
            "Observations drift",
            "5.1",
            "warning",
            "diag/obs_drift: the running normaliser's mean moves by more than half a standard deviation within 5 ticks after 30% of training",
            (
                Cause(
                    "running",
                    "running statistics keep moving",
                    (Change("observation.normalize", to="train"),),
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "env.no_end",
            "Episodes never end",
            "-",
            "critical",
            "no episode ended in twice the time that episodes may last",
            (Cause("truncation_missing", "the environment does not end its episodes", automatic=False),),
            judged=True,
        ),
        Symptom(
            "env.duplicate",
            "Environments are copies of each other",
            "-",
            "critical",
            "diag/env_twins above 0.3 in three iterations: the P&L of so many environments moves with another one's",
            (Cause("shared_seed", "environments start at the same bars: they share a random state", automatic=False),),
            judged=True,
        ),
        Symptom(
            "env.stale_obs",
            "Observations are off by one",
            "-",
            "critical",
            "diag/obs_agreement below 0.5 from the first tick (later: below 0.2 for 3): correlation of the return that the newest "
            "observed bar shows and the P&L of the step that led there, over rows that hold a position",
            (
                Cause(
                    "shuffled",
                    "observations belong to other rows or other bars than they are given to",
                    automatic=False,
                ),
            ),
            judged=True,
        ),
        Symptom(
            "data.leak",
            "Too good to be true: data leak",
            "5.1",
            "critical",
            "eval/feature_foresight above 0.4: a feature correlates with the return of the next bar; or eval/sharpe_ratio above 8",
            (Cause("future_feature", "a feature probably knows the future", automatic=False),),
            judged=True,
        ),
        Symptom(
            "mask.tight",
            "Action masking too restrictive",
            "3.2",
            "warning",
            "policy/valid_actions below 1.5 on average",
            (Cause("mask_rules", "the mask rules leave little but HOLD", automatic=False),),
            judged=True,
        ),
        Symptom(
            "multi.interference",
            "Agents disturb each other in the shared encoder",
            "-",
            "warning",
            "diag/grad_cosine below -0.2 (the mean over the other agents), or diag/grad_share above three equal shares and above "
            "0.6, for 3 ticks",
            (
                Cause("scale", "one agent's gradient outweighs the others': its returns are larger", (_SCALE_REWARD,)),
                Cause("conflict", "the agents pull the encoder in opposite directions", automatic=False),
            ),
            automatic=True,
            judged=True,
        ),
        Symptom(
            "multi.outlier_agent",
            "One agent unlike the others",
            "-",
            "warning",
            "a metric more than 6 robust standard deviations from the other agents' at the same share of training, for 3 ticks "
            "(5 or more agents)",
            (
                Cause("data", "its market differs from the others'", automatic=False),
                Cause("learning", "it learns otherwise: another row of this agent says how", automatic=False),
            ),
            judged=True,
        ),
        Symptom(
            "repro.drift",
            "Same spec and seed, other numbers",
            "-",
            "information",
            "metrics of the first iteration differ from those of another run of one spec, seed, data and commit",
            (Cause("nondeterminism", "something draws random numbers or sums in another order", automatic=False),),
            judged=True,
        ),
        Symptom(
            "intervention.oscillates",
            "Interventions undo each other",
            "-",
            "warning",
            "one key was raised and lowered twice within 10 ticks",
            (Cause("thresholds", "trigger and release of an intervention lie too close together", automatic=False),),
            judged=True,
        ),
        # --- gates: criteria, not symptoms; judged by each evaluation's verdict ---
        Symptom("gate.minimum", "Minimum Success", "3.3", "gate", "[criteria.minimum]"),
        Symptom("gate.strong", "Strong Success", "3.3", "gate", "[criteria.strong]"),
        Symptom("gate.stop", "Early Stopping", "3.3", "gate", "[early_stop]"),
    ]
    return {row.id: row for row in rows}


SYMPTOMS = _catalogue()
"""Every symptom by id, in the order of the troubleshooting table."""

GUIDE_ISSUES = ("run.slow", "run.oom", "policy.hold", "train.unstable", "gen.gap", "mask.violation")
"""The guide's six common issues (5.1), in its order."""

GUIDE_WARNINGS = ("num.nan", "policy.hold", "reward.explode", "value.fail")
"""The guide's four warning signs (3.2), in its order."""


def is_symptom(trigger: str) -> bool:
    """Whether a trigger names a symptom (`num.nan`) or one of its causes (`num.nan:observation`)."""
    symptom_id, _, cause_id = trigger.partition(":")
    if symptom_id not in SYMPTOMS:
        return False
    return not cause_id or any(cause.id == cause_id for cause in SYMPTOMS[symptom_id].causes)
