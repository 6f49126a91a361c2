"""A live decision, on one row, has the bits of the same row in a pass of a backtest.

Layers of 2 to 11 units are left out: on an AMD EPYC the matrix product of 7 and of 8 rounds a row by its place among
the others, by up to 5e-7 in the log-probabilities. Of 1, 12, 16 and more it does not.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from p3kit.metrics import ACTIONS
from p3kit.runtime.action_rule import rules_beside
from p3kit.runtime.lookahead import BARS_AHEAD
from p3kit.runtime.policy import SMALL_BATCH, LoadedPolicy


@pytest.mark.parametrize("size", [5, 36, 155, 1_100])
@pytest.mark.parametrize("width", [1, 16, 64, 256])
def test_a_row_has_the_same_bits_alone_and_among_others(size: int, width: int) -> None:
    torch.manual_seed(size + width)
    net = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, len(ACTIONS) + 1))

    def function(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = net(observation)
        return out[:, :-1].masked_fill(~mask, -1e9).log_softmax(-1), out[:, -1]

    policy = LoadedPolicy(function, lambda observation: observation)
    assert BARS_AHEAD * len(rules_beside("greedy")) == SMALL_BATCH  # the rows of a pass of an evaluation
    observation = torch.randn(SMALL_BATCH, size)
    mask = torch.rand(SMALL_BATCH, len(ACTIONS)) < 0.5
    mask[:, 0] = True
    logits, value = policy(observation, mask)
    for first, rows in ((0, 1), (17, 1), (31, 1), (4, 2), (9, 3), (3, BARS_AHEAD)):
        some = slice(first, first + rows)
        alone, own_value = policy(observation[some], mask[some])
        assert torch.equal(alone, logits[some])
        assert torch.equal(own_value, value[some])


def test_no_rows_and_many_rows_pass_as_they_are() -> None:
    seen = []

    def function(observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(observation))
        return mask.float(), observation[:, 0]

    policy = LoadedPolicy(function, lambda observation: observation)
    for rows in (0, 1, SMALL_BATCH, SMALL_BATCH + 1):
        logits, value = policy(torch.zeros(rows, 3), torch.ones(rows, 7, dtype=torch.bool))
        assert (len(logits), len(value)) == (rows, rows)
    assert seen == [0, SMALL_BATCH, SMALL_BATCH, SMALL_BATCH + 1]
