# ruff: noqa: E501  (a table of faults reads best with one fault per line)
"""Every detector: raised by its fault, with the right cause and onset, and silent on healthy runs of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p3kit.diagnose import DETECTORS, AgentDiagnosis, Evidence, Finding, diagnose
from p3kit.diagnose.detectors.phase import sen_slope
from p3kit.diagnose.diagnosis import gather_run
from p3kit.diagnose.evidence import Ticks
from p3kit.metrics import COMPONENTS
from tests.made_runs import BASELINES, TICK, Row, make_run, spec_with

Edit = dict[str, float]


def judged(run: Any) -> AgentDiagnosis:
    [diagnosis] = diagnose(run)
    return diagnosis


def finding(diagnosis: AgentDiagnosis, symptom: str) -> Finding:
    [found] = [f for f in diagnosis.findings if f.symptom == symptom]
    return found


def after(onset: float, edit: Edit | Callable[[Row], Edit]) -> Callable[[Row, float, int], None]:
    """A fault that sets metrics from a share of training on."""

    def fault(row: Row, progress: float, tick: int) -> None:
        if progress > onset:
            row.update(edit(row) if callable(edit) else edit)

    return fault


def share_of(component: str, share: float) -> Edit:
    rest = (1 - share) / 6
    shares = {c: share if c == component else rest for c in COMPONENTS}
    return {f"reward/{kind}.{c}": s for c, s in shares.items() for kind in ("share", "episode_share")}


def hacked(progress: float) -> Edit:
    """Reward up, money down, and the time component ever larger."""
    money = {"episode/episode_reward_mean": 100 * progress, "episode/episode_return_mean": 0.1 - 0.3 * progress}
    return share_of("time", 0.05 + 0.2 * progress) | money


HOLD = {"policy/hold_share": 0.985, "policy/entropy_norm": 0.04, "policy/entropy": 0.05}
POOR = {"eval/sharpe_ratio": -0.2, "eval/total_return": -0.05, "eval/sharpe_excess": -0.5}
NEVER = {"eval/total_trades": 0.0, "eval/trades_per_bar": 0.0, "eval/total_return": 0.0, "eval/sampled_hold_share": 1.0}


# (symptom, likeliest cause, fault in the rows, fault in the evaluations, changed spec values)
FAULTS: list[Any] = [
    ("run.slow", "update_bound", after(0, {"perf/steps_per_second": 60.0}), None, {}),
    ("policy.hold", "ent_coef_low", after(0.3, HOLD), None, {"ppo__ent_coef": 0.001}),
    ("policy.hold", "penalty_dominates", lambda r, p, t: r.update(share_of("cost", 0.75) | (HOLD if p > 0.2 else {})), None, {}),
    ("policy.hold", "mask_tight", after(0.2, HOLD | {"policy/valid_actions": 1.1}), None, {}),
    ("policy.correct_inaction", "no_edge", after(0.3, HOLD), after(0, {"eval/best_fixed_rule_return": -0.04}), {}),
    ("train.unstable", "step_size", lambda r, p, t: r.update({"episode/episode_reward_mean": 40.0 * (-1) ** t, "policy/kl_divergence": 0.04}), None, {}),
    ("train.unstable", "noise", lambda r, p, t: r.update({"episode/episode_reward_mean": 40.0 * (-1) ** t}), None, {}),
    ("gen.gap", "shift", None, after(0, {"eval/train_sharpe_ratio": 3.0, "eval/sharpe_ratio": 0.1}), {}),
    ("gen.gap", "overfit", None, lambda r, p, t: r.update({"eval/train_sharpe_ratio": 4 * p, "eval/sharpe_ratio": 0.1}), {}),
    ("mask.violation", "mask_not_applied", after(0.5, {"diag/mask_violations": 3.0}), None, {}),
    ("num.nan", "explosion", after(0.4, {"policy/policy_loss": math.nan, "diag/nonfinite": 9.0, "grad/grad_norm_max": 900.0}), None, {}),
    ("num.nan", "outlier", after(0.4, {"value/value_loss": math.inf, "reward/max_abs": 5e4}), None, {}),
    ("num.nan", "numerics", after(0.4, {"diag/nonfinite": 2.0}), None, {}),
    ("reward.explode", "hack", after(0.5, lambda r: {"reward/total": 15.0, "reward/time": 14.0}), None, {}),
    ("reward.explode", "scale", after(0.5, {"reward/mean": 30.0}), None, {}),
    ("value.fail", "vf_coef_low", lambda r, p, t: r.update({"value/explained_variance": 0.0, "diag/ev_reference": 0.3}), None, {"ppo__vf_coef": 0.0}),
    ("value.fail", "unanchored", lambda r, p, t: r.update({"episode/episodes": 0.0}), None, {"ppo__gamma": 1.0}),
    ("value.fail", "reward_scale", lambda r, p, t: r.update({"value/explained_variance": -2.0, "value/return_std": 800.0}), None, {}),
    ("reward.share", "weights", lambda r, p, t: r.update(share_of("time", 0.6)), None, {}),
    ("reward.share", "weights", lambda r, p, t: r.update(share_of("hold", 0.6) if p < 0.35 else {}), None, {}),
    ("reward.share", "pnl_weight", lambda r, p, t: r.update({"reward/episode_share.pnl": 0.15}), None, {"reward__weights__pnl": 0.05}),
    ("reward.share", "component_drift", after(0.4, share_of("time", 0.4)), None, {}),
    ("reward.dead", "never_fired", lambda r, p, t: r.update({"reward/raw.sizing": 0.0, "reward/share.sizing": 0.0}), None, {}),
    ("reward.one_sign", "offset", lambda r, p, t: r.update({"reward/positive_share": 1.0, "reward/mean": 3.0}), None, {}),
    ("reward.one_sign", "penalties", lambda r, p, t: r.update({"reward/positive_share": 0.0, "reward/mean": -0.3}), None, {}),
    ("reward.tail", "outlier", after(0.3, {"reward/max_abs": 30.0}), None, {}),
    ("reward.corr", "proxy", after(0.3, {"reward/corr_total_gain": 0.05}), None, {}),
    ("reward.corr", "sharpe", after(0.3, {"reward/corr_pnl_sharpe": -0.2, "reward/corr_total_gain": 0.6}), None, {}),
    ("reward.bimodal", "second_mode", after(0.3, {"reward/bimodal_gap": 6.0}), None, {}),
    ("reward.rtg_flat", "gamma_low", lambda r, p, t: r.update({"reward/rtg_spread": 0.01, "value/explained_variance": 0.0}), None, {"ppo__gamma": 0.5}),
    ("reward.rtg_flat", "constant", lambda r, p, t: r.update({"reward/rtg_spread": 0.01, "value/explained_variance": 0.0, "reward/std": 0.0}), None, {}),
    ("reward.rtg_erratic", "noise", after(0.3, {"reward/rtg_autocorrelation": 0.4}), None, {}),
    ("trade.too_many", "cost_weak", None, after(0, {"eval/trades_per_bar": 0.45, "eval/total_return": -0.3}), {}),
    ("trade.never", "cost_strong", None, after(0, NEVER), {}),
    ("trade.never", "one_action", None, after(0, NEVER | {"eval/sampled_hold_share": 0.6}), {}),
    ("trade.drawdown", "drawdown_weak", None, after(0.4, {"eval/max_drawdown": 0.42}), {}),
    ("phase.entropy", "above", lambda r, p, t: r.update({"policy/entropy_norm": 0.96}), None, {}),
    ("phase.ev", "value_learning", after(0.3, {"value/explained_variance": 0.1, "diag/ev_reference": 0.4}), None, {}),
    ("train.clip", "step_size", after(0.2, {"policy/clip_fraction": 0.5}), None, {}),
    ("train.kl", "epochs", after(0.2, {"policy/kl_divergence": 0.08}), None, {"ppo__n_epochs": 40}),
    ("train.kl", "learning_rate", after(0.2, {"policy/kl_max": 3.0, "effective/ppo.learning_rate": 2e-3}), None, {}),
    ("opt.grad", "explosion", after(0.6, {"grad/grad_norm": 40.0, "grad/grad_norm_max": 400.0}), None, {}),
    ("opt.grad", "explosion", after(0.6, {"grad/grad_norm": 9.0}), None, {}),
    ("value.mean", "bias", after(0.2, {"value/value_mean": 9.0}), None, {}),
    ("perf.no_progress", "no_signal", None, after(0, POOR | {"eval/best_fixed_rule_return": 0.02}), {}),
    ("perf.no_progress", "not_learning", None, after(0, POOR), {}),
    ("perf.no_progress", "one_action", None, after(0, POOR | {"eval/sampled_lead": 4.5, "eval/sampled_total_return": 0.3}), {}),
    ("opt.step_too_big", "learning_rate", after(0, {"diag/update_ratio": 0.13, "effective/ppo.learning_rate": 3e-2}), None, {}),
    ("opt.lr_decayed", "schedule", lambda r, p, t: r.update({"effective/ppo.learning_rate": max(3e-4 * (1 - p / 0.3), 1e-7)}), None, {}),
    ("net.dormant", "step_size", after(0.05, {"diag/dormant_share": 0.9, "diag/update_ratio": 0.1}), None, {}),
    ("net.dormant", "initial", lambda r, p, t: r.update({"diag/dormant_share": 0.9}), None, {}),
    ("net.rank", "plasticity", after(0.3, {"diag/feature_rank": 5.0}), None, {}),
    ("policy.frozen", "learning_rate", lambda r, p, t: r.update({"policy/kl_divergence": 1e-8, "effective/ppo.learning_rate": 1e-6, "diag/update_ratio": 1e-5}), None, {}),
    ("policy.frozen", "detached", lambda r, p, t: r.update({"policy/kl_divergence": 1e-8}), None, {}),
    ("policy.uniform", "ent_coef_high", lambda r, p, t: r.update({"policy/entropy_norm": 0.99}), None, {"ppo__ent_coef": 0.5}),
    ("policy.early_entropy", "ent_coef_low", after(0.2, {"policy/entropy_norm": 0.2}), None, {}),
    ("policy.init_scale", "init_gain", lambda r, p, t: r.update({"policy/entropy_norm": 0.5}), None, {"ppo__init_gain": 1.0}),
    ("policy.init_scale", "init_gain", lambda r, p, t: r.update({"policy/entropy_norm": 0.4}), None, {"ppo__init_hold": 2.0}),
    ("policy.greedy_worse", "one_action", None, after(0.4, {"eval/sampled_lead": 4.5, "eval/greedy_hold_share": 0.94}), {}),
    ("ppo.ratio_ne_1", "stored_log_prob", lambda r, p, t: r.update({"policy/ratio_error": 0.08}), None, {}),
    ("ppo.adv_std", "constant_reward", lambda r, p, t: r.update({"diag/advantage_std": 1e-9}), None, {}),
    ("ppo.adv_std", "constant_reward", lambda r, p, t: r.update({"reward/std": 0.0, "reward/mean": 1.0}), None, {}),
    ("reward.scale", "too_small", lambda r, p, t: r.update({"reward/std": 1e-4}), None, {"reward__scaling": "none"}),
    ("ppo.adv_signal", "misaligned", lambda r, p, t: r.update({"diag/advantage_signal": -0.001}), None, {}),
    ("ppo.adv_signal", "sign", lambda r, p, t: r.update({"diag/advantage_signal": -0.1}), None, {}),
    ("reward.scale", "too_large", lambda r, p, t: r.update({"value/return_std": 900.0}), None, {"reward__scaling": "none"}),
    ("reward.scale", "too_small", lambda r, p, t: r.update({"value/return_std": 1e-4}), None, {"reward__scaling": "none"}),
    ("reward.scale", "too_large", lambda r, p, t: r.update({"reward/clipped_share": 0.6}), None, {"reward__scaling": "none"}),
    ("reward.scale", "clip", lambda r, p, t: r.update({"reward/clipped_share": 0.6}), None, {"reward__clip": 0.1}),
    ("obs.scale", "not_normalised", lambda r, p, t: r.update({"diag/obs_max_abs": 1e4, "diag/obs_clipped_share": 0.05}), None, {"observation__normalize": "none"}),
    ("obs.scale", "clip", lambda r, p, t: r.update({"diag/obs_max_abs": 0.2, "diag/obs_clipped_share": 0.4}), None, {"observation__clip": 0.2}),
    ("obs.scale", "outliers", lambda r, p, t: r.update({"diag/obs_max_abs": 10.0, "diag/obs_clipped_share": 0.1}), None, {"observation__clip": 10.0}),
    ("env.no_end", "truncation_missing", lambda r, p, t: r.update({"episode/episodes": 0.0}), None, {}),
    ("data.leak", "future_feature", None, after(0.2, {"eval/sharpe_ratio": 9.5}), {}),
    ("data.leak", "future_feature", None, after(0, {"eval/feature_foresight": 0.7}), {}),
    ("trade.exit_early", "time_high", None, after(0, {"eval/holding_winners": 2.0, "eval/holding_losers": 9.0}), {}),
    ("trade.exit_early", "stop_or_target", None, after(0, {"eval/holding_winners": 2.0}), {"env__target": 0.01}),
    ("trade.hold_losers", "no_stop", None, after(0, {"eval/losers_held": 1.0, "eval/holding_losers": 60.0}), {}),
    ("trade.hold_losers", "time_low", None, after(0, {"eval/losers_held": 1.0, "eval/holding_losers": 60.0}), {"env__stop": 0.02}),
    ("phase.reward", "overfit", None, lambda r, p, t: r.update({"eval/sharpe_ratio": 3 - 3 * p, "eval/train_sharpe_ratio": 2 + p}), {}),
    ("phase.reward", "unstable", None, lambda r, p, t: r.update({"eval/sharpe_ratio": 3 - 3 * p, "eval/train_sharpe_ratio": 4 - 3 * p}), {}),
    ("net.dead_relu", "initial", lambda r, p, t: r.update({"diag/dead_share": 0.8}), None, {"ppo__activation": "relu"}),
    ("net.dead_relu", "step_size", after(0.05, {"diag/dead_share": 0.8, "diag/update_ratio": 0.1}), None, {"ppo__activation": "relu"}),
    ("reward.hack", "component_drift", lambda r, p, t: r.update(hacked(p)), None, {}),
    ("reward.hack", "action_pays", lambda r, p, t: r.update(hacked(p) | share_of("time", 0.1) | {"reward/beside_pnl.SELL_HALF": 0.9}), None, {}),
    ("obs.drift", "running", after(0.3, {"diag/obs_drift": 2.0}), None, {"observation__normalize": "running"}),
    ("env.duplicate", "shared_seed", lambda r, p, t: r.update({"diag/env_twins": 0.8}), None, {}),
    ("multi.interference", "scale", lambda r, p, t: r.update({"diag/grad_share": 0.95, "diag/grad_cosine": 0.1}), None, {"symbols": ["AAPL", "B", "C", "D", "E", "F"], "reward__scaling": "none"}),
    ("multi.interference", "conflict", lambda r, p, t: r.update({"diag/grad_share": 0.2, "diag/grad_cosine": -0.5}), None, {}),
    ("spec.no_effect", "loss", lambda r, p, t: r.update({"realised/ppo.ent_coef": -0.01}), None, {}),
    ("spec.no_effect", "optimiser", after(0.4, {"realised/ppo.learning_rate": 3e-5}), None, {}),
    ("spec.no_effect", "targets", lambda r, p, t: r.update({"realised/ppo.gamma": 0.9}), None, {}),
    ("spec.no_effect", "reward", after(0.4, {"realised/reward.weights.time": -0.15}), None, {}),
    ("spec.no_effect", "count", lambda r, p, t: r.update({"realised/ppo.n_epochs": 1.0}), None, {}),
    ("env.mismatch", "reward", after(0.2, {"diag/mismatch": 0.06, "mismatch/reward.time": 0.06}), None, {}),
    ("env.mismatch", "account", after(0.2, {"diag/mismatch": 0.06, "mismatch/reward.pnl": 0.06, "mismatch/equity": 0.06}), None, {}),
    ("env.mismatch", "observation", lambda r, p, t: r.update({"diag/mismatch": 0.5, "mismatch/feature.rsi_14": 0.5}), None, {}),
    ("env.mismatch", "targets", after(0.2, {"diag/mismatch": 1.0, "mismatch/learnt.returns": 0.03, "change/learnt.returns.shift": 1.0}), None, {}),
    ("env.mismatch", "episode_end", after(0.2, {"diag/mismatch": 1.0, "mismatch/stored.truncated": 0.03}), None, {}),
    ("env.mismatch", "stored", after(0.2, {"diag/mismatch": 1.0, "mismatch/value loss": 1.0}), None, {}),
    ("net.still", "no_gradient", lambda r, p, t: r.update({"diag/still_share.value": 1.0}), None, {}),
    ("net.still", "no_weight", lambda r, p, t: r.update({"diag/still_share.value": 1.0}), None, {"ppo__vf_coef": 0.0}),
    ("data.break", "column", lambda r, p, t: r.update({"mismatch/column.vix": 1.0}), None, {}),
    ("train.growth", "gradient", lambda r, p, t: r.update({"grad/grad_norm": 0.5 * 60**p, "value/return_std": 1.0}), None, {}),
    ("train.growth", "value", lambda r, p, t: r.update({"value/value_loss": 0.3 * 12**p, "value/return_std": 1.0}), None, {}),
    ("train.growth", "weights", lambda r, p, t: r.update({"diag/weight_norm.policy": 10 * 3**p}), None, {}),
    ("mask.tight", "mask_rules", lambda r, p, t: r.update({"policy/valid_actions": 1.2}), None, {}),
]  # fmt: skip


@pytest.mark.parametrize("iteration_ticks", [1, 4], ids=["tick", "guide-sizes"])
@pytest.mark.parametrize(
    ("symptom", "cause", "fault", "eval_fault", "changed"), FAULTS, ids=[f"{case[0]}-{case[1]}" for case in FAULTS]
)
def test_fault_is_found_with_its_cause(
    symptom: str, cause: str, fault: Any, eval_fault: Any, changed: dict[str, Any], iteration_ticks: int, tmp_path: Path
) -> None:
    spec = spec_with(**changed)
    run = make_run(tmp_path, spec=spec, fault=fault, eval_fault=eval_fault, iteration_ticks=iteration_ticks)
    found = finding(judged(run), symptom)
    assert found.state == "raised", found.evidence
    assert found.causes[0].id == cause, found.causes
    assert found.value is not None
    assert found.since_step is not None


def test_every_detector_has_a_fault_that_raises_it() -> None:
    elsewhere = {"run.oom", "multi.outlier_agent", "repro.drift", "intervention.oscillates", "policy.loss"}
    assert {case[0] for case in FAULTS} | elsewhere == set(DETECTORS)


def test_an_agent_unlike_the_others_is_named(tmp_path: Path) -> None:
    own = make_run(tmp_path, fault=after(0.2, {"value/return_std": 9.0, "reward/std": 4.0}))
    others = [make_run(tmp_path, seed=seed) for seed in range(2, 7)]
    [evidence] = gather_run(own)
    peers = [one for run in others for one in gather_run(run)]

    def outlier(mine: Evidence, theirs: list[Evidence]) -> Finding:
        return DETECTORS["multi.outlier_agent"](replace(mine, peers=theirs))

    assert outlier(evidence, peers).causes[0].id == "data"
    assert outlier(peers[0], [*peers[1:], evidence]).state == "ok"  # one odd agent does not make the others odd
    assert outlier(evidence, peers[:3]).state == "not_enough_data"


def test_the_same_spec_and_seed_with_other_numbers_is_said(tmp_path: Path) -> None:
    make_run(tmp_path)
    same = make_run(tmp_path)
    assert finding(judged(same), "repro.drift").state == "ok"
    assert "equal those of run-1" in finding(judged(same), "repro.drift").evidence
    drifted = make_run(tmp_path, fault=after(0, {"value/value_loss": 0.123}))
    assert finding(judged(drifted), "repro.drift").severity == "information"
    assert "value/value_loss is 0.123 here" in finding(judged(drifted), "repro.drift").evidence
    alone = make_run(tmp_path / "elsewhere")
    assert finding(judged(alone), "repro.drift").state == "not_enough_data"
    other_spec = make_run(tmp_path, spec=spec_with(ppo__ent_coef=0.02))
    assert finding(judged(other_spec), "repro.drift").state == "not_enough_data"


def test_interventions_that_undo_each_other_are_found(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    steps = [(8 * TICK, 0.01, 0.05), (9 * TICK, 0.05, 0.01), (11 * TICK, 0.01, 0.05), (12 * TICK, 0.05, 0.01)]
    for step, before, to in steps[:2]:
        run.append_event("intervention", agent="AAPL", global_step=step, keys={"ppo.ent_coef": [before, to]})
    assert finding(judged(run), "intervention.oscillates").state == "ok"
    for step, before, to in steps[2:]:
        run.append_event("intervention", agent="AAPL", global_step=step, keys={"ppo.ent_coef": [before, to]})
    found = finding(judged(run), "intervention.oscillates")
    assert found.raised
    assert "ppo.ent_coef" in found.evidence


def test_a_market_that_was_kinder_in_training_is_no_gap_of_the_policy(tmp_path: Path) -> None:
    gap = {"eval/train_sharpe_ratio": 3.0, "eval/sharpe_ratio": 0.1}
    assert finding(judged(make_run(tmp_path, eval_fault=after(0, gap))), "gen.gap").raised
    kinder = gap | {"eval/train_buy_and_hold_sharpe": 2.5, "eval/buy_and_hold_sharpe": -0.5}
    assert finding(judged(make_run(tmp_path, eval_fault=after(0, kinder))), "gen.gap").state == "ok"


@pytest.mark.parametrize(("interval", "state"), [([8.6, 10.4], "raised"), ([6.0, 13.0], "ok")])
def test_luck_on_a_short_split_is_no_leak(interval: list[float], state: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, eval_fault=after(0, {"eval/sharpe_ratio": 9.5}))
    [evidence] = gather_run(run)
    events = [{**event, "sharpe_interval": interval} for event in evidence.events]
    assert DETECTORS["data.leak"](replace(evidence, events=events)).state == state


def test_an_account_that_is_never_closed_is_no_gap_of_the_policy(tmp_path: Path) -> None:
    gap = {"eval/train_sharpe_ratio": 3.0, "eval/sharpe_ratio": 0.1}
    for windowed, state in ((0.2, "raised"), (2.8, "ok")):
        run = make_run(tmp_path, eval_fault=after(0, gap | {"eval/windowed_sharpe_ratio": windowed}))
        found = finding(judged(run), "gen.gap")
        assert found.state == state
        assert found.state == "ok" or "0.20 in validation, both in windows that start flat" in found.evidence


def test_a_reward_without_pnl_is_a_choice(tmp_path: Path) -> None:
    spec = spec_with(reward__weights__pnl=0.0)
    run = make_run(tmp_path, spec=spec, fault=lambda r, p, t: r.update({"reward/episode_share.pnl": 0.0}))
    assert finding(judged(run), "reward.share").state == "ok"


@pytest.mark.parametrize(("sharpe", "severity"), [(-0.4, "warning"), (1.2, "information")])
def test_greedy_that_earns_all_the_same_is_no_alarm(sharpe: float, severity: str, tmp_path: Path) -> None:
    late = after(0.5, {"eval/sampled_lead": 4.0, "eval/greedy_sharpe_ratio": sharpe})
    assert finding(judged(make_run(tmp_path, eval_fault=late)), "policy.greedy_worse").severity == severity


@pytest.mark.parametrize(
    ("lead", "changed"),
    [
        (after(0.4, {"eval/sampled_lead": 2.5}), {}),
        (after(0, {"eval/sampled_lead": 9.0}), {"evaluation__action": "sampled"}),
    ],
)
def test_a_small_lead_or_a_run_that_samples_is_no_fault_of_greedy(lead: Any, changed: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path, spec=spec_with(**changed), eval_fault=lead)
    assert finding(judged(run), "policy.greedy_worse").state == "ok"


def test_the_reason_is_given_where_sampled_is_not_played(tmp_path: Path) -> None:
    def unplayed(row: Row, progress: float, tick: int) -> None:
        del row["eval/sampled_lead"]

    run = make_run(tmp_path, spec=spec_with(evaluation__action="sharpened"), eval_fault=unplayed)
    found = finding(judged(run), "policy.greedy_worse")
    assert (found.state, found.evidence) == (
        "no_evidence",
        "not recorded: eval/sampled_lead; the agent acts by the rule sharpened",
    )


def test_a_flat_policy_is_not_excused_by_the_market(tmp_path: Path) -> None:
    gap = {"eval/train_sharpe_ratio": 3.0, "eval/sharpe_ratio": 0.1}
    market = {"eval/train_buy_and_hold_sharpe": 2.5, "eval/buy_and_hold_sharpe": -0.5}
    for seen, state in ((0.05, "raised"), (0.9, "ok")):
        edit = gap | market | {"eval/market_correlation": seen}
        assert finding(judged(make_run(tmp_path, eval_fault=after(0, edit))), "gen.gap").state == state


def test_a_seed_that_is_not_used_is_named(tmp_path: Path) -> None:
    [own], [same] = (gather_run(make_run(tmp_path, spec=spec_with(seeds=[seed]))) for seed in (1, 2))
    found = DETECTORS["spec.no_effect"](replace(own, peers=[same]))
    assert found.causes[0].id == "seed"
    assert DETECTORS["spec.no_effect"](replace(own, peers=[replace(same, spec=own.spec)])).state != "raised"


def test_two_evaluations_close_together_are_information(tmp_path: Path) -> None:
    """Evidence is counted in training, not in rows."""
    [evidence] = gather_run(
        make_run(tmp_path, eval_fault=after(0, {"eval/trades_per_bar": 0.45, "eval/total_return": -0.3}))
    )
    found = DETECTORS["trade.too_many"](evidence)
    assert found.severity == "warning"
    longer = replace(evidence, total_timesteps=20 * evidence.total_timesteps)
    assert DETECTORS["trade.too_many"](longer).severity == "information"


def test_an_exact_row_explains_what_shows_with_it(tmp_path: Path) -> None:
    broken = {"diag/mismatch": 0.5, "mismatch/reward.pnl": 0.5, "reward/corr_total_gain": 0.05}
    diagnosis = judged(make_run(tmp_path, fault=lambda row, progress, tick: row.update(broken)))
    assert finding(diagnosis, "env.mismatch").follows is None
    assert finding(diagnosis, "reward.corr").follows == "env.mismatch"


def test_weights_of_the_reward_have_no_effect_on_a_task_and_that_is_right(tmp_path: Path) -> None:
    run = make_run(tmp_path, fault=lambda row, progress, tick: row.update({"realised/reward.weights.pnl": 1.0}))
    [evidence] = gather_run(run)
    assert DETECTORS["spec.no_effect"](evidence).state == "raised"
    assert DETECTORS["spec.no_effect"](replace(evidence, task="LunarLander-v3")).state != "raised"


def test_gradients_of_a_task_are_judged_by_the_returns_of_their_own_iteration() -> None:
    """A rollout of several ticks records its returns at its end, after the first gradients."""
    steps, iterations = TICK * np.arange(1, 9), np.arange(8) // 4
    series = {name: Ticks(steps, np.full(8, 270.0), iterations) for name in ("grad/grad_norm", "grad/grad_norm_max")}
    for spread, state in ((30.0, "ok"), (1.0, "raised")):
        returns = {"value/return_std": Ticks(steps[3::4], np.full(2, spread), iterations[3::4])}
        evidence = Evidence("A", series | returns, {}, 8 * TICK, task="LunarLander-v3")
        assert DETECTORS["opt.grad"](evidence).state == state


@pytest.mark.parametrize(
    ("symptom", "fault", "eval_fault"),
    [
        ("trade.never", None, after(0, NEVER | {"eval/sampled_hold_share": 0.6})),
        ("policy.uniform", after(0, {"policy/entropy_norm": 0.99}), after(0, {"eval/best_fixed_rule_return": -0.05})),
    ],
)
def test_an_outcome_that_is_no_fault_of_the_policy_is_information(
    tmp_path: Path, symptom: str, fault: Any, eval_fault: Any
) -> None:
    assert finding(judged(make_run(tmp_path, fault=fault, eval_fault=eval_fault)), symptom).severity == "information"


def test_the_first_policy_is_judged_and_not_the_first_tick(tmp_path: Path) -> None:
    [evidence] = gather_run(make_run(tmp_path))
    steps, values = np.arange(1, 9) * TICK // 4, np.array([0.99, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
    for first, state in ((0, "ok"), (1, "ok"), (2, "raised")):
        own = Ticks(steps[: 8 - first], values[first:], np.arange(8 - first))
        learnt = replace(evidence, series={**evidence.series, "policy/entropy_norm": own})
        assert DETECTORS["policy.init_scale"](learnt).state == state


@pytest.mark.parametrize(
    ("gamma", "task", "state"), [(1.0, "", "raised"), (0.999, "", "ok"), (1.0, "CartPole-v1", "ok")]
)
def test_truncated_episodes_anchor_no_value_without_a_discount(
    tmp_path: Path, gamma: float, task: str, state: str
) -> None:
    [evidence] = gather_run(make_run(tmp_path, spec=spec_with(ppo__gamma=gamma)))
    assert DETECTORS["value.fail"](replace(evidence, task=task)).state == state


def test_policy_loss_is_told_and_never_judged(tmp_path: Path) -> None:
    found = finding(judged(make_run(tmp_path, fault=after(0.2, {"policy/policy_loss": 5.0}))), "policy.loss")
    assert found.state == "ok"
    assert "no sign of health" in found.evidence


def test_a_rising_reward_with_rising_money_is_no_hack(tmp_path: Path) -> None:
    def honest(row: Row, progress: float, tick: int) -> None:
        row.update({"episode/episode_reward_mean": 100 * progress, "episode/episode_return_mean": 0.3 * progress})

    assert finding(judged(make_run(tmp_path, fault=honest)), "reward.hack").state == "ok"


def test_sens_slope_is_that_of_a_line_and_its_interval_widens_with_noise() -> None:
    time = np.linspace(0, 1, 9)
    assert sen_slope(time, 2 - 3 * time) == pytest.approx((-3, -3))
    twice = np.repeat(time, 2)
    assert sen_slope(twice, 2 - 3 * twice) == pytest.approx((-3, -3))
    rng = np.random.default_rng(0)
    noise = [sen_slope(time, rng.normal(size=9))[1] < 0 for _ in range(400)]
    assert np.mean(noise) < 0.06


@pytest.mark.parametrize("iteration_ticks", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_healthy_runs_stay_silent(seed: int, iteration_ticks: int, tmp_path: Path) -> None:
    diagnosis = judged(make_run(tmp_path, seed=seed, iteration_ticks=iteration_ticks))
    assert [f"{f.symptom}: {f.evidence}" for f in diagnosis.raised] == []
    assert diagnosis.clean
    assert diagnosis.patch == ""


@pytest.mark.parametrize(
    "edit",
    [
        lambda r, p, t: r.update({"effective/ppo.learning_rate": 3e-4 * (1 - 0.97 * p), "policy/kl_divergence": 0.006 * (1 - 0.97 * p) ** 2, "diag/update_ratio": 0.006 * (1 - 0.97 * p)}),
        lambda r, p, t: r.update({"effective/ppo.ent_coef": 0.05 * (1 - p) + 0.001 * p}),
        lambda r, p, t: r.update({"grad/grad_clipped_pct": 0.96}),
        lambda r, p, t: r.update({"value/explained_variance": 0.02, "diag/ev_reference": -0.4}),
        lambda r, p, t: r.update({"reward/total": 1.5, "reward/pnl": 1.45}) if p > 0.5 else None,
        lambda r, p, t: r.update({"value/explained_variance": -0.3, "diag/ev_reference": 0.1, "value/return_std": 0.05, "value/return_mean": -1.5 + 1.2 * p, "value/value_mean": -1.53 + 1.2 * p}),
    ],
    ids=["lr-decay", "ent-decay", "always-clipped", "unpredictable-market", "volatile-second-half", "goes-flat"],
)  # fmt: skip
def test_healthy_variants_raise_no_alarm(edit: Any, tmp_path: Path) -> None:
    diagnosis = judged(make_run(tmp_path, fault=edit))
    assert [f.symptom for f in diagnosis.findings if f.alarming] == []


@pytest.mark.parametrize(("hold", "state"), [(0.0, "raised"), (2.0, "ok")])
def test_a_first_policy_that_begins_with_hold_has_less_entropy(tmp_path: Path, hold: float, state: str) -> None:
    """With HOLD at a logit of 2, two valid actions leave 0.53 of the maximum, seven 0.79."""
    path = make_run(
        tmp_path, spec=spec_with(ppo__init_hold=hold), fault=lambda r, p, t: r.update({"policy/entropy_norm": 0.6})
    )
    assert finding(judged(path), "policy.init_scale").state == state


# (symptom, fault in the rows, ticks after which it must be raised, changed spec values): no healthy run comes near these
GROSS: list[Any] = [
    ("policy.frozen", after(0, {"policy/kl_divergence": 1e-8}), 2, {}),
    ("ppo.adv_signal", after(0, {"diag/advantage_signal": 0.0}), 3, {}),
    ("reward.scale", after(0, {"value/return_std": 900.0}), 1, {"reward__scaling": "none"}),
    ("reward.scale", after(0, {"reward/std": 1e-5}), 1, {"reward__scaling": "none"}),
    ("obs.scale", after(0, {"diag/obs_max_abs": 1e4}), 1, {"observation__normalize": "none", "observation__clip": 1e9}),
    ("mask.tight", after(0, {"policy/valid_actions": 1.2}), 1, {}),
    ("reward.corr", after(0, {"reward/corr_total_gain": -0.9}), 1, {}),
    ("reward.share", after(0, share_of("time", 0.8)), 2, {}),
    ("reward.share", after(0, share_of("hold", 0.6)), 2, {}),
    ("value.fail", after(0, {"value/explained_variance": -1.4}), 4, {}),
    ("policy.uniform", after(0, {"policy/entropy_norm": 0.997}), 6, {"ppo__ent_coef": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("symptom", "fault", "ticks", "changed"), GROSS, ids=[case[0] for case in GROSS])
def test_a_gross_breach_is_not_waited_for(
    symptom: str, fault: Any, ticks: int, changed: dict[str, Any], tmp_path: Path
) -> None:
    def after_ticks(count: int) -> Finding:
        until = count * TICK / 100_000
        run = make_run(tmp_path, spec=spec_with(**changed), fault=fault, until=until, state="running")
        return finding(judged(run), symptom)

    assert after_ticks(ticks).raised, after_ticks(ticks).evidence
    if ticks > 1:
        assert after_ticks(ticks - 1).state == "not_enough_data"  # and never "ok" before the row's own minimum


@pytest.mark.parametrize(
    ("symptom", "edit"),
    [
        # a policy that stays out: an erratic value of next to nothing, few features
        ("value.fail", lambda r, p, t: r.update({"value/explained_variance": -0.6, "policy/hold_share": 0.97} if p > 0.3 else {})),
        ("net.rank", lambda r, p, t: r.update({"diag/feature_rank": 48 * (1 - p) ** 2 + 4})),
        # a policy that has settled
        ("ppo.adv_signal", lambda r, p, t: r.update({"diag/advantage_signal": 0.15 if p < 0.5 else 0.02})),
        ("ppo.adv_signal", lambda r, p, t: r.update({"diag/advantage_signal": 0.0, "policy/kl_divergence": 2e-4} if p > 0.3 else {})),
        # near uniform half way, as in a market that pays little, with the guide's bonus
        ("policy.uniform", lambda r, p, t: r.update({"policy/entropy_norm": 0.995 if p < 0.45 else 0.9})),
        ("policy.uniform", lambda r, p, t: r.update({"policy/entropy_norm": 1 - 0.05 * p * p})),  # late, and on its way
        ("reward.corr", after(0.3, {"reward/corr_pnl_sharpe": -0.3})),  # where reward means equity all the same
    ],
)  # fmt: skip
def test_what_healthy_runs_do_late_or_slowly_is_no_alarm(symptom: str, edit: Any, tmp_path: Path) -> None:
    assert not finding(judged(make_run(tmp_path, fault=edit)), symptom).alarming


def test_reduced_precision_may_move_the_ratio(tmp_path: Path) -> None:
    def rounded(row: Row, progress: float, tick: int) -> None:
        row["policy/ratio_error"] = 1.5e-2

    sick = judged(make_run(tmp_path, fault=rounded))
    fine = judged(make_run(tmp_path, fault=rounded, spec=spec_with(compute__precision="bf16")))
    assert finding(sick, "ppo.ratio_ne_1").raised
    assert finding(fine, "ppo.ratio_ne_1").state == "ok"


def test_a_drawdown_that_the_market_shared_is_information(tmp_path: Path) -> None:
    shallow = judged(make_run(tmp_path, eval_fault=after(0.4, {"eval/max_drawdown": 0.42})))
    assert finding(shallow, "trade.drawdown").severity == "warning"  # buy-and-hold fell by 22%
    deep = {**BASELINES, "buy_and_hold": {**BASELINES["buy_and_hold"], "max_drawdown": 0.55}}
    market = make_run(tmp_path, eval_fault=after(0.4, {"eval/max_drawdown": 0.42}), baselines=deep)
    assert finding(judged(market), "trade.drawdown").severity == "information"


def test_no_edge_makes_hold_right(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, fault=after(0.3, HOLD), eval_fault=after(0, NEVER | {"eval/best_fixed_rule_return": -0.02})
    )
    diagnosis = judged(run)
    assert finding(diagnosis, "policy.hold").state == "ok"
    assert finding(diagnosis, "policy.correct_inaction").raised
    assert finding(diagnosis, "trade.never").severity == "information"
    assert diagnosis.clean
    assert diagnosis.patch == ""


def test_collapse_that_no_evaluation_judged_is_raised_and_says_so(tmp_path: Path) -> None:
    def unevaluated(row: Row, progress: float, tick: int) -> Row:
        return {}

    found = finding(
        judged(make_run(tmp_path, fault=after(0.1, HOLD), eval_fault=unevaluated, until=0.4)), "policy.hold"
    )
    assert found.raised
    assert "it is unknown whether HOLD is right" in found.evidence


def test_a_late_collapse_is_not_premature(tmp_path: Path) -> None:
    assert not finding(judged(make_run(tmp_path, fault=after(0.85, HOLD))), "policy.hold").raised


def test_onset_and_end_are_told(tmp_path: Path) -> None:
    def passing(row: Row, progress: float, tick: int) -> None:
        if 6 <= tick < 12:
            row.update(HOLD)

    found = finding(judged(make_run(tmp_path, fault=passing)), "policy.hold")
    assert found.since_step == 7 * TICK
    assert found.until_step == 13 * TICK
    assert not found.open


def test_out_of_memory_is_an_event(tmp_path: Path) -> None:
    run = make_run(tmp_path, until=0.3, state="failed", message="CUDA out of memory. Tried to allocate 2.00 GiB")
    run.append_event("oom", message="CUDA out of memory. Tried to allocate 2.00 GiB", memory_mb=15_900.0)
    found = finding(judged(run), "run.oom")
    assert found.raised
    assert "2.00 GiB" in found.evidence
    assert [change.path for change in found.changes] == ["ppo.batch_size", "ppo.accumulation_steps"]


def test_a_refused_masked_action_is_found_in_the_last_words_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, until=0.3, state="failed", message="AAPL: masked action SELL_ALL selected in 2 accounts")
    found = finding(judged(run), "mask.violation")
    assert found.raised
    assert found.patch == ""


def test_a_component_that_is_not_finite_is_named(tmp_path: Path) -> None:
    message = "AAPL bar 812: reward component pnl is not finite"
    found = finding(judged(make_run(tmp_path, until=0.3, state="failed", message=message)), "num.nan")
    assert found.raised
    assert found.causes[0].id == "reward"
    assert found.patch == ""  # a patch would hide a fault of data or code


@pytest.mark.parametrize("share", [0.0, 0.04, 0.1, 0.2, 0.5])
def test_before_the_minimum_a_row_never_says_ok(share: float, tmp_path: Path) -> None:
    diagnosis = judged(make_run(tmp_path, until=share, state="running"))
    assert diagnosis.raised == ()
    for row in diagnosis.findings:
        if row.state == "not_enough_data":
            assert row.have
            assert row.need
    if share == 0.0:
        assert {row.state for row in diagnosis.findings} <= {"not_enough_data", "ok"}
        assert {row.symptom for row in diagnosis.findings if row.state == "ok"} == {
            "run.oom",
            "intervention.oscillates",
        }


def test_a_metric_that_was_not_recorded_is_no_evidence(tmp_path: Path) -> None:
    def without(row: Row, progress: float, tick: int) -> Row:
        return {key: value for key, value in row.items() if not key.startswith("diag/")}

    diagnosis = judged(make_run(tmp_path, fault=without))
    assert finding(diagnosis, "net.dormant").state == "no_evidence"
    assert "diag/dormant_share" in finding(diagnosis, "net.dormant").evidence


def test_judged_live_or_afterwards_a_row_is_raised_at_the_same_step(tmp_path: Path) -> None:
    fault = after(0.3, HOLD)
    whole = finding(judged(make_run(tmp_path, fault=fault)), "policy.hold")
    for until in (0.5, 0.7):
        live = finding(judged(make_run(tmp_path, fault=fault, until=until, state="running")), "policy.hold")
        assert live.since_step == whole.since_step


def test_a_row_can_be_overridden_in_the_spec(tmp_path: Path) -> None:
    fault = after(0.2, {"policy/clip_fraction": 0.3})
    lenient = judged(make_run(tmp_path, fault=fault))
    rows = {"train.clip": {"warn": 0.2, "critical": None, "patience": None}}
    strict = judged(make_run(tmp_path, fault=fault, spec=spec_with(diagnose__rows=rows)))
    assert finding(lenient, "train.clip").state == "ok"
    assert finding(strict, "train.clip").raised
    assert finding(strict, "train.clip").threshold == 0.2


@pytest.mark.parametrize(("changed", "raised"), [(True, False), (False, True)])
def test_the_effect_of_an_own_change_is_no_symptom(changed: bool, raised: bool, tmp_path: Path) -> None:
    """A jump of the reward right after an intervention edited it is raised only without that intervention."""
    run = make_run(tmp_path, fault=after(0.5, {"reward/mean": 30.0, "reward/total": 15.0}))
    plain = finding(judged(run), "reward.explode")
    assert plain.raised
    keys = {"reward.weights.pnl": [0.4, 4.0 if changed else 0.4]}
    step = plain.since_step - TICK
    run.append_event("intervention", agent="AAPL", global_step=step, decision="fired", id="own", keys=keys, did=[])
    assert finding(judged(run), "reward.explode").raised == raised


def test_a_fault_that_goes_on_after_an_own_change_is_still_raised(tmp_path: Path) -> None:
    run = make_run(tmp_path, fault=after(0.5, {"diag/update_ratio": 0.2}))
    plain = finding(judged(run), "opt.step_too_big")
    keys = {"ppo.learning_rate": [0.1, 0.01]}
    step = plain.since_step - TICK
    run.append_event("intervention", agent="AAPL", global_step=step, decision="fired", id="own", keys=keys, did=[])
    assert finding(judged(run), "opt.step_too_big").raised


@pytest.mark.parametrize(("path", "is_named"), [("ppo.clip_range", False), ("ppo.ent_coef", True)])
def test_a_setting_that_is_only_estimated_is_not_named_after_one_update(
    path: str, is_named: bool, tmp_path: Path
) -> None:
    def once(row: Row, progress: float, tick: int) -> None:
        row.update({f"realised/{path}": 0.9} if tick == 5 else {})

    assert finding(judged(make_run(tmp_path / "one", fault=once)), "spec.no_effect").raised == is_named
    always = make_run(tmp_path / "all", fault=lambda row, *_: row.update({f"realised/{path}": 0.9}))
    assert finding(judged(always), "spec.no_effect").raised
