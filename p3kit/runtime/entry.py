"""Start of a trainer script: from p3kit with a run directory, or alone from a terminal with flags of its own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from p3kit.errors import InputError, P3kitError
from p3kit.home import home
from p3kit.market import load_market
from p3kit.plan import plan_runs
from p3kit.rundir import RunDir
from p3kit.rundir.threads import available_cores
from p3kit.runtime.backtest_request import Backtest
from p3kit.runtime.policy import LoadPolicy, load_weights, sizes_on_bars
from p3kit.runtime.run import Run
from p3kit.runtime.run_market import OutsideRequest
from p3kit.runtime.standalone import TerminalProgress
from p3kit.spec.keypath import KeyPath
from p3kit.spec.knobs import Knob, read_knobs
from p3kit.spec.loading import spec_from_flags
from p3kit.spec.reading import read_toml
from p3kit.spec.trainer_file import read_trainer
from p3kit.spec.writing import to_toml, toml_text
from p3kit.terminal import guard_output

A = TypeVar("A")


def open_run(args_type: type[A], trainer_file: str, load_policy: LoadPolicy | None = None) -> Run[A]:
    """The run this process is to train, from the command line of a trainer script.

    `--run-dir runs/run-7 [--resume]` is how p3kit starts a trainer. Without it the script is its own command: every
    knob of `Args` is a flag, and a scratch run directory is made under `--runs`. Input errors are printed and end the
    process with exit code 2; `--help` ends it with 0.

    `--evaluate` shows the policy of a checkpoint by `load_policy` and ends the process. A trainer without that function
    gets the run with `run.backtest` set, and calls `agent.report_backtest` itself.
    """
    guard_output()
    knobs = read_knobs(Path(trainer_file))
    command = click.Command(
        Path(trainer_file).name,
        params=_options(knobs),
        callback=lambda **flags: flags,
        help=_help(Path(trainer_file).name),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
    )
    try:
        flags: dict[str, Any] = command.main(standalone_mode=False)
        if not isinstance(flags, dict):  # --help was printed
            sys.exit(0)
        if flags["run_dir"]:
            directory = RunDir.open(home(flags["run_dir"]))
            if flags["evaluate"]:
                run = _backtest(directory, args_type, flags)
                if load_policy is not None:
                    _report_backtest(run, load_policy)
                return run
            return _planned(directory, args_type, flags["resume"])
        run = Run(_scratch(flags, knobs, Path(trainer_file)), args_type, resume=False)
        run.on_status = TerminalProgress()
        return run
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except P3kitError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


def _planned(directory: RunDir, args_type: type[A], resume: bool) -> Run[A]:
    """The run of a directory. What keeps it from beginning (changed data, a torn checkpoint) becomes its status."""
    try:
        return Run(directory, args_type, resume=resume)
    except P3kitError as error:
        directory.update_status(state="failed", message=str(error).splitlines()[0])
        raise


def _backtest(directory: RunDir, args_type: type[A], flags: Mapping[str, Any]) -> Run[A]:
    """The run of a directory, to show one checkpoint and nothing else: no status, no journal but for a final look."""
    names = directory.agent_names()
    agent = flags["agent"] or names[0]
    if agent not in names:
        raise InputError(f"--agent {agent}", "no such agent", f"{directory.name} has {', '.join(names)}")
    outside = None
    if flags["split"] == "outside":
        outside = OutsideRequest(flags["bars"], flags["from_day"], flags["to_day"])
    run = Run(directory, args_type, resume=False, of_agent=agent, outside=outside)
    run.backtest = Backtest.of(
        directory,
        flags["evaluate"],
        agent,
        flags["split"],
        flags["final"],
        run.device,
        flags["mode"],
        flags["episodes"],
        flags["forward"],
    )
    return run


def _report_backtest(run: Run[A], load_policy: LoadPolicy) -> NoReturn:
    """Print the requested backtest, and end the process."""
    with run:
        agent, backtest = run.agent, run.backtest
        if backtest is not None and agent.market:
            sizes = sizes_on_bars(agent.spec, agent.market[agent.symbol])
            args, weights = agent.args_at(0), backtest.weights
            policy = load_weights(
                load_policy, args, agent.spec, weights, run.device, run.autocast, agent=agent.name, **sizes
            )
            agent.report_backtest(policy.log_probs)
        else:
            raise P3kitError(run.directory.name, "there is nothing to backtest on", "only runs on bars have splits")
    sys.exit(0)


def _scratch(flags: dict[str, Any], knobs: list[Knob], trainer_file: Path) -> RunDir:
    """A run directory of one agent from flags: the same path through spec, plan and run directory as `p3kit run`."""
    tables, places = _tables_of(flags, knobs, trainer_file)
    spec = spec_from_flags(tables, places, flags["set"])
    (plan,) = plan_runs(spec, read_trainer(spec.trainer), available_cores())
    market = {} if flags["env_id"] else load_market(plan.market_spec, spec.symbols)
    info = plan.run_json(market, [trainer_file.name, *sys.argv[1:]]) | {"env_id": flags["env_id"]}
    directory = RunDir.create(home(flags["runs"]), info, to_toml(tables), trainer_file)
    click.echo(f"scratch run in {directory.path}", err=True)
    return directory


def _tables_of(
    flags: dict[str, Any], knobs: list[Knob], trainer_file: Path
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The tables of a spec, and the flag that each key came from."""
    given = {knob.name: knob_value(knob, flags[knob.name]) for knob in knobs if flags[knob.name] is not None}
    places: dict[KeyPath, str] = {("ppo", knob.name): f"{_flag(knob)} {flags[knob.name]}" for knob in knobs}
    tables: dict[str, Any] = {"name": "scratch", "trainer": str(trainer_file.resolve())}
    if flags["env_id"] is None:
        tables |= {"symbols": [flags["symbol"]], "data": {"source": flags["source"]}}
        places |= {("symbols",): f"--symbol {flags['symbol']}", ("symbols", 0): f"--symbol {flags['symbol']}"}
    else:  # a task brings its own scales, and no bars: its agent has the task's name
        name = re.sub(r"[^A-Za-z0-9._-]", "-", flags["env_id"])[-32:]
        if not name:
            raise InputError("--env-id", "is empty", "name a task, such as CartPole-v1")
        tables |= {"symbols": [name], "data": {"source": "synthetic"}}
        tables |= {"observation": {"normalize": "none"}, "reward": {"scaling": "none", "clip": "off"}}
        places |= {("symbols",): f"--env-id {flags['env_id']}", ("symbols", 0): f"--env-id {flags['env_id']}"}
    places |= {("seeds",): f"--seed {flags['seed']}", ("seeds", 0): f"--seed {flags['seed']}"}
    return tables | {"seeds": [flags["seed"]], "ppo": given}, places


