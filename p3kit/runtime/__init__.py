"""All that a trainer sees of p3kit."""

from typing import NoReturn

from p3kit.runtime.agent_run import AgentRun
from p3kit.runtime.checkpoints import load_checkpoint, part, under
from p3kit.runtime.entry import open_run
from p3kit.runtime.fixed_rules import seed_of
from p3kit.runtime.run import Run
from p3kit.runtime.stack_run import Stack, StackRun

__all__ = [
    "AgentRun",
    "Run",
    "Stack",
    "StackRun",
    "load_checkpoint",
    "open_run",
    "part",
    "seed_of",
    "under",
]

_REMOVED = ("Agent", "Bodies", "Flat", "Rollout", "StackPolicy", "load_optimizer_state", "optimizer_state")


def __getattr__(name: str) -> NoReturn:
    if name in _REMOVED:
        what = f"p3kit.runtime.{name} was removed: a trainer now uses AgentRun, or StackRun for several agents"
        raise ImportError(f"{what}. `p3kit eject ppo` writes one to compare with; an older run needs the older p3kit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
