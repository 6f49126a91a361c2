"""`p3kit predict RUN --bars FILE`: the decision of a trained agent at the close of the last bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p3kit.cli.options import UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json, print_lines, print_note
from p3kit.errors import BarsError, P3kitError

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.console import RenderableType

    from p3kit.api.predicting import AgentDecision
    from p3kit.policy import Account, Order

NOVEL = 4
"""Exit code of --strict where the inputs are beyond the novelty threshold."""

OLD_DAYS = 7
"""Days after which a last bar is noted without --max-age."""


class Age(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """A length of time: 90m, 36h, 4d, 2w."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from datetime import timedelta

        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([mhdw])", str(value).strip())
        if found is None:
            self.fail(f"{value!r}: expected a number and m, h, d or w, such as 36h or 4d", param, ctx)
        unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
        return timedelta(**{unit: float(found[1])})


@click.command(
    epilog="""\b
Examples:
  p3kit predict run-42/AAPL --bars AAPL.csv
  p3kit predict run-42 --bars 'data/{symbol}.csv' --account accounts.json
  p3kit predict run-42/AAPL --bars AAPL.csv --max-age 4d --strict --json

account.json: {"cash": 2500.0, "shares": 31, "entry_price": 128.4, "bars_held": 4}
With several agents: {"AAPL": {"cash": ...}, "AMD": {...}}

\b
Nothing is sent to a broker.
Exit codes: 0 a prediction, also HOLD; 1 a damaged run; 2 wrong use, run or
file; 3 too few bars, or too old ones; 4 inputs beyond the novelty threshold,
with --strict."""
)
@run_argument
@click.option("--bars", required=True, metavar="FILE|FOLDER", help="Past bars, the newest last; {symbol} is replaced.")
@click.option("--account", type=UserPath(dir_okay=False, path_type=Path), metavar="FILE",
              help="Account at the close of the last bar, JSON.", show_default="flat, env.initial_capital")  # fmt: skip
@click.option("--checkpoint", default="best", metavar="NAME",
              help="best (the weights that validation chose), last, or a file below checkpoints/.")  # fmt: skip
@click.option("--max-age", type=Age(), metavar="AGE",
              help="Exit code 3 if the last bar is older: 36h, 4d. Times without a zone are UTC.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit code 4 if the inputs are unlike the training bars.")
@json_option
@runs_option
def predict(
    run: str,
    bars: str,
    account: Path | None,
    checkpoint: str,
    max_age: timedelta | None,
    strict: bool,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Decide at the close of the last bar: action, order, probabilities, masked actions, novelty.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run. Without an agent, all agents
    with a symbol in the bars decide. The files are read by the rules of the spec. The bars of the training are not
    needed.
    """
    from p3kit.api.predicting import decide_each

    decided, errors = decide_each(run, bars, account, checkpoint, runs_root)
    if as_json:
        print_json([one.to_json() for one in decided])
    elif len(decided) == 1:
        print_lines(_one(decided[0]))
    elif decided:
        print_lines([_table(decided)])
    failures = [*errors.values(), *_too_old(decided, max_age)]
    for failure in failures:
        click.echo(str(failure), err=True)
    novel = [one for one in decided if one.decision.novelty.is_novel]
    for one in novel:
        click.echo(f"{one.agent}: {one.decision.novelty.warning}", err=True)
    code = min((failure.exit_code for failure in failures), default=NOVEL if strict and novel else 0)
    if code:
        sys.exit(code)


def _too_old(decided: Sequence[AgentDecision], max_age: timedelta | None) -> Iterator[P3kitError]:
    """An error per agent whose last bar is older than `max_age`; without it, a note on bars of another week."""
    import pandas as pd

    now = pd.Timestamp.now("UTC").tz_localize(None)
    for one in decided:
        age = now - one.decision.time
        if max_age is not None and age > max_age:
            what = f"the last bar, {one.decision.time}, is {_age(age)} old; --max-age allows {_age(max_age)}"
            yield BarsError(one.agent, what, "append the newest bars")
        elif max_age is None and age.days >= OLD_DAYS:
            print_note(f"note: {one.agent}: the last bar is {age.days:,} days old; --max-age 4d makes that an error")


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.3g} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def _one(one: AgentDecision) -> Iterator[RenderableType]:
    """Lines and a table for one agent."""
    from rich.text import Text

    from p3kit.console import FittingTable

    decision = one.decision
    yield Text(f"{one.agent}: {decision.action} at the close of {decision.time}", style="bold")
    if one.synthetic:
        yield Text("trained on SYNTHETIC data: no evidence about a real market", style="yellow")
    yield f"order    {_order(decision.order)}"
    yield f"rule     {_rule(one)}"
    yield f"account  {_account(one.account)}"
    yield f"value    {decision.value:.4g}"
    yield f"weights  {one.checkpoint}, {decision.weights_age_bars:,} bars after the last training bar"
    novelty = decision.novelty
    kind = "NOVEL" if novelty.is_novel else "like training"
    yield f"novelty  {kind}: distance {novelty.distance:.3g}, 1 % of validation bars exceed {novelty.threshold:.3g}"
    table = FittingTable()
    table.add_column("action")
    table.add_column("probability", justify="right")
    table.add_column("masked because")
    for name, chance in decision.probabilities.items():
        reason = decision.valid[name]
        shown = Text("–" if reason else f"{chance:.1%}", style="bold" if name == decision.action else "")
        table.add_row(name, shown, reason or "")
    yield table


def _table(decided: Sequence[AgentDecision]) -> RenderableType:
    """A row per agent."""
    from p3kit.console import FittingTable

    table = FittingTable(optional=("value", "age", "novelty", "probability"), agents="agent")
    for heading in ("agent", "bar", "action", "order", "probability", "value", "novelty", "age"):
        table.add_column(heading, justify="right" if heading in ("probability", "value", "age") else "left")
    for one in decided:
        own = one.decision
        novelty = f"{own.novelty.distance:.2f} of {own.novelty.threshold:.2f}" + (" NOVEL" * own.novelty.is_novel)
        numbers = f"{own.probabilities[own.action]:.1%}", f"{own.value:.3g}", novelty, f"{own.weights_age_bars:,}"
        table.add_row(one.agent, str(own.time), own.action, _order(own.order), *numbers)
    return table


_RULES = {"greedy": "greedy: the most probable action", "sampled": "sampled: drawn by probability"}


def _rule(one: AgentDecision) -> str:
    """The rule that picks the action from the probabilities, as text."""
    from p3kit.runtime.action_rule import SHARPNESS, SIDES

    if one.action_rule in _RULES:
        return _RULES[one.action_rule]
    totals = [0.0, 0.0, 0.0]
    for side, chance in zip(SIDES, one.decision.probabilities.values(), strict=True):
        totals[side] += chance
    sharpened = [total**SHARPNESS for total in totals]
    hold, buy, sell = (f"{each / sum(sharpened):.1%}" for each in sharpened)
    return f"sharpened: drawn at a temperature of {1 / SHARPNESS:g}, where hold has {hold}, buy {buy} and sell {sell}"


def _order(order: Order | None) -> str:
    if order is None:
        return "none"
    return f"{order.side} {order.quantity:,.6g} shares at the {order.at}, about {order.value:,.2f}".replace(
        "the this", "this"
    )


def _account(account: Account) -> str:
    if not account.shares:
        return f"flat, {account.cash:,.2f} cash"
    held = f"{account.shares:,.6g} shares from {account.entry_price:,.6g}, held {account.bars_held} bars"
    return f"{account.cash:,.2f} cash, {held}"
