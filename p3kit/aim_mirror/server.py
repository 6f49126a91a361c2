"""`aim up` on this machine only: started in a process group of its own, waited for, and stopped with its children."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from p3kit.errors import InputError, P3kitError

DEFAULT_PORT = 43800
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
# aim has no `python -m aim`, and its console script may not be on PATH
_AIM = "from aim.cli.cli import cli_entry_point; cli_entry_point()"


class AimServer:
    """A context manager around one `aim up`. The data have no password, so only loopback addresses are taken.

    Raises InputError for a host that is not loopback and for a port that is taken. Port 0 takes a free one.
    """

    def __init__(self, repo: Path, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
        self.repo = repo
        self.host = checked_loopback(host)
        self.port = checked_port(self.host, port)
        self.log = repo / ".aim" / "p3kit" / "ui.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

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
        """Ends the server and all it started: asked first, then forced."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # the group is gone already
                os.killpg(self._process.pid, number)
            if _group_ended(self._process, STOP_TIMEOUT_S):
                break
        self._process = None

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running():
            if answers(f"{self.url}/api/projects/"):
                return
            time.sleep(0.2)
        said = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        how = "did not answer" if self.is_running() else "ended at once"
        raise P3kitError("aim up", f"{how}; its last words: {' / '.join(said) or 'none'}", f"the log is in {self.log}")


def _group_ended(leader: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process group of `leader` is gone within `seconds`."""
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
        what = "is not a loopback address; Aim has no password, so it would be open to everyone"
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


def answers(url: str) -> bool:
    """Whether a GET of `url` succeeds. Proxies from the environment are not asked: this is our own machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
