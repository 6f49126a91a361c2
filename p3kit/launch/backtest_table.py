"""The backtest of one agent as tables for a terminal: beside the baselines, by regime, and what the numbers show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from p3kit.console import FittingTable
from p3kit.edge import bound, label, sentence
from p3kit.headline import Scored, headline
from p3kit.launch.verdicts import BASELINES

# metric -> (heading, format)
COLUMNS = {
    "sharpe_ratio": ("Sharpe", "+z.2f"),
    "sortino_ratio": ("Sortino", "+z.2f"),
    "total_return": ("return", "+z.1%"),
    "max_drawdown": ("drawdown", ".1%"),
    "annual_volatility": ("volatility", ".1%"),
    "total_trades": ("trades", ".0f"),
    "win_rate": ("won", ".0%"),
    "profit_factor": ("profit factor", ".2f"),
    "exposure": ("exposure", ".0%"),
    "turnover": ("turnover", ".1f"),
    "cost_paid": ("costs", ".2%"),
}


_MANY = 3.0
"""Multiple of the usual rate of novel bars above which they are a warning."""
_MOST_FEATURES = 6


def backtest_headline(results: Sequence[Mapping[str, Any]]) -> str:
    """The outcome of the backtests of a run in one sentence or two, as after a run."""
    return headline([_scored(result) for result in results])


def _scored(result: Mapping[str, Any]) -> Scored:
    own, hold = result["metrics"], result["baselines"]["buy_and_hold"]
    return Scored(
        result["agent"],
        label(result["judged"]),
        own.get("eval/total_return"),
        hold.get("total_return"),
        own.get("eval/max_drawdown"),
        hold.get("max_drawdown"),
        synthetic=result["synthetic"],
        hardly_trained=bool(result.get("hardly_trained")),
    )


def print_backtest(result: Mapping[str, Any], experiment: str, console: Console) -> None:
    """Print the tables of one agent: the policy beside the baselines, its regimes, remarks, the picture."""
    curves = result["curves"]
    where = "outside the run's splits" if result["split"] == "outside" else f"{result['split']} split"
    title = f"{result['run']}/{result['agent']} ({experiment}): {where}, {result['checkpoint']}"
    console.print(Text(title, style="bold"))
    if result["synthetic"]:
        console.print("SYNTHETIC data: no evidence about a real market", style="yellow")
    first, last = curves["timestamps"][0][:10], curves["timestamps"][-1][:10]
    count = result["windows"]
    how = "one continuous account" if result["mode"] == "continuous" else f"in {count} windows that each start flat"
    console.print(f"{curves['bars']:,} bars, {first} to {last}, {how}; costs as in the spec\n")
    for note in _notes(result):
        console.print(note, style="yellow", soft_wrap=True)
    console.print(_metrics_table(result))
    console.print(_regime_table(result["regimes"]))
    for line in _remarks(result, experiment):
        console.print(line)
    console.print(f"picture: {result['picture']}", soft_wrap=True)


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Notes on the bars: overlaps with the splits of the run, and prices that were rescaled."""
    lines = [
        f"{count:,} of these bars are in the {name} split of the run" for name, count in result["overlaps"].items()
    ]
    return lines + [note for note in result["notes"] if "those of the run" in note]


def _metrics_table(result: Mapping[str, Any]) -> Table:
    """A row per metric, a column per policy or rule, within 80 columns."""

    policy = {name.removeprefix("eval/"): value for name, value in result["metrics"].items()}
    table = FittingTable(optional=("mov. avg", "random", "all-HOLD"))
    for heading in ("", "policy", *BASELINES.values()):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for metric, (heading, form) in COLUMNS.items():
        cells = [_number(result["baselines"][name].get(metric), form) for name in BASELINES]
        table.add_row(heading, Text(_number(policy.get(metric), form), style="bold"), *cells)
    return table


