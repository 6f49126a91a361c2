# ruff: noqa: E501
"""Made-up runs: directories as a trainer leaves them, from smooth curves and seeded noise, healthy or with one fault.

Numbers are of the size that real healthy runs showed. `make_run` writes through `p3kit.rundir`, so that diagnosis and
reports are tested on real files. Nothing here is a training result.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from p3kit.edge import Candidate, label
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.rundir import RunDir, judge_evaluations
from p3kit.spec import find_trainer, resolve_spec
from p3kit.spec.keypath import split_path, with_value

TICK = 4_096
MONDAY = datetime(2027, 1, 4, 9, 0, tzinfo=UTC).timestamp()
"""2027-01-04 09:00 UTC, when the made-up experiments begin."""

SPEC: dict[str, Any] = resolve_spec(
    {
        "name": "phase3",
        "symbols": ["AAPL"],
        "ppo": {"n_steps": 512},
        "baselines": {"supervised": {"default": -0.88}},
    },
    "made up",
).model_dump(mode="json")

TRAINER = find_trainer("ppo")

Row = dict[str, float]
Fault = Callable[[Row, float, int], Row | None]
"""(metrics, share of training done, tick number) → changed metrics; None leaves them as they were edited in place."""


def spec_with(**paths: Any) -> dict[str, Any]:
    """The made-up spec with some values changed; dots in paths are written as double underscores."""
    spec = copy.deepcopy(SPEC)
    for path, value in paths.items():
        node = spec
        *tables, key = path.split("__")
        for table in tables:
            node = node[table]
        node[key] = value
    return spec


def healthy(progress: float, tick: int, rng: np.random.Generator, ent_coef: float = 0.01) -> Row:
    """The metrics of one tick of a healthy run."""

    def about(value: float, spread: float) -> float:
        return float(value * (1 + spread * rng.standard_normal()))

    entropy_norm = 0.99 - 0.45 * progress + 0.01 * rng.standard_normal()
    learned = 1 / (1 + math.exp(-8 * (progress - 0.35)))
    shares = np.array([0.78, 0.08, 0.05, 0.03, 0.04, 0.02, 0.0]) * np.exp(0.1 * rng.standard_normal(7))
    shares /= shares.sum()
    actions = np.array([0.45 + 0.2 * progress, 0.1, 0.08, 0.12, 0.1, 0.1, 0.05])
    actions /= actions.sum()
    total = 0.02 + 0.06 * learned + 0.01 * rng.standard_normal()
    row: Row = {
        "policy/policy_loss": 0.002 * float(rng.standard_normal()),
        "policy/entropy": entropy_norm * 1.25,
        "policy/entropy_norm": entropy_norm,
        "policy/kl_divergence": about(0.006, 0.2),
        "policy/kl_max": about(0.02, 0.3),
        "policy/clip_fraction": about(0.05, 0.2),
        "policy/ratio_error": 2e-7,
        "policy/hold_share": float(actions[0]),
        "policy/valid_actions": about(3.6, 0.01),
        "value/value_loss": about(0.4 - 0.2 * learned, 0.05),
        "value/explained_variance": -0.05 if tick == 0 else 0.42 * learned + 0.02 * float(rng.standard_normal()),
        "value/value_mean": 0.3 * learned + 0.02 * float(rng.standard_normal()),
        "value/return_mean": 0.3 * learned + 0.03,
        "value/return_std": about(1.0, 0.05),
        "grad/grad_norm": about(0.65, 0.1),
        "grad/grad_norm_max": about(1.4, 0.2),
        "grad/grad_clipped_pct": 0.6,
        "reward/mean": total / 2,
        "reward/std": about(0.25, 0.05),
        "reward/max_abs": about(2.5, 0.1),
        "reward/total": total,
        "reward/scale": 2.0,
        "reward/clipped_share": 0.0,
        "reward/bimodal_gap": 0.0,
        "reward/rtg_spread": about(0.3, 0.05),
        "reward/rtg_autocorrelation": about(0.98, 0.003),
        "reward/corr_total_gain": about(0.9, 0.03),
        "reward/corr_pnl_sharpe": about(0.6, 0.05),
        "diag/mismatch": 0.0,
        "diag/still_share.policy": 0.0,
        "diag/still_share.value": 0.0,
        "diag/env_twins": 0.0,
        "reward/positive_share": about(0.47, 0.02),
        "episode/episode_reward_mean": 252 * total + 2.0 * float(rng.standard_normal()),
        "episode/episode_reward_std": about(8.0, 0.1),
        "episode/episode_length_mean": 252.0,
        "episode/episode_success_rate": 0.5 + 0.1 * learned,
        "episode/episode_return_mean": 0.02 + 0.05 * learned,
        "episode/episodes": 16.0,
        "episode/trades": about(25, 0.1),
        "perf/steps_per_second": about(1800, 0.03),
        "perf/rollout_s": 0.4,
        "perf/update_s": 1.8,
        "perf/memory_mb": 420.0,
        "diag/ev_reference": 0.3 * learned,
        "diag/update_ratio": about(0.006, 0.1),
        "diag/dormant_share": 0.02,
        "diag/feature_rank": 58.0,
        "diag/advantage_std": about(0.9, 0.05),
        "diag/advantage_signal": about(0.12, 0.1),
        "diag/obs_max_abs": about(9.0, 0.05),
        "diag/obs_clipped_share": 0.0001,
        "diag/gradient_steps": 640.0,
        "diag/nonfinite": 0.0,
        "effective/ppo.learning_rate": 3e-4,
        "effective/ppo.ent_coef": ent_coef,
        "effective/ppo.clip_range": 0.2,
    }
    for i, component in enumerate(COMPONENTS):
        row[f"reward/{component}"] = float(total * shares[i])
        row[f"reward/raw.{component}"] = float(total * shares[i] * 3 + (1e-3 if component == "hold" else 0.0))
        row[f"reward/share.{component}"] = float(shares[i])
        row[f"reward/episode_share.{component}"] = float(shares[i])
    for i, action in enumerate(ACTIONS):
        row[f"policy/share.{action}"] = float(actions[i])
    return row


def evaluation(progress: float, rng: np.random.Generator, best_sharpe: float = 0.6) -> Row:
    """The metrics of one evaluation of a healthy run."""
    learned = 1 / (1 + math.exp(-8 * (progress - 0.35)))
    sharpe = best_sharpe * learned + 0.05 * float(rng.standard_normal())
    return {
        "eval/sharpe_ratio": sharpe,
        "eval/sortino_ratio": 1.3 * sharpe,
        "eval/max_drawdown": 0.14,
        "eval/total_return": 0.2 * sharpe,
        "eval/annual_volatility": 0.18,
        "eval/total_trades": 40.0,
        "eval/trades_per_bar": 0.09,
        "eval/win_rate": 0.54,
        "eval/profit_factor": 1.35,
        "eval/exposure": 0.55,
        "eval/turnover": 14.0,
        "eval/cost_paid": 0.02,
        "eval/hold_share": 0.7,
        "eval/sampled_lead": -0.8,
        "eval/greedy_total_return": 0.2 * sharpe,
        "eval/sampled_total_return": 0.15 * sharpe,
        "eval/greedy_hold_share": 0.7,
        "eval/sampled_hold_share": 0.6,
        "eval/actions_used": 4.0,
        "eval/sharpe_excess": sharpe - 0.35,
        "eval/buy_and_hold_sharpe": 0.35,
        "eval/best_fixed_rule_return": 0.12,
        "eval/train_sharpe_ratio": sharpe + 0.4,
        "eval/holding_winners": 9.0,
        "eval/holding_losers": 7.0,
        "eval/losers_held": 0.2,
        "eval/feature_foresight": 0.04,
        "eval/train_buy_and_hold_sharpe": 0.45,
    }


BASELINES: dict[str, Row] = {
    "hold": {"total_return": 0.0, "max_drawdown": 0.0, "total_trades": 0},
    "buy_and_hold": {"sharpe_ratio": 0.35, "total_return": 0.12, "max_drawdown": 0.22, "total_trades": 2},
    "moving_average": {"sharpe_ratio": 0.21, "total_return": 0.05, "max_drawdown": 0.17, "total_trades": 9},
    "random": {"sharpe_ratio": -0.8, "total_return": -0.16, "max_drawdown": 0.24, "total_trades": 95},
}
REGIMES = {
    "bear": {"bars": 90, "total_return": -0.03, "sharpe_ratio": -0.4},
    "sideways": {"bars": 210, "total_return": 0.04, "sharpe_ratio": 0.5},
    "bull": {"bars": 190, "total_return": 0.11, "sharpe_ratio": 1.2},
}


def equity_curve(seed: int = 5, points: int = 120, grade: float = 0.0012) -> dict[str, Any]:
    """An equity histogram as an evaluation writes it."""
    rng = np.random.default_rng(seed)
    market = rng.normal(0.0004, 0.012, points)
    position = (np.sin(np.arange(points) / 9) > 0).astype(float)
    returns = position * market + grade * position
    start = np.datetime64("2020-06-01")
    return {
        "timestamps": [str(start + int(day)) for day in range(points)],
        "price": (100 * np.cumprod(1 + market)).tolist(),
        "position": position.tolist(),
        "equity": np.cumprod(1 + returns).tolist(),
        "baselines": {
            "hold": [1.0] * points,
            "buy_and_hold": np.cumprod(1 + market).tolist(),
            "moving_average": np.cumprod(1 + np.where(np.arange(points) > 20, market, 0.0)).tolist(),
            "random": np.cumprod(1 + 0.5 * market - 0.0008).tolist(),
        },
        "regime": (["bear"] * (points // 3) + ["sideways"] * (points // 3) + ["bull"] * points)[:points],
        "bars": points,
    }


RETURNS = {"bars": 490, "bars_per_year": 252.0, "skewness": -0.3, "kurtosis": 6.0}


@contextmanager
def clock_at(seconds: float) -> Any:
    """Inside, run directories stamp what they write with this time."""
    with mock.patch("p3kit.rundir.directory.time") as clock:
        clock.time.return_value = seconds
        clock.monotonic.return_value = 0.0
        yield


def made_candidate(symbol: str, step: int, *, edge: float = 0.0, bars: int = 240, trades: int = 20) -> Candidate:
    """The returns of an evaluation: in and out of a made-up market, `edge` a bar better than chance while it is in."""
    market = np.random.default_rng([*symbol.encode()]).normal(0.0004, 0.012, bars)
    position = (np.sin(np.arange(bars) * np.pi * trades / bars * 2 + step / 30_000) > 0).astype(float)
    policy = position * (market + edge)
    return Candidate.of(
        {
            "policy": policy,
            "timing": policy - position.mean() * market,
            "buy_and_hold": market,
            "fixed_rule": np.where(np.arange(bars) > 20, market, 0.0),
        },
        global_step=step,
        span="2020-06-01 to 2021-05-14",
        bars_per_year=252.0,
        trades=trades,
        switches=2 * trades,
        rule="moving average",
    )


def made_verdict(
    grade: str,
    sharpe: float | None,
    step: int,
    baselines: Mapping[str, Row] = BASELINES,
    judged: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A verdict as the runtime journals it."""
    passed = grade != "FAIL"
    value = {"eval/sharpe_ratio": sharpe} if sharpe is not None else {}
    reasons = [
        {"criterion": "validation_sharpe", "value": sharpe, "threshold": "> 0.3", "met": passed, "set": "minimum"},
        {
            "criterion": "explained_variance",
            "value": 0.41,
            "threshold": "≥ 0.30 (ridge)",
            "met": True,
            "set": "minimum",
        },
        {"criterion": "entropy", "value": 0.67, "threshold": "0.5 to 1.5 nats", "met": True, "set": "minimum"},
    ]
    metrics = {"eval/total_return": 0.11, "eval/max_drawdown": 0.14, "eval/total_trades": 40.0, **value}
    interval = None if sharpe is None else [sharpe - 0.9, sharpe + 0.9]
    return {
        "grade": grade,
        "reasons": reasons,
        "over_buy_and_hold": label(judged),
        "judged": judged,
        "labels": [],
        "chosen_step": step,
        "supervised_return": -0.88,
        "metrics": metrics,
        "baselines": dict(baselines),
        "sharpe_interval": interval,
        "excess_interval": None if sharpe is None else [-0.6, 1.1],
    }


