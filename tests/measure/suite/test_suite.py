"""The suite's own machinery: cases that load, hooks that bite, scores that are right, runs judged as they were live."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import p3kit.runtime.run as runtime
import p3kit.runtime.run_market as run_market
from p3kit.diagnose import gather_run
from p3kit.env import make_trading_env
from p3kit.market import load_market
from p3kit.rundir import RunDir
from p3kit.spec import resolve_spec
from tests.made_runs import TICK, make_run
from tests.measure.suite.__main__ import SCORE_SEEDS, full_tier
from tests.measure.suite.admission import admit, permutation_p
from tests.measure.suite.cases import SIZES, Case, Sizes, load_cases, load_controls, load_faults
from tests.measure.suite.hooks import HOOKS, Scene
from tests.measure.suite.scoring import Alarm, Outcome, Score, accepted, delay, judge_live, summarise, wilson
from tests.measure.suite.suite_runs import NOTE, SPENT, Job, fingerprint, finished, plan, train
from tests.measure.suite.tables import (
    BEGIN,
    END,
    PAGE,
    RESULTS,
    How,
    as_document,
    as_markdown,
    page_section,
    read_document,
)

CASES = load_cases()
FAULTS, CONTROLS = load_faults(), load_controls()


def test_every_listed_fault_and_control_is_there() -> None:
    assert {f"F{number:02}" for number in range(1, 33)} <= {case.id for case in FAULTS}
    assert {case.id for case in CONTROLS} == {f"C{number:02}" for number in range(1, 20)}
    assert sum(case.strength == "mild" for case in FAULTS) >= 15  # thresholds must not fit one strength
    assert sum(case.strength == "medium" for case in FAULTS) >= 10


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_every_case_is_a_sound_spec(case: Case) -> None:
    for sizes in SIZES:
        if sizes == "guide" and case.spec.get("trainer") is not None:
            continue  # the guide's sizes are run with ppo alone
        spec = case.resolved(7, sizes)
        assert spec.seeds == (7,)
        assert spec.data.source == ("sample" if case.id == "C14" else "synthetic")
        resolve_spec(spec.model_dump(mode="json"), "again")


def test_a_fault_is_compared_with_the_same_market_and_net() -> None:
    assert CASES["F01.full"].reference == "C01"
    assert CASES["F09.mild"].reference == CASES["F08.full"].reference == "F08.healthy"  # they share all but the fault
    assert CASES["F08.healthy"].resolved(1).reward.scaling == CASES["F09.full"].resolved(1).reward.scaling == "none"
    assert CASES["F32.full"].reference == "C01"  # a broken contract needs no harm
    assert all(CASES[case.reference].kind in ("control", "reference") for case in FAULTS)


def test_the_full_tier_sees_every_case_before_any_twice() -> None:
    jobs = full_tier(list(CASES.values()), seeds=3, controls=7, first=SCORE_SEEDS)
    first_round = jobs[: len(CASES)]
    assert {job.case.name for job in first_round} == set(CASES)
    assert {job.seed for job in first_round} == {SCORE_SEEDS}
    assert sum(job.case.kind == "control" for job in jobs) >= 130
    assert {job.sizes for job in jobs if job.case.name == "C01"} == {"long"}
    assert {job.sizes for job in jobs if job.case.name == "C02"} == {"long", "short"}
    assert len({(job.case.name, job.seed, job.sizes) for job in jobs}) == len(jobs)


def test_the_spec_model_refuses_inject() -> None:
    with pytest.raises(Exception, match="inject"):
        resolve_spec({"name": "x", "symbols": ["AAPL"], "inject": {"hook": "never_end"}}, "x")


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 100, 0.0, 0.037), (10, 10, 0.722, 1.0), (23, 28, 0.644, 0.921)]
)
def test_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=1e-3)
    assert str(Score(hits, of)).startswith(f"{hits}/{of} = ")
    assert str(Score(0, 0)) == "n/a"


def outcome(case: Case, *alarms: Alarm, seed: int = 0, score: float = 1.0, sizes: Sizes = "long") -> Outcome:
    return Outcome(case.name, seed, sizes, alarms, 100_000, "done", score)


def test_an_alarm_counts_after_the_onset_at_the_severity_of_its_row() -> None:
    exploit = CASES["F11.full"]
    early = Alarm("reward.corr", "warning", 20_000, ("proxy",), None)
    weak = Alarm("reward.corr", "information", 60_000, (), None)
    right = Alarm("reward.share", "critical", 60_000, ("component_drift",), None)
    other = Alarm("opt.grad", "warning", 61_000, (), None)
    assert accepted(outcome(exploit, early, weak), exploit) == []
    assert accepted(outcome(exploit, right, other), exploit) == [right]
    assert delay(outcome(exploit, right), exploit) == pytest.approx(0.25)
    assert delay(outcome(exploit, early), exploit) == math.inf


def made_outcomes() -> list[Outcome]:
    exploit, base, no_edge = CASES["F11.full"], CASES["C01"], CASES["C10"]
    right = Alarm("reward.share", "critical", 60_000, ("component_drift",), None)
    follower = Alarm("phase.reward", "warning", 70_000, (), "reward.share")
    wrong = Alarm("opt.grad", "warning", 60_000, (), None)
    poor = Alarm("perf.no_progress", "warning", 60_000, (), None)
    return [
        outcome(exploit, right, follower, wrong, score=-1.0),
        outcome(exploit, seed=1, score=-1.2),
        outcome(exploit, seed=2, score=-1.1, sizes="guide"),
        outcome(base, wrong, score=3.0),
        *(outcome(base, seed=seed, score=3.0 + 0.1 * seed) for seed in (1, 2, 3, 4, 5)),
        outcome(no_edge, poor),
    ]


def test_totals_count_roots_once_and_controls_and_large_sizes_apart() -> None:
    totals = summarise(made_outcomes(), CASES)
    assert (totals["recall"]["hits"], totals["recall"]["of"]) == (1, 2)
    assert (totals["recall_guide_sizes"]["hits"], totals["recall_guide_sizes"]["of"]) == (0, 1)
    assert (totals["precision"]["hits"], totals["precision"]["of"]) == (1, 2)
    assert totals["cause_top_1"]["hits"] == 1
    assert totals["median_delay"] is None  # half of them are never found
    assert (totals["controls_alarmed"]["hits"], totals["controls_alarmed"]["of"]) == (1, 7)


def test_what_does_no_harm_is_no_fault() -> None:
    runs = made_outcomes()
    assert admit(runs, CASES)["F11.full"].verdict == "harmful"
    kind = [replace(o, score=3.2) if o.case == "F11.full" else o for o in runs]
    assert admit(kind, CASES)["F11.full"].verdict == "no harm"
    mask = CASES["F17.full"]
    assert admit([*runs, outcome(mask, score=3.2)], CASES)["F17.full"].verdict == "contract"
    nan = CASES["F13.full"]
    assert admit([*runs, replace(outcome(nan, score=3.2), state="failed")], CASES)["F13.full"].verdict == "lost"
    assert admit([outcome(CASES["F01.full"])], CASES)["F01.full"].verdict == "unknown"


def test_results_are_read_back_as_they_were_written_and_told_in_full(tmp_path: Path) -> None:
    how = How(
        "python -m tests.measure.suite --full", "a" * 40, ["b" * 40 + "+changes"], {"numpy": "2"}, "2 cores", [0, 1, 2]
    )
    path = tmp_path / "results.json"
    path.write_text(as_document(made_outcomes(), CASES, how), encoding="utf-8")
    runs, read = read_document(path)
    assert runs == made_outcomes()
    assert read == how
    told = json.loads(path.read_text())
    assert told["admission"]["F11.full"]["verdict"] == "harmful"
    text = as_markdown(runs, CASES, how)
    assert "runs of commit bbbbbbbbb+changes, judged by aaaaaaaaa; seeds 0 to 2" in text
    assert "| symptom recall | 1/2 = 50% [9%, 91%] | ≥ 92% | not shown: 2 of 100 runs |" in text
    assert "| F11.full an exploit opens: selling half pays | harmful: 3.2 → -1.1" in text
    assert "| 1/2 = 50% [9%, 91%] | `reward.share` 25% | 1/1 | opt.grad ×1 | 0/1 |" in text
    assert "- F11.full, seed 1, long: raised nothing; Sharpe -1.2" in text
    assert "| C10 no edge and high fees: HOLD is right | 1 | 0 | – |" in text
    assert "- C01, seed 0, long: `opt.grad` at 60%" in text


def test_the_page_tells_the_committed_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = text.split(BEGIN, 1)[1].split(END, 1)[0]
    assert told.strip() == page_section().strip(), "python -m tests.measure.suite --page"
    scored, calibrated = (read_document(RESULTS[name])[1].seeds for name in ("scored", "calibration"))
    assert not set(scored) & set(calibrated)


def test_a_stored_run_is_judged_as_it_would_have_been_live(tmp_path: Path) -> None:
    def collapse(row: dict[str, float], progress: float, tick: int) -> None:
        if 8 <= tick < 14:
            row.update({"policy/hold_share": 0.99, "policy/entropy_norm": 0.02})

    run = make_run(tmp_path, fault=collapse)
    case = Case("F99", "made up", "full", {}, symptoms=("policy.hold",), causes=("ent_coef_low",))
    judged = judge_live(run, case, 1, "long")
    hold = next(alarm for alarm in judged.alarms if alarm.symptom == "policy.hold")
    assert hold.at_step == 11 * TICK  # it began in the ninth tick, and three in a row are required
    assert hold.causes[0] == "ent_coef_low"
    stricter = judge_live(run, case, 1, "long", rules={"policy.hold": {"patience": 5}})
    assert next(a for a in stricter.alarms if a.symptom == "policy.hold").at_step == 13 * TICK
    assert gather_run(run)[0].twins == []


def test_rows_of_one_iteration_are_seen_when_it_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, fault=lambda row, progress, tick: row.update({"policy/valid_actions": 1.1}))
    file = run.path / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        del row["crc"]  # it fits no longer
        row["iteration"] = (row["iteration"] + 3) // 4  # four ticks an iteration, as the guide's sizes have them
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = judge_live(RunDir.open(run.path), CASES["F16.full"], 1, "long")
    assert next(alarm for alarm in judged.alarms if alarm.symptom == "mask.tight").at_step == 4 * TICK


def test_the_permutation_test_tells_hurt_from_luck() -> None:
    rng = np.random.default_rng(1)
    healthy = rng.normal(3, 0.5, 10)
    assert permutation_p(healthy, rng.normal(0, 0.5, 10)) < 0.01
    assert permutation_p(healthy, rng.normal(3, 0.5, 10)) > 0.05


# --- runs -------------------------------------------------------------------------------------------------------------

TINY = {
    "ppo": {"total_timesteps": 64, "n_steps": 8, "batch_size": 32},
    "env": {"num_envs": 4},
    "data": {"synthetic": {"bars": 3_000}},
}


def test_a_finished_run_is_not_made_twice_and_one_cut_off_is(tmp_path: Path) -> None:
    job = Job(CASES["F17.full"], 3, overlay=TINY)
    (first,) = train([job], tmp_path, 1)
    assert first[1] > 0
    assert first[0].path is not None
    (again,) = train([job], tmp_path, 1)
    assert again == first
    (kept,) = finished(tmp_path)
    assert (kept.case, kept.seed, kept.sizes) == ("F17.full", 3, "short")
    (first[0].path / SPENT).unlink()  # as if it had been killed
    assert finished(tmp_path) == []
    assert next(iter(train([job], tmp_path, 1)))[0].path != first[0].path


def test_runs_that_differ_in_anything_are_different_runs() -> None:
    job = Job(CASES["F16.full"], 3)
    others = [
        replace(job, seed=4),
        replace(job, sizes="long"),
        replace(job, overlay=TINY),
        replace(job, case=CASES["F16.mild"]),
    ]
    prints = {fingerprint(one, None) for one in (job, *others)}
    assert len(prints) == 5


def test_what_was_injected_stands_in_the_run(tmp_path: Path) -> None:
    job = plan(Job(CASES["F16.full"], 3, overlay=TINY), tmp_path)
    assert job.path is not None
    note = json.loads((job.path / NOTE).read_text())
    assert note == {"case": "F16.full", "seed": 3, "sizes": "short", "print": fingerprint(job, None)}


# --- hooks ------------------------------------------------------------------------------------------------------------


SPEC = CASES["C01"].resolved(
    1, overlay={"data": {"synthetic": {"bars": 2_000}}, "env": {"num_envs": 6, "episode_bars": 15}}
)


def hooked(monkeypatch: pytest.MonkeyPatch, name: str | None, **numbers: object) -> Any:
    """A training environment as a run would make it, with a hook or without."""
    market = load_market(SPEC, SPEC.symbols)
    env = make_trading_env(market, SPEC, symbols=SPEC.symbols, split="train", device=torch.device("cpu"))
    monkeypatch.setattr(runtime.Agent, "make_env", lambda self: env)
    monkeypatch.setattr(runtime.Run, "make_env", lambda self, agents: env)
    scene = Scene(ModuleType("trainer"), total_timesteps=120, agents=1, seed=1)
    if name is not None:
        HOOKS[name](scene, **numbers)
    return runtime.Agent.make_env(None)  # type: ignore[arg-type]


def walk(env: Any) -> dict[str, torch.Tensor]:
    """Thirty steps of it: twice the length of an episode, and more than the hooks' onset."""
    generator = torch.Generator().manual_seed(5)
    step = env.reset(torch.rand(env.num_envs, generator=generator))
    seen: dict[str, list[torch.Tensor]] = {
        "observation": [],
        "mask": [],
        "components": [],
        "truncated": [],
        "index": [],
    }
    for _ in range(30):
        action = env._rows.mask.double().multinomial(1, generator=generator).squeeze(-1)  # what it allows, not shows
        step = env.step(action, torch.rand(env.num_envs, generator=generator))
        seen["observation"].append(env.observe(step.index, step.account))
        for name in ("mask", "components", "truncated", "index"):
            seen[name].append(getattr(step, name))
    return {name: torch.stack(values) for name, values in seen.items()}


