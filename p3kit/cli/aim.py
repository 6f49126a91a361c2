"""`p3kit sync` and `p3kit ui`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from p3kit.cli.options import Whole, complete_run, json_option, repo_option, runs_option
from p3kit.cli.output import print_json, print_note
from p3kit.errors import InputError, P3kitError

if TYPE_CHECKING:
    from p3kit.aim_mirror import AimServer, Mirror, SyncResult


@click.command(
    epilog="""\b
Examples:
  p3kit sync
  p3kit sync --rebuild
  p3kit sync --watch"""
)
@runs_option
@repo_option
@click.option("--rebuild", is_flag=True, help="Drop the mirrored runs and send them again from the run directories.")
@click.option("--watch", is_flag=True, help="Continue until Ctrl-C, and send new records.")
@json_option
def sync(runs_root: Path, repo: Path | None, rebuild: bool, watch: bool, as_json: bool) -> None:
    """Mirror the run directories into Aim. Mirrored records are not sent again."""
    from p3kit.aim_mirror import Mirror

    mirror = Mirror(runs_root, repo)
    _end_when_aim_hangs(mirror)
    result = mirror.rebuild() if rebuild else mirror.sync()
    _say(result, mirror, as_json)
    if watch:
        print_note("watching; Ctrl-C ends it")
        for result in mirror.follow(_stop_on_signals()):
            if result.changed or result.problems:
                _say(result, mirror, as_json)
    if result.problems:
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  p3kit ui
  p3kit ui run-3 run-7
  p3kit ui --port 0"""
)
@click.argument("references", metavar="[RUN...]", nargs=-1, shell_complete=complete_run)
@runs_option
@repo_option
@click.option("--host", default="127.0.0.1", help="A loopback address; others are refused.")
@click.option("--port", default=43_800, type=Whole(0, 65535), help="0 picks a free port.")
@json_option
def ui(references: tuple[str, ...], runs_root: Path, repo: Path | None, host: str, port: int, as_json: bool) -> None:
    """Serve the dashboard, on this machine only, until Ctrl-C. Runs that still train stay up to date.

    Its first page has the verdict of each agent, equity and learning curves. From there links lead into Aim: bookmarks
    with the training guide's dashboard, comparisons, distributions. With RUNs, page and links show these only. RUN is
    run-42, 42, latest, run-42/AAPL or the name of an experiment that has one run.
    """
    from p3kit.aim_mirror import AimServer, Mirror, links_of, run_hash
    from p3kit.api.background import draw_missing
    from p3kit.api.dashboard import ResultsPage, require_runs
    from p3kit.api.saved_run import open_runs

    named = open_runs(references, runs_root)
    chosen = [run_hash(run.info) for run in named]
    mirror = Mirror(runs_root, repo)
    require_runs(mirror)
    if away := [run for run, key in zip(named, chosen, strict=True) if key not in mirror.runs()]:
        raise InputError(
            str(away[0].path), f"is no run of {runs_root}, which is what is mirrored", "give its folder by --runs"
        )
    server = AimServer(mirror.repo, host, port)
    draw_missing(runs_root)
    _end_when_aim_hangs(mirror, server)
    _warn(mirror.sync())
    stop = _stop_on_signals()
    print_note("starting aim …")
    with server:
        links, problem = links_of(server, mirror, chosen)
        _warn_of(problem and f"no bookmarks: {problem}")
        page = ResultsPage(mirror, server, links, [run.name for run in named])
        _warn_of(page.update())
        if as_json:
            listed = [{"title": title, "url": server.link(url)} for title, url in links]
            print_json({"url": server.link(server.url), "links": listed})
        else:
            click.echo(server.link(server.url))
        print_note("open this link for verdicts, curves and Aim; Ctrl-C ends it")
        for result in mirror.follow(stop):
            _warn(result)
            if result.changed:
                _warn_of(page.update())
            if not server.is_running() and not stop.is_set():
                raise P3kitError("aim up", "ended on its own", f"its log is in {server.log}")


def _say(result: SyncResult, mirror: Mirror, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"repo": str(mirror.repo), **dataclasses.asdict(result)}))
    else:
        click.echo(f"{mirror.repo / '.aim'}: {result}")
    _warn(result)


def _warn_of(problem: str) -> None:
    if problem:
        click.echo(problem, err=True)


def _warn(result: SyncResult) -> None:
    for problem in result.problems:
        click.echo(f"not mirrored: {problem}", err=True)


def _end_when_aim_hangs(mirror: Mirror, server: AimServer | None = None) -> None:
    """Watch the mirror from a thread of its own. Nothing else can end a process that hangs inside Aim."""

    def watch() -> None:
        while not mirror.hangs:
            time.sleep(1.0)
        click.echo(
            f"{mirror.repo / '.aim'}: Aim hangs, as it does on a full disk; free some space and try again", err=True
        )
        if server is not None:
            server.stop()
        os._exit(P3kitError.exit_code)

    threading.Thread(target=watch, name="aim watch", daemon=True).start()


def _stop_on_signals() -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets, so that work in hand is finished. A second Ctrl-C interrupts at once."""
    from p3kit.rundir.signals import handle_signals

    stop = threading.Event()

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        handle_signals([signal.SIGINT], signal.default_int_handler)

    handle_signals([signal.SIGINT, signal.SIGTERM], set_stop)
    return stop
