"""The trainers where their program runs in another way: compiled, and on a CUDA device.

The first rollout is drawn from the same generators everywhere, so what a run records of its first updates must agree
with the plain CPU run to what another order of sums leaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch._dynamo.utils import counters

from p3kit.rundir import RunDir

from .conftest import load_trainer
from .tiny_runs import metrics_of, train

TRAINERS: dict[str, dict[str, Any]] = {
    "ppo": {"symbols": ["AAA"]},
    "ppo_stacked": {},
    "ppo_shared": {"env.window": 6, "ppo.patch": 2},
}
"""Trainer → what its tiny runs change in the common spec."""

LEARNT = ("policy/policy_loss", "value/value_loss", "policy/entropy", "policy/kl_divergence", "grad/grad_norm")


def run(trainer: str, folder: Path, **compute: str) -> RunDir:
    changes = {f"compute.{key}": value for key, value in compute.items()} | {"ppo.total_timesteps": 900}
    (made,) = train(load_trainer(trainer), folder, trainer, TRAINERS[trainer] | changes)
    return made


def assert_agree(made: RunDir, plain: RunDir, rel: float, abs_: float) -> None:
    for agent in plain.agent_names():
        expected, found = metrics_of(plain, agent), metrics_of(made, agent)
        keys = [key for key in expected if key[1] in LEARNT]
        assert len(keys) >= 3 * len(LEARNT)
        for key in keys:
            assert found[key] == pytest.approx(expected[key], rel=rel, abs=abs_), (agent, key)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_compiled_is_eager_to_rounding(trainer: str, tmp_path: Path) -> None:
    plain = run(trainer, tmp_path / "plain", compile="off")
    counters.clear()
    fast = run(trainer, tmp_path / "fast", compile="on")
    traced = counters["aot_autograd"]
    assert traced["total"] > 0
    assert traced["autograd_cache_bypass"] == 0, "PyTorch does not cache what it traced; every run traces it again"
    assert not [event for event in fast.read_events("note") if "not compiled" in event["text"]]
    assert_agree(fast, plain, rel=5e-3, abs_=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("compiling", ["off", "on"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_on_cuda_is_that_of_the_cpu(trainer: str, tmp_path: Path, compiling: str) -> None:
    """With `compile`, every call is replayed as one CUDA graph."""
    plain = run(trainer, tmp_path / "plain", compile="off")
    made = run(trainer, tmp_path / "cuda", device="cuda", precision="fp32", compile=compiling)
    assert made.status()["state"] == "done"
    assert_agree(made, plain, rel=5e-2, abs_=5e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("trainer", "device"),
    [
        ("ppo_stacked", "cpu"),
        ("ppo_shared", "cpu"),
        *(pytest.param(trainer, "cuda", marks=pytest.mark.gpu) for trainer in TRAINERS),
    ],
)
def test_mixed_precision(trainer: str, device: str, tmp_path: Path, precision: str) -> None:
    made = run(trainer, tmp_path, device=device, precision=precision)
    assert made.status()["state"] == "done"
    for agent in made.agent_names():
        rows = metrics_of(made, agent)
        assert all(np.isfinite(value) for (_, name), value in rows.items() if name == "value/value_loss")
        assert max(value for (_, name), value in rows.items() if name == "policy/ratio_error") < 2e-2
        assert ("diag/amp_scale" in {name for _, name in rows}) == (precision == "fp16")
