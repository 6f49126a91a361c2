# ruff: noqa: E501  (a table of faults reads best with one fault per line)
"""A trainer that ignores a setting, or changes the numbers of its environment, is named by the diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p3kit.diagnose import AgentDiagnosis, Finding, diagnose
from tests.trainers.conftest import load_module
from tests.trainers.tiny_runs import train

SOURCE = Path(__file__).parents[2] / "trainers" / "ppo.py"

# (words of trainers/ppo.py, what a faulty trainer has in their place, symptom, cause, words of the evidence, settings)
FAULTS: list[Any] = [
    ('"ent_coef": args.ent_coef', '"ent_coef": -args.ent_coef', "spec.no_effect", "loss", "ppo.ent_coef is 0.01", {}),
    ('"vf_coef": args.vf_coef', '"vf_coef": 0.05', "spec.no_effect", "loss", "ppo.vf_coef is 0.5", {}),
    ("args.learning_rate, args.weight_decay", "1e-5, args.weight_decay", "spec.no_effect", "optimiser", "ppo.learning_rate", {}),
    ("(parameters, args.max_grad_norm)", "(parameters, 1e9)", "spec.no_effect", "optimiser", "ppo.max_grad_norm", {"ppo.max_grad_norm": 0.01}),
    ("buffer.terminated, done, args.gamma, args", "buffer.terminated, done, 0.5, args", "spec.no_effect", "targets", "ppo.gamma is 0.99", {}),
    ("range(args.n_epochs):\n            order,", "range(1):\n            order,", "spec.no_effect", "count", "ppo.n_epochs is 2", {}),
    ("column.split(args.batch_size *", "column.split(2 * args.batch_size *", "spec.no_effect", "count", "ppo.batch_size is 64", {}),
    ("epoch_kl.item() > args.target_kl", "epoch_kl.item() > 1e9", "spec.no_effect", "count", "ppo.target_kl", {"ppo.target_kl": 1e-6, "ppo.learning_rate": 3e-3}),
    ("*(step.components, step.term", "*(step.components.abs(), step.term", "env.mismatch", "reward", "reward.", {}),
    ("action, log_prob, value),", "action, log_prob + 0.05 * (noise[t, :, 0] > 2), value),", "env.mismatch", "stored", "log_prob", {}),
    ("mask, action, log_prob, value),", "mask | (noise[t] > 2), action, log_prob, value),", "env.mismatch", "action_mask", "mask", {}),
    ("advantage, returns, buffer.value, buffer.mask)", "advantage.roll(1, 0), returns, buffer.value, buffer.mask)", "env.mismatch", "targets", "advantage 1 steps late in the minibatch", {}),
    ("done = buffer.terminated | buffer.truncated", "done = buffer.terminated", "env.mismatch", "targets", "final value", {}),
    ("compute_gae(reward,", "compute_gae(-reward,", "env.mismatch", "targets", "reward times -1", {}),
    ("(flat_index, flat_account, *flat)", "(flat_index.roll(4), flat_account.roll(4, 0), *flat)", "env.mismatch", "stored", "bar 1 steps late in the minibatch", {}),
    ("self.value(observation, dropout)", "self.value(observation, dropout).detach()", "net.still", "no_gradient", "of the value", {}),
]  # fmt: skip


def run_of(source: str, folder: Path, settings: dict[str, Any], trainer: Path = SOURCE) -> AgentDiagnosis:
    """The diagnosis of two iterations of a trainer; in a stack that of its first agent."""
    path = folder / "faulty.py"
    path.write_text(source, encoding="utf-8")
    changes = {"symbols": ["AAA"], "ppo.total_timesteps": 600, "evaluation.every": 10_000, **settings}
    [run] = train(load_module("faulty", path), folder, str(trainer), changes)
    return diagnose(run)[0]


def alarms(diagnosis: AgentDiagnosis) -> dict[str, Finding]:
    return {finding.symptom: finding for finding in diagnosis.raised if finding.alarming}


SLOW = [pytest.param(*fault, marks=pytest.mark.slow) for fault in FAULTS[3:]]


@pytest.mark.parametrize(("words", "instead", "symptom", "cause", "evidence", "settings"), [*FAULTS[:3], *SLOW])
def test_a_trainer_that_ignores_a_setting_is_named(
    tmp_path: Path, words: str, instead: str, symptom: str, cause: str, evidence: str, settings: dict[str, Any]
) -> None:
    source = SOURCE.read_text(encoding="utf-8")
    assert source.count(words) == 1
    found = alarms(run_of(source.replace(words, instead), tmp_path, settings))
    assert found[symptom].causes[0].id == cause
    assert evidence in found[symptom].evidence
    assert found[symptom].since_step == 300


@pytest.mark.parametrize("total", [600, 660], ids=["whole rollouts", "a short last rollout"])
def test_the_trainer_itself_has_no_such_row(tmp_path: Path, total: int) -> None:
    found = alarms(run_of(SOURCE.read_text(encoding="utf-8"), tmp_path, {"ppo.total_timesteps": total}))
    assert not {"spec.no_effect", "env.mismatch", "net.still"} & set(found)


@pytest.mark.parametrize(
    ("words", "instead", "stops"),
    [
        ("*(step.components, step.term", "*(step.components.abs(), step.term", True),
        ("compute_gae(reward,", "compute_gae(-reward,", False),  # might be an estimator of your own
    ],
)
def test_strict_stops_a_run_whose_record_is_not_what_the_environment_gave(
    tmp_path: Path, words: str, instead: str, stops: bool
) -> None:
    source = SOURCE.read_text(encoding="utf-8").replace(words, instead)
    for strict in (True, False):
        diagnosis = run_of(source, tmp_path, {"diagnose.strict": strict})
        assert "env.mismatch" in alarms(diagnosis)
        assert ("stopped by diagnose.strict" in diagnosis.failure) == (stops and strict)


IN_A_STACK = "flat = Minibatch(*(to_rows(table) for table in tables))"


@pytest.mark.parametrize("name", ["ppo_stacked", pytest.param("ppo_shared", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wrong", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stack_names_the_rows_that_its_loss_gets(tmp_path: Path, name: str, wrong: bool) -> None:
    path = SOURCE.with_name(f"{name}.py")
    source, settings = path.read_text(encoding="utf-8"), {"symbols": ["AAA", "BBB"]}
    assert source.count(IN_A_STACK) == 1
    if wrong:
        source = source.replace(IN_A_STACK, f"{IN_A_STACK}._replace(returns=to_rows(returns.roll(1, 0)))")
    found = alarms(run_of(source, tmp_path, settings, path))
    assert ("env.mismatch" in found) == wrong
    if wrong:
        assert found["env.mismatch"].evidence.startswith("returns 1 steps late in the minibatch, in 100.0%")
