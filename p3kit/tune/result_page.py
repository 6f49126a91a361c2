"""The result of a sweep on a terminal: the best trials and remarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from p3kit.console import FittingTable
from p3kit.edge import family_sentence
from p3kit.metrics import mean_interval
from p3kit.report.markdown import interval
from p3kit.tune.display import STATE_COLOURS
from p3kit.tune.result_data import Result
from p3kit.tune.study import TrialRecord
from p3kit.tune.trial import describe

_MOST_ROWS = 12


# --- words ------------------------------------------------------------------------------------------------------------


def result_lines(result: Result) -> list[RenderableType]:
    """The table of the best trials and what is to be thought of them."""
    counts = Counter(trial.state for trial in result.trials)
    tally = ", ".join(f"{n} {state}" for state in ("complete", "pruned", "failed", "waiting") if (n := counts[state]))
    synthetic = ", SYNTHETIC data: no evidence about a real market" if result.synthetic else ""
    title = f"{result.experiment}: {result.sweep}, {result.wanted} trials: {tally}{synthetic}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if result.best is None:
        return [*parts, Text("no trial is complete, so there is no winner")]
    return [Text(_headline(result), style="bold"), "", *parts, "", _table(result), "", *map(Text, _remarks(result))]


def _headline(result: Result) -> str:
    """The outcome in plain words. The best of several is not shown to be better: the same figures chose it."""
    best, own = result.best, result.own_trial
    if best is None:
        return ""
    beside = "" if own is None or own is best else f" against {_mean(own):z.2f} of the spec's own values"
    text = f"Best of {len(result.complete)}: trial {best.number}, mean Sharpe {_mean(best):z.2f}{beside}."
    if own is best:
        text = f"No setting did better than the spec's own values, mean Sharpe {_mean(best):z.2f}."
    family = result.export.family if result.export else None
    if family is None:
        return text
    shown = f"{len(family.shown)} of {family.agents} agents" if family.shown else "No agent"
    verb = "are" if len(family.shown) > 1 else "is"
    return f"{text} {shown} {verb} shown to beat buy-and-hold, all settings counted."


def _mean(trial: TrialRecord) -> float:
    return float(np.mean(list(trial.agents.values())))


def _table(result: Result) -> Table:
    table = FittingTable()
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("mean Sharpe", justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")  # the one column that may wrap
    shown = result.complete[:_MOST_ROWS]
    if result.own_trial is not None and result.own_trial not in shown:
        shown = [*shown[:-1], result.own_trial]
    for trial in shown:
        words = (["best"] if trial is result.best else []) + (["the spec's own"] if trial.number == result.own else [])
        table.add_row(
            str(trial.number),
            Text(", ".join(words), style=STATE_COLOURS["complete"]),
            _mean_and_spread(list(trial.agents.values())),
            describe(trial.values),
        )
    return table


def _mean_and_spread(sharpes: Sequence[float]) -> str:
    """The standard deviation is over agents."""
    spread = f" ± {np.std(sharpes, ddof=1):.2f}" if len(sharpes) > 1 else ""
    return f"{np.mean(sharpes):z.2f}{spread}"


def _remarks(result: Result) -> list[str]:
    best, lines = result.best, list[str]()
    if best is None:
        return lines
    if len(result.complete) > _MOST_ROWS:
        lines.append(f"the best {_MOST_ROWS} of {len(result.complete)} completed trials are listed")
    lines += [_gain_words(result, best)]
    if result.export is not None and result.export.deflated is not None:
        tried = len(result.export.tried)
        lines.append(
            f"with the luck of the best of {tried} settings taken off, its true Sharpe ratio is above 0 with "
            f"probability {result.export.deflated:.0%} (deflated Sharpe ratio)"
        )
    if result.export is not None and result.export.family is not None:
        lines.append(f"counting every evaluation of all settings: {family_sentence(result.export.family)}")
    if result.importance:
        shares = ", ".join(f"{path.rsplit('.', 1)[-1]} {share:.0%}" for path, share in result.importance.items())
        lines.append(f"what mattered: {shares}")
    return lines


def _gain_words(result: Result, best: TrialRecord) -> str:
    gain = result.gain()
    if result.own is not None and best.number == result.own:
        return "no setting did better than the spec's own values"
    if not gain:
        return "the spec's own values are no completed trial, so the winner stands beside nothing"
    bounds = mean_interval(np.array(gain))
    how_sure = "one agent gives no interval"
    if bounds is not None:
        how_sure = f"95 % interval {interval(bounds)} over {len(gain)} agents"
    return (
        f"trial {best.number} is {np.mean(gain):+z.2f} above the spec's own values ({how_sure}); "
        "it was chosen as the best, so expect less of it"
    )
