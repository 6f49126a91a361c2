"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver) without any package."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = "apt-get install chromium chromium-driver" if not (CHROMIUM and CHROMEDRIVER) else ""
"""How to get what is not there; empty where both are."""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
"""The last one keeps the page on this machine: Aim's own page requests fonts from content hosts."""


class Browser:
    """One tab."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        _ask(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that a piece of JavaScript returns."""
        return _ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Return the first true value of `script`. Fail with the text of the page if there is none."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.run(script):
                return found
            time.sleep(0.3)
        raise AssertionError(
            f"never true in {seconds:.0f} s: {script}\n{self.run('return document.body.innerText')[:800]}"
        )

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(_ask(f"{self._session}/screenshot")))


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `profile`, ended with its driver."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert CHROMEDRIVER is not None
    with subprocess.Popen([CHROMEDRIVER, f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for_driver(url)
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            session = f"{url}/session/{_ask(f'{url}/session', capabilities)['sessionId']}"
            try:
                yield Browser(session)
            finally:
                _ask(session, method="DELETE")
        finally:
            driver.terminate()


def _wait_for_driver(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError):
            if _ask(f"{url}/status")["ready"]:
                return
        time.sleep(0.1)
    raise AssertionError("chromedriver does not answer")


def _ask(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
        return json.load(response)["value"]
