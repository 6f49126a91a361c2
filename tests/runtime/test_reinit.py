"""New weights for a part of a net."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from p3kit.runtime.reinit import UNDECIDED_GAIN, NamedLayers, reinit_dormant, reinit_head

DRAW = torch.Generator().manual_seed(1)


def net() -> NamedLayers:
    """4 values, 6 and 5 hidden units, 3 outputs."""
    sizes = (4, 6, 5, 3)
    return {"policy": [(torch.randn(o, i, generator=DRAW), torch.randn(o, generator=DRAW)) for i, o in pairwise(sizes)]}


def copy(of: NamedLayers) -> NamedLayers:
    return {body: [(weight.clone(), bias.clone()) for weight, bias in layers] for body, layers in of.items()}


def run(of: NamedLayers, x: torch.Tensor) -> list[torch.Tensor]:
    """Hidden activations, then the output."""
    found = []
    for weight, bias in of["policy"]:
        x = x @ weight.T + bias
        x = torch.relu(x) if len(found) < 2 else x
        found.append(x)
    return found


def test_a_head_is_the_last_layers_and_nothing_else() -> None:
    own, fresh, moments = net(), net(), net()
    before = copy(own)
    reinit_head(own, fresh, [moments], "policy")
    for number in (0, 1):
        torch.testing.assert_close(own["policy"][number], before["policy"][number])
        assert all(bool((part != 0).all()) for part in moments["policy"][number])
    torch.testing.assert_close(own["policy"][2], fresh["policy"][2])
    assert float(torch.linalg.matrix_norm(own["policy"][2][0], 2)) == pytest.approx(UNDECIDED_GAIN)
    assert not any(bool(part.any()) for part in moments["policy"][2])
    reinit_head(own, fresh, [], "policy", layers=2)
    torch.testing.assert_close(own["policy"][1], fresh["policy"][1])


def test_dead_units_live_again_and_the_net_says_what_it_said() -> None:
    own, fresh, moments = net(), net(), net()
    own["policy"][0][1][[1, 4]] = -1e3  # two units of the first layer that no input wakes
    x = torch.randn(256, 4, generator=DRAW)
    *hidden, said = run(own, x)
    before = copy(own)
    assert reinit_dormant(own, fresh, [moments], {"policy": [hidden[0], torch.ones(256, 5)]}) == 2
    torch.testing.assert_close(own["policy"][0][0][[1, 4]], fresh["policy"][0][0][[1, 4]])
    assert own["policy"][0][1][[1, 4]].tolist() == [0.0, 0.0]  # no bias, for any bias of a fresh net
    torch.testing.assert_close(own["policy"][0][0][[0, 2, 3, 5]], before["policy"][0][0][[0, 2, 3, 5]])
    assert not own["policy"][1][0][:, [1, 4]].any(), "the outgoing weights are 0 at first"
    assert not moments["policy"][0][0][[1, 4]].any()
    assert not moments["policy"][1][0][:, [1, 4]].any()
    assert moments["policy"][0][0][[0, 2, 3, 5]].all()
    again = run(own, x)
    torch.testing.assert_close(again[-1], said)
    assert (again[0][:, [1, 4]] > 0).any(0).all()


def test_a_lively_net_is_left_as_it_is() -> None:
    own, fresh = net(), net()
    before = copy(own)
    lively = [torch.ones(8, 6), torch.ones(8, 5)]
    assert reinit_dormant(own, fresh, [], {"policy": lively}) == 0
    torch.testing.assert_close(own, before)