def knob_value(knob: Knob, text: str) -> Any:
    """The value of a flag: its text where the knob takes text, and what TOML reads in it otherwise."""
    try:
        return TypeAdapter(knob.annotation).validate_python(text, strict=True)
    except ValidationError:
        return read_toml(f"value = {toml_text(text)}")["value"]


def _options(knobs: list[Knob]) -> list[click.Parameter]:
    own: list[click.Parameter] = [
        click.Option(["--run-dir"], help="Train the run planned in this directory (as p3kit starts it)."),
        click.Option(["--resume"], is_flag=True, help="Continue that run from its last checkpoint."),
        click.Option(["--evaluate"], help="Backtest this checkpoint of that run, and print the result as JSON."),
        click.Option(["--agent"], help="Agent to backtest, if a run has several."),
        click.Option(["--split"], default="validation", help="The split to backtest on."),
        click.Option(["--mode"], type=click.Choice(["continuous", "windows"]), help="Of the backtest."),
        click.Option(["--bars"], type=click.Path(path_type=Path), help="With --split outside: a file of bars."),
        click.Option(["--from-day"], help="With --split outside: the first day."),
        click.Option(["--to-day"], help="With --split outside: the last day."),
        click.Option(["--episodes"], default=0, type=int, help="With --evaluate: this number of windows bar by bar."),
        click.Option(
            ["--forward"], default=0, type=int, help="With --evaluate: this number of observations, singly too."
        ),
        click.Option(["--final"], is_flag=True, help="Allow --split test; the use is journalled."),
        click.Option(["--runs"], default=os.environ.get("P3KIT_RUNS", "runs"), help="Where scratch runs go."),
        click.Option(["--symbol"], default="AAPL", help="Symbol of the bars."),
        click.Option(["--source"], default="sample", type=click.Choice(["sample", "synthetic"]), help="Kind of bars."),
        click.Option(["--seed"], default=1, type=int, help="Seed of the agent."),
        click.Option(["--env-id"], help="Train on an EnvPool or gymnasium task instead, e.g. CartPole-v1."),
        click.Option(["--set"], multiple=True, help="Any other spec value, e.g. --set env.num_envs=16."),
    ]
    return own + [click.Option([_flag(knob)], help=f"{knob.doc} [default: {knob.default}]") for knob in knobs]


def _flag(knob: Knob) -> str:
    return "--" + knob.name.replace("_", "-")


def _help(name: str) -> str:
    return f"""Train one agent with {name}, alone or as a run of p3kit.

    \b
    python {name} --symbol AAPL --total-timesteps 20000
    python {name} --source synthetic --set env.num_envs=16
    python {name} --env-id CartPole-v1 --n-steps 128 --total-timesteps 100000
    """
