"""Interventions in real, tiny runs of every trainer: what they change, what they leave alone, and that they repeat."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p3kit.diagnose import DETECTORS
from p3kit.diagnose.journal import DONE
from p3kit.errors import InputError
from p3kit.launch import compare_weights, plan_replay
from p3kit.launch.journal_replay import weights_hash
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint, part
from p3kit.spec import resolve_spec
from p3kit.spec.trainer_file import read_trainer
from tests.command import invoke

from .conftest import load_trainer
from .tiny_runs import go_on, train

TRAINERS = ("ppo", "ppo_stacked", "ppo_shared")
# What is fast for one trainer is slow for three; a rollback, which every trainer has lines of its own for, is not.
ONE_IS_FAST = (
    "ppo",
    pytest.param("ppo_stacked", marks=pytest.mark.slow),
    pytest.param("ppo_shared", marks=pytest.mark.slow),
)


def later(share: float) -> dict[str, Any]:
    return {"metric": "progress", "op": ">=", "value": share}


ENTROPY = {"id": "entropy", "on": later(0.3), "do": [{"scale": "ent_coef", "by": 5.0, "max": 0.1}]}
NEVER = {"id": "never", "on": {"metric": "policy/entropy", "op": ">", "value": 99.0}, "do": ENTROPY["do"]}
BACK = {
    "id": "back",
    "on": later(0.55),
    "do": [{"rollback": "last_good"}, {"scale": "learning_rate", "by": 0.5, "min": 1e-6, "until": {"updates": 1}}],
}
COST = {
    "id": "cost",
    "on": later(0.3),
    "do": [{"set": "reward.weights.cost", "to": 0.9, "until": {"env_steps": 300}}, {"dump": "episode_replay"}],
}
ANEW = {"id": "redrawn", "on": later(0.3), "do": [{"reinit": "dormant"}, {"reinit": "value_head"}]}
FOR_ALL = {"id": "for-all", "scope": "run", "share": 0.5, "on": later(0.3), "max_times": 2,
           "do": [{"scale": "clip_range", "by": 0.5, "min": 0.01, "until": {"updates": 1}}]}  # fmt: skip
BEGIN = {
    "id": "begin",
    "on": later(0.55),
    "do": [{"normalize": "rewards"}, {"normalize": "observations"}, {"set": "reward.clip", "to": 0.5}],
}
RAW = {"reward.scaling": "none", "reward.clip": "off", "observation.normalize": "none"}
ROOMY = {"diagnose.mode": "act", "diagnose.budget": {"actions": 20, "lost_steps_pct": 100}}


class Spied:
    """A detector that reports its evidence before it judges."""

    def __init__(self, detector: Any, report: Callable[[Any], None]) -> None:
        self.detector, self.report = detector, report

    def __getattr__(self, name: str) -> Any:
        return getattr(self.detector, name)

    def __call__(self, evidence: Any) -> Any:
        self.report(evidence)
        return self.detector(evidence)


def run(trainer: str, folder: Path, changes: dict[str, Any]) -> RunDir:
    symbols = {"symbols": ["AAA"] if trainer == "ppo" else ["AAA", "BBB"], "evaluation.every": 1_000}
    return train(load_trainer(trainer), folder, trainer, symbols | changes)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDir]:
    """The run of a trainer in a mode and with rules, made once. Tests only read it."""

    @cache
    def made(trainer: str, mode: str, rules: str) -> RunDir:
        changes = {"intervention": json.loads(rules), "diagnose.mode": mode}
        return run(trainer, tmp_path_factory.mktemp(trainer), changes)

    return lambda trainer, mode, *rules: made(trainer, mode, json.dumps(rules))


def fired(run: RunDir, agent: str = "AAA") -> list[dict[str, Any]]:
    return [event for event in run.read_events("intervention", agent=agent) if event["decision"] == "fired"]


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_a_run_in_which_nothing_fires_is_the_run_without_diagnosis(
    trainer: str, finished: Callable[..., RunDir]
) -> None:
    off, armed = finished(trainer, "off"), finished(trainer, "act", NEVER)
    watched = finished(trainer, "watch", ENTROPY, BACK)
    assert weights_hash(off.checkpoint("last")) == weights_hash(armed.checkpoint("last"))
    assert weights_hash(off.checkpoint("last")) == weights_hash(watched.checkpoint("last"))
    assert not off.read_events("intervention")
    assert not armed.read_events("intervention")
    assert {event["decision"] for event in watched.read_events("intervention")} == {"blocked"}
    assert "intervened" not in armed.read_events("verdict")[-1]["labels"]


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_a_modifier_is_in_force_from_the_next_update_on(trainer: str, finished: Callable[..., RunDir]) -> None:
    done, off = finished(trainer, "act", ENTROPY), finished(trainer, "off")
    for agent in done.agent_names():
        seen = done.series(agent)["effective/ppo.ent_coef"]
        assert dict(zip(seen.steps.tolist(), seen.values.tolist(), strict=True)) == {
            300: 0.01, 600: 0.05, 900: 0.05, 1_000: 0.05,
        }  # fmt: skip
        (event,) = fired(done, agent)
        assert event["keys"] == {"ppo.ent_coef": [0.01, 0.05]}
        assert (event["update"], event["global_step"], event["check"]) == (1, 300, "update")
        assert event["catalogue_version"].startswith("p3kit@1+")
        assert "intervened" in done.read_events("verdict", agent=agent)[-1]["labels"]
    assert weights_hash(off.checkpoint("last")) != weights_hash(done.checkpoint("last"))


def test_a_stacked_agent_gets_what_it_gets_alone(tmp_path: Path) -> None:
    """Rollbacks too: its part of the stack goes back, its neighbour's does not."""
    low = {"metric": "policy/entropy_norm", "op": "<", "value": 2.0}
    half = ANEW | {"do": [{"reinit": "policy_head"}]}
    rules = [ENTROPY, BACK | {"on": {"all": [later(0.55), low]}}, COST, half, BEGIN]
    changes = {"intervention": rules, **ROOMY, **RAW}
    alone = run("ppo", tmp_path, changes)
    stacked = run("ppo_stacked", tmp_path, changes)
    assert [e["keys"] for e in fired(alone)] == [e["keys"] for e in fired(stacked)]
    first, second = alone.series("AAA"), stacked.series("AAA")
    for name in ("policy/entropy", "value/value_loss", "reward/mean", "reward/scale", "effective/ppo.learning_rate"):
        np.testing.assert_allclose(first[name].values, second[name].values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_rollback_restores_weights_and_optimiser_but_not_the_steps(trainer: str, tmp_path: Path) -> None:
    # the last update ends at 1,000 steps: what is taken back there can be read from the last checkpoint
    done = run(trainer, tmp_path, {"intervention": [BACK | {"on": later(0.95)}], **ROOMY})
    (event,) = fired(done)
    assert event["checkpoint"].startswith("good-")
    good, last, initial = (
        part("trainer", load_checkpoint(done.checkpoint(name))) for name in (event["checkpoint"], "last", "init")
    )
    tables = ("net/", "heads/", "optimizer/", "first/", "second/", "steps_taken")
    compared = [key for key in last if key.startswith(tables)]
    mine = (lambda value: value) if trainer == "ppo" else (lambda value: value[0])  # of the first agent
    assert len(compared) > 5
    for key in compared:
        torch.testing.assert_close(mine(last[key]), mine(good[key]), rtol=0, atol=0)
    weights = [key for key in compared if key.startswith(("net/", "heads/"))]
    assert any(not torch.equal(mine(initial[key]), mine(good[key])) for key in weights)
    if trainer == "ppo_shared":  # all go back, each to a checkpoint of its own; what they share to the oldest of them
        oldest = min(fired(done, agent)[0]["checkpoint"] for agent in done.agent_names())
        earlier = part("trainer", load_checkpoint(done.checkpoint(oldest)))
        for key in [key for key in last if key.startswith("encoder")]:
            torch.testing.assert_close(last[key], earlier[key], rtol=0, atol=0)
    assert done.status()["agents"]["AAA"]["global_step"] == 1_000


def test_a_rollback_draws_other_numbers_and_keeps_its_change(tmp_path: Path) -> None:
    changed = BACK | {"on": later(0.25), "do": [{"rollback": "init"}, {"scale": "ent_coef", "by": 1.0001, "max": 1.0}]}
    done = run("ppo", tmp_path, {"intervention": [changed], **ROOMY})
    series = done.series("AAA")
    loss = dict(zip(series["value/value_loss"].steps.tolist(), series["value/value_loss"].values.tolist(), strict=True))
    assert loss[600] != loss[300]
    assert series["effective/ppo.ent_coef"].values[1] == pytest.approx(0.010001)


def test_an_update_without_a_finite_step_is_survived_by_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_trainer("ppo")
    whole, update_of, updates = module.ppo_loss, module.compute_gae, 0

    def counts(*arguments: Any, **words: Any) -> Any:
        nonlocal updates
        updates += 1
        return update_of(*arguments, **words)

    def breaks(*arguments: Any, **words: Any) -> Any:
        loss, stats = whole(*arguments, **words)
        return (loss * float("nan") if updates == 2 else loss), stats

    monkeypatch.setattr(module, "compute_gae", counts)
    monkeypatch.setattr(module, "ppo_loss", breaks)
    rule = {
        "id": "nan",
        "on": "num.nan",
        "do": [{"dump": "minibatch"}, {"rollback": "init"}, {"scale": "learning_rate", "by": 0.33, "min": 1e-5}],
        "max_times": 2,
    }
    (done,) = train(module, tmp_path, "ppo", {"symbols": ["AAA"], "intervention": [rule], **ROOMY})
    assert done.status()["state"] == "done"
    (event,) = fired(done)
    assert (event["row"], event["global_step"], event["checkpoint"]) == ("num.nan", 600, "init")
    (dumped,) = done.replays.iterdir()
    assert set(json.loads(dumped.read_text())["gradient_steps"]["diag/nonfinite"]) == {1.0}
    updates = 0
    (failed,) = train(module, tmp_path, "ppo", {"symbols": ["AAA"], "diagnose.mode": "off"})
    assert failed.status()["state"] == "failed"


@pytest.mark.parametrize(("how", "state"), [("fail", "failed"), ("done", "done")])
def test_stop(how: str, state: str, tmp_path: Path) -> None:
    done = run("ppo", tmp_path, {"intervention": [{"id": "end", "on": later(0.5), "do": [{"stop": how}]}]})
    assert done.status()["state"] == state
    assert done.status()["agents"]["AAA"]["global_step"] == 600
    text = str(done.status()["message"] if how == "fail" else done.read_events("early_stop")[-1]["reason"])
    assert "stopped by intervention end" in text


def test_one_agent_stopped_the_others_train_on(tmp_path: Path, finished: Callable[..., RunDir]) -> None:
    early = {"metric": "progress", "op": "<", "value": 0.35}
    holds = {"metric": "policy/hold_share", "op": ">", "value": 0.0}
    rule = {"id": "end", "on": {"all": [early, holds]}, "do": [{"stop": "done"}]}
    free = finished("ppo_stacked", "off")
    shares = {agent: float(free.series(agent)["policy/hold_share"].values[0]) for agent in ("AAA", "BBB")}
    holds["value"] = sum(shares.values()) / 2
    done = run("ppo_stacked", tmp_path, {"intervention": [rule]})
    steps = {name: agent["global_step"] for name, agent in done.status()["agents"].items()}
    assert steps[max(shares, key=lambda name: shares[name])] < 1_000
    assert steps[min(shares, key=lambda name: shares[name])] == 1_000


def test_a_reward_edit_bends_training_and_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from p3kit.runtime import evaluation

    whole = evaluation.evaluate_together

    def spy(evaluators: Any, policy: Any) -> Any:
        seen.extend(evaluator.spec for evaluator in evaluators)
        return whole(evaluators, policy)

    monkeypatch.setattr(evaluation, "evaluate_together", spy)
    rule = COST | {"do": [{"set": "reward.weights.cost", "to": 0.9}]}
    done = run("ppo", tmp_path, {"intervention": [rule], "diagnose.mode": "act", "reward.scaling": "none"})
    weighted, raw = (done.series("AAA")[name].values for name in ("reward/cost", "reward/raw.cost"))
    np.testing.assert_allclose(weighted / raw, [0.15, 0.9, 0.9, 0.9], rtol=1e-6)
    assert {spec.reward.weights.cost for spec in seen} == {0.15}
    assert {(spec.env.commission_bps, spec.env.slippage_bps) for spec in seen} == {(10.0, 5.0)}


def test_an_episode_replay_is_what_was_played(finished: Callable[..., RunDir]) -> None:
    (path,) = finished("ppo", "act", COST, NEVER).replays.iterdir()
    content = json.loads(path.read_text())
    assert (content["agent"], content["global_step"], content["synthetic"]) == ("AAA", 300, True)
    assert len(content["episodes"]) == 2
    for episode in content["episodes"]:
        lengths = {len(episode[key]) for key in ("action", "reward", "equity")}
        assert len(lengths) == 1
        assert 1 <= lengths.pop() <= 60
        assert set(episode["components"]) >= {"pnl", "cost"}


def test_the_journal_is_told(finished: Callable[..., RunDir]) -> None:
    done = finished("ppo", "act", COST, NEVER)
    result = invoke("diagnose", done.name, "--runs", done.path.parent)
    told = " ".join(result.output.split())
    assert "Interventions: 1 fired, 1 released" in told
    assert "reward.weights.cost 0.15 → 0.9, episodes written to" in told
    assert "its 300 env steps are over" in told
    result = invoke("diagnose", done.name, "--json", "--runs", done.path.parent)
    (agent,) = json.loads(result.output)
    assert [entry["decision"] for entry in agent["interventions"]][:2] == ["fired", "released"]


def test_only_the_same_spec_is_repeated(finished: Callable[..., RunDir]) -> None:
    original = finished("ppo", "act", ENTROPY)
    tables = original.info()["spec"]
    other = resolve_spec(tables | {"ppo": tables["ppo"] | {"gamma": 0.5}}, "test")
    with pytest.raises(InputError, match=r"had another spec: ppo\.gamma 0\.99 → 0\.5"):
        plan_replay(plan_runs(other, read_trainer(other.trainer)), original)
    with pytest.raises(InputError, match="trained AAA, which is no run of this spec"):
        plan_replay(plan_runs(resolve_spec(tables | {"symbols": ["BBB"]}, "test"), read_trainer("ppo")), original)


@pytest.mark.parametrize("left", [{"check": "minibatch"}, {"did": [{"early_stop_update": True}]}])
def test_a_journal_with_decisions_inside_an_update_is_refused(
    tmp_path: Path, left: dict[str, Any], finished: Callable[..., RunDir]
) -> None:
    original = RunDir(Path(shutil.copytree(finished("ppo", "act", ENTROPY).path, tmp_path / "run-1")))
    (event,) = fired(original)
    told = {key: value for key, value in event.items() if key not in ("seq", "time")}
    original.append_event(**told | {"id": "inside", "gradient_step": 3} | left)
    with pytest.raises(InputError, match=r'"inside" inside an update, which was removed.*; use check = "update"'):
        plan_replay(plan_runs(resolve_spec(original.info()["spec"], "test"), read_trainer("ppo")), original)


def test_a_broken_contract_stops_a_strict_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_trainer("ppo")
    whole = module.sample_action

    def off_by_some(*arguments: Any) -> Any:
        action, log_prob = whole(*arguments)
        return action, log_prob + 0.1  # what is stored is not what was played

    monkeypatch.setattr(module, "sample_action", off_by_some)
    short = {"symbols": ["AAA"], "ppo.total_timesteps": 300}
    (strict,) = train(module, tmp_path, "ppo", short)
    assert strict.status()["state"] == "failed"
    assert "stopped by diagnose.strict" in strict.status()["message"]
    assert fired(strict)[0]["row"] == "ppo.ratio_ne_1"
    for lenient in ({"diagnose.strict": False}, {"diagnose.mode": "off"}):
        (done,) = train(module, tmp_path, "ppo", short | lenient)
        assert done.status()["state"] == "done"


# --- parts of the net ------------------------------------------------------------------------------------------------


def net_of(run: RunDir, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    state = part("trainer", load_checkpoint(run.checkpoint(checkpoint)))
    return {key: value for key, value in state.items() if key.startswith(("net/", "heads/", "encoder/"))}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_head_is_drawn_anew_and_nothing_else(trainer: str, tmp_path: Path, finished: Callable[..., RunDir]) -> None:
    rule = ANEW | {"on": later(0.95), "do": [{"reinit": "policy_head"}]}
    whole, redrawn = finished(trainer, "act", NEVER), run(trainer, tmp_path, {"intervention": [rule], **ROOMY})
    head = {"ppo": "net/policy.layers.2.", "ppo_stacked": "net/policy.2.", "ppo_shared": "heads/policy."}[trainer]
    before, after = net_of(whole), net_of(redrawn)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith(head)}
    assert not any(after[key].any() for key in changed if key.endswith("bias"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_dormant_units_are_drawn_anew(
    trainer: str, tmp_path: Path, finished: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(trainer, "act", NEVER)
    monkeypatch.setattr("p3kit.runtime.evidence.DORMANT", 1.0)  # units below the average activation
    rule = ANEW | {"on": later(0.95), "do": [{"reinit": "dormant"}]}
    redrawn = run(trainer, tmp_path, {"intervention": [rule], **ROOMY})
    before, after = net_of(whole), net_of(redrawn)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split("/")[0] for key in changed} == {"heads" if trainer == "ppo_shared" else "net"}
    some = next(key for key in changed if key.endswith("weight"))
    assert 0 < (before[some] != after[some]).float().mean() < 1, "others are left as they are"


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_running_statistics_begin_while_a_run_trains(trainer: str, tmp_path: Path) -> None:
    """With what was seen last, after a rollback too: the next rollout is scaled and standardised."""
    back = BEGIN | {"do": [{"rollback": "init"}, *BEGIN["do"]]}
    done = run(trainer, tmp_path, {"intervention": [back], **ROOMY, **RAW})
    (event,) = fired(done)
    at = event["global_step"]
    assert event["keys"] == {"reward.clip": ["off", 0.5]}
    assert event["did"][1:3] == [{"normalize": "rewards"}, {"normalize": "observations"}]
    scale, largest = done.series("AAA")["reward/scale"], done.series("AAA")["reward/max_abs"]
    assert (scale.values[scale.steps <= at] == 1).all()
    assert (scale.values[scale.steps > at] != 1).all()
    assert largest.values[largest.steps > at].max() <= 0.5 < largest.values[largest.steps <= at].max()
    count = part("observation", part("trainer", load_checkpoint(done.checkpoint("last"))))["count"]
    assert int(torch.as_tensor(count).flatten()[0]) > 0


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_statistics_that_a_spec_has_from_the_start_begin_again(trainer: str, tmp_path: Path) -> None:
    """Only what was seen since then counts, so that a fault before it leaves nothing behind."""
    settings = {"reward.scaling": "running", "observation.normalize": "running"}
    done = run(trainer, tmp_path, {"intervention": [BEGIN], **ROOMY, **settings})
    plain = run(trainer, tmp_path, settings)
    (event,) = fired(done)
    assert [did for did in event["did"] if "normalize" in did] == BEGIN["do"][:2]
    for part_of, key in (("observation", "count"), ("reward", "counts" if trainer != "ppo" else "count")):
        seen, all_seen = (
            float(torch.as_tensor(part(part_of, part("trainer", load_checkpoint(one.checkpoint("last"))))[key]).sum())
            for one in (done, plain)
        )
        assert 0 < seen < all_seen


# --- what all agents share --------------------------------------------------------------------------------------------


def test_a_frozen_encoder_moves_no_more_and_the_heads_do(tmp_path: Path) -> None:
    rule = {"id": "hold-still", "scope": "run", "on": later(0.5), "do": [{"freeze": "encoder"}]}
    short = run("ppo_shared", tmp_path, {"ppo.total_timesteps": 300, "diagnose.mode": "off"})
    done = run("ppo_shared", tmp_path, {"ppo.total_timesteps": 600, "intervention": [rule]})
    free = run("ppo_shared", tmp_path, {"ppo.total_timesteps": 600, "diagnose.mode": "off"})
    (event,) = [event for event in done.read_events("intervention") if event["decision"] == "fired"]
    assert (event["agent"], event["agents"], event["global_step"]) == (None, ["AAA", "BBB"], 300)
    then, now, moved = net_of(short), net_of(done), net_of(free)
    for key in (key for key in now if key.startswith("encoder/")):
        torch.testing.assert_close(now[key], then[key], rtol=0, atol=0)
    assert any(not torch.equal(moved[key], then[key]) for key in now if key.startswith("encoder/"))
    assert any(not torch.equal(now[key], then[key]) for key in now if key.startswith("heads/"))
    assert all("intervened" in event["labels"] for event in done.read_events("verdict"))


@pytest.mark.parametrize("trainer", ["ppo_stacked", pytest.param("ppo_shared", marks=pytest.mark.slow)])
def test_a_rule_for_the_run_changes_every_agent(trainer: str, tmp_path: Path) -> None:
    done = run(trainer, tmp_path, {"intervention": [FOR_ALL | {"max_times": 1}], "diagnose.mode": "act"})
    events = done.read_events("intervention")
    assert [(e["decision"], e["agents"], e["global_step"]) for e in events][:2] == [
        ("fired", ["AAA", "BBB"], 300), ("released", ["AAA", "BBB"], 600),
    ]  # fmt: skip
    assert events[0]["keys"] == {"ppo.clip_range": [0.2, 0.1]}
    for agent in done.agent_names():
        assert done.series(agent)["effective/ppo.clip_range"].values.tolist() == [0.2, 0.1, 0.2, 0.2]
        assert done.status()["agents"][agent]["interventions"] == 1
        assert done.status()["agents"][agent]["acts"][-1] == [2, "for-all released: ppo.clip_range 0.1 → 0.2"]


def test_agents_are_judged_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, list[tuple[str, int]]]] = []

    def spy(evidence: Any) -> None:
        seen.append((evidence.agent, evidence.last_step, [(peer.agent, peer.last_step) for peer in evidence.peers]))

    monkeypatch.setitem(DETECTORS, "policy.hold", Spied(DETECTORS["policy.hold"], spy))
    run("ppo_stacked", tmp_path, {"ppo.total_timesteps": 600, "evaluation.every": 600})
    assert seen[:4] == [
        ("AAA", 300, [("BBB", 300)]),
        ("BBB", 300, [("AAA", 300)]),
        ("AAA", 600, [("BBB", 600)]),
        ("BBB", 600, [("AAA", 600)]),
    ]


def test_a_trainer_that_does_not_know_what_is_asked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from p3kit.runtime.run import Run

    monkeypatch.setattr(Run, "reinitialised", lambda *_: iter(()))
    done = run("ppo", tmp_path, {"intervention": [ANEW]})
    assert done.status()["state"] == "failed"
    assert 'does not support reinit = "dormant"' in done.status()["message"]


def test_the_guide_pack_repairs_a_value_function_that_fails(tmp_path: Path) -> None:
    """A degraded run: values that hardly learn, on returns that change their scale every bar."""
    sick = {
        "ppo.total_timesteps": 36_864,
        "env.num_envs": 64,
        "ppo.n_steps": 64,
        "ppo.batch_size": 512,
        "ppo.vf_coef": 1e-4,
        "ppo.learning_rate": 1e-4,
        "env.commission_bps": 300,
        "reward.scaling": "none",
        "reward.weights.cost": 100.0,
        "evaluation.every": 36_864,
        "checkpoints.every": 36_864,
    }
    (done,) = train(load_trainer("ppo"), tmp_path, "ppo", {"symbols": ["AAA"], "interventions": "guide", **sick})
    assert done.status()["state"] == "done"
    assert "guide-value-collapse" in {event["id"] for event in fired(done)}
    (event,) = [event for event in fired(done) if event["id"] == "guide-value-collapse"]
    assert event["keys"]["ppo.vf_coef"] == [1e-4, pytest.approx(0.5001)]  # the guide's 1.0, from its 0.5, in one step


def replayed(original: RunDir, trainer: str) -> RunDir:
    """`p3kit run --replay` without the launcher."""
    spec = resolve_spec(original.info()["spec"], "test")
    replay = plan_replay(plan_runs(spec, read_trainer(spec.trainer)), original)
    info = replay.plan.run_json(load_market(spec, spec.symbols), ["test"]) | {"replay": replay.to_json()}
    again = RunDir.create(original.path.parent, info, "", replay.plan.trainer)
    argv, sys.argv = sys.argv, ["trainer", "--run-dir", str(again.path)]
    try:
        load_trainer(trainer).main()
    finally:
        sys.argv = argv
    return again


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_the_journal_alone_gives_the_same_weights(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [ENTROPY, BACK, COST, ANEW, BEGIN, FOR_ALL]
    original = run(trainer, tmp_path, {"intervention": rules, **ROOMY, **RAW})
    assert {event["id"] for event in fired(original)} >= {rule["id"] for rule in rules if rule is not FOR_ALL}
    assert "for-all" in {event["id"] for event in original.read_events("intervention")}

    def judges_nothing(_: Any) -> None:
        raise AssertionError("a replay judged")

    for symptom, detector in list(DETECTORS.items()):
        monkeypatch.setitem(DETECTORS, symptom, Spied(detector, judges_nothing))
    again = replayed(original, trainer)
    same, told = compare_weights(original, again)
    assert same, told
    done = ("fired", "released", "verified", "failed")
    journals = [
        [(e["id"], e["decision"], e["global_step"], e["keys"], e["checkpoint"])
         for e in run.read_events("intervention") if e["decision"] in done]
        for run in (original, again)
    ]  # fmt: skip
    assert journals[0] == journals[1]


QUICK = {"id": "quick", "on": later(0.25), "do": [{"scale": "ent_coef", "by": 5.0, "max": 0.1},
                                                  {"normalize": "rewards"}]}  # fmt: skip


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_an_action_that_does_harm_is_undone_and_that_repeats(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot returns; a replay and a resume in between give the same bits."""
    monkeypatch.setattr("p3kit.interventions.returning.fall", lambda before, after: (1.0, 0.0, 0.5))
    changes = {"intervention": [QUICK], "diagnose.mode": "act", "ppo.n_steps": 30, "checkpoints.every": 100} | RAW
    whole = run(trainer, tmp_path / "whole", changes)
    agent = whole.agent_names()[0]
    journal = [event for event in whole.read_events("intervention", agent=agent) if event["decision"] in DONE]
    assert [event["decision"] for event in journal] == ["fired", "failed"]
    first, ended = (event["global_step"] for event in journal)
    assert journal[1]["checkpoint"] == f"before-{first:09d}"
    assert not [path for path in whole.checkpoints() if path.stem.startswith("before-")]  # it has served
    entropy = whole.series(agent)["effective/ppo.ent_coef"]
    assert {float(v) for s, v in zip(entropy.steps, entropy.values, strict=True) if first < s <= ended} == {0.05}
    assert {float(v) for s, v in zip(entropy.steps, entropy.values, strict=True) if s <= first or s > ended} == {0.01}
    scale = whole.series(agent)["reward/scale"]
    assert set(scale.values[scale.steps > ended].tolist()) == {1.0}
    evaluated = [event["global_step"] for event in whole.read_events("evaluation", agent=agent)]
    assert {first, ended} <= set(evaluated)
    assert set(evaluated) == {one.global_step for one in whole.histograms("returns", agent)}  # candidates of the label
    assert compare_weights(whole, replayed(whole, trainer))[0]
    for stops_at in (first, ended - 100, ended):
        cut = cut_at(stops_at, trainer, tmp_path / f"cut{stops_at}", changes, monkeypatch)
        assert weights_hash(cut.checkpoint("last")) == weights_hash(whole.checkpoint("last"))


def cut_at(step: int, trainer: str, folder: Path, changes: dict[str, Any], patch: pytest.MonkeyPatch) -> RunDir:
    """A run that was stopped at a step and resumed."""

    def stop(self: Any) -> bool:
        return bool(self.agents[0].global_step >= step)

    with patch.context() as inner:
        inner.setattr("p3kit.runtime.run.Run.stop_requested", property(stop))
        cut = run(trainer, folder, changes)
    assert cut.status()["state"] == "stopped"
    return go_on(load_trainer(trainer), cut, "--resume")


@pytest.mark.parametrize("trainer", ONE_IS_FAST)
def test_interrupted_and_resumed_it_ends_as_if_nothing_had_happened(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [ENTROPY | {"verify": {"metric": "policy/entropy", "op": ">", "than": "before", "within": {"updates": 2}}}]
    changes = {"intervention": [*rules, BACK, COST, ANEW, BEGIN, FOR_ALL], **ROOMY, **RAW}
    whole = run(trainer, tmp_path / "whole", changes)
    for stops_at in (300, 600):
        cut = cut_at(stops_at, trainer, tmp_path / f"cut{stops_at}", changes, monkeypatch)
        assert weights_hash(cut.checkpoint("last")) == weights_hash(whole.checkpoint("last"))
        told = [[(e["id"], e["decision"], e["reason"]) for e in r.read_events("intervention")] for r in (whole, cut)]
        assert told[0] == told[1]
