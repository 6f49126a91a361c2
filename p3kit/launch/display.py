"""Progress display while runs train: a live table on a terminal, plain lines anywhere else. All of it on stderr."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from p3kit.agent_labels import fitting_labels
from p3kit.console import FittingTable
from p3kit.escape import one_line
from p3kit.rundir import RunDir

SILENT_AFTER_S = 120.0
"""A running trainer without a heartbeat for so long is shown as silent. It is only reported, never ended."""

STATE_COLOURS = {
    "queued": "dim",
    "starting": "dim cyan",
    "running": "cyan",
    "done": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "crashed": "bold red",
}
_OPTIONAL = ("acts", "HOLD", "entropy", "steps/s", "progress", "")
"""Columns that a narrow terminal drops, the first ones first."""
_LABEL = 24
"""Columns of an agent's label."""
_URGENCY = ("silent", "running", "starting", "crashed", "failed", "stopped", "queued", "done")


@dataclass(frozen=True)
class AgentView:
    """Current state of one agent, from the files of its run. Rates are env steps per second; None if not known yet."""

    label: str  # run-3/AAPL
    state: str  # of the run directory, or "starting": its process runs but has written no status yet
    global_step: int
    total_timesteps: int
    steps_per_second: float | None = None
    sharpe: float | None = None
    entropy_norm: float | None = None
    hold_share: float | None = None
    silent_s: float = 0.0
    interventions: int = 0
    acts: tuple[tuple[int, str], ...] = ()  # the newest things that interventions did: number, a few words

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1. An agent that ended early by its rules is done."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.global_step / self.total_timesteps) if self.total_timesteps else 0.0

    @property
    def is_silent(self) -> bool:
        return self.state == "running" and self.silent_s > SILENT_AFTER_S


def agent_views(run: RunDir, info: Mapping[str, Any], status: Mapping[str, Any], now: float) -> list[AgentView]:
    """The agents of a run. `info` and `status` are its run.json and status.json, `now` in unix seconds."""
    views = []
    heartbeat = status.get("heartbeat")
    silent = max(0.0, now - heartbeat) if isinstance(heartbeat, int | float) else 0.0
    for planned in info.get("agents", []):
        agent = status["agents"].get(planned["name"], {})
        state = agent.get("state", status["state"]) if status["state"] in ("running", "done") else status["state"]
        views.append(
            AgentView(
                label=f"{run.name}/{planned['name']}",
                state=state,
                global_step=int(agent.get("global_step") or 0),
                total_timesteps=int(agent.get("total_timesteps") or planned.get("total_timesteps") or 0),
                steps_per_second=agent.get("steps_per_second"),
                sharpe=agent.get("sharpe"),
                entropy_norm=agent.get("entropy_norm"),
                hold_share=agent.get("hold_share"),
                silent_s=silent,
                interventions=int(agent.get("interventions") or 0),
                acts=tuple((int(number), one_line(str(did))) for number, did in agent.get("acts") or ()),
            )
        )
    return views


class Display:
    """Interface of a progress display, a context manager. This one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the display; its last state stays."""

    def show(self, agents: Sequence[AgentView]) -> None:
        """Show the current state of all agents."""

    def print(self, text: str) -> None:
        """One message, kept."""


class LiveDisplay(Display, ABC):
    """Renders itself (`__rich__`) in place, four times a second, and once in this constructor."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._start = time.monotonic()
        self._live = Live(console=console, get_renderable=self.__rich__, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    @abstractmethod
    def __rich__(self) -> Group:
        """Draw the present state."""


class LineDisplay(Display):
    """Prints each message with the time since its start."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, time.monotonic()

    def print(self, text: str) -> None:
        stamp = duration(time.monotonic() - self._start)
        self._console.print(f"[{stamp}] {text}", markup=False, highlight=False, soft_wrap=True)


def make_display(console: Console, title: str) -> Display:
    """A live table where `console` is a terminal, plain lines where it is a file, a pipe or a dumb terminal."""
    return LiveTable(console, title) if console.is_terminal and not console.is_dumb_terminal else PlainLines(console)


