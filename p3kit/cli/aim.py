"""`p3kit sync` and `p3kit ui`."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from p3kit.aim_mirror import AimServer, Mirror, SyncResult, deep_links
from p3kit.aim_mirror.server import DEFAULT_PORT
from p3kit.cli.options import json_option, runs_option
from p3kit.errors import P3kitError

repo_option = click.option(
    "--aim-repo",
    "repo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder whose .aim holds the mirror. Default: the folder beside the runs.",
)


@click.command(
    epilog="""\b
Examples:
  p3kit sync
  p3kit sync --rebuild
  p3kit sync --watch"""
)
@runs_option
@repo_option
@click.option("--rebuild", is_flag=True, help="Drop what was mirrored and make it anew from the run directories.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, sending what is new.")
@json_option
def sync(runs_root: Path, repo: Path | None, rebuild: bool, watch: bool, as_json: bool) -> None:
    """Mirror the run directories into Aim. What is there already is not sent again."""
    mirror = Mirror(runs_root, repo)
    result = mirror.rebuild() if rebuild else mirror.sync()
    _say(result, mirror, as_json)
    if watch:
        click.echo("watching; Ctrl-C ends it", err=True)
        for result in mirror.follow(_stop_on_signals()):
            if result.changed or result.problems:
                _say(result, mirror, as_json)
    if result.problems:
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  p3kit ui
  p3kit ui --port 0"""
)
@runs_option
@repo_option
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address; others are refused.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
def ui(runs_root: Path, repo: Path | None, host: str, port: int) -> None:
    """Open Aim on the mirrored runs, on this machine only, until Ctrl-C. Runs that still train stay up to date."""
    mirror = Mirror(runs_root, repo)
    server = AimServer(mirror.repo, host, port)
    _warn(mirror.sync())
    stop = _stop_on_signals()
    click.echo("starting aim …", err=True)
    with server:
        experiments = {run.info()["name"] for run in mirror.runs().values()}
        click.echo(server.url)
        for title, link in deep_links(server.url, experiments):
            click.echo(f"  {title}\n    {link}")
        click.echo("Ctrl-C ends it", err=True)
        for result in mirror.follow(stop):
            _warn(result)
            if not server.is_running() and not stop.is_set():
                raise P3kitError("aim up", "ended on its own", f"its log is in {server.log}")


def _say(result: SyncResult, mirror: Mirror, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"repo": str(mirror.repo), **dataclasses.asdict(result)}))
    else:
        click.echo(f"{mirror.repo / '.aim'}: {result}")
    _warn(result)


def _warn(result: SyncResult) -> None:
    for problem in result.problems:
        click.echo(f"not mirrored: {problem}", err=True)


def _stop_on_signals() -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets, so that work in hand is finished. A second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, set_stop)
    signal.signal(signal.SIGTERM, set_stop)
    return stop