def _regime_table(regimes: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("policy by regime", "bars", "return", "Sharpe"):
        table.add_column(heading, justify="left" if heading == "policy by regime" else "right")
    for name, row in regimes.items():
        table.add_row(
            name, f"{row['bars']:,}", _number(row["total_return"], "+z.1%"), _number(row["sharpe_ratio"], "+z.2f")
        )
    return table


def _action_rules(result: Mapping[str, Any]) -> list[str]:
    """The path by each action rule in a line, the one that decides first."""
    own = result["action"]
    return [
        f"{rule}{' (evaluation.action)' if rule == own else ''}: Sharpe {_number(found['sharpe_ratio'], '+z.2f')}, "
        f"return {_number(found['total_return'], '+z.1%')}, HOLD on {_number(found['hold_share'], '.0%')} of the bars"
        for rule, found in sorted(result["actions"].items(), key=lambda each: each[0] != own)
    ]


def _remarks(result: Mapping[str, Any], experiment: str) -> list[str]:
    """Sentences about what the numbers show and do not show."""
    sharpe, excess = result["sharpe_interval"], result["excess_interval"]
    lines = _action_rules(result)
    if "eval/sharpe_ratio" not in result["metrics"]:
        lines.append("Sharpe ratio: n/a, the policy never traded")
    elif sharpe is None:
        lines.append("Sharpe ratio: no interval, too few independent bars")
    else:
        lines.append(f"Sharpe ratio: 95 % interval {_interval(sharpe)} (stationary bootstrap)")
    if deflated := result["deflated_sharpe"]:
        tries = "1 try" if deflated["trials"] == 1 else f"{deflated['trials']} tries"
        lines.append(f"deflated: {deflated['value']:.2f} chance that the true Sharpe ratio is above 0, after {tries}")
    over = result["metrics"].get("eval/sharpe_excess")
    if excess is not None and over is not None:
        lines.append(f"over buy-and-hold: {over:+z.2f}, 95 % interval {_interval(excess)} of this policy by itself")
    if result["judged"] is not None:
        lines.append(f"what it shows: {sentence('', result['metrics'].get('eval/sharpe_ratio'), result['judged'])}")
    elif result["overlaps"]:
        lines.append("what it shows: edge not judged, the policy was trained or chosen on some of these bars")
    elif result["split"] == "train":
        lines.append("what it shows: nothing about an edge, for the policy was trained on these bars")
    elif result["mode"] != result["mode_of_run"]:
        hint = f"--mode {result['mode_of_run']} is judged beside them"
        lines.append(
            f"what it shows: edge not judged, the run's evaluations were in mode {result['mode_of_run']}: {hint}"
        )
    else:
        lines.append("what it shows: edge not judged, the run keeps no returns of its evaluations")
    if (supervised := result["supervised_return"]) is not None:
        lines.append(f"your supervised model, by the spec: {supervised:+z.1%} total return")
    lines += _attainable_remark(result.get("attainable"))
    if result["ruined"]:
        lines.append("ruin: the account fell below env.ruin of its capital and stayed in cash from there on")
    if result["constant"]:
        lines.append("constant: the policy does what a constant rule does")
    if result["intervened"]:
        lines.append("intervened: these weights were trained under changed settings too, see p3kit diagnose")
    lines += novelty_remark(result.get("novelty"))
    if looks := result.get("final_looks"):
        line = f"use {looks['agent']} of the test split by this agent, {looks['experiment']} in all for {experiment}"
        warn = "" if looks["experiment"] == 1 else "; a choice made after a use turns it into a validation split"
        lines.append(line + warn)
    return lines


def _attainable_remark(found: Mapping[str, Any] | None) -> list[str]:
    """The fraction of the attainable score on a synthetic market."""
    if not found:
        return []
    bound_note = "; it uses the hidden regimes, so 1.00 is out of reach" if found["upper_bound"] else ""
    return [f"fraction of the attainable score: {found['share']:.2f} (1.00 is the optimal rule{bound_note})"]


def novelty_remark(found: Mapping[str, Any] | None) -> list[str]:
    """The bars whose inputs are unlike the training bars, with their features; a warning where they are many."""
    if not found or not found["novel"]:
        return []
    share, usual = found["novel"] / found["bars"], found["expected"]
    named = [f"{name} ({count})" for name, count in list(found["features"].items())[:_MOST_FEATURES]]
    more = len(found["features"]) - len(named)
    text = (
        f"{found['novel']:,} of {found['bars']:,} bars ({share:.1%}; {usual:.0%} is usual) are unlike training, the "
        f"first {found['first'][:10]}, by {', '.join(named)}{f' and {more} more' if more else ''}"
    )
    return [f"{'WARNING' if share > _MANY * usual else 'novelty'}: {text}"]


def _interval(interval: Sequence[float]) -> str:
    return f"[{bound(interval[0])}, {bound(interval[1])}]"


def _number(value: Any, form: str) -> str:
    """Format `value`; n/a where it does not exist. JSON has words for numbers that are not finite."""
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, str) else format(value, form)
