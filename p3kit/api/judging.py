"""Backtest, diagnosis and comparison of runs. All three read run directories and train nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p3kit.api.saved_run import RunLike, SavedRun, check_agent, open_run
from p3kit.errors import InputError
from p3kit.home import home
from p3kit.rundir import folder_of_runs
from p3kit.rundir.rows import decode_numbers

if TYPE_CHECKING:
    import pandas as pd

    from p3kit.diagnose import AgentDiagnosis
    from p3kit.diagnose.explain import Explanation
    from p3kit.report.comparison_data import Comparison

Split = Literal["train", "validation", "test"]
Mode = Literal["continuous", "windows"]
Rules = str | Path | Mapping[str, Mapping[str, Any]]
"""A file with `[diagnose.rows."ID"]` tables, or `{"policy.hold": {"warn": 0.9}}`."""


@dataclass(frozen=True)
class Backtest:
    """The backtest of one agent on one split. Returns, drawdowns and shares are fractions."""

    result: Mapping[str, Any]
    """Everything that `p3kit evaluate --json` prints, and the curves."""
    plots: Path

    @property
    def run(self) -> str:
        """`run-42`."""
        return str(self.result["run"])

    @property
    def agent(self) -> str:
        """Name of the agent."""
        return str(self.result["agent"])

    @property
    def synthetic(self) -> bool:
        """True for synthetic data, whose results do not hold for a real market."""
        return bool(self.result["synthetic"])

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of the policy: `eval/sharpe_ratio` (annualised), `eval/total_return`, …; None where undefined."""
        return dict(decode_numbers(self.result["metrics"]))

    @property
    def baselines(self) -> pd.DataFrame:
        """The same metrics, without the prefix `eval/`, of each baseline: a row per metric, a column per baseline."""
        import pandas as pd

        columns = {name: decode_numbers(values) for name, values in self.result["baselines"].items()}
        return pd.DataFrame(columns, dtype="float64")

    @property
    def sharpe_interval(self) -> tuple[float, float] | None:
        """95 % interval of the Sharpe ratio. None for a policy that never traded."""
        interval = self.result["sharpe_interval"]
        return None if interval is None else (interval[0], interval[1])

    @property
    def curves(self) -> pd.DataFrame:
        """Equity from 1 at up to 1,500 times: columns policy, one per baseline, price, position (0 to 1), regime."""
        import pandas as pd

        curves = self.result["curves"]
        columns = {"policy": curves["equity"], **curves["baselines"]}
        columns |= {name: curves[name] for name in ("price", "position", "regime")}
        return pd.DataFrame(columns, index=pd.to_datetime(curves["timestamps"]))

    def save_picture(self, path: str | Path | None = None) -> Path:
        """Draw the equity curves into a PNG file and return its path. Default: in the run's `plots/`."""
        from p3kit.report.run_pictures import draw_equity
        from p3kit.rundir import file_name

        file = home(path or self.plots / f"backtest-{self.result['split']}-{file_name(self.agent)}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        label = "SYNTHETIC data, " if self.synthetic else ""
        draw_equity(self.result["curves"], f"{label}{self.run}/{self.agent}, {self.result['checkpoint']}", file)
        return file

    def to_json(self) -> dict[str, Any]:
        """Return the result without the curves, as plain data."""
        return {key: value for key, value in self.result.items() if key != "curves"}


def evaluate_run(
    run: RunLike,
    split: Split = "validation",
    checkpoint: str = "best",
    runs_root: str | Path | None = None,
    *,
    final: bool = False,
    mode: Mode = "continuous",
    bars: str | Path | None = None,
    first_day: str | None = None,
    last_day: str | None = None,
) -> list[Backtest]:
    """Backtest the agents of a run beside all-HOLD, buy-and-hold, random and a moving average.

    The policy decides on every bar of the split once, deterministic, at the spec's fees, with one account from the
    first bar to the last. The training split is played in windows of `env.episode_bars` that each start flat, as in
    training. Each agent is backtested in a process of its own.

    Args:
        run: A run, or one agent of it (`run-42/AAPL`).
        split: `validation`, `train`, or `test` together with `final`.
        checkpoint: `best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.
        final: Allow the test split. Every look at it is journalled and counted.
        mode: `continuous`, or `windows` to play validation and test split in windows, too.
        bars: A file of bars, to backtest outside the splits of the run. Default: the source that the spec names.
        first_day: First day of a backtest outside the splits. Default: the one after the last bar of the run.
        last_day: Its last day. Default: that of the last bar.

    Returns:
        A backtest per agent: `metrics`, `baselines`, `sharpe_interval`, `curves`.

    Raises:
        RunNotFound: No run or agent has that name.
        InputError: No such checkpoint, or `test` without `final`.
        DataError: Bars of the run have changed since. Appended bars, and prices that were rescaled, have not.
        BarsError: Too few bars outside the splits.
        P3kitError: The trainer of the run cannot show its policy.

    Example:
        >>> (backtest,) = p3kit.evaluate_run("run-42/AAPL")
        >>> backtest.metrics["eval/sharpe_ratio"], backtest.sharpe_interval
    """
    if (split == "test") != final:
        hint = 'split="test" and final=True go together'
        raise InputError(f"split={split!r}", "every look at the test split is counted", hint)
    saved = open_run(run, runs_root)
    check_agent(saved)
    outside = _outside_options(bars, first_day, last_day)
    if outside:
        if split != "validation":
            raise InputError(f"split={split!r}", "was given beside bars outside the splits", "leave one of them out")
        return [_backtest(saved, agent, "outside", checkpoint, mode, outside) for agent in saved.agents]
    return [_backtest(saved, agent, split, checkpoint, mode) for agent in saved.agents]


def diagnose_run(run: RunLike, rules: Rules | None = None, runs_root: str | Path | None = None) -> list[AgentDiagnosis]:
    """Diagnose a run from its recorded metrics: which symptoms show, since when, why, and what to change.

    Args:
        run: A run, or one agent of it (`run-42/AAPL`). It may still be training.
        rules: Thresholds that replace those of the run, for this call: a file, or a mapping by symptom.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        A diagnosis per agent: `diagnosis.raised` has the findings, each with `symptom`, `severity`, `evidence`,
        `since_step` (env steps) and `patch` (a spec fragment).

    Raises:
        RunNotFound: No run or agent has that name.
        SpecError: The rules have faults.

    Example:
        >>> for finding in p3kit.diagnose_run("latest")[0].raised:
        ...     print(finding.symptom, finding.evidence)
    """
    from p3kit.diagnose import diagnose

    saved = open_run(run, runs_root)
    check_agent(saved)
    return diagnose(saved.directory, saved.agent, read_rules(rules))


def compare_runs(
    runs: RunLike | Iterable[RunLike], by: str | None = None, runs_root: str | Path | None = None
) -> Comparison:
    """Compare runs, agents, or the values of a knob: spec differences, results with intervals, paired differences.

    Args:
        runs: At least two runs or agents; with `by`, one is enough.
        by: A spec path such as `ppo.gae_lambda`, or run, symbol, seed or trainer. Agents are grouped by its value.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The comparison as data: `groups`, `differences` (of the specs), `contrasts` (against the first group).

    Raises:
        RunNotFound: No run or agent has that name.
        InputError: There is nothing to compare.

    Example:
        >>> comparison = p3kit.compare_runs(["run-1", "run-2"])
        >>> [difference.path for difference in comparison.differences]
        ['ppo.gamma']
    """
    from p3kit.report.comparison_data import compare_runs as compare

    chosen = [runs] if isinstance(runs, RunLike) else list(runs)
    return compare(folder_of_runs(runs_root), [os.fspath(run) for run in chosen], by)


def explain_finding(
    run: RunLike, finding: str, rules: Rules | None = None, runs_root: str | Path | None = None
) -> Explanation:
    """Explain one finding with all its numbers. `finding`: row number of the table, or the id of a symptom.

    Raises the errors of `diagnose_run`, and InputError where there is no such row.
    """
    from p3kit.diagnose import gather_run
    from p3kit.diagnose.explain import explain, pick

    saved = open_run(run, runs_root)
    diagnoses = diagnose_run(saved, rules)
    picked = pick(diagnoses, finding)
    diagnosis = next(one for one in diagnoses if one.agent == picked.agent)
    [evidence] = gather_run(saved.directory, picked.agent, read_rules(rules))
    return explain(picked, diagnosis, evidence)


def replay_episodes(
    run: RunLike, split: Split = "validation", checkpoint: str = "last", runs_root: str | Path | None = None
) -> list[dict[str, Any]]:
    """Play the best and the worst paid episode of a split, bar by bar, for each agent; write and draw them.

    Returns a dict per episode: agent, file, picture, rank, of, split and the totals of the episode.
    """
    saved = open_run(run, runs_root)
    check_agent(saved)
    return [episode for agent in saved.agents for episode in _episodes(saved, agent, split, checkpoint)]


def read_rules(rules: Rules | None) -> Mapping[str, Mapping[str, Any]] | None:
    """Return thresholds by symptom, read from a file where `rules` is a path."""
    from p3kit.spec import load_rules

    return load_rules(rules) if isinstance(rules, str | Path) else rules


def _outside_options(bars: str | Path | None, first_day: str | None, last_day: str | None) -> list[str]:
    """The options of a trainer for bars outside the splits; none if they are not used."""
    options = {"--bars": bars, "--from-day": first_day, "--to-day": last_day}
    for name, day in (("first_day", first_day), ("last_day", last_day)):
        if day is not None:
            _check_day(name, day)
    return [text for name, value in options.items() if value is not None for text in (name, str(value))]


def _check_day(name: str, day: str) -> None:
    """Raise InputError for a text that is no day."""
    try:
        date.fromisoformat(day)
    except ValueError:
        raise InputError(f"{name}={day!r}", "is no day", "write it as 2024-05-31") from None


def _backtest(
    saved: SavedRun,
    agent: str,
    split: Split | Literal["outside"],
    checkpoint: str,
    mode: Mode,
    outside: Sequence[str] = (),
) -> Backtest:
    from p3kit.diagnose.journal import intervened, read_journal
    from p3kit.launch.backtest import backtest, count_final_looks, deflated_sharpe

    run, root = saved.directory, saved.path.parent
    result = backtest(run, agent, checkpoint, split=split, final=split == "test", mode=mode, outside=outside)
    if split == "test" or "test" in result["overlaps"]:
        own, experiment = count_final_looks(root, run, agent)
        result["final_looks"] = {"agent": own, "experiment": experiment}
    result["deflated_sharpe"] = deflated_sharpe(root, run, result)
    result["intervened"] = intervened(read_journal(run, agent))
    return Backtest(result, run.plots)


def _episodes(saved: SavedRun, agent: str, split: Split, checkpoint: str) -> Sequence[dict[str, Any]]:
    from p3kit.launch.backtest import replay
    from p3kit.report.episode_picture import draw_episode
    from p3kit.rundir import file_name

    run, written = saved.directory, []
    for episode in replay(run, agent, checkpoint, split=split):
        name = f"{file_name(agent)}-{episode['checkpoint'].removesuffix('.pt')}-{split}-{episode['first_bar']:06d}"
        path, picture = run.write_replay(name, episode), run.replays / f"{name}.png"
        label = "SYNTHETIC data, " if episode["synthetic"] else ""
        place = f"episode {episode['rank']} of {episode['of']} by reward, {split}"
        draw_episode(episode, f"{label}{run.name}/{agent}, {episode['checkpoint']}: {place}", picture)
        written.append({"agent": agent, "file": str(path), "picture": str(picture), "rank": episode["rank"],
                        "of": episode["of"], "split": split, **episode["totals"]})  # fmt: skip
    return written
