"""Layers of K agents: in compiled functions on a CPU, by the library that is faster for their size.

PyTorch multiplies fp32 matrices with MKL, which uses AVX-512 on Intel's processors alone. oneDNN, a part of PyTorch
too, uses it on all of them, and takes longer to prepare a call. Gradients on weights are many small products, which MKL
computes faster on every processor. The choice rests on sizes and machine alone, so that the same run has the same bits.

Notation for shapes: K agents, B rows of each.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORTH_PREPARING = 2_000_000
"""Multiplications of one product from which oneDNN is faster, its preparation included."""
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def is_made_by_intel() -> bool:
    """True for a processor of Intel: Linux has the maker in a file, Windows in the name of the processor."""
    about = Path("/proc/cpuinfo")
    return "GenuineIntel" in (about.read_text(encoding="utf-8") if about.exists() else platform.processor())


PREFERS_ONEDNN = HAS_AVX512 and not is_made_by_intel()


def prepare_compiling() -> None:
    """Let torch.compile call `multiply`, and find functions that do in its cache. A trace through `multiply` would lose
    the gradient that it has of its own."""
    import torch._inductor.config as inductor  # a second of imports that most runs do not need

    torch.compiler.allow_in_graph(multiply)  # type: ignore[no-untyped-call]
    inductor.unsafe_marked_cacheable_functions[f"{multiply.__module__}.{multiply.__name__}"] = str(WORTH_PREPARING)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (K, B, in) · weight (K, in, out) + bias (K, 1, out): each agent by its own layer.

    A weight that is expanded to K agents belongs to all of them. One product then serves all rows, and the gradient on
    the weight is still each agent's own.
    """
    fp32_on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if torch.compiler.is_compiling() and fp32_on_cpu:  # the sum joins the next kernel; baddbmm would copy the bias
        return (multiply(x, weight) if PREFERS_ONEDNN else torch.bmm(x, weight)) + bias
    return torch.baddbmm(bias, x, weight)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a (K, B, in) · b (K, in, out)."""
    rows = a.shape[1] * (a.shape[0] if b.stride(0) == 0 else 1)
    if rows * a.shape[2] * b.shape[2] < WORTH_PREPARING:
        return torch.bmm(a, b)
    out: Tensor = _InOneDNN.apply(a, b)  # type: ignore[no-untyped-call]
    return out


def _multiply_in_onednn(a: Tensor, b: Tensor) -> Tensor:
    if b.stride(0) == 0:
        return _product(a.flatten(0, 1), b[0]).view(len(a), -1, b.shape[2])
    return torch.stack([_product(one, other) for one, other in zip(a.unbind(), b.unbind(), strict=True)])


def _product(a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return out


class _InOneDNN(torch.autograd.Function):
    """a (K, B, in) · b (K, in, out)."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = torch.ops.p3kit.multiply_in_onednn(a, b)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        a, b = ctx.saved_tensors
        return multiply(gradient, b.mT) if ctx.needs_input_grad[0] else None, torch.bmm(a.mT, gradient)


# An operator of its own: torch.compile takes oneDNN's only for weights that never change, and it has no gradient.
_library: Any = torch.library.Library("p3kit", "DEF")  # type: ignore[no-untyped-call]
_library.define("multiply_in_onednn(Tensor a, Tensor b) -> Tensor", tags=(torch.Tag.flexible_layout,))
_library.impl("multiply_in_onednn", _multiply_in_onednn, "CPU")
_library.impl("multiply_in_onednn", torch.library.fallthrough_kernel, "Autograd")
_library._register_fake("multiply_in_onednn", lambda a, b: a.new_empty(a.shape[0], a.shape[1], b.shape[2]))
