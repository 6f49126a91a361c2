"""Choice of a trainer's resources: a device, a precision for it, and memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from functools import cache
from typing import Any

import torch

from p3kit.errors import P3kitError
from p3kit.spec import Spec

_MALLOC_OPTIONS = {-1: 2**30, -2: 2**26, -3: 2**25}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes; the last one is the largest it takes."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an allocation was refused: by the device, or by the CPU's allocator (a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step. It would return tens of megabytes in each step, and the
    system would clear them again before their next use: a fifth of the time of a step."""
    if (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # glibc's
        for option, value in _MALLOC_OPTIONS.items():
            set_option(option, value)


@cache
def spare_compiler() -> None:
    """Let Adam and AdamW work without torch._dynamo, whose import takes two seconds. Their methods import it only to be
    left out of what is compiled, and no compiled function of ours calls them."""
    for method in vars(torch.optim.Optimizer).values():
        if (own := getattr(method, "__wrapped__", None)) is not None:
            own.__dynamo_disable = own  # where `torch._disable_dynamo` keeps the function that it calls
    if (own_step := getattr(torch.optim.Adam.step, "__wrapped__", None)) is not None:

        def step(self: torch.optim.Adam, closure: Any = None) -> Any:
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                return own_step(self, closure)

        torch.optim.Adam.step = step  # type: ignore[method-assign]


def spare_lasting_objects() -> None:
    """Take all objects that exist now, such as modules and compiled functions, out of Python's garbage collection. Each
    collection would walk through them, for a tenth of the time of an update."""
    gc.collect()
    gc.freeze()


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB (kilobytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def device_of(spec: Spec) -> torch.device:
    wanted = spec.compute.device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise P3kitError(f"compute.device = {wanted!r}", "this machine has no CUDA device", 'use "auto" or "cpu"')
    return torch.device(wanted)


def precision_of(spec: Spec, device: torch.device) -> torch.dtype:
    wanted = spec.compute.precision
    if wanted == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
