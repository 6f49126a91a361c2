"""Symptoms of the reward."""

from __future__ import annotations

from p3kit.symptoms.changes import CLIP_REWARD, LOWER_COST, SCALE_REWARD, SHRINK_COMPONENT, SILENCE_COMPONENT
from p3kit.symptoms.symptom import Cause, Change, Symptom

ROWS = (
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
                (SILENCE_COMPONENT,),
            ),
            Cause("legitimate", "the account gains as much: a strategy, not an exploit", automatic=False),
            Cause("scale", "the raw reward did not move: the scaling broke", (SCALE_REWARD, CLIP_REWARD)),
        ),
        automatic=True,
        judged=True,
    ),
    Symptom(
        "reward.share",
        "One reward component dominates (PnL should be 40-50%)",
        "2.2, 2.4",
        "warning",
        "reward/episode_share of a component other than pnl above 0.5, or up by more than 0.15 since the start, or that of pnl below 0.2",
        (
            Cause("weights", "so from the start: weights or units", (SHRINK_COMPONENT,), automatic=False),
            Cause(
                "pnl_weight",
                "the weight of pnl is too small beside the others",
                (Change("reward.weights.pnl", by=2.0, usual=0.40),),
                automatic=False,
            ),
            Cause(
                "component_drift",
                "the share grew while training: the agent exploits this component",
                (SHRINK_COMPONENT,),
            ),
        ),
        automatic=True,
        judged=True,
        departure="The guide's weights sum to 0.90, and under its own ranges (time ±1, sharpe ±2, pnl ±0.1) pnl cannot "
        "reach 40-50%. Under the sound formulas pnl carries 75-95%, as it should. So the row warns only if another "
        "component carries more than half.",
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
                (LOWER_COST, Change("reward.weights.drawdown", by=0.5, at_least=0.02, usual=0.10)),
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
                (SCALE_REWARD, CLIP_REWARD),
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
        departure="The guide raises gamma against a noisy reward-to-go, and calls the effect of a larger lambda "
        "long-term bias. Both add variance. Lambda is nearer to the cause, so a smaller gae_lambda comes first.",
    ),
    Symptom(
        "reward.scale",
        "Returns are badly scaled",
        "2.3",
        "warning",
        "value/return_std above 50 or below 0.01 for 2 ticks (above 250 for one), reward/std below 1e-3 (1e-4 for one), or "
        "reward/clipped_share above 10%",
        (
            Cause("too_large", "returns are too large for the value head", (SCALE_REWARD,)),
            Cause("too_small", "returns are too small against the entropy bonus", (SCALE_REWARD,)),
            Cause("clip", "reward.clip cuts ordinary rewards", (CLIP_REWARD, SCALE_REWARD)),
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
            Cause("component_drift", "one component grows at the expense of money", (SILENCE_COMPONENT,)),
            Cause("action_pays", "one action is paid for itself, beside profit", automatic=False),
        ),
        automatic=True,
        judged=True,
    ),
)
