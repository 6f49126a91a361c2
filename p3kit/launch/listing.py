"""One line per run: what `p3kit runs` lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from p3kit.launch.display import agent_views
from p3kit.launch.verdicts import GRADES
from p3kit.rundir import RunDir, read_note


@dataclass(frozen=True)
class RunLine:
    """A run in short. `progress` is the mean over its agents, 0 to 1; `age_s` counts from when it was planned."""

    run: str
    name: str
    state: str
    message: str
    progress: float
    agents: tuple[str, ...]
    symbols: tuple[str, ...]
    best_sharpe: float | None  # the best validation Sharpe ratio of any agent and evaluation
    grades: tuple[str, ...]  # one per agent that was judged
    intervened: int  # agents that interventions have changed
    age_s: float
    tags: tuple[str, ...] = ()  # the user's, as is the note
    note: str = ""

    @property
    def verdict(self) -> str:
        """`PASS`, or `2 PASS, 1 FAIL (1 intervened)` where several agents were judged; a dash before."""
        counts = Counter(self.grades)
        grades = ", ".join(f"{counts[grade]} {grade}" for grade in GRADES if counts[grade])
        if len(self.grades) < 2:
            grades = self.grades[0] if self.grades else "–"
        if not self.intervened:
            return grades
        return f"{grades} ({f'{self.intervened} ' if len(self.agents) > 1 else ''}intervened)"

    @property
    def age(self) -> str:
        """`50 s`, `12 min`, `3 h`, `4 d`."""
        for seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
            if self.age_s >= seconds:
                return f"{self.age_s / seconds:.0f} {unit}"
        return f"{self.age_s:.0f} s"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_lines(runs: Sequence[RunDir], now: float) -> list[RunLine]:
    """The runs in the order given; `now` in unix seconds."""
    return [_line(run, now) for run in runs]


def _line(run: RunDir, now: float) -> RunLine:
    info, status = run.info(), run.status()
    views = agent_views(run, info, status, now)
    verdicts = [agent.get("verdict") for agent in status["agents"].values()]
    sharpes = [event["metrics"].get("eval/sharpe_ratio") for event in run.read_events("evaluation")]
    known = [sharpe for sharpe in sharpes if isinstance(sharpe, float) and not math.isnan(sharpe)]
    note = read_note(run)
    is_silent = any(view.is_silent for view in views)
    return RunLine(
        run=run.name,
        name=info["name"],
        state=status["state"],
        message=f"no heartbeat for {views[0].silent_s:.0f} s" if is_silent else status["message"],
        progress=sum(view.progress for view in views) / len(views) if views else 0.0,
        agents=tuple(planned["name"] for planned in info["agents"]),
        symbols=tuple(dict.fromkeys(planned.get("symbol", planned["name"]) for planned in info["agents"])),
        best_sharpe=max(known, default=None),
        grades=tuple(verdict["grade"] for verdict in verdicts if verdict),
        intervened=sum(bool(agent.get("interventions")) for agent in status["agents"].values()),
        age_s=max(0.0, now - info["created"]),
        tags=note.tags,
        note=note.text,
    )
