"""Symptoms of the trading."""

from __future__ import annotations

from p3kit.symptoms.changes import ONE_ACTION
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
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
        departure="1,000 trades a year of hourly bars count buys and sells: 0.31 round trips a bar, for any bar length. "
        "The row warns only if the churn does not pay.",
    ),
    Symptom(
        "trade.never",
        "Agent never trades",
        "2.2",
        "warning",
        "no round trip in the last two evaluations after 20% of training, and sampled actions hold as well",
        (
            ONE_ACTION,
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
)
