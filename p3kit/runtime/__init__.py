"""All that a trainer sees of p3kit."""

from p3kit.runtime.agent import Agent
from p3kit.runtime.agent_run import AgentRun
from p3kit.runtime.checkpoints import Flat, load_checkpoint, load_optimizer_state, optimizer_state, part, under
from p3kit.runtime.entry import open_run
from p3kit.runtime.evaluation import StackPolicy, seed_of
from p3kit.runtime.recording import Rollout
from p3kit.runtime.reinit import Bodies
from p3kit.runtime.run import Run
from p3kit.runtime.stack_run import Stack, StackRun

__all__ = [
    "Agent",
    "AgentRun",
    "Bodies",
    "Flat",
    "Rollout",
    "Run",
    "Stack",
    "StackPolicy",
    "StackRun",
    "load_checkpoint",
    "load_optimizer_state",
    "open_run",
    "optimizer_state",
    "part",
    "seed_of",
    "under",
]
