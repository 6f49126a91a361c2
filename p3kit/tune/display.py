"""Progress display of a sweep: a live table of trials on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from p3kit.console import FittingTable
from p3kit.launch.display import AgentView, Display, duration, number
from p3kit.tune.trial import TrialView, describe

Views = Callable[[Sequence[AgentView]], Sequence[TrialView]]

STATE_COLOURS = {
    "running": "cyan",
    "stopping": "dim cyan",
    "complete": "green",
    "pruned": "yellow",
    "queued": "yellow",
    "failed": "bold red",
}
"""`queued` is an interrupted trial, which continues with the sweep."""


class TrialDisplay(Display, Protocol):
    """A display that also receives ordinary notes."""

    def __enter__(self) -> TrialDisplay: ...

    def note(self, text: str) -> None:
        """The usual course of things; a live table shows it by itself."""


def trial_display(console: Console, title: str, before: int, wanted: int, views: Views) -> TrialDisplay:
    """`before`: trials that had ended when this session started; `wanted`: trials in all."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveTrials(console, title, before, wanted, views)
    return TrialLines(console, title, before, wanted)


class LiveTrials:
    """A table that is redrawn in place: what trains now, the best, and the newest of the others."""

    def __init__(self, console: Console, title: str, before: int, wanted: int, views: Views) -> None:
        self._console, self._title, self._before, self._wanted, self._views = console, title, before, wanted, views
        self._trials: Sequence[TrialView] = ()
        self._start = time.monotonic()
        self._live = Live(console=console, get_renderable=self.__rich__, refresh_per_second=4, transient=False)

    def __enter__(self) -> LiveTrials:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, agents: Sequence[AgentView]) -> None:
        self._trials = self._views(agents)

    def print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print nothing: the table shows it."""

    def __rich__(self) -> Group:
        done = [trial for trial in self._trials if trial.state == "complete" and trial.value is not None]
        best = max(done, key=lambda trial: trial.value or 0.0, default=None)
        table = FittingTable(padding=(0, 1, 0, 0))
        for heading, width in (("trial", 5), ("state", 8), ("progress", 8), ("", 4), ("Sharpe", 6)):
            side: Literal["left", "right"] = "left" if heading in ("state", "progress") else "right"
            table.add_column(heading, justify=side, no_wrap=True, min_width=width)
        table.add_column("values", no_wrap=True, overflow="ellipsis")
        for trial in self._shown(best):
            is_best = best is not None and trial.number == best.number
            table.add_row(
                str(trial.number),
                Text("best" if is_best else trial.state, style=STATE_COLOURS[trial.state]),
                ProgressBar(total=1.0, completed=trial.progress, width=8),
                f"{trial.progress:4.0%}",
                Text(number(trial.value, "z.2f"), style="bold" if is_best else ""),
                describe(trial.values),
            )
        return Group(Text(self._headline(), style="bold", no_wrap=True, overflow="ellipsis"), table)

    def _shown(self, best: TrialView | None) -> list[TrialView]:
        """As many as the terminal is high, in their own order."""
        room = max(3, self._console.size.height - 6)
        first = [trial for trial in self._trials if trial.state in ("running", "stopping")]
        first += [best] if best is not None else []
        others = [trial for trial in reversed(self._trials) if trial not in first]
        chosen = {trial.number for trial in (first + others)[:room]}
        return [trial for trial in self._trials if trial.number in chosen]

    def _headline(self) -> str:
        counts = Counter(trial.state for trial in self._trials)
        ended = sum(counts[state] for state in ("complete", "pruned", "failed"))
        words = [f"{counts[state]} {state}" for state in ("running", "pruned", "failed") if counts[state]]
        elapsed = time.monotonic() - self._start
        parts: list[Any] = [self._title, f"{self._before + ended} of {self._wanted} trials"]
        parts += [", ".join(words)] if words else []
        parts.append(duration(elapsed))
        if 0 < ended < self._wanted - self._before:
            begun = ended + sum(trial.progress for trial in self._trials if trial.state in ("running", "stopping"))
            parts.append(f"about {duration(elapsed / begun * (self._wanted - self._before - begun))} left")
        return " · ".join(parts)


class TrialLines:
    """A line when a trial begins and when it ends."""

    def __init__(self, console: Console, title: str, before: int, wanted: int) -> None:
        self._console = console
        self._start = time.monotonic()
        self.print(f"{title}: {before} of {wanted} trials" if before else f"{title}: {wanted} trials")

    def __enter__(self) -> TrialLines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, agents: Sequence[AgentView]) -> None:
        """Progress within a trial is for a terminal."""

    def print(self, text: str) -> None:
        stamp = duration(time.monotonic() - self._start)
        self._console.print(f"[{stamp}] {text}", markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self.print(text)
