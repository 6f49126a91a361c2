"""Progress display of a sweep: a live table of trials on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from p3kit.console import FittingTable
from p3kit.launch.display import AgentView, LineDisplay, LiveDisplay, duration, number
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


def trial_display(console: Console, title: str, before: int, wanted: int, views: Views) -> LiveTrials | TrialLines:
    """`before`: trials that had ended when this session started; `wanted`: trials in all."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveTrials(console, title, before, wanted, views)
    return TrialLines(console, title, before, wanted)


class LiveTrials(LiveDisplay):
    """A table that is redrawn in place: what trains now, the best, and the newest of the others."""

    def __init__(self, console: Console, title: str, before: int, wanted: int, views: Views) -> None:
        self._before, self._wanted, self._views = before, wanted, views
        self._trials: Sequence[TrialView] = ()
        super().__init__(console, title)

    def show(self, agents: Sequence[AgentView]) -> None:
        self._trials = self._views(agents)

    def note(self, text: str) -> None:
        """Print nothing: the table shows the usual course of things."""

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


class TrialLines(LineDisplay):
    """A line when a trial begins and when it ends."""

    def __init__(self, console: Console, title: str, before: int, wanted: int) -> None:
        super().__init__(console)
        self.print(f"{title}: {before} of {wanted} trials" if before else f"{title}: {wanted} trials")

    def note(self, text: str) -> None:
        self.print(text)
