"""Start and watch trainer processes: one process per run, a few at a time, each in a session of its own."""

from p3kit.launch.estimate import Pace, measured_pace, total_seconds
from p3kit.launch.listing import RunLine, run_lines
from p3kit.launch.local import Outcome, launch, resume
from p3kit.launch.process import run_trainer
from p3kit.launch.replay import Replay, compare_weights, plan_replay
from p3kit.launch.verdicts import AgentResult, agent_results, verdict_lines

__all__ = [
    "AgentResult",
    "Outcome",
    "Pace",
    "Replay",
    "RunLine",
    "agent_results",
    "compare_weights",
    "launch",
    "measured_pace",
    "plan_replay",
    "resume",
    "run_lines",
    "run_trainer",
    "total_seconds",
    "verdict_lines",
]