BITES = {
    "scale_rewards": ("components", {"by": 10.0}),
    "change_component": ("components", {"component": "pnl", "by": -2.0, "after": 0.35}),
    "outlier_rewards": ("components", {"share": 0.2, "size": 1e4}),
    "constant_rewards": ("components", {"value": 1.0}),
    "pay_action": ("components", {"action": "SELL_HALF", "component": "time", "amount": 5.0, "after": 0.35}),
    "louder": ("components", {"by": 2.0, "after": 0.5}),
    "nan_feature": ("observation", {"share": 0.2, "after": 0.3}),
    "scale_feature": ("observation", {"by": 300.0}),
    "shuffle_features": ("observation", {}),
    "late_features": ("observation", {"bars": 5}),
    "close_mask": ("mask", {"share": 0.5}),
    "open_mask": ("mask", {}),
    "never_end": ("truncated", {}),
    "same_starts": ("index", {}),
}
"""Hooks of the environment and what they change first."""
IN_THE_TRAINER = {
    "noisy_log_prob", "detach_actor", "spoil_buffer", "ignore_next_value", "truncation_is_the_end", "low_biases",
    "out_of_memory",
}  # fmt: skip


@pytest.mark.parametrize("name", BITES)
def test_a_hook_of_the_environment_changes_what_it_says_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, numbers = BITES[name]
    plain, sick = walk(hooked(monkeypatch, None)), walk(hooked(monkeypatch, name, **numbers))
    onset = int(20 * numbers.get("after", 0.0))  # 120 steps of six rows
    assert not same(plain[field][onset:], sick[field][onset:])
    assert same(plain[field][: max(onset - 1, 0)], sick[field][: max(onset - 1, 0)])
    if name != "same_starts":  # other bars, and all else with them
        assert all(same(plain[other], sick[other]) for other in plain if other != field)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), equal_nan=True)


