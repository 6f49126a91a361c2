"""`p3kit evaluate RUN`: the backtest of a run's policy, beside every baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import json_option, run_argument, runs_option
from p3kit.cli.output import print_json, progress_console

if TYPE_CHECKING:
    from p3kit.console import Console

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


@click.command(
    epilog="""\b
Examples:
  p3kit evaluate run-42
  p3kit evaluate run-42 --split train --checkpoint last
  p3kit evaluate run-42 --final"""
)
@run_argument
@click.option("--final", is_flag=True, help="Look at the test split. Every look is journalled and counted.")
@click.option("--split", type=click.Choice(["validation", "train"]), help="The split to walk.  [default: validation]")
@click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="NAME",
    help="best (the weights that validation chose), last, or a file below checkpoints/.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PNG",
    help="Where the picture goes.  [default: the run's plots/]",
)
@json_option
@runs_option
def evaluate(
    run: str, final: bool, split: str | None, checkpoint: str, output: Path | None, as_json: bool, runs_root: Path
) -> None:
    """Backtest RUN: metrics beside all-HOLD, buy-and-hold, random and a moving average, with a picture.

    RUN is run-42, 42, latest or run-42/AAPL. The policy walks the whole split once, deterministic, at the fees and
    under the reward that the spec states, in windows of env.episode_bars that each start flat.
    """
    from p3kit.console import Console
    from p3kit.diagnose.journal import intervened, read_journal
    from p3kit.errors import InputError
    from p3kit.launch.backtest import backtest, count_final_looks, deflated_sharpe
    from p3kit.rundir import find_run

    found, named = find_run(runs_root, run)
    if final and split is not None:
        raise InputError(
            f"--split {split}", "was given beside --final", "--final walks the test split; say one of them"
        )
    if output is not None and named is None and len(found.agent_names()) > 1:
        raise InputError("--output", f"{found.name} has {len(found.agent_names())} agents", "name one: RUN/AGENT")
    wanted = "test" if final else split or "validation"
    console = progress_console()
    results = []
    for agent in [named] if named else found.agent_names():
        with console.status(f"{found.name}/{agent}: walking the {wanted} split"):
            result = backtest(found, agent, checkpoint, split=wanted, final=final)
        if final:
            own, experiment = count_final_looks(runs_root, found, agent)
            result["final_looks"] = {"agent": own, "experiment": experiment}
        result["deflated_sharpe"] = deflated_sharpe(runs_root, found, result)
        result["intervened"] = intervened(read_journal(found, agent))
        result["picture"] = str(_draw(found.plots, result, output))
        results.append(result)
    if as_json:
        told = [{key: value for key, value in result.items() if key != "curves"} for result in results]
        print_json(told)
        return
    for result in results:
        print_backtest(result, found.info()["name"], Console())


def _draw(plots: Path, result: Mapping[str, Any], output: Path | None) -> Path:
    from p3kit.report.run_pictures import draw_equity
    from p3kit.rundir import file_name

    path = output or plots / f"backtest-{result['split']}-{file_name(result['agent'])}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    label = "SYNTHETIC data, " if result["synthetic"] else ""
    draw_equity(result["curves"], f"{label}{result['run']}/{result['agent']}, {result['checkpoint']}", path)
    return path


def print_backtest(result: Mapping[str, Any], experiment: str, console: Console) -> None:
    """The tables of one agent: the policy beside the baselines, its regimes, what is shown, the picture."""
    from rich.text import Text

    curves = result["curves"]
    title = f"{result['run']}/{result['agent']} ({experiment}): {result['split']} split, {result['checkpoint']}"
    console.print(Text(title, style="bold"))
    if result["synthetic"]:
        console.print("SYNTHETIC data: nothing is said about a real market", style="yellow")
    first, last = curves["timestamps"][0][:10], curves["timestamps"][-1][:10]
    console.print(f"{curves['bars']:,} bars, {first} to {last}, in {result['windows']} windows; costs as in the spec\n")
    console.print(_metrics_table(result))
    console.print(_regime_table(result["regimes"]))
    for line in _remarks(result, experiment):
        console.print(line)
    console.print(f"picture: {result['picture']}", soft_wrap=True)


def _metrics_table(result: Mapping[str, Any]) -> Any:
    """A row per metric, a column per policy or rule: what an 80-column terminal has room for."""
    from rich.text import Text

    from p3kit.console import FittingTable
    from p3kit.launch.verdicts import BASELINES

    policy = {name.removeprefix("eval/"): value for name, value in result["metrics"].items()}
    table = FittingTable(optional=("mov. avg", "random", "all-HOLD"))
    for heading in ("", "policy", *BASELINES.values()):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for metric, (heading, form) in COLUMNS.items():
        cells = [_number(result["baselines"][name].get(metric), form) for name in BASELINES]
        table.add_row(heading, Text(_number(policy.get(metric), form), style="bold"), *cells)
    return table


def _regime_table(regimes: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("policy by regime", "bars", "return", "Sharpe"):
        table.add_column(heading, justify="left" if heading == "policy by regime" else "right")
    for name, row in regimes.items():
        table.add_row(
            name, f"{row['bars']:,}", _number(row["total_return"], "+z.1%"), _number(row["sharpe_ratio"], "+z.2f")
        )
    return table


def _remarks(result: Mapping[str, Any], experiment: str) -> list[str]:
    """What the numbers show, and what they do not."""
    sharpe, excess = result["sharpe_interval"], result["excess_interval"]
    lines = []
    if sharpe is None:
        lines.append("Sharpe ratio: n/a, the policy never traded")
    else:
        lines.append(f"Sharpe ratio: 95 % interval {_interval(sharpe)} (stationary bootstrap)")
    if deflated := result["deflated_sharpe"]:
        tries = "1 try" if deflated["trials"] == 1 else f"{deflated['trials']} tries"
        lines.append(f"deflated: {deflated['value']:.2f} chance that the true Sharpe ratio is above 0, after {tries}")
    if excess is not None:
        shown = "shown" if excess[0] > 0 else "not shown"
        over = result["metrics"]["eval/sharpe_excess"]
        lines.append(f"over buy-and-hold: {over:+z.2f} {_interval(excess)} (paired): {shown}")
    else:
        lines.append("over buy-and-hold: not shown (one of them has no Sharpe ratio)")
    if (supervised := result["supervised_return"]) is not None:
        lines.append(f"your supervised model, by the spec: {supervised:+z.1%} total return")
    if result["constant"]:
        lines.append("constant: the policy does what a constant rule does")
    if result["intervened"]:
        lines.append("intervened: these weights were trained under changed settings too, see p3kit diagnose")
    if looks := result.get("final_looks"):
        told = f"look {looks['agent']} of this agent at the test split, {looks['experiment']} in all for {experiment}"
        warn = "" if looks["experiment"] == 1 else "; a choice made after a look turns it into a validation split"
        lines.append(told + warn)
    return lines


def _interval(interval: Sequence[float]) -> str:
    return f"[{interval[0]:z.2f}, {interval[1]:z.2f}]"


def _number(value: Any, form: str) -> str:
    """`value` as `form` has it; n/a where it does not exist. JSON has words for what is not finite."""
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, str) else format(value, form)
