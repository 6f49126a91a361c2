"""Options and arguments that several commands share, each defined once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class UserPath(click.Path):
    """A path of the command line. Shells leave `~` as it is behind a `=` and in environment files."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from p3kit.home import home

        return super().convert(home(os.fspath(value)), param, ctx)


runs_option = click.option(
    "--runs",
    "runs_root",
    type=UserPath(file_okay=False, path_type=Path),
    envvar="P3KIT_RUNS",
    default=Path("runs"),
    show_envvar=True,
    help="Folder of the run directories.",
    is_eager=True,  # before RUN, which may be `latest`
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the spec, e.g. --set ppo.ent_coef=0.05. Repeatable; later wins.",
)

templates_option = click.option(
    "--templates",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    envvar="P3KIT_TEMPLATES",
    show_envvar=True,
    help="Folder with page templates of your own; those it lacks are taken from p3kit.",
)

force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")


class Whole(click.IntRange):
    """A whole number within bounds; the error names the bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            bounds = f"of at least {self.min}" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"{value!r}: expected a whole number {bounds}", param, ctx)


class _Jobs(click.Option):
    """An option whose default depends on the machine. Help prints the number that p3kit.toml sets in its place."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        number = (ctx.default_map or {}).get(self.name)
        return extra if number is None else {**extra, "default": str(number)}


jobs_option = click.option(
    "--jobs",
    cls=_Jobs,
    type=Whole(min=1),
    help="Runs that train at a time.",
    show_default="one core per thread; on a cluster as many as fit",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Place of the trainers: local processes, or a Ray cluster (at RAY_ADDRESS, else a new one here).",
)

no_aim_option = click.option(
    "--no-aim/--aim", "no_aim", default=False, help="Do not mirror the runs into Aim while they train."
)


repo_option = click.option(
    "--aim-repo",
    "repo",
    type=UserPath(file_okay=False, path_type=Path),
    show_default="the folder beside the runs",
    help="Folder whose .aim holds the mirror.",
)


class DefaultGroup(click.Group):
    """A group with a default command: `p3kit data SPEC` is `p3kit data describe SPEC`."""

    def __init__(self, *args: Any, default: str, usages: tuple[str, str], **kwargs: Any) -> None:
        """`usages`: of the default command, without its name, and of the other command."""
        super().__init__(*args, **kwargs)
        self.default, self.usages = default, usages

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for usage, prefix in zip(self.usages, (None, "       "), strict=True):
            formatter.write_usage(ctx.command_path, usage, prefix=prefix)


class SpecFile(UserPath):
    """A spec's path: the user's file, or a shipped spec where `specs/NAME.toml` is not there."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from p3kit.home import home
        from p3kit.spec.shipped import find_spec

        return find_spec(home(os.fspath(value)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_spec(ctx, param, incomplete)


def complete_spec(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Specs for the shell: TOML files here and one folder down, then shipped ones; other files where none fits."""
    from p3kit.spec.shipped import shipped_specs

    folder = Path(incomplete).parent if "/" in incomplete else Path()
    files = [*folder.glob("*.toml"), *folder.glob("*/*.toml")]
    names = sorted(path.as_posix() for path in files if not path.parent.name.startswith("."))
    names += [f"specs/{spec.name}" for spec in shipped_specs() if f"specs/{spec.name}" not in names]
    fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def complete_spec_or_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Both, for `p3kit show`."""
    return complete_run(ctx, param, incomplete) + [
        item for item in complete_spec(ctx, param, incomplete) if item.type == "plain"
    ]


spec_argument = click.argument("spec", type=SpecFile(dir_okay=False, path_type=Path))


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs for the shell: `latest`, `run-42`, and `run-42/AGENT` once a slash is typed."""
    from p3kit.rundir import list_runs

    runs = list_runs(ctx.params.get("runs_root") or os.environ.get("P3KIT_RUNS", "runs"))
    name, slash, _ = incomplete.partition("/")
    if slash:
        words = [f"{run.name}/{agent}" for run in runs if run.name == name for agent in run.agent_names()]
    else:
        words = ["latest", *(run.name for run in runs)] if runs else []
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _note_siblings(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Print the runs that `latest` leaves out, as those of other seeds."""
    if "latest" not in (value if isinstance(value, tuple) else (value,)):
        return value
    from p3kit.cli.output import print_note
    from p3kit.errors import P3kitError
    from p3kit.rundir import find_run, started_with

    with contextlib.suppress(P3kitError):  # the command reports runs that are missing or damaged
        run, _ = find_run(ctx.params.get("runs_root", "runs"), "latest")
        if others := " ".join(other.name for other in started_with(run)):
            print_note(f"note: latest is {run.name}; the same command also started {others}")
    return value


run_argument = click.argument("run", metavar="RUN", shell_complete=complete_run, callback=_note_siblings)

several_runs_argument = click.argument(
    "references", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run, callback=_note_siblings
)
