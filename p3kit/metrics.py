"""The glossary of every metric p3kit records, and the formulas behind the trading ones.

Metric names are `group/name`, the name being the training guide's. A trainer records what is listed here, and numbers of
its own under `own/`. `effective/` takes any spec path after the slash (`effective/ppo.learning_rate`, `effective/reward.weights.cost`), and so
does `realised/`: the value of a setting that the record itself shows. `mismatch/` takes a field of a rollout: the fraction
of the environments in which it departs. `change/` takes a field and a kind of change: `change/advantage.shift` in steps.
Returns are fractions, never percent. Ranges are those of healthy runs, not pass criteria.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COMPONENTS = ("pnl", "cost", "time", "sharpe", "drawdown", "sizing", "hold")
"""The seven reward components, in the order of every tensor that holds them."""

ACTIONS = ("HOLD", "BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE", "SELL_HALF", "SELL_ALL", "ADD")
"""The seven actions, in the order of every tensor that holds them."""

NETS = ("policy", "value", "encoder")
"""The parts of a net that are measured apart."""

FORESIGHT = 0.4
"""|Correlation| of a feature with a coming return: clear synthetic edges reach 0.2, real markets far less."""


@dataclass(frozen=True)
class Metric:
    """One recorded number. `healthy` is (low, high); None on a side means open."""

    name: str
    unit: str
    meaning: str
    healthy: tuple[float | None, float | None] | None = None


def _glossary() -> dict[str, Metric]:
    # fmt: off
    rows = [
        # policy: optimiser side, mean over an equal share of the update's epochs
        Metric("policy/policy_loss", "1", "clipped surrogate loss; hovers around 0 by construction"),
        Metric("policy/total_loss", "1", "the loss that is minimised: policy, value and entropy terms with their weights"),
        Metric("policy/entropy", "nats", "mean entropy of the masked policy", (0.3, None)),
        Metric("policy/entropy_norm", "fraction", "entropy / ln(valid actions), states with one valid action left out", (0.15, 0.965)),
        Metric("policy/kl_divergence", "nats", "mean k3 estimate of KL(old, new) over the epochs of this row", (None, 0.02)),
        Metric("policy/kl_max", "nats", "largest KL of any minibatch in this row", (None, 0.5)),
        Metric("policy/clip_fraction", "fraction", "fraction of ratios outside 1 ± clip_range", (0.0, 0.3)),
        Metric("policy/ratio_error", "1", "mean |ratio − 1| of the update's first minibatch; 0 up to rounding", (0.0, 1e-3)),
        Metric("policy/epochs_done", "epochs", "epochs run before target_kl ended the update"),
        # policy: rollout side, per tick
        Metric("policy/hold_share", "fraction", "fraction of HOLD among the actions taken", (None, 0.95)),
        Metric("policy/valid_actions", "actions", "mean number of actions the mask allows", (1.5, None)),
        *(Metric(f"policy/share.{action}", "fraction", f"fraction of {action} among the actions taken") for action in ACTIONS),
        # value
        Metric("value/value_loss", "1", "value loss of the kind chosen by ppo.value_loss"),
        Metric("value/explained_variance", "fraction", "1 − Var(return − value)/Var(return) on the rollout", (0.0, 1.0)),
        Metric("value/value_mean", "scaled reward", "mean value of the rollout's states"),
        Metric("value/return_mean", "scaled reward", "mean GAE return of the rollout"),
        Metric("value/return_std", "scaled reward", "standard deviation of the GAE returns", (0.01, 50.0)),
        # gradients
        Metric("grad/grad_norm", "1", "mean gradient norm before clipping", (None, 100.0)),
        Metric("grad/grad_norm_max", "1", "largest gradient norm before clipping", (None, 100.0)),
        Metric("grad/grad_clipped_pct", "fraction", "fraction of gradient steps that were clipped (0 to 1)"),
        # reward
        Metric("reward/mean", "scaled reward", "mean reward per step, scaled for the learner"),
        Metric("reward/std", "scaled reward", "standard deviation of the reward, scaled for the learner"),
        Metric("reward/max_abs", "scaled reward", "largest |reward|, scaled for the learner", (None, 1000.0)),
        Metric("reward/total", "reward", "mean weighted reward per step, before scaling and clipping"),
        Metric("reward/scale", "reward", "divisor of the rewards (running scaling; 1 otherwise)"),
        Metric("reward/scale_steps", "steps", "steps behind the running scale"),
        Metric("reward/clipped_share", "fraction", "fraction of rewards cut by reward.clip", (None, 0.02)),
        Metric("reward/positive_share", "fraction", "fraction of steps with a reward above 0", (0.001, 0.999)),
        Metric("reward/bimodal_gap", "1", "distance between the two peaks of the rewards of one kind of step (held, traded, closed), in standard deviations; 0 with one peak", (None, 3.0)),
        Metric("reward/rtg_spread", "1", "standard deviation over an episode of the mean reward-to-go / that of all rewards-to-go", (0.05, None)),
        Metric("reward/rtg_autocorrelation", "1", "lag-1 autocorrelation of the reward-to-go within episodes; about gamma"),
        Metric("reward/corr_pnl_sharpe", "1", "rank correlation of the pnl and sharpe components over 30 or more ended episodes", (0.2, None)),
        Metric("reward/corr_total_gain", "1", "rank correlation of episode reward (scaled for the learner) and equity won, over the same episodes", (0.3, None)),
        *(Metric(f"reward/beside_pnl.{action}", "reward", f"mean weighted reward of a step with {action}, without its pnl") for action in ACTIONS),
        *(Metric(f"reward/{c}", "reward", f"mean weighted {c} component per step") for c in COMPONENTS),
        *(Metric(f"reward/raw.{c}", "reward", f"mean {c} component per step, before its weight") for c in COMPONENTS),
        *(Metric(f"reward/share.{c}", "fraction", f"fraction of {c} in the sum of mean |weighted component| per step") for c in COMPONENTS),
        *(Metric(f"reward/episode_share.{c}", "fraction", f"fraction of {c} in the sum of |weighted component summed over an episode|") for c in COMPONENTS),
        # episodes
        Metric("episode/episode_reward_mean", "reward", "mean weighted reward of the episodes that ended, before scaling"),
        Metric("episode/episode_reward_std", "reward", "standard deviation over the episodes that ended"),
        Metric("episode/episode_length_mean", "bars", "mean length of the episodes that ended"),
        Metric("episode/episode_success_rate", "fraction", "fraction of ended episodes that made money"),
        Metric("episode/episode_return_mean", "fraction of initial", "mean total return of the episodes that ended"),
        Metric("episode/episodes", "episodes", "episodes that ended in this row"),
        Metric("episode/trades", "trades", "round trips closed per episode"),
        # evaluation on the validation split, by the spec's action rule
        Metric("eval/sharpe_ratio", "1/√year", "annualised Sharpe ratio of the validation bars", (0.3, None)),
        Metric("eval/sortino_ratio", "1/√year", "annualised Sortino ratio of the validation bars"),
        Metric("eval/max_drawdown", "fraction", "deepest fall from a peak", (0.0, 0.25)),
        Metric("eval/total_return", "fraction of initial", "compounded return over the validation split"),
        Metric("eval/annual_volatility", "1/√year", "annualised standard deviation of bar returns"),
        Metric("eval/total_trades", "trades", "round trips from flat to flat, with one that is still open at the end"),
        Metric("eval/trades_per_bar", "trades/bar", "round trips per validation bar; the guide's 500 to 1,000 trades in two years of hourly bars are 0.15 to 0.31"),
        Metric("eval/win_rate", "fraction", "fraction of round trips with a profit net of both fees", (0.52, None)),
        Metric("eval/profit_factor", "1", "profit of winners / loss of losers, net", (1.3, None)),
        Metric("eval/exposure", "fraction", "mean fraction of equity invested"),
        Metric("eval/market_correlation", "1", "correlation of the policy's bar returns with buy-and-hold's on the same bars"),
        Metric("eval/turnover", "1/year", "traded value per year / mean equity"),
        Metric("eval/cost_paid", "fraction of initial", "commission and slippage paid"),
        Metric("eval/hold_share", "fraction", "fraction of HOLD among the actions taken"),
        *(
            Metric(f"eval/{rule}_{name}", unit, f"{text}, by the action rule {rule}")
            for rule in ("greedy", "sampled")
            for name, unit, text in (
                ("sharpe_ratio", "1/√year", "Sharpe ratio of the bar returns"),
                ("total_return", "fraction of initial", "compounded return over the split"),
                ("hold_share", "fraction", "fraction of HOLD among the actions taken"),
            )
        ),
        Metric("eval/sampled_lead", "1", "mean return of sampled minus greedy on the same bars / its standard error"),
        Metric("eval/actions_used", "actions", "actions with at least 1 % of the steps", (3, None)),
        Metric("eval/sharpe_excess", "1/√year", "Sharpe ratio minus buy-and-hold's on the same bars"),
        Metric("eval/buy_and_hold_sharpe", "1/√year", "buy-and-hold's Sharpe ratio on the same bars and fees"),
        Metric("eval/train_buy_and_hold_sharpe", "1/√year", "buy-and-hold's Sharpe ratio on the training split"),
        Metric("eval/best_fixed_rule_return", "fraction of initial", "total return of the best fixed rule that is not HOLD: buy-and-hold, a moving average, or the sign of the feature that earned most in training"),
        Metric("eval/holding_winners", "bars", "median holding time of round trips with a profit, training and validation together (20 or more)"),
        Metric("eval/holding_losers", "bars", "median holding time of the other round trips, over the same splits"),
        Metric("eval/losers_held", "fraction", "90th percentile of losers' holding time / env.max_hold (or the window where that is off)", (None, 0.9)),
        Metric("eval/feature_foresight", "1", "largest |correlation| of a feature (of your own column: also of its change) with the return of one of the next 3 bars, on training bars", (None, FORESIGHT)),
        Metric("eval/train_sharpe_ratio", "1/√year", "Sharpe ratio of the same policy and rules on the training split"),
        Metric("eval/windowed_sharpe_ratio", "1/√year", "Sharpe ratio of validation in windows that start flat, as the training split is played"),
        # performance
        Metric("perf/steps_per_second", "steps/s", "env steps per second of this agent, with evaluation, checkpoints and records", (100.0, None)),
        Metric("perf/rollout_s", "s", "seconds of this iteration spent in the rollout"),
        Metric("perf/update_s", "s", "seconds of this iteration spent in the update"),
        Metric("perf/evaluation_s", "s", "seconds of this iteration spent in evaluation"),
        Metric("perf/memory_mb", "MB", "peak resident memory of the trainer process"),
        # evidence for the diagnosis
        Metric("diag/ev_reference", "fraction", "explained variance of a ridge fit on (at most 2,048 rows of) the same batch"),
        Metric("diag/update_ratio", "1", "‖ΔW‖/‖W‖/√(gradient steps) of the update", (2e-3, 0.03)),
        *(Metric(f"diag/update_ratio.{net}", "1", f"the same of the {net} alone") for net in NETS),
        *(Metric(f"diag/weight_norm.{net}", "1", f"norm of the weights of the {net}") for net in NETS),
        *(Metric(f"diag/still_share.{net}", "fraction", f"tensors of the {net} that an update did not move at all", (0.0, 0.0)) for net in NETS),
        Metric("diag/dormant_share", "fraction", "fraction of hidden units with a normalised activation below 0.025", (None, 0.5)),
        Metric("diag/dead_share", "fraction", "fraction of hidden units that are 0 on all sampled states (ReLU)", (None, 0.5)),
        Metric("diag/feature_rank", "units", "singular values behind 99 % of the energy of the last hidden layer"),
        Metric("diag/grad_share", "fraction", "an agent's fraction of the agents' gradient norms on a shared encoder, after clipping"),
        Metric("diag/grad_cosine", "1", "mean cosine of an agent's gradient on a shared encoder with the others'"),
        Metric("diag/grad_cosine_min", "1", "smallest cosine of an agent's gradient on a shared encoder with another's"),
        Metric("diag/advantage_std", "scaled reward", "standard deviation of the advantages before normalisation", (1e-6, None)),
        Metric("diag/advantage_signal", "1", "correlation of advantage and change of log-probability over the update", (0.03, None)),
        Metric("diag/mismatch", "fraction", "largest fraction of the environments in which a field of the rollout departs from a replay; 1 where an exact field departs", (0.0, 0.0)),
        Metric("diag/obs_drift", "1", "largest move of a mean of the running observation statistics, in standard deviations"),
        Metric("diag/env_twins", "fraction", "fraction of environments whose P&L follows another's while both hold a position", (None, 0.3)),
        Metric("diag/obs_max_abs", "1", "largest |observation| after normalisation, before clipping", (None, 50.0)),
        Metric("diag/obs_clipped_share", "fraction", "fraction of observation values cut by observation.clip", (None, 0.02)),
        Metric("diag/mask_violations", "actions", "masked actions that were selected", (0, 0)),
        Metric("diag/nonfinite", "steps", "gradient steps with a number that is not finite; they were not applied", (0, 0)),
        Metric("diag/gradient_steps", "steps", "gradient steps of this row"),
        Metric("diag/amp_scale", "1", "loss scale of the fp16 gradient scaler"),
    ]
    # fmt: on
    return {row.name: row for row in rows}


METRICS = _glossary()
"""Every metric by name."""


def is_metric(name: str) -> bool:
    """Return True if `name` may be recorded or named in a trigger. What follows `effective/`, `realised/`, `mismatch/`,
    `change/` and `own/` is not checked here."""
    return name in METRICS or name.startswith(("effective/", "realised/", "mismatch/", "change/", "own/"))


# --- formulas ---------------------------------------------------------------------------------------------------------
# Plain functions of numpy arrays. Returns are simple returns per bar, as fractions; results that the data do not define
# (the Sharpe ratio of an account that never traded) are None. A NaN in is a NaN out: nothing is dropped.

_NO_SPREAD = 1e-14
"""Standard deviations up to this are rounding: returns that are all the same."""


def total_return(returns: Floats) -> float:
    """Compounded return of bar returns (T,)."""
    return float(np.prod(1.0 + np.asarray(returns, dtype=np.float64)) - 1.0)


def annual_volatility(returns: Floats, bars_per_year: float) -> float | None:
    """Standard deviation (n − 1) of bar returns (T,), annualised; None for fewer than two."""
    returns = np.asarray(returns, dtype=np.float64)
    return float(returns.std(ddof=1) * math.sqrt(bars_per_year)) if len(returns) >= 2 else None


def sharpe_ratio(returns: Floats, bars_per_year: float) -> float | None:
    """Mean / standard deviation (n − 1) of bar returns (T,), annualised, risk-free rate 0.

    None for fewer than two returns or where they are all the same, as those of an account that never trades.
    """
    returns = np.asarray(returns, dtype=np.float64)
    if len(returns) < 2:
        return None
    spread = float(returns.std(ddof=1))
    return None if spread <= _NO_SPREAD else float(returns.mean()) / spread * math.sqrt(bars_per_year)


def sortino_ratio(returns: Floats, bars_per_year: float) -> float | None:
    """Mean / root mean square of the returns below 0, annualised (Sortino and Price 1994, target 0).

    None for fewer than two returns or where none is below 0.
    """
    returns = np.asarray(returns, dtype=np.float64)
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return None if downside <= _NO_SPREAD else float(returns.mean()) / downside * math.sqrt(bars_per_year)


class ReturnShape(TypedDict):
    """Statistics of the bar returns that a deflated Sharpe ratio needs."""

    bars: int
    bars_per_year: float
    skewness: float
    kurtosis: float


def return_shape(returns: Floats, bars_per_year: float) -> ReturnShape | None:
    """Count, skewness and kurtosis (3 for the normal distribution) of bar returns (T,), moments over n.

    None where `sharpe_ratio` is None.
    """
    returns = np.asarray(returns, dtype=np.float64)
    if sharpe_ratio(returns, bars_per_year) is None:
        return None
    standard = (returns - returns.mean()) / returns.std()
    skewness, kurtosis = float(np.mean(standard**3)), float(np.mean(standard**4))
    return {"bars": len(returns), "bars_per_year": bars_per_year, "skewness": skewness, "kurtosis": kurtosis}


def max_drawdown(equity: Floats) -> float:
    """Deepest fall of equity (T,) from a peak before it, as a share of the peak: 0 (never fell) to 1 (ruin).

    Begin the series with the initial capital, or a loss in the first bar is not seen. 0 for an empty series.
    """
    equity = np.asarray(equity, dtype=np.float64)
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity), initial=0.0))


def profit_factor(trade_profits: Floats) -> float | None:
    """Profit of the winners / loss of the losers, net of costs; infinite without losers, None without trades.

    None too where every trade made exactly nothing.
    """
    profits = np.asarray(trade_profits, dtype=np.float64)
    won, lost = float(profits[profits > 0].sum()), float(-profits[profits < 0].sum())
    if np.isnan(profits).any():
        return math.nan
    if lost == 0.0:
        return math.inf if won > 0.0 else None
    return won / lost


def win_rate(trade_profits: Floats) -> float | None:
    """Share of trades with a profit above 0, net of costs; None without trades."""
    profits = np.asarray(trade_profits, dtype=np.float64)
    return float(np.mean(profits > 0)) if len(profits) else None


def interquartile_mean(values: Floats) -> float:
    """Mean of the middle half: a quarter of the values (rounded down) is cut off at each end.

    Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3. Raises
    ValueError for no values.
    """
    values = np.sort(np.asarray(values, dtype=np.float64))
    if not len(values):
        raise ValueError("the interquartile mean of no values")
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def mean_interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval (low, high) of the mean of a few independent values (n,), by Student's t; None for n < 2."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    half = student_quantile((1.0 + level) / 2.0, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's confidence interval (low, high) of a share `count` / `total` (Wilson 1927). Raises ValueError for no
    total."""
    if total < 1 or not 0 <= count <= total:
        raise ValueError(f"{count} of {total}: expected a count from 0 to a total of at least 1")
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    share, weight = count / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution with `freedom` degrees of freedom, by bisection of its distribution.

    The distribution for whole degrees of freedom: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4. Raises ValueError for a
    probability outside (0, 1) or less than one degree.
    """
    if not 0.0 < probability < 1.0 or freedom < 1:
        raise ValueError(f"probability {probability}, {freedom} degrees of freedom: expected 0 < p < 1 and at least 1")
    if probability < 0.5:
        return -student_quantile(1.0 - probability, freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # in the angle atan(t/√ν), which is bounded
        middle = (low + high) / 2
        if 0.5 + _student_within(middle, freedom) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _student_within(angle: float, freedom: int) -> float:
    """P(|t| < √ν tan(angle)) with ν = `freedom`."""
    cos, sin = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cos, cos) if odd else (1.0, 1.0)
    for k in range(2 if odd else 1, freedom - 1, 2):
        term *= cos * cos * k / (k + 1)
        total += term
    if not odd:
        return sin * total
    return 2 / math.pi * (angle + (sin * total if freedom > 1 else 0.0))


def deflated_sharpe(
    sharpe: float,
    bars_per_year: float,
    *,
    bars: int,
    trials: int,
    sharpe_std: float,
    skewness: float = 0.0,
    kurtosis: float = 3.0,
) -> float:
    """Probability that the true Sharpe ratio of the best of `trials` tries is above 0.

    Bailey and López de Prado 2014, "The Deflated Sharpe Ratio", equations 1 and 2.

    - sharpe: annualised ratio of the chosen strategy, measured on `bars` returns with `skewness` and `kurtosis` (3 for
      the normal distribution)
    - trials: independent strategies tried; sharpe_std: standard deviation of their annualised ratios

    Raises ValueError for fewer than two bars or less than one trial.
    """
    if bars < 2 or trials < 1:
        raise ValueError(f"{bars} bars and {trials} trials: expected at least 2 and 1")
    normal, year = NormalDist(), math.sqrt(bars_per_year)
    observed, luck = sharpe / year, 0.0
    if trials > 1:  # the expected maximum of `trials` ratios that are all luck
        euler = 0.5772156649015329
        near, far = normal.inv_cdf(1.0 - 1.0 / trials), normal.inv_cdf(1.0 - 1.0 / (trials * math.e))
        luck = sharpe_std / year * ((1.0 - euler) * near + euler * far)
    error = math.sqrt(1.0 - skewness * observed + (kurtosis - 1.0) / 4.0 * observed**2)
    return normal.cdf((observed - luck) * math.sqrt(bars - 1.0) / error)


def deflated_choice(sharpe: float, shape: ReturnShape, tried: Sequence[float]) -> float:
    """`deflated_sharpe` of the strategy with this annualised ratio and return shape, chosen among those whose annualised
    ratios are `tried` (its own is one of them).

    Tries that resemble one another, as the checkpoints of one run do, count in full: the figure errs on the low side.
    """
    return deflated_sharpe(
        sharpe,
        shape["bars_per_year"],
        bars=shape["bars"],
        trials=len(tried),
        sharpe_std=float(np.std(tried, ddof=1)) if len(tried) > 1 else 0.0,
        skewness=shape["skewness"],
        kurtosis=shape["kurtosis"],
    )
