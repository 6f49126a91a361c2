"""Choice of a trainer's resources: a device, a precision for it, and memory."""

from __future__ import annotations

import resource
import sys

import torch

from p3kit.errors import P3kitError
from p3kit.spec import Spec


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an allocation was refused: by the device, or by the CPU's allocator (a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


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
