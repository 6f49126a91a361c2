"""Output of a trainer that was started alone, on stderr: progress, then the result and the next step."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from p3kit.runtime.agent import Agent
    from p3kit.runtime.run import Run

PLAIN_SECONDS = 5.0
"""Between two lines of progress where stderr is no terminal; on a terminal one line is written over."""


class TerminalProgress:
    """Called with the run whenever its status is written."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = self._shown = time.monotonic()
        self._begun_at: int | None = None
        self._shown_step = -1
        self._open_line = False

    def __call__(self, run: Run[Any], state: str) -> None:
        (agent,) = run.agents
        if self._begun_at is None:
            self._begun_at = self._shown_step = agent.global_step
        if state == "running":
            if agent.global_step > self._shown_step and self._is_due():
                self._write(progress_line(agent, self._rate(agent)), over=self._stream.isatty())
                self._shown_step = agent.global_step
        elif agent.global_step > self._begun_at:  # else it failed before its first rollout, and there is nothing to see
            if agent.global_step > self._shown_step or self._open_line:
                self._write(progress_line(agent, self._rate(agent)))
            for line in result_lines(run, agent, state):
                self._write(line)

    def _is_due(self) -> bool:
        due = self._stream.isatty() or time.monotonic() - self._shown >= PLAIN_SECONDS
        if due:
            self._shown = time.monotonic()
        return due

    def _rate(self, agent: Agent[Any]) -> float:
        return (agent.global_step - (self._begun_at or 0)) / max(time.monotonic() - self._started, 1e-9)

    def _write(self, line: str, *, over: bool = False) -> None:
        start = "\r\033[K" if self._open_line else ""
        print(start + line, end="" if over else "\n", file=self._stream, flush=True)
        self._open_line = over


def progress_line(agent: Agent[Any], rate: float) -> str:
    """Steps, steps per second, the newest return or reward, and the time left."""
    done, total = agent.global_step, agent.total_timesteps
    parts = [f"{done:,} of {total:,} steps ({done / total:.0%})", f"{rate:,.0f} steps/s"]
    if (newest := newest_return(agent)) is not None:
        parts.append(newest)
    if (sharpe := agent.latest("eval/sharpe_ratio")) is not None:
        parts.append(f"validation Sharpe {sharpe:+.2f}")
    if done < total and rate > 0:
        parts.append(f"{duration((total - done) / rate)} left")
    return f"{agent.name}: " + ", ".join(parts)


def newest_return(agent: Agent[Any]) -> str | None:
    """The mean return of the episodes that ended in the newest rows; the mean reward where none did."""
    if agent.market and (earned := agent.latest("episode/episode_return_mean")) is not None:
        return f"mean return per episode {earned:+.2%}"
    if not agent.market and (earned := agent.latest("episode/episode_reward_mean")) is not None:
        return f"mean return {earned:,.1f}"
    reward = agent.latest("reward/mean")
    return None if reward is None else f"mean reward {reward:+.3f}"


def result_lines(run: Run[Any], agent: Agent[Any], state: str) -> list[str]:
    """The result of a run that ended, and the commands that come next."""
    name = run.directory.name
    runs = run.directory.path.parent
    where = "" if str(runs) == os.environ.get("P3KIT_RUNS", "runs") else f" --runs {shlex.quote(str(runs))}"
    lines = []
    if state == "stopped":
        lines.append(f"stopped; p3kit resume {name}{where} continues from the checkpoint")
    elif state == "done":
        lines.append(verdict_line(agent) if agent.market else f"{agent.name}: done, {newest_return(agent)}")
    commands = [f"p3kit diagnose {name}{where}"]
    if agent.market and state == "done":
        commands.append(f"p3kit evaluate {name}{where}")
    return [*lines, f"next: {'   '.join(commands)}"]


def verdict_line(agent: Agent[Any]) -> str:
    """The verdict on the validation split, with buy-and-hold beside it."""
    verdict = agent.status()["verdict"]
    if verdict is None:
        return f"{agent.name}: no evaluation fell due; lower evaluation.every"
    hold = verdict["baselines"]["buy_and_hold"]

    def number(value: float | None, form: str) -> str:
        return "n/a" if value is None else format(value, form)

    metrics = verdict["metrics"]
    sharpe, earned = metrics.get("eval/sharpe_ratio"), metrics.get("eval/total_return")
    text = f"{agent.name}: {verdict['grade']} on the validation split"
    if agent.market[agent.symbol].synthetic:
        text += " (SYNTHETIC data)"
    return (
        f"{text}: Sharpe {number(sharpe, '+.2f')} (buy-and-hold {number(hold['sharpe_ratio'], '+.2f')}), "
        f"return {number(earned, '+.1%')} (buy-and-hold {number(hold['total_return'], '+.1%')})"
    )


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
