"""`p3kit evaluate RUN`: the backtest of a run's policy, beside every baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from p3kit.cli.options import UserPath, json_option, run_argument, runs_option
from p3kit.cli.output import print_json, progress_console
from p3kit.errors import InputError

if TYPE_CHECKING:
    from p3kit.api.saved_run import SavedRun


@click.command(
    epilog="""\b
Examples:
  p3kit evaluate run-42
  p3kit evaluate run-42 --split train --checkpoint last
  p3kit evaluate run-42 --final
  p3kit evaluate run-42/AAPL --bars new/AAPL.csv --from 2024-01-01"""
)
@run_argument
@click.option(
    "--episodes", type=click.IntRange(1, 100_000), help="Episodes of a Gymnasium or EnvPool task.", show_default="100"
)
@click.option("--final", is_flag=True, help="Use the test split. Every use is journalled and counted.")
@click.option(
    "--split", type=click.Choice(["validation", "train"]), help="The split to play.", show_default="validation"
)
@click.option(
    "--checkpoint",
    default="best",
    metavar="NAME",
    help="best (the weights that validation chose), last, or a file below checkpoints/.",
)
@click.option(
    "--bars",
    type=UserPath(exists=True, path_type=Path),
    metavar="FILE",
    help="Backtest on a file of bars, outside the splits of the run.",
)
@click.option(
    "--from", "first_day", metavar="DAY", help="First day outside the splits.", show_default="after the run's bars"
)
@click.option(
    "--to", "last_day", metavar="DAY", help="Last day outside the splits.", show_default="that of the last bar"
)
@click.option(
    "--mode",
    type=click.Choice(["continuous", "windows"]),
    help="One account for the whole split, or windows of env.episode_bars that each start flat, as in training.",
    show_default="continuous; windows on the training split",
)
@click.option(
    "--output",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="PNG",
    help="File for the picture.",
    show_default="the run's plots/",
)
@json_option
@runs_option
def evaluate(
    run: str,
    episodes: int | None,
    final: bool,
    split: Literal["validation", "train"] | None,
    checkpoint: str,
    bars: Path | None,
    first_day: str | None,
    last_day: str | None,
    mode: Literal["continuous", "windows"] | None,
    output: Path | None,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Backtest RUN: metrics beside all-HOLD, buy-and-hold, random and a moving average, with a picture.

    RUN is run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run. The policy plays the whole
    split once, deterministic, with the spec's fees and rules, and one account from the first bar to the last. --bars,
    --from and --to backtest on bars outside the splits. A run on a Gymnasium or EnvPool task plays whole episodes and
    prints their returns.
    """
    from p3kit.api.judging import evaluate_run
    from p3kit.api.saved_run import open_run
    from p3kit.console import Console
    from p3kit.launch.backtest_table import backtest_headline, print_backtest

    if final and split is not None:
        raise InputError(
            f"--split {split}", "was given beside --final", "--final uses the test split; give one of them"
        )
    outside = any(option is not None for option in (bars, first_day, last_day))
    if outside and (final or split is not None):
        option = "--final" if final else f"--split {split}"
        raise InputError(option, "was given beside --bars, --from or --to", "they name bars outside the splits")
    found = open_run(run, runs_root)
    if found.info["env_id"]:
        if final or split is not None or output is not None or mode is not None or outside:
            raise InputError(run, f"plays {found.info['env_id']}, which has no splits and no picture", "--episodes N")
        _print_returns(found, "last" if checkpoint == "best" else checkpoint, episodes or 100, as_json)
        return
    if mode == "continuous" and split == "train":
        raise InputError("--mode continuous", "was given beside --split train", "that split is played as in training")
    if episodes is not None:
        raise InputError("--episodes", f"{found.name} trades bars", "p3kit replay plays single episodes")
    if output is not None and output.suffix != ".png":
        raise InputError(f"--output {output}", "the picture is written as PNG", "end it in .png")
    if output is not None and len(found.agents) > 1:
        raise InputError("--output", f"{found.name} has {len(found.agents)} agents", "name one: RUN/AGENT")
    wanted = "test" if final else split or "validation"
    with progress_console().status(f"{run}: walking {'bars outside the splits' if outside else f'the {wanted} split'}"):
        backtests = evaluate_run(
            found,
            wanted,
            checkpoint,
            final=final,
            mode=mode or "continuous",
            bars=bars,
            first_day=first_day,
            last_day=last_day,
        )
    results = [{**one.result, "picture": str(one.save_picture(output))} for one in backtests]
    if as_json:
        print_json([{key: value for key, value in result.items() if key != "curves"} for result in results])
        return
    console = Console()
    console.print(backtest_headline(results), style="bold", end="\n\n")
    for result in results:
        print_backtest(result, found.info["name"], console)


def _print_returns(run: SavedRun, checkpoint: str, episodes: int, as_json: bool) -> None:
    """Play episodes of a task that is no market; print their returns."""
    from p3kit.api.task_returns import evaluate_task

    with progress_console().status(f"{run.name}: playing {episodes} episodes of {run.info['env_id']}"):
        result = evaluate_task(run, checkpoint, episodes)
    if as_json:
        print_json(result.to_dict())
        return
    step = "" if result.global_step is None else f" after {result.global_step:,} env steps"
    click.echo(f"{run.name} {result.task}, {result.checkpoint}{step}: {len(result.returns)} episodes, {result.action}")
    click.echo(f"mean return {result.mean:,.1f}, standard error {result.standard_error:,.1f}")
    click.echo(f"lowest {min(result.returns):,.1f}, highest {max(result.returns):,.1f}")
    click.echo(f"mean length {sum(result.lengths) / len(result.lengths):,.1f} steps")
