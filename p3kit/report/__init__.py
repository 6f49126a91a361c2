"""Reports: run directories → plain data → template → markdown and pictures.

*_data.py               read run directories, return frozen dataclasses: agent, week, portfolio, comparison, …
*_page.py               the text for the data of the same name, as markdown or JSON
*_picture(s).py         the pictures of the data of the same name
run_history.py          the state of one run at a moment
figure.py, markdown.py  parts that all pictures and all pages share
hand_written.py         hand-written parts of a generated page

experiments = summarise_week(Path("runs"), week=1, now=time.time())
write_week(experiments, Path("reports"), week=1)
"""

from p3kit.report.agent_data import AgentSummary
from p3kit.report.run_pictures import draw_run
from p3kit.report.week_data import Experiment, summarise_week
from p3kit.report.week_page import render_week, week_json, write_week

__all__ = ["AgentSummary", "Experiment", "draw_run", "render_week", "summarise_week", "week_json", "write_week"]
