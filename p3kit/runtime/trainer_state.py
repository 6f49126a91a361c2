"""Everything that a trainer keeps in a checkpoint, by name: saved, restored and rolled back in one place.

A part is anything with `state_dict` and `load_state_dict` (a module, an optimiser, a scaler, an environment), or a dict
of tensors whose first dimension counts the agents of a stack. The entries of a checkpoint are `<part>/<key>`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from p3kit.errors import CheckpointError
from p3kit.runtime.checkpoints import Flat, load_optimizer_state, optimizer_state, part, under


class Stateful(Protocol):
    """A part of a trainer that a checkpoint keeps."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


@runtime_checkable
class Rolling(Protocol):
    """A part whose rollback restores only some of its state."""

    def go_back(self, state: Flat, place: int | None = None, from_place: int = 0) -> None: ...


Part = Stateful | dict[str, Tensor]


class Registry:
    """The parts of a trainer, in the order in which they were added."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._stays: set[str] = set()

    def add(self, parts: Mapping[str, Part], *, rolls_back: bool = True) -> None:
        """Keep `parts` in every checkpoint. A rollback does not restore parts added with `rolls_back=False`."""
        if again := self._parts.keys() & parts.keys():
            raise ValueError(f"{', '.join(sorted(again))}: registered before")
        self._parts.update(parts)
        if not rolls_back:
            self._stays |= parts.keys()

    def modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """The networks among the parts."""
        for name, own in self._parts.items():
            if isinstance(own, torch.nn.Module):
                yield name, own

    def state_dict(self, names: Iterable[str] | None = None) -> Flat:
        """The state of all parts, or of those in `names`, flat."""
        state: Flat = {}
        for name in self._parts if names is None else names:
            state |= under(name, state_of_part(self._parts[name]))
        return state

    def load_state_dict(self, state: Flat, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Restore every part, or those in `names`, in place; returns what each part's `load_state_dict` returned."""
        return {
            name: load_part(self._parts[name], part(name, state)) for name in (self._parts if names is None else names)
        }

    def initial_parts(self, *, optimizer: bool, also: Collection[str] = ()) -> Iterator[tuple[str, Part]]:
        """The parts that a training can take from an earlier one: all that a rollback restores, and those in `also`;
        optimisers and loss scales if `optimizer` is true."""
        for name, own in self._parts.items():
            if (name not in self._stays or name in also) and (optimizer or not _is_of_optimizer(name, own)):
                yield name, own

    def go_back(self, state: Flat, place: int | None = None, from_place: int = 0) -> None:
        """Take the parts back to an earlier state; of a stack only agent `place`, who was `from_place` then."""
        for name, own in self._parts.items():
            if name in self._stays:
                continue
            earlier = part(name, state)
            if isinstance(own, Rolling):
                own.go_back(earlier, place, from_place)
            elif isinstance(own, dict) and place is not None:
                for key, table in own.items():
                    table[place] = earlier[key][from_place]
            else:
                load_part(own, earlier)


def _is_of_optimizer(name: str, own: Part) -> bool:
    return isinstance(own, torch.optim.Optimizer) or name in ("grad_scaler", "loss_scale") or "optimizer" in name


def state_of_part(own: Part) -> Flat:
    """The state of a part, flat."""
    if isinstance(own, dict):
        return own
    return optimizer_state(own) if isinstance(own, torch.optim.Optimizer) else dict(own.state_dict())


def load_part(own: Part, state: Flat) -> Any:
    """Restore a part; returns what its `load_state_dict` returned. A dict gets the tensors of `state`."""
    if isinstance(own, dict):
        if missing := own.keys() - state.keys():
            raise CheckpointError("trainer state", f"lacks {', '.join(sorted(missing))}", "resume with its own trainer")
        own.update(state)
        return None
    if isinstance(own, torch.optim.Optimizer):
        load_optimizer_state(own, state)
        return None
    return own.load_state_dict(state)
