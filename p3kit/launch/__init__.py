"""Start and watch trainer processes: one process per run, a few at a time, each in a session of its own."""

from p3kit.launch.estimate import Pace, measured_pace, total_seconds
from p3kit.launch.extension import extend
from p3kit.launch.journal_replay import Replay, compare_weights, plan_replay
from p3kit.launch.listing import RunLine, run_lines
from p3kit.launch.local import Feed, Outcome, make_runs, requeue, train
from p3kit.launch.process import run_trainer
from p3kit.launch.verdicts import AgentResult, agent_results, verdict_lines

__all__ = [
    "AgentResult",
    "Feed",
    "Outcome",
    "Pace",
    "Replay",
    "RunLine",
    "agent_results",
    "compare_weights",
    "extend",
    "make_runs",
    "measured_pace",
    "plan_replay",
    "requeue",
    "run_lines",
    "run_trainer",
    "total_seconds",
    "train",
    "verdict_lines",
]
