"""Start and watch trainer processes: one process per run, a few at a time, each in a session of its own."""

from p3kit.launch.local import Outcome, launch, resume
from p3kit.launch.verdicts import AgentResult, agent_results, verdict_lines

__all__ = ["AgentResult", "Outcome", "agent_results", "launch", "resume", "verdict_lines"]
