"""A refused allocation inside an update: the same gradient from smaller minibatches where a rule allows it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from p3kit.rundir import RunDir

from .conftest import load_trainer
from .tiny_runs import final_weights, metrics_of, train

FITS = 16
"""Rows of a minibatch that the pretended device has memory for."""
RETRY = {"id": "retry", "on": "run.oom", "do": [{"scale": "ppo.batch_size", "by": 0.5, "min": 8}], "max_times": 3}
REFUSED = "CUDA out of memory. Tried to allocate 2.00 GiB"
TRAINERS = {"ppo": "ppo_loss", "ppo_stacked": "ppo_loss", "ppo_shared": "find_gradients"}
"""Where each trainer meets the rows of a minibatch."""


def rows_of(arguments: tuple[Any, ...]) -> int:
    batch = next(one for one in arguments if hasattr(one, "log_prob"))
    return int(batch.log_prob.shape[-1])


def run(trainer: str, folder: Path, changes: dict[str, Any], patch: pytest.MonkeyPatch | None = None) -> RunDir:
    module: ModuleType = load_trainer(trainer)
    if patch is not None:
        whole = getattr(module, TRAINERS[trainer])

        def refuse_more(*arguments: Any, **words: Any) -> Any:
            if rows_of(arguments) > FITS:
                raise torch.OutOfMemoryError(REFUSED)
            return whole(*arguments, **words)

        patch.setattr(module, TRAINERS[trainer], refuse_more)
    short = {"symbols": ["AAA"] if trainer == "ppo" else ["AAA", "BBB"], "ppo.total_timesteps": 600}
    return train(module, folder, trainer, short | changes)[0]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_same_gradient_is_summed_up_from_smaller_minibatches(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run(trainer, tmp_path / "asked", {"ppo.batch_size": 16, "ppo.accumulation_steps": 4})
    forced = run(trainer, tmp_path / "forced", {"intervention": [RETRY]}, monkeypatch)
    assert forced.status()["state"] == "done"
    fired = forced.read_events("intervention")
    assert [event["keys"]["ppo.batch_size"] for event in fired] == [[64, 32], [32, 16]]
    assert {(event["id"], event["decision"], event["reason"]) for event in fired} == {("retry", "fired", REFUSED)}
    assert [event["message"] for event in forced.read_events("oom")] == [REFUSED, REFUSED]
    expected, found = metrics_of(asked, "AAA"), metrics_of(forced, "AAA")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key[1] == "realised/ppo.batch_size":  # the setting that the two runs differ in
            continue
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), key
    for part in ("encoder", "heads") if trainer == "ppo_shared" else ("net",):
        for name, weights in final_weights(asked, "AAA", part).items():
            torch.testing.assert_close(final_weights(forced, "AAA", part)[name], weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"intervention": [RETRY], "diagnose.mode": "watch"}, {"intervention": [RETRY | {"max_times": 1}]}],
    ids=["no rule", "watched only", "not often enough"],
)
def test_where_no_rule_allows_it_the_run_fails_by_name(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    failed = run(trainer, tmp_path, changes, monkeypatch)
    status = failed.status()
    assert status["state"] == "failed"
    assert REFUSED in status["message"]
    assert failed.read_events("oom")[-1]["message"] == REFUSED


def test_another_fault_is_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_trainer("ppo")

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "ppo_loss", breaks)
    (failed,) = train(module, tmp_path, "ppo", {"symbols": ["AAA"], "intervention": [RETRY]})
    assert failed.status()["message"] == "shapes do not match"
    assert not failed.read_events("oom")
    assert not failed.read_events("intervention")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"do": [{"scale": "ppo.batch_size", "by": 2.0, "max": 128}]}, True),
        ({"on": "policy.hold"}, True),
        ({"do": [{"scale": "ppo.n_steps", "by": 0.5, "min": 8}]}, True),
        ({}, False),
    ],
)
def test_only_memory_may_move_a_size_and_only_down(change: dict[str, Any], refused: bool) -> None:
    from p3kit.errors import SpecError
    from p3kit.spec import resolve_spec

    tables = {"name": "oom", "symbols": ["AAPL"], "intervention": [RETRY | change]}
    if refused:
        with pytest.raises(SpecError, match="is a size, so it cannot move"):
            resolve_spec(tables, "test")
    else:
        assert resolve_spec(tables, "test").intervention[0].retries_smaller_minibatches()
