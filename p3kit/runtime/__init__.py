"""The part of p3kit that a trainer uses. Names are imported on first use: loading a policy imports no training."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p3kit.runtime.agent_run import AgentRun as AgentRun
    from p3kit.runtime.checkpoints import load_checkpoint as load_checkpoint
    from p3kit.runtime.checkpoints import part as part
    from p3kit.runtime.checkpoints import under as under
    from p3kit.runtime.entry import open_run as open_run
    from p3kit.runtime.fixed_rules import seed_of as seed_of
    from p3kit.runtime.run import Run as Run
    from p3kit.runtime.stack_run import Stack as Stack
    from p3kit.runtime.stack_run import StackRun as StackRun

_MODULES = {
    "AgentRun": "agent_run",
    "Run": "run",
    "Stack": "stack_run",
    "StackRun": "stack_run",
    "load_checkpoint": "checkpoints",
    "open_run": "entry",
    "part": "checkpoints",
    "seed_of": "fixed_rules",
    "under": "checkpoints",
}

__all__ = [*_MODULES]

_REMOVED = ("Agent", "Bodies", "Flat", "Rollout", "StackPolicy", "load_optimizer_state", "optimizer_state")


def __getattr__(name: str) -> object:
    """Import a name when it is first used (PEP 562)."""
    if name in _REMOVED:
        what = f"p3kit.runtime.{name} was removed: a trainer now uses AgentRun, or StackRun for several agents"
        raise ImportError(f"{what}. `p3kit eject ppo` writes one to compare with; an older run needs the older p3kit")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"p3kit.runtime.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