def test_a_leak_is_one_feature_more(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = load_market(SPEC, SPEC.symbols)["SUITE"]
    monkeypatch.setattr(run_market, "load_market", load_market)
    HOOKS["leak"](Scene(ModuleType("trainer"), 1, 1, seed=1), noise=0.0)
    bars = run_market.load_market(SPEC, SPEC.symbols)["SUITE"]
    assert bars.features.shape[1] == honest.features.shape[1] + 1
    moves = np.diff(np.log(honest.close))
    assert np.corrcoef(bars.features[:-1, -1], moves)[0, 1] > 0.99


def test_a_slow_environment_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    env = hooked(monkeypatch, "slow_environment", seconds=0.05)
    began = time.perf_counter()
    env.reset(torch.zeros(6))
    assert time.perf_counter() - began > 0.04


def test_every_hook_is_tried() -> None:
    """Those of the trainer show in runs: tests/measure/suite's own `slow` test, and the suite itself."""
    assert set(HOOKS) == BITES.keys() | IN_THE_TRAINER | {"leak", "slow_environment", "break_columns"}
    used = {case.inject["hook"] for case in CASES.values() if case.inject is not None}
    assert used == set(HOOKS) - {"change_component", "break_columns"}  # drawn ones have these


TRAINER_FAULTS = ("F15.full", "F18.mild", "F19.full", "F20.full", "F25.full", "F31.full", "X03.full")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINER_FAULTS)
def test_a_hook_in_the_trainer_is_found(name: str, tmp_path: Path) -> None:
    (done,) = train([Job(CASES[name], SCORE_SEEDS - 1)], tmp_path, 1)
    assert done[0].path is not None
    assert accepted(judge_live(RunDir.open(done[0].path), CASES[name], SCORE_SEEDS - 1, "short"), CASES[name])
