"""Start and watch trainer processes: one process per run, a few at a time, each in a session of its own."""

from p3kit.launch.estimate import Pace, measured_pace, total_seconds
from p3kit.launch.listing import RunLine, run_lines
from p3kit.launch.local import Outcome, launch, resume
from p3kit.launch.process import run_trainer
from p3kit.launch.verdicts import AgentResult, agent_results, verdict_lines

__all__ = [
    "AgentResult",
    "Outcome",
    "Pace",
    "RunLine",
    "agent_results",
    "launch",
    "measured_pace",
    "resume",
    "run_lines",
    "run_trainer",
    "total_seconds",
    "verdict_lines",
]