class LiveTable(LiveDisplay):
    """A table that is redrawn in place, readable in 80 columns and cut to the height of the terminal."""

    _agents: Sequence[AgentView] = ()

    def show(self, agents: Sequence[AgentView]) -> None:
        self._agents = agents

    def __rich__(self) -> Group:
        room = max(3, self._console.size.height - 8)
        shown = _most_urgent(self._agents, room)
        table = FittingTable(optional=_OPTIONAL, padding=(0, 1, 0, 0))
        table.add_column("agent", no_wrap=True, overflow="ellipsis", max_width=_LABEL)
        table.add_column("state", no_wrap=True, min_width=7)
        table.add_column("progress", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
        intervened = any(agent.interventions for agent in self._agents)
        for name in ("steps/s", "Sharpe", "entropy", "HOLD", *(["acts"] if intervened else [])):
            table.add_column(name, justify="right", no_wrap=True)
        for agent, label in zip(shown, fitting_labels([one.label for one in shown], _LABEL), strict=True):
            colour = "bold yellow" if agent.is_silent else STATE_COLOURS.get(agent.state, "")
            state = f"silent {agent.silent_s / 60:.0f}m" if agent.is_silent else agent.state
            table.add_row(
                Text(label),
                Text(state, style=colour),
                ProgressBar(total=1.0, completed=agent.progress, width=10),
                f"{agent.progress:4.0%}",
                number(agent.steps_per_second, ",.0f"),
                number(agent.sharpe, "z.2f"),
                number(agent.entropy_norm, ".2f"),
                number(agent.hold_share, ".2f"),
                *([str(agent.interventions or "–")] if intervened else []),
            )
        parts: list[Any] = [Text(self._headline(), style="bold", no_wrap=True, overflow="ellipsis"), table]
        if hidden := len(self._agents) - len(shown):
            parts.append(Text(f"… and {hidden} more: {_tally(self._agents)}", style="dim"))
        for agent in [agent for agent in shown if agent.acts][-2:]:
            line = f"{agent.label} {agent.acts[-1][1]}"
            parts.append(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _headline(self) -> str:
        rate = sum(agent.steps_per_second or 0.0 for agent in self._agents if agent.state == "running")
        parts = [self._title, _tally(self._agents), duration(time.monotonic() - self._start)]
        if rate:
            unfinished = [agent for agent in self._agents if agent.state in ("running", "starting", "queued")]
            left = sum((1 - agent.progress) * agent.total_timesteps for agent in unfinished)
            parts.append(f"about {duration(left / rate)} left")
        return " · ".join(parts)


class PlainLines(LineDisplay):
    """A line when an agent's state changes, at every tenth of its way (every quarter for more than 20 agents), and when
    an intervention acts."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said: dict[str, tuple[str, int, bool]] = {}
        self._acted: dict[str, int] = {}

    def show(self, agents: Sequence[AgentView]) -> None:
        parts = 10 if len(agents) <= 20 else 4
        for agent in agents:
            now = (agent.state, int(agent.progress * parts) if agent.state == "running" else 0, agent.is_silent)
            if self._said.get(agent.label, ("queued", 0, False)) != now:
                self.print(_line(agent))
            self._said[agent.label] = now
            for number, did in agent.acts:
                if number > self._acted.get(agent.label, 0):
                    self.print(f"{agent.label} {did}")
                    self._acted[agent.label] = number


def number(value: float | None, form: str) -> str:
    """`value` in the given format; a dash where there is none."""
    return "–" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """`4:05`, `1:04:05`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _line(agent: AgentView) -> str:
    state = f"running, but silent for {agent.silent_s / 60:.0f} min" if agent.is_silent else agent.state
    text = f"{agent.label} {state} {agent.global_step:,}/{agent.total_timesteps:,}"
    values = (
        (agent.steps_per_second, ",.0f", "{} steps/s"),
        (agent.sharpe, "z.2f", "Sharpe {}"),
        (agent.entropy_norm, ".2f", "entropy {}"),
        (agent.hold_share, ".2f", "HOLD {}"),
    )
    return " · ".join([text, *(form.format(format(value, spec)) for value, spec, form in values if value is not None)])


def _most_urgent(agents: Sequence[AgentView], room: int) -> list[AgentView]:
    """At most `room` agents in their own order: those that run or failed before those that wait or are done."""
    if len(agents) <= room:
        return list(agents)

    urgent = sorted(agents, key=lambda agent: _URGENCY.index("silent" if agent.is_silent else agent.state))
    chosen = {agent.label for agent in urgent[:room]}
    return [agent for agent in agents if agent.label in chosen]


def _tally(agents: Sequence[AgentView]) -> str:
    """`3 done, 2 running, 5 queued`."""
    counts = Counter(agent.state for agent in agents)
    order = ("done", "running", "starting", "queued", "stopped", "failed", "crashed")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
