"""The dashboard in a browser: `p3kit ui` in a headless Chromium.

Needs Debian's packages chromium and chromium-driver, and takes minutes; run by

    pytest -m slow tests/test_aim_dashboard.py
    pytest -m slow tests/test_aim_dashboard.py --screenshots docs/images --screenshots-of runs

The second line shows your own runs, and keeps a picture of each page.
"""

from __future__ import annotations

import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler as Handler
from pathlib import Path

import numpy as np
import pytest

from p3kit.metrics import ACTIONS
from tests.browser import MISSING, Browser, open_browser
from tests.made_runs import make_run
from tests.test_aim_mirror import printed_links

pytestmark = [
    pytest.mark.aim,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no browser: {MISSING}"),
]

SYMBOLS = ("AAPL", "AMD", "XOM")


def make_runs(root: Path) -> None:
    """Three made-up runs with their histograms; their pictures are left to `p3kit ui`."""
    rng = np.random.default_rng(1)
    for number, symbol in enumerate(SYMBOLS):
        run = make_run(root, symbol=symbol, best_sharpe=0.3 + 0.3 * number, symbols=SYMBOLS)
        counts, edges = np.histogram(rng.standard_t(3, 4_000), bins=50)
        run.write_histogram("reward", symbol, 100_000, {"edges": edges, "counts": counts})
        run.write_histogram(
            "actions", symbol, 100_000, {"labels": ACTIONS, "counts": [900, 80, 80, 100, 500, 260, 110]}
        )
        bars, unrealised = list(range(0, 260, 20)), np.linspace(-0.1, 0.1, 11)
        values = rng.normal(size=(12, 10))
        run.write_histogram("value_map", symbol, 100_000, {"bars": bars, "unrealised": unrealised, "values": values})


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Title → address, as `p3kit ui` prints them; afterwards nothing of it is left running."""
    root = tmp_path_factory.mktemp("ui")
    if theirs := request.config.getoption("--screenshots-of"):
        shutil.copytree(theirs, root / "runs")
    else:
        make_runs(root / "runs")
    command = [sys.executable, "-m", "p3kit", "ui", "--port", "0", "--json", "--runs", str(root / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        url, found = printed_links(process.stdout)
        yield {"results": url, **found}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    port = url.partition("/?")[0].rpartition(":")[2]
    left = subprocess.run(["pgrep", "-f", f"port.{port}"], capture_output=True, text=True)
    assert left.stdout == "", "a child of p3kit ui is still running"


@pytest.fixture(scope="module")
def browser(links: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        found.open(links["runs"])
        found.run("localStorage.setItem('communityPopupSeen', 'true')")  # it would cover the table
        yield found


@pytest.fixture
def keep(browser: Browser, request: pytest.FixtureRequest) -> Iterator[str]:
    """Takes a picture of the page at the end of the test, if requested."""
    yield ""
    if folder := request.config.getoption("--screenshots"):
        browser.wait_for("return !document.body.innerText.includes('Processing')", 60)
        time.sleep(2)  # what has come is faded in
        name = request.node.name.removeprefix("test_").replace("_", "-")
        browser.screenshot(Path(folder) / f"aim-{name}.png")


def text(browser: Browser) -> str:
    return str(browser.run("return document.body.innerText"))


@pytest.mark.usefixtures("keep")
def test_results(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["results"])
    assert browser.run("return location.pathname + location.search") == "/results"
    page = text(browser)
    assert "buy-and-hold" in page
    for symbol in SYMBOLS:
        assert symbol in page
    assert browser.run("return [...document.images].filter(image => image.naturalWidth > 300).length") >= 2
    browser.run("document.querySelector('td a').click()")
    browser.wait_for("return location.pathname.startsWith('/runs/') && document.body.innerText.includes('run-')", 120)


@pytest.mark.usefixtures("keep")
def test_scalars(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["bookmark: Scalars: policy"])
    lines = "[...document.querySelectorAll('svg path')].filter(path => (path.getAttribute('d') || '').length > 60)"
    browser.wait_for(f"return {lines}.length >= 15", 120)
    for metric in ("policy/entropy_norm", "policy/kl_divergence", "policy/clip_fraction"):
        assert metric in text(browser)


@pytest.mark.usefixtures("keep")
def test_images(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["bookmark: Images: reward histogram, value heat map, equity curve"])
    drawn = "[...document.querySelectorAll('img')].filter(i => i.src.startsWith('data:image') && i.naturalWidth > 300)"
    browser.wait_for(f"return {drawn}.length >= 4", 120)
    for caption in ("equity-", "reward-", "value_map-"):
        browser.wait_for(f"return document.body.innerText.includes('{caption}')")


@pytest.mark.usefixtures("keep")
def test_run_table(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["runs"])
    rows = "[...document.querySelectorAll('a')].map(a => a.innerText)"
    browser.wait_for(f"return {rows}.some(text => text.includes('run-2'))", 120)
    browser.open(links["bookmark: Run table: verdicts"])
    browser.wait_for("return document.body.innerText.includes('run-1')", 120)
    page = text(browser)
    assert "result.verdicts" in page
    assert any(grade in page for grade in ("FAIL", "PASS", "STRONG", "STRETCH"))
    assert "run-2" in page


@pytest.mark.usefixtures("keep")
def test_hyperparameters(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["bookmark: Hyperparameters: parallel coordinates"])
    browser.wait_for("return document.body.innerText.includes('result.sharpe_mean')", 120)
    browser.wait_for("return document.querySelectorAll('svg path').length > 3", 60)


@pytest.mark.usefixtures("keep")
def test_distributions(browser: Browser, links: dict[str, str]) -> None:
    [link, *_] = [address for title, address in links.items() if title.startswith("distributions of")]
    browser.open(link)
    browser.wait_for("return document.body.innerText.includes('actions')", 120)
    browser.wait_for("return document.querySelectorAll('svg rect').length > 3", 60)
    assert "rewards" in text(browser)


@pytest.mark.usefixtures("keep")
def test_bookmarks_page(browser: Browser, links: dict[str, str]) -> None:
    browser.open(links["runs"].split("/runs")[0] + "/bookmarks")  # the cookie is known by now
    browser.wait_for("return document.body.innerText.includes('Best model')", 60)
    for title in links:
        if title.startswith("bookmark: "):
            assert title.removeprefix("bookmark: ") in text(browser)


ATTACK = """
const base = '%(base)s', found = {};
const tries = {
  read: () => fetch(base + '/api/projects/', {credentials: 'include'}).then(r => 'read ' + r.status),
  deleted: () => fetch(base + '/api/runs/%(run)s/', {method: 'DELETE', credentials: 'include'}).then(r => r.status),
  posted: () => fetch(base + '/api/runs/search/run/', {method: 'POST', mode: 'no-cors', credentials: 'include',
                body: 'x'}).then(r => r.type),
};
window.found = found;
for (const [name, attempt] of Object.entries(tries))
  attempt().then(result => found[name] = String(result), error => found[name] = 'blocked');
const frame = document.createElement('iframe'); frame.src = base + '/'; document.body.appendChild(frame);
"""


def test_another_page_reads_and_changes_nothing(browser: Browser, links: dict[str, str], tmp_path: Path) -> None:
    """A page of another server, opened in the browser that has the cookie."""
    browser.open(links["runs"])  # now the browser has the cookie
    base = links["runs"].split("/runs")[0]
    [distributions, *_] = [address for title, address in links.items() if title.startswith("distributions of")]
    run = distributions.split("/runs/")[1].split("/")[0]
    (tmp_path / "index.html").write_text("<html><body>evil</body></html>")
    with socketserver.TCPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            browser.open(f"http://127.0.0.1:{other.server_address[1]}/index.html")
            browser.run(ATTACK % {"base": base, "run": run})
            browser.wait_for("return Object.keys(window.found).length === 3", 30)
            found = browser.run("return window.found")
            assert (found["read"], found["deleted"]) == ("blocked", "blocked"), found
        finally:
            other.shutdown()
    browser.open(links["runs"])
    browser.wait_for("return document.body.innerText.includes('run-2')", 60)
    browser.open(distributions)
    browser.wait_for("return document.body.innerText.includes('actions')", 120)
