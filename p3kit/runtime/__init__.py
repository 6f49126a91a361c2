"""All that a trainer sees of p3kit."""

from p3kit.runtime.agent import Agent
from p3kit.runtime.agent_run import AgentRun
from p3kit.runtime.checkpoints import load_checkpoint, part, under
from p3kit.runtime.entry import open_run
from p3kit.runtime.evaluation import seed_of
from p3kit.runtime.run import Run
from p3kit.runtime.stack_run import Stack, StackRun

__all__ = [
    "Agent",
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
