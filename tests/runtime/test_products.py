"""p3kit.runtime.products: whatever library multiplies, the numbers and the gradients are those of a plain product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value

from p3kit.runtime import products

pytestmark = pytest.mark.skipif(not products.HAS_AVX512, reason="oneDNN is used on processors with AVX-512 alone")
Sizes = tuple[int, int, int, int]
SIZES = [(1, 8, 5, 3), (3, 64, 33, 16), (2, 1, 7, 4)]


def problem(sizes: Sizes, shared: bool) -> tuple[Tensor, Tensor, Tensor]:
    agents, rows, inputs, outputs = sizes
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(agents, rows, inputs, generator=generator)
    weight = torch.randn(1 if shared else agents, inputs, outputs, generator=generator)
    return x, weight.expand(agents, inputs, outputs), torch.randn(agents, 1, outputs, generator=generator)


def loss_by(product: Callable[..., Tensor]) -> Callable[..., Any]:
    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (torch.tanh(product(x, weight) + bias)).square().sum()

    return grad_and_value(loss, argnums=(0, 1, 2))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shared", [False, True])
def test_onednn_gives_the_product_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, sizes: Sizes, shared: bool
) -> None:
    monkeypatch.setattr(products, "WORTH_PREPARING", 0)
    given = problem(sizes, shared)
    gradients, value = loss_by(products.multiply)(*given)
    expected, plain = loss_by(torch.bmm)(*given)
    torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-5)
    for found, own in zip(gradients, expected, strict=True):
        assert found.shape == own.shape
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_compiled_layer_has_the_gradients_of_a_plain_one(shared: bool) -> None:
    given = problem((2, 64, 300, 128), shared)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        loss = lambda *own: torch.tanh(products.linear(*own)).square().sum()  # noqa: E731
        found: tuple[tuple[Tensor, ...], Tensor] = grad_and_value(loss, argnums=(0, 1, 2))(x, weight, bias)
        return found

    products.prepare_compiling()
    gradients, value = torch.compile(layer, fullgraph=True)(*given)
    expected, plain = layer(*given)
    torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-4)
    for found, own in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
