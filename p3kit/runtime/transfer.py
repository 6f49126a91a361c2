"""Tensors of any shape and type to the CPU in one transfer, so that a GPU is waited for once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Array = NDArray[Any]


def to_host(tree: Any) -> Any:
    """Nested dicts, lists and tuples of tensors as the same of NumPy arrays. All tensors are on one device."""
    tensors, shape = tree_flatten(tree)
    return tree_unflatten(_arrays(tensors), shape)


def _arrays(tensors: list[Tensor]) -> list[Array]:
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())  # wide numbers first: all aligned
    packed = torch.cat([tensors[i].contiguous().reshape(-1).view(torch.uint8) for i in order]).cpu().numpy()
    found: list[Array] = [np.empty(0)] * len(tensors)
    begin = 0
    for i in order:
        count = tensors[i].numel() * tensors[i].element_size()
        kind = torch.empty(0, dtype=tensors[i].dtype).numpy().dtype
        found[i] = packed[begin : begin + count].view(kind).reshape(tuple(tensors[i].shape))
        begin += count
    return found
