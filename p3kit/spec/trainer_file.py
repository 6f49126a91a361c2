"""The facts about a trainer that planning needs, read from its file without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3kit.spec.knobs import read_agents, read_knobs
from p3kit.spec.shipped import find_trainer


@dataclass(frozen=True)
class TrainerFile:
    """The facts about a trainer that planning uses."""

    path: Path
    agents: Literal["one", "stack", "all"]
    """Agents that it trains in one run; see `p3kit.spec.knobs.AGENTS`."""
    fixed: tuple[str, ...]
    """Knobs that cannot change during training: sizes and words."""


def read_trainer(name_or_path: str) -> TrainerFile:
    """Read the file of a trainer. Raises SpecError where there is none, or its `Args` or `AGENTS` have faults."""
    path = find_trainer(name_or_path)
    return TrainerFile(path, read_agents(path), fixed_knobs(path))


def fixed_knobs(trainer: Path) -> tuple[str, ...]:
    """Return the knobs that cannot change during training: sizes and words."""
    return tuple(knob.name for knob in read_knobs(trainer) if not knob.live)
