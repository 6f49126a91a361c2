"""The `p3kit` command. Each command lives in a module of its own, imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from p3kit import __version__
from p3kit.cli.output import add_volume, print_origin, print_versions, volume_options
from p3kit.errors import NO_POSIX, InputError, P3kitError, P3kitWarning, SpecError
from p3kit.terminal import guarded_output

INTERRUPTED = 130  # 128 + SIGINT, what a shell expects

# name -> (module:attribute, one line of help). `p3kit --help` reads this table and imports none of the modules.
COMMANDS = {
    "init": ("p3kit.cli.start:init", "Write a commented spec to start from."),
    "run": ("p3kit.cli.run:run", "Plan and train the agents of a spec."),
    "tune": ("p3kit.cli.tune:tune", "Search the values of a spec that do best."),
    "plan": ("p3kit.cli.plan:plan", "Show what `run` would start."),
    "validate": ("p3kit.cli.spec:validate", "Check a spec: all faults at once, then notes."),
    "check": ("p3kit.cli.check:check", "Probe a spec before training: environment and reward."),
    "show": ("p3kit.cli.spec:show", "Print the resolved spec with the origin of every value."),
    "schema": ("p3kit.cli.spec:schema", "Print the JSON Schema that editors read."),
    "data": ("p3kit.cli.data:data", "Describe the bars of a spec, and where they come from."),
    "runs": ("p3kit.cli.runs:runs", "List the runs."),
    "resume": ("p3kit.cli.runs:resume", "Continue a run from its last checkpoint, or extend it."),
    "retrain": ("p3kit.cli.retrain:retrain", "Train a run again with the bars of today."),
    "stop": ("p3kit.cli.runs:stop", "Make a run write a checkpoint and end."),
    "note": ("p3kit.cli.keep:note", "Keep a note and tags with runs."),
    "rm": ("p3kit.cli.keep:rm", "Delete runs, after a question."),
    "diagnose": ("p3kit.cli.diagnose:diagnose", "Print the troubleshooting table of a run."),
    "evaluate": ("p3kit.cli.evaluate:evaluate", "Backtest a run's policy beside every baseline."),
    "paper": ("p3kit.cli.paper:paper", "Trade an agent on paper as bars come in."),
    "predict": ("p3kit.cli.predict:predict", "Decide on the newest bar with a trained agent."),
    "compare": ("p3kit.cli.compare:compare", "Set runs side by side: spec diff, results, parity."),
    "report": ("p3kit.cli.report:report", "Write the weekly status report, or the lessons learned."),
    "export": ("p3kit.cli.export:export", "Print validated values as a spec to go on from."),
    "eject": ("p3kit.cli.start:eject", "Copy a trainer to a file of your own, to change it."),
    "completion": ("p3kit.cli.completion:completion", "Print the script that completes commands, specs and runs."),
    "sync": ("p3kit.cli.aim:sync", "Mirror the run directories into Aim."),
    "ui": ("p3kit.cli.aim:ui", "Open Aim on the mirrored runs, on this machine only."),
}


SECTIONS = {
    "Start": ("init", "validate", "show", "data", "check", "plan"),
    "Train": ("run", "tune", "resume", "stop", "retrain"),
    "Judge": ("runs", "note", "diagnose", "evaluate", "compare"),
    "Report": ("report", "ui", "sync"),
    "Use": ("predict", "paper", "export"),
}
"""Commands in `p3kit --help` by purpose, in the order of the work. The others stand below "More"."""

OTHER_WORDS = {
    "annotate": "note", "backtest": "evaluate", "dashboard": "ui", "delete": "rm", "fit": "run", "history": "runs",
    "label": "note", "lint": "validate", "list": "runs", "ls": "runs", "new": "init", "optimize": "tune",
    "remove": "rm", "serve": "ui", "start": "run", "sweep": "tune", "tag": "note", "test": "evaluate", "train": "run",
    "untag": "note",
}  # fmt: skip
"""Words of other tools → the command."""

OTHER_OPTIONS = {
    "--device": "--set compute.device=cuda",
    "--dry-run": "p3kit plan SPEC",
    "--epochs": "--set ppo.n_epochs=10",
    "--gamma": "--set ppo.gamma=0.99",
    "--gpu": "--set compute.device=cuda",
    "--learning-rate": "--set ppo.learning_rate=3e-4",
    "--lr": "--set ppo.learning_rate=3e-4",
    "--seed": "--set 'seeds=[1]'",
    "--seeds": "--set 'seeds=[1, 2, 3]'",
    "--steps": "--set ppo.total_timesteps=100_000",
    "--symbol": """--set 'symbols=["AAPL"]'""",
    "--symbols": """--set 'symbols=["AAPL", "AMD"]'""",
    "--timesteps": "--set ppo.total_timesteps=100_000",
    "--total-timesteps": "--set ppo.total_timesteps=100_000",
    "--trainer": "--set trainer=ppo_stacked",
}
"""Options of other tools → what does that here, for commands that take a spec."""

TAKE_A_SPEC = ("check", "plan", "run", "tune", "validate")

TRAINING = ("run", "resume", "retrain", "tune")
"""Commands whose exit code stays the outcome of their runs when output is lost."""


class LazyCommands(click.Group):
    """A click group that imports a command's module only when that command is used."""

    chosen = ""
    """The command in progress."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return add_volume(getattr(importlib.import_module(module), attribute))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands from the table; click's own way would import every one of them at each press of a key."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = [name for names in SECTIONS.values() for name in names]
        rest = tuple(name for name in COMMANDS if name not in listed)
        for title, names in {**SECTIONS, "More": rest}.items():
            with formatter.section(title):
                rows = [(f"{name:11}", COMMANDS[name][1]) for name in names if name in COMMANDS]
                formatter.write_dl(rows, col_spacing=1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = (
                [OTHER_WORDS[args[0]]] if args[0] in OTHER_WORDS else difflib.get_close_matches(args[0], COMMANDS, n=1)
            )
            hint = f'did you mean "{near[0]}"?' if near else "see p3kit --help"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        self.chosen = args[0] if args else ""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            from p3kit.cli.user_defaults import option_values, read_defaults

            try:
                values = option_values(read_defaults())
            except SpecError:
                if not {"-h", "--help"} & set(rest):
                    raise
                values = {}
            inside = command.commands if isinstance(command, click.Group) else {}
            ctx.default_map = {self.chosen: values | dict.fromkeys(inside, values)}
        return name, command, rest

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command with guarded output. Output that is lost fails a command that prints, never a training."""
        if importlib.util.find_spec("fcntl") is None:
            click.echo(NO_POSIX, err=True)
            raise SystemExit(P3kitError.exit_code)
        with guarded_output() as output:
            try:
                return super().main(*args, **kwargs)
            except SystemExit as end:
                if output.lost:
                    click.echo(f"stdout: {output.lost}; what was printed is not complete", err=True)
                if output.lost and not end.code and self.chosen not in TRAINING:
                    end = SystemExit(P3kitError.exit_code)
                _leave_hanging_threads(end)
                raise end from None

    def invoke(self, ctx: click.Context) -> Any:
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", P3kitWarning)
                warnings.showwarning = _showing_notes(warnings.showwarning)
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.option_name not in OTHER_OPTIONS or self.chosen not in TAKE_A_SPEC:
                raise
            what = f"no option {error.option_name}; here it is {OTHER_OPTIONS[error.option_name]}"
            raise click.UsageError(what, error.ctx) from None
        except P3kitError as error:
            print_origin(error)
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # the reader of our output has left; click ends in silence
            raise
        except OSError as error:  # a full disk, a folder that may not be written, a file that went away
            if error.strerror is None:
                raise
            if error.errno == errno.ENAMETOOLONG:
                click.echo(f"{error.filename}: {error.strerror}; name a file that is there", err=True)
                sys.exit(InputError.exit_code)
            where = error.filename or "a file or folder (the system does not name it)"
            click.echo(f"{where}: {error.strerror}; free some space or fix the folder's permissions", err=True)
            sys.exit(P3kitError.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        finally:
            print_versions(began)


def _showing_notes(otherwise: Callable[..., None]) -> Callable[..., None]:
    """A `warnings.showwarning` that prints a P3kitWarning as one line on stderr."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, P3kitWarning):
            click.echo(f"note: {message}", err=True)
        else:
            otherwise(message, category, *place, **more)

    return show


def _leave_hanging_threads(end: SystemExit) -> None:
    """End the process at once where a thread hangs in other people's code: the interpreter would wait for it."""
    deadlines = sys.modules.get("p3kit.launch.deadlines")
    if deadlines is not None and deadlines.abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(bool(end.code)))


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80, "show_default": True},
    epilog="Start here:  p3kit run specs/smoke.toml   (a minute),  then  p3kit init  for a spec of your own.",
)
@click.version_option(__version__, prog_name="p3kit")
def main() -> None:
    """Train PPO trading agents from TOML specs, and judge them against buy-and-hold."""


main.params += volume_options()
