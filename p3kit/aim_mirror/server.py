"""`aim up` on this machine only: started in a process group of its own, waited for, and stopped with its children."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from types import TracebackType

from p3kit.errors import InputError, P3kitError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
# aim has no `python -m aim`, and its console script may not be on PATH
_AIM = """
import aim.cli.up.commands as up
from aim.cli.cli import cli_entry_point
command = up.build_uvicorn_command
up.build_uvicorn_command = lambda app, **options: command("p3kit.aim_mirror.gate:app", **options)
cli_entry_point()
"""
"""`aim up`, with the gate in front of its application."""


class AimServer:
    """A context manager around one `aim up` behind the gate of `gate.py`. Only loopback addresses are taken.

    The gate serves the file `page`, where there is one, as `/results`.

    Raises InputError for a host that is not loopback and for a port that is taken. Port 0 takes a free one.
    """

    def __init__(self, repo: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.repo = repo
        self.host = checked_loopback(host)
        self.port = checked_port(self.host, port)
        self.token = secrets.token_urlsafe(24)
        self.log = repo / ".aim" / "p3kit" / "ui.log"
        self.page = repo / ".aim" / "p3kit" / "results.html"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def link(self, url: str) -> str:
        """Return `url` with the token that the gate requires."""
        return f"{url}{'&' if '?' in url else '/?' if url == self.url else '?'}token={self.token}"

    def __enter__(self) -> AimServer:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [
            "up",
            "--host",
            self.host,
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--repo",
            str(self.repo),
            "-y",
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AIM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,  # aim starts uvicorn, which starts workers: one group ends them all
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server and all processes that it started: SIGTERM first, then SIGKILL."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # the group is gone already
                os.killpg(self._process.pid, number)
            if _group_ended(self._process, STOP_TIMEOUT_S):
                break
        self._process = None

    def _environment(self) -> dict[str, str]:
        """The environment of `aim up`: the token, and this p3kit even where it is not installed."""
        name = self.url.removeprefix("http://").rpartition(":")[0]
        hosts = ",".join(f"{host}:{self.port}" for host in dict.fromkeys((name, "127.0.0.1", "localhost")))
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        own = {"P3KIT_UI_TOKEN": self.token, "P3KIT_UI_HOSTS": hosts, "P3KIT_UI_PAGE": str(self.page.absolute())}
        return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _check_gate(self) -> None:
        """Raise P3kitError where Aim answers a request without the token: then the gate is not in front of it."""
        if (status := answer_of(f"{self.url}/api/projects/")) != HTTPStatus.FORBIDDEN:
            what = f"answers requests without the token (status {status}), so other web pages could read it"
            raise P3kitError("aim up", what, "install the version that p3kit is made for: pip install 'p3kit[aim]'")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running():
            if answer_of(f"{self.url}/api/projects/", self.token) == HTTPStatus.OK:
                self._check_gate()
                return
            time.sleep(0.2)
        said = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        how = "did not answer" if self.is_running() else "ended at once"
        printed = " / ".join(said) or "none"
        raise P3kitError("aim up", f"{how}; its last output: {printed}", f"the log is in {self.log}")


def _group_ended(leader: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return True if the process group of `leader` is gone within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        leader.poll()  # reaps it, so that the group can vanish
        try:
            os.killpg(leader.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def checked_loopback(host: str) -> str:
    """`host` as an address of this machine alone. Raises InputError for any other."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        what = "is not a loopback address; the pages would go over the network unencrypted"
        raise InputError(f"--host {host}", what, "use 127.0.0.1; from elsewhere: ssh -L 43800:127.0.0.1:43800 HOST")
    return address


def checked_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises InputError when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn: a port just closed is free
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "another p3kit ui may be open there; give --port 0 for a free one"
            raise InputError(f"--port {port}", f"cannot be used ({error.strerror})", remedy) from error
        return int(probe.getsockname()[1])


def answer_of(url: str, token: str = "") -> int | None:
    """Return the status of a GET of `url`, None without an answer. No proxy is used: this is our own machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=bearer(token))  # noqa: S310  (our own server on loopback)
    try:
        with opener.open(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a request by p3kit itself."""
    return {"Authorization": f"Bearer {token}"} if token else {}
