"""`p3kit paper`: a paper account in plain files that trades an agent on new bars, and its status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import DefaultGroup, UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json, print_lines, print_note
from p3kit.cli.predict import NOVEL

if TYPE_CHECKING:
    from rich.table import Table

    from p3kit.api.paper_account import PaperAccount


@click.group(
    cls=DefaultGroup,
    default="trade",
    usages=("RUN --account FOLDER --bars FILE [OPTIONS]", "status FOLDER [OPTIONS]"),
    epilog="""\b
Examples:
  p3kit paper run-42/AAPL --account paper --bars data/AAPL.csv
  p3kit paper run-42 --account paper --bars data --from 2024-01-02
  p3kit paper status paper
  p3kit paper trade --help""",
)
def paper() -> None:
    """Trade an agent on paper: decide on new bars, fill at the spec's costs, keep a journal.

    Nothing is sent to a broker.
    """


@paper.command(
    epilog="""\b
Examples:
  p3kit paper run-42/AAPL --account paper --bars data/AAPL.csv
  p3kit paper run-42 --account paper --bars data --from 2024-01-02
Exit codes: 0 success, also without a new bar; 2 wrong use or file; 3 too few
bars or an older file; 4 with --strict."""
)
@run_argument
@click.option(
    "--account",
    type=UserPath(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the account, made by the first call. Each agent has a sub-folder.",
)
@click.option(
    "--bars",
    type=UserPath(path_type=Path),
    required=True,
    metavar="FILE",
    help="File of bars with past ones and new ones; a folder with SYMBOL.csv; or a path with {symbol}.",
)
@click.option("--from", "start", metavar="DAY", help="First decision of a new account.", show_default="the newest bar")
@click.option(
    "--checkpoint",
    default="best",
    metavar="NAME",
    help="best (the weights that validation chose), last, or a file below checkpoints/.",
)
@click.option("--accept-gap", is_flag=True, help="Take bars after a longer pause than any before.")
@click.option("--strict", is_flag=True, help="Exit with 4 if a new bar is beyond the novelty threshold.")
@json_option
@runs_option
def trade(
    run: str,
    account: Path,
    bars: Path,
    start: str | None,
    checkpoint: str,
    accept_gap: bool,
    strict: bool,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Take the new bars of a file into the paper account of RUN. `trade` itself may be left out.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run.

    A call on the same bars changes nothing, so a cron job may call it at any time. The next call completes a killed
    one. Corrected past bars are reported and not used. Pass closed bars only: p3kit would use the unfinished bar of
    today as if it had closed.
    """
    from p3kit.api.paper_account import PaperOptions, trade_on_paper

    accounts = trade_on_paper(run, account, bars, PaperOptions(checkpoint, start, accept_gap), runs_root)
    for one in accounts:
        for note in one.notes:
            click.echo(f"note: {one.status['agent']}: {note}", err=True)
        for warning in one.warnings:
            click.echo(f"warning: {warning}", err=True)
    _print(accounts, as_json)
    if strict and any(one.warnings for one in accounts):
        sys.exit(NOVEL)


@paper.command(
    epilog="""\b
Examples:
  p3kit paper status paper
  p3kit paper status paper --picture
  p3kit paper status paper --json"""
)
@click.argument("account", metavar="FOLDER", type=UserPath(path_type=Path))
@click.option("--picture", is_flag=True, help="Draw equity and trades into account.png of each agent's folder.")
@json_option
def status(account: Path, picture: bool, as_json: bool) -> None:
    """Show a paper account: equity beside buy-and-hold, position, next order, and the result beside validation."""
    from p3kit.api.paper_account import paper_accounts

    accounts = paper_accounts(account)
    _print(accounts, as_json)
    if not as_json:
        for one in accounts:
            for sentence in one.sentences:
                click.echo(sentence)
    if picture:
        for one in accounts:
            print_note(f"picture: {one.save_picture()}")


def _print(accounts: list[PaperAccount], as_json: bool) -> None:
    if as_json:
        print_json([{"path": one.path, "new_bars": one.new_bars, "notes": list(one.notes),
                     "warnings": one.warnings, **one.status} for one in accounts])  # fmt: skip
    else:
        print_lines([_table(accounts)])


def _table(accounts: list[PaperAccount]) -> Table:
    from p3kit.console import FittingTable

    table = FittingTable(optional=("weights", "new", "cost"))
    for name in ("agent", "newest bar", "new", "equity", "return", "buy-and-hold", "position", "decision", "weights"):
        table.add_column(name, justify="left" if name in ("agent", "newest bar", "decision", "weights") else "right")
    for one in accounts:
        table.add_row(*_cells(one))
    return table


def _cells(one: PaperAccount) -> list[str]:
    status: dict[str, Any] = one.status
    position = status["position"]
    return [
        str(status["agent"]),
        str(status["newest"]).replace("T00:00:00", ""),
        str(one.new_bars),
        f"{status['equity']:,.2f}",
        f"{status['total_return']:+.2%}",
        f"{status['buy_and_hold']['total_return']:+.2%}",
        "flat" if position is None else f"{position['shares']:,.4g} at {position['entry_price']:,.2f}",
        str(status["decision"]["action"]),
        str(status["checkpoint"]),
    ]
