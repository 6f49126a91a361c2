"""The trainer probed from outside: a sound one passes, and each planted fault is named by the probe it concerns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p3kit.check import Probe, probe_leak, probe_learning, probe_update
from p3kit.check.probe_envs import NUMBERS, ProbeTask
from p3kit.launch import run_trainer
from p3kit.market import load_market
from p3kit.spec import Spec, resolve_spec

PPO = Path(__file__).parents[2] / "trainers" / "ppo.py"
SMALL = {
    "name": "probe",
    "symbols": ["TINY"],
    "data": {"source": "synthetic", "synthetic": {"bars": 4_000}},
    "env": {"num_envs": 16, "window": 8, "episode_bars": 60},
}


def spec_of(trainer: Path | str) -> Spec:
    return resolve_spec({**SMALL, "trainer": str(trainer)}, "test")


def updated(spec: Spec, folder: Path) -> dict[str, Probe]:
    bars = load_market(spec, ["TINY"])["TINY"]
    return {probe.name: probe for probe in probe_update(spec, bars, folder, run_trainer)}


def planted(folder: Path, *slips: tuple[str, str]) -> Path:
    """A copy of ppo.py with mistakes in it."""
    text = PPO.read_text()
    for right, wrong in slips:
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    path = folder / "sick.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("trainer", ["ppo", pytest.param("ppo_shared", marks=pytest.mark.slow)])
def test_the_shipped_trainers_pass_forward_and_update(trainer: str, tmp_path: Path) -> None:
    told = updated(spec_of(trainer), tmp_path)
    assert {name: probe.passed for name, probe in told.items()} == {"forward": True, "update": True}, told
    assert told["update"].details["unmoved"] == []
    first, last = told["update"].details["value_loss"]
    assert last < first


@pytest.mark.slow
def test_a_detached_critic_and_a_wrong_stored_log_prob_are_named(tmp_path: Path) -> None:
    slips = (
        ("    loss = policy_term + vf_coef * value_term -", "    loss = policy_term + vf_coef * value_term.detach() -"),
        ("    return action, log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)",
         "    return action, log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1) + 0.1"),
    )  # fmt: skip
    update = updated(spec_of(planted(tmp_path, *slips)), tmp_path)["update"]
    assert not update.passed
    assert "no gradient reached net/value.layers.0.weight" in update.evidence
    assert "the ratio starts 0.095 away from 1" in update.evidence
    assert "the value loss went from" in update.evidence


@pytest.mark.slow
def test_a_policy_that_mixes_its_rows_is_named(tmp_path: Path) -> None:
    slip = (
        "        return masked_log_softmax(logits, mask), value",
        "        return masked_log_softmax(logits.roll(1, 0) + 9 * logits.roll(2, 0).sign(), mask), value",
    )
    forward = updated(spec_of(planted(tmp_path, slip)), tmp_path)["forward"]
    assert not forward.passed
    assert "rows of a batch see each other" in forward.evidence


@pytest.mark.slow
def test_a_trainer_that_does_not_run_says_its_last_words(tmp_path: Path) -> None:
    path = planted(
        tmp_path,
        ("        left = args.total_timesteps - global_step", "        raise RuntimeError('no luck')"),
    )
    told = updated(spec_of(path), tmp_path)
    assert not told["update"].passed
    assert "no luck" in told["update"].evidence


@pytest.mark.slow
def test_the_probe_tasks_are_solved_and_a_flipped_advantage_is_seen(tmp_path: Path) -> None:
    sound = probe_learning(spec_of("ppo"), tmp_path, run_trainer)
    assert [probe.name for probe in sound if probe.passed] == [f"learning-{number}" for number in NUMBERS], sound
    flipped = planted(tmp_path, ("    policy_term = -torch.min(", "    policy_term = torch.min("))
    sick = probe_learning(spec_of(flipped), tmp_path, run_trainer)
    assert [probe.passed for probe in sick] == [True, True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_every_trainer_finds_what_nobody_could_miss(trainer: str, tmp_path: Path) -> None:
    known, own = probe_leak(spec_of(trainer), tmp_path, run_trainer)
    assert (known.name, own.name) == ("leak", "leak-own")
    assert known.passed, known
    assert known.details["share"] >= 0.8
    assert own.passed, own


@pytest.mark.slow
def test_a_flipped_advantage_finds_nothing_whatever_the_knobs(tmp_path: Path) -> None:
    flipped = planted(tmp_path, ("    policy_term = -torch.min(", "    policy_term = torch.min("))
    known, own = probe_leak(spec_of(flipped), tmp_path, run_trainer)
    assert (known.passed, own.passed) == (False, False)
    assert known.details["share"] < own.details["asked"]
    assert "the trainer is at fault" in known.remedy


def test_a_trainer_without_env_id_is_not_asked_and_says_why(tmp_path: Path) -> None:
    (probe,) = probe_learning(spec_of("ppo_shared"), tmp_path, run_trainer)
    assert "trainers/ppo.py takes --env-id" in probe.skipped
    assert probe.to_json()["passed"] is None


@pytest.mark.parametrize("number", NUMBERS)
def test_the_probe_tasks_pay_as_they_say(number: int) -> None:
    task = ProbeTask(number)
    for episode in range(20):
        observation, _ = task.reset(seed=episode)
        ended, paid, steps = False, 0.0, 0
        while not ended:
            wanted = 1 if number == 4 else int(observation[0] > 0)
            action = np.int64(wanted if number >= 4 else 0)
            assert task.action_space.contains(action)
            sign = float(observation[0])
            observation, reward, ended, _, _ = task.step(action)
            paid, steps = paid + reward, steps + 1
        assert steps == (2 if number == 3 else 1)
        assert paid == (sign if number == 2 else 1.0)
