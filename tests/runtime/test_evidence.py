"""The numbers behind the diagnosis, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p3kit.runtime.evidence import (
    correlation,
    dead_share,
    dormant_share,
    explained_variance,
    feature_rank,
    ridge_explained_variance,
    sample_rows,
    update_ratio,
)


def test_explained_variance() -> None:
    target = torch.randn(1_000)
    assert float(explained_variance(target, target)) == pytest.approx(1)
    assert float(explained_variance(torch.zeros(1_000), target)) == pytest.approx(0)
    assert float(explained_variance(-target, target)) == pytest.approx(-3)
    assert explained_variance(target, torch.ones(1_000)).isnan()


def test_the_ridge_reference_finds_a_linear_signal_and_does_not_invent_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_048, 50, generator=generator)
    noise = torch.randn(2_048, generator=generator)
    signal = x @ torch.randn(50, generator=generator)
    assert float(ridge_explained_variance(x, signal + noise)) > 0.7
    assert float(ridge_explained_variance(x, noise)) < 0.05
    assert float(ridge_explained_variance(torch.cat([x, torch.ones(2_048, 1)], 1), signal + noise)) > 0.7


def test_the_ridge_reference_is_the_regression_that_its_docstring_names() -> None:
    generator = torch.Generator().manual_seed(1)
    x = 3 + 5 * torch.randn(400, 30, generator=generator)
    target = x[:, 0] - 0.5 * x[:, 1] + 4 * torch.randn(400, generator=generator)
    standard = ((x - x[:200].mean(0)) / x[:200].std(0)).clamp(-10, 10).double().numpy()
    y = target.double().numpy()
    level = y[:200].mean()
    weights = np.linalg.solve(
        standard[:200].T @ standard[:200] + 200 * np.eye(30), standard[:200].T @ (y[:200] - level)
    )
    residual = y[200:] - level - standard[200:] @ weights
    expected = 1 - residual.var(ddof=1) / y[200:].var(ddof=1)
    assert float(ridge_explained_variance(x, target)) == pytest.approx(expected, abs=1e-5)


def test_a_value_too_large_to_square_leaves_the_ridge_reference_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(200, 5, generator=generator), torch.randn(200, generator=generator)
    x[3, 1] = 1e30
    assert ridge_explained_variance(x, target).isfinite()


def test_dormant_units_are_counted_over_all_layers() -> None:
    alive, dead = torch.randn(100, 6), torch.zeros(100, 2)
    assert float(dormant_share([torch.cat([alive, dead], 1), torch.randn(100, 8)])) == pytest.approx(2 / 16)


def test_feature_rank_counts_directions() -> None:
    low = torch.randn(500, 3) @ torch.randn(3, 64)
    assert int(feature_rank(low)) <= 3
    assert int(feature_rank(torch.randn(5_000, 64))) > 60


def test_correlation_and_update_ratio() -> None:
    a = torch.randn(1_000)
    assert float(correlation(a, 3 * a + 1)) == pytest.approx(1)
    assert float(correlation(a, -a)) == pytest.approx(-1)
    assert float(update_ratio(torch.ones(4), torch.full((4,), 1.1), 100)) == pytest.approx(0.01, rel=1e-5)


def test_sample_rows_are_in_order_and_in_range() -> None:
    rows = sample_rows(16_384, torch.device("cpu"))
    assert len(rows) == 2_048
    assert rows[0] == 0
    assert rows[-1] == 16_383
    assert (rows.diff() > 0).all()
    assert sample_rows(10, torch.device("cpu")).tolist() == list(range(10))


def test_evidence_of_a_sick_batch_is_nan_and_never_an_error() -> None:
    generator = torch.Generator().manual_seed(0)
    observation, target = torch.randn(200, 5, generator=generator), torch.randn(200, generator=generator)
    for sick in (torch.nan, torch.inf):
        spoiled = observation.clone()
        spoiled[7, 2] = sick
        assert feature_rank(spoiled).isnan()
        assert ridge_explained_variance(spoiled, target).isnan()
    assert float(feature_rank(observation)) == 5


def test_dead_units_are_those_that_no_state_wakes() -> None:
    layer = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 2.0]])
    assert float(dead_share([layer, torch.zeros(2, 1)])) == 0.5
