"""Reports: run directories → summary (plain data) → template → markdown and pictures.

experiments = summarise_week(Path("runs"), week=1, now=time.time())
write_week(experiments, Path("reports"), week=1)
"""

from p3kit.report.pictures import draw_run
from p3kit.report.summary import AgentSummary, Experiment, summarise_week
from p3kit.report.week import render_week, week_json, write_week

__all__ = ["AgentSummary", "Experiment", "draw_run", "render_week", "summarise_week", "week_json", "write_week"]
