"""Start a training from the weights of an earlier one: what a trainer process loads in place of new weights.

The run directory holds a copy of the checkpoint, so that the run is whole without the earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from p3kit.errors import CheckpointError
from p3kit.rundir import RunDir
from p3kit.runtime.card import weights_of
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part, state_hash, under
from p3kit.runtime.scaling import RewardScaler
from p3kit.runtime.stacking import ObservationScalers
from p3kit.runtime.trainer_state import Registry, Rolling, load_part, state_of_part

REMEDY = "use the settings of the earlier training, or take [init] out"


class OwnNetworks(Protocol):
    """The networks of a stack, as far as they are needed here."""

    def of_agent(self, agent: int) -> Flat: ...


@dataclass(frozen=True)
class InitialWeights:
    """The weights that one agent starts from."""

    label: str
    """The agent that they come from: `run-42/AAPL`."""
    agent: str
    """Its name in its run."""
    state: Flat
    """The trainer's part of the checkpoint."""
    optimizer: bool
    """Take the state of the optimiser as well."""
    reward_scale: bool
    """Take the statistics of the reward scale as well."""

    @classmethod
    def read(cls, directory: RunDir, plan: Mapping[str, Any], device: torch.device) -> InitialWeights | None:
        """Those that run.json has for an agent; None where its weights are new. Raises CheckpointError where the file
        has others."""
        if (entry := plan.get("init")) is None:
            return None
        path = directory.checkpoint(entry["file"])
        state = weights_of(load_checkpoint(path, device))
        if state_hash(state) != entry["sha256"]:
            what = f"holds other weights than the run was planned with ({entry['from']})"
            raise CheckpointError(str(path), what, "bring the right file back, or plan the run again")
        return cls(entry["from"], entry["agent"], state, entry["optimizer"], entry["reward_scale"])

    @property
    def place(self) -> int | None:
        """Place of the agent in the checkpoint of a stack; None where the checkpoint has one agent."""
        return str(self.state["agents"]).split("\n").index(self.agent) if "agents" in self.state else None

    def refuse(self, what: str) -> CheckpointError:
        """The error for weights that do not fit."""
        return CheckpointError(f"weights of {self.label}", what, REMEDY)

    def load_alone(self, registry: Registry) -> None:
        """Load them into the trainer of one agent."""
        if self.place is not None:
            raise self.refuse('are those of a stack of agents in this checkpoint; take checkpoint = "best"')
        for name, own in registry.initial_parts(optimizer=self.optimizer):
            earlier = part(name, self.state)
            if isinstance(own, RewardScaler):
                own.start_from(earlier if self.reward_scale else {}, None)
            elif earlier:
                if not isinstance(own, torch.optim.Optimizer):  # it has no state before its first step
                    self._check(name, state_of_part(own), earlier)
                load_part(own, earlier)
            elif isinstance(own, torch.nn.Module | torch.optim.Optimizer):
                raise self.refuse(f"have no part {name}")

    def load_into_stack(self, registry: Registry, networks: OwnNetworks, shared: Sequence[str], place: int) -> None:
        """Load them for agent `place` of a stack. `shared` parts belong to all agents."""
        if self.place is None:
            if self.optimizer:
                raise self.refuse("have no optimiser state of a stack of agents; take optimizer = false")
            self._copy_networks(networks.of_agent(place))
        for name, own in registry.initial_parts(optimizer=self.optimizer, also=shared):
            earlier = part(name, self.state)
            if isinstance(own, RewardScaler):
                own.start_from(earlier if self.reward_scale else {}, self.place, place)
            elif not earlier:
                continue
            elif self.place is not None and name in shared:
                self._check(name, state_of_part(own), earlier)
                load_part(own, {key: value.clone() for key, value in earlier.items()})
            elif self.place is not None:
                self._take_place(name, own, earlier, place)
            elif isinstance(own, ObservationScalers):
                self._check(name, own.of_agent(place), earlier)
                own.go_back({key: torch.as_tensor(value).unsqueeze(0) for key, value in earlier.items()}, place, 0)

    def verify(self, registry: Registry, networks: OwnNetworks, shared: Sequence[str], place: int) -> None:
        """Raise CheckpointError where agent `place` of a stack, all of which is loaded, has other weights: those of
        another agent in a part that belongs to all."""
        own = networks.of_agent(place)
        expected = {name: self.state[name] for name in own} if self.place is None else {}
        for name, tables in registry.initial_parts(optimizer=False, also=shared):
            if self.place is not None and name in shared:
                own = own | under(name, state_of_part(tables))
                expected |= under(name, part(name, self.state))
        if other := next((name for name, value in expected.items() if not torch.equal(own[name], value)), None):
            what = f"have another {other} than those of the other agents, which share it"
            raise CheckpointError(f"weights of {self.label}", what, 'take checkpoint = "last" of one run')

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _copy_networks(self, own: Flat) -> None:
        """Copy the weights into `own`, which are views of the stack's."""
        earlier = {key: value for key, value in self.state.items() if key.split("/")[0] in _names(own)}
        self._check("", own, earlier)
        with torch.no_grad():
            for name, view in own.items():
                view.copy_(earlier[name])

    def _take_place(self, name: str, own: Any, earlier: Flat, place: int) -> None:
        """Take agent `self.place` of an earlier stack for agent `place`."""
        self._check(name, state_of_part(own), earlier, first_dimension=1)
        if isinstance(own, Rolling):
            own.go_back(earlier, place, self.place or 0)
        else:
            for key, table in own.items():
                table[place] = earlier[key][self.place]

    def _check(self, name: str, own: Flat, earlier: Flat, first_dimension: int = 0) -> None:
        """Raise CheckpointError that names the first tensor that is not of one shape here and there."""
        for key in dict.fromkeys([*own, *earlier]):
            here, there = (_shape(state.get(key), first_dimension) for state in (own, earlier))
            if here != there:
                path = "/".join(word for word in (name, key) if word)
                raise self.refuse(f"do not fit: {path} is {there} there and {here} here")


def _names(own: Flat) -> set[str]:
    return {key.split("/")[0] for key in own}


def _shape(value: Any, first_dimension: int) -> str:
    if value is None:
        return "absent"
    return str(tuple(value.shape[first_dimension:])) if isinstance(value, Tensor) else "one number"
