"""`load_policy` of the trainers of several agents: one agent's policy, from its own checkpoint or from that of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p3kit.market import load_market
from p3kit.metrics import ACTIONS
from p3kit.runtime import load_checkpoint, part
from p3kit.runtime.policy import LoadedPolicy, load_weights, sizes_on_bars
from p3kit.spec import resolve_spec

from .conftest import load_trainer
from .tiny_runs import train

AGENTS = ("AAA", "BBB", "CCC")


@pytest.mark.parametrize("trainer", ["ppo_stacked", "ppo_shared"])
def test_an_agents_policy_is_in_its_own_checkpoint_and_in_that_of_all(trainer: str, tmp_path: Path) -> None:
    module = load_trainer(trainer)
    changes = {"observation.normalize": "running", "ppo.dropout": 0.1}
    (run,) = train(module, tmp_path, trainer, changes)
    spec = resolve_spec(run.info()["spec"], "test")
    sizes = sizes_on_bars(spec, load_market(spec, spec.symbols)["AAA"])
    args = module.Args(**spec.ppo.model_dump())
    device = torch.device("cpu")
    torch.manual_seed(1)
    observation = torch.randn(20, sizes["observation_size"])
    mask = torch.rand(20, len(ACTIONS)) < 0.5
    mask[:, 0] = True

    def policy_of(state: dict[str, torch.Tensor], agent: str) -> LoadedPolicy:
        return load_weights(module.load_policy, args, spec, state, device, agent=agent, **sizes)

    whole = part("trainer", load_checkpoint(run.checkpoint("last")))
    values = {}
    for agent in AGENTS:
        own = policy_of(load_checkpoint(run.checkpoint("best-000001000", agent)), agent)
        logits, value = own(observation, mask)
        assert logits.shape == (20, len(ACTIONS))
        assert value.shape == (20,)
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(20))
        assert bool((logits.exp()[~mask] == 0).all())
        for one, other in zip(policy_of(whole, agent)(observation, mask), (logits, value), strict=True):
            assert torch.equal(one, other)
        alone = torch.cat([own(observation[i : i + 1], mask[i : i + 1])[1] for i in range(20)])
        torch.testing.assert_close(alone, value, rtol=1e-4, atol=1e-6)
        values[agent] = value
    assert not torch.equal(values["AAA"], values["BBB"])
