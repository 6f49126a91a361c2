"""torch.compile for the functions of a trainer: with a fallback, and with a cache that survives a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from p3kit.runtime.products import prepare_compiling


def compiled_or_plain(function: Any, on_failure: Callable[[str], None], *, on_cuda: bool) -> Any:
    """`function` through torch.compile, at its first call. On CUDA the kernels of a call become one graph.

    If that fails, `on_failure` gets the reason, and `function` itself runs from then on.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second of imports that most runs do not need

    prepare_compiling()
    fast: Any = torch.compile(function, mode="reduce-overhead" if on_cuda else None)
    removed: list[Path] = []

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal fast
        try:
            if not on_cuda or fast is function:
                return fast(*arguments, **named)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            # A graph writes the results of every call into the same memory: a rollout keeps copies.
            return tree_map_only(Tensor, Tensor.clone, fast(*arguments, **named))
        except TorchDynamoException as error:
            torn = torn_library(error)
            if torn is not None and torn not in removed:
                removed.append(torn)
                torn.unlink(missing_ok=True)  # it is compiled again
                return call(*arguments, **named)
            fast = function
            on_failure(str(error).strip().splitlines()[0])
            return function(*arguments, **named)

    return call


def torn_library(error: BaseException) -> Path | None:
    """The file of a compiled kernel that cannot be loaded, if that is what failed. A kill during its compilation leaves
    half a file in torch's cache, and torch does not replace it."""
    cause = getattr(error, "inner_exception", None)
    path = getattr(cause, "path", None)
    return Path(path) if isinstance(cause, ImportError) and path and Path(path).is_file() else None