def make_run(
    root: Path,
    *,
    symbol: str = "AAPL",
    seed: int = 1,
    name: str = "phase3",
    spec: Mapping[str, Any] | None = None,
    fault: Fault | None = None,
    eval_fault: Fault | None = None,
    state: str = "done",
    until: float = 1.0,
    iteration_ticks: int = 1,
    started: float = MONDAY,
    seconds: float = 600.0,
    verdict: str | None = "PASS",
    best_sharpe: float = 0.6,
    symbols: Sequence[str] | None = None,
    synthetic: bool = False,
    message: str = "",
    agent_name: str | None = None,
    baselines: Mapping[str, Row] = BASELINES,
    point: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    equity: Mapping[str, Any] | None = None,
    edge: float = 0.0,
    keeps_returns: bool = True,
    mode: str | None = "continuous",
) -> RunDir:
    """One run of one agent, written as a trainer would have left it.

    `until` is the share of training that was recorded, `iteration_ticks` the ticks per iteration (4 at the guide's sizes:
    what is known once per iteration then stands in every fourth row), `started` the unix time at which it began. `point`
    is the agent's point of the matrix; its values are set in the agent's spec. `edge` is that of `made_candidate`; an older
    p3kit kept no returns and no `mode` of its evaluations.
    """
    spec = copy.deepcopy(dict(spec or SPEC))
    spec["name"], spec["symbols"] = name, list(symbols or [symbol])
    agent = agent_name or symbol
    agent_spec = copy.deepcopy(spec) | {"matrix": {}}
    for path, value in (point or {}).items():
        agent_spec = with_value(agent_spec, split_path(path), value)
    total = int(spec["ppo"]["total_timesteps"])
    rng = np.random.default_rng([seed, *symbol.encode()])
    folder = root / ".made"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = folder / "trainer.py"
    trainer.write_bytes(TRAINER.read_bytes())
    data = {"fingerprint": f"{symbol.encode().hex()}0000", "source": "synthetic (not real)" if synthetic else "sample"}
    data |= {"synthetic": synthetic, "bars": 3270, "first": "2010-01-04", "last": "2022-12-28", "bars_per_year": 251.9}
    info = {
        "name": name,
        "trainer": spec["trainer"],
        "spec": spec,
        "agents": [
            {
                "name": agent,
                "symbol": symbol,
                "seed": seed,
                "point": dict(point or {}),
                "total_timesteps": total,
                "spec": agent_spec,
            }
        ],
        "env_id": None,
        "data": {symbol: data},
        "command": list(command or ["p3kit", "run", f"specs/{name}.toml"]),
        "created": started,
        "versions": {"python": "3.11.7", "p3kit": "0.1.0", "torch": "2.13.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "notes": [],
    }
    with clock_at(started):
        run = RunDir.create(root, info, f'name = "{name}"\n', trainer)
    rows: list[dict[str, Any]] = []
    ticks = math.ceil(total * until / TICK)
    last_eval = 0
    journal: list[tuple[float, int, Row]] = []
    for tick in range(ticks):
        step = min((tick + 1) * TICK, int(total * until))
        progress, iteration = step / total, tick // iteration_ticks + 1
        metrics = healthy(progress, tick, rng, spec["ppo"]["ent_coef"])
        metrics["realised/ppo.gae_lambda"] = agent_spec["ppo"]["gae_lambda"]
        if fault is not None:
            changed = fault(metrics, progress, tick)
            metrics = metrics if changed is None else changed
        ends_iteration = (tick + 1) % iteration_ticks == 0 or tick == ticks - 1
        if not ends_iteration:
            metrics = {key: value for key, value in metrics.items() if not _once_per_iteration(key)}
        now = started + seconds * progress
        rows.append({"agent": agent, "iteration": iteration, "global_step": step, "time": now, "metrics": metrics})
        if ends_iteration and (step // 5_000 > last_eval // 5_000 or step == total):
            last_eval = step
            scores = evaluation(progress, rng, best_sharpe)
            if eval_fault is not None:
                changed = eval_fault(scores, progress, tick)
                scores = scores if changed is None else changed
            if scores:
                rows.append(
                    {"agent": agent, "iteration": iteration, "global_step": step, "time": now, "metrics": scores}
                )
                journal.append((now, step, scores))
    run.append_metrics(rows)
    best: tuple[float, int] | None = None
    for now, step, scores in journal:
        sharpe = scores.get("eval/sharpe_ratio")
        is_best = sharpe is not None and (best is None or sharpe > best[0])
        if sharpe is not None and is_best:
            best = (sharpe, step)
        interval = None if sharpe is None else [sharpe - 0.9, sharpe + 0.9]
        with clock_at(now):
            run.append_event(
                "evaluation", agent=agent, global_step=step, split="validation", metrics=scores, baselines=baselines,
                regimes=REGIMES, **({"mode": mode} if mode else {}), windows=1, constant=False, new_best=is_best, sharpe_interval=interval,
                returns=None if sharpe is None else RETURNS,
                excess_interval=None if sharpe is None else [-0.6, 1.1],
            )  # fmt: skip
        if keeps_returns:
            trades = 20 if sharpe is not None else 0
            candidate = made_candidate(symbol, step, edge=edge, trades=trades)
            run.write_histogram("returns", agent, step, candidate.to_json())
    ended = started + seconds * until
    reached = rows[-1]["global_step"] if rows else 0
    judged = None
    if state == "done" and verdict is not None:
        chosen = best[1] if best else reached
        found = judge_evaluations(run, info["agents"][0], run.read_events("evaluation"), {"global_step": chosen})
        judged = made_verdict(verdict, best[0] if best else None, chosen, judged=found)
        with clock_at(ended):
            run.append_event("verdict", agent=agent, global_step=reached, **judged)
    if best is not None:
        run.write_histogram("equity", agent, best[1], equity or equity_curve(seed))
    status_of_agent = {
        "symbol": symbol, "state": state, "global_step": reached, "total_timesteps": total, "verdict": judged,
        "steps_per_second": 1800.0, "sharpe": best[0] if best else None,
    }  # fmt: skip
    with clock_at(ended):
        run.write_status({"state": state, "heartbeat": ended, "message": message, "agents": {agent: status_of_agent}})
    return run


def intervene(
    run: RunDir,
    decision: str,
    global_step: int,
    *,
    row: str = "policy.hold",
    keys: Mapping[str, Sequence[Any]] | None = None,
    agent: str | None = "AAPL",
    checkpoint: str | None = None,
    rule: str = "a-rule",
    at: float = MONDAY + 300,
    **more: Any,
) -> None:
    """Journal a decision about an intervention, with the fields that its form has. `more`: those that it may have."""
    with clock_at(at):
        run.append_event(
            "intervention",
            agent=agent,
            global_step=global_step,
            id=rule,
            check="update",
            update=global_step // TICK,
            row=row,
            catalogue_version="p3kit@1",
            cause="ent_coef_low",
            cause_scores={"ent_coef_low": 0.8},
            evidence={"policy/hold_share": [0.97, 0.98, 0.99]},
            threshold=0.95,
            min_data={"have": 6, "need": 3},
            decision=decision,
            reason="cooldown" if decision in ("suppressed", "blocked") else "",
            keys=dict(keys or {}),
            checkpoint=checkpoint,
            rng_digest="0" * 16,
            **{"factor": None, "expired": False, "did": [], **more},
        )


_PER_ITERATION = (
    "value/explained_variance", "value/value_mean", "value/return", "diag/ev_reference", "diag/update_ratio",
    "diag/dormant_share", "diag/dead_share", "diag/feature_rank", "diag/advantage", "diag/obs_",
    "diag/env_twins", "diag/grad_", "policy/ratio_error", "reward/scale",
    "effective/", "perf/",
)  # fmt: skip


def _once_per_iteration(metric: str) -> bool:
    return metric.startswith(_PER_ITERATION)
